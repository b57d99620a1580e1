"""The features that the outputs of a layer are linear in: its patches (im2col), at all or some positions of its maps.

The features of a layer are ordered by tap first and channel second, ``feature = tap * channels + channel`` within each
group of channels. Values that are adjacent in channels-last maps are then copied together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from infoprune.network.layer_io import Window

# If the patches touch a smaller share of the positions, they are read from the maps without a change of layout.
_SPARSE = 0.5


def patches(
    window: Window | None,
    inputs: Tensor,
    places: Tensor | None = None,
    images: Tensor | None = None,
    *,
    about: Tensor | None = None,
) -> Tensor:
    """Return ``(g, F, P)``: the F features that the outputs of each group of a layer are linear in.

    P counts the positions of all images, image after image.

    Args:
        window: How a convolution moves over its inputs, ``None`` for a linear layer.
        inputs: ``(n, C, ...)`` inputs of the convolution, or ``(n, ..., C)`` inputs of the linear layer.
        places: Indices of positions of one image, by default all.
        images: Indices of images, by default all.
        about: ``(C,)`` values to subtract from every channel, also from the zeros around the maps.

    Example:
        >>> import torch
        >>> from infoprune.network.layer_io import Window
        >>> from infoprune.regression.patches import patches
        >>> window = Window(kernel=(2, 2), stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
        >>> patches(window, torch.arange(9.0).reshape(1, 1, 3, 3))[0, :, 0].tolist()
        [0.0, 1.0, 3.0, 4.0]
    """
    if window is None:
        rows = inputs.reshape(len(inputs), -1, inputs.shape[-1])
        rows = rows if places is None else rows[:, places]
        rows = (rows if images is None else rows[images]).flatten(0, 1)
        return (rows if about is None else rows - about).T[None]
    channels, taps = inputs.shape[1], prod(window.kernel)
    values = _picked(window, inputs, _all_if_none(window, inputs, places), images, about)
    groups, width = window.groups, channels // window.groups
    if groups == 1:
        return values.reshape(-1, taps * channels).T[None]
    return values.reshape(-1, taps, groups, width).permute(2, 1, 3, 0).reshape(groups, taps * width, -1)


def _all_if_none(window: Window, inputs: Tensor, places: Tensor | None) -> Tensor:
    if places is not None:
        return places
    return torch.arange(prod(window.outputs(inputs.shape[2:])), device=inputs.device)


def _picked(window: Window, inputs: Tensor, places: Tensor, images: Tensor | None, about: Tensor | None) -> Tensor:
    """Return ``(n P, taps, C)``."""
    at, inside = _touched(window, inputs.shape[2:], places)
    inputs = inputs if images is None else inputs[images]
    count, channels, size = len(inputs), inputs.shape[1], prod(inputs.shape[2:])
    if at.numel() < _SPARSE * size:
        picked = inputs.flatten(2).index_select(2, at.flatten())
        picked = picked if inside is None else picked * inside.flatten().to(picked.dtype)
        picked = picked if about is None else picked - about[:, None]
        return picked.reshape(count, channels, *at.shape).permute(0, 2, 3, 1).flatten(0, 1)
    # The last row is the padding around the maps.
    rows = inputs.new_empty(count * size + 1, channels)
    rows[-1] = 0
    rows[:-1].reshape(count, *inputs.shape[2:], channels).copy_(inputs.movedim(1, -1))
    rows = rows if about is None else rows.sub_(about)
    index = (torch.arange(count, device=inputs.device) * size)[:, None, None] + at
    index = index if inside is None else index.masked_fill(~inside, count * size)
    return rows.index_select(0, index.flatten()).reshape(-1, at.shape[1], channels)


def _coordinates(index: Tensor, shape: Sequence[int]) -> list[Tensor]:
    # torch.unravel_index imports PyTorch's symbolic shapes, which takes as long as many a repair.
    found = []
    for length in reversed(shape):
        found.append(index % length)
        index = index // length
    return found[::-1]


def _touched(window: Window, size: Iterable[int], places: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return, ``(P, taps)``, the input positions of each patch, and which of them lie inside the input."""
    extent = tuple(size)
    kernel = torch.arange(prod(window.kernel), device=places.device)
    taps = _coordinates(kernel, window.kernel)
    starts = _coordinates(places, window.outputs(extent))
    at = torch.zeros(len(places), len(kernel), dtype=torch.long, device=places.device)
    inside = torch.ones_like(at, dtype=torch.bool)
    for axis, length in enumerate(extent):
        stride, padding, dilation = window.stride[axis], window.padding[axis], window.dilation[axis]
        here = (starts[axis] * stride - padding)[:, None] + taps[axis] * dilation
        inside &= (here >= 0) & (here < length)
        at = at * length + here.clamp(0, length - 1)
    return at, None if not any(window.padding) else inside


def some_positions(positions: int, most: int, drawn: torch.Generator, device: torch.device) -> Tensor | None:
    """Return up to ``most`` positions of one image, drawn at random and sorted; ``None`` for all of them.

    Example:
        >>> some_positions(16, 4, torch.Generator().manual_seed(0), torch.device("cpu")).shape
        torch.Size([4])
        >>> some_positions(4, 4, torch.Generator(), torch.device("cpu")) is None
        True
    """
    if positions <= most:
        return None
    return torch.randperm(positions, generator=drawn)[:most].sort().values.to(device)


def as_matrix(layer: nn.Module) -> Tensor:
    """Return the weight of a convolution or linear layer as ``(g, F, O)`` float64, in the order of ``patches``.

    Example:
        >>> tuple(as_matrix(nn.Conv2d(4, 8, 3, groups=2)).shape)
        (2, 18, 4)
    """
    weight = weight_of(layer).double()
    rows = grouped(weight, groups_of(layer))
    if weight.dim() == 2:
        return rows.mT
    return rows.movedim(2, -1).flatten(2).mT


def from_matrix(matrix: Tensor, layer: nn.Module) -> Tensor:
    """Return ``(g, F, O)`` as a weight of the layer's shape, the inverse of ``as_matrix``.

    Example:
        >>> layer = nn.Conv2d(4, 8, 3, groups=2)
        >>> torch.equal(from_matrix(as_matrix(layer), layer), layer.weight.double())
        True
    """
    weight = weight_of(layer)
    if weight.dim() == 2:
        return matrix.mT.reshape(weight.shape)
    outputs = matrix.mT.reshape(len(weight), *weight.shape[2:], weight.shape[1])
    return outputs.movedim(-1, 1)


def features_of(layer: nn.Module, channels: Iterable[int]) -> Tensor:
    """Return the features of some input channels of a layer, group after group, those of each channel together.

    Example:
        >>> features_of(nn.Conv2d(3, 1, (1, 2)), [1]).tolist()
        [1, 4]
    """
    if not isinstance(layer, _ConvNd):
        return torch.tensor(list(channels), dtype=torch.long)
    taps, width = prod(layer.kernel_size), weight_of(layer).shape[1]
    places = [divmod(channel, width) for channel in channels]
    return torch.tensor(
        [(group * taps + tap) * width + place for group, place in places for tap in range(taps)], dtype=torch.long
    )


def weight_of(layer: nn.Module) -> Tensor:
    """Return the weight of a layer, detached.

    Example:
        >>> weight_of(nn.Linear(2, 1)).requires_grad
        False
    """
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def groups_of(layer: nn.Module) -> int:
    """Return the number of groups of channels of a convolution, 1 for a linear layer.

    Example:
        >>> groups_of(nn.Conv2d(4, 8, 3, groups=2)), groups_of(nn.Linear(4, 8))
        (2, 1)
    """
    return layer.groups if isinstance(layer, _ConvNd) else 1


def grouped(rows: Tensor, groups: int) -> Tensor:
    """Reshape ``(C, ...)`` to ``(g, C / g, ...)``.

    Example:
        >>> grouped(torch.arange(4), 2).tolist()
        [[0, 1], [2, 3]]
    """
    return rows.reshape(groups, len(rows) // groups, *rows.shape[1:])
