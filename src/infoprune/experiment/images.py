"""The images of a run: a data set, its parts, and batches as a network expects them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from infoprune import data
from infoprune.data import Images, Source
from infoprune.device import device_of
from infoprune.errors import InputError
from infoprune.experiment.network import preprocessing_of
from infoprune.experiment.options import CALIBRATION, DataOptions
from infoprune.measure.accuracy import logits_of
from infoprune.network.modes import eval_mode


@dataclass(frozen=True)
class Parts:
    """The parts of a data set, none of which shares an image with another.

    Args:
        source: The data set.
        train: What is trained on.
        held_out: What chooses.
        calibration: What scores the filters, a class-balanced sample of ``train``.
        test: What is measured on, and chooses nothing.

    Example:
        >>> parts = open_parts(DataOptions("digits"))
        >>> parts.source.name, len(parts.test)
        ('digits', 359)
    """

    source: Source
    train: Images
    held_out: Images | None
    calibration: Images
    test: Images


def open_parts(choice: DataOptions, seed: int = 0) -> Parts:
    """Read a data set and split it; a set without a test part of its own is measured on what does not calibrate.

    Raises:
        InputError: The data set cannot be read, or is too small for these parts.

    Example:
        >>> parts = open_parts(DataOptions("digits", calibration=100))
        >>> len(parts.calibration)
        100
    """
    source = data.open_source(choice.name, choice.directory)
    calibration = CALIBRATION if choice.calibration is None else choice.calibration
    if source.train is source.test:
        some, test = data.divided(source.train, calibration, seed)
        return Parts(source, some, None, some, test)
    train, held_out = data.held_out_split(source.train, choice.held_out)
    return Parts(source, train, held_out, data.balanced_sample(train, calibration, seed), source.test)


def check_classes(source: Source, model: nn.Module, choice: DataOptions) -> None:
    """Refuse a network whose outputs are not the classes of the data set: accuracies would mean nothing.

    Raises:
        InputError: There are more or fewer outputs than classes.

    Example:
        >>> from infoprune.experiment.network import open_network
        >>> from infoprune.experiment.options import NetworkOptions
        >>> choice = DataOptions("digits")
        >>> model = open_network(NetworkOptions("digits", arguments={"classes": 4}), "cpu")
        >>> check_classes(data.open_source("digits"), model, choice)
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: the network has 4 outputs (classes 0 to 3), but the data set 'digits' has ...
    """
    first = source.test.subset(torch.arange(1))
    images, _ = next(iter(batches(first, model, replace(choice, workers=0))))
    with eval_mode(model), torch.no_grad():
        outputs = logits_of(model, images.to(device_of(model))).shape[1]
    if outputs != len(source.classes):
        raise InputError(
            f"the network has {outputs} outputs (classes 0 to {outputs - 1}), but the data set '{choice.name}' has "
            f"{len(source.classes)} classes: the numbers must be equal"
        )


def batches(
    images: Images, model: nn.Module, choice: DataOptions, *, shuffle: bool = False, random_crop: bool = False
) -> DataLoader[Any]:
    """Return batches of these images as the network expects them.

    Example:
        >>> from infoprune.experiment.network import open_network
        >>> from infoprune.experiment.options import NetworkOptions
        >>> choice = DataOptions("digits", batch_size=64)
        >>> model = open_network(NetworkOptions("digits"), "cpu")
        >>> images, labels = next(iter(batches(open_parts(choice).test, model, choice)))
        >>> images.shape
        torch.Size([64, 1, 8, 8])
    """
    return data.loader(
        images,
        preprocessing_of(model),
        batch_size=choice.batch_size,
        shuffle=shuffle,
        random_crop=random_crop,
        workers=choice.workers,
    )
