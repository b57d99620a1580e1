"""Images as users have them: a loader, a list of batches, one tensor, or a folder of image files."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from infoprune.data.batches import Batches, parse
from infoprune.data.images import loader, unlabelled
from infoprune.data.preprocessing import Preprocessing
from infoprune.errors import InputError

BATCH = 64
_AXES_OF_A_BATCH = 4


def batched(images: Any) -> Any:
    """Return a data set of single images, or one tensor of images, in batches; anything else as it is.

    Args:
        images: A ``(n, C, H, W)`` tensor; a data set of PyTorch or WebDataset, or of Hugging Face ``datasets``, whose
            examples become tensors unless it has a transform. One whose items are batches, with a label for each image,
            is taken as it is.

    Raises:
        InputError: It is a ``DatasetDict``, which holds several data sets, or a tensor without images.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> single = TensorDataset(torch.zeros(100, 3, 8, 8), torch.zeros(100).long())
        >>> [len(images) for images, _ in batched(single)], batched([torch.zeros(4, 3, 8, 8)])[0].shape
        ([64, 36], torch.Size([4, 3, 8, 8]))
    """
    if isinstance(images, Tensor):
        if images.ndim < 2 or not len(images):
            raise InputError(f"images are (n, C, H, W) with n above 0, not a tensor of shape {tuple(images.shape)}")
        return [images[first : first + BATCH] for first in range(0, len(images), BATCH)]
    if hasattr(images, "with_format"):
        if isinstance(images, Mapping):
            parts = ", ".join(map(str, images))
            raise InputError(f"a {type(images).__name__} holds several data sets, {parts}: pass one of them")
        # A transform of the user's own is a format too, and would be replaced.
        has_transform = (getattr(images, "format", None) or {}).get("type") == "custom"
        images = images if has_transform else images.with_format("torch")
    elif not isinstance(images, Dataset):
        return images
    return images if _yields_batches(images) else DataLoader(images, batch_size=BATCH)


def _yields_batches(images: Any) -> bool:
    """Return whether the items of a data set are batches, as those of ``WebDataset(...).batched(32)``."""
    with torch.random.fork_rng([]), suppress(InputError):
        batch = parse(next(iter(images), None))
        labels = batch.labels
        # Tensors and NumPy arrays.
        several = isinstance(labels, list) or int(getattr(labels, "ndim", 0)) > 0
        return several and batch.images.ndim >= _AXES_OF_A_BATCH and len(labels) == len(batch)
    return False


def as_batches(images: Any, preprocessing: Preprocessing | None = None) -> Batches:
    """Return batches of whatever a user gives as images.

    Args:
        images: A ``DataLoader``, a data set of single images (of PyTorch, WebDataset, or Hugging Face ``datasets``), a
            list or other iterable of batches, one ``(n, C, H, W)`` tensor, or a folder with
            image files in it or in folders of it.
        preprocessing: How image files become tensors; needed for a folder only.

    Raises:
        InputError: A folder holds no images, or nothing is known of how the network wants them.

    Example:
        >>> import torch
        >>> [len(batch) for batch in as_batches(torch.zeros(100, 3, 8, 8))]
        [64, 36]
    """
    if not isinstance(images, (str, Path)):
        return batched(images)  # type: ignore[no-any-return]
    folder = Path(images)
    if preprocessing is None:
        raise InputError(
            f"how the network wants the images of '{folder}' is not known: give preprocessing=Preprocessing(mean, std, "
            "resize, crop), or a loader"
        )
    return loader(unlabelled(folder), preprocessing, batch_size=BATCH)
