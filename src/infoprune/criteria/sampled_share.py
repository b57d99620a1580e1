"""Backward elimination for a reading layer with more features than samples.

With Y the samples of the features, centred, scaled so that ``Y^T Y`` is their shrunk covariance, and a the ridge that
is added to it, the inverse that the elimination needs is::

    P = (Y^T Y + a I)^-1 = (I - Y^T K Y) / a        K = (Y Y^T + a I)^-1

K has as many rows as there are samples. Without the features r it is ``K + K Y_r (I - Y_r^T K Y_r)^-1 Y_r^T K``, and
the weights of the others are fitted again by ``Z += Y^T K Y_r (I - Y_r^T K Y_r)^-1 Z_r``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from infoprune.criteria.reader_moments import mean_of
from infoprune.errors import InputError
from infoprune.regression.shrinkage import shrinkage

# Share of the features that must be gone before the others are copied together.
_SPARSE = 0.2


class SampledShare:
    """What ``reconstruction.Share`` is, for few samples of many features.

    Args:
        samples: ``(n, F)`` float64, the features about their means.
        weights: ``(F, O)`` float64.
        rows: By unit, which of the features are its own.
        worth: By which squared errors are divided.
        ridge: Relative to the mean variance of the features.

    Raises:
        InputError: The samples are not finite.

    Example:
        >>> samples, weights = torch.eye(2, 3).double(), torch.tensor([[2.0], [1.0], [0.0]]).double()
        >>> share = SampledShare(samples, weights, [torch.tensor([n]) for n in range(3)], worth=1.0, ridge=1e-4)
        >>> [round(cost, 3) for cost in share.costs().tolist()]  # so few samples say little: they are shrunk
        [1.333, 0.333, 0.0]
    """

    def __init__(self, samples: Tensor, weights: Tensor, rows: Sequence[Tensor], worth: float, *, ridge: float) -> None:
        self.worth, self.units = worth, len(rows)
        count, features = samples.shape
        inner = samples @ samples.mT / count
        variance = float(mean_of(samples.square().sum(dim=0) / count))
        drawn = shrinkage(features, variance, float(inner.square().sum()) / features**2, count)
        self.added = (drawn + ridge) * variance
        inner = (1 - drawn) * inner
        inner.diagonal().add_(self.added)
        factor, failed = torch.linalg.cholesky_ex(inner)
        if failed:
            raise InputError("the filters cannot be scored: the feature maps may hold values that are not finite")
        self.inner = torch.cholesky_inverse(factor)
        self._arrange(((1 - drawn) / count) ** 0.5 * samples, weights, [(u, mine) for u, mine in enumerate(rows)])
        self.blocks: dict[int, Tensor] = {}
        for size in self.members:
            mine = self._of_each(self.samples.mT, size)
            self.blocks[size] = mine @ (self.inner @ mine.mT)

    def costs(self) -> Tensor:
        """Return ``(U,)``: what each unit costs now, zero for units without features here."""
        found = torch.zeros(self.units, dtype=torch.float64)
        for size in self.members:
            weights = self._of_each(self.weights, size)
            inverse = (torch.eye(size, dtype=torch.float64, device=weights.device) - self.blocks[size]) / self.added
            spent = torch.linalg.solve(inverse, weights @ weights.mT).diagonal(dim1=1, dim2=2).sum(dim=1)
            found[self.members[size]] = (spent / self.worth).cpu()
        return found

    def take(self, unit: int) -> None:
        """Fit the rest again without a unit."""
        if unit not in self.rows:
            return
        rows = self.rows.pop(unit)
        through = self.inner @ self.samples[:, rows]
        left = -self.samples[:, rows].mT @ through
        left.diagonal().add_(1)
        root = torch.linalg.cholesky(left)
        step = torch.linalg.solve_triangular(root, through.mT, upper=False)
        taken = torch.linalg.solve_triangular(root, self.weights[rows], upper=False)
        across = (step @ self.samples).mT
        self.weights.addmm_(across, taken)
        self.weights[rows] = 0
        self.inner.addmm_(step.mT, step)
        for size in self.members:
            each = self._of_each(across, size)
            self.blocks[size].baddbmm_(each, each.mT)
            self.blocks[size][self.members[size] == unit] = 0
        if sum(map(len, self.rows.values())) <= (1 - _SPARSE) * len(self.weights):
            self._leave_out()

    def _of_each(self, values: Tensor, size: int) -> Tensor:
        """Return ``(units, size, ...)``, the rows of every unit with so many features, without a copy."""
        first, units = self.first[size], len(self.members[size])
        return values[first : first + units * size].reshape(units, size, -1)

    def _leave_out(self) -> None:
        """Leave out the units that were taken."""
        kept = {size: torch.tensor([int(unit) in self.rows for unit in some]) for size, some in self.members.items()}
        self.blocks = {size: self.blocks[size][kept[size]] for size in kept if kept[size].any()}
        self._arrange(self.samples, self.weights, list(self.rows.items()))

    def _arrange(self, samples: Tensor, weights: Tensor, rows: Sequence[tuple[int, Tensor]]) -> None:
        """Keep the features of these units; units with equally many features are worked on together."""
        ordered = sorted(((unit, mine) for unit, mine in rows if len(mine)), key=lambda one: (len(one[1]), one[0]))
        order = torch.cat([mine for _, mine in ordered]) if ordered else torch.arange(0, device=weights.device)
        self.samples, self.weights = samples[:, order], weights[order]
        self.rows: dict[int, Tensor] = {}
        self.members: dict[int, Tensor] = {}
        self.first: dict[int, int] = {}
        first = 0
        for size, some in groupby(ordered, key=lambda one: len(one[1])):
            units = [unit for unit, _ in some]
            places = first + torch.arange(len(units) * size, device=order.device).reshape(len(units), size)
            self.members[size], self.first[size] = torch.tensor(units), first
            self.rows |= dict(zip(units, places, strict=True))
            first += len(units) * size
