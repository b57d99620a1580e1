"""A small problem that every loop trains on."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

from infoprune import zoo
from infoprune.callbacks import RoundImages
from infoprune.data import Preprocessing, balanced_sample, held_out_split, loader, open_source
from infoprune.iterative.schedule import LayerPace, Pace, PruningSchedule
from infoprune.training.recipe import Recipe

SCHEDULE = PruningSchedule(
    layers=(LayerPace("features.0", Pace(plus=5), 6), LayerPace("features.3", Pace(0.25), 0.5)),
    initial=Recipe(epochs=1),
    retraining=Recipe(epochs=1),
    last=Recipe(epochs=2),
    criterion="l1",
    seed=0,
)


def changed(**words):
    return replace(SCHEDULE, **words)


@pytest.fixture(scope="session")
def parts():
    training, held_out = held_out_split(open_source("digits").train)
    return balanced_sample(training, 320), balanced_sample(held_out, 100)


@pytest.fixture
def batches(parts):
    """Batches in a fixed order, so that runs can be compared."""
    loaded = loader(parts[0], Preprocessing((0.0,), (1.0,)), batch_size=40)
    return DataLoader([pair for images, labels in loaded for pair in zip(images, labels, strict=True)], batch_size=40)


@pytest.fixture
def images(parts, batches):
    held_out = loader(parts[1], Preprocessing((0.0,), (1.0,)), batch_size=50)
    return RoundImages([next(iter(batches))], held_out)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return zoo.build("digits")
