"""What a batch is: the one place that takes batches apart, limits them and counts them.

A batch is a tensor of images, or a pair of images and labels. Everything else reads batches through :func:`parse`, so
that another form of batch is added here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from infoprune.device import place_of
from infoprune.errors import InputError

Batches: TypeAlias = Iterable[Any]
"""Batches of images, with or without labels: a ``DataLoader``, a list, or anything else that yields batches."""


@dataclass(frozen=True)
class Batch:
    """One batch.

    Args:
        images: ``(n, ...)``, what the network is called with; at least one image.
        labels: What came with the images, ``None`` where nothing did. Whether these are class indices is checked by
            ``classes``, so that what reads no labels accepts any.
    """

    images: Tensor
    labels: Any = None

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int) -> Batch:
        """Return the first ``count`` images with their labels, all where there are fewer."""
        return Batch(self.images[:count], None if self.labels is None else self.labels[:count])

    def placed(self, device: torch.device | None, dtype: torch.dtype | None) -> Tensor:
        """Return the images on a device and, where they are real numbers, in a precision; ``None`` leaves it."""
        return self.images.to(device=device, dtype=dtype if self.images.is_floating_point() else None)

    def classes(self) -> Tensor | None:
        """Return the ``(n,)`` class indices, ``None`` where there are no labels.

        Raises:
            InputError: The labels are not one class index per image.
        """
        if self.labels is None:
            return None
        try:
            labels = torch.as_tensor(self.labels)
        except (TypeError, ValueError, RuntimeError) as error:
            kind = type(self.labels).__name__
            raise InputError(f"labels are one class index per image, as a tensor, not {kind}") from error
        if labels.shape != (len(self),) or labels.is_floating_point():
            raise InputError(
                f"labels are one class index per image: {len(self)} images came with {labels.dtype} labels "
                f"of shape {tuple(labels.shape)}"
            )
        return labels


def parse(batch: Any) -> Batch:
    """Take one batch apart.

    Args:
        batch: ``(n, ...)`` images, or a tuple or list of images and their labels.

    Raises:
        InputError: It is something else, or has no images.

    Example:
        >>> import torch
        >>> len(parse((torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]))))
        4
        >>> parse(torch.zeros(4, 3, 8, 8)).labels is None
        True
    """
    if isinstance(batch, Batch):
        return batch
    parts = list(batch) if isinstance(batch, (tuple, list)) else [batch]
    if not parts or len(parts) > 2 or not isinstance(parts[0], Tensor) or parts[0].ndim < 2:
        raise InputError(f"a batch is (images, labels) or images alone, as tensors, not {_form(batch)}")
    if not len(parts[0]):
        raise InputError("a batch has no images: drop the empty batches")
    return Batch(*parts)


def parsed(batches: Batches) -> Iterator[Batch]:
    """Yield every batch taken apart.

    Raises:
        InputError: A batch has another form, or there are none.
    """
    found = False
    for batch in batches:
        found = True
        yield parse(batch)
    if not found:
        raise InputError("there are no images: the loader is empty, give at least one batch")


def labelled(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the ``(n, C, H, W)`` images and ``(n,)`` class indices of every batch.

    Raises:
        InputError: A batch has another form, has no labels, or labels that are not one class index per image.
    """
    for batch in map(parse, batches):
        labels = batch.classes()
        if labels is None:
            raise InputError("each batch must be a pair of tensors, images and labels: these are images alone")
        if batch.images.ndim != 4:
            raise InputError(
                f"a batch needs (n, C, H, W) images and (n,) labels, not {tuple(batch.images.shape)} images"
            )
        yield batch.images, labels


@dataclass(frozen=True)
class FirstImages:
    """The first images of some batches; the last batch is cut to fit.

    Args:
        batches: Batches of any form.
        limit: Number of images at most, ``None`` for all.
    """

    batches: Batches
    limit: int | None = None

    def __iter__(self) -> Iterator[Batch]:
        left = self.limit
        for batch in map(parse, self.batches):
            yield batch if left is None else batch.first(left)
            if left is not None:
                left -= len(batch)
                if left <= 0:
                    return

    def number_of_batches(self) -> int:
        """Return the number of batches as far as it is known without reading them, else 0."""
        batches = number_of_batches(self.batches)
        if self.limit is None:
            return batches
        size = getattr(self.batches, "batch_size", None)
        if not isinstance(size, int) and isinstance(self.batches, Sequence) and batches:
            size = len(parse(self.batches[0]))
        return min(batches, -(-self.limit // size)) if size else batches

    def most_images(self) -> int:
        """Return how many images there are at most; they are read only where nothing else shows it."""
        if self.limit is not None:
            return self.limit
        try:
            return len(self.batches.dataset)  # type: ignore[attr-defined]
        except (AttributeError, TypeError):
            return number_of_images(self.batches)


@dataclass(frozen=True)
class EveryNth:
    """Every n-th image of some batches, or all others; iterable more than once.

    Args:
        batches: Batches of any form.
        every: n.
        chosen: Whether it is every n-th image, or all others.

    Example:
        >>> import torch
        >>> images = [torch.arange(7.0)[:, None], torch.arange(7.0, 12)[:, None]]
        >>> [batch.images.flatten().tolist() for batch in EveryNth(images, 5, chosen=True)]
        [[4.0], [9.0]]
    """

    batches: Batches
    every: int
    chosen: bool

    def __iter__(self) -> Iterator[Batch]:
        seen = 0
        for batch in map(parse, self.batches):
            held = (torch.arange(len(batch)) + seen) % self.every == self.every - 1
            seen += len(batch)
            mask = held if self.chosen else ~held
            if mask.any():
                labels = batch.classes()
                yield Batch(batch.images[mask.to(batch.images.device)], None if labels is None else labels[mask])


def number_of_batches(batches: Batches) -> int:
    """Return the number of batches, 0 where only reading them shows it."""
    try:
        return len(batches) if isinstance(batches, Sized) else 0
    except TypeError:  # a DataLoader over a stream
        return 0


def number_of_images(batches: Batches) -> int:
    """Return the number of images of all batches, by reading them.

    Raises:
        InputError: A batch has another form.
    """
    return sum(len(parse(batch)) for batch in batches)


def images_of(batches: Batches, model: nn.Module) -> Iterator[Tensor]:
    """Yield the images of every batch where a network is and in its precision; labels are not read.

    Raises:
        InputError: A batch has another form, or there are none.
    """
    device, dtype = place_of(model)
    for batch in parsed(batches):
        yield batch.placed(device, dtype)


def example_of(batches: Batches, model: nn.Module, count: int = 2) -> Tensor:
    """Return the first ``count`` images of the first batch, where a network is and in its precision.

    Raises:
        InputError: There are no batches, the first has another form, or they can be read only once.
    """
    check_repeatable(batches)
    return next(images_of(batches, model))[:count]


def is_repeatable(batches: Batches) -> bool:
    """Return whether batches can be read more than once."""
    return not isinstance(batches, Iterator)


def check_repeatable(batches: Batches) -> None:
    """Refuse batches that can be read only once.

    Raises:
        InputError: They can be.
    """
    if not is_repeatable(batches):
        raise InputError("the images must be iterable more than once: give a DataLoader or a list of batches")


def _form(batch: Any) -> str:
    if isinstance(batch, (tuple, list)):
        return f"{type(batch).__name__} of {', '.join(type(part).__name__ for part in batch) or 'nothing'}"
    if isinstance(batch, Tensor):
        return f"a tensor of shape {tuple(batch.shape)}"
    return type(batch).__name__
