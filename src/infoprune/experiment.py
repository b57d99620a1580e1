"""One run as the command line makes it: names and files in; network, figures and settings out."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from infoprune import checkpoint, data
from infoprune.data import Images, Preprocessing, Source
from infoprune.device import pick_device
from infoprune.errors import InputError
from infoprune.origin import Origin, origin_of, set_origin
from infoprune.version import __version__
from infoprune.zoo import factory, registry
from infoprune.zoo.weights import load_weights, read_weights, translated


@dataclass(frozen=True)
class NetworkChoice:
    """Which network, by name and file.

    Args:
        model: A zoo name, ``timm:NAME``, ``torchvision:NAME``, ``package.module:function``; ``None`` for a checkpoint.
        weights: An infoprune checkpoint, or weights of ``model``; ``None`` for fresh weights.
        arguments: Given to the function that builds the network.
        mean: Per channel, in [0, 1]; by default what is known of the network's weights.
        std: Per channel, likewise.
        input_shape: ``(C, H, W)``; by default what is known of the network.
    """

    model: str | None = None
    weights: Path | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_shape: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class DataChoice:
    """Which images, and how they are read.

    Args:
        name: ``cifar10``, ``mnist``, ``digits`` or ``folder``.
        directory: Where the files lie.
        batch_size: Images a batch.
        calibration: Number of images that score the filters.
        held_out: Share of the training set that is never trained on or scored with, for choices.
        workers: Processes that read image files.
    """

    name: str
    directory: Path | None = None
    batch_size: int = 128
    calibration: int = 256
    held_out: float = 0.1
    workers: int = 0


def open_network(choice: NetworkChoice, device: str = "auto") -> nn.Module:
    """Build the chosen network with its weights, in eval mode, on the device, its origin noted on it.

    Raises:
        InputError: No network or file of that name can be used.
    """
    torch_device = pick_device(device)
    if choice.weights is not None and checkpoint.is_checkpoint(choice.weights):
        model = checkpoint.load(choice.weights)
        _check_same_architecture(choice, model)
    elif choice.model is None:
        if choice.weights is not None:
            checkpoint.describe(choice.weights)  # says why this file is no checkpoint
        raise InputError("name a network with --model, or give an infoprune checkpoint")
    else:
        model = _built(choice, choice.model)
    return model.to(torch_device).eval()


def preprocessing_of(model: nn.Module) -> Preprocessing:
    """Return what the network's weights want of their images.

    Raises:
        InputError: Nobody knows.
    """
    origin = origin_of(model)
    if origin is None or origin.preprocessing is None:
        raise InputError("say how the weights want their images: --mean and --std, one number per channel")
    return origin.preprocessing


@dataclass(frozen=True)
class Parts:
    """The parts of a data set, none of which shares an image with another.

    Args:
        source: The data set.
        train: What is trained on.
        held_out: What chooses.
        calibration: What scores the filters, a class-balanced sample of ``train``.
        test: What is measured on, and chooses nothing.
    """

    source: Source
    train: Images
    held_out: Images | None
    calibration: Images
    test: Images


def open_parts(choice: DataChoice, seed: int = 0) -> Parts:
    """Read a data set and split it; a set without a test part of its own is measured on what does not calibrate.

    Raises:
        InputError: The data set cannot be read, or is too small for these parts.
    """
    source = data.open_source(choice.name, choice.directory)
    if source.train is source.test:
        calibration, test = data.divided(source.train, choice.calibration, seed)
        return Parts(source, calibration, None, calibration, test)
    train, held_out = data.held_out_split(source.train, choice.held_out)
    return Parts(source, train, held_out, data.balanced_sample(train, choice.calibration, seed), source.test)


def batches(
    images: Images, model: nn.Module, choice: DataChoice, *, shuffle: bool = False, random_crop: bool = False
) -> DataLoader[Any]:
    """Return batches of these images as the network wants them."""
    return data.loader(
        images,
        preprocessing_of(model),
        batch_size=choice.batch_size,
        shuffle=shuffle,
        random_crop=random_crop,
        workers=choice.workers,
    )


def versions() -> dict[str, str]:
    """Return the versions that a run depends on."""
    packages = ("torch", "torch-pruning", "numpy", "scikit-learn", "lightning-fabric")
    return {
        "infoprune": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the latency figures depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": str(device), "processor": name, "threads": torch.get_num_threads()}


def _built(choice: NetworkChoice, name: str) -> nn.Module:
    model = factory.make(name, choice.arguments)
    if choice.weights is not None:
        load_weights(model, translated(name, read_weights(choice.weights)), name=name, source=str(choice.weights))
    preprocessing = _preprocessing(choice, _known_preprocessing(name, model, choice.input_shape))
    shape = choice.input_shape or _input_shape(name, preprocessing)
    return set_origin(model, Origin(name, shape, choice.arguments, preprocessing))


def _known_preprocessing(name: str, model: nn.Module, shape: tuple[int, int, int] | None) -> Preprocessing:
    known = factory.preprocessing_of(name, model)
    if shape is None or known.channels == shape[0]:
        return known
    return Preprocessing((0.0,) * shape[0], (1.0,) * shape[0], known.resize, known.crop)


def _preprocessing(choice: NetworkChoice, known: Preprocessing) -> Preprocessing:
    if choice.mean is None and choice.std is None:
        return known
    if choice.mean is None or choice.std is None:
        raise InputError("--mean and --std go together: one number per channel each")
    return replace(known, mean=choice.mean, std=choice.std)


def _input_shape(name: str, preprocessing: Preprocessing) -> tuple[int, int, int]:
    if name in registry.names():
        return registry.info(name).input_shape
    if preprocessing.crop is None:
        raise InputError(f"say what images '{name}' reads: --input-shape C,H,W")
    return preprocessing.channels, preprocessing.crop, preprocessing.crop


def _check_same_architecture(choice: NetworkChoice, model: nn.Module) -> None:
    origin = origin_of(model)
    if choice.model is not None and origin is not None and choice.model != origin.architecture:
        raise InputError(f"'{choice.weights}' is a checkpoint of '{origin.architecture}', not of '{choice.model}'")


def stored_precision(model: nn.Module, *, half: bool) -> nn.Module:
    """Round a network's weights, in place, to the precision they will be stored in, so that figures are of the file."""
    if half:
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half())
    return model
