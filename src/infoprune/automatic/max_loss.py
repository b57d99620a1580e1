"""The smallest network that loses no more than is allowed, on held-out images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from infoprune.automatic.descent import Level
from infoprune.automatic.effort import Allowance
from infoprune.automatic.prune import Automatic, Setting, finish
from infoprune.errors import InputError
from infoprune.plan import Budget

Score = Callable[[nn.Module], float]
"""What is measured of a network on held-out images, in points: higher is better."""

# What is removed in one step at first, and the finest step, in shares of the original's MACs.
_FIRST_STEP = 0.1
_FINEST_STEP = 0.02
_LEAST = 0.05


@dataclass(frozen=True)
class Tried:
    """One network that was judged.

    Args:
        macs: Share of the MACs that was asked for.
        loss: Points lost on held-out images.
        allowed: Whether that is within the loss that is allowed.
    """

    macs: float
    loss: float
    allowed: bool


def smallest_within(
    setting: Setting, max_loss: float, score: Score, spend: Allowance, minutes: float | None = None
) -> tuple[Automatic, tuple[Tried, ...]]:
    """Walk down from the original while held-out images allow it; the step is halved where they do not.

    Every network is cut from the repaired one before it, so that what was computed is used again.

    Args:
        setting: What the run starts with.
        max_loss: Points that may be lost, as ``score`` counts them.
        score: Measures a network on images that no repair of this run fits.
        spend: What the last repair may spend.
        minutes: Minutes left for the last repair.

    Raises:
        InputError: Not even the smallest cut stays within the loss.
    """
    whole = score(setting.descent.original)
    level, reached, step = setting.start, 1.0, _FIRST_STEP
    last: Level | None = None
    tried: list[Tried] = []
    while step >= _FINEST_STEP and reached - step >= _LEAST:
        asked = reached - step
        try:
            cut = setting.descent.cut(level, Budget(macs=asked))
        except InputError:
            step /= 2  # the layers' limits are reached
            continue
        below = setting.descent.repair(cut)
        loss = whole - score(below.model)
        tried.append(Tried(asked, loss, loss <= max_loss))
        if loss <= max_loss:
            level, last, reached = below, below, asked
        else:
            step /= 2
    if last is None:
        least = min(one.loss for one in tried) if tried else float("nan")
        raise InputError(
            f"no smaller network stays within {max_loss:g} points: the least loss was {least:.2f} points at "
            f"{100 * (1 - _FINEST_STEP):g} % of the MACs; allow more, or give more images"
        )
    # The network that was judged is the one that is returned, unless a further repair comes nearer.
    judged = finish(setting, replace(last, model=last.model), spend, minutes)
    if whole - score(judged.model) > max_loss:
        assert last.plan is not None
        judged = replace(judged, plan=last.plan, model=last.model, repair="least-squares")
    return judged, tuple(tried)


def accuracy_on(images: Sequence[Tensor], labels: Sequence[Tensor]) -> Score:
    """Return what measures top-1 accuracy in percent."""

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        right = sum(int((model(x).argmax(1) == y.to(x.device)).sum()) for x, y in zip(images, labels, strict=True))
        return 100 * right / max(1, sum(map(len, labels)))

    return score


def agreement_on(images: Sequence[Tensor], original: nn.Module) -> Score:
    """Return what measures on how many images a network names the class that the original names, in percent."""
    with torch.no_grad():
        named = [original(some).argmax(1) for some in images]
    return accuracy_on(images, named)
