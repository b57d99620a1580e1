"""Filters whose map is one constant say nothing: every criterion that reads maps ranks them last."""

from __future__ import annotations

import torch
from torch import Tensor

from infoprune.criteria.base import Importance
from infoprune.entropy.ties import ranking, snapped


def dead_filters(maps: Tensor) -> Tensor:
    """Return which filters give one constant for every image and position.

    Args:
        maps: ``(n, C, H, W)``.

    Returns:
        ``(C,)`` booleans.
    """
    flat = maps.movedim(1, 0).flatten(1)
    return flat.amin(dim=1) == flat.amax(dim=1)


def dead_last(scores: Tensor, dead: Tensor, rounding: Tensor, **evidence: Tensor) -> Importance:
    """Return the importance by scores, with the dead filters at 0 or the least live score and behind all others.

    Args:
        scores: ``(C,)``.
        dead: ``(C,)`` booleans.
        rounding: What each score may be out by, ``(C,)``.
        **evidence: Goes with the answer.
    """
    scores, dead, rounding = (each.detach().cpu() for each in (scores.double(), dead, rounding))
    live = (~dead).nonzero().flatten()
    found = torch.zeros_like(scores)
    if len(live):
        found[live] = snapped(scores[live], rounding[live])
        found[dead] = min(0.0, float(found[live].min()))
    order = [*live[ranking(found[live], rounding[live])].tolist(), *dead.nonzero().flatten().tolist()]
    return Importance(found, tuple(order), evidence=evidence, rounding=rounding)
