"""The layers of a chain, changed in turn with the last one: directions by least squares, steps in closed form."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from infoprune.data.batches import every_nth
from infoprune.regression.layer_fit import (
    HELD_OUT_EVERY,
    Site,
    Targets,
    add_positions,
    best_solution,
    norm_scale_of,
    positions_of,
    write_solution,
)
from infoprune.regression.normal_equations import NormalEquations
from infoprune.regression.patches import as_matrix, from_matrix, grouped, groups_of
from infoprune.regression.products import Products
from infoprune.repair.chains import Affine, Chain

# Two rounds that lower the error on held-out images by a smaller share than this are the last.
_LEAST_GAIN = 0.005
_RIDGE = 1e-2


@dataclass
class Sample:
    """What the first layer of a chain reads and the last should return; held-out images come last.

    Args:
        inputs: ``(n, C, H, W)``.
        targets: ``(n, O, H, W)``.
        fits: Number of images that are not held out.

    Example:
        >>> Sample.of([torch.rand(7, 1, 4, 4)], [torch.rand(6, 2, 4, 4)]).fits  # the fifth of six is held out
        5
    """

    inputs: Tensor
    targets: Tensor
    fits: int

    @classmethod
    def of(cls, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Sample:
        """Return the sample of the images that both have, in the memory format that is fastest for convolutions."""
        images = min(sum(map(len, inputs)), sum(map(len, targets)))
        held = every_nth(images, 0, HELD_OUT_EVERY)
        # The images that fit are a part without a copy.
        places = torch.where(held, held.cumsum(0) + (~held).sum(), (~held).cumsum(0)) - 1
        return cls(_placed(inputs, places), _placed(targets, places), int((~held).sum()))


def alternate(chain: Chain, sample: Sample, rounds: int, equations: Sequence[NormalEquations]) -> None:
    """Improve a chain in place; the round with the lowest error on every fifth image is kept.

    Args:
        chain: Its last layer is fitted to the targets already.
        sample: Inputs and targets.
        rounds: Largest number of updates.
        equations: Of every layer but the last, from what it read when it was fitted.

    Example:
        >>> chain, images = Chain((), ()), torch.rand(1, 1, 4, 4)
        >>> alternate(chain, Sample.of([images], [images]), rounds=2, equations=[])  # none is held out: nothing is done
    """
    inputs, targets, fits = sample.inputs, sample.targets, sample.fits
    if fits in (0, len(inputs)):
        return
    last = Affine(chain.sites[-1])
    # What a layer reads changes little from round to round, and a step is exact in any direction.
    descents = [_Descent(_Solver(*both)) for both in zip(chain.sites[:-1], equations, strict=True)]
    state = chain.state()
    best, least = copy.deepcopy(state), [float("inf")] * 2
    maps, ridge = _Run.of(chain, inputs), None
    for number in range(rounds + 1):
        if number:
            ridge = _refit(chain.sites[-1], maps.read[-1], targets, fits, ridge)
        missing = targets - last(maps.read[-1])
        error = float(missing[fits:].double().square().mean())
        if error < least[-1]:
            best = copy.deepcopy(state)
        least.append(min(error, least[-1]))
        if number == rounds or least[-1] > (1 - _LEAST_GAIN) * least[-3]:
            break
        _step(chain, maps, missing[:fits], descents)
    for tensor, value in zip(state, best, strict=True):
        tensor.copy_(value)


def _placed(maps: Sequence[Tensor], places: Tensor) -> Tensor:
    """Return the first images, each in its place; all together they are copied once."""
    start, first = maps[0], 0
    found = torch.empty((len(places), *start.shape[1:]), dtype=start.dtype, device=start.device,
                        memory_format=torch.channels_last)  # fmt: skip
    for some in maps:
        here = places[first : first + len(some)].to(start.device)
        found[here] = some[: len(here)]
        first += len(some)
    return found


@dataclass
class _Run:
    """What every layer of a chain reads, and what all but the last return."""

    read: list[Tensor]
    returned: list[Tensor]

    @classmethod
    def of(cls, chain: Chain, inputs: Tensor) -> _Run:
        found = cls([inputs], [chain.layers[0](inputs)])
        found._follow(chain)
        return found

    def go_on(self, chain: Chain, change: Tensor) -> None:
        """Add a change to what the first layer returns, and compute what follows."""
        del self.read[1:], self.returned[1:]
        self.returned[0] += change
        self._follow(chain)

    def _follow(self, chain: Chain) -> None:
        for layer, link in zip(chain.layers[1:], chain.links, strict=True):
            self.read.append(link(self.returned[-1]))
            if len(self.read) < len(chain.sites):
                self.returned.append(layer(self.read[-1]))


def _step(chain: Chain, maps: _Run, missing: Tensor, descents: list[_Descent]) -> None:
    """Update all layers but the last to reduce the error of the first images, and what the layers read."""
    count, layers, links = len(missing), chain.layers, chain.links
    slopes = [link.slope(returned[:count]) for link, returned in zip(links, maps.returned, strict=True)]
    wanted, back = list[Tensor](), missing
    for after, link, slope, read in zip(layers[:0:-1], links[::-1], slopes[::-1], maps.read[:0:-1], strict=True):
        back = link.back(after.transposed(back, read.shape[2:]), slope)
        wanted.insert(0, back)
    # Each is freed once its direction is known.
    directions = [descent.along(read[:count], wanted.pop(0))
                  for descent, read in zip(descents, maps.read, strict=False)]  # fmt: skip
    # What the first layer reads stays, so that this is the whole change of what it returns.
    first, effects = F.conv2d(maps.read[0], *directions[0], **layers[0].places), []
    for number, direction in enumerate(directions):
        read = maps.read[number][:count]
        effect = F.conv2d(read, *direction, **layers[number].places) if number else first[:count]
        for after, link, slope in zip(layers[number + 1 :], links[number:], slopes[number:], strict=True):
            effect = after.linear(link.onwards(effect, slope))
        effects.append(effect)
    sizes = _sizes(missing, effects)
    for layer, (weight, constant), size in zip(layers, directions, sizes, strict=False):
        _add(layer.site, weight, constant, size)
    del slopes, effect
    maps.go_on(chain, first.mul_(sizes[0]))


def _sizes(missing: Tensor, effects: list[Tensor]) -> list[float]:
    """Return by how much of each change the error is least: the solution of a small system of products."""
    count = len(effects)
    products = torch.zeros(count, count, dtype=torch.float64)
    for i, j in combinations_with_replacement(range(count), 2):
        products[i, j] = products[j, i] = _product(effects[i], effects[j])
    right = torch.tensor([_product(missing, effect) for effect in effects], dtype=torch.float64)
    # A change without an effect stays undone.
    products.diagonal().clamp_(min=1e-30)
    solution: Tensor = torch.linalg.lstsq(products, right[:, None], driver="gelsd").solution
    return [float(size) for size in solution.flatten()]


def _add(site: Site, weight: Tensor, constant: Tensor, size: float) -> None:
    """Add a multiple of a change, which is of layer and norm together, to a layer and its norm."""
    layer = site.small
    assert isinstance(layer, nn.Conv2d)
    scale = norm_scale_of(site).flatten().to(weight.dtype)
    layer.weight.data.add_(weight / scale[:, None, None, None], alpha=size)
    if site.norm is not None and site.norm.bias is not None:
        site.norm.bias.data.add_(constant, alpha=size)
    elif layer.bias is not None:
        layer.bias.data.add_(constant / scale, alpha=size)


def _refit(last: Site, maps: Tensor, targets: Tensor, fits: int, ridge: float | None) -> float | None:
    """Refit the last layer and return the ridge, which is searched for where it is ``None``."""
    groups, features, outputs = as_matrix(last.small).shape
    fit, held_out = (Products(groups, features, outputs, maps.device) for _ in range(2))
    drawn = torch.Generator().manual_seed(0)
    wanted = Targets([(targets, 1, None)], linear=False)
    images = torch.arange(len(maps), device=maps.device)
    for some, products in ((images[:fits], fit), (images[fits:], held_out)):
        add_positions(products, last.window, maps, wanted, some, drawn, positions_of(len(maps), features))
    if ridge is None:
        found = best_solution(last, fit.equations(), held_out.equations())
    else:
        start = as_matrix(last.small) * norm_scale_of(last)[:, None, :]
        found = (fit.equations() + held_out.equations()).solve(start, ridge, constant=last.has_constant())
    write_solution(last, found)
    return found.ridge if found is not None and found.ridge < float("inf") else None


def _product(a: Tensor, b: Tensor) -> float:
    """Return the inner product of two maps, image by image in single precision, then in double."""
    a, b = (maps.movedim(1, -1).flatten(1).float() for maps in (a, b))
    return float(torch.linalg.vecdot(a, b).double().sum())


class _Solver:
    """Least squares from the second moments of what a layer reads."""

    def __init__(self, site: Site, equations: NormalEquations) -> None:
        layer = site.small
        assert isinstance(layer, nn.Conv2d)
        self.site = site
        self.shape = list(layer.weight.shape)
        self.groups = groups_of(layer)
        self.centred = site.has_constant()
        self.mean = equations.features / max(1, equations.count)
        gram = equations.moments(centred=self.centred)
        size = gram.diagonal(dim1=1, dim2=2).mean(dim=1)
        ridge = (_RIDGE * size).clamp_min(torch.finfo(torch.float64).tiny ** 0.25)
        gram.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
        self.factor = torch.linalg.cholesky(gram)

    def moments(self, inputs: Tensor, wanted: Tensor) -> Tensor:
        """Return ``(g, O, F + 1)``: products of features about their means, and of 1, with ``(n, g O, H, W)`` maps."""
        count = wanted.numel() // wanted.shape[1]
        places = Affine(self.site).places
        cross = conv2d_weight(inputs, self.shape, wanted, **places)  # type: ignore[no-untyped-call]
        cross = grouped(cross.movedim(1, -1).flatten(1).double() / count, self.groups)
        mean = grouped(wanted.double().mean(dim=(0, 2, 3)), self.groups)[..., None]
        whole = [cross - mean * self.mean[:, None], mean] if self.centred else [cross, torch.zeros_like(mean)]
        return torch.cat(whole, dim=2)

    def towards(self, moments: Tensor) -> Tensor:
        """Return ``(g, O, F + 1)``: the least squares weights, and the constant at the mean, for these moments."""
        return torch.cat([torch.cholesky_solve(moments[..., :-1].mT, self.factor).mT, moments[..., -1:]], dim=2)


@dataclass(frozen=True)
class _Round:
    """The wanted change in a round, its least squares solution and the direction taken; all ``(g, O, F + 1)``."""

    moments: Tensor
    nearest: Tensor
    direction: Tensor


@dataclass
class _Descent:
    """Conjugate directions (Polak and Ribiere 1969, never backwards) in which a layer changes, round by round."""

    solver: _Solver
    last: _Round | None = None

    def along(self, inputs: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Return the direction of weights and constants for a wanted change of what the layer returns."""
        moments = self.solver.moments(inputs, wanted)
        nearest = direction = self.solver.towards(moments)
        if self.last is not None:
            before = float((self.last.nearest * self.last.moments).sum())
            share = float((nearest * (moments - self.last.moments)).sum()) / max(
                before, torch.finfo(torch.float64).tiny
            )
            direction = nearest + max(0.0, share) * self.last.direction
        self.last = _Round(moments, nearest, direction)
        weights, constant = direction[..., :-1], direction[..., -1]
        if self.solver.centred:
            constant = constant - (weights @ self.solver.mean[..., None])[..., 0]
        return from_matrix(weights.mT, self.solver.site.small).to(wanted.dtype), constant.flatten().to(wanted.dtype)
