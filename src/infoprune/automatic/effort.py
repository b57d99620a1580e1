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
        steps: Number of cuts that are compared with a single one; after each the network is repaired, and the next
            scores are those of the repaired one.
        compares: Whether ways to divide the budget between layers are compared on held-out images first.
        rounds: Rounds of alternating least squares; 0 for plain least squares. Where repairs are compared, both are.
        minutes: Minutes for the whole run; those that remain are for the repair by gradient. ``None``: no gradient.

    Example:
        >>> Allowance(steps=1, compares=False).minutes is None
        True
    """

    steps: int
    compares: bool
    rounds: int = 0
    minutes: float | None = None

    def of_many_images(self) -> Allowance:
        """Return the same for more images than closed forms use: the time is the gradient's, which gains more there."""
        return self if self.minutes is None else replace(self, steps=1, rounds=0)


_ALLOWANCES = {
    "quick": Allowance(steps=1, compares=False),
    # Two steps and moved copies of the images were not better on EfficientNet-Lite0 (79.8 % in place of 81.6 %), nor
    # three steps or copies on MobileNetV2: divergence 0.40 (steps), 0.25 (copies) in place of 0.24 nats.
    # Further rounds gained nothing on ResNet-56: 92.3 % with two and with three, 91.9 % without.
    "normal": Allowance(steps=1, compares=True, rounds=2),
    "thorough": Allowance(steps=3, compares=True, rounds=6, minutes=30.0),
}


def allowance(effort: Effort = "normal", minutes: float | None = None) -> Allowance:
    """Return what an effort, or a number of minutes, allows.

    Args:
        effort: ``"quick"`` (one cut, least squares), ``"normal"`` (ways are compared; alternating least squares) or
            ``"thorough"`` (three cuts are tried too, more rounds, and a repair by gradient in the remaining minutes).
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
