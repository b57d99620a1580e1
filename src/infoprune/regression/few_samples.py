"""Least squares of a layer with more features than samples: the samples are kept in place of their second moments.

The solutions are those of the normal equations. With X the centred samples, n of F features, and R what the start
leaves of the targets::

    W = start + (X^T X + r I)^-1 X^T R = start + X^T (X X^T + r I)^-1 R

The right side takes n^2 F operations and n F numbers, the left F^3 and F^2: VGG-16's first linear layer has 25,088
features, whose second moments are 5 GB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from infoprune.regression.normal_equations import Solution, solve_definite
from infoprune.runs.together import current

# Of fewer features the second moments are small.
_MANY_FEATURES = 4096
# The samples save memory and time where the features are this number of times more.
_TIMES = 2


def are_few(samples: int, features: int) -> bool:
    """Return whether the samples of a layer are kept in place of the second moments of its features.

    Example:
        >>> are_few(1000, 25_088), are_few(1000, 512), are_few(100_000, 25_088)
        (True, False, False)
    """
    return features >= _MANY_FEATURES and features >= _TIMES * samples


@dataclass(frozen=True)
class FewSamples:
    """Samples of the features and the targets of a layer; it answers what ``NormalEquations`` answer.

    Args:
        x: ``(n, F)``.
        t: ``(n, O)``.

    Example:
        >>> x = torch.eye(2, 3)
        >>> found = FewSamples(x, 2 * x[:, :1]).solve(torch.zeros(1, 3, 1).double(), 1e-9, constant=False)
        >>> found.weights.flatten().round(decimals=4).tolist()
        [2.0, 0.0, 0.0]
    """

    x: Tensor
    t: Tensor

    @property
    def count(self) -> int:
        """Return the number of samples."""
        return len(self.x)

    @property
    def shape(self) -> tuple[int, int]:
        """Return the numbers of features and of outputs."""
        return self.x.shape[1], self.t.shape[1]

    def __add__(self, other: FewSamples) -> FewSamples:
        """Return the samples of both."""
        return FewSamples(torch.cat([self.x, other.x]), torch.cat([self.t, other.t]))

    def among(self, rows: Tensor) -> FewSamples:
        """Return the samples of some of the features."""
        return FewSamples(self.x[:, rows], self.t)

    def of_every(self, step: int) -> FewSamples:
        """Return the samples of every ``step``-th output only."""
        return FewSamples(self.x, self.t[:, ::step])

    def centred(self) -> Tensor:
        """Return ``(n, F)`` float64, the features about their means; zero where they do not vary."""
        x = self.x.double()
        centred = x - x.mean(dim=0)
        # What centring leaves of a constant is rounding error.
        varies = centred.square().sum(dim=0) > torch.finfo(self.x.dtype).eps ** 2 * x.square().sum(dim=0)
        return centred.mul_(varies)

    def moments(self, *, centred: bool) -> Tensor:
        """Return ``(1, F, F)``: the mean of x x^T, or the covariance of the features."""
        x = self.centred() if centred else self.x.double()
        return (x.mT @ x)[None] / max(1, self.count)

    def about(self, start: Tensor, *, constant: bool) -> SampledProblem:
        """Return the least squares problem with weights regularised towards a start, ``(1, F, O)``."""
        return SampledProblem(self, start, constant)

    def solve(self, start: Tensor, ridge: float, *, constant: bool) -> Solution:
        """Return the least squares solution, regularised towards a start: ``about(...).solve(ridge)``."""
        return self.about(start, constant=constant).solve(ridge)

    def error(self, found: Solution) -> float:
        """Return the mean squared error over samples, summed over outputs."""
        away = self.x.double() @ found.weights[0] + found.constant - self.t
        return float(away.square().sum()) / max(1, self.count)


@dataclass(frozen=True)
class SampledProblem:
    """Least squares of few samples, regularised towards a start, as ``normal_equations.Problem``.

    Args:
        samples: X and T.
        start: ``(1, F, O)``.
        constant: Whether a constant is fitted.

    Example:
        >>> problem = FewSamples(torch.eye(2, 3), torch.ones(2, 1)).about(torch.ones(1, 3, 1).double(), constant=False)
        >>> problem.solve(1.0).weights.flatten().tolist()  # the start is a solution already
        [1.0, 1.0, 1.0]
    """

    samples: FewSamples
    start: Tensor
    constant: bool

    @cached_property
    def x(self) -> Tensor:
        """``(n, F)`` float64, about the means where there is a constant."""
        return self.samples.centred() if self.constant else self.samples.x.double()

    @cached_property
    def inner(self) -> Tensor:
        """``(n, n)``, the products of all pairs of samples."""
        return self.x @ self.x.mT

    @cached_property
    def units(self) -> tuple[Tensor, Tensor]:
        """The unit of a ridge, the mean variance of the features times the samples, and the least ridge."""
        x = self.samples.x.double()
        scale = (x - x.mean(dim=0)).square().sum() / x.shape[1]
        return scale, 10 * torch.finfo(torch.float64).eps * x.square().sum()

    @cached_property
    def residual(self) -> Tensor:
        """``(n, O)``, what the start leaves of the targets."""
        t = self.samples.t.double()
        return (t - t.mean(dim=0) if self.constant else t) - self.x @ self.start[0]

    def solve(self, ridge: float, *, roughly: bool = False) -> Solution:
        """Return the weights and the constant for a ridge relative to the mean variance of the features.

        Args:
            ridge: Infinite for the start itself.
            roughly: Not used: the matrix has as many rows as there are samples.
        """
        weights = self.start
        if ridge < float("inf"):
            scale, least = self.units
            added = (ridge * scale).maximum(least)[None, None, None]
            weights = weights + self.x.mT @ solve_definite(self.inner[None], self.residual[None], added, torch.float64)
        means = self.samples.x.mean(dim=0, dtype=torch.float64)
        offset = self.samples.t.double().mean(dim=0)[None] - means @ weights[0]
        return Solution(weights, offset if self.constant else torch.zeros_like(offset), ridge)


@dataclass
class Samples:
    """Samples of a layer while batches are added; it takes what ``Products`` takes.

    Args:
        features: F.
        outputs: O, 0 if only the features are needed.

    Example:
        >>> samples = Samples(3, 1)
        >>> samples.add(torch.ones(1, 3, 5), torch.ones(1, 1, 5))
        >>> samples.together([0])[0].count
        5
    """

    features: int
    outputs: int
    device: torch.device | None = None
    exact: bool = field(default=True, init=False)
    about: Tensor | None = field(default=None, init=False)
    targets_about: Tensor | None = field(default=None, init=False)
    batch: int = field(default=0, init=False)
    _parts: dict[int, list[Tensor]] = field(default_factory=dict, init=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the numbers of groups, features and outputs."""
        return 1, self.features, self.outputs

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Add ``(1, F, P)`` features and ``(1, O, P)`` targets at P positions of the present batch."""
        both = torch.cat([features[0].float(), targets[0].float()])
        self._parts.setdefault(self.batch, []).append(both.mT.contiguous())

    def together(self, ranks: Sequence[int]) -> dict[int, FewSamples]:
        """Return the samples of all processes in the order of the batches, for those ranks that are of this process."""
        own = {number: torch.cat(parts) for number, parts in self._parts.items()}
        found: dict[int, FewSamples] = {}
        for rank in ranks:
            parts = current().gathered(own, rank)
            if rank == current().rank:
                nothing = torch.empty(0, self.features + self.outputs, device=self.device)
                x, t = torch.split(torch.cat([nothing, *parts]), [self.features, self.outputs], dim=1)
                found[rank] = FewSamples(x, t)
        return found
