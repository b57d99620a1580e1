"""Normal equations of a linear map, streamed: only second moments are stored, for any number of images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from infoprune.errors import InputError

# Columns of a symmetric product that are multiplied at a time.
_BLOCK = 128
# From this number of features a ridge is tried with a float32 factorisation and on some of the outputs.
_MANY = 512
_SOME_OUTPUTS = 64
_LEAST_FLOAT32_RIDGE = 1e-5


@dataclass(frozen=True)
class Solution:
    """A linear map for each group of channels.

    Args:
        weights: ``(g, F, O)`` float64, from F features to O outputs.
        constant: ``(g, O)`` float64, zero where no constant was allowed.
        ridge: The ridge of the solution.

    Example:
        >>> Solution(torch.ones(1, 2, 3), torch.zeros(1, 3), ridge=1e-3).ridge
        0.001
    """

    weights: Tensor
    constant: Tensor
    ridge: float = 0.0


class Regularised(Protocol):
    """A least squares problem with weights regularised towards a start.

    Example:
        >>> start = torch.ones(1, 1, 1, dtype=torch.float64)
        >>> problem: Regularised = NormalEquations.of(start).about(start, constant=False)
        >>> problem.solve(float("inf")).weights.item()
        1.0
    """

    def solve(self, ridge: float, *, roughly: bool = False) -> Solution:
        """Return the weights and the constant for a ridge."""


class Equations(Protocol):
    """What a layer is fitted by: second moments, or the samples themselves where they are few.

    Example:
        >>> equations: Equations = NormalEquations.of(torch.zeros(1, 3, 2))
        >>> equations.shape, equations.count
        ((3, 2), 0)
    """

    @property
    def count(self) -> int:
        """Number of positions."""

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of features and of outputs."""

    def __add__(self, other: Any, /) -> Equations:
        """Return those of both."""

    def of_every(self, step: int, /) -> Equations:
        """Return those of every ``step``-th output only."""

    def among(self, rows: Tensor, /) -> Equations:
        """Return those of some of the features."""

    def moments(self, *, centred: bool) -> Tensor:
        """Return the mean of x x^T, or the covariance of the features."""

    def about(self, start: Tensor, /, *, constant: bool) -> Regularised:
        """Return the problem with weights regularised towards a start."""

    def solve(self, start: Tensor, ridge: float, /, *, constant: bool) -> Solution:
        """Return the solution, regularised towards a start."""

    def error(self, found: Solution, /) -> float:
        """Return the mean squared error over positions, summed over outputs."""


@dataclass
class NormalEquations:
    """Second moments of features and targets, g groups of F features and O targets, float64.

    Args:
        gram: ``(g, F, F)``, the sum of x x^T over all positions of all images.
        cross: ``(g, F, O)``, the sum of x t^T.
        features: ``(g, F)``, the sum of x.
        targets: ``(g, O)``, the sum of t.
        squares: ``(g, O)``, the sum of t^2.
        noise: ``(g,)``, about the change of the eigenvalues of ``gram`` by rounding, where products are float32.
        count: Number of positions.

    Example:
        >>> import torch
        >>> from infoprune.regression.normal_equations import NormalEquations
        >>> x = torch.tensor([[[0.0, 1.0, 2.0, 3.0]]])
        >>> equations = NormalEquations.of(torch.zeros(1, 1, 1))
        >>> equations.add(x, 2 * x + 1)
        >>> found = equations.solve(torch.zeros(1, 1, 1).double(), 0.0, constant=True)
        >>> round(found.weights.item(), 6), round(found.constant.item(), 6)
        (2.0, 1.0)
    """

    gram: Tensor
    cross: Tensor
    features: Tensor
    targets: Tensor
    squares: Tensor
    noise: Tensor
    count: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Return the numbers of features and of outputs."""
        return self.cross.shape[1], self.cross.shape[2]

    @classmethod
    def of(cls, start: Tensor) -> NormalEquations:
        """Return moments of zero positions, for weights of the shape ``(g, F, O)``."""
        groups, features, outputs = start.shape

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(groups, *shape, dtype=torch.float64, device=start.device)

        return cls(
            zeros(features, features),
            zeros(features, outputs),
            zeros(features),
            zeros(outputs),
            zeros(outputs),
            torch.zeros(groups, dtype=torch.float64, device=start.device),
        )

    def cleared(self) -> NormalEquations:
        """Return moments of zero positions in the memory of these."""
        for sums in self.tensors():
            sums.zero_()
        self.count = 0
        return self

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all sums but the count."""
        return self.gram, self.cross, self.features, self.targets, self.squares, self.noise

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Add ``(g, F, P)`` features and ``(g, O, P)`` targets at P positions, in float64."""
        x, t = features.double(), targets.double()
        self.gram += symmetric_product(x)
        self.cross += x @ t.mT
        self.features += x.sum(dim=2)
        self.targets += t.sum(dim=2)
        self.squares += t.square().sum(dim=2)
        self.count += x.shape[2]

    def __add__(self, other: NormalEquations) -> NormalEquations:
        """Return the moments of both."""
        return NormalEquations(
            self.gram + other.gram,
            self.cross + other.cross,
            self.features + other.features,
            self.targets + other.targets,
            self.squares + other.squares,
            self.noise + other.noise,
            self.count + other.count,
        )

    def among(self, rows: Tensor) -> NormalEquations:
        """Return the moments of some of the features, the same ones of every group."""
        gram, cross = self.gram[:, rows][:, :, rows], self.cross[:, rows]
        return NormalEquations(gram, cross, self.features[:, rows], self.targets, self.squares, self.noise, self.count)

    def of_every(self, step: int) -> NormalEquations:
        """Return the equations of every ``step``-th output only."""
        cross, targets, squares = self.cross[:, :, ::step], self.targets[:, ::step], self.squares[:, ::step]
        return NormalEquations(self.gram, cross, self.features, targets, squares, self.noise, self.count)

    def moments(self, *, centred: bool) -> Tensor:
        """Return ``(g, F, F)``: the mean of x x^T, or the covariance of the features."""
        count = max(1, self.count)
        return self._centred_gram().div_(count) if centred else self.gram / count

    def scale(self) -> Tensor:
        """Return ``(g, 1, 1)``: the mean variance of the features times their number, the unit of a ridge."""
        centred = self.gram.diagonal(dim1=1, dim2=2) - self.features.square() / max(1, self.count)
        return centred.clamp_min(0).mean(dim=1)[:, None, None]

    def about(self, start: Tensor, *, constant: bool) -> Problem:
        """Return the least squares problem with weights regularised towards a start.

        Args:
            start: ``(g, F, O)``, usually the weights after the cut.
            constant: Whether a constant is fitted.
        """
        gram, cross = self._centred() if constant else (self.gram, self.cross)
        return Problem(self, start, gram, cross, constant)

    def solve(self, start: Tensor, ridge: float, *, constant: bool) -> Solution:
        """Return the least squares solution, regularised towards a start: ``about(...).solve(ridge)``."""
        return self.about(start, constant=constant).solve(ridge)

    def error(self, found: Solution) -> float:
        """Return the mean squared error over positions, summed over outputs."""
        w, b = found.weights, found.constant
        total = self.squares - 2 * (w * self.cross).sum(dim=1) + (w * (self.gram @ w)).sum(dim=1)
        rest = self.targets - (w.mT @ self.features[..., None])[..., 0]
        total = total - 2 * b * rest + self.count * b.square()
        return float(total.sum()) / max(1, self.count)

    def rounding(self) -> Tensor:
        """Return ``(g, 1, 1)``: the least ridge above rounding."""
        # Constant features have about this variance after centring; with a smaller ridge the solution is noise.
        exact = 10 * torch.finfo(self.gram.dtype).eps * self.gram.diagonal(dim1=1, dim2=2).sum(dim=1)
        return (exact + self.noise)[:, None, None]

    def _centred(self) -> tuple[Tensor, Tensor]:
        return self._centred_gram(), self.cross - self._mean() * self.targets[:, None, :]

    def _centred_gram(self) -> Tensor:
        # In the memory of the product: matrices of wide layers take hundreds of MiB.
        return (self._mean() * self.features[:, None, :]).neg_().add_(self.gram)

    def _mean(self) -> Tensor:
        """Return ``(g, F, 1)``, the means of the features."""
        return (self.features / max(1, self.count))[:, :, None]


@dataclass(frozen=True)
class Problem:
    """Least squares regularised towards a start: ``||X W + b - T||^2 + ridge * scale * ||W - start||^2``.

    The constant b is not regularised. A start that is already a solution is returned for any ridge. An infinite ridge
    keeps the start and fits the constant only.

    Args:
        equations: Equations of X and T.
        start: ``(g, F, O)``.
        gram: ``(g, F, F)``, about the means where there is a constant.
        cross: ``(g, F, O)``, likewise.
        constant: Whether a constant is fitted.

    Example:
        >>> equations = NormalEquations.of(torch.zeros(1, 1, 1))
        >>> equations.add(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 6.0]]]))
        >>> problem = equations.about(torch.zeros(1, 1, 1).double(), constant=False)
        >>> round(problem.solve(0.0).weights.item(), 6)
        3.0
    """

    equations: NormalEquations
    start: Tensor
    gram: Tensor
    cross: Tensor
    constant: bool

    @cached_property
    def right(self) -> Tensor:
        """``(g, F, O)``: the products of X with the residual of the start."""
        return self.cross - self.gram @ self.start

    def solve(self, ridge: float, *, roughly: bool = False) -> Solution:
        """Return the weights and the constant for a ridge relative to the mean variance of the features.

        Args:
            ridge: Infinite for the start itself.
            roughly: Whether a matrix of many features may be factorised in float32, if the ridge is large enough.
        """
        known, weights = self.equations, self.start
        if ridge < float("inf"):
            half = roughly and self.gram.shape[1] >= _MANY and ridge >= _LEAST_FLOAT32_RIDGE
            dtype = torch.float32 if half else torch.float64
            added = (ridge * known.scale()).maximum(known.rounding())
            weights = weights + solve_definite(self.gram, self.right, added, dtype)
        offset = (known.targets - (weights.mT @ known.features[..., None])[..., 0]) / max(1, known.count)
        return Solution(weights, offset if self.constant else torch.zeros_like(offset), ridge)


def every_output_for_trials(features: int, outputs: int) -> int:
    """Return the step between the outputs on which a ridge is tried: 1 for few features, about 64 outputs for many.

    Example:
        >>> every_output_for_trials(600, 256)
        4
    """
    return max(1, outputs // _SOME_OUTPUTS) if features >= _MANY else 1


def symmetric_product(x: Tensor) -> Tensor:
    """Return ``(g, F, F)``, x x^T. For wide layers only little more than half of it is computed.

    Example:
        >>> symmetric_product(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])).tolist()
        [[[5.0, 11.0], [11.0, 25.0]]]
    """
    features = x.shape[1]
    if features <= _BLOCK:
        return x @ x.mT
    found = x.new_empty(len(x), features, features)
    for first in range(0, features, _BLOCK):
        last = min(first + _BLOCK, features)
        found[:, first:, first:last] = x[:, first:] @ x[:, first:last].mT
        found[:, first:last, last:] = found[:, last:, first:last].mT
    return found


def solve_definite(gram: Tensor, right: Tensor, ridge: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``(g, F, O)``, the solution of ``(gram + ridge I) W = right``.

    Args:
        gram: ``(g, F, F)``, symmetric.
        right: ``(g, F, O)``.
        ridge: ``(g, 1, 1)``; a larger one where rounding makes the matrix indefinite.
        dtype: Of the factorisation.

    Raises:
        InputError: No ridge helps: the values are not finite.

    Example:
        >>> one = torch.ones(1, 1, 1)
        >>> round(solve_definite(one, one, one, torch.float64).item(), 6)
        0.5
    """
    # Features that are all zero still need a pivot.
    ridge = ridge.clamp_min(torch.finfo(gram.dtype).tiny ** 0.5)
    for _ in range(30):
        shifted = gram.clone()
        shifted.diagonal(dim1=1, dim2=2).add_(ridge[..., 0])
        factor, failed = torch.linalg.cholesky_ex(shifted.to(dtype))
        if not failed.any():
            solved: Tensor = torch.cholesky_solve(right.to(dtype), factor)
            return solved.double()
        ridge = torch.where(failed[:, None, None] > 0, ridge * 10, ridge)
    raise InputError("least squares cannot be solved: the feature maps may hold values that are not finite")
