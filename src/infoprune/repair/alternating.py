"""Two layers with a ReLU between them, fitted in turns: the second by least squares, the first by what it leaves.

After a cut the first layer of such a couple gives the maps that the original gave, as far as they are still there; what
the narrower couple could do best with is something else. Let E be what is missing of the target behind the second
layer. The change of the maps between them that would help the most where the ReLU lets it through is ::

    R = (second layer transposed)(E) where the map is positive, 0 elsewhere

and the weights of the first layer that come nearest to giving R on the images are found by least squares. How far to
go along them has a closed form too, for then the couple is linear: ``a = <E, dy> / <dy, dy>``, with dy what they change
behind the second layer. From the second round on the direction is conjugate to the one before. There are no labels, no
learning rate, and nothing is propagated through the network; but it is a step downhill for one couple, with the slope
of one ReLU, which plain least squares does without.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from infoprune.network.equivalence import duplicate
from infoprune.network.layer_io import read
from infoprune.network.replay import Place
from infoprune.progress import Progress
from infoprune.regression.normal_equations import NormalEquations
from infoprune.repair.base import Pair, RepairInfo, register
from infoprune.repair.combined import normed_if_nearer
from infoprune.repair.least_squares import (
    ALL_POSITIONS,
    HELD_OUT_EVERY,
    MEMORY,
    Site,
    Walks,
    as_matrix,
    best_solution,
    chunks,
    layers_to_refit,
    moments_of,
    norm_scale_of,
    norm_shift_of,
    site_of,
    write_solution,
)

ROUNDS = 12
# Rounds in which held-out images come no nearer, after which a couple is left.
_PATIENCE = 3
_RIDGE = 1e-2
# Maps that are held between the layers of a couple, inputs and targets, in bytes.
_HELD = 1 << 30


@dataclass
class _Maps:
    """What a layer is fed and what it should give, of the first images, as many as fit and as are of use.

    A few hundred images of a large map have more positions than two small layers have weights: a small map needs more.
    """

    room: int = _HELD
    positions: int = ALL_POSITIONS
    inputs: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)

    def __call__(self, inputs: Tensor, targets: Tensor) -> None:
        each = 4 * (inputs[0].numel() + 4 * targets[0].numel())
        positions = targets[0, 0].numel()
        count = min(len(inputs), self.room // each, self.positions // positions)
        if count > 0 or not self.inputs:
            count = max(count, HELD_OUT_EVERY)
            self.inputs.append(inputs[:count])
            self.targets.append(targets[:count])
        self.room, self.positions = self.room - len(inputs) * each, self.positions - len(inputs) * positions


@dataclass(frozen=True)
class _Begun:
    """The first layer of a couple, before its second is known."""

    site: Site
    inputs: list[Tensor]
    place: Place


@torch.no_grad()
def alternating(pair: Pair, progress: Progress, *, rounds: int = ROUNDS, memory: int = MEMORY) -> nn.Module:
    """Return a copy of the pruned network whose layers behind the cut are refitted, couples of layers in turns.

    Args:
        pair: The networks and the images.
        progress: Told after every layer.
        rounds: Times the first layer of a couple is changed at most; every fifth image says which was the best, the
            plain least squares before the first among them.
        memory: Bytes of feature maps that may be kept between layers; those of couples take up to 1 GiB more.
    """
    small = duplicate(pair.small)
    layers = layers_to_refit(pair, small, every=True)
    first_of = _couples(small, layers, next(pair.images())[:2])
    walks = Walks.of(pair, small, memory)
    held: dict[str, _Begun] = {}
    for done, layer in enumerate(layers, 1):
        site = site_of(pair, small, layer)
        if site is not None:
            maps = _Maps() if layer in first_of or layer in first_of.values() else None
            write_solution(site, best_solution(site, *moments_of(walks, site, maps)))
            begun = held.get(first_of.get(layer, ""))
            if maps is not None and begun is not None:
                images = min(sum(map(len, begun.inputs)), sum(map(len, maps.targets)))
                inputs, targets = (_together(some, images) for some in (begun.inputs, maps.targets))
                _alternate(begun.site, site, inputs, targets, rounds)
                walks.small.go_back(begun.place)
                # Where this layer is the first of the next couple, it is fed something else now.
                maps.inputs = [_Layer(begun.site)(inputs).relu()]
            if maps is not None:
                held = {layer: _Begun(site, maps.inputs, walks.small.place())}
        progress("least squares in turns", done, len(layers))
    return small


def _together(maps: list[Tensor], images: int) -> Tensor:
    """Return the maps of the first images, as convolutions are fastest with."""
    return torch.cat(maps)[:images].contiguous(memory_format=torch.channels_last)


def _couples(small: nn.Module, layers: list[str], images: Tensor) -> dict[str, str]:
    """Return, by second layer, the first one: what it gives is, behind a ReLU, all that the second is fed."""
    plain = [layer for layer in layers if _is_plain(small.get_submodule(layer))]
    found = {}
    for first, second in pairwise(layers):
        if first in plain and second in plain:
            given, fed = read(small, first, images).result.relu(), read(small, second, images).inputs
            if given.shape == fed.shape and torch.allclose(given, fed):
                found[second] = first
    return found


def _is_plain(layer: nn.Module) -> bool:
    plain = isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros"
    return plain and not isinstance(layer.padding, str)


@dataclass
class _Layer:
    """A convolution and what follows it as one affine map, in the precision of its weights."""

    site: Site

    @property
    def weight(self) -> Tensor:
        weight = as_matrix(self.site.small)[0] * norm_scale_of(self.site)
        return weight.mT.reshape(self.site.small.weight.shape).to(self.site.small.weight.dtype)  # type: ignore[operator, arg-type, union-attr]

    @property
    def shift(self) -> Tensor:
        return norm_shift_of(self.site)[0]

    @property
    def places(self) -> dict[str, Any]:
        layer = self.site.small
        assert isinstance(layer, nn.Conv2d)
        return {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}

    def __call__(self, inputs: Tensor) -> Tensor:
        return F.conv2d(inputs, self.weight, self.shift.to(inputs.dtype), **self.places)

    def state(self) -> list[Tensor]:
        norm = self.site.norm
        owners = [self.site.small] if norm is None else [self.site.small, norm]
        return [tensor.data for owner in owners for tensor in owner.parameters()]


def _alternate(first: Site, second: Site, inputs: Tensor, targets: Tensor, rounds: int) -> None:
    """Improve a couple in place."""
    a, b = _Layer(first), _Layer(second)
    fits = torch.arange(len(inputs), device=inputs.device) % HELD_OUT_EVERY != HELD_OUT_EVERY - 1
    if fits.all() or not fits.any():
        return
    descent = _Descent(_Solver(first, inputs[fits]))
    state = [*a.state(), *b.state()]
    best, least, found_at = copy.deepcopy(state), float("inf"), 0
    for number in range(rounds + 1):
        between = a(inputs)
        maps = between.relu()
        if number:
            _refit(second, maps, targets, fits)
        missing = targets - b(maps)
        error = float(missing[~fits].double().square().mean())
        if error < least:
            best, least, found_at = copy.deepcopy(state), error, number
        if number == rounds or number - found_at >= _PATIENCE:
            break
        _step(a, b, inputs, missing, between > 0, fits, descent)
    for tensor, value in zip(state, best, strict=True):
        tensor.copy_(value)


def _refit(second: Site, maps: Tensor, targets: Tensor, fits: Tensor) -> None:
    start = as_matrix(second.small)
    fit, held_out = NormalEquations.of(start), NormalEquations.of(start)
    drawn = torch.Generator().manual_seed(0)
    for chosen, equations in ((fits, fit), (~fits, held_out)):
        for some, wanted in chunks(second.small, maps[chosen], targets[chosen], drawn):
            equations.add(some, wanted)
    write_solution(second, best_solution(second, fit, held_out))


def _step(
    a: _Layer, b: _Layer, inputs: Tensor, missing: Tensor, passes: Tensor, fits: Tensor, descent: _Descent
) -> None:
    """Change the first layer so that as much as can be of what is missing is no longer."""
    wanted = conv2d_input(list(passes.shape), b.weight, missing, **b.places) * passes  # type: ignore[no-untyped-call]
    weight, constant = descent.along(wanted[fits])
    change = F.conv2d(inputs, weight, constant, **a.places) * passes
    told = F.conv2d(change, b.weight, None, **b.places)
    size = float((missing * told)[fits].double().sum()) / max(float(told[fits].double().square().sum()), 1e-30)
    scale = norm_scale_of(a.site)[0].to(weight.dtype)
    layer = a.site.small
    assert isinstance(layer, nn.Conv2d)
    layer.weight.data.add_(weight / scale[:, None, None, None], alpha=size)
    if a.site.norm is not None and a.site.norm.bias is not None:
        a.site.norm.bias.data.add_(constant, alpha=size)
    elif layer.bias is not None:
        layer.bias.data.add_(constant / scale, alpha=size)


class _Solver:
    """Least squares from the inputs of a layer, whose second moments never change."""

    def __init__(self, site: Site, inputs: Tensor) -> None:
        layer = site.small
        assert isinstance(layer, nn.Conv2d)
        self.site = site
        self.inputs = inputs
        self.shape = list(layer.weight.shape)
        equations = NormalEquations.of(as_matrix(layer))
        like = inputs.new_zeros(())
        for first in range(0, len(inputs), 64):
            some = inputs[first : first + 64]
            empty = like.expand(F.conv2d(some, layer.weight, None, **_Layer(site).places).shape)
            for features, targets in chunks(layer, some, empty, torch.Generator().manual_seed(0)):
                equations.add(features, targets)
        self.centred = site.has_constant()
        self.mean = equations.features[0] / max(1, equations.count)
        gram = equations.moments(centred=self.centred)[0]
        ridge = (_RIDGE * gram.diagonal().mean()).clamp_min(torch.finfo(torch.float64).tiny ** 0.25)
        self.factor = torch.linalg.cholesky(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))

    def moments(self, wanted: Tensor) -> Tensor:
        """Return ``(O, F + 1)``: the products of features about their means, and of 1, with ``(n, O, H, W)`` maps."""
        count = wanted.numel() // wanted.shape[1]
        cross = conv2d_weight(self.inputs, self.shape, wanted, **_Layer(self.site).places)  # type: ignore[no-untyped-call]
        cross = cross.flatten(1).double() / count
        mean = wanted.double().mean(dim=(0, 2, 3))[:, None]
        return torch.cat([cross - mean * self.mean, mean] if self.centred else [cross, torch.zeros_like(mean)], dim=1)

    def towards(self, moments: Tensor) -> Tensor:
        """Return ``(O, F + 1)``: the weights, and the constant at the mean, that come nearest to such products."""
        return torch.cat([torch.cholesky_solve(moments[:, :-1].mT, self.factor).mT, moments[:, -1:]], dim=1)


@dataclass(frozen=True)
class _Round:
    """What was wanted in a round, what comes nearest to it, and which way it went; all ``(O, F + 1)``."""

    moments: Tensor
    nearest: Tensor
    direction: Tensor


@dataclass
class _Descent:
    """Conjugate directions (Polak and Ribiere 1969, never backwards) in which a first layer changes, round by round."""

    solver: _Solver
    last: _Round | None = None

    def along(self, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights and constants to go along, given the maps that would be wanted."""
        moments = self.solver.moments(wanted)
        nearest = direction = self.solver.towards(moments)
        if self.last is not None:
            before = float((self.last.nearest * self.last.moments).sum())
            share = float((nearest * (moments - self.last.moments)).sum()) / max(
                before, torch.finfo(torch.float64).tiny
            )
            direction = nearest + max(0.0, share) * self.last.direction
        self.last = _Round(moments, nearest, direction)
        weights, constant = direction[:, :-1], direction[:, -1]
        if self.solver.centred:
            constant = constant - weights @ self.solver.mean
        return weights.reshape(self.solver.shape).to(wanted.dtype), constant.to(wanted.dtype)


def _repair(pair: Pair, progress: Progress) -> nn.Module:
    return normed_if_nearer(pair, alternating(pair, progress), progress)


register(
    RepairInfo(
        "alternating",
        _repair,
        "least squares, couples of layers with a ReLU between them in turns; then batch norm likewise",
    )
)
