"""Scores that differ only by rounding are equal: a tie must not depend on the processor."""

from __future__ import annotations

import torch
from torch import Tensor

# Values closer than this, relative to the largest modulus, are one value.
ROUNDING = 1e-10


def levelled(values: Tensor, relative: float = ROUNDING) -> Tensor:
    """Return the values, each replaced by the least one that differs from it only by rounding.

    Values are taken in ascending order; one that exceeds the least of its level by no more than the tolerance joins
    that level. The result does not depend on the order of the filters.

    Args:
        values: ``(C,)``, finite.
        relative: Tolerance, relative to the largest modulus.

    Returns:
        ``(C,)`` float64 on the CPU.

    Example:
        >>> levelled(torch.tensor([1.0, 2.0, 1.0 + 1e-15], dtype=torch.float64)).tolist()
        [1.0, 2.0, 1.0]
    """
    values = values.detach().to("cpu", torch.float64)
    if not len(values):
        return values
    tolerance = relative * float(values.abs().max())
    ranked, index = values.sort(stable=True)
    least = float(ranked[0])
    for place, value in enumerate(ranked.tolist()):
        if value - least > tolerance:
            least = value
        ranked[place] = least
    return torch.empty_like(values).scatter_(0, index, ranked)


def min_max(values: Tensor) -> Tensor:
    """Return ``(C,)`` values scaled to [0, 1] by the least and the largest; 0 where all are equal.

    Rounding is taken out first, since the scale would magnify it where all values are nearly equal.

    Args:
        values: ``(C,)``, finite.

    Example:
        >>> min_max(torch.tensor([1.0, 3.0, 2.0])).tolist()
        [0.0, 1.0, 0.5]
        >>> min_max(torch.tensor([0.1 + 0.2, 0.3])).tolist()
        [0.0, 0.0]
    """
    values = levelled(values)
    if not len(values):
        return values
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)
