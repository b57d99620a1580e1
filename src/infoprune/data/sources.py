"""The data sets by name: where their files lie and how they are read. Nothing read here can run code."""

from __future__ import annotations

import gzip
import io
import math
import pickle
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from infoprune.data.images import IMAGE_ENDINGS, FolderImages, Images, StoredImages, unlabelled
from infoprune.declarations.validation import check_regular
from infoprune.errors import InputError, unknown

# MNIST's largest file has 45 MiB.
_LARGEST_IDX = 2**30


@dataclass(frozen=True)
class Source:
    """A data set as it came: training and test images, and the name that was asked for.

    Example:
        >>> open_source("digits").classes[:3]
        ('0', '1', '2')
    """

    name: str
    train: Images
    test: Images

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none where there are no labels."""
        return self.train.classes


def source_names() -> tuple[str, ...]:
    """Return the names of the data sets.

    Example:
        >>> source_names()
        ('digits', 'cifar10', 'mnist', 'folder', 'photos')
    """
    return tuple(_READERS)


def open_source(name: str, directory: Path | None = None) -> Source:
    """Read a data set.

    Args:
        name: ``digits`` (embedded), ``cifar10`` (original python batches), ``mnist`` (idx files), ``folder`` (one
            folder of images per class, in ``train/`` and ``test/`` or ``val/``, or one set for both), ``photos`` (image
            files without labels).
        directory: Where its files lie; not needed for ``digits``.

    Raises:
        InputError: The name is unknown, or files are missing, truncated or of another format.

    Example:
        >>> source = open_source("digits")
        >>> len(source.train), len(source.test)
        (1438, 359)
    """
    if name not in _READERS:
        raise unknown("data set", name, _READERS)
    if name == "digits":
        return _digits()
    if directory is None:
        raise InputError(f"the data set '{name}' needs its directory (--data-dir)")
    if not directory.is_dir():
        raise InputError(f"the data directory '{directory}' does not exist")
    return _READERS[name](directory)


def _digits(_: Path | None = None) -> Source:
    """Handwritten digits of scikit-learn: 1,797 grey images of 8 x 8, values 0 to 16; every fifth is for testing."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    test = torch.arange(len(labels)) % 5 == 4
    classes = tuple(str(digit) for digit in range(10))
    return Source(
        "digits", StoredImages(images[~test], labels[~test], classes), StoredImages(images[test], labels[test], classes)
    )


def _cifar10(directory: Path) -> Source:
    folder = directory / "cifar-10-batches-py"
    folder = folder if folder.is_dir() else directory
    names = _cifar_unpickled(folder / "batches.meta").get("label_names")
    if not isinstance(names, list) or len(names) != 10 or not all(isinstance(name, str) for name in names):
        raise InputError(f"'{folder / 'batches.meta'}' must hold the list 'label_names' of the 10 classes")
    classes = tuple(names)
    parts = [_cifar_batch(folder / f"data_batch_{i}") for i in range(1, 6)]
    images, labels = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    return Source(
        "cifar10", _stored(images, labels, classes), _stored(*_cifar_batch(folder / "test_batch"), classes=classes)
    )


def _cifar_batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    batch = _cifar_unpickled(path)
    pixels, labels = batch.get("data"), batch.get("labels")
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.ndim != 2
        or pixels.shape[1] != 3072
        or not isinstance(labels, list)
    ):
        raise InputError(f"'{path}' is not a CIFAR-10 batch: it needs 'data' of N x 3072 bytes and a list of 'labels'")
    if pixels.dtype != np.uint8 or not all(isinstance(label, int | np.integer) for label in labels):
        raise InputError(f"'{path}' is not a CIFAR-10 batch: its data must be bytes and its labels whole numbers")
    wrong = next((label for label in labels if not 0 <= label < 10), None)
    if wrong is not None:
        raise InputError(f"'{path}' is not a CIFAR-10 batch: label {wrong} is out of range, there are classes 0 to 9")
    if len(labels) != len(pixels):
        raise InputError(f"'{path}' is not a CIFAR-10 batch: it has {len(pixels)} images and {len(labels)} labels")
    return pixels.reshape(-1, 3, 32, 32), np.asarray(labels, np.int64)


def _latin_bytes(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it encodes as {encoding}, which no CIFAR-10 batch needs")
    return text.encode("latin-1")


class _ArraysOnly(pickle.Unpickler):
    """Unpickles plain values and numpy arrays; whatever else a file names is refused, so nothing in it can run."""

    ALLOWED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        # How Python 3 writes bytes for readers of Python 2.
        ("_codecs", "encode"): _latin_bytes,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return an array constructor, nothing else."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no CIFAR-10 batch needs")
        return self.ALLOWED[module, name]


def _cifar_unpickled(path: Path) -> dict[str, Any]:
    if path.exists():
        check_regular(path, "the file")
    try:
        # The batches were written by Python 2: their texts are bytes of latin-1.
        found = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin-1").load()
    except FileNotFoundError as error:
        raise InputError(f"CIFAR-10 needs the file '{path}', which does not exist") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise InputError(f"'{path}' cannot be read as a CIFAR-10 batch: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"'{path}' is not a CIFAR-10 batch: it holds a {type(found).__name__}, not a dictionary")
    return found


def _mnist(directory: Path) -> Source:
    folder = next((f for f in (directory / "MNIST" / "raw", directory / "raw", directory) if _has_mnist(f)), None)
    if folder is None:
        raise InputError(f"'{directory}' holds no MNIST idx files (train-images-idx3-ubyte and its three companions)")
    classes = tuple(str(digit) for digit in range(10))
    parts = [
        _stored(
            _idx(folder / f"{part}-images-idx3-ubyte", 3)[:, None],
            _idx(folder / f"{part}-labels-idx1-ubyte", 1),
            classes,
        )
        for part in ("train", "t10k")
    ]
    return Source("mnist", *parts)


def _has_mnist(folder: Path) -> bool:
    return any((folder / f"train-images-idx3-ubyte{end}").exists() for end in ("", ".gz"))


def _idx(path: Path, wanted: int) -> NDArray[Any]:
    """Read an idx file: two zero bytes, a type byte (8: unsigned), the number of axes, their sizes, the values."""
    packed = path.with_name(path.name + ".gz")
    if not path.exists() and not packed.exists():
        raise InputError(f"MNIST needs the file '{path}', which does not exist")
    check_regular(path if path.exists() else packed, "the file")
    try:
        data = path.read_bytes() if path.exists() else _unpacked(packed)
        zero, kind, axes = struct.unpack(">HBB", data[:4])
        if zero or kind != 8 or axes != wanted:
            raise ValueError(f"it must hold bytes along {wanted} axes")
        shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
        values = np.frombuffer(data, np.uint8, offset=4 + 4 * axes)
        if values.size != math.prod(shape):
            raise ValueError(f"{values.size} values where {math.prod(shape)} were announced")
    except (ValueError, struct.error, OSError, EOFError, zlib.error) as error:
        raise InputError(f"'{path}' is not a whole idx file: {error}") from error
    array: NDArray[np.uint8] = values.reshape(shape).copy()
    return array


def _unpacked(path: Path) -> bytes:
    with gzip.open(path) as file:
        data = file.read(_LARGEST_IDX + 1)
    if len(data) > _LARGEST_IDX:
        raise ValueError(f"it unpacks to more than {_LARGEST_IDX // 2**20} MiB")
    return data


def _folder(directory: Path) -> Source:
    parts_of = {f.name.lower(): f for f in _listed(directory) if f.is_dir()}
    train, test = parts_of.get("train"), parts_of.get("test") or parts_of.get("val")
    if (train is None) != (test is None):
        raise InputError(f"'{directory}' has only one of train/ and test/ (or val/): it needs both, or neither")
    if train is None or test is None:
        whole = _folder_images(directory)
        return Source("folder", whole, whole)
    parts = Source("folder", _folder_images(train), _folder_images(test))
    for name in (*parts.train.classes, *parts.test.classes):
        if (name in parts.train.classes) != (name in parts.test.classes):
            where, other = (train, test) if name in parts.train.classes else (test, train)
            raise InputError(
                f"the class '{name}' has a folder in '{where}' and none in '{other}': a label would name another class "
                "in each; both need the same folders"
            )
    return parts


def _folder_images(directory: Path) -> FolderImages:
    # Editors and systems keep hidden folders beside the classes.
    classes = sorted(f.name for f in _listed(directory) if f.is_dir() and not f.name.startswith("."))
    if not classes:
        raise InputError(
            f"'{directory}' has no folders: it needs one folder of images per class; 'photos' reads images without "
            "labels"
        )
    files = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((directory / name).rglob("*"))
        if path.suffix.lower() in IMAGE_ENDINGS and not path.is_dir()
    ]
    if not files:
        raise InputError(f"the class folders of '{directory}' hold no images")
    empty = sorted(set(range(len(classes))) - {label for _, label in files})
    if empty:
        raise InputError(
            f"the class folder '{directory / classes[empty[0]]}' holds no images that can be read here: "
            "remove it, or convert its images to PNG or JPEG"
        )
    return FolderImages(tuple(p for p, _ in files), torch.tensor([label for _, label in files]), tuple(classes))


def _photos(directory: Path) -> Source:
    whole = unlabelled(directory)
    return Source("photos", whole, whole)


def _listed(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError as error:
        raise InputError(f"the folder '{directory}' cannot be read: {error.strerror or error}") from error


def _stored(images: NDArray[np.uint8], labels: NDArray[Any], classes: tuple[str, ...]) -> StoredImages:
    return StoredImages(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)), classes)


_READERS: dict[str, Callable[[Path], Source]] = {
    "digits": _digits,
    "cifar10": _cifar10,
    "mnist": _mnist,
    "folder": _folder,
    "photos": _photos,
}
