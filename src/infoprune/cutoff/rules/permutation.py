"""The stopping rule by permutations (arXiv 1808.07912): stop where a filter does no better than a shuffled one."""

from __future__ import annotations

from infoprune.cutoff.rules.curve import Curve, RuleInfo, register
from infoprune.errors import InputError


def permutation(curve: Curve, *, significance: float = 0.05, exhaustive: bool = False) -> tuple[int, ...]:
    """Return how many filters come before the first whose p value is not below the significance.

    Args:
        curve: With ``p_value``; its null hypothesis is a filter without information about these labels beyond the rest.
        significance: In (0, 1).
        exhaustive: Test every filter in turn. By default the places tested double until one fails, and the gap before
            it is halved, which finds the first failure where all later filters fail too, with some 2 log2 C tests.

    Raises:
        InputError: ``significance`` is out of range.

    Example:
        >>> from infoprune.cutoff import Curve
        >>> curve = Curve((3.0, 2.0, 1.0), p_value=lambda m: 0.01 if m < 3 else 0.5)
        >>> permutation(curve)
        (2,)
    """
    if not 0 < significance < 1:
        raise InputError(f"the significance lies between 0 and 1, not {significance}")
    assert curve.p_value is not None  # candidates() sees to it
    if exhaustive:
        failing = (m for m in range(1, curve.filters + 1) if curve.p_value(m) >= significance)
        return (max(1, next(failing, curve.filters + 1) - 1),)
    good, probe = 0, 1
    while probe < curve.filters and curve.p_value(probe) < significance:
        good, probe = probe, min(2 * probe, curve.filters)
    bad = probe if probe < curve.filters else curve.filters + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if curve.p_value(middle) < significance:
            good = middle
        else:
            bad = middle
    return (max(1, good),)


register(
    RuleInfo(
        "permutation",
        permutation,
        "filters that leave less than when shuffled over the images",
        "Yu & Príncipe 2019, arXiv 1808.07912",
        tests=True,
    )
)
