"""Training augmentation of whole batches, drawn from PyTorch's global generator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from infoprune.data.batches import parse
from infoprune.device import seed_generators

Augmentation = Callable[[Tensor], Tensor]


def shift(images: Tensor, most: int) -> Tensor:
    """Return each of the ``(n, C, H, W)`` images moved by up to ``most`` pixels each way, edges filled with zeros.

    Example:
        >>> import torch
        >>> shift(torch.zeros(2, 3, 8, 8), 2).shape
        torch.Size([2, 3, 8, 8])
    """
    n, _, height, width = images.shape
    padded = F.pad(images, (most, most, most, most))
    top, left = torch.randint(0, 2 * most + 1, (2, n, 1))
    rows = (top + torch.arange(height)).to(images.device)
    columns = (left + torch.arange(width)).to(images.device)
    each = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def crop_and_flip(images: Tensor, most: int = 4) -> Tensor:
    """Return ``(n, C, H, W)`` images cropped from a frame ``most`` pixels wider and flipped half of the time.

    The usual augmentation of CIFAR (He et al. 2016, section 4.2); the frame is the mean colour.

    Example:
        >>> import torch
        >>> crop_and_flip(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """
    moved = shift(images, most)
    flip = (torch.rand(len(images)) < 0.5).to(images.device)
    return torch.where(flip[:, None, None, None], moved.flip(-1), moved)


def turn_and_scale(images: Tensor, degrees: float, share: float) -> Tensor:
    """Return ``(n, C, H, W)`` images, each turned by up to ``degrees`` and scaled by up to ``share``, both ways.

    The two are drawn evenly for each image; in between pixels are interpolated, beyond the edges they are zero.

    Example:
        >>> import torch
        >>> turn_and_scale(torch.zeros(2, 3, 8, 8), 10, 0.1).shape
        torch.Size([2, 3, 8, 8])
    """
    height, width = images.shape[-2:]
    turns, scales = 2 * torch.rand(2, len(images)) - 1
    angles, zoom = torch.deg2rad(degrees * turns), 1 + share * scales
    along, across, none = angles.cos() / zoom, angles.sin() / zoom, torch.zeros(len(images))
    # Coordinates go from -1 to 1 along either side, so that a turn has to know how long they are.
    rows = (along, -across * height / width, none), (across * width / height, along, none)
    maps = torch.stack([torch.stack(row, 1) for row in rows], 1).to(images)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def cutout(images: Tensor, share: float) -> Tensor:
    """Return ``(n, C, H, W)`` images with a square set to zero, its side a share of the image's, its centre anywhere.

    DeVries and Taylor 2017; the square reaches over the edge where its centre is near one. Zero is the mean colour.

    Example:
        >>> import torch
        >>> cutout(torch.ones(2, 3, 8, 8), 0.5).shape
        torch.Size([2, 3, 8, 8])
    """
    n, _, height, width = images.shape
    half = share * min(height, width) / 2
    centres = torch.rand(2, n, 1) * torch.tensor([height, width])[:, None, None]
    rows = (torch.arange(height) + 0.5 - centres[0]).abs() < half
    columns = (torch.arange(width) + 0.5 - centres[1]).abs() < half
    blank = (rows[:, :, None] & columns[:, None, :]).to(images.device)
    return images.masked_fill(blank[:, None], 0.0)


def usual_augmentation(source: str) -> Augmentation | None:
    """Return what is usually done to the training images of a data set of that name, ``None`` for nothing.

    Example:
        >>> usual_augmentation("cifar10") is crop_and_flip
        True
    """
    usual: dict[str, Augmentation] = {
        "cifar10": crop_and_flip,
        "mnist": lambda images: shift(images, 2),
        "digits": lambda images: shift(images, 1),
    }
    return usual.get(source)


@dataclass(frozen=True)
class WithCopies:
    """Images, each followed by changed copies of it: moved by up to an eighth of its side, mirrored half of the time.

    The copies are the same on every iteration. They come in blocks of ``block`` images, originals first, so that the
    place of an image modulo ``block`` is that of its copies: whoever holds out every ``block``-th image holds out its
    copies too.

    Args:
        batches: Batches of ``(n, C, H, W)`` images, with or without labels, iterable more than once.
        copies: Copies of each image.
        block: Images of one block.
        seed: Of the moves.

    Example:
        >>> import torch
        >>> twice = WithCopies([torch.rand(10, 3, 8, 8)], copies=1)
        >>> [len(images) for images in twice], all(a.equal(b) for a, b in zip(twice, twice))
        ([20], True)
    """

    batches: Iterable[Any]
    copies: int = 1
    block: int = 5
    seed: int = 0

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the images of each batch with their copies."""
        left: Tensor | None = None
        number = 0
        for batch in self.batches:
            images = parse(batch).images
            images = images if left is None else torch.cat([left, images])
            whole = len(images) // self.block * self.block
            if whole:
                yield self._with_copies(images[:whole], number)
                number += 1
            left = images[whole:] if whole < len(images) else None
        if left is not None:
            yield left

    def _with_copies(self, images: Tensor, number: int) -> Tensor:
        blocks = [_in_blocks(images, self.block)]
        for copy in range(self.copies):
            with torch.random.fork_rng([]):
                seed_generators(self.seed + 7919 * number + copy, torch.device("cpu"))
                changed = crop_and_flip(images, max(1, min(images.shape[-2:]) // 8))
            blocks.append(_in_blocks(changed, self.block))
        return torch.stack(blocks, dim=1).flatten(0, 2)


def _in_blocks(images: Tensor, block: int) -> Tensor:
    return images.reshape(-1, block, *images.shape[1:])
