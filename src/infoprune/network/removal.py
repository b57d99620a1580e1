"""Removed channels, layer by layer: cut out of a network, or held at zero in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from infoprune.network.computed_weights import Computed, put_plain
from infoprune.network.layers import Routing, Side, channel_axis, pruner
from infoprune.network.stored_values import Stored

Place = tuple[str, Side] | tuple[Stored, Literal["stored"]]
"""A side of a layer, or a value that is stored outside any layer."""

Removal = Mapping[Place, Sequence[int]]
"""By layer and side, the removed indices along that side, in the numbering of the uncut network."""


def cut(model: nn.Module, removal: Removal) -> None:
    """Cut channels out of a network, in place, with torch-pruning's functions, once per layer and side.

    ``requires_grad`` and memory format of each parameter are kept.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> cut(net, {("0", "out"): [1, 3], ("2", "in"): [1, 3]})
        >>> net[0].out_channels, net[2].in_channels
        (2, 2)
    """
    modules = dict(model.named_modules())
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    layouts = {name: _layout(parameter) for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for (place, side), channels in removal.items():
            if not channels:
                continue
            if isinstance(place, Stored):
                place.remove(model, sorted(channels))
            elif side != "stored":
                _cut_layer(modules[place], side, sorted(channels))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trainable[name])
            if layouts[name] is not torch.contiguous_format:
                parameter.data = parameter.data.contiguous(memory_format=layouts[name])


@contextmanager
def cut_for_a_while(model: nn.Module, removal: Removal, computed: Mapping[str, Computed]) -> Iterator[nn.Module]:
    """Cut a network in place for the length of a ``with`` block, and restore it afterwards.

    Layers with a computed weight become plain layers meanwhile.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> with cut_for_a_while(net, {("0", "out"): [1, 3], ("2", "in"): [1, 3]}, {}) as small:
        ...     small[0].out_channels
        2
        >>> net[0].out_channels
        4
    """
    touched = {place for (place, _), channels in removal.items() if channels}
    plain = {str(name) for name in touched if name in computed}
    parents = {name.rpartition(".")[0] for name in plain}
    names = {place.module if isinstance(place, Stored) else place for place in touched} | parents
    before = [(module, _state(module)) for name, module in model.named_modules() if name in names]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        put_plain(model, computed, plain)
        cut(model, removal)
        yield model
    finally:
        for module, state in before:
            module.__dict__.clear()
            module.__dict__.update(state)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _state(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module; cutting replaces these values and does not change them."""
    kept = dict(vars(module))
    for name in ("_parameters", "_buffers", "_modules"):
        kept[name] = dict(kept[name])
    return kept


def _layout(tensor: Tensor) -> torch.memory_format:
    for layout, axes in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
        if tensor.ndim == axes and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=layout):
            return layout
    return torch.contiguous_format


def hold_at_zero(model: nn.Module, removal: Removal) -> list[RemovableHandle]:
    """Hook a network so that the channels are zero wherever they leave or enter a layer; return the hooks.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3))
        >>> hooks = hold_at_zero(net, {("0", "out"): [1]})
        >>> net(torch.ones(1, 1, 3, 3))[0, 1].item()
        0.0
    """
    modules = dict(model.named_modules())
    handles = []
    for (layer, side), channels in removal.items():
        # Stored values need no hook: what is added to these channels is held at zero at the input of the next layer.
        if not channels or isinstance(layer, Stored):
            continue
        module = modules[layer]
        zeros = partial(_with_zeros, axis=channel_axis(module), channels=list(channels))
        if side == "out":
            handles.append(module.register_forward_hook(partial(_zero_output, zeros)))
        else:
            handles.append(module.register_forward_pre_hook(partial(_zero_input, zeros), with_kwargs=True))
    return handles


def _cut_layer(module: nn.Module, side: Side, channels: list[int]) -> None:
    if isinstance(module, Routing):
        (module.remove_outputs if side == "out" else module.remove_inputs)(channels)
        return
    if isinstance(module, nn.GroupNorm):
        # Only whole groups of channels are removed, so the size of a group does not change.
        module.num_groups -= len(channels) * module.num_groups // module.num_channels
    functions = pruner(module)
    (functions.prune_out_channels if side == "out" else functions.prune_in_channels)(module, channels)


def _with_zeros(tensor: Tensor, axis: int, channels: list[int]) -> Tensor:
    return tensor.index_fill(axis, torch.tensor(channels, device=tensor.device), 0)


def _zero_output(zeros: Any, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    zeroed: Tensor = zeros(output)
    return zeroed


def _zero_input(zeros: Any, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    if args:
        return (zeros(args[0]), *args[1:]), kwargs
    return args, {name: zeros(value) for name, value in kwargs.items()}
