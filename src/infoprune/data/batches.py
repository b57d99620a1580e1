"""What a batch is: the one place that takes batches apart, limits them and counts them.

A batch is a tensor of images, a pair of images and labels, or a dict that holds them. Everything else reads batches
through :func:`parse`, so that another form of batch is added here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from infoprune.device import place_of
from infoprune.errors import InputError

Batches: TypeAlias = Iterable[Any]
"""Batches of images, with or without labels: a ``DataLoader``, a list, or anything else that yields batches."""

Chosen: TypeAlias = Callable[[int], bool]
"""Whether the batch of a number, from 0, is read."""

_IMAGES = ("pixel_values", "images", "image", "inputs", "input", "x")
LABELS = ("labels", "label", "targets", "target", "y")
# Values of the images that a processor passes at a time: larger feature maps do not fit its caches, and the GNU C
# library returns each block above 32 MiB to the system, which clears its pages for every layer. EfficientNet-Lite0 at
# 224 pixels: batches of 50 images take 2.4 times the processor time of batches of 6.
_VALUES_AT_A_TIME = 1 << 20
# Networks are traced with one batch of each shape: of these shapes at most.
_SHAPES = 8


@dataclass(frozen=True)
class Batch:
    """One batch.

    Args:
        images: ``(n, ...)``, what the network is called with; at least one image.
        labels: What came with the images, ``None`` where nothing did. Whether these are class indices is checked by
            ``classes``, so that what reads no labels accepts any.

    Example:
        >>> Batch(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])).first(2).classes()
        tensor([0, 1])
    """

    images: Tensor
    labels: Any = None

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int) -> Batch:
        """Return the first ``count`` images with their labels, all where there are fewer."""
        return self if count >= len(self) else self.chosen(torch.arange(len(self)) < count)

    def chosen(self, mask: Tensor) -> Batch:
        """Return the images that an ``(n,)`` mask chooses, and their labels where there is one per image.

        Example:
            >>> some = Batch(torch.zeros(3, 2), ["cat", "dog", "cow"]).chosen(torch.tensor([True, False, True]))
            >>> len(some), some.labels
            (2, ['cat', 'cow'])
            >>> boxes = Batch(torch.zeros(3, 2), {"classes": torch.tensor([4, 5, 6])})
            >>> boxes.chosen(torch.tensor([True, False, True])).labels
            {'classes': tensor([4, 6])}
        """
        return Batch(self.images[mask.to(self.images.device)], _chosen(self.labels, mask))

    def placed(self, device: torch.device | None, dtype: torch.dtype | None) -> Tensor:
        """Return the images on a device and, where they are real numbers, in a precision; ``None`` leaves it."""
        return self.images.to(device=device, dtype=dtype if self.images.is_floating_point() else None)

    def classes(self) -> Tensor | None:
        """Return the ``(n,)`` int64 class indices, ``None`` where there are no labels.

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
        return labels.long()

    def known_classes(self) -> Tensor | None:
        """Return the ``(n,)`` class indices, ``None`` where there are no labels or these are something else."""
        try:
            return self.classes()
        except InputError:
            return None


def _chosen(labels: Any, mask: Tensor) -> Any:
    """Return the labels of the chosen images: of tensors and lists with one entry per image, alone or in containers."""
    count = len(mask)
    if isinstance(labels, Tensor):
        return labels[mask.to(labels.device)] if labels.shape[:1] == (count,) else None
    if isinstance(labels, Mapping):
        parts = {name: _chosen(part, mask) for name, part in labels.items()}
        return None if any(part is None for part in parts.values()) else parts
    if not isinstance(labels, list | tuple):
        return None
    if len(labels) == count:
        return [one for one, is_chosen in zip(labels, mask.tolist(), strict=True) if is_chosen]
    several = [_chosen(part, mask) for part in labels]
    return None if not several or any(part is None for part in several) else type(labels)(several)


def joined(batches: Sequence[Batch], most: int) -> list[Batch]:
    """Return the images of small batches in larger ones, in their order.

    Args:
        batches: Some batches. Images of other shapes, or with labels of another form, are not joined.
        most: Number of images of a batch at most.

    Example:
        >>> few = [Batch(torch.zeros(2, 3), torch.tensor([0, 1])), Batch(torch.zeros(1, 3), torch.tensor([2]))] * 2
        >>> [(len(batch), batch.labels.tolist()) for batch in joined(few, 4)]
        [(3, [0, 1, 2]), (3, [0, 1, 2])]
    """
    found: list[list[Batch]] = []
    for batch in batches:
        last = found[-1] if found else []
        if last and sum(map(len, last)) + len(batch) <= most and _form_of(last[0]) == _form_of(batch):
            last.append(batch)
        else:
            found.append([batch])
    return [some[0] if len(some) == 1 else _as_one(some) for some in found]


def regrouped(images: Iterable[Tensor], most: Callable[[Tensor], int], least: int) -> Iterator[Tensor]:
    """Yield images in batches that are neither large nor, but for the last of a shape, small.

    Args:
        images: Batches of images, which may differ in shape from one to the next.
        most: From a batch to the number of such images of a batch at most; larger ones are divided.
        least: Batches of fewer images wait for the next ones, up to ``most``.

    Example:
        >>> [len(some) for some in regrouped([torch.zeros(1, 3)] * 5 + [torch.zeros(9, 3)], lambda images: 4, least=2)]
        [2, 2, 4, 4, 2]
    """
    waiting: Tensor | None = None
    for some in images:
        if waiting is not None and waiting.shape[1:] != some.shape[1:]:
            yield waiting
            waiting = None
        whole = some if waiting is None else torch.cat([waiting, some])
        size = max(1, most(whole))
        # Copies, so that the batch they are of can go.
        parts = [part.clone() for part in torch.split(whole, size)] if len(whole) > size else [whole]
        waiting = parts.pop() if len(parts[-1]) < min(least, size) else None
        yield from parts
    if waiting is not None:
        yield waiting


def _form_of(batch: Batch) -> Any:
    """Return what two batches share that can be joined."""

    def form(labels: Any) -> Any:
        if isinstance(labels, Tensor):
            return labels.dtype, labels.shape[1:], labels.device
        if isinstance(labels, Mapping):
            return {name: form(part) for name, part in labels.items()}
        # One entry per image, or one per kind of label: a list does not say.
        return None if labels is None else object()

    return batch.images.shape[1:], batch.images.dtype, batch.images.device, form(batch.labels)


def _as_one(batches: Sequence[Batch]) -> Batch:
    def together(parts: Sequence[Any]) -> Any:
        if isinstance(parts[0], Mapping):
            return {name: together([part[name] for part in parts]) for name in parts[0]}
        return None if parts[0] is None else torch.cat(list(parts))

    return Batch(torch.cat([batch.images for batch in batches]), together([batch.labels for batch in batches]))


def parse(batch: Any) -> Batch:
    """Take one batch apart.

    Args:
        batch: ``(n, ...)`` images; a tuple or list of images, their labels and anything more, which is not read; or a
            dict with images under ``pixel_values``, ``images`` or the like, and labels under ``labels`` or the like.

    Raises:
        InputError: It is something else, or has no images.

    Example:
        >>> import torch
        >>> len(parse((torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]))))
        4
        >>> parse(torch.zeros(4, 3, 8, 8)).labels is None
        True
        >>> len(parse({"pixel_values": torch.zeros(2, 3, 8, 8), "labels": torch.tensor([0, 1])}))
        2
    """
    if isinstance(batch, Batch):
        return batch
    parts = _parts(batch)
    if not parts or not isinstance(parts[0], Tensor) or parts[0].ndim < 2:
        raise InputError(
            "a batch is (images, labels), images alone, or a dict with 'pixel_values' or 'images', as tensors, "
            f"not {_form(batch)}"
        )
    if not len(parts[0]):
        raise InputError("a batch has no images: drop the empty batches")
    return Batch(*parts[:2])


def at_a_time(images: Tensor) -> int:
    """Return how many of these images a processor passes fastest at a time, at least one.

    Example:
        >>> at_a_time(torch.zeros(10, 3, 224, 224)), at_a_time(torch.zeros(10, 3, 32, 32))
        (6, 341)
    """
    return max(1, _VALUES_AT_A_TIME // max(1, images[0].numel()))


def in_parts(images: Tensor) -> tuple[Tensor, ...]:
    """Return the images of a batch in the parts that a processor passes fastest; on other devices in one part.

    Example:
        >>> [len(part) for part in in_parts(torch.zeros(10, 3, 224, 224))], len(in_parts(torch.zeros(128, 3, 32, 32)))
        ([6, 4], 1)
    """
    return torch.split(images, _fastest(images))


def _fastest(images: Tensor) -> int:
    return at_a_time(images) if images.device.type == "cpu" else max(1, len(images))


def for_processor(batches: Batches, example: Tensor) -> Batches:
    """Return batches that a processor passes fast: large images in parts.

    Args:
        batches: The batches.
        example: ``(n, ...)`` some of their images.

    Example:
        >>> large, small = [torch.zeros(10, 3, 224, 224)], [torch.zeros(10, 3, 8, 8)]
        >>> [len(parse(batch)) for batch in for_processor(large, large[0])]
        [6, 4]
        >>> for_processor(small, small[0]) is small
        True
    """
    return in_smaller(batches, _fastest, at_a_time(example))


def in_smaller(batches: Batches, most: Callable[[Tensor], int], most_of_loader: int) -> Batches:
    """Return batches of fewer images.

    Lists are divided, and loaders that choose their images by number read fewer at a time, also where only their first
    images are read; anything else, as a stream, is returned as it is.

    Args:
        batches: The batches.
        most: From the images of a batch of a list to the number of them in one batch at most.
        most_of_loader: The same of a loader.

    Example:
        >>> [len(parse(batch)) for batch in in_smaller([torch.zeros(10, 3)], lambda images: 4, 4)]
        [4, 4, 2]
    """
    if isinstance(batches, FirstImages):
        return replace(batches, batches=in_smaller(batches.batches, most, most_of_loader))
    if isinstance(batches, Sequence):
        if all(len(images) <= most(images) for images in (parse(batch).images for batch in batches)):
            return batches
        return [part for batch in batches for part in _parts_of(parse(batch), most)]
    if not isinstance(batches, DataLoader) or _length_of(batches) is None:
        return batches
    if (batches.batch_size or 0) <= most_of_loader:
        return batches
    return loader_like(batches, sampler=batches.sampler, batch_size=most_of_loader)


def _parts_of(batch: Batch, most: Callable[[Tensor], int]) -> Iterator[Batch]:
    first, order = 0, torch.arange(len(batch))
    for images in torch.split(batch.images, most(batch.images)):
        inside = (order >= first) & (order < first + len(images))
        yield Batch(images, _chosen(batch.labels, inside))
        first += len(images)


def parsed(batches: Batches) -> Iterator[Batch]:
    """Yield every batch taken apart.

    Raises:
        InputError: A batch has another form, or there are none.

    Example:
        >>> import torch
        >>> [len(batch) for batch in parsed([torch.zeros(4, 1, 8, 8)])]
        [4]
    """
    found = False
    for batch in batches:
        found = True
        yield parse(batch)
    if not found:
        raise InputError("there are no images: the loader is empty, give at least one batch")


def labelled(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the ``(n, C, ...)`` images and ``(n,)`` class indices of every batch.

    Raises:
        InputError: A batch has another form, has no labels, or labels that are not one class index per image.

    Example:
        >>> images, labels = next(labelled([(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))]))
        >>> labels
        tensor([0, 1, 0, 1])
    """
    for batch in map(parse, batches):
        labels = batch.classes()
        if labels is None:
            raise InputError("each batch must be a pair of tensors, images and labels: these are images alone")
        if batch.images.ndim < 3:
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

    Example:
        >>> import torch
        >>> [len(batch) for batch in FirstImages([torch.zeros(4, 1, 8, 8)] * 3, limit=6)]
        [4, 2]
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
        size = self._batch_size()
        if size is None and isinstance(self.batches, Sequence) and batches:
            size = len(parse(self.batches[0]))
        return min(batches, -(-self.limit // size)) if size else batches

    def some(self, chosen: Chosen) -> Iterator[tuple[int, Any]]:
        """Yield the batches whose numbers are chosen, as :func:`some_batches` does."""
        size, limit = self._batch_size(), self.limit
        if limit is None:
            yield from some_batches(self.batches, chosen)
        elif size is None:
            yield from ((number, batch) for number, batch in enumerate(self) if chosen(number))
        else:
            most = -(-limit // size)
            found = some_batches(self.batches, lambda number: number < most and chosen(number), below=most)
            yield from ((number, parse(batch).first(limit - number * size)) for number, batch in found)

    def _batch_size(self) -> int | None:
        size = getattr(self.batches, "batch_size", None)
        return size if isinstance(size, int) else None

    def most_images(self) -> int:
        """Return how many images there are at most; they are read only where nothing else shows it."""
        if self.limit is not None:
            return self.limit
        try:
            return len(self.batches.dataset)  # type: ignore[attr-defined]
        except (AttributeError, TypeError):
            return number_of_images(self.batches)


def every_nth(images: int, seen: int, every: int) -> Tensor:
    """Return which images of a batch are every n-th of all images, ``(images,)`` booleans.

    Args:
        images: Number of images of the batch.
        seen: Number of images before it.
        every: n.

    Example:
        >>> every_nth(4, 3, 5).tolist()
        [False, True, False, False]
    """
    return (torch.arange(images) + seen) % every == every - 1


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
            held = every_nth(len(batch), seen, self.every)
            seen += len(batch)
            mask = held if self.chosen else ~held
            if mask.any():
                yield batch.chosen(mask)


def some_batches(batches: Batches, chosen: Chosen | None, *, below: int | None = None) -> Iterator[tuple[int, Any]]:
    """Yield the batches whose numbers are chosen, with these numbers.

    The others are not read from lists and from loaders over data sets that can be indexed; from anything else, such as
    a stream, they are read and dropped.

    Args:
        batches: Batches of any form.
        chosen: Receives the number of a batch, from 0 in their order; ``None`` for all.
        below: No batch from this number on is chosen.

    Example:
        >>> [number for number, _ in some_batches([torch.zeros(4, 1, 8, 8)] * 5, lambda number: number % 2 == 1)]
        [1, 3]
    """
    if chosen is None:
        yield from enumerate(batches)
    elif isinstance(batches, FirstImages):
        yield from batches.some(chosen)
    elif isinstance(batches, Sequence):
        yield from ((number, batches[number]) for number in range(len(batches)) if chosen(number))
    elif isinstance(batches, DataLoader) and batches.batch_sampler is not None and can_be_indexed(batches):
        order = [(number, some) for number, some in enumerate(islice(batches.batch_sampler, below)) if chosen(number)]
        some_of_it = loader_like(batches, batch_sampler=[some for _, some in order])
        yield from zip((number for number, _ in order), some_of_it, strict=True)
    else:
        yield from ((number, batch) for number, batch in enumerate(islice(batches, below)) if chosen(number))


def _length_of(loader: DataLoader[Any]) -> int | None:
    if not loader.batch_size or loader.drop_last or not can_be_indexed(loader):
        return None
    return len(loader.sampler) if isinstance(loader.sampler, Sized) else None


def can_be_indexed(loader: DataLoader[Any]) -> bool:
    """Return whether the images of a loader can be read one by one, in any order.

    Example:
        >>> can_be_indexed(DataLoader([torch.zeros(1, 8, 8)]))
        True
    """
    return not isinstance(loader.dataset, IterableDataset)


def loader_like(loader: DataLoader[Any], dataset: Dataset[Any] | None = None, **which: Any) -> DataLoader[Any]:
    """Return a loader of the same images, or of others, read likewise, in other batches.

    Args:
        loader: How images are read.
        dataset: The images; by default those of the loader.
        which: Words of ``DataLoader``: the size of the batches, or which images are in each.

    Example:
        >>> len(loader_like(DataLoader([torch.zeros(1, 8, 8)] * 6), batch_size=4))
        2
    """
    return DataLoader(
        loader.dataset if dataset is None else dataset,
        **which,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        timeout=loader.timeout,
        persistent_workers=loader.persistent_workers,
    )


def number_of_batches(batches: Batches) -> int:
    """Return the number of batches, 0 where only reading them shows it.

    Example:
        >>> batches = [torch.zeros(4, 1, 8, 8)] * 3
        >>> number_of_batches(batches), number_of_batches(FirstImages(batches, 6))
        (3, 2)
    """
    if isinstance(batches, FirstImages):
        return batches.number_of_batches()
    try:
        return len(batches) if isinstance(batches, Sized) else 0
    except TypeError:  # a DataLoader over a stream
        return 0


def number_of_images(batches: Batches) -> int:
    """Return the number of images of all batches, by reading them where no loader knows it.

    Raises:
        InputError: A batch has another form.

    Example:
        >>> number_of_images([torch.zeros(4, 1, 8, 8)] * 3)
        12
    """
    known = _length_of(batches) if isinstance(batches, DataLoader) else None
    return sum(len(parse(batch)) for batch in batches) if known is None else known


def images_of(batches: Batches, model: nn.Module) -> Iterator[Tensor]:
    """Yield the images of every batch where a network is and in its precision; labels are not read.

    Raises:
        InputError: A batch has another form, or there are none.

    Example:
        >>> batches = [(torch.zeros(4, 1, 8, 8), torch.arange(4))]
        >>> [tuple(images.shape) for images in images_of(batches, nn.Conv2d(1, 2, 3))]
        [(4, 1, 8, 8)]
    """
    device, dtype = place_of(model)
    for batch in parsed(batches):
        yield batch.placed(device, dtype)


def example_of(batches: Batches, model: nn.Module, count: int = 2) -> Tensor:
    """Return the first ``count`` images of the first batch, where a network is and in its precision.

    Raises:
        InputError: There are no batches, the first has another form, or they can be read only once.

    Example:
        >>> example_of([torch.zeros(4, 1, 8, 8)], nn.Conv2d(1, 2, 3)).shape
        torch.Size([2, 1, 8, 8])
    """
    check_repeatable(batches)
    return next(images_of(batches, model))[:count]


def examples_of(batches: Batches, model: nn.Module) -> list[Tensor]:
    """Return two images of every shape that the batches have, where a network is and in its precision.

    Args:
        batches: Batches of any form, read once; of more than eight shapes, the first eight are returned.
        model: The network that reads them.

    Raises:
        InputError: There are no batches, one has another form, or they can be read only once.

    Example:
        >>> batches = [torch.zeros(3, 1, 8, 8), torch.zeros(4, 1, 6, 6)]
        >>> [tuple(one.shape) for one in examples_of(batches, nn.Conv2d(1, 2, 3))]
        [(2, 1, 8, 8), (2, 1, 6, 6)]
    """
    return surveyed(batches, model)[0]


def surveyed(batches: Batches, model: nn.Module) -> tuple[list[Tensor], int]:
    """Return what ``examples_of`` does, and the number of images, by reading the batches once.

    The random state of PyTorch is as before, so that a loader that shuffles goes on as if it had not been read.

    Example:
        >>> images, count = surveyed([torch.zeros(3, 1, 8, 8), torch.zeros(4, 1, 6, 6)], nn.Conv2d(1, 2, 3))
        >>> [tuple(one.shape) for one in images], count
        ([(2, 1, 8, 8), (2, 1, 6, 6)], 7)
    """
    check_repeatable(batches)
    device, dtype = place_of(model)
    found: dict[torch.Size, Tensor] = {}
    count = 0
    with torch.random.fork_rng([]):
        for batch in parsed(batches):
            count += len(batch)
            shape = batch.images.shape[1:]
            if shape not in found and len(found) < _SHAPES:
                found[shape] = batch.first(2).placed(device, dtype)
    return list(found.values()), count


def shapes_of(examples: Sequence[Tensor]) -> dict[str, Any]:
    """Return the shapes of one image as a plan notes them: that of the first, and all where there are several.

    Example:
        >>> shapes_of([torch.zeros(2, 1, 8, 8)])
        {'input_shape': [1, 8, 8]}
    """
    every = [list(one.shape[1:]) for one in examples]
    return {"input_shape": every[0], **({"input_shapes": every} if len(every) > 1 else {})}


def is_repeatable(batches: Batches) -> bool:
    """Return whether batches can be read more than once.

    Example:
        >>> is_repeatable([torch.zeros(4, 1, 8, 8)]), is_repeatable(iter([torch.zeros(4, 1, 8, 8)]))
        (True, False)
    """
    return not isinstance(batches, Iterator)


def check_repeatable(batches: Batches) -> None:
    """Refuse batches that can be read only once.

    Raises:
        InputError: They can be.

    Example:
        >>> check_repeatable(iter([torch.zeros(4, 1, 8, 8)]))
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: the images must be iterable more than once: give a DataLoader or a list of batches
    """
    if not is_repeatable(batches):
        raise InputError("the images must be iterable more than once: give a DataLoader or a list of batches")


def _parts(batch: Any) -> list[Any]:
    """Return the images, the labels and the rest of a batch, the first of them that are there."""
    if isinstance(batch, Mapping):
        images = [batch[name] for name in _IMAGES if isinstance(batch.get(name), Tensor)]
        return [*images[:1], *[batch[name] for name in LABELS if name in batch][:1]] if images else []
    return list(batch) if isinstance(batch, (tuple, list)) else [batch]


def _form(batch: Any) -> str:
    if isinstance(batch, (tuple, list)):
        return f"{type(batch).__name__} of {', '.join(type(part).__name__ for part in batch) or 'nothing'}"
    if isinstance(batch, Tensor):
        return f"a tensor of shape {tuple(batch.shape)}"
    return type(batch).__name__
