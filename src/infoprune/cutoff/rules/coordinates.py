"""Optimal coordinates (Raîche et al. 2013): as long as a filter adds more than the line through the rest foretells."""

from __future__ import annotations

from infoprune.cutoff.rules.curve import Curve, RuleInfo, register


def coordinates(curve: Curve) -> tuple[int, ...]:
    """Return how many filters in a row add more than the mean, and more than the line through the later ones foretells.

    The scree plot here is of what each filter adds, g_m = c_{m-1} - c_m, as eigenvalues are of components; the line
    goes through the next value and the last one, and the mean takes the part of Kaiser's rule.

    Args:
        curve: c_1, c_2, ... and c_0 where it is known.

    Example:
        >>> from infoprune.cutoff import Curve
        >>> curve = Curve((4.0, 2.0, 1.0, 0.9, 0.8, 0.1), whole=8.0)
        >>> coordinates(curve)
        (2,)
    """
    gains = curve.gains
    if len(gains) < 3:
        return ()
    last = max(gains)
    mean = sum(gains.values()) / len(gains)
    kept = min(gains) - 1
    for m in range(min(gains), last - 1):
        slope = (gains[last] - gains[m + 1]) / (last - m - 1)
        if gains[m] < mean or gains[m] < gains[m + 1] - slope:
            break
        kept = m
    return (kept,)


register(
    RuleInfo(
        "coordinates",
        coordinates,
        "filters that add more than a line through the later ones foretells",
        "Raîche, Walls, Magis, Riopel & Blais 2013",
    )
)
