"""Training augmentation of whole batches, drawn from PyTorch's global generator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

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
