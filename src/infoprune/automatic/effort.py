"""How much a run without options may spend, as values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from infoprune.options import Effort

# With at least this number of minutes, a repair by gradient gains more than it disturbs.
_MINUTES_FOR_GRADIENT = 8.0
_MINUTES_FOR_STEPS = 3.0


@dataclass(frozen=True)
class Allowance:
    """What a run may spend.

    Args:
        steps: Number of cuts; after each the network is repaired, and the next scores are those of the repaired one.
        copies: Changed copies of each image (moved and mirrored) that the last repair sees besides the image.
        compares: Whether ways to divide the budget between layers are compared on held-out images first.
        alternating: Whether alternating least squares is tried after least squares.
        minutes: Minutes for the whole run; those that remain are for the repair by gradient. ``None``: no gradient.

    Example:
        >>> Allowance(steps=1, copies=0, compares=False).minutes is None
        True
    """

    steps: int
    copies: int
    compares: bool
    alternating: bool = False
    minutes: float | None = None


_ALLOWANCES = {
    "quick": Allowance(steps=1, copies=0, compares=False),
    # Two steps and copies of the images were not better on EfficientNet-Lite0: 79.8 % in place of 81.6 %.
    "normal": Allowance(steps=1, copies=0, compares=True),
    "thorough": Allowance(steps=3, copies=3, compares=True, alternating=True, minutes=30.0),
}


def allowance(effort: Effort = "normal", minutes: float | None = None) -> Allowance:
    """Return what an effort, or a number of minutes, allows.

    Args:
        effort: ``"quick"`` (one cut, one repair), ``"normal"`` (one cut; ways are compared) or ``"thorough"`` (three
            cuts, more copies of the images, alternating least squares, a repair by gradient in the remaining minutes).
        minutes: Minutes for the whole run. It takes the place of the effort.

    Example:
        >>> allowance("quick").steps, allowance(minutes=20).minutes
        (1, 20)
    """
    if minutes is None:
        return _ALLOWANCES[effort]
    if minutes < _MINUTES_FOR_STEPS:
        return _ALLOWANCES["quick"]
    if minutes < _MINUTES_FOR_GRADIENT:
        return _ALLOWANCES["normal"]
    return replace(_ALLOWANCES["thorough"], minutes=minutes)
