"""How good a network would be with only some filters kept, measured on the network really cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from infoprune.device import device_of
from infoprune.evaluation import evaluate
from infoprune.layout import fastest_layout, laid_out
from infoprune.network import surgery
from infoprune.network.groups import Groups
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
        repair: A repair that each cut network is given before it is measured, by name; by default none is.
        repair_images: What it is given, without a look at labels.
        base_accuracy: What losses are counted from; by default the accuracy of the whole network, repaired like
            the cut ones.
        half: Measure in bfloat16, which takes a third of the time on processors made for it.
    """

    model: nn.Module
    example: Tensor
    groups: Groups
    held_out: Iterable[Any]
    repair: str | None = None
    repair_images: Iterable[Any] = ()
    base_accuracy: float | None = None
    half: bool = False
    _known: dict[tuple[Any, ...], float] = field(init=False, default_factory=dict)

    def accuracy(self, kept: Kept) -> float:
        """Return the top-1 accuracy in percent with only these filters of the named groups."""
        key = tuple(sorted((name, tuple(some)) for name, some in kept.items()))
        if key not in self._known:
            network = self.cut(kept)
            with torch.autocast(device_of(network).type, torch.bfloat16, enabled=self.half):
                if self.half and network is not self.model:
                    network = laid_out(network, self._layout)
                self._known[key] = evaluate(network, self.held_out).accuracy
        return self._known[key]

    @cached_property
    def _layout(self) -> torch.memory_format:
        return fastest_layout(self.example, self.model)

    @property
    def base(self) -> float:
        """Accuracy that losses are counted from, in percent.

        The whole network is given the repair too: what batch norm loses by statistics of a few images, three points
        on images that a ResNet was trained on, is not the cut's doing.
        """
        if self.base_accuracy is None:
            self.base_accuracy = self.accuracy({})
        return self.base_accuracy

    def cut(self, kept: Kept) -> nn.Module:
        """Return the network with only these filters of the named groups, repaired where that was asked for."""
        plan, small = self.plan(kept), self.model
        if any(decision.removed for decision in plan.decisions.values()):
            small = surgery.apply(plan, self.model, self.example, groups=self.groups, check=False)
        if self.repair is None:
            return small
        return repaired(small, self.model, self.repair_images, plan, self.groups, method=self.repair)

    def plan(self, kept: Kept) -> Plan:
        """Return the plan that keeps these filters of the named groups."""
        by_name = self.groups.by_name()
        return Plan({name: LayerDecision(name, by_name[name].filters, tuple(some)) for name, some in kept.items()})
