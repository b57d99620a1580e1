"""The same images in the same order in every pass, and of many images a sample that comes first."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, Subset

from infoprune.data.batches import (
    Batch,
    Batches,
    FirstImages,
    can_be_indexed,
    images_of,
    joined,
    loader_like,
    number_of_batches,
    parse,
)

# Bytes of images that are kept decoded: 3,500 photos of 224 x 224, any number of small images.
MEMORY = 2 << 30


def fixed_sample(batches: Batches, most: int, *, seed: int = 0) -> tuple[Batches, Batches]:
    """Return the batches of up to ``most`` images, and those of all images, which begin with these or are the same.

    Both are the same in every pass. Of a loader over a data set that can be indexed the sample is drawn at random where
    there are more images, or where the loader shuffles: its data set may be sorted by class. Of a list of batches the
    sample is spaced evenly. Of anything else, such as a stream, it is the first images.

    Args:
        batches: Batches of any form.
        most: Number of images of the sample at most.
        seed: Of the draw.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> loader = DataLoader(TensorDataset(torch.arange(10.0)), batch_size=4, shuffle=True)
        >>> few, every = fixed_sample(loader, 6)
        >>> few, every = (torch.cat([images for images, in some]) for some in (few, every))
        >>> len(few), torch.equal(every[:6], few), torch.equal(every.sort().values, torch.arange(10.0))
        (6, True, True)
        >>> [[batch.images.flatten().tolist() for batch in some] for some in fixed_sample([torch.eye(4)[:, :1]], 2)]
        [[[0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]]
    """
    if isinstance(batches, DataLoader):
        return _of_loader(batches, most, seed)
    if isinstance(batches, Sequence):
        return _of_list([parse(batch) for batch in batches], batches, most)
    return FirstImages(batches, most), batches


def read_once(batches: Batches, model: nn.Module, most: int = MEMORY) -> Batches:
    """Return images that are read and decoded once, or, where they take too much memory, in every pass.

    Args:
        batches: Batches of any form, iterable more than once.
        model: The network that reads them.
        most: Bytes of images that are kept, where they are not in memory already.

    Example:
        >>> loader = DataLoader(torch.arange(10.0)[:, None], batch_size=4, shuffle=True)
        >>> kept = read_once(loader, nn.Linear(1, 1))
        >>> again = read_once(loader, nn.Linear(1, 1), most=8)
        >>> type(kept).__name__, type(again).__name__, torch.equal(*(torch.cat([*again]) for _ in range(2)))
        ('list', 'DataLoader', True)
    """
    found: list[Tensor] = []
    size, count = 0, number_of_batches(batches)
    for images in images_of(batches, model):
        size += images.nbytes
        # Where the number of batches is known, the first one says what all of them take.
        if max(size, 0 if found else count * images.nbytes) > most and not isinstance(batches, Sequence):
            return fixed_sample(batches, sys.maxsize)[1]
        found.append(images)
    return found


def _of_loader(loader: DataLoader[Any], most: int, seed: int) -> tuple[Batches, Batches]:
    if not _is_plain(loader):
        return FirstImages(loader, most), loader
    images: Any = loader.dataset
    if len(images) <= most and isinstance(loader.sampler, SequentialSampler):
        return loader, loader
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
    every = loader_like(loader, Subset(images, order), batch_size=loader.batch_size)
    if len(order) <= most:
        return every, every
    return loader_like(loader, Subset(images, order[:most]), batch_size=loader.batch_size), every


def _is_plain(loader: DataLoader[Any]) -> bool:
    """Return whether a loader reads every image of a data set once, in batches, in their order or shuffled."""
    if not can_be_indexed(loader) or not loader.batch_size or type(loader.batch_sampler) is not BatchSampler:
        return False
    sampler, images = loader.sampler, loader.dataset
    everything = isinstance(sampler, RandomSampler) and not sampler.replacement and len(sampler) == len(images)  # type: ignore[arg-type]
    return isinstance(sampler, SequentialSampler) or everything


def _of_list(parsed: Sequence[Batch], batches: Batches, most: int) -> tuple[Batches, Batches]:
    count = sum(map(len, parsed))
    if count <= most:
        return batches, batches
    few, others, seen = [], [], 0
    for batch in parsed:
        numbers = torch.arange(seen, seen + len(batch))
        chosen = (numbers + 1) * most // count > numbers * most // count
        seen += len(batch)
        few += [batch.chosen(chosen)] if chosen.any() else []
        others += [batch.chosen(~chosen)] if not chosen.all() else []
    few = joined(few, max(map(len, parsed)))
    return few, [*few, *others]
