"""Filters whose map is one constant say nothing: every criterion that reads maps ranks them last."""

from __future__ import annotations

import torch
from torch import Tensor

from infoprune.criteria.base import Importance
from infoprune.errors import InputError


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


class Extremes:
    """The least and the largest value of every filter's map over all images, streamed.

    Args:
        name: The layer that names the group, for messages.

    Example:
        >>> extremes = Extremes("conv1")
        >>> extremes.note(torch.tensor([[[[1.0, 2.0]], [[3.0, 3.0]]]]))
        >>> extremes.dead().tolist()
        [False, True]
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def note(self, maps: Tensor) -> None:
        """Take in ``(n, C, ...)`` maps."""
        flat = maps.detach().flatten(2)
        self._join(flat.amin(dim=(0, 2)).cpu(), flat.amax(dim=(0, 2)).cpu())

    def merge(self, other: Extremes) -> None:
        """Take in what another instance has seen."""
        if other.low is not None and other.high is not None:
            self._join(other.low, other.high)

    def dead(self) -> Tensor:
        """Return which filters gave one constant, ``(C,)`` booleans.

        Raises:
            InputError: There were no maps.
        """
        if self.low is None or self.high is None:
            raise InputError(f"layer '{self.name}' cannot be scored: there are no feature maps")
        return self.low == self.high

    def _join(self, low: Tensor, high: Tensor) -> None:
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
