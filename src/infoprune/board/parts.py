"""Images divided among the seeds of a board."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from infoprune.data.batches import Batch, Batches, parse


@dataclass(frozen=True)
class Part:
    """One of n parts of some batches, which share no image: every n-th image; iterable more than once.

    Args:
        batches: Batches of any form, iterable more than once.
        parts: n.
        number: Which part, from 0.

    Example:
        >>> images = [torch.arange(4.0)[:, None], torch.arange(4.0, 7)[:, None]]
        >>> [batch.images.flatten().tolist() for batch in Part(images, 3, 1)]
        [[1.0], [4.0]]
    """

    batches: Batches
    parts: int
    number: int

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches with the images of this part; those without are left out."""
        seen = 0
        for batch in map(parse, self.batches):
            mask = (torch.arange(len(batch)) + seen) % self.parts == self.number
            seen += len(batch)
            if mask.any():
                yield batch.chosen(mask)
