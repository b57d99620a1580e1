"""The feature maps of coupled groups, read ahead and held as far as they fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from infoprune.criteria.base import Criterion, CriterionInfo, Filters, Importance, Tap
from infoprune.criteria.holding import Holding
from infoprune.criteria.scoring import score
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.progress import Progress, silent


@dataclass
class LayerMaps:
    """Feature maps of the groups of a network over some images.

    Args:
        model: The network; left as it is.
        groups: In the order in which they will be asked for, more or less.
        batches: ``(images, labels)`` pairs, iterable more than once.
        tap: Where the maps are read.
        images: At most so many images are read.
        memory: Bytes that may be held; one group always is.
        progress: Told after every batch.
    """

    model: nn.Module
    groups: Sequence[CoupledGroup]
    batches: Iterable[Any]
    tap: Tap = "activation"
    images: int | None = None
    memory: int = 1 << 30
    progress: Progress = silent
    labels: Tensor = field(init=False, default_factory=lambda: torch.empty(0))
    _held: dict[str, Tensor] = field(init=False, default_factory=dict)
    _bytes: dict[str, int] = field(init=False, default_factory=dict)

    def of(self, name: str) -> Tensor:
        """Return the ``(n, C, H, W)`` maps of a group; of several layers side by side, ``(n, C, 1, D)``.

        Where they are not held, they are read together with those of the groups that come next, in place of all
        others that are held.
        """
        if name not in self._held:
            self._held = {}
            self._read(self._ahead(name), self.images, self._held)
        return self._held[name]

    def _ahead(self, name: str) -> list[CoupledGroup]:
        first = next(i for i, group in enumerate(self.groups) if group.name == name)
        if not self._bytes:
            small: dict[str, Tensor] = {}
            self._read(self.groups, 2, small)
            per_image = {one: maps[0].numel() * maps.element_size() for one, maps in small.items()}
            self._bytes = {one: size * self._count() for one, size in per_image.items()}
        chosen, left = [self.groups[first]], self.memory - self._bytes[name]
        for group in self.groups[first + 1 :]:
            left -= self._bytes[group.name]
            if left < 0:
                break
            chosen.append(group)
        return chosen

    def _count(self) -> int:
        if self.images is not None:
            return self.images
        return sum(len(batch[1]) for batch in self.batches)

    def _read(self, groups: Sequence[CoupledGroup], images: int | None, into: dict[str, Tensor]) -> None:
        def take(name: str, maps: Tensor, labels: Tensor) -> Importance:
            into[name], self.labels = maps, labels
            return Importance(torch.zeros(maps.shape[1], dtype=torch.float64))

        def hold(filters: Filters, *, seed: int = 0) -> Criterion:
            return Holding(partial(take, filters.name), filters.name)

        info = CriterionInfo("maps", hold, "reads feature maps", needs_labels=True, holds_maps=True, images=images)
        score(self.model, groups, self.batches, info, tap=self.tap, memory=1 << 62, progress=self._told)

    def _told(self, stage: str, done: int, total: int) -> None:
        if stage == "reading feature maps":
            self.progress(stage, done, total)
