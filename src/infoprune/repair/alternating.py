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
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from infoprune.network.equivalence import duplicate
from infoprune.network.layer_io import Reading, read_all, tensors_in
from infoprune.progress import Progress
from infoprune.regression.layer_fit import (
    HELD_OUT_EVERY,
    Site,
    Targets,
    add_positions,
    best_solution,
    norm_scale_of,
    norm_shift_of,
    write_solution,
)
from infoprune.regression.patches import as_matrix, from_matrix
from infoprune.regression.products import Products
from infoprune.repair.base import Pair, RepairInfo, register
from infoprune.repair.combined import normed_if_nearer
from infoprune.repair.least_squares import MEMORY, Walks, layers_to_refit, refit

ROUNDS = 12
# Rounds in which held-out images come no nearer, after which a couple is left.
_PATIENCE = 3
_RIDGE = 1e-2
# Positions of the maps of a couple that are held.
_POSITIONS = 1 << 19
# Maps that are held between the layers of a couple, inputs and targets, in bytes.
_HELD = 1 << 30


@dataclass
class _Maps:
    """What a layer is fed and what it should give, of the first images, as many as fit and as are of use.

    A few hundred images of a large map have more positions than two small layers have weights: a small map needs more.
    """

    room: int = _HELD
    positions: int = _POSITIONS
    inputs: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    fed: list[Tensor] = field(default_factory=list)

    def __call__(self, reading: Reading, targets: Targets) -> None:
        """Take in a batch."""
        self.fed.append(reading.inputs)
        inputs, wanted = reading.inputs, targets.terms[0][0]
        each = 4 * (inputs[0].numel() + 4 * reading.result[0].numel())
        positions = wanted[0, 0].numel()
        count = min(len(inputs), self.room // each, self.positions // positions)
        if count > 0 or not self.inputs:
            count = max(count, HELD_OUT_EVERY)
            self.inputs.append(inputs[:count].clone())
            self.targets.append(targets.whole()[:count])
        self.room, self.positions = self.room - len(inputs) * each, self.positions - len(inputs) * positions


@torch.no_grad()
def alternating(pair: Pair, progress: Progress, *, rounds: int = ROUNDS, memory: int = MEMORY) -> nn.Module:
    """Return a copy of the pruned network whose layers behind the cut are refitted, couples of layers alternately.

    Args:
        pair: The networks and the images, which are read once.
        progress: Told after every layer.
        rounds: Times the first layer of a couple is changed at most; every fifth image says which was the best, the
            plain least squares before the first among them.
        memory: Bytes of feature maps that stay in memory between layers, more of them are put into files; those of
            couples take up to 1 GiB more.
    """
    small = duplicate(pair.small)
    with Walks.of(pair, small, layers_to_refit(pair, small, every=True), memory) as walks:
        first_of = _couples(small, walks.sites, next(pair.images())[:2])
        held: dict[str, tuple[Site, _Maps]] = {}
        for done, site in enumerate(walks.sites, 1):
            maps = _Maps() if site.name in first_of or site.name in first_of.values() else None
            refit(walks, site, maps)
            begun = held.get(first_of.get(site.name, ""))
            walks.small.before_next(None)
            if maps is not None and begun is not None:
                _improve(walks, begun, site, maps, rounds)
            if maps is not None:
                held = {site.name: (site, maps)}
            progress("alternating least squares", done, len(walks.sites))
    return small


def _improve(walks: Walks, begun: tuple[Site, _Maps], site: Site, maps: _Maps, rounds: int) -> None:
    """Improve a couple, and let the passes go on with what its first layer now feeds the second."""
    first, before = begun
    images = min(sum(map(len, before.inputs)), sum(map(len, maps.targets)))
    inputs, targets = (_together(some, images) for some in (before.inputs, maps.targets))
    unchanged = [tensor.clone() for tensor in _Layer(first).state()]
    _alternate(first, site, inputs, targets, rounds)
    if all(torch.equal(a, b) for a, b in zip(unchanged, _Layer(first).state(), strict=True)):
        return
    maps.inputs = [_Layer(first)(inputs).relu()]
    fed = before.fed

    def change(number: int, reading: Reading) -> None:
        reading.inputs.copy_(_Layer(first)(fed[number]).relu())

    walks.small.before_next(change)


def _together(maps: list[Tensor], images: int) -> Tensor:
    """Return the maps of the first images, as convolutions are fastest with."""
    return torch.cat(maps)[:images].contiguous(memory_format=torch.channels_last)


def _couples(small: nn.Module, sites: Sequence[Site], images: Tensor) -> dict[str, str]:
    """Return, by second layer, the first one: what it returns is, behind a ReLU, all that the second is fed."""
    readings = read_all(small, [site.name for site in sites], images)
    found = {}
    for first, second in pairwise(sites):
        if _is_plain(first) and _is_plain(second):
            given, fed = readings[first.name].result.relu(), readings[second.name].inputs
            if given.shape == fed.shape and torch.allclose(given, fed):
                found[second.name] = first.name
    if found and not _can_be_put_in(small, found, images):
        return {second: first for second, first in found.items() if _can_be_put_in(small, {second: first}, images)}
    return found


def _is_plain(site: Site) -> bool:
    return isinstance(site.small, nn.Conv2d) and site.window is not None and site.window.groups == 1


def _can_be_put_in(small: nn.Module, first_of: dict[str, str], images: Tensor) -> bool:
    """Return whether a change of first layers is the same as one of the maps that the second layers are fed.

    It is not where something else uses what a first layer returns, before or after its ReLU, as a copy of its own.
    """
    changed, fed = duplicate(small), {}
    for first in first_of.values():
        weight = changed.get_submodule(first).weight
        assert isinstance(weight, Tensor)
        weight.mul_(1 + 0.1 * torch.arange(len(weight), device=weight.device).reshape(-1, 1, 1, 1) / len(weight))

    def note(layer: str) -> Any:
        return lambda module, arguments: fed.update({layer: arguments[0].clone()})

    def put_in(layer: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            arguments[0].copy_(fed[layer])

        return hook

    with ExitStack() as hooks:
        for second in first_of:
            hooks.callback(changed.get_submodule(second).register_forward_pre_hook(note(second)).remove)
        wanted = changed(images)
    with ExitStack() as hooks:
        for second in first_of:
            hooks.callback(small.get_submodule(second).register_forward_pre_hook(put_in(second)).remove)
        found = small(images)
    pairs = zip(tensors_in(wanted), tensors_in(found), strict=True)
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)


@dataclass
class _Layer:
    """A convolution and what follows it as one affine map, in the precision of its weights."""

    site: Site

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self.site.small.weight  # type: ignore[assignment]
        return (weight.double() * norm_scale_of(self.site)[0][:, None, None, None]).to(weight.dtype)

    @property
    def shift(self) -> Tensor:
        return norm_shift_of(self.site)[0]

    @property
    def places(self) -> dict[str, Any]:
        window = self.site.window
        assert window is not None
        return {"stride": window.stride, "padding": window.padding, "dilation": window.dilation}

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
    groups, features, outputs = as_matrix(second.small).shape
    fit, held_out = (Products(groups, features, outputs, maps.device) for _ in range(2))
    drawn = torch.Generator().manual_seed(0)
    wanted = Targets([(targets, 1, None)], linear=False)
    for chosen, products in ((fits, fit), (~fits, held_out)):
        add_positions(products, second.window, maps, wanted, chosen.nonzero().flatten(), drawn)
    write_solution(second, best_solution(second, fit.equations(), held_out.equations()))


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
        products = Products(1, as_matrix(layer).shape[1], 0, inputs.device)
        images = torch.arange(len(inputs), device=inputs.device)
        add_positions(products, site.window, inputs, None, images, torch.Generator().manual_seed(0))
        equations = products.equations()
        self.centred = site.has_constant()
        self.mean = equations.features[0] / max(1, equations.count)
        gram = equations.moments(centred=self.centred)[0]
        ridge = (_RIDGE * gram.diagonal().mean()).clamp_min(torch.finfo(torch.float64).tiny ** 0.25)
        self.factor = torch.linalg.cholesky(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))

    def moments(self, wanted: Tensor) -> Tensor:
        """Return ``(O, F + 1)``: the products of features about their means, and of 1, with ``(n, O, H, W)`` maps."""
        count = wanted.numel() // wanted.shape[1]
        cross = conv2d_weight(self.inputs, self.shape, wanted, **_Layer(self.site).places)  # type: ignore[no-untyped-call]
        cross = cross.movedim(1, -1).flatten(1).double() / count
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
        return from_matrix(weights.mT[None], self.solver.site.small).to(wanted.dtype), constant.to(wanted.dtype)


def _repair(pair: Pair, progress: Progress) -> nn.Module:
    return normed_if_nearer(pair, alternating(pair, progress), progress)


register(
    RepairInfo(
        "alternating",
        _repair,
        "least squares, couples of layers with a ReLU between them in turns; then batch norm likewise",
    )
)
