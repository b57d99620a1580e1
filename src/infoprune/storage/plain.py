"""A pruned network as files that need no infoprune: a state dict, and the widths of its layers as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from infoprune.errors import InputError
from infoprune.files import check_writable, written_whole
from infoprune.network.equivalence import duplicate, one_line
from infoprune.storage.loader import load_pruned

PlainLayer = Literal["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "Linear"]
_SIZES = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode",
          "output_padding", "in_features", "out_features")  # fmt: skip


def changes_of(whole: nn.Module, small: nn.Module) -> dict[str, Any]:
    """Return what differs between a network and its pruned form, apart from its tensors, as JSON values.

    Args:
        whole: The network before pruning, as its code builds it.
        small: The pruned network.

    Returns:
        ``attributes``: by module, the numbers and lists of numbers that changed, such as ``out_channels``.
        ``layers``: by name, the kind and the arguments of plain layers that stand for others.

    Raises:
        InputError: The networks have other modules.

    Example:
        >>> from infoprune import zoo
        >>> whole, small = zoo.build("digits"), zoo.build("digits")
        >>> _ = setattr(small.features[0], "out_channels", 9)
        >>> changes_of(whole, small)
        {'attributes': {'features.0': {'out_channels': 9}}, 'layers': {}}
    """
    if type(small).__qualname__ != type(whole).__qualname__:
        kinds = f"a {type(small).__name__}, not a {type(whole).__name__}"
        raise InputError(f"the pruned network is {kinds}: pass the network that it was cut from")
    modules = dict(small.named_modules())
    attributes: dict[str, dict[str, Any]] = {}
    layers: dict[str, Any] = {}
    for name, module in whole.named_modules():
        if any(name.startswith(f"{replaced}.") for replaced in layers):
            continue
        if name not in modules:
            raise InputError(f"the pruned network has no module '{name}': pass the network that it was cut from")
        other = modules[name]
        if type(other).__qualname__ != type(module).__qualname__:
            layers[name] = _plain_layer(name, other)
        elif changed := changed_numbers(module, other):
            attributes[name] = changed
    return {"attributes": attributes, "layers": layers}


def save_plain(whole: nn.Module, small: nn.Module, path: Path, *, force: bool = False) -> dict[str, Any]:
    """Write a pruned network as a state dict, and beside it, with the suffix ``.json``, its widths.

    ``infoprune.storage.loader`` reads them: a file of its own that can be copied and needs torch and safetensors only.
    It is run on the files before they are put in place.

    Args:
        whole: The network before pruning, as its code builds it.
        small: The pruned network.
        path: The safetensors file to write.
        force: Replace files that exist.

    Returns:
        The widths, as from ``changes_of``.

    Raises:
        InputError: A file exists or cannot be written, ``path`` ends in ``.json``, the networks have other modules, or
            what the loader rebuilds differs from the pruned network.

    Example:
        >>> import tempfile
        >>> from infoprune import zoo
        >>> net = zoo.build("digits")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save_plain(net, net, Path(folder) / "net.safetensors")
        ...     sorted(file.name for file in Path(folder).iterdir())
        ['net.json', 'net.safetensors']
    """
    check_plain(path, force=force)
    widths = path.with_suffix(".json")
    changes = changes_of(whole, small)
    # Each with memory of its own.
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors_of(small).items()}
    with written_whole(widths, force=force) as json_part, written_whole(path, force=force) as state_part:
        json_part.write_text(json.dumps(changes, indent=1) + "\n", encoding="utf-8")
        save_file(state, state_part, metadata={"format": "pt"})
        _check(whole, small, state_part, json_part)
    return changes


def check_plain(path: Path, *, force: bool = False) -> None:
    """Refuse a path that ``save_plain`` cannot write, before any work is done for it.

    Raises:
        InputError: As for ``save_plain``.

    Example:
        >>> check_plain(Path("net.json"))
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: 'net.json' is the name of the widths: name a file such as net.safetensors
    """
    if path.suffix == ".json":
        raise InputError(f"'{path}' is the name of the widths: name a file such as {path.stem}.safetensors")
    for file in (path, path.with_suffix(".json")):
        check_writable(file, force=force)


def changed_numbers(module: nn.Module, other: nn.Module) -> dict[str, Any]:
    """Return the numbers and lists of numbers of a module that are others in another one, as they are there.

    Example:
        >>> changed_numbers(nn.Linear(2, 3), nn.Linear(2, 1))
        {'out_features': 1}
    """
    before, after = vars(module), vars(other)
    return {
        name: value
        for name, value in after.items()
        if name != "training" and _is_numbers(value) and name in before and before[name] != value
    }


def _plain_layer(name: str, layer: nn.Module) -> tuple[str, dict[str, Any]]:
    kind = type(layer).__name__
    if kind not in get_args(PlainLayer) or type(layer) is not getattr(nn, kind):
        raise InputError(f"the module '{name}' has become a {kind}, which no plain file describes")
    arguments = {size: getattr(layer, size) for size in _SIZES if hasattr(layer, size)}
    if not getattr(layer, "transposed", False):
        arguments.pop("output_padding", None)
    return kind, {**arguments, "bias": layer.bias is not None}


def _is_numbers(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(type(one) is int for one in value)
    return type(value) is int


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer by name, those outside the state dict too.

    Example:
        >>> list(tensors_of(nn.Linear(2, 3)))
        ['weight', 'bias']
    """
    return dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])


def check_rebuilt(small: nn.Module, again: nn.Module) -> None:
    """Compare a pruned network with what was rebuilt from its widths: the numbers of every module, and every value.

    Raises:
        InputError: They differ.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> check_rebuilt(layer, layer)
    """
    modules = dict(again.named_modules())
    if any(name not in modules or changed_numbers(one, modules[name]) for name, one in small.named_modules()):
        raise InputError("the network cannot be rebuilt from its widths: some of its attributes are others")
    expected, found = tensors_of(small), tensors_of(again)
    if expected.keys() != found.keys() or not all(torch.equal(expected[name].cpu(), found[name]) for name in expected):
        raise InputError("the network cannot be rebuilt from its widths: some of its values are others")


def _check(whole: nn.Module, small: nn.Module, state: Path, widths: Path) -> None:
    try:
        again = load_pruned(duplicate(whole).cpu(), state, widths)
    except Exception as error:
        raise InputError(f"the network cannot be rebuilt from its widths: {one_line(error)}") from error
    if changes_of(small, again)["layers"]:
        raise InputError("the network cannot be rebuilt from its widths: some of its layers are others")
    check_rebuilt(small, again)
