"""Filters whose map is one constant say nothing: every criterion that reads maps ranks them last."""

from __future__ import annotations

import torch
from torch import Tensor

from infoprune.criteria.base import CriterionInfo, Filters, Importance
from infoprune.entropy.ties import ranking, snapped
from infoprune.errors import InputError


def dead_filters(maps: Tensor) -> Tensor:
    """Return which filters give one constant for every image and position.

    Args:
        maps: ``(n, C, H, W)``.

    Returns:
        ``(C,)`` booleans.

    Example:
        >>> maps = torch.rand(4, 2, 3, 3)
        >>> maps[:, 1] = 0.5
        >>> dead_filters(maps).tolist()
        [False, True]
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

    Example:
        >>> scores = torch.tensor([0.3, 0.9, 0.5], dtype=torch.float64)
        >>> dead_last(scores, torch.tensor([False, True, False]), torch.zeros(3).double()).order
        (2, 0, 1)
    """
    scores, dead, rounding = (each.detach().cpu() for each in (scores.double(), dead, rounding))
    live = (~dead).nonzero().flatten()
    found = torch.zeros_like(scores)
    if len(live):
        found[live] = snapped(scores[live], rounding[live])
        found[dead] = min(0.0, float(found[live].min()))
    order = [*live[ranking(found[live], rounding[live])].tolist(), *dead.nonzero().flatten().tolist()]
    return Importance(found, tuple(order), evidence=evidence, rounding=rounding)


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


class Constant:
    """Whether a filter's map is one constant over all images and positions: scores of 0 and 1, streamed.

    Once every map has changed, the criterion has settled.

    Args:
        filters: The group.
        seed: Not used.

    Example:
        >>> constant = Constant(Filters((torch.rand(2, 1),)))
        >>> constant.update(torch.tensor([[[[1.0, 2.0]], [[3.0, 3.0]]]]), torch.tensor([0]))
        >>> constant.compute().scores.tolist(), constant.settled
        ([1.0, 0.0], False)
    """

    def __init__(self, filters: Filters, *, seed: int = 0) -> None:
        self.extremes = Extremes(filters.name)

    @property
    def settled(self) -> bool:
        """Whether no filter can be constant any more."""
        return self.extremes.low is not None and not bool(self.extremes.dead().any())

    def update(self, maps: Tensor, labels: Tensor) -> None:
        """Take in ``(n, C, ...)`` maps."""
        self.extremes.note(maps)

    def merge(self, other: Constant) -> None:
        """Take in what another instance has seen."""
        self.extremes.merge(other.extremes)

    def compute(self) -> Importance:
        """Return 0 for constant filters and 1 for all others.

        Raises:
            InputError: There were no maps.
        """
        return Importance((~self.extremes.dead()).double())


CONSTANT = CriterionInfo("constant", Constant, "whether a map changes at all")
