"""Filters whose map is one constant say nothing: every criterion that reads maps ranks them last."""

from __future__ import annotations

import torch
from torch import Tensor

from infoprune.criteria.base import Importance


def dead_filters(maps: Tensor) -> Tensor:
    """Return which filters give one constant for every image and position.

    Args:
        maps: ``(n, C, H, W)``.

    Returns:
        ``(C,)`` booleans.
    """
    flat = maps.movedim(1, 0).flatten(1)
    return flat.amin(dim=1) == flat.amax(dim=1)


def dead_last(scores: Tensor, dead: Tensor, **evidence: Tensor) -> Importance:
    """Return the importance by scores, with the dead filters at 0 or the least live score and behind all others.

    Args:
        scores: ``(C,)``.
        dead: ``(C,)`` booleans.
        **evidence: Goes with the answer.
    """
    scores, dead = scores.detach().to("cpu", torch.float64), dead.cpu()
    least = min(0.0, float(scores[~dead].min())) if not dead.all() else 0.0
    scores = torch.where(dead, least, scores)
    ranked = torch.sort(scores, descending=True, stable=True).indices
    order = torch.cat([ranked[~dead[ranked]], ranked[dead[ranked]]])
    return Importance(scores, tuple(order.tolist()), evidence=evidence)
