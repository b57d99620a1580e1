"""How good a network would be with only some filters kept, measured on the network really cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from infoprune.data.batches import Batches
from infoprune.measure.accuracy import ClassCounts, class_counts_of
from infoprune.network import surgery
from infoprune.network.coupled_groups import Examples, Groups
from infoprune.plan import LayerDecision, Plan
from infoprune.repair import repaired

Kept = Mapping[str, Sequence[int]]


@dataclass
class Judge:
    """Accuracy on held-out images.

    Channels that go are gone with their batch norm, not held at the constant that a norm makes of zero: what is
    measured is the small network.

    Args:
        model: The whole network; left as it is.
        example: A batch to trace with.
        groups: What ``find_groups`` said of the network.
        held_out: ``(images, labels)`` pairs that chose nothing else, iterable more than once.
        repair: A repair, by name, that runs on each cut network before it is measured; by default none.
        repair_images: The images of that repair; labels are not read.
        base_accuracy: What losses are counted from; by default the accuracy of the whole network, repaired like
            the cut ones.
        half: Measure in bfloat16, which takes a third of the time on processors made for it.
        base_classes: What losses of single classes are counted from; by default as for ``base_accuracy``.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> from infoprune.network.coupled_groups import find_groups
        >>> _ = torch.manual_seed(0)
        >>> net, images = zoo.build("digits").eval(), torch.rand(10, 1, 8, 8)
        >>> judge = Judge(net, images, find_groups(net, images), [(images, net(images).argmax(1))])
        >>> judge.base, judge.cut({"features.0": (0, 2, 4)}).features[0].out_channels
        (100.0, 3)
    """

    model: nn.Module
    examples: Examples
    groups: Groups
    held_out: Batches
    repair: str | None = None
    repair_images: Batches = ()
    base_accuracy: float | None = None
    half: bool = False
    base_classes: tuple[float, ...] | None = None
    _known: dict[tuple[Any, ...], ClassCounts] = field(init=False, default_factory=dict)

    def accuracy(self, kept: Kept) -> float:
        """Return the top-1 accuracy in percent with only these filters of the named groups."""
        return self._counts(kept).accuracy

    def classes(self, kept: Kept) -> tuple[float, ...]:
        """Return by class the accuracy in percent on its images, NaN without any, with only these filters."""
        return self._counts(kept).sensitivity

    def largest_class_loss(self, kept: Kept) -> float:
        """Return how many points of its accuracy the class loses that loses most, with only these filters."""
        pairs = zip(self.class_base, self.classes(kept), strict=True)
        return max((before - now for before, now in pairs if before == before), default=0.0)

    @property
    def base(self) -> float:
        """Accuracy that losses are counted from, in percent.

        The whole network is repaired too: what batch norm loses by statistics of a few images, three points
        on images that a ResNet was trained on, is not the cut's doing.
        """
        if self.base_accuracy is None:
            self.base_accuracy = self.accuracy({})
        return self.base_accuracy

    @property
    def class_base(self) -> tuple[float, ...]:
        """By class, what its losses are counted from, in percent; see ``base``."""
        if self.base_classes is None:
            self.base_classes = self.classes({})
        return self.base_classes

    def cut(self, kept: Kept) -> nn.Module:
        """Return the network with only these filters of the named groups, repaired where that was asked for."""
        plan, small = self.plan(kept), self.model
        if any(decision.removed for decision in plan.decisions.values()):
            small = surgery.apply(plan, self.model, self.examples, groups=self.groups, check=False)
        if self.repair is None:
            return small
        return repaired(small, self.model, self.repair_images, plan, self.groups, how=self.repair)

    def plan(self, kept: Kept) -> Plan:
        """Return the plan that keeps these filters of the named groups."""
        by_name = self.groups.by_name()
        return Plan({name: LayerDecision(name, by_name[name].filters, tuple(some)) for name, some in kept.items()})

    def _counts(self, kept: Kept) -> ClassCounts:
        decisions = self.plan(kept).decisions
        cut = {name: decision.kept for name, decision in decisions.items() if decision.removed}
        key = tuple(sorted(cut.items()))
        if key not in self._known:
            self._known[key] = class_counts_of(self.cut(cut), self.held_out, half=self.half)
        return self._known[key]
