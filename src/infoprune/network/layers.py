"""The kinds of layers, by what their channels do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch_pruning as tp
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

Side = Literal["out", "in"]


@runtime_checkable
class Routing(Protocol):
    """A layer without parameters that copies each output channel from some input channel, or makes it zero.

    Both sides can lose channels independently; ``ZeroPadShortcut`` is one.
    """

    in_channels: int
    out_channels: int

    def remove_inputs(self, channels: Sequence[int]) -> None:
        """Take away input channels."""

    def remove_outputs(self, channels: Sequence[int]) -> None:
        """Take away output channels."""


def is_producer(module: nn.Module) -> bool:
    """Return whether a layer has filters: any convolution, transposed or not, or a linear layer."""
    return isinstance(module, _ConvNd | nn.Linear)


def is_convolution(module: nn.Module) -> bool:
    """Return whether a layer is a convolution of any dimension, transposed or not."""
    return isinstance(module, _ConvNd)


def is_depthwise(module: nn.Module) -> bool:
    """Return whether a convolution has one filter of its own for each input channel."""
    return isinstance(module, _ConvNd) and module.groups == module.in_channels == module.out_channels > 1


def is_per_channel(module: nn.Module) -> bool:
    """Return whether a layer gives channel i from channel i (GroupNorm: from its group of channels)."""
    if isinstance(module, nn.PReLU):
        return module.num_parameters > 1
    return isinstance(module, _BatchNorm | _InstanceNorm | nn.GroupNorm) or is_depthwise(module)


def channel_axis(module: nn.Module) -> int:
    """Return the axis of a layer's input and output along which its channels lie."""
    return -1 if isinstance(module, nn.Linear) else 1


def pruner(module: nn.Module) -> tp.BasePruningFunc:
    """Return torch-pruning's functions for a layer."""
    # torch-pruning takes every convolution with one filter per group for depthwise, whatever its inputs are.
    if isinstance(module, _ConvNd):
        return tp.PrunerBox[tp.ops.OPTYPE.DEPTHWISE_CONV if is_depthwise(module) else tp.ops.OPTYPE.CONV]
    return tp.PrunerBox[tp.ops.module2type(module)]


def width(module: nn.Module, side: Side) -> int:
    """Return how many channels a layer has on one side."""
    if isinstance(module, Routing):
        return module.out_channels if side == "out" else module.in_channels
    functions = pruner(module)
    channels: int = (functions.get_out_channels if side == "out" else functions.get_in_channels)(module)
    return channels
