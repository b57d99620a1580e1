"""The network that this project trained itself: what its checkpoint says is what it does."""

import pytest

from infoprune import checkpoint, evaluate, experiment
from infoprune.data import balanced_sample
from infoprune.experiment import DataChoice, NetworkChoice


def test_the_stored_vgg16_is_as_good_as_it_says(request, data_dir):
    stored = request.config.rootpath / "weights" / "vgg16-cifar10.safetensors"
    figures = checkpoint.describe(stored).figures
    assert figures["images"] == 10_000
    model = experiment.open_network(NetworkChoice(weights=stored), "cpu")
    images = DataChoice("cifar10", data_dir)
    sample = balanced_sample(experiment.open_parts(images).test, 1000)
    measured = evaluate(model, experiment.batches(sample, model, images))
    # Three standard errors of 1,000 images.
    assert measured.accuracy == pytest.approx(figures["accuracy"], abs=2.5)
