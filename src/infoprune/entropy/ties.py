"""Which scores are equal: the one rule for every order that is derived from scores.

Two processors round the same sum differently. Scores that differ by no more than their rounding are a tie, and ties go
to the lowest index. The bound on the rounding follows from the precision and from the number of terms, and has the unit
of the scores; it is never the result of a measurement.

The rule removes what rounding decides where the exact scores are equal. Two scores whose exact difference lies as near
to the bound as one processor's rounding lies to another's can still be read as a tie by one and not by the other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# What the rounding of sums is taken to be where a score comes without a bound: float64 sums of this number of terms.
_TERMS = 1 << 16


def rounding(dtype: torch.dtype, terms: int) -> float:
    """Return what a sum may be out by, as a share of the sum of the absolute values of its terms.

    4 eps sqrt(terms + 16): rounding errors of either sign grow with the square root of their number (Higham and Mary
    2019, SIAM J. Sci. Comput. 41). Precisions below float32 count as float32, in which they are summed.

    Args:
        dtype: Precision of the sum.
        terms: Number of terms.

    Example:
        >>> rounding(torch.float64, 9)
        4.440892098500626e-15
    """
    wide = torch.promote_types(dtype, torch.float32)
    return 4 * torch.finfo(wide).eps * math.sqrt(terms + 16)


def default_bound(scores: Tensor) -> Tensor:
    """Return what ``(C,)`` scores may be out by if all that is known of them is that they are float64 sums.

    Example:
        >>> default_bound(torch.tensor([0.0, -2.0])).tolist()
        [0.0, 4.548028586499771e-13]
    """
    return rounding(torch.float64, _TERMS) * scores.detach().to("cpu", torch.float64).abs()


def bound_of_maps(scores: Tensor, largest: Tensor | float | None = None) -> Tensor:
    """Return what ``(C,)`` scores may be out by that are computed from single-precision feature maps or gradients.

    Args:
        scores: ``(C,)``.
        largest: Size of what the scores are made of or differences of, in their unit; by default the largest score.

    Example:
        >>> bound_of_maps(torch.tensor([0.5, -1.0])).tolist() == [rounding(torch.float32, 1)] * 2
        True
    """
    found = scores.detach().to("cpu", torch.float64)
    size = float(found.abs().max() if largest is None and len(found) else largest or 0.0)
    return torch.full_like(found, rounding(torch.float32, 1) * size)


def snapped(scores: Tensor, bound: Tensor | float | None = None) -> Tensor:
    """Return scores among which near-ties are ties.

    Sorted scores are linked where neighbours differ by no more than the sum of their two bounds. All scores of one
    chain become its largest. The result does not depend on the order in which the scores come.

    Args:
        scores: ``(C,)``, finite.
        bound: What each score may be out by, in the unit of the scores: a number or ``(C,)``. By default that of
            :func:`default_bound`.

    Returns:
        ``(C,)`` float64 on the CPU.

    Example:
        >>> snapped(torch.tensor([1.0, 3.0, 1.0 + 1e-14, 2.0], dtype=torch.float64)).unique().tolist()
        [1.00000000000001, 2.0, 3.0]
    """
    scores = scores.detach().to("cpu", torch.float64)
    if len(scores) < 2:
        return scores
    bounds = default_bound(scores) if bound is None else bound
    bounds = torch.as_tensor(bounds, dtype=torch.float64).to("cpu").expand_as(scores)
    falling, index = scores.sort(descending=True, stable=True)
    apart = falling[:-1] - falling[1:] > bounds[index][:-1] + bounds[index][1:]
    chain = torch.cat([torch.zeros(1, dtype=torch.int64), apart.cumsum(0)])
    first = torch.cat([torch.zeros(1, dtype=torch.int64), apart.nonzero().flatten() + 1])
    return torch.empty_like(scores).index_copy_(0, index, falling[first][chain])


def ranking(scores: Tensor, bound: Tensor | float | None = None, *, descending: bool = True) -> list[int]:
    """Return the indices of scores in order, near-ties by index.

    Args:
        scores: ``(C,)``, finite.
        bound: As for :func:`snapped`.
        descending: Whether the largest comes first.

    Example:
        >>> ranking(torch.tensor([1.0, 3.0, 1.0 + 1e-14, 2.0], dtype=torch.float64))
        [1, 3, 0, 2]
    """
    ranked: list[int] = torch.sort(snapped(scores, bound), descending=descending, stable=True).indices.tolist()
    return ranked


def first_least(values: Tensor, bound: float) -> int:
    """Return the lowest index whose value is within the bound of the least.

    Args:
        values: ``(C,)``; infinite ones are never returned unless all are.
        bound: What the difference of two values may be out by, in their unit.

    Example:
        >>> first_least(torch.tensor([2.0, 1.0 + 1e-14, 1.0], dtype=torch.float64), 1e-13)
        1
    """
    return int((values <= values.min() + bound).nonzero()[0])
