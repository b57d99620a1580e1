"""Batches of any loader as pairs of images and labels, or images alone where nobody reads the labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from infoprune.errors import InputError

_IMAGES = ("pixel_values", "images", "image", "inputs", "input", "x")
_LABELS = ("labels", "label", "targets", "target", "y")
# Networks are traced with one batch of each shape; of more shapes, these many.
_SHAPES = 8


class Pairs:
    """A loader whose batches are read as ``(images, labels)`` or images alone, as often as the loader can be read.

    Args:
        batches: Yields tensors of images, ``(images, labels, ...)`` tuples or lists, or dicts with ``pixel_values``,
            ``images`` or the like; images are ``(n, ...)`` with channels along axis 1.
        labels: Whether labels are read. Where they are not, labels of any form are passed over.

    Example:
        >>> images = torch.zeros(4, 3, 8, 8)
        >>> [tuple(batch.shape) for batch in Pairs([{"pixel_values": images, "labels": None}], labels=False)]
        [(4, 3, 8, 8)]
    """

    def __init__(self, batches: Iterable[Any], *, labels: bool) -> None:
        self.batches = batches
        self.labels = labels
        self._examples: list[Tensor] | None = None

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            images, labels = _images_and_labels(batch)
            yield images if not _are_classes(labels, images) and not self.labels else _joined(images, labels)

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name in ("dataset", "batch_size"):
            return getattr(self.batches, name)
        raise AttributeError(name)

    def examples(self) -> list[Tensor]:
        """Return the first two images of every shape that the batches have, of the first eight shapes.

        Raises:
            InputError: There are no batches.
        """
        if self._examples is None:
            found: dict[tuple[int, ...], Tensor] = {}
            with torch.random.fork_rng([]):
                for batch in self:
                    images = batch if isinstance(batch, Tensor) else batch[0]
                    if len(found) < _SHAPES:
                        found.setdefault(tuple(images.shape[1:]), images[:2])
            if not found:
                raise InputError("there are no calibration images: the loader is empty")
            self._examples = list(found.values())
        return self._examples


def as_pairs(batches: Iterable[Any], *, labels: bool) -> Iterable[Any]:
    """Return batches that can be read more than once as pairs; others are as they are, for the next door to refuse."""
    if isinstance(batches, Iterator | Pairs) or iter(batches) is batches:
        return batches
    return Pairs(batches, labels=labels)


def examples_of(batches: Iterable[Any]) -> list[Tensor]:
    """Return two images of every shape that the batches have.

    Raises:
        InputError: There are no batches, or one has no images.
    """
    return (batches if isinstance(batches, Pairs) else Pairs(batches, labels=False)).examples()


def number_of_images(batches: Iterable[Any]) -> int:
    """Return how many images all batches have together, by reading them."""
    return sum(len(_images_and_labels(batch)[0]) for batch in batches)


def _images_and_labels(batch: Any) -> tuple[Tensor, Any]:
    parts: list[Any]
    if isinstance(batch, Mapping):
        images = [batch[name] for name in _IMAGES if isinstance(batch.get(name), Tensor)]
        parts = [*images[:1], *[batch[name] for name in _LABELS if name in batch][:1]]
    else:
        parts = list(batch) if isinstance(batch, tuple | list) else [batch]
    if not parts or not isinstance(parts[0], Tensor) or parts[0].ndim < 2:
        raise InputError(
            "each batch must be images, a pair of tensors, images and labels, or a dict with 'pixel_values' or 'images'"
        )
    if not len(parts[0]):
        raise InputError("a batch has no images: drop the empty batches")
    return parts[0], parts[1] if len(parts) > 1 else None


def _are_classes(labels: Any, images: Tensor) -> bool:
    return isinstance(labels, Tensor) and labels.shape == images.shape[:1] and not labels.is_floating_point()


def _joined(images: Tensor, labels: Any) -> Any:
    return images if labels is None else [images, labels]
