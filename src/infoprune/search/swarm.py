"""Particle swarms over shares or bits (Kennedy and Eberhart 1995 and 1997), as BPSO-FPruner uses them.

Tmamna et al. 2024, Applied Soft Computing; a reconstruction from abstracts, constants included. A particle is a
position x with a velocity v. It is drawn to the best position it has seen and to the best that any has::

    v <- w v + c1 r1 (own best - x) + c2 r2 (best of all - x),    r1, r2 uniform in [0, 1], for every coordinate

Shares move by v and stay in [0, 1]. A bit becomes 1 with probability 1 / (1 + exp(-v)). Positions are compared by
Deb's rule: of two that keep to the limit the one of the larger value is better, then those that keep to it, then the
one that exceeds it by less.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from infoprune.errors import InputError

Form = Literal["shares", "bits"]

# Of bits: a probability of 0.9975 is as good as sure. Of shares: a fifth of the layer in one step.
_FASTEST = {"bits": 6.0, "shares": 0.2}


@dataclass(frozen=True)
class Judged:
    """What a position is worth.

    Args:
        value: The larger the better.
        excess: By how much it exceeds the limit, 0 where it keeps to it.

    Example:
        >>> Judged(0.9).excess
        0.0
    """

    value: float
    excess: float = 0.0


def better(one: Judged, other: Judged) -> bool:
    """Return whether one is better than another by Deb's rule; of equals none is.

    Example:
        >>> better(Judged(0.9), Judged(0.95, excess=0.1)), better(Judged(0.9), Judged(0.95))
        (True, False)
    """
    if one.excess > 0 or other.excess > 0:
        return one.excess < other.excess
    return one.value > other.value


@dataclass(frozen=True)
class Swarm:
    """How particles move.

    Args:
        steps: How often all of them move, 0 or more.
        inertia: w.
        own: c1, the pull to the best position of the particle itself.
        common: c2, the pull to the best of all.
        form: ``"shares"`` or ``"bits"``.

    Raises:
        InputError: A value is out of range.

    Example:
        >>> Swarm(steps=20).inertia
        0.7
    """

    steps: int
    inertia: float = 0.7
    own: float = 1.5
    common: float = 1.5
    form: Form = "shares"

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 0:
            raise InputError(f"a swarm moves in 0 steps or more, not {self.steps!r}")
        for name in ("inertia", "own", "common"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"'{name}' of a swarm is 0 or more, not {getattr(self, name)}")

    def velocity(self, v: Tensor, x: Tensor, own: Tensor, common: Tensor, r1: Tensor, r2: Tensor) -> Tensor:
        """Return the next velocity, bounded.

        Example:
            >>> zero, one, half = torch.zeros(1), torch.ones(1), torch.full((1,), 0.5)
            >>> Swarm(1, form="bits").velocity(zero, zero, one, one, half, half).item()
            1.5
        """
        found = self.inertia * v + self.own * r1 * (own - x) + self.common * r2 * (common - x)
        fastest = _FASTEST[self.form]
        return found.clamp(-fastest, fastest)

    def moved(self, x: Tensor, v: Tensor, drawn: Tensor) -> Tensor:
        """Return the next position.

        Args:
            x: The position.
            v: The velocity.
            drawn: Uniform in [0, 1], for bits.

        Example:
            >>> drawn = torch.tensor([0.8, 0.8])
            >>> Swarm(1, form="bits").moved(torch.zeros(2), torch.tensor([1.5, -6.0]), drawn).tolist()
            [1.0, 0.0]
        """
        if self.form == "bits":
            return (drawn < torch.sigmoid(v)).to(x.dtype)
        return (x + v).clamp(0, 1)


def fly(
    start: Tensor,
    judge: Callable[[Tensor], Judged],
    swarm: Swarm,
    generator: torch.Generator,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Tensor, Judged, list[float]]:
    """Let particles fly and return the best position, what it is worth, and the best value after every step.

    Args:
        start: ``(P, D)`` float64, the positions at the start.
        judge: From a ``(D,)`` position to its worth.
        swarm: How particles move.
        generator: For r1, r2 and bits.
        report: Called after every particle that was judged.

    Example:
        >>> def near(position):
        ...     return Judged(-float((position - 0.3).abs().sum()))
        >>> start = torch.rand(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> best, worth, history = fly(start, near, Swarm(steps=40), torch.Generator().manual_seed(1))
        >>> [round(share, 2) for share in best.tolist()], history == sorted(history)
        ([0.3, 0.3], True)
    """
    x, v = start.clone(), torch.zeros_like(start)
    own, worths = start.clone(), list[Judged]()
    best, top = start[0].clone(), None
    history: list[float] = []
    total = len(start) * (swarm.steps + 1)
    for step in range(swarm.steps + 1):
        if step:
            r1, r2, drawn = (torch.rand(start.shape, generator=generator, dtype=start.dtype) for _ in range(3))
            v = swarm.velocity(v, x, own, best, r1, r2)
            x = swarm.moved(x, v, drawn)
        for place, position in enumerate(x):
            worth = judge(position)
            if step == 0:
                worths.append(worth)
            elif better(worth, worths[place]):
                worths[place], own[place] = worth, position
            if top is None or better(worth, top):
                top, best = worth, position.clone()
            report(step * len(start) + place + 1, total)
        assert top is not None
        history.append(top.value)
    assert top is not None
    return best, top, history
