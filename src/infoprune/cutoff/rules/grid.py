"""Evenly spaced counts: for where only the accuracy on held-out images is to decide."""

from __future__ import annotations

import math

from infoprune.cutoff.rules.curve import Curve, RuleInfo, register
from infoprune.errors import InputError


def grid(curve: Curve, *, steps: int = 8) -> tuple[int, ...]:
    """Return C/steps, 2 C/steps, ... of the C filters, rounded up, without C itself.

    Args:
        curve: Of which only the number of filters is looked at.
        steps: In how many parts the filters are divided.

    Raises:
        InputError: ``steps`` is less than 2.

    Example:
        >>> from infoprune.cutoff import Curve
        >>> curve = Curve((4.0, 2.0, 1.0, 0.9, 0.8, 0.1), whole=8.0)
        >>> grid(curve, steps=3)
        (2, 4)
    """
    if steps < 2:
        raise InputError(f"the cut-off 'grid' divides the filters into at least 2 parts, not {steps}")
    return tuple(math.ceil(curve.filters * part / steps) for part in range(1, steps))


register(RuleInfo("grid", grid, "evenly spaced counts, for the held-out images to choose from"))
