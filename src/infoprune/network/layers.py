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

    Example:
        >>> isinstance(nn.Identity(), Routing)
        False
    """

    in_channels: int
    out_channels: int

    def remove_inputs(self, channels: Sequence[int]) -> None:
        """Remove input channels."""

    def remove_outputs(self, channels: Sequence[int]) -> None:
        """Remove output channels."""


def is_producer(module: nn.Module) -> bool:
    """Return whether a layer has filters: any convolution, transposed or not, or a linear layer.

    Example:
        >>> is_producer(nn.ConvTranspose2d(2, 2, 3)), is_producer(nn.Linear(2, 2)), is_producer(nn.BatchNorm2d(2))
        (True, True, False)
    """
    return isinstance(module, _ConvNd | nn.Linear)


def is_convolution(module: nn.Module) -> bool:
    """Return whether a layer is a convolution of any dimension, transposed or not.

    Example:
        >>> is_convolution(nn.Conv1d(2, 2, 3)), is_convolution(nn.Linear(2, 2))
        (True, False)
    """
    return isinstance(module, _ConvNd)


def is_depthwise(module: nn.Module) -> bool:
    """Return whether a convolution is depthwise: one filter for each input channel.

    Example:
        >>> is_depthwise(nn.Conv2d(4, 4, 3, groups=4)), is_depthwise(nn.Conv2d(4, 8, 3, groups=4))
        (True, False)
    """
    return isinstance(module, _ConvNd) and module.groups == module.in_channels == module.out_channels > 1


def is_per_channel(module: nn.Module) -> bool:
    """Return whether a layer computes channel i from channel i (GroupNorm: from its group of channels).

    Example:
        >>> is_per_channel(nn.BatchNorm2d(4)), is_per_channel(nn.PReLU(4)), is_per_channel(nn.Conv2d(4, 4, 3))
        (True, True, False)
    """
    if isinstance(module, nn.PReLU):
        return module.num_parameters > 1
    return isinstance(module, _BatchNorm | _InstanceNorm | nn.GroupNorm) or is_depthwise(module)


def channel_axis(module: nn.Module) -> int:
    """Return the axis of a layer's input and output along which its channels lie.

    Example:
        >>> channel_axis(nn.Conv2d(1, 2, 3)), channel_axis(nn.Linear(1, 2))
        (1, -1)
    """
    return -1 if isinstance(module, nn.Linear) else 1


def pruner(module: nn.Module) -> tp.BasePruningFunc:
    """Return torch-pruning's functions for a layer.

    Example:
        >>> pruner(nn.Linear(3, 2)).get_out_channels(nn.Linear(3, 2))
        2
    """
    # torch-pruning treats every convolution with one filter per group as depthwise, for any number of inputs.
    if isinstance(module, _ConvNd):
        return tp.PrunerBox[tp.ops.OPTYPE.DEPTHWISE_CONV if is_depthwise(module) else tp.ops.OPTYPE.CONV]
    return tp.PrunerBox[tp.ops.module2type(module)]


def width(module: nn.Module, side: Side) -> int:
    """Return how many channels a layer has on one side.

    Example:
        >>> width(nn.Conv2d(3, 8, 1), "in"), width(nn.Conv2d(3, 8, 1), "out")
        (3, 8)
    """
    if isinstance(module, Routing):
        return module.out_channels if side == "out" else module.in_channels
    functions = pruner(module)
    channels: int = (functions.get_out_channels if side == "out" else functions.get_in_channels)(module)
    return channels
