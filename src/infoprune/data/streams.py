"""A sample of a stream that can be read only once: uniform or balanced over the classes, in one pass."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from infoprune.data.batches import Batches, parse
from infoprune.data.given import BATCH, as_batches
from infoprune.errors import InputError


@dataclass(frozen=True)
class _Kept:
    """An image that is in the sample, with its number in the stream."""

    number: int
    image: Tensor
    label: Any


@dataclass
class _Reservoir:
    """A uniform sample of what has passed so far (algorithm R, Vitter 1985)."""

    kept: list[_Kept] = field(default_factory=list)
    seen: int = 0

    def place(self, most: int, drawn: random.Random) -> int | None:
        """Return where the next one is kept, ``None`` where it is not."""
        self.seen += 1
        if len(self.kept) < most:
            return len(self.kept)
        place = drawn.randrange(self.seen)
        return place if place < most else None

    def shrink(self, most: int, drawn: random.Random) -> None:
        """Keep a part of the sample, which is a uniform sample too."""
        if len(self.kept) > most:
            self.kept = drawn.sample(self.kept, most)


def sample_of(
    images: Any, count: int = 500, *, balanced: bool = True, seed: int = 0, batch_size: int = BATCH
) -> list[tuple[Tensor, Tensor] | Tensor]:
    """Draw a sample of images from a stream, such as calibration images for ``prune``, by reading the stream once.

    No more images than ``count`` are held, and at most one of each class. The order is that of the stream.

    Args:
        images: Batches of any form: a ``DataLoader`` over an ``IterableDataset``, WebDataset or Hugging Face
            ``datasets``, or any iterable of ``(images, labels)`` batches, dicts, or images alone.
        count: Number of images to draw.
        balanced: Whether every class has about the same number of images, where the images have labels. A class with
            fewer images has all of them.
        seed: Seed of the draw.
        batch_size: Images in a batch of the sample.

    Returns:
        ``(images, labels)`` batches, or images alone where the stream has no labels. Images of one size follow one
        another in a batch.

    Raises:
        InputError: There are no images, or ``count`` is below 1.

    Example:
        >>> stream = ((torch.zeros(8, 1, 8, 8), torch.arange(8) % 4) for _ in range(100))
        >>> sample = sample_of(stream, 40)
        >>> [torch.bincount(torch.cat([labels for _, labels in sample])).tolist(), len(sample)]
        [[10, 10, 10, 10], 1]
    """
    if count < 1 or batch_size < 1:
        raise InputError(
            f"a sample has 1 image or more, in batches of 1 or more, not {count} in batches of {batch_size}"
        )
    drawn = random.Random(seed)
    classes: dict[Any, _Reservoir] = {}
    for number, image, label in _one_by_one(as_batches(images)):
        key = label if balanced else None
        if key not in classes:
            classes[key] = _Reservoir()
            for one in classes.values():
                one.shrink(_share(count, len(classes)), drawn)
        reservoir = classes[key]
        place = reservoir.place(_share(count, len(classes)), drawn)
        if place is not None:
            # A copy, so that the rest of its batch is let go.
            reservoir.kept[place : place + 1] = [_Kept(number, image.clone(), label)]
    if not classes:
        raise InputError("there are no images: the stream is empty")
    return list(_batched(_trimmed(classes, count, drawn), batch_size))


def _share(count: int, classes: int) -> int:
    """Return how many images of each class are held: enough that none of the sample is missing in the end."""
    return max(1, -(-count // classes))


def _trimmed(classes: dict[Any, _Reservoir], count: int, drawn: random.Random) -> list[_Kept]:
    """Return at most ``count`` images in the order of the stream; the largest classes lose one each."""
    excess = sum(len(one.kept) for one in classes.values()) - count
    largest = sorted(classes.values(), key=lambda one: -len(one.kept))
    for one in largest[: max(0, excess)]:
        one.shrink(len(one.kept) - 1, drawn)
    return sorted((kept for one in classes.values() for kept in one.kept), key=lambda kept: kept.number)


def _one_by_one(batches: Batches) -> Iterator[tuple[int, Tensor, Any]]:
    number = 0
    for batch in map(parse, batches):
        known = batch.known_classes()
        labels = [None] * len(batch) if known is None else known.tolist()
        for image, label in zip(batch.images, labels, strict=True):
            yield number, image, label
            number += 1


def _batched(kept: list[_Kept], size: int) -> Iterator[tuple[Tensor, Tensor] | Tensor]:
    for _, group in groupby(kept, key=lambda one: (one.image.shape, one.label is None)):
        some = list(group)
        for first in range(0, len(some), size):
            part = some[first : first + size]
            images = torch.stack([one.image for one in part])
            yield images if part[0].label is None else (images, torch.tensor([one.label for one in part]))
