"""Alternating least squares for two consecutive convolutions with a ReLU between them.

The second layer is refitted by least squares, then the first is updated to reduce the remaining error. Plain least
squares fits the first layer to the maps of the original; other maps may suit the narrower couple better. Let E be the
target of the second layer minus its output. This change of the maps between the layers reduces the error the most::

    R = (second layer transposed)(E) where the map is positive, 0 elsewhere

A change of the first layer's weights that produces R on the images is found by least squares. With the ReLU pattern
fixed the couple is linear, so the step size has a closed form: ``a = <E, dy> / <dy, dy>``, where dy is the resulting
change after the second layer. From the second round on the direction is conjugate to the previous one. The method uses
no labels, no learning rate and no back-propagation through the network. Unlike plain least squares it does use the
derivative of one ReLU in each couple.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from infoprune.data.batches import every_nth
from infoprune.network.equivalence import duplicate
from infoprune.network.layer_io import Reading, read_all, tensors_in
from infoprune.options import RepairOptions
from infoprune.progress import Progress
from infoprune.regression.layer_fit import (
    HELD_OUT_EVERY,
    Site,
    Targets,
    add_positions,
    best_solution,
    norm_scale_of,
    norm_shift_of,
    positions_of,
    write_solution,
)
from infoprune.regression.patches import as_matrix, from_matrix
from infoprune.regression.products import Products
from infoprune.repair.base import Pair, RepairInfo, register
from infoprune.repair.repeated_layer import refit_in_order
from infoprune.repair.walks import MEMORY, Walks, refit
from infoprune.runs.together import current

ROUNDS = RepairOptions.rounds
# Rounds without a lower error on held-out images, after which a couple is finished.
_PATIENCE = 3
_RIDGE = 1e-2
# Positions of the maps of a couple that are kept in memory.
_POSITIONS = 1 << 19
# Memory for the maps of a couple, inputs and targets, in bytes.
_HELD = 1 << 30


@dataclass
class _Maps:
    """Inputs and targets of a layer for the first images, up to a limit of memory and of positions.

    ``sizes`` are the numbers of images of all batches. The limit counts positions: a layer with small maps needs more
    images than one with large maps.
    """

    sizes: tuple[int, ...]
    room: int = _HELD
    positions: int = _POSITIONS
    inputs: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    fed: list[Tensor] = field(default_factory=list)
    _own: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(self, number: int, reading: Reading, targets: Targets) -> None:
        """Add the batch of that number, in the order of all processes."""
        self.fed.append(reading.inputs)
        inputs, wanted = reading.inputs, targets.terms[0][0]
        each = 4 * (inputs[0].numel() + 4 * reading.result[0].numel())
        positions, before = wanted[0, 0].numel(), sum(self.sizes[:number])
        count = min(len(inputs), self.room // each - before, self.positions // positions - before)
        if count > 0 or not number:
            count = max(count, HELD_OUT_EVERY)
            self._own[number] = inputs[:count].clone(), targets.whole()[:count]

    def bring_together(self) -> None:
        """Bring what all processes hold to the first one, in the order of the batches."""
        self.inputs = current().gathered({number: inputs for number, (inputs, _) in self._own.items()}, 0)
        self.targets = current().gathered({number: targets for number, (_, targets) in self._own.items()}, 0)
        self._own = {}


@torch.no_grad()
def alternating(pair: Pair, progress: Progress, *, rounds: int = ROUNDS, memory: int = MEMORY) -> nn.Module:
    """Return a copy of the pruned network whose layers from the first cut on are refitted, couples alternately.

    Args:
        pair: The networks and the images, which are read once, and once more for each layer that runs several times.
        progress: Called after every layer.
        rounds: Largest number of updates of the first layer of a couple. The round with the lowest error on every
            fifth image is kept; the plain least squares solution is round 0.
        memory: Bytes of feature maps that are kept in memory between layers; the rest is written to files. The maps of
            couples take up to 1 GiB more.

    Example:
        >>> import infoprune
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> pair = Pair.of(whole, plan, [images])
        >>> from infoprune.progress import silent
        >>> alternating(pair, silent, rounds=2).features[0].out_channels == pair.small.features[0].out_channels
        True
    """
    small = duplicate(pair.small)

    def walked(layers: list[str], step: Callable[[], None]) -> None:
        with Walks.of(pair, small, layers, memory) as walks:
            _refit_in_couples(walks, small, rounds, step)

    refit_in_order(pair, small, "alternating least squares", progress, walked)
    return small


def _refit_in_couples(walks: Walks, small: nn.Module, rounds: int, step: Callable[[], None]) -> None:
    """Refit the layers of the walks, and both layers of each couple alternately."""
    first_of = _couples(small, walks.sites, next(walks.pair.images())[:2])
    held: dict[str, tuple[Site, _Maps]] = {}
    for site in walks.sites:
        maps = _Maps(walks.sizes) if site.name in first_of or site.name in first_of.values() else None
        refit(walks, site, maps)
        if maps is not None:
            maps.bring_together()
        begun = held.get(first_of.get(site.name, ""))
        walks.small.before_next(None)
        if maps is not None and begun is not None:
            _improve(walks, begun, site, maps, rounds)
        if maps is not None:
            held = {site.name: (site, maps)}
        step()


def _improve(walks: Walks, begun: tuple[Site, _Maps], site: Site, maps: _Maps, rounds: int) -> None:
    """Improve a couple, in the first process, and continue the passes with the new output of its first layer."""
    first, before = begun
    processes, state = current(), [*_Layer(first).state(), *_Layer(site).state()]
    unchanged = [tensor.clone() for tensor in _Layer(first).state()]
    if processes.is_first:
        images = min(sum(map(len, before.inputs)), sum(map(len, maps.targets)))
        inputs, targets = (_together(some, images) for some in (before.inputs, maps.targets))
        _alternate(first, site, inputs, targets, rounds)
        before.inputs = [inputs]
    for mine, found in zip(state, processes.agreed(state), strict=True):
        mine.copy_(found)
    if all(torch.equal(a, b) for a, b in zip(unchanged, _Layer(first).state(), strict=True)):
        return
    maps.inputs = [_Layer(first)(inputs).relu() for inputs in before.inputs]
    fed = before.fed

    def change(number: int, reading: Reading) -> None:
        reading.inputs.copy_(_Layer(first)(fed[number]).relu())

    walks.small.before_next(change)


def _together(maps: list[Tensor], images: int) -> Tensor:
    """Return the maps of the first images in the memory format that is fastest for convolutions."""
    return torch.cat(maps)[:images].contiguous(memory_format=torch.channels_last)


def _couples(small: nn.Module, sites: Sequence[Site], images: Tensor) -> dict[str, str]:
    """Return, by second layer, the first one: its output after a ReLU is the whole input of the second."""
    readings = read_all(small, [site.name for site in sites], images)
    found = {}
    for first, second in pairwise(sites):
        if _is_plain(first) and _is_plain(second):
            returned, fed = readings[first.name].result.relu(), readings[second.name].inputs
            if returned.shape == fed.shape and torch.allclose(returned, fed):
                found[second.name] = first.name
    if found and not _can_be_put_in(small, found, images):
        return {second: first for second, first in found.items() if _can_be_put_in(small, {second: first}, images)}
    return found


def _is_plain(site: Site) -> bool:
    return isinstance(site.small, nn.Conv2d) and site.window is not None and site.window.groups == 1


def _can_be_put_in(small: nn.Module, first_of: dict[str, str], images: Tensor) -> bool:
    """Return whether changing the first layers equals changing the inputs of the second layers.

    It does not where another operation uses its own copy of a first layer's output, before or after the ReLU.
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
    held = every_nth(len(inputs), 0, HELD_OUT_EVERY)
    if held.all() or not held.any():
        return
    # Held-out images come last, so that the others are a part without a copy.
    order = torch.cat([(~held).nonzero().flatten(), held.nonzero().flatten()]).to(inputs.device)
    inputs, targets = (some[order].contiguous(memory_format=torch.channels_last) for some in (inputs, targets))
    fits = int((~held).sum())
    descent = _Descent(_Solver(first, inputs[:fits]))
    state = [*a.state(), *b.state()]
    best, least, found_at = copy.deepcopy(state), float("inf"), 0
    between, ridge = a(inputs), None
    for number in range(rounds + 1):
        maps = between.relu()
        if number:
            ridge = _refit(second, maps, targets, fits, ridge)
        missing = targets - b(maps)
        error = float(missing[fits:].double().square().mean())
        if error < least:
            best, least, found_at = copy.deepcopy(state), error, number
        if number == rounds or number - found_at >= _PATIENCE:
            break
        between += _step(a, b, inputs, missing[:fits], between > 0, descent)
    for tensor, value in zip(state, best, strict=True):
        tensor.copy_(value)


def _refit(second: Site, maps: Tensor, targets: Tensor, fits: int, ridge: float | None) -> float | None:
    """Refit the second layer and return the ridge, which is searched for where it is ``None``."""
    groups, features, outputs = as_matrix(second.small).shape
    fit, held_out = (Products(groups, features, outputs, maps.device) for _ in range(2))
    drawn = torch.Generator().manual_seed(0)
    wanted = Targets([(targets, 1, None)], linear=False)
    images = torch.arange(len(maps), device=maps.device)
    for some, products in ((images[:fits], fit), (images[fits:], held_out)):
        add_positions(products, second.window, maps, wanted, some, drawn, positions_of(len(maps)))
    if ridge is None:
        found = best_solution(second, fit.equations(), held_out.equations())
    else:
        start = as_matrix(second.small) * norm_scale_of(second)[:, None, :]
        found = (fit.equations() + held_out.equations()).solve(start, ridge, constant=second.has_constant())
    write_solution(second, found)
    return found.ridge if found is not None and found.ridge < float("inf") else None


def _step(a: _Layer, b: _Layer, inputs: Tensor, missing: Tensor, passes: Tensor, descent: _Descent) -> Tensor:
    """Update the first layer to reduce the error of the first images, and return the change of what it returns."""
    open_ = passes[: len(missing)]
    wanted = conv2d_input(list(open_.shape), b.weight, missing, **b.places).mul_(open_)  # type: ignore[no-untyped-call]
    weight, constant = descent.along(wanted)
    change = F.conv2d(inputs, weight, constant, **a.places)
    effect = F.conv2d(change[: len(missing)] * open_, b.weight, None, **b.places)
    size = _product(missing, effect) / max(_product(effect, effect), 1e-30)
    scale = norm_scale_of(a.site)[0].to(weight.dtype)
    layer = a.site.small
    assert isinstance(layer, nn.Conv2d)
    layer.weight.data.add_(weight / scale[:, None, None, None], alpha=size)
    if a.site.norm is not None and a.site.norm.bias is not None:
        a.site.norm.bias.data.add_(constant, alpha=size)
    elif layer.bias is not None:
        layer.bias.data.add_(constant / scale, alpha=size)
    return change.mul_(size)


def _product(a: Tensor, b: Tensor) -> float:
    """Return the inner product of two maps, image by image in single precision, then in double."""
    a, b = (maps.movedim(1, -1).flatten(1).float() for maps in (a, b))
    return float(torch.linalg.vecdot(a, b).double().sum())


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
        drawn = torch.Generator().manual_seed(0)
        add_positions(products, site.window, inputs, None, images, drawn, positions_of(len(inputs)))
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
        """Return ``(O, F + 1)``: the least squares weights, and the constant at the mean, for these moments."""
        return torch.cat([torch.cholesky_solve(moments[:, :-1].mT, self.factor).mT, moments[:, -1:]], dim=1)


@dataclass(frozen=True)
class _Round:
    """The wanted change in a round, its least squares solution and the direction taken; all ``(O, F + 1)``."""

    moments: Tensor
    nearest: Tensor
    direction: Tensor


@dataclass
class _Descent:
    """Conjugate directions (Polak and Ribiere 1969, never backwards) in which a first layer changes, round by round."""

    solver: _Solver
    last: _Round | None = None

    def along(self, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Return the direction of weights and constants for a wanted change of the maps."""
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


register(
    RepairInfo(
        "alternating",
        lambda pair, progress: alternating(pair, progress, rounds=pair.options.rounds),
        "least squares, and in turn for the layers of each couple of convolutions with a ReLU between them",
        reads=("rounds",),
    )
)
