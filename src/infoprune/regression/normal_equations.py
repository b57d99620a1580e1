"""Normal equations of a linear map, streamed: only second moments are kept, however many images there are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from infoprune.errors import InputError

_BLOCK = 256


@dataclass(frozen=True)
class Solution:
    """A linear map for each group of channels.

    Args:
        weights: ``(g, F, O)`` float64, from F features to O outputs.
        constant: ``(g, O)`` float64, zero where no constant was allowed.
    """

    weights: Tensor
    constant: Tensor


@dataclass
class NormalEquations:
    """Second moments of features and targets, g groups of F features and O targets, float64.

    Args:
        gram: ``(g, F, F)``, the sum of x x^T over all positions of all images.
        cross: ``(g, F, O)``, the sum of x t^T.
        features: ``(g, F)``, the sum of x.
        targets: ``(g, O)``, the sum of t.
        squares: ``(g, O)``, the sum of t^2.
        count: Number of positions.
    """

    gram: Tensor
    cross: Tensor
    features: Tensor
    targets: Tensor
    squares: Tensor
    count: int = 0

    @classmethod
    def of(cls, start: Tensor) -> NormalEquations:
        """Return the moments of nothing yet, for weights of the shape ``(g, F, O)``."""
        groups, features, outputs = start.shape

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(groups, *shape, dtype=torch.float64, device=start.device)

        return cls(zeros(features, features), zeros(features, outputs), zeros(features), zeros(outputs), zeros(outputs))

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Take in ``(g, F, P)`` features and ``(g, O, P)`` targets at P positions."""
        x, t = features.double(), targets.double()
        self._add_products(x)
        self.cross += x @ t.mT
        self.features += x.sum(dim=2)
        self.targets += t.sum(dim=2)
        self.squares += t.square().sum(dim=2)
        self.count += x.shape[2]

    def _add_products(self, x: Tensor) -> None:
        # x x^T is symmetric: of wide layers little more than half of it is multiplied.
        for first in range(0, x.shape[1], _BLOCK):
            block = x[:, first:] @ x[:, first : first + _BLOCK].mT
            self.gram[:, first:, first : first + _BLOCK] += block
            self.gram[:, first : first + _BLOCK, first + _BLOCK :] += block[:, _BLOCK:].mT

    def __add__(self, other: NormalEquations) -> NormalEquations:
        """Return the moments of both."""
        return NormalEquations(
            self.gram + other.gram,
            self.cross + other.cross,
            self.features + other.features,
            self.targets + other.targets,
            self.squares + other.squares,
            self.count + other.count,
        )

    def among(self, rows: Tensor) -> NormalEquations:
        """Return the moments of some of the features, the same ones of every group."""
        gram, cross = self.gram[:, rows][:, :, rows], self.cross[:, rows]
        return NormalEquations(gram, cross, self.features[:, rows], self.targets, self.squares, self.count)

    def moments(self, *, centred: bool) -> Tensor:
        """Return ``(g, F, F)``: the mean of x x^T, or the covariance of the features."""
        return (self._centred()[0] if centred else self.gram) / max(1, self.count)

    def scale(self) -> Tensor:
        """Return ``(g, 1, 1)``: the mean variance of the features times their number, to measure a ridge by."""
        centred = self.gram.diagonal(dim1=1, dim2=2) - self.features.square() / max(1, self.count)
        return centred.clamp_min(0).mean(dim=1)[:, None, None]

    def about(self, start: Tensor, *, constant: bool) -> Problem:
        """Return the problem of finding weights that are drawn towards given ones.

        Args:
            start: ``(g, F, O)``, usually the weights that were left by the cut.
            constant: Whether there is one.
        """
        gram, cross = self._centred() if constant else (self.gram, self.cross)
        return Problem(self, start, gram, cross, constant)

    def solve(self, start: Tensor, ridge: float, *, constant: bool) -> Solution:
        """Return the least squares solution, drawn towards given weights: ``about(...).solve(ridge)``."""
        return self.about(start, constant=constant).solve(ridge)

    def error(self, found: Solution) -> float:
        """Return the mean squared error over positions, summed over outputs."""
        w, b = found.weights, found.constant
        total = self.squares - 2 * (w * self.cross).sum(dim=1) + (w * (self.gram @ w)).sum(dim=1)
        left = self.targets - (w.mT @ self.features[..., None])[..., 0]
        total = total - 2 * b * left + self.count * b.square()
        return float(total.sum()) / max(1, self.count)

    def rounding(self) -> Tensor:
        """Return ``(g, 1, 1)``: the least ridge above rounding."""
        # Centring leaves about this of features that are constant; below it the solution would be noise.
        return 10 * torch.finfo(self.gram.dtype).eps * self.gram.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]

    def _centred(self) -> tuple[Tensor, Tensor]:
        mean = self.features / max(1, self.count)
        gram = self.gram - mean[:, :, None] * self.features[:, None, :]
        return gram, self.cross - mean[:, :, None] * self.targets[:, None, :]


@dataclass(frozen=True)
class Problem:
    """Least squares about given weights: ``||X W + b - T||^2 + ridge * scale * ||W - start||^2``.

    The constant b costs nothing. Where the start is a solution already it stays as it is, whatever the ridge; an
    infinite ridge keeps the start and only finds the constant.

    Args:
        equations: Of X and T.
        start: ``(g, F, O)``.
        gram: ``(g, F, F)``, about the means where there is a constant.
        cross: ``(g, F, O)``, likewise.
        constant: Whether there is one.
    """

    equations: NormalEquations
    start: Tensor
    gram: Tensor
    cross: Tensor
    constant: bool

    @cached_property
    def right(self) -> Tensor:
        """``(g, F, O)``: the products of X with what the start leaves of T."""
        return self.cross - self.gram @ self.start

    def solve(self, ridge: float) -> Solution:
        """Return the weights and the constant for a ridge relative to the mean variance of the features."""
        known, weights = self.equations, self.start
        if ridge < float("inf"):
            weights = weights + _spd_solve(self.gram, self.right, (ridge * known.scale()).maximum(known.rounding()))
        offset = (known.targets - (weights.mT @ known.features[..., None])[..., 0]) / max(1, known.count)
        return Solution(weights, offset if self.constant else torch.zeros_like(offset))


def _spd_solve(gram: Tensor, right: Tensor, ridge: Tensor) -> Tensor:
    """Solve with a ridge, a larger one where rounding makes the matrix indefinite."""
    # Features that are all zero still need a pivot.
    ridge = ridge.clamp_min(torch.finfo(gram.dtype).tiny ** 0.5)
    for _ in range(30):
        shifted = gram.clone()
        shifted.diagonal(dim1=1, dim2=2).add_(ridge[..., 0])
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if not failed.any():
            solved: Tensor = torch.cholesky_solve(right, factor)
            return solved
        ridge = torch.where(failed[:, None, None] > 0, ridge * 10, ridge)
    raise InputError("least squares cannot be solved: the feature maps may hold values that are not finite")
