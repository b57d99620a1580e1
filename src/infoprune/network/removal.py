"""Channels that go, layer by layer: cut out of a network, or held at zero in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from infoprune.network.layers import Routing, Side, channel_axis, pruner

Removal = Mapping[tuple[str, Side], Sequence[int]]
"""By layer and side, the indices that go along that side, all in the numbering of the uncut network."""


def cut(model: nn.Module, removal: Removal) -> None:
    """Cut channels out of a network, in place; torch-pruning's functions do the cutting, once per layer and side.

    ``requires_grad`` of each parameter stays as it was.
    """
    modules = dict(model.named_modules())
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for (layer, side), channels in removal.items():
            if channels:
                _cut_layer(modules[layer], side, sorted(channels))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable[name])


def hold_at_zero(model: nn.Module, removal: Removal) -> list[RemovableHandle]:
    """Hook a network so that the given channels are zero wherever they leave or enter a layer; return the hooks."""
    modules = dict(model.named_modules())
    handles = []
    for (layer, side), channels in removal.items():
        if not channels:
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
        # Whole groups of channels go, which leaves the others as large as they are.
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
