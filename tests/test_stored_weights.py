"""The networks that this project trained itself: what their checkpoints say is what they do."""

from pathlib import Path

import pytest
import torch

from infoprune import evaluate
from infoprune.data import balanced_sample
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.options import DataOptions, NetworkOptions
from infoprune.network.cost import count
from infoprune.storage import checkpoint

STORED = sorted(Path(__file__).parents[1].joinpath("weights").glob("*.safetensors"))


@pytest.mark.parametrize("stored", STORED, ids=lambda path: path.stem)
def test_a_stored_network_has_the_size_that_it_says(stored):
    assert stored.stat().st_size < 35e6
    described = checkpoint.describe(stored)
    model = run_network.open_network(NetworkOptions(weights=stored), "cpu")
    cost = count(model, torch.zeros(1, *described.origin.input_shape))
    assert (cost.macs, cost.parameters) == (described.figures["macs"], described.figures["parameters"])


@pytest.mark.parametrize("stored", STORED, ids=lambda path: path.stem)
def test_a_stored_network_is_as_good_as_it_says(stored, data_dir):
    figures = checkpoint.describe(stored).figures
    assert figures["images"] == 10_000
    model = run_network.open_network(NetworkOptions(weights=stored), "cpu")
    images = DataOptions("cifar10", data_dir)
    sample = balanced_sample(run_images.open_parts(images).test, 1000)
    measured = evaluate(model, run_images.batches(sample, model, images))
    # Three standard errors of 1,000 images.
    assert measured.accuracy == pytest.approx(figures["accuracy"], abs=2.5)
