"""The network that this project trained itself: what its checkpoint says is what it does."""

import pytest

from infoprune import evaluate
from infoprune.data import balanced_sample
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.options import DataOptions, NetworkOptions
from infoprune.storage import checkpoint


def test_the_stored_vgg16_is_as_good_as_it_says(request, data_dir):
    stored = request.config.rootpath / "weights" / "vgg16-cifar10.safetensors"
    figures = checkpoint.describe(stored).figures
    assert figures["images"] == 10_000
    model = run_network.open_network(NetworkOptions(weights=stored), "cpu")
    images = DataOptions("cifar10", data_dir)
    sample = balanced_sample(run_images.open_parts(images).test, 1000)
    measured = evaluate(model, run_images.batches(sample, model, images))
    # Three standard errors of 1,000 images.
    assert measured.accuracy == pytest.approx(figures["accuracy"], abs=2.5)
