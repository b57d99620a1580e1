"""Scree by the quotient of differences (arXiv 2411.18578): where a large step is followed by a small one."""

from __future__ import annotations

from infoprune.cutoff.rules.curve import Curve, RuleInfo, largest, register
from infoprune.errors import InputError


def scree(curve: Curve, *, count: int = 3, floor: float = 1e-3, step: float = 1e-10) -> tuple[int, ...]:
    """Return the m of the largest quotients q_m = (c_{m-1} - c_m) / (c_m - c_{m+1}).

    Args:
        curve: c_1, c_2, ... and c_0 where it is known.
        count: How many candidates.
        floor: Where less is left than this share of c_1, the quotient is one of round-off and does not count.
        step: Nor where a difference is not larger than this.

    Raises:
        InputError: ``count`` is less than 1.

    Example:
        >>> from infoprune.cutoff import Curve
        >>> curve = Curve((4.0, 2.0, 1.0, 0.9, 0.8, 0.1), whole=8.0)
        >>> scree(curve, count=1)
        (3,)
    """
    if count < 1:
        raise InputError(f"the cut-off 'scree' returns at least one candidate, not {count}")
    gains, first = curve.gains, curve.resolved_values[0]
    quotients = {
        m: gain / gains[m + 1]
        for m, gain in gains.items()
        if m + 1 in gains and gain > step and gains[m + 1] > step and curve.left[m - 1] > floor * first
    }
    return largest(quotients, count)


register(RuleInfo("scree", scree, "the largest quotients of neighbouring differences", "arXiv 2411.18578"))
