"""The images of a run: a data set, its parts, and batches as a network expects them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from infoprune import data
from infoprune.data import Images, Source
from infoprune.data.batches import FirstImages
from infoprune.device import device_of
from infoprune.errors import InputError
from infoprune.experiment.network import images_in_words, preprocessing_of
from infoprune.experiment.options import CALIBRATION, DataOptions, NetworkOptions
from infoprune.measure.accuracy import evaluate, logits_of
from infoprune.measure.advice import chance_warning, is_chance
from infoprune.measure.metric import PLAIN, Quality
from infoprune.network.modes import eval_mode


@dataclass(frozen=True)
class Parts:
    """The parts of a data set, none of which shares an image with another.

    Args:
        source: The data set.
        train: What is trained on.
        held_out: What chooses.
        calibration: What scores the filters, a class-balanced sample of ``train``.
        test: What is measured on, and chooses nothing; not measured on where there are no labels.

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


def open_parts(choice: DataOptions, seed: int = 0, *, calibration: int = CALIBRATION) -> Parts:
    """Read a data set and split it; a set without a test part of its own is measured on what does not calibrate.

    Of images without labels, nothing is held out and nothing is measured on.

    Args:
        choice: Which images.
        seed: Seed of the calibration sample.
        calibration: Images that calibrate where the user did not say how many. Of fewer training images all calibrate;
            of a set without a test part at most half.

    Raises:
        InputError: The data set cannot be read, or is too small for these parts.

    Example:
        >>> parts = open_parts(DataOptions("digits"), calibration=100)
        >>> len(parts.train), len(parts.calibration), len(parts.test)
        (1294, 100, 359)
    """
    source = data.open_source(choice.name, choice.directory)
    if not source.classes:
        some = _sample(source.train, choice, calibration, seed)
        return Parts(source, source.train, None, some, some)
    if source.train is source.test:
        count = choice.calibration or min(calibration, max(1, len(source.train) // 2))
        some, test = data.divided(source.train, count, seed)
        return Parts(source, some, None, some, test)
    train, held_out = data.held_out_split(source.train, choice.held_out)
    return Parts(source, train, held_out, _sample(train, choice, calibration, seed), source.test)


def open_training_parts(choice: DataOptions, seed: int = 0, *, calibration: int | None = None) -> Parts:
    """Read a data set and split it for a training; of a set without a test part, a test part is set aside first.

    That part has the share of ``--held-out-share``, and is the same for every run.

    Args:
        choice: Which images.
        seed: Seed of the calibration sample.
        calibration: Images that calibrate where the user did not say how many; ``None`` where nothing does, so that
            the sample is the whole training part.

    Raises:
        InputError: The data set cannot be read, or is too small for these parts.

    Example:
        >>> parts = open_training_parts(DataOptions("digits"))
        >>> len(parts.train), len(parts.held_out), len(parts.test)
        (1294, 144, 359)
    """
    source = data.open_source(choice.name, choice.directory)
    check_labelled(source)
    if source.train is source.test:
        rest, test = data.held_out_split(source.train, choice.held_out)
        source = replace(source, train=rest, test=test)
    train, held_out = data.held_out_split(source.train, choice.held_out)
    some = train if calibration is None else _sample(train, choice, calibration, seed)
    return Parts(source, train, held_out, some, source.test)


def _sample(train: Images, choice: DataOptions, most: int, seed: int) -> Images:
    count = min(most, len(train)) if choice.calibration is None else choice.calibration
    return data.balanced_sample(train, count, seed)


def check_labelled(source: Source) -> None:
    """Refuse images without labels.

    Raises:
        InputError: There are no labels.

    Example:
        >>> check_labelled(data.open_source("digits"))
    """
    if not source.classes:
        raise InputError(
            f"the images of '{source.name}' have no labels, which this needs: use --data folder, with a folder "
            "of images for each class"
        )


def check_classes(source: Source, model: nn.Module, choice: DataOptions, quality: Quality = PLAIN) -> None:
    """Refuse a network whose outputs are not the classes of the data set: accuracies would mean nothing.

    Raises:
        InputError: There are more or fewer outputs than classes, or no labels. A metric of the user's own may read
            other outputs.

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
    check_labelled(source)
    if not (quality.metric is None or isinstance(quality.metric, str)):
        return
    first = source.test.subset(torch.arange(1))
    images, _ = next(iter(batches(first, model, replace(choice, workers=0))))
    with eval_mode(model), torch.no_grad():
        outputs = logits_of(model, images.to(device_of(model)), quality.of).shape[1]
    if outputs != len(source.classes):
        raise InputError(
            f"the network has {outputs} outputs (classes 0 to {outputs - 1}), but the data set '{choice.name}' has "
            f"{len(source.classes)} classes: the numbers must be equal"
        )


def warn_at_chance(
    parts: Parts, model: nn.Module, choice: DataOptions, quality: Quality, tell: Callable[[str], None]
) -> None:
    """Warn where the network is hardly better than guessing on the images.

    Args:
        parts: The parts of the data set.
        model: The network before it is pruned.
        choice: How the images are read.
        quality: What is measured; other outputs than classes are not checked.
        tell: Receives the warning.

    Example:
        >>> from infoprune.experiment.network import open_network
        >>> from infoprune.experiment.options import NetworkOptions
        >>> from infoprune.measure.metric import PLAIN
        >>> choice, said = DataOptions("digits"), []
        >>> model = open_network(NetworkOptions("digits"), "cpu")
        >>> warn_at_chance(open_parts(choice), model, choice, PLAIN, said.append)
        >>> len(said)  # this network is not trained
        1
    """
    if not parts.source.classes or (quality.metric is not None and not isinstance(quality.metric, str)):
        return
    some = FirstImages(batches(parts.calibration, model, choice), CALIBRATION)
    with torch.random.fork_rng([]):  # an iteration of a loader draws a number
        accuracy = evaluate(model, some, output=quality.output).accuracy
    if accuracy is not None and is_chance(accuracy, len(parts.source.classes)):
        tell(f"Warning: {chance_warning(accuracy)}")


def parts_for(
    network: NetworkOptions,
    model: nn.Module,
    choice: DataOptions,
    quality: Quality,
    seed: int,
    calibration: int,
    tell: Callable[[str], None],
) -> tuple[Parts, DataOptions, DataLoader[Any], DataLoader[Any] | None]:
    """Return the parts of a data set, how they are read, and what calibrates and what is measured on, in batches.

    Args:
        network: What was asked for.
        model: That network, before it is pruned.
        choice: Which images.
        quality: What is measured.
        seed: Seed of the calibration sample.
        calibration: As for ``open_parts``.
        tell: Receives what is done to the images, and a warning where the network is hardly better than guessing.

    Raises:
        InputError: The data set cannot be read, or does not fit the network.

    Example:
        >>> from infoprune.experiment.network import open_network
        >>> from infoprune.experiment.options import NetworkOptions
        >>> from infoprune.measure.metric import PLAIN
        >>> network, choice = NetworkOptions("digits"), DataOptions("digits")
        >>> model = open_network(network, "cpu")
        >>> parts, choice, images, test = parts_for(network, model, choice, PLAIN, 0, 100, lambda line: None)
        >>> choice.calibration, len(images), len(test)
        (100, 1, 3)
    """
    parts = open_parts(choice, seed, calibration=calibration)
    choice = replace(choice, calibration=len(parts.calibration))
    if parts.source.classes or quality.metric is not None:
        check_classes(parts.source, model, choice, quality)
    tell(images_in_words(network, model, photos=isinstance(parts.train, data.FolderImages)))
    warn_at_chance(parts, model, choice, quality, tell)
    test = batches(parts.test, model, choice) if parts.source.classes else None
    return parts, choice, batches(parts.calibration, model, choice), test


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
