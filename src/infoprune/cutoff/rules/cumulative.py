"""The fewest filters whose scores add up to more than a share of all (Wang et al. 2023, arXiv 2310.06344, its code)."""

from __future__ import annotations

from infoprune.cutoff.rules.curve import Curve, RuleInfo, register
from infoprune.errors import InputError

# Sums that differ by less, relative to the total, are equal.
_ROUNDING = 1e-12


def cumulative(curve: Curve, *, share: float = 0.8) -> tuple[int, ...]:
    """Return the smallest m whose first m filters hold more than ``share`` of the total.

    A criterion without a curve of its own is cut by the curve of its scores: the value at m filters is the sum
    of the scores of all others. How many filters a layer keeps then follows from the share alone.

    Args:
        curve: c_1, c_2, ... and c_0, the total; where c_0 is not known, c_1 stands in its place.
        share: In (0, 1); 0.6 to 0.9 in the published runs, with the scores of ``chip``.

    Raises:
        InputError: ``share`` is out of range.

    Example:
        >>> cumulative(Curve((6.0, 3.0, 1.0, 0.0), whole=10.0), share=0.6)
        (2,)
        >>> cumulative(Curve((6.0, 3.0, 1.0, 0.0), whole=10.0), share=0.7)
        (3,)
    """
    if not 0 < share < 1:
        raise InputError(f"the cut-off 'cumulative' keeps a share of the scores between 0 and 1, not {share}")
    whole = curve.left[0] if curve.whole is None else curve.whole
    least = (1 - share) * whole - _ROUNDING * abs(whole)
    return (next((m for m, left in enumerate(curve.left, 1) if left < least), curve.filters),)


register(
    RuleInfo(
        "cumulative",
        cumulative,
        "the fewest filters whose scores exceed a share of the sum of all",
        "arXiv 2310.06344",
        from_scores=True,
    )
)
