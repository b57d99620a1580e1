"""Networks from anywhere: the zoo, timm, torchvision, or a function of the user."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from infoprune.data.preprocessing import Preprocessing
from infoprune.errors import InputError, unknown
from infoprune.zoo import registry

Arguments = Mapping[str, Any]

# What torchvision and timm train on unless they say otherwise.
_IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=256, crop=224)


def make(spec: str, arguments: Arguments | None = None) -> nn.Module:
    """Build a network with freshly initialised weights.

    Args:
        spec: A name of the zoo, ``timm:NAME``, ``torchvision:NAME``, or ``package.module:function``. Modules are also
            looked for in the working directory.
        arguments: What the builder takes by keyword, such as JSON holds.

    Raises:
        InputError: The package, module, function or name does not exist, the builder fails, or it returns something
            else than a ``torch.nn.Module``.
    """
    arguments = dict(arguments or {})
    origin, separator, name = spec.partition(":")
    if not separator:
        return registry.build(spec, **arguments)
    if origin == "timm":
        return _from_timm(name, arguments)
    if origin == "torchvision":
        return _from_torchvision(name, arguments)
    return _from_function(spec, origin, name, arguments)


def preprocessing_of(spec: str, network: nn.Module) -> Preprocessing:
    """Return what the usual weights of a network expect.

    Args:
        spec: What ``network`` was made from.
        network: The network; one from a user's function may say what it expects in an attribute ``preprocessing``.
            Where nothing is known, pixels in [0, 1] are left as they are.

    Raises:
        InputError: The zoo has no network ``spec``.
    """
    origin, separator, name = spec.partition(":")
    if not separator:
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
    return _called(f"timm:{name}", lambda: timm.create_model(name, **arguments))


def _from_torchvision(name: str, arguments: Arguments) -> nn.Module:
    models = _package("torchvision.models", name)
    if name not in models.list_models():
        raise unknown("network of torchvision", name, models.list_models())
    return _called(f"torchvision:{name}", lambda: models.get_model(name, **arguments))


def _from_function(spec: str, module_name: str, name: str, arguments: Arguments) -> nn.Module:
    with _working_directory_importable():
        try:
            module = importlib.import_module(module_name)
        except Exception as error:  # a user's module can raise anything
            raise InputError(f"the module of '{spec}' cannot be imported: {_reason(error)}") from error
        function = getattr(module, name, None)
        if not callable(function):
            functions = [word for word, value in vars(module).items() if callable(value)]
            raise unknown(f"function of module '{module_name}'", name, functions)
        return _called(spec, lambda: function(**arguments))


def _called(spec: str, function: Callable[[], Any]) -> nn.Module:
    try:
        network = function()
    except Exception as error:  # so can a user's function
        raise InputError(f"'{spec}' cannot be built: {_reason(error)}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"'{spec}' must return a torch.nn.Module, not {type(network).__name__}")
    return network


def _package(module: str, name: str) -> ModuleType:
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except Exception as error:  # built for another PyTorch, torchvision raises RuntimeError
        raise InputError(
            f"'{package}:{name}' needs the package {package}, which cannot be imported ({_reason(error)}): "
            f"pip install {package}"
        ) from error


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    """An installed command, unlike ``python -m``, does not look for modules where it is called."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _reason(error: Exception) -> str:
    first = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _timm_preprocessing(network: nn.Module) -> Preprocessing:
    declared: Mapping[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    crop = int(declared.get("input_size", (3, 224, 224))[-1])
    return Preprocessing(
        mean=tuple(declared.get("mean", _IMAGENET.mean)),
        std=tuple(declared.get("std", _IMAGENET.std)),
        resize=int(crop / declared.get("crop_pct", 0.875)),
        crop=crop,
    )


def _torchvision_preprocessing(name: str) -> Preprocessing:
    models = _package("torchvision.models", name)
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    return Preprocessing(
        mean=tuple(getattr(transforms, "mean", _IMAGENET.mean)),
        std=tuple(getattr(transforms, "std", _IMAGENET.std)),
        resize=getattr(transforms, "resize_size", [_IMAGENET.resize])[0],
        crop=getattr(transforms, "crop_size", [_IMAGENET.crop])[0],
    )


def _unchanged(network: nn.Module) -> Preprocessing:
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    channels = 3 if first is None else first.in_channels
    return Preprocessing((0.0,) * channels, (1.0,) * channels)
