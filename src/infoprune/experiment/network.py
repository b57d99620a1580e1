"""The network of a run: by name, file or function, with its weights and what is known of them."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from infoprune.data import Preprocessing
from infoprune.device import pick_device
from infoprune.errors import InputError
from infoprune.experiment.options import NetworkOptions
from infoprune.network.origin import Origin, origin_of, set_origin
from infoprune.storage import checkpoint
from infoprune.zoo import factory, registry
from infoprune.zoo.weights import load_weights, read_weights, translated


def open_network(choice: NetworkOptions, device: str = "auto") -> nn.Module:
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


def _built(choice: NetworkOptions, name: str) -> nn.Module:
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


def _preprocessing(choice: NetworkOptions, known: Preprocessing) -> Preprocessing:
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


def _check_same_architecture(choice: NetworkOptions, model: nn.Module) -> None:
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
