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

from infoprune.data.photos import LARGEST_PIXELS, as_tensor, centre_crop, random_resized_crop, resized
from infoprune.data.preprocessing import Preprocessing
from infoprune.declarations.validation import check_regular
from infoprune.errors import InputError

IMAGE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


class Images(Protocol):
    """Labelled images of known classes.

    Example:
        >>> pixels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
        >>> images: Images = StoredImages(pixels, torch.arange(4) % 2, ("cat", "dog"))
        >>> len(images.subset(torch.tensor([0, 2])))
        2
    """

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

    Example:
        >>> images = StoredImages(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4) % 2, ("cat", "dog"))
        >>> images.read([0, 1], Preprocessing((0.5,), (0.5,))).shape
        torch.Size([2, 1, 8, 8])
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
        classes: Names of the classes, which are the names of their folders; none where there are no labels.

    Example:
        >>> FolderImages((Path("cat/1.png"), Path("dog/1.png")), torch.tensor([0, 1]), ("cat", "dog")).classes
        ('cat', 'dog')
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
        cut = _random_crop if random_crop else _resized_centre_crop
        cuts = [cut(_open(self.paths[i], preprocessing.channels), preprocessing) for i in indices]
        for i, image in zip(indices, cuts, strict=True):
            if image.shape != cuts[0].shape:
                here, first = (f"{one.shape[2]} x {one.shape[1]} pixels" for one in (image, cuts[0]))
                raise InputError(
                    f"the images have different sizes ('{self.paths[i]}' has {here}, '{self.paths[indices[0]]}' has "
                    f"{first}): give them one size by --resize and --crop, or resize and crop of the preprocessing"
                )
        return normalise(torch.stack(cuts), preprocessing)

    def __len__(self) -> int:
        return len(self.paths)


def unlabelled(folder: Path) -> FolderImages:
    """Return all image files of a folder and the folders in it, in the order of their names, without labels.

    Raises:
        InputError: There is no such folder, or no image in it.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (8, 8)).save(folder / "1.png")
        >>> len(unlabelled(folder))
        1
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder '{folder}': name a folder with image files")
    paths = tuple(path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_ENDINGS)
    if not paths:
        raise InputError(f"'{folder}' holds no images ({', '.join(IMAGE_ENDINGS)})")
    return FolderImages(paths, torch.zeros(len(paths), dtype=torch.int64), ())


def normalise(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return ``(n, C, H, W)`` uint8 images as float32, scaled to [0, 1] and normalised.

    Raises:
        InputError: The images have another number of channels than the preprocessing.

    Example:
        >>> normalise(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8), Preprocessing((0.5,), (0.5,))).item()
        1.0
    """
    return preprocessing.normalise(images.float() / 255)


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse labels that name no class.

    Raises:
        InputError: A label lies outside 0 to ``classes - 1``.

    Example:
        >>> check_labels(torch.tensor([0, 2]), classes=2)
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: label 2 names no class
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
) -> DataLoader[Any]:
    """Return batches of normalised ``(n, C, H, W)`` images and ``(n,)`` labels; of images without classes, no labels.

    Args:
        images: What to read.
        preprocessing: What the network's weights were trained with.
        batch_size: Images a batch; the last batch may be smaller.
        shuffle: Another order at every pass, drawn from PyTorch's global generator.
        random_crop: Random resized crops and flips, for training on images of many sizes.
        workers: Processes that read files; images in memory need none.

    Raises:
        InputError: There are no images.

    Example:
        >>> images = StoredImages(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5) % 2, ("cat", "dog"))
        >>> [len(labels) for _, labels in loader(images, Preprocessing((0.5,), (0.5,)), batch_size=2)]
        [2, 2, 1]
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


class ReadingError(InputError):
    """Images that cannot be read, in the one sentence it was in the process that read them.

    PyTorch's loader hands over a worker's error as its type, called with the worker's whole traceback.

    Example:
        >>> str(ReadingError("a worker failed; ReadingError: the image '1.png' is damaged"))
        "the image '1.png' is damaged"
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.strip().rpartition(f"{type(self).__name__}: ")[2])


class _Read(Dataset[Any]):
    """Reads whole batches at once, which PyTorch's loader asks for through ``__getitems__``."""

    def __init__(self, images: Images, preprocessing: Preprocessing, random_crop: bool) -> None:
        self.images = images
        self.preprocessing = preprocessing
        self.random_crop = random_crop

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        found = self.__getitems__([index])
        return found[0] if isinstance(found, Tensor) else tuple(part[0] for part in found)

    def __getitems__(self, indices: list[int]) -> Tensor | tuple[Tensor, Tensor]:
        try:
            batch = self.images.read(indices, self.preprocessing, random_crop=self.random_crop)
        except InputError as error:
            raise ReadingError(str(error)) from None
        return (batch, self.images.labels[torch.as_tensor(indices)]) if self.images.classes else batch


def _as_read(batch: Any) -> Any:
    return batch


def _open(path: Path, channels: int) -> Image.Image:
    check_regular(path, "the image")
    try:
        with Image.open(path) as image:
            if image.width * image.height > LARGEST_PIXELS:
                raise InputError(
                    f"the image '{path}' has {image.width} x {image.height} pixels, above the limit of "
                    f"{LARGEST_PIXELS:,}: make it smaller"
                )
            converted: Image.Image = _in_8_bits(image, path).convert("L" if channels == 1 else "RGB")
            return converted
    except InputError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"'{path}' is not an image that can be read: {error}") from error
    except Exception as error:  # a damaged file can raise nearly anything in a decoder
        raise InputError(f"'{path}' is not an image that can be read: {type(error).__name__} {error}") from error


def _in_8_bits(image: Image.Image, path: Path) -> Image.Image:
    """Return an image of 16 bits scaled to 8; Pillow's own conversion cuts all values above 255 off."""
    if image.mode == "F":
        raise InputError(
            f"the image '{path}' holds floating point numbers, whose range no file says: convert it to 8 or 16 bits"
        )
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.size and not 0 <= values.min() <= values.max() < 2**16:
        raise InputError(f"the image '{path}' holds values outside 0 to 65,535: convert it to 8 or 16 bits")
    return Image.fromarray(((values * 255 + 2**15) // (2**16 - 1)).astype(np.uint8))


def _resized_centre_crop(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    if preprocessing.resize is not None:
        image = resized(image, preprocessing.resize, preprocessing.interpolation)
    if preprocessing.crop is not None:
        image = centre_crop(image, preprocessing.crop)
    return as_tensor(image)


def _random_crop(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """Return a random resized crop, flipped half of the time."""
    cut = as_tensor(random_resized_crop(image, preprocessing.crop or min(image.size), preprocessing.interpolation))
    return cut.flip(-1) if torch.rand(()) < 0.5 else cut
