"""The feature maps of coupled groups, read ahead and held as far as they fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from infoprune.data.batches import Batch, Batches, FirstImages
from infoprune.errors import InputError
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.network.feature_maps import Tap
from infoprune.network.group_maps import bytes_per_image, collect_maps
from infoprune.progress import Progress, silent


@dataclass
class LayerMaps:
    """Feature maps of the groups of a network over some images.

    Args:
        model: The network; left as it is.
        groups: In the order in which they will be asked for, more or less.
        batches: ``(images, labels)`` pairs, iterable more than once.
        tap: Where the maps are read.
        images: Largest number of images that are read.
        memory: Bytes that may be held; one group always is.
        progress: Called after every batch.

    Example:
        >>> from infoprune import zoo
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net, images = zoo.build("digits").eval(), torch.rand(10, 1, 8, 8)
        >>> maps = LayerMaps(net, find_groups(net, images).groups, [(images, torch.arange(10))])
        >>> maps.of("features.0").shape
        torch.Size([10, 16, 8, 8])
    """

    model: nn.Module
    groups: Sequence[CoupledGroup]
    batches: Batches
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
            self._held = {}  # before others are read, so that both are never held at once
            self._held = self._read(self._ahead(name), self.images)
        return self._held[name]

    def _ahead(self, name: str) -> list[CoupledGroup]:
        first = next(i for i, group in enumerate(self.groups) if group.name == name)
        if not self._bytes:
            per_image = bytes_per_image(self.model, self.batches, self.groups, self.tap)
            images = FirstImages(self.batches, self.images).most_images()
            self._bytes = {one: size * images for one, size in per_image.items()}
        chosen, left = [self.groups[first]], self.memory - self._bytes[name]
        for group in self.groups[first + 1 :]:
            left -= self._bytes[group.name]
            if left < 0:
                break
            chosen.append(group)
        return chosen

    def _read(self, groups: Sequence[CoupledGroup], images: int | None) -> dict[str, Tensor]:
        batches = FirstImages(self.batches, images)
        total = batches.number_of_batches()

        def read() -> Iterator[Batch]:
            for done, batch in enumerate(batches, 1):
                yield batch
                self.progress("reading feature maps", done, max(total, done))

        maps, labels = collect_maps(self.model, read(), groups, self.tap)
        if labels is None:
            raise InputError("layers cut one after the other need labels: give (images, labels) pairs")
        self.labels = labels
        return maps
