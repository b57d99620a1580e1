"""Photos of any size become images of one size: by torchvision's transforms v2 where it is installed, else by Pillow.

The pixels are the same: torchvision resizes photos by Pillow, and here sizes and corners follow torchvision's rules.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from infoprune.declarations.interpolation import Interpolation
from infoprune.errors import InputError

# Of one image. A few kilobytes can announce any number of pixels.
LARGEST_PIXELS = 2**26


@functools.cache
def transforms_v2() -> Any:
    """Return ``torchvision.transforms.v2``, ``None`` where it cannot be imported.

    Example:
        >>> transforms_v2() is transforms_v2()
        True
    """
    try:
        return importlib.import_module("torchvision.transforms.v2")
    except Exception:  # built for another PyTorch, torchvision raises RuntimeError
        return None


def resized(image: Image.Image, size: int, interpolation: Interpolation = "bilinear") -> Image.Image:
    """Return a photo with its shorter side resized to a length; when it shrinks, pixels are averaged (antialiased).

    Args:
        image: The photo.
        size: Length of the shorter side, pixels. The longer side is in proportion, rounded down.
        interpolation: How pixels between pixels are computed; ``nearest`` averages nothing.

    Raises:
        InputError: The result would have too many pixels.

    Example:
        >>> resized(Image.new("RGB", (100, 51)), 25).size
        (49, 25)
    """
    if size == min(image.size):
        return image
    shorter, longer = min(image.size), max(image.size)
    long = max(1, int(size * longer / shorter))
    width, height = (size, long) if image.width <= image.height else (long, size)
    if width * height > LARGEST_PIXELS:
        raise InputError(f"an image of {image.width} x {image.height} pixels cannot be brought to {width} x {height}")
    if (v2 := transforms_v2()) is not None:
        found: Image.Image = v2.functional.resize(image, [size], _mode(v2, interpolation), antialias=True)
        return found
    return image.resize((width, height), _filter(interpolation))


def centre_crop(image: Image.Image, side: int) -> Image.Image:
    """Return the square of a side in pixels at the centre of a photo, black where the photo is smaller.

    Example:
        >>> centre_crop(Image.new("RGB", (100, 50)), 40).size
        (40, 40)
    """
    if (v2 := transforms_v2()) is not None:
        found: Image.Image = v2.functional.center_crop(image, [side, side])
        return found
    padding = [max(0, side - length) for length in image.size]
    if any(padding):
        left, top = (length // 2 for length in padding)
        image = image.crop((-left, -top, image.width + padding[0] - left, image.height + padding[1] - top))
    left, top = (round((length - side) / 2) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def random_resized_crop(image: Image.Image, side: int, interpolation: Interpolation = "bilinear") -> Image.Image:
    """Return a random part of a photo as a square: 8 to 100 % of its area, of an aspect of 3/4 to 4/3.

    Inception's crop (arXiv 1409.4842). The numbers are drawn here, so that the crops of a seed are the same with and
    without torchvision.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> random_resized_crop(Image.new("L", (100, 50)), 32).size
        (32, 32)
    """
    left, top, width, height = _random_box(*image.size)
    if (v2 := transforms_v2()) is not None:
        mode = _mode(v2, interpolation)
        found: Image.Image = v2.functional.resized_crop(image, top, left, height, width, [side, side], mode)
        return found
    cut = image.crop((left, top, left + width, top + height))
    return cut.resize((side, side), _filter(interpolation))


def as_tensor(image: Image.Image) -> Tensor:
    """Return a photo as a ``(C, H, W)`` tensor of bytes.

    Example:
        >>> as_tensor(Image.new("RGB", (4, 2))).shape
        torch.Size([3, 2, 4])
    """
    array = np.array(image, dtype=np.uint8)
    return torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).permute(2, 0, 1)


def _random_box(width: int, height: int) -> tuple[int, int, int, int]:
    for _ in range(10):
        area, ratio, x, y = torch.rand(4).tolist()
        target = width * height * (0.08 + 0.92 * area)
        aspect = (3 / 4) ** (1 - 2 * ratio)
        w, h = round((target * aspect) ** 0.5), round((target / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return int(x * (width - w + 1)), int(y * (height - h + 1)), w, h
    return 0, 0, width, height


def _filter(interpolation: Interpolation) -> Image.Resampling:
    return Image.Resampling[interpolation.upper()]


def _mode(v2: Any, interpolation: Interpolation) -> Any:
    return v2.InterpolationMode[interpolation.upper()]
