"""Labelled images, in memory or in a folder per class, and loaders that normalise them for a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from infoprune.data.preprocessing import Preprocessing
from infoprune.errors import InputError


class Images(Protocol):
    """Labelled images of known classes."""

    @property
    def labels(self) -> Tensor:
        """``(N,)`` class indices."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""

    def subset(self, indices: Tensor) -> Images:
        """Return the images at these ``(n,)`` indices, in their order."""

    def read(self, indices: Sequence[int], preprocessing: Preprocessing, *, random_crop: bool) -> Tensor:
        """Return ``(n, C, H, W)`` float32 images as the network wants them."""

    def __len__(self) -> int:
        """Return the number of images."""


@dataclass(frozen=True)
class StoredImages:
    """Images of one size, in memory.

    Args:
        images: ``(N, C, H, W)`` uint8.
        labels: ``(N,)`` int64, each below ``len(classes)``.
        classes: Names of the classes.

    Raises:
        InputError: Shapes, types or labels do not fit together.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise InputError(
                f"images must be an (N, C, H, W) tensor of uint8, not {tuple(self.images.shape)} of {self.images.dtype}"
            )
        if self.labels.shape != self.images.shape[:1]:
            raise InputError(f"{len(self.images)} images need as many labels, not {tuple(self.labels.shape)}")
        check_labels(self.labels, len(self.classes))

    def subset(self, indices: Tensor) -> StoredImages:
        """Return the images at these ``(n,)`` indices, in their order."""
        return StoredImages(self.images[indices], self.labels[indices], self.classes)

    def read(self, indices: Sequence[int], preprocessing: Preprocessing, *, random_crop: bool = False) -> Tensor:
        """Return ``(n, C, H, W)`` float32 images, normalised; stored images are never resized or cropped."""
        chosen = self.images[torch.as_tensor(indices)]
        return normalise(chosen, preprocessing)

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class FolderImages:
    """Image files, opened when they are read.

    Args:
        paths: One file an image.
        labels: ``(N,)`` int64.
        classes: Names of the classes, which are the names of their folders.
    """

    paths: tuple[Path, ...]
    labels: Tensor
    classes: tuple[str, ...]

    def subset(self, indices: Tensor) -> FolderImages:
        """Return the images at these ``(n,)`` indices, in their order."""
        return FolderImages(tuple(self.paths[i] for i in indices.tolist()), self.labels[indices], self.classes)

    def read(self, indices: Sequence[int], preprocessing: Preprocessing, *, random_crop: bool = False) -> Tensor:
        """Return ``(n, C, H, W)`` float32 images: resized and centre-cropped, or a random crop of them, normalised.

        Raises:
            InputError: A file is not an image that can be read.
        """
        cut = _random_resized_crop if random_crop else _resized_centre_crop
        cuts = [cut(_open(self.paths[i], preprocessing.channels), preprocessing) for i in indices]
        if len({image.shape for image in cuts}) > 1:
            raise InputError("the images have different sizes: give the preprocessing a resize and a crop")
        return normalise(torch.stack(cuts), preprocessing)

    def __len__(self) -> int:
        return len(self.paths)


def normalise(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return ``(n, C, H, W)`` uint8 images as float32, scaled to [0, 1] and normalised.

    Raises:
        InputError: The images have another number of channels than the preprocessing.
    """
    return preprocessing.normalise(images.float() / 255)


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse labels that name no class.

    Raises:
        InputError: A label lies outside 0 to ``classes - 1``.
    """
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise InputError(f"label {int(wrong[0])} is out of range: there are classes 0 to {classes - 1}")


def loader(
    images: Images,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 128,
    shuffle: bool = False,
    random_crop: bool = False,
    workers: int = 0,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return batches of normalised ``(n, C, H, W)`` images and ``(n,)`` labels.

    Args:
        images: What to read.
        preprocessing: What the network's weights were trained with.
        batch_size: Images a batch; the last batch may be smaller.
        shuffle: Another order at every pass, drawn from PyTorch's global generator.
        random_crop: Random resized crops and flips, for training on images of many sizes.
        workers: Processes that read files; images in memory need none.

    Raises:
        InputError: There are no images.
    """
    if not len(images):
        raise InputError("there are no images to load")
    return DataLoader(
        _Read(images, preprocessing, random_crop),
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=workers,
        collate_fn=_as_read,
        # Workers that stay keep their random numbers from pass to pass: a training could not be resumed.
        persistent_workers=workers > 0 and not (shuffle or random_crop),
    )


class _Read(Dataset[tuple[Tensor, Tensor]]):
    """Reads whole batches at once, which PyTorch's loader asks for through ``__getitems__``."""

    def __init__(self, images: Images, preprocessing: Preprocessing, random_crop: bool) -> None:
        self.images = images
        self.preprocessing = preprocessing
        self.random_crop = random_crop

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self.__getitems__([index])
        return image[0], label[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        batch = self.images.read(indices, self.preprocessing, random_crop=self.random_crop)
        return batch, self.images.labels[torch.as_tensor(indices)]


def _as_read(batch: Any) -> Any:
    return batch


def _open(path: Path, channels: int) -> Image.Image:
    try:
        with Image.open(path) as image:
            converted: Image.Image = image.convert("L" if channels == 1 else "RGB")
            return converted
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"'{path}' is not an image that can be read: {error}") from error


def _resized_centre_crop(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    scale = (preprocessing.resize or min(image.size)) / min(image.size)
    if scale != 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    if (crop := preprocessing.crop) is not None:
        left, top = (image.width - crop) // 2, (image.height - crop) // 2
        image = image.crop((left, top, left + crop, top + crop))
    return _to_tensor(image)


def _random_resized_crop(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """Crop 8 to 100 % of the area at an aspect of 3/4 to 4/3, resize, flip half of the time (Inception's crop)."""
    width, height = image.size
    crop = preprocessing.crop or min(image.size)
    for _ in range(10):
        area, ratio, x, y = torch.rand(4).tolist()
        target = width * height * (0.08 + 0.92 * area)
        aspect = (3 / 4) ** (1 - 2 * ratio)
        w, h = round((target * aspect) ** 0.5), round((target / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            box = (left, top, left + w, top + h)
            break
    else:
        box = (0, 0, width, height)
    cut = _to_tensor(image.resize((crop, crop), Image.Resampling.BILINEAR, box=box))
    return cut.flip(-1) if torch.rand(()) < 0.5 else cut


def _to_tensor(image: Image.Image) -> Tensor:
    array = np.array(image, dtype=np.uint8)
    return torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).permute(2, 0, 1)
