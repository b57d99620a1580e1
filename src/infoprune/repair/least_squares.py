"""Least squares for the layers behind a cut: each, front to back, learns to give what the original gave.

Per layer, with X what the PRUNED network feeds it (im2col patches) and T what the ORIGINAL gives there, behind the
batch norm that follows, in a residual block together with the other branch::

    T = original result + original shortcut - pruned shortcut
    W, b = argmin ||X W + b - T||^2 + ridge ||W - W_cut||^2

W divided by the norm's scale becomes the weight, b goes into the norm's shift or the layer's bias. The ridge is the one
that does best on every fifth image; the solution is then found from all of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from infoprune.errors import InputError
from infoprune.network.equivalence import duplicate
from infoprune.network.layer_io import Reading, calls, read
from infoprune.network.layers import is_producer
from infoprune.network.replay import Walk
from infoprune.progress import Progress
from infoprune.regression.normal_equations import NormalEquations, Solution
from infoprune.repair.base import Pair, RepairInfo, register

RIDGES = (1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
HELD_OUT_EVERY = 5
_USUAL_RIDGE = 1e-3
# Values of patches worked on at a time: 64 MiB as float64.
_CHUNK_VALUES = 1 << 23
# Positions of an image that are looked at: neighbours know much the same. Of many images fewer do, so many in all.
POSITIONS = 256
_FEWEST_POSITIONS = 16
ALL_POSITIONS = 1 << 19
MEMORY = 2 << 30
# Below this share of the usual scale a norm's own scale is too small to divide by.
_SMALL_SCALE = 1e-3


@dataclass(frozen=True)
class Site:
    """One layer that is repaired.

    Args:
        name: Dotted name.
        small: The layer of the pruned network.
        norm: The batch norm that follows it there, if one does.
        outputs: Which outputs of the original layer are still there.
    """

    name: str
    small: nn.Module
    norm: _BatchNorm | None
    outputs: Tensor

    def has_constant(self) -> bool:
        """Return whether there is a place for a constant; a new bias would not fit the architecture."""
        return getattr(self.small, "bias", None) is not None or (self.norm is not None and self.norm.bias is not None)


@dataclass(frozen=True)
class Walks:
    """Both networks, read side by side.

    Args:
        pair: The networks and the images.
        small: The copy that is repaired.
        original: The whole network.
        positions: Positions of an image that are looked at.
    """

    pair: Pair
    small: Walk
    original: Walk
    positions: int = POSITIONS

    @classmethod
    def of(cls, pair: Pair, small: nn.Module, memory: int) -> Walks:
        """Return the walks over a pair, ``small`` being the copy that is repaired, within so many bytes."""
        probe = next(pair.images())[:2]
        images = sum(len(some) for some in pair.images())
        mine, theirs = (Walk(model, probe, images, memory // 2) for model in (small, pair.original))
        return cls(pair, mine, theirs, max(_FEWEST_POSITIONS, min(POSITIONS, ALL_POSITIONS // max(1, images))))

    def towards(self, layer: str) -> Iterator[tuple[Reading, Reading]]:
        """Yield, batch by batch, the layer in the pruned network and in the original."""
        mine, theirs = self.small.towards(layer), self.original.towards(layer)
        for number, images in enumerate(self.pair.images()):
            yield mine(number, images), theirs(number, images)


@torch.no_grad()
def least_squares(pair: Pair, progress: Progress, *, every: bool = True, memory: int = MEMORY) -> nn.Module:
    """Return a copy of the pruned network whose layers behind the cut are refitted.

    Args:
        pair: The networks and the images.
        progress: Told after every layer.
        every: Whether all layers from the first cut on are refitted, or only those that lost inputs.
        memory: Bytes of feature maps that may be kept, so that the part before a layer is not run again for it. With
            less the same result takes longer.
    """
    small = duplicate(pair.small)
    layers = layers_to_refit(pair, small, every)
    walks = Walks.of(pair, small, memory)
    for done, layer in enumerate(layers, 1):
        site = site_of(pair, small, layer)
        if site is not None:
            fit, held_out = moments_of(walks, site)
            write_solution(site, best_solution(site, fit, held_out))
        progress("least squares", done, len(layers))
    return small


def patches(layer: nn.Module, inputs: Tensor, places: Tensor | None = None) -> Tensor:
    """Return ``(g, F, P)``: what the outputs of each group of a layer are linear in, at P positions of all images.

    Args:
        layer: A convolution or linear layer.
        inputs: What it is fed.
        places: Indices of the positions of one image that are looked at, by default all.
    """
    if isinstance(layer, nn.Linear):
        rows = inputs.reshape(len(inputs), -1, inputs.shape[-1])
        rows = rows if places is None else rows[:, places]
        return rows.flatten(0, 1).T[None]
    assert isinstance(layer, _ConvNd)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    maps = nn.functional.pad(inputs, layer._reversed_padding_repeated_twice, mode)
    space = len(layer.kernel_size)
    for axis in range(space):
        reach = (layer.kernel_size[axis] - 1) * layer.dilation[axis] + 1
        maps = maps.unfold(2 + axis, reach, layer.stride[axis])[..., :: layer.dilation[axis]]
    if places is not None:
        chosen = torch.unravel_index(places, maps.shape[2 : 2 + space])
        maps = maps.movedim((0, 1), (-2, -1))[chosen].movedim((-2, -1), (0, 1))
    else:
        maps = maps.flatten(2, 1 + space)
    # (n, C, places, taps) to (g, C / g * taps, n * places)
    return _grouped(maps.flatten(3).permute(1, 3, 0, 2).flatten(2).flatten(0, 1), layer.groups)


def _grouped(rows: Tensor, groups: int) -> Tensor:
    return rows.reshape(groups, len(rows) // groups, *rows.shape[1:])


def some_positions(positions: int, most: int, drawn: torch.Generator, device: torch.device) -> Tensor | None:
    """Return at most so many positions of one image, drawn at random and in order; ``None`` for all of them."""
    if positions <= most:
        return None
    return torch.randperm(positions, generator=drawn)[:most].sort().values.to(device)


def as_matrix(layer: nn.Module) -> Tensor:
    """Return the weight as ``(g, F, O)`` float64, in the order of ``patches``."""
    return _grouped(_weight(layer).double(), _groups(layer)).flatten(2).mT


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def _groups(layer: nn.Module) -> int:
    return layer.groups if isinstance(layer, _ConvNd) else 1


def layers_to_refit(pair: Pair, small: nn.Module, every: bool) -> list[str]:
    """Return the layers to refit, in the order in which they run."""
    modules = dict(small.named_modules())
    ran = calls(small, [name for name, module in modules.items() if is_producer(module)], next(pair.images())[:2])
    touched = {layer for (layer, _), gone in pair.removal.items() if gone}
    lost = {layer for (layer, side), gone in pair.removal.items() if gone and side == "in"}
    behind = ran[next((i for i, layer in enumerate(ran) if layer in touched), len(ran)) :]
    chosen = []
    for layer in dict.fromkeys(behind):
        why = _obstacle(modules[layer], ran.count(layer))
        if why and layer in lost:
            warnings.warn(f"layer '{layer}' stays as it was cut: it {why}", stacklevel=2)
        elif not why and (every or layer in lost):
            chosen.append(layer)
    return chosen


def _obstacle(layer: nn.Module, times: int) -> str:
    """Return why a layer cannot be refitted, in the words of a sentence that begins with the layer, or nothing."""
    if times > 1:
        return "runs several times in one forward pass"
    if isinstance(layer, _ConvTransposeNd) or not isinstance(layer, (nn.Linear, _ConvNd)):
        return f"is a {type(layer).__name__}, and only convolutions and linear layers are refitted"
    if "weight" not in layer._parameters:
        return "has a computed weight"
    return ""


def site_of(pair: Pair, small: nn.Module, layer: str) -> Site | None:
    """Return a layer as it is repaired, ``None`` (with a warning) where what follows it cannot be followed."""
    images = next(pair.images())[:2]
    mine, theirs = read(small, layer, images), read(pair.original, layer, images)
    if mine.norm != theirs.norm or (mine.added is None) != (theirs.added is None):
        warnings.warn(f"layer '{layer}' stays as it was cut: what follows it could not be followed", stacklevel=2)
        return None
    module = small.get_submodule(layer)
    norm = small.get_submodule(mine.norm) if mine.norm else None
    assert norm is None or isinstance(norm, _BatchNorm)
    whole = len(_weight(pair.original.get_submodule(layer)))
    return Site(layer, module, norm, torch.tensor(pair.kept(layer, "out", whole), device=images.device))


def moments_of(
    walks: Walks, site: Site, keep: Callable[[Tensor, Tensor], None] | None = None
) -> tuple[NormalEquations, NormalEquations]:
    """Return the normal equations of the images that fit and of those that choose the ridge.

    Args:
        walks: The networks, read.
        site: The layer.
        keep: Told, batch by batch, what the layer is fed and what it should give.
    """
    start = as_matrix(site.small)
    fit, held_out = NormalEquations.of(start), NormalEquations.of(start)
    drawn = torch.Generator().manual_seed(0)
    seen = 0
    for mine, theirs in walks.towards(site.name):
        targets = _targets(site, mine, theirs)
        if keep is not None:
            keep(mine.inputs, targets)
        held = (torch.arange(len(targets)) + seen) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        seen += len(targets)
        for chosen, equations in ((~held, fit), (held, held_out)):
            for inputs, wanted in chunks(site.small, mine.inputs[chosen], targets[chosen], drawn, walks.positions):
                equations.add(inputs, wanted)
    return fit, held_out


def _targets(site: Site, mine: Reading, theirs: Reading) -> Tensor:
    axis = theirs.result.dim() - 1 if isinstance(site.small, nn.Linear) else 1
    wanted = theirs.result.index_select(axis, site.outputs)
    if theirs.added is not None and mine.added is not None:
        wanted = wanted + (theirs.added.index_select(axis, site.outputs) - mine.added)
    return wanted


def chunks(
    layer: nn.Module, inputs: Tensor, targets: Tensor, drawn: torch.Generator, most: int = POSITIONS
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield patches and targets of a few images at a time, at a random choice of at most so many positions of each."""
    if not len(inputs):
        return
    linear = isinstance(layer, nn.Linear)
    rows = targets.reshape(len(targets), -1, targets.shape[-1]) if linear else targets.flatten(2).transpose(1, 2)
    positions = rows.shape[1]
    features = _weight(layer)[0].numel() * _groups(layer)
    size = max(1, _CHUNK_VALUES // (features * min(positions, most)))
    for first in range(0, len(inputs), size):
        some, wanted = inputs[first : first + size], rows[first : first + size]
        places = some_positions(positions, most, drawn, rows.device)
        wanted = wanted if places is None else wanted[:, places]
        yield patches(layer, some, places), _grouped(wanted.flatten(0, 1).T, _groups(layer))


def best_solution(
    site: Site, fit: NormalEquations, held_out: NormalEquations, rows: Tensor | None = None
) -> Solution | None:
    """Return the solution with the ridge that does best on held-out images, ``None`` where the cut weights do.

    Args:
        site: The layer.
        fit: Of the images that fit.
        held_out: Of those that choose the ridge.
        rows: Which features of the layer the equations are of, by default all.
    """
    scale, shift = norm_scale_of(site), norm_shift_of(site)
    start = as_matrix(site.small) * scale[:, None, :]
    start = start if rows is None else start[:, rows]
    as_cut = Solution(start, shift)
    if not fit.count or not held_out.count:
        return (fit + held_out).solve(start, _USUAL_RIDGE, constant=site.has_constant())
    problem = fit.about(start, constant=site.has_constant())

    @cache
    def error(ridge: float) -> float:
        return held_out.error(problem.solve(ridge))

    ridge = min(downhill(RIDGES, error), float("inf"), key=error)
    if not error(ridge) < held_out.error(as_cut):
        return None
    return (fit + held_out).solve(start, ridge, constant=site.has_constant())


def downhill(values: Sequence[float], error: Callable[[float], float]) -> float:
    """Return the value of the least error that is reached from the middle one, going on while it falls.

    Each ridge costs a factorisation; the error has one valley over them, and some five of eight are enough to find it.
    """
    at = len(values) // 2
    for step in (-1, 1):
        while 0 <= at + step < len(values) and error(values[at + step]) < error(values[at]):
            at += step
    return values[at]


def norm_scale_of(site: Site) -> Tensor:
    """Return what the norm multiplies each output by, ``(g, O)`` float64."""
    ones = torch.ones(len(site.outputs), dtype=torch.float64, device=site.outputs.device)
    return _grouped(ones if site.norm is None else norm_scale(site.norm), _groups(site.small))


def norm_shift_of(site: Site) -> Tensor:
    """Return what norm and bias add to each output together, ``(g, O)`` float64."""
    bias = getattr(site.small, "bias", None)
    shift = torch.zeros(len(site.outputs), dtype=torch.float64, device=site.outputs.device)
    if bias is not None:
        shift = shift + bias.double()
    if site.norm is not None:
        assert site.norm.running_mean is not None
        shift = (shift - site.norm.running_mean.double()) * norm_scale(site.norm)
        shift = shift if site.norm.bias is None else shift + site.norm.bias.double()
    return _grouped(shift, _groups(site.small))


def norm_scale(norm: _BatchNorm) -> Tensor:
    """Return what a batch norm in eval mode multiplies each channel by, ``(C,)`` float64."""
    assert norm.running_var is not None
    root = (norm.running_var.double() + norm.eps).rsqrt()
    return root if norm.weight is None else root * norm.weight.double()


def write_solution(site: Site, found: Solution | None) -> None:
    """Put a solution into the layer and its norm."""
    if found is None:
        return
    if site.norm is not None:
        _lift_small_scales(site.norm)
    scale = norm_scale_of(site)
    weight, bias = _weight(site.small), getattr(site.small, "bias", None)
    matrix = (found.weights / scale[:, None, :]).to(weight.dtype)
    if not (torch.isfinite(matrix).all() and torch.isfinite(found.constant).all()):
        raise InputError(f"layer '{site.name}' cannot be repaired: its feature maps are not finite")
    weight.copy_(matrix.mT.reshape(weight.shape))
    if not site.has_constant():
        return
    missing = (found.constant - norm_shift_of(site)).flatten()
    if site.norm is not None and site.norm.bias is not None:
        site.norm.bias.add_(missing)
    elif bias is not None:
        bias.add_(missing / scale.flatten())


def _lift_small_scales(norm: _BatchNorm) -> None:
    """Give outputs that a norm all but switches off the usual scale: their new weights are divided by it."""
    if norm.weight is None:
        return
    scale = norm_scale(norm).abs()
    usual = scale.median().item() or 1.0
    off = scale < _SMALL_SCALE * usual
    if off.any():
        assert norm.running_var is not None
        lifted = usual * (norm.running_var.double() + norm.eps).sqrt()
        norm.weight.copy_(torch.where(off, lifted, norm.weight.double()))


def _repair(pair: Pair, progress: Progress) -> nn.Module:
    return least_squares(pair, progress)


register(RepairInfo("least-squares", _repair, "every layer behind the cut refitted to the original, front to back"))
