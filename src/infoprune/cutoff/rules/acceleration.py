"""The acceleration factor (Raîche et al. 2013): where the curve bends most."""

from __future__ import annotations

from infoprune.cutoff.rules.curve import Curve, RuleInfo, largest, register
from infoprune.errors import InputError


def acceleration(curve: Curve, *, count: int = 1) -> tuple[int, ...]:
    """Return the m of the largest second differences c_{m-1} - 2 c_m + c_{m+1}.

    Args:
        curve: c_1, c_2, ... and c_0 where it is known.
        count: How many candidates.

    Raises:
        InputError: ``count`` is less than 1.

    Example:
        >>> from infoprune.cutoff import Curve
        >>> curve = Curve((4.0, 2.0, 1.0, 0.9, 0.8, 0.1), whole=8.0)
        >>> acceleration(curve)
        (1,)
    """
    if count < 1:
        raise InputError(f"the cut-off 'acceleration' gives at least one candidate, not {count}")
    gains = curve.gains
    return largest({m: gain - gains[m + 1] for m, gain in gains.items() if m + 1 in gains}, count)


register(
    RuleInfo("acceleration", acceleration, "where the curve bends most", "Raîche, Walls, Magis, Riopel & Blais 2013")
)
