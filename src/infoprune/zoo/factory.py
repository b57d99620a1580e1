"""Networks by name: what the registries of the zoo, timm and torchvision list, and nothing else.

No name is ever imported here. A function of the user's own is called by ``experiment.network``, with the name that the
user typed; a checkpoint is built by :func:`build_from_file`.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, get_args

from torch import nn

from infoprune.data.preprocessing import Preprocessing
from infoprune.declarations.interpolation import Interpolation
from infoprune.errors import InputError, unknown
from infoprune.user_code import reason
from infoprune.zoo import registry

Arguments = Mapping[str, Any]

# What torchvision and timm train on unless they say otherwise.
_IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=256, crop=224)

# What a file may pass to the builders of timm and torchvision: sizes and rates. Whatever names a file, an address, a
# class or weights to fetch (pretrained, weights, checkpoint_path, cache_dir, act_layer, ...) is not among them.
_FILE_ARGUMENTS: Mapping[str, Mapping[str, type]] = {
    "timm": {
        "num_classes": int,
        "in_chans": int,
        "img_size": int,
        "output_stride": int,
        "drop_rate": float,
        "drop_path_rate": float,
    },
    "torchvision": {
        "num_classes": int,
        "groups": int,
        "width_per_group": int,
        "width_mult": float,
        "dropout": float,
        "stochastic_depth_prob": float,
        "zero_init_residual": bool,
        "aux_logits": bool,
        "transform_input": bool,
        "init_weights": bool,
    },
}
# A file that asks for more classes or channels would only fill the memory.
_LARGEST_NUMBER = 100_000
_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")


def is_listed(spec: str) -> bool:
    """Return whether a name is of the form of a registry's: a zoo name, ``timm:NAME`` or ``torchvision:NAME``.

    Example:
        >>> is_listed("digits"), is_listed("my_module:network")
        (True, False)
    """
    origin, separator, _ = spec.partition(":")
    return not separator or origin in _FILE_ARGUMENTS


def make(spec: str, arguments: Arguments | None = None) -> nn.Module:
    """Build a network that a registry lists, with freshly initialised weights.

    Args:
        spec: A name of the zoo, ``timm:NAME`` or ``torchvision:NAME``.
        arguments: What the builder takes by keyword.

    Raises:
        InputError: No registry lists the name, the package is missing, or the builder fails.

    Example:
        >>> make("digits", {"classes": 4}).classifier.out_features
        4
    """
    arguments = dict(arguments or {})
    origin, separator, name = spec.partition(":")
    if not separator:
        return registry.build(spec, **arguments)
    if origin == "timm":
        return _from_timm(name, arguments)
    if origin == "torchvision":
        return _from_torchvision(name, arguments)
    raise InputError(
        f"no registry lists a network {spec!r}: give a name of the zoo, timm:NAME or torchvision:NAME, or build the "
        "network yourself"
    )


def build_from_file(spec: str, arguments: Arguments) -> nn.Module:
    """Build the network that a file names: listed by a registry, with arguments of the declared types.

    Args:
        spec: As in ``make``.
        arguments: Numbers and truth values, of those that the builder declares.

    Raises:
        InputError: The name or an argument is another.

    Example:
        >>> build_from_file("digits", {"classes": 4}).classifier.out_features
        4
        >>> build_from_file("my_module:network", {})
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: no registry lists a network 'my_module:network'
    """
    origin, separator, name = spec.partition(":")
    if separator and origin in _FILE_ARGUMENTS and _NAME.fullmatch(name) is None:
        raise InputError(f"{spec!r} is no name of a network of {origin}")
    allowed = _FILE_ARGUMENTS[origin] if separator and origin in _FILE_ARGUMENTS else None
    for argument, value in arguments.items():
        if allowed is not None and argument not in allowed:
            raise InputError(
                f"the argument '{argument}' of '{spec}' is not taken from a file (taken are {', '.join(allowed)})"
            )
        _check_scalar(spec, argument, value, None if allowed is None else allowed[argument])
    if origin == "torchvision" and separator:
        # Detectors and the like fetch the weights of their backbone by default; they are in modules of their own.
        models = _package("torchvision.models", name)
        classifiers = models.list_models(module=models)
        if name not in classifiers:
            raise unknown("classifier of torchvision", name, classifiers)
    return make(spec, arguments)


def _check_scalar(spec: str, argument: str, value: Any, wanted: type | None) -> None:
    kinds: tuple[type, ...] = (bool, int, float) if wanted is None else (int, float) if wanted is float else (wanted,)
    right = type(value) in kinds
    if not right or not math.isfinite(value) or abs(value) > _LARGEST_NUMBER:
        words = {bool: "true or false", int: f"a whole number up to {_LARGEST_NUMBER:,}", float: "a number"}
        allowed = words[wanted] if wanted is not None else f"a number up to {_LARGEST_NUMBER:,}, or true or false"
        raise InputError(f"the argument '{argument}' of '{spec}' must be {allowed} in a file, not {str(value)[:60]!r}")


def preprocessing_of(spec: str, network: nn.Module) -> Preprocessing:
    """Return what the usual weights of a network expect.

    Args:
        spec: What ``network`` was made from.
        network: The network; one from a user's function may say what it expects in an attribute ``preprocessing``.
            Where nothing is known, pixels in [0, 1] are left as they are.

    Raises:
        InputError: The zoo has no network ``spec``.

    Example:
        >>> preprocessing_of("digits", registry.build("digits")).std
        (1.0,)
    """
    origin, separator, name = spec.partition(":")
    if not separator and spec in registry.names():
        return registry.info(spec).preprocessing
    if origin == "timm":
        return _timm_preprocessing(network)
    if origin == "torchvision":
        return _torchvision_preprocessing(name)
    declared = getattr(network, "preprocessing", None)
    return declared if isinstance(declared, Preprocessing) else _unchanged(network)


def _from_timm(name: str, arguments: Arguments) -> nn.Module:
    timm = _package("timm", name)
    if not timm.is_model(name.split(".")[0]):
        raise unknown("network of timm", name, timm.list_models())
    return called(f"timm:{name}", lambda: timm.create_model(name, **arguments))


def _from_torchvision(name: str, arguments: Arguments) -> nn.Module:
    models = _package("torchvision.models", name)
    if name not in models.list_models():
        raise unknown("network of torchvision", name, models.list_models())
    return called(f"torchvision:{name}", lambda: models.get_model(name, **arguments))


def called(spec: str, function: Callable[[], Any]) -> nn.Module:
    """Return the network that a builder returns.

    Raises:
        InputError: It fails, or returns something else than a ``torch.nn.Module``.

    Example:
        >>> called("a linear layer", lambda: nn.Linear(2, 3)).out_features
        3
    """
    try:
        network = function()
    except Exception as error:  # so can a user's function
        raise InputError(f"'{spec}' cannot be built: {reason(error)}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"'{spec}' must return a torch.nn.Module, not {type(network).__name__}")
    return network


def _package(module: str, name: str) -> ModuleType:
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except Exception as error:  # built for another PyTorch, torchvision raises RuntimeError
        raise InputError(
            f"'{package}:{name}' needs the package {package}, which cannot be imported ({reason(error)}): "
            f"pip install {package}"
        ) from error


def _timm_preprocessing(network: nn.Module) -> Preprocessing:
    declared: Mapping[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    crop = int(declared.get("input_size", (3, 224, 224))[-1])
    return Preprocessing(
        mean=tuple(declared.get("mean", _IMAGENET.mean)),
        std=tuple(declared.get("std", _IMAGENET.std)),
        resize=int(crop / declared.get("crop_pct", 0.875)),
        crop=crop,
        interpolation=_interpolation(declared.get("interpolation")),
    )


def _torchvision_preprocessing(name: str) -> Preprocessing:
    models = _package("torchvision.models", name)
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    return Preprocessing(
        mean=tuple(getattr(transforms, "mean", _IMAGENET.mean)),
        std=tuple(getattr(transforms, "std", _IMAGENET.std)),
        resize=getattr(transforms, "resize_size", [_IMAGENET.resize])[0],
        crop=getattr(transforms, "crop_size", [_IMAGENET.crop])[0],
        interpolation=_interpolation(getattr(getattr(transforms, "interpolation", None), "value", None)),
    )


def _interpolation(declared: Any) -> Interpolation:
    return declared if declared in get_args(Interpolation) else "bilinear"


def _unchanged(network: nn.Module) -> Preprocessing:
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    channels = 3 if first is None else first.in_channels
    return Preprocessing((0.0,) * channels, (1.0,) * channels)
