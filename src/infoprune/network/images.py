"""The images of a loader, where a network is and in its precision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor, nn

from infoprune.device import device_of
from infoprune.errors import InputError


def images_of(batches: Iterable[Any], model: nn.Module) -> Iterator[Tensor]:
    """Yield the images of batches that are images alone or images with something beside them.

    Raises:
        InputError: A batch is something else, or there are none.
    """
    device = device_of(model)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    found = False
    for batch in batches:
        images = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        if not isinstance(images, Tensor) or images.ndim < 2 or not len(images):
            raise InputError("each batch must be a tensor of images, or a pair of images and labels")
        found = True
        yield images.to(device, dtype)
    if not found:
        raise InputError("there are no images to repair with: the loader is empty")


def batches_in(batches: Iterable[Any]) -> int:
    """Return the number of batches, 0 where only reading them would tell."""
    return len(batches) if isinstance(batches, Sized) else 0
