"""The fewest filters that keep all but a share of the layer's information about the labels."""

from __future__ import annotations

from infoprune.cutoff.rules.curve import Curve, RuleInfo, register
from infoprune.errors import InputError


def tolerance(curve: Curve, *, epsilon: float = 0.05) -> tuple[int, ...]:
    """Return the smallest m with I(Y; the first m) >= (1 - epsilon) I(Y; all), that is c_m <= epsilon c_0.

    What is known before the layer is not counted on either side. Where c_0 is not known, c_1 stands in its place. At
    saturation c_m is near zero, so the first m after it is found whatever the tail does.

    Args:
        curve: c_1, c_2, ... and c_0 where it is known.
        epsilon: Share of the information that may be lost, in (0, 1).

    Raises:
        InputError: ``epsilon`` is out of range.

    Example:
        >>> from infoprune.cutoff import Curve
        >>> curve = Curve((4.0, 2.0, 1.0, 0.9, 0.8, 0.1), whole=8.0)
        >>> tolerance(curve, epsilon=0.12)
        (4,)
    """
    if not 0 < epsilon < 1:
        raise InputError(f"the cut-off 'tolerance' loses a share of the information between 0 and 1, not {epsilon}")
    whole = curve.left[0] if curve.whole is None else curve.whole
    return (next((m for m, left in enumerate(curve.left, 1) if left <= epsilon * whole), curve.filters),)


register(RuleInfo("tolerance", tolerance, "the fewest filters that keep (1 - epsilon) of the layer's information"))
