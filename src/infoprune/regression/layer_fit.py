"""Fits one layer by least squares, with the ridge chosen on held-out images, and updates the layer and its norm.

The map from a layer's inputs to its result, its batch norm included, is affine: the weight times the norm's scale, and
a constant. This map is fitted as a whole. The fitted weight divided by the scale becomes the weight of the layer; the
constant is added to the norm's shift or the layer's bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from infoprune.device import device_of
from infoprune.errors import InputError
from infoprune.network.layer_io import Window
from infoprune.regression.few_samples import Samples
from infoprune.regression.normal_equations import Equations, Solution, every_output_for_trials
from infoprune.regression.patches import (
    as_matrix,
    from_matrix,
    grouped,
    groups_of,
    patches,
    some_positions,
    weight_of,
)
from infoprune.regression.products import Products
from infoprune.regression.shifted import can_be_shifted

RIDGES = (1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
HELD_OUT_EVERY = 5
_USUAL_RIDGE = 1e-3
# Positions sampled from an image: neighbouring positions are similar, so more images add more than more positions. With
# ResNet-56 and 500 images, 64 positions repair as well as 256, and 32 a little worse.
POSITIONS = 256
_ENOUGH_POSITIONS = 64
_FEWEST_POSITIONS = 16
# Positions in all images together: few images use more positions each, very many images fewer.
_LEAST_TOGETHER = 1 << 15
_MOST_TOGETHER = 1 << 19
# A depthwise convolution has nine features, and more positions of all images than these say nothing new.
POSITIONS_OF_A_FEATURE = 1 << 10
# Values of patches processed at a time: 32 MiB as float32.
_CHUNK_VALUES = 1 << 23
# Below this share of the usual scale a norm's own scale is too small to divide by.
_SMALL_SCALE = 1e-3


@dataclass(frozen=True)
class Site:
    """One layer that is refitted.

    Args:
        name: Dotted name.
        small: The layer of the network that changes.
        norm: The batch norm that follows it there, if one does.
        outputs: ``(O,)``, the kept outputs of the original layer.
        window: How a convolution moves over its inputs; ``None`` for a linear layer.
        flat: Whether it reads one vector of each image.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> site = Site("fc", layer, norm=None, outputs=torch.arange(1), window=None)
        >>> site.has_constant()
        True
    """

    name: str
    small: nn.Module
    norm: _BatchNorm | None
    outputs: Tensor
    window: Window | None
    flat: bool = False

    @property
    def features(self) -> int:
        """Number of features of each group of channels."""
        return weight_of(self.small)[0].numel()

    def has_constant(self) -> bool:
        """Return whether the layer or its norm has a bias; a new one would change the architecture."""
        return getattr(self.small, "bias", None) is not None or (self.norm is not None and self.norm.bias is not None)


@dataclass(frozen=True)
class Targets:
    """The targets of a layer at some positions: a sum of maps, or of some of their channels.

    Args:
        terms: Maps, with the sign of each and the channels that are read of it, ``None`` for all.
        linear: Whether the channels are the last axis, not the second.

    Example:
        >>> terms = [(torch.tensor([[3.0, 4.0]]), 1, None), (torch.tensor([[1.0, 1.0]]), -1, None)]
        >>> Targets(terms, linear=True).whole().tolist()
        [[2.0, 3.0]]
    """

    terms: Sequence[tuple[Tensor, int, Tensor | None]]
    linear: bool

    @property
    def positions(self) -> int:
        """Positions of one image."""
        maps = self.terms[0][0]
        return maps[0].numel() // maps.shape[-1 if self.linear else 1]

    def whole(self) -> Tensor:
        """Return the targets at all positions, in the shape of the maps."""
        axis = -1 if self.linear else 1
        total: Tensor | None = None
        for maps, sign, channels in self.terms:
            term = maps if channels is None else maps.index_select(axis, channels)
            total = sign * term if total is None else total.add(term, alpha=sign)
        assert total is not None
        return total

    def at(self, places: Tensor | None, images: Tensor) -> Tensor:
        """Return the targets at some positions of some images, ``(O, P)``."""
        total: Tensor | None = None
        for maps, sign, channels in self.terms:
            rows = maps.reshape(len(maps), -1, maps.shape[-1]).mT if self.linear else maps.flatten(2)
            rows = rows[images] if places is None else rows[images[:, None], :, places].mT
            rows = _full(rows if channels is None else rows.index_select(1, channels))
            total = sign * rows if total is None else total.add(rows, alpha=sign)
        assert total is not None
        return total.transpose(0, 1).flatten(1)


def positions_of(images: int, features: int | None = None) -> int:
    """Return the number of positions sampled from each image, for a number of images and of features.

    Example:
        >>> from infoprune.regression.layer_fit import positions_of
        >>> [positions_of(images) for images in (50, 200, 1000, 10_000, 1_000_000)]
        [256, 163, 64, 52, 16]
        >>> [positions_of(500, features) for features in (9, 27, 576)]
        [18, 55, 65]
    """
    images = max(1, images)
    wanted = max(_ENOUGH_POSITIONS, min(POSITIONS, _LEAST_TOGETHER // images))
    enough = _MOST_TOGETHER if features is None else POSITIONS_OF_A_FEATURE * features
    return max(_FEWEST_POSITIONS, min(wanted, _MOST_TOGETHER // images, enough // images))


def add_positions(
    products: Products | Samples,
    window: Window | None,
    inputs: Tensor,
    targets: Targets | None,
    images: Tensor,
    drawn: torch.Generator,
    most: int = POSITIONS,
) -> None:
    """Add some positions of some images to the products of a layer.

    Args:
        products: The products of the layer.
        window: How the layer moves over its inputs; ``None`` for a linear layer.
        inputs: ``(n, ...)`` its inputs.
        targets: Its targets; ``None`` if only the moments of its inputs are needed.
        images: Indices of the images to add.
        drawn: Generator that draws the positions.
        most: Largest number of positions of an image; images of one chunk share the same positions.

    Example:
        >>> layer = nn.Linear(2, 1).requires_grad_(False)
        >>> x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> products = Products(1, 2, 1)
        >>> targets = Targets([(x[:, :1] + 3, 1, None)], linear=True)
        >>> add_positions(products, None, x, targets, torch.arange(50), torch.Generator())
        >>> products.equations().count
        50
    """
    if not len(images):
        return
    groups, features, _ = products.shape
    size = max(1, _CHUNK_VALUES // (groups * features * min(_positions(window, inputs), most)))
    for some in torch.split(images, size):
        places = some_positions(_positions(window, inputs), most, drawn, inputs.device)
        if isinstance(products, Products) and products.about is None and not products.exact:
            _set_middle(products, window, inputs[some[:8]])
        channels = None if products.about is None else _by_channel(window, products.about)
        if window is not None and places is None and not products.exact and can_be_shifted(window):
            assert isinstance(products, Products)  # the others are exact
            _add_maps(products, window, _full(inputs[some]), channels, targets, some)
            continue
        found = _full(patches(window, inputs, places, some, about=channels))
        products.add(found, found[:, :0] if targets is None else _centred(products, targets, places, some))


def _centred(products: Products | Samples, targets: Targets, places: Tensor | None, images: Tensor) -> Tensor:
    """Return ``(g, O, P)`` targets minus their mean of the first images, where the products are not exact."""
    wanted = grouped(targets.at(places, images), products.shape[0])
    if products.targets_about is None and not products.exact:
        products.targets_about = wanted.mean(dim=2)
    return wanted if products.targets_about is None else wanted - products.targets_about[..., None]


def _add_maps(
    products: Products, window: Window, maps: Tensor, about: Tensor | None, targets: Targets | None, images: Tensor
) -> None:
    """Add all positions of some images by products of shifted maps."""
    space = [1] * (maps.dim() - 2)
    if targets is None:
        wanted = maps.new_empty(len(maps), 0, *window.outputs(maps.shape[2:]))
    else:
        found = _centred(products, targets, None, images)[0]
        wanted = found.reshape(len(found), len(maps), *window.outputs(maps.shape[2:])).movedim(1, 0)
    products.add_maps(window, maps if about is None else maps - about.reshape(-1, *space), wanted)


def _full(values: Tensor) -> Tensor:
    """Return values in single precision at least: sums of products in half precision would be rounding."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _set_middle(products: Products, window: Window | None, inputs: Tensor) -> None:
    """Centre the products near the mean of each channel."""
    if window is None:
        products.about = _full(inputs).reshape(-1, inputs.shape[-1]).mean(dim=0)[None]
        return
    means = _full(inputs).flatten(2).mean(dim=(0, 2))
    products.about = means.reshape(window.groups, -1).repeat(1, prod(window.kernel))


def _by_channel(window: Window | None, about: Tensor) -> Tensor:
    return about[0] if window is None else about[:, : about.shape[1] // prod(window.kernel)].flatten()


def _positions(window: Window | None, inputs: Tensor) -> int:
    if window is None:
        return inputs[0].numel() // inputs.shape[-1]
    return prod(window.outputs(inputs.shape[2:]))


def best_solution(
    site: Site,
    fit: Equations,
    held_out: Equations,
    rows: Tensor | None = None,
    near: float = RIDGES[len(RIDGES) // 2],
) -> Solution | None:
    """Return the solution with the ridge of the lowest held-out error, ``None`` if the present weights are better.

    Args:
        site: The layer.
        fit: Equations of the fitted images.
        held_out: Equations of the held-out images, which choose the ridge.
        rows: The features of the layer that the equations cover, by default all.
        near: One of ``RIDGES``, tried first.

    Example:
        >>> layer = nn.Linear(2, 1).requires_grad_(False)
        >>> x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> products = Products(1, 2, 1)
        >>> targets = Targets([(x[:, :1] + 3, 1, None)], linear=True)
        >>> add_positions(products, None, x, targets, torch.arange(50), torch.Generator())
        >>> site = Site("fc", layer, norm=None, outputs=torch.arange(1), window=None)
        >>> found = best_solution(site, products.equations(), products.equations())
        >>> [round(value, 3) for value in found.constant.flatten().tolist()]
        [3.0]
    """
    scale, shift = norm_scale_of(site), norm_shift_of(site)
    start = as_matrix(site.small) * scale[:, None, :]
    start = start if rows is None else start[:, rows]
    constant = site.has_constant()
    if not fit.count or not held_out.count:
        return (fit + held_out).solve(start, _USUAL_RIDGE, constant=constant)
    step = every_output_for_trials(*fit.shape)
    problem = fit.of_every(step).about(start[:, :, ::step], constant=constant)
    judge = held_out.of_every(step)

    @cache
    def error(ridge: float) -> float:
        return judge.error(problem.solve(ridge, roughly=True))

    first = RIDGES.index(near) if near in RIDGES else len(RIDGES) // 2
    ridge = min(downhill(RIDGES, error, first), float("inf"), key=error)
    if not error(ridge) < judge.error(Solution(start[:, :, ::step], shift[:, ::step])):
        return None
    return (fit + held_out).solve(start, ridge, constant=constant)


def downhill(values: Sequence[float], error: Callable[[float], float], first: int | None = None) -> float:
    """Return the value with a locally lowest error, searching from one of the values while the error falls.

    Each ridge costs a factorisation. The error has one minimum over the ridges, so a few of the eight are tried.

    Args:
        values: Sorted values.
        error: Returns the error of a value.
        first: Index of the value to start from, by default the middle one.

    Example:
        >>> downhill([0.1, 1.0, 10.0, 100.0], lambda ridge: abs(ridge - 1.0))
        1.0
    """
    at = len(values) // 2 if first is None else first
    for step in (-1, 1):
        while 0 <= at + step < len(values) and error(values[at + step]) < error(values[at]):
            at += step
    return values[at]


def norm_scale_of(site: Site) -> Tensor:
    """Return the scale of the norm by output, ``(g, O)`` float64.

    Example:
        >>> site = Site("conv", nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, eps=0.0), torch.arange(2), window=None)
        >>> norm_scale_of(site).tolist()
        [[1.0, 1.0]]
    """
    ones = torch.ones(len(site.outputs), dtype=torch.float64, device=site.outputs.device)
    return grouped(ones if site.norm is None else norm_scale(site.norm), groups_of(site.small))


def norm_shift_of(site: Site) -> Tensor:
    """Return the constant that norm and bias together add to each output, ``(g, O)`` float64.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> site = Site("fc", layer, norm=None, outputs=torch.arange(1), window=None)
        >>> torch.allclose(norm_shift_of(site), layer.bias.double())
        True
    """
    bias = getattr(site.small, "bias", None)
    shift = torch.zeros(len(site.outputs), dtype=torch.float64, device=site.outputs.device)
    if bias is not None:
        shift = shift + bias.double()
    if site.norm is not None:
        assert site.norm.running_mean is not None
        shift = (shift - site.norm.running_mean.double()) * norm_scale(site.norm)
        shift = shift if site.norm.bias is None else shift + site.norm.bias.double()
    return grouped(shift, groups_of(site.small))


def norm_scale(norm: _BatchNorm) -> Tensor:
    """Return the scale of a batch norm in eval mode by channel, ``(C,)`` float64.

    Example:
        >>> norm = nn.BatchNorm2d(1, eps=0.0)
        >>> norm.running_var = torch.tensor([4.0])
        >>> norm_scale(norm).tolist()
        [0.5]
    """
    if norm.running_var is None:  # a norm of each batch by itself
        root = torch.ones(norm.num_features, dtype=torch.float64, device=device_of(norm))
    else:
        root = (norm.running_var.double() + norm.eps).rsqrt()
    return root if norm.weight is None else root * norm.weight.double()


def write_solution(site: Site, found: Solution | None) -> None:
    """Write a solution into the layer and its norm.

    Raises:
        InputError: The solution is not finite.

    Example:
        >>> layer = nn.Linear(2, 1).requires_grad_(False)
        >>> site = Site("fc", layer, norm=None, outputs=torch.arange(1), window=None)
        >>> write_solution(site, Solution(torch.ones(1, 2, 1).double(), torch.zeros(1, 1).double()))
        >>> layer.weight.tolist(), round(layer.bias.item(), 6)
        ([[1.0, 1.0]], 0.0)
    """
    if found is None:
        return
    if site.norm is not None:
        _lift_small_scales(site.norm)
    scale = norm_scale_of(site)
    weight, bias = weight_of(site.small), getattr(site.small, "bias", None)
    matrix = (found.weights / scale[:, None, :]).to(weight.dtype)
    if not (torch.isfinite(matrix).all() and torch.isfinite(found.constant).all()):
        raise InputError(f"layer '{site.name}' cannot be repaired: its feature maps are not finite")
    weight.copy_(from_matrix(matrix, site.small))
    if not site.has_constant():
        return
    missing = (found.constant - norm_shift_of(site)).flatten()
    if site.norm is not None and site.norm.bias is not None:
        site.norm.bias.add_(missing)
    elif bias is not None:
        bias.add_(missing / scale.flatten())


def _lift_small_scales(norm: _BatchNorm) -> None:
    """Set scales of a norm that are almost zero to the median scale, since the new weights are divided by it."""
    if norm.weight is None:
        return
    scale = norm_scale(norm).abs()
    usual = scale.median().item() or 1.0
    off = scale < _SMALL_SCALE * usual
    if off.any():
        assert norm.running_var is not None
        lifted = usual * (norm.running_var.double() + norm.eps).sqrt()
        norm.weight.copy_(torch.where(off, lifted, norm.weight.double()))
