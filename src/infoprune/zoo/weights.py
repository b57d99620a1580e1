"""Trained weights, of any of the published forms, into the networks of the zoo."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from infoprune.data.preprocessing import Preprocessing
from infoprune.declarations.validation import check_regular
from infoprune.errors import InputError
from infoprune.zoo import factory, registry

Weights = dict[str, Tensor]

# Entries that training scripts wrap a state dict in.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
# What nn.DataParallel and torch.compile put before every key.
_PREFIXES = ("module.", "_orig_mod.")

# Keys as others wrote them, and as they are here, by the networks (a pattern of names) they are written for.
_RESNET = (
    (r"\.downsample\.", ".shortcut."),
    (r"^fc\.", "linear."),
)
_CAFFE_LENET = (
    (r"^fc1\.", "ip1."),
    (r"^fc2\.", "ip2."),
)
# torchvision's MobileNetV2, whose first block does not expand.
_MOBILENET = (
    (r"^features\.(0|18)\.0\.", r"features.\1.conv."),
    (r"^features\.(0|18)\.1\.", r"features.\1.norm."),
    (r"^features\.1\.conv\.0\.0\.", "features.1.conv.0.conv."),
    (r"^features\.1\.conv\.0\.1\.", "features.1.conv.0.norm."),
    (r"^features\.1\.conv\.1\.(?!conv|norm)", "features.1.conv.1.conv."),
    (r"^features\.1\.conv\.2\.(?!conv|norm)", "features.1.conv.1.norm."),
    (r"^features\.(\d+)\.conv\.([01])\.0\.", r"features.\1.conv.\2.conv."),
    (r"^features\.(\d+)\.conv\.([01])\.1\.", r"features.\1.conv.\2.norm."),
    (r"^features\.(\d+)\.conv\.2\.(?!conv|norm)", r"features.\1.conv.2.conv."),
    (r"^features\.(\d+)\.conv\.3\.", r"features.\1.conv.2.norm."),
    (r"^classifier\.1\.", "classifier."),
)
_TRANSLATIONS = (
    (r"resnet\d+(_b)?", _RESNET),
    (r"lenet5", _CAFFE_LENET),
    (r"mobilenet_v2(_imagenet)?", _MOBILENET),
)
_WITHOUT_BACKGROUND = ("mobilenet_v2_imagenet",)


def load_network(spec: str, weights: str | Path | None = None, **arguments: object) -> tuple[nn.Module, Preprocessing]:
    """Build a network and load its weights, float32, in eval mode.

    Args:
        spec: What ``factory.make`` takes: a name of the zoo, ``timm:NAME`` or ``torchvision:NAME``.
        weights: A safetensors file or one of ``torch.save`` with tensors only; ``None`` for fresh weights.
        arguments: What the builder takes, such as ``classes=100``.

    Returns:
        The network, and the preprocessing its usual weights expect.

    Raises:
        InputError: The spec, an argument or the file cannot be used; see ``read_weights`` and ``load_weights``.

    Example:
        >>> network, preprocessing = load_network("digits")
        >>> network.training, preprocessing.std
        (False, (1.0,))
    """
    network = factory.make(spec, arguments)
    if weights is not None:
        load_weights(network, read_weights(weights), name=spec, source=str(weights))
    return network.eval(), factory.preprocessing_of(spec, network)


def read_weights(path: str | Path) -> Weights:
    """Return the tensors of a weights file by key; floating point ones as float32. Nothing in the file is run.

    Raises:
        InputError: The file is missing, cannot be read, holds no state dict, or holds NaN or infinity.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "weights.pt"
        >>> torch.save({"weight": torch.ones(2, 3)}, file)
        >>> read_weights(file)["weight"].shape
        torch.Size([2, 3])
    """
    path = Path(path)
    check_regular(path, "the weights file")
    state = {key: _widened(tensor) for key, tensor in _without_prefixes(_unwrapped(_read(path), path)).items()}
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"the weights file '{path}' holds NaN or infinity in '{key}'")
    return state


def translated(name: str, weights: Weights) -> Weights:
    """Return the weights by the keys they have in the network ``name`` of the zoo; keys that fit are not changed.

    Example:
        >>> list(translated("digits", {"classifier.weight": torch.ones(10, 64)}))
        ['classifier.weight']
    """
    for networks, rules in _TRANSLATIONS:
        if re.fullmatch(networks, name):
            return {_renamed(key, rules): tensor for key, tensor in weights.items()}
    return weights


def load_weights(network: nn.Module, weights: Weights, *, name: str, source: str) -> None:
    """Copy weights into a network, in place; batch counters may be absent.

    Args:
        network: Any network.
        weights: Tensors by the keys of its state dict, or by those of a published form known here.
        name: The network's name in the zoo, or what to call it in messages.
        source: What to call the weights in messages.

    Raises:
        InputError: A key is missing, unexpected or of another shape; nothing has been changed then.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> load_weights(net, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, name="mine", source="weights.pt")
        >>> net.weight.tolist()
        [[1.0, 1.0]]
    """
    fitting = _fitting(name, weights, network)
    fault = _first_fault(network.state_dict(), fitting)
    if fault:
        # A module of Lightning, for example, whose attribute the network is.
        inside = _fitting(name, _of_attribute(weights), network)
        if inside and not _first_fault(network.state_dict(), inside):
            fitting, fault = inside, ""
    if fault:
        raise InputError(f"'{source}' does not fit the network '{name}': {fault}{_suggestion(name, weights)}")
    network.load_state_dict(fitting, strict=False)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            # That of networks of TorchScript, which the error says.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise InputError(f"'{path}' is not a whole safetensors file: {error}") from error
    except Exception as error:  # a damaged archive or pickle can raise nearly anything
        raise InputError(f"'{path}' cannot be read as weights: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Say why a file was refused, without PyTorch's advice to unpickle it all the same."""
    if isinstance(error, PermissionError):
        return "permission denied"
    if "TorchScript" in str(error):
        return "it is a network of TorchScript; store its state dict, torch.save(network.state_dict(), FILE)"
    refused = re.search(r"Unsupported (?:global|class):? (?:GLOBAL )?(\S+)", str(error))
    if refused:
        return f"it holds {refused[1]}, which is no tensor; store the state dict instead of the whole network"
    return "it is neither safetensors nor a whole file of torch.save"


def _unwrapped(data: Any, path: Path) -> Weights:
    if isinstance(data, Mapping):
        for wrapper in _WRAPPERS:
            if isinstance(data.get(wrapper), Mapping):
                return _unwrapped(data[wrapper], path)
        if data and all(isinstance(value, Tensor) for value in data.values()):
            return {str(key): value for key, value in data.items()}
    raise InputError(f"'{path}' holds no state dict: it must map the name of each parameter to a tensor")


def _without_prefixes(state: Weights) -> Weights:
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def _of_attribute(state: Weights) -> Weights:
    """Return the state of the only attribute that holds parameters; nothing where there are several."""
    first = {key.partition(".")[0] for key in state}
    return {key.partition(".")[2]: tensor for key, tensor in state.items()} if len(first) == 1 else {}


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _renamed(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, here in rules:
        renamed, found = re.subn(pattern, here, key)
        if found:
            return renamed
    return key


def _fitting(name: str, weights: Weights, network: nn.Module) -> Weights:
    weights = translated(name, weights)
    return _without_background(weights, network) if name in _WITHOUT_BACKGROUND else weights


def _without_background(weights: Weights, network: nn.Module) -> Weights:
    """Drop the first of TensorFlow's 1001 ImageNet classes, the background, where the network has the other 1000."""
    here = network.state_dict()
    head: Weights = {
        key: weights[key][1:]
        for key in ("classifier.weight", "classifier.bias")
        if key in weights and weights[key].shape[:1] == (1001,) and here[key].shape[:1] == (1000,)
    }
    return {**weights, **head}


def _first_fault(here: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    for key, tensor in here.items():
        if key not in weights:
            if not key.endswith("num_batches_tracked"):
                return f"it has no '{key}'"
        elif weights[key].shape != tensor.shape:
            return f"'{key}' has the shape {tuple(weights[key].shape)}, the network needs {tuple(tensor.shape)}"
        elif _kind(weights[key]) != _kind(tensor) and not _same_values(weights[key], tensor):
            return f"'{key}' holds {_kind(weights[key])}, the network needs {_kind(tensor)}"
    unexpected = next((key for key in weights if key not in here), None)
    return f"the network has no '{unexpected}'" if unexpected else ""


def _kind(tensor: Tensor) -> str:
    if tensor.is_floating_point():
        return "floating point numbers"
    if tensor.is_complex():
        return "complex numbers"
    return "truth values" if tensor.dtype == torch.bool else "whole numbers"


def _same_values(given: Tensor, here: Tensor) -> bool:
    """Return whether a counter that was stored as floating point numbers holds whole ones all the same."""
    counts = _kind(here) == "whole numbers" and given.is_floating_point()
    return counts and here.device.type != "meta" and bool((given == given.round()).all())


def _suggestion(name: str, weights: Weights) -> str:
    for other in registry.names():
        if other == name:
            continue
        with torch.device("meta"):
            network = registry.build(other)
        if not _first_fault(network.state_dict(), _fitting(other, weights, network)):
            return f" (it fits '{other}')"
    return ""
