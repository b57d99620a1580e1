"""Entropic sparsification: a probability for every channel that the next layers read (Barisin and Horenko 2024).

arXiv 2404.04734, a reconstruction from the abstract and from SPARTAn (PNAS 2022); no parity is claimed. A layer that
reads a coupled group is a linear regression of its result on its patches X, with the weights W it has, X and the result
centred. Its weights are factored as D(w) L: w is a probability vector over the filters, shared by all layers that read
them, and D repeats w_c, relative to its mean 1 / C, over the taps of filter c::

    J(w, L) = sum over readers of ||X W - X D(C w) L||^2 / (T V) + e_L ||L||^2 / V + e_W * sum over c of w_c ln w_c

T is the number of positions, V the variance of what the result becomes part of, and e_L is relative to the mean square
of X. L is a ridge regression given w. At that L the derivative of the first two terms is -2 e_L ||L_c||^2 / (w_c V),
which is never positive, so w is multiplied by a power of what the condition of the optimum makes equal for all filters.
J never rises. Filters of w near 0 are superfluous; the score of a filter is C w_c, of which the mean is 1.

The sign of the entropy is that of SPARTAn, a convex term that keeps w even; ``entropy="minimise"`` is the other one,
which the abstract names. The refitted weights of the paper are the repair ``least-squares``. No labels are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from infoprune.criteria.base import Importance
from infoprune.criteria.reader_moments import MEMORY, ByReaders, ReaderPart, mean_square
from infoprune.criteria.whole_network import register_network_criterion
from infoprune.data.batches import Batches
from infoprune.entropy.ties import bound_of_maps
from infoprune.errors import InputError, unknown
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.progress import Progress, silent

Entropy = Literal["maximise", "minimise"]

# J is at its least where a round makes it smaller by no more than this share.
_ENOUGH = 1e-6
# The cube root is exact for uncorrelated features; smaller powers are tried where J would rise.
_POWER = 1 / 3
_SMALLEST_POWER = 1e-3


def entropic(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    batches: Batches,
    *,
    ridge: float = 0.1,
    weight: float = 1e-3,
    entropy: Entropy = "maximise",
    rounds: int = 20,
    memory: int = MEMORY,
    progress: Progress = silent,
) -> dict[str, Importance]:
    """Return the importance of the filters of every coupled group.

    Args:
        model: The network; left as it is.
        groups: What to score.
        batches: Images, with or without labels, iterable more than once.
        ridge: e_L, above 0: what makes w sparse. Relative to the mean square of the features.
        weight: e_W, 0 or more, in units of relative squared error.
        entropy: ``"maximise"`` or ``"minimise"``.
        rounds: At most this many factorisations for a group, 1 or more.
        memory: Bytes of second moments held at once; more layers than fit take more passes.
        progress: Called after every batch and every group.

    Returns:
        By the names of the groups. Scores compare between groups: the mean of each is 1. The evidence holds
        ``objective``, J after every round.

    Raises:
        InputError: A group is read by no convolution or linear layer, there are no images, or an option is unknown or
            out of range.

    Example:
        >>> import infoprune
        >>> from infoprune.network.coupled_groups import find_groups
        >>> _ = torch.manual_seed(0)
        >>> net, images = infoprune.zoo.build("digits").eval(), torch.rand(16, 1, 8, 8)
        >>> found = entropic(net, find_groups(net, images).groups[:1], [images])
        >>> round(found["features.0"].scores.mean().item(), 6)
        1.0
    """
    if entropy not in get_args(Entropy):
        raise unknown("entropy of the criterion 'entropic'", str(entropy), get_args(Entropy))
    if not (math.isfinite(ridge) and ridge > 0):
        raise InputError(f"the ridge of the criterion 'entropic' is above 0, not {ridge}")
    if not (math.isfinite(weight) and weight >= 0):
        raise InputError(f"the weight of the entropy is 0 or more, not {weight}")
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise InputError(f"the criterion 'entropic' takes 1 round or more, not {rounds!r}")
    sign = 1 if entropy == "maximise" else -1

    def scored(group: CoupledGroup, parts: Sequence[ReaderPart]) -> Importance:
        problems = [Regression.of(part, ridge) for part in parts]
        shares, objective = sparsified(problems, len(group.units), weight=sign * weight, rounds=rounds)
        scores = torch.zeros(group.filters, dtype=torch.float64)
        for unit, share in zip(group.units, (len(group.units) * shares).tolist(), strict=True):
            scores[list(unit)] = share
        return Importance(
            scores,
            evidence={"objective": torch.tensor(objective, dtype=torch.float64)},
            comparable=True,
            rounding=bound_of_maps(scores),
        )

    return ByReaders("entropic", "entropic sparsification", memory).score(model, groups, batches, scored, progress)


@dataclass(frozen=True)
class Regression:
    """One group of channels of one reading layer.

    Args:
        gram: ``(F, F)``, the covariance of the features.
        cross: ``(F, O)``, that with the result.
        square: The variance of the result.
        ridge: e_L in the unit of the covariance.
        units: ``(F,)``, the unit of each feature; the number of units for those that belong to none.
        worth: V.

    Example:
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> part = ReaderPart(one, 10**9, one, (torch.tensor([0]),), worth=1.0)
        >>> error, falls = Regression.of(part, ridge=1.0).fit(torch.ones(1, dtype=torch.float64))
        >>> error, round(falls.item(), 6)
        (0.5, 0.5)
    """

    gram: Tensor
    cross: Tensor
    square: float
    ridge: float
    units: Tensor
    worth: float

    @classmethod
    def of(cls, part: ReaderPart, ridge: float) -> Regression:
        """Return the regression of a part."""
        gram = part.covariance()
        cross = gram @ part.weights
        units = torch.full((len(cross),), len(part.rows), device=cross.device)
        for unit, rows in enumerate(part.rows):
            units[rows] = unit
        square = float((cross * part.weights).sum())
        return cls(gram, cross, square, ridge * float(mean_square(gram)), units, part.worth)

    def fit(self, relative: Tensor) -> tuple[float, Tensor]:
        """Return the least error with a ridge for ``(U,)`` factors, and minus its derivative by each of them."""
        # What belongs to no unit of this group keeps the factor 1.
        factors = torch.cat([relative, relative.new_ones(1)]).to(self.gram.device)[self.units]
        scaled = factors[:, None] * self.gram * factors
        scaled.diagonal().add_(self.ridge)
        right = factors[:, None] * self.cross
        fitted = torch.cholesky_solve(right, torch.linalg.cholesky(scaled))
        energy = torch.zeros(len(relative) + 1, dtype=torch.float64, device=self.gram.device)
        energy.index_add_(0, self.units, fitted.square().sum(dim=1))
        error = max(0.0, self.square - float((right * fitted).sum()))
        falls = 2 * self.ridge * energy[:-1].cpu() / torch.where(relative > 0, relative, 1.0)
        return error / self.worth, falls / self.worth


def sparsified(
    regressions: Sequence[Regression], units: int, *, weight: float, rounds: int
) -> tuple[Tensor, list[float]]:
    """Return the ``(U,)`` probabilities w, and J at the start and after every round.

    Args:
        regressions: Of the layers that read the group.
        units: U, how many probabilities there are.
        weight: e_W; below 0 where the entropy is made small.
        rounds: At most this many fits.

    Example:
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> part = ReaderPart(eye, 10**9, torch.tensor([[8.0], [1.0]]).double(),
        ...                   (torch.tensor([0]), torch.tensor([1])), worth=65.0)
        >>> found, _ = sparsified([Regression.of(part, 1e-9)], 2, weight=0.0, rounds=20)
        >>> [round(one, 4) for one in found.tolist()]
        [0.8, 0.2]
    """
    shares = torch.full((units,), 1 / units, dtype=torch.float64)
    value, falls = _objective(regressions, shares, weight)
    history, power = [value], _POWER
    for _ in range(rounds - 1):
        tried = multiplied(shares, falls, weight, power)
        value, then = _objective(regressions, tried, weight)
        if value > history[-1]:
            power /= 4
            if power < _SMALLEST_POWER:
                break
            continue
        shares, falls = tried, then
        history.append(value)
        power = min(_POWER, 2 * power)
        if history[-2] - value <= _ENOUGH * abs(value):
            break
    return shares, history


def multiplied(shares: Tensor, falls: Tensor, weight: float, power: float) -> Tensor:
    """Return probabilities multiplied by a power of what is the same for all of them at the optimum.

    That is minus the derivative of J, up to a constant: ``falls - weight * ln w``.

    Args:
        shares: ``(U,)``, w.
        falls: ``(U,)``, minus the derivative by w of all but the entropy, 0 or more.
        weight: e_W, below 0 where the entropy is made small.
        power: Of the factor.

    Example:
        >>> multiplied(torch.tensor([0.5, 0.5]), torch.tensor([8.0, 1.0]), weight=0.0, power=1 / 3).tolist()
        [0.6666666865348816, 0.3333333432674408]
    """
    there = shares > 0
    logs = torch.where(there, shares, 1.0).log()
    # A constant that keeps the factor from being negative: the logarithms are 0 at most.
    least = logs[there].min() if weight < 0 else 0.0
    factor = (falls - weight * (logs - least)).clamp_min(0).pow(power)
    found = torch.where(there, shares * factor, 0.0)
    total = found.sum()
    return found / total if total > 0 else shares


def _objective(regressions: Sequence[Regression], shares: Tensor, weight: float) -> tuple[float, Tensor]:
    """Return J for the best weights, and minus the derivative by w of its first two terms."""
    units = len(shares)
    found = [one.fit(units * shares) for one in regressions]
    value = sum(error for error, _ in found) - weight * float(torch.special.entr(shares).sum())
    falls = torch.zeros(units, dtype=torch.float64)
    for _, one in found:
        falls += units * one
    return value, falls


register_network_criterion(
    "entropic",
    entropic,
    "probability of the channel in a sparse regression of the next layers (reconstruction)",
    paper="arXiv 2404.04734",
    cost="one forward pass per image; up to 20 factorisations of (features of the reading layer)^3",
)
