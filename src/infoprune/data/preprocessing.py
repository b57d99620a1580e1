"""How images become what a network was trained on. Belongs to the weights, not to the data set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

import torch
from torch import Tensor

from infoprune.declarations.interpolation import Interpolation
from infoprune.errors import InputError, unknown


@dataclass(frozen=True)
class Preprocessing:
    """Normalisation per channel, and for folders of images the size they are brought to.

    Args:
        mean: One number per channel, in units of pixels scaled to [0, 1].
        std: One positive number per channel, in the same units.
        resize: Length in pixels the shorter side is brought to, ``None`` to leave it as it is.
        crop: Side in pixels of the square cut from the centre afterwards, ``None`` to cut nothing.
        interpolation: How a resize computes pixels: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``, all but the
            first antialiased.

    Raises:
        InputError: The numbers cannot normalise anything, or there is no such interpolation.

    Example:
        >>> photos = Preprocessing((0.5,) * 3, (0.25,) * 3, resize=256, crop=224, interpolation="bicubic")
        >>> photos.in_words()
        'shorter side resized to 256 pixels (bicubic), centre crop of 224 pixels, normalised by mean 0.5, 0.5, 0.5 and \
std 0.25, 0.25, 0.25'
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    crop: int | None = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise InputError(
                f"preprocessing needs one mean and one std per channel, not {len(self.mean)} and {len(self.std)}"
            )
        if not all(map(math.isfinite, self.mean)):
            raise InputError(f"the means of the preprocessing must be finite, not {self.mean}")
        if not all(math.isfinite(value) and value > 0 for value in self.std):
            raise InputError(f"the stds of the preprocessing must be finite and above 0, not {self.std}")
        for name, size in (("resize", self.resize), ("crop", self.crop)):
            if size is not None and size < 1:
                raise InputError(f"the {name} of the preprocessing is a number of pixels, at least 1, not {size}")
        if self.interpolation not in get_args(Interpolation):
            raise unknown("interpolation", str(self.interpolation), get_args(Interpolation))

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return len(self.mean)

    @property
    def is_plain(self) -> bool:
        """Whether pixels in [0, 1] are left as they are."""
        return not any(self.mean) and all(value == 1 for value in self.std)

    def in_words(self) -> str:
        """Return what is done to photos, in words."""
        words = []
        if self.resize is not None:
            words.append(f"shorter side resized to {self.resize} pixels ({self.interpolation})")
        if self.crop is not None:
            words.append(f"centre crop of {self.crop} pixels")
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        words.append("not normalised (pixels in [0, 1])" if self.is_plain else
                     f"normalised by mean {mean} and std {std}")  # fmt: skip
        return ", ".join(words)

    def normalise(self, images: Tensor) -> Tensor:
        """Return ``(images - mean) / std``.

        Args:
            images: ``(..., C, H, W)`` floats in [0, 1].

        Raises:
            InputError: The images have another number of channels.
        """
        if images.ndim < 3 or images.shape[-3] != self.channels:
            raise InputError(
                f"the preprocessing is for images of {self.channels} channels (..., C, H, W), "
                f"not for shape {tuple(images.shape)}"
            )
        mean, std = self._values(images)
        return (images - mean) / std

    def undo(self, images: Tensor) -> Tensor:
        """Return ``images * std + mean``: pixels in [0, 1] of what was normalised.

        Args:
            images: ``(..., C, H, W)`` floats.
        """
        mean, std = self._values(images)
        return images * std + mean

    def _values(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the std of every channel, ``(C, 1, 1)`` each, in the precision of the images."""
        mean, std = (
            torch.tensor(values, dtype=images.dtype, device=images.device).view(-1, 1, 1)
            for values in (self.mean, self.std)
        )
        return mean, std

    def to_dict(self) -> dict[str, Any]:
        """Return the preprocessing as JSON values."""
        values = asdict(self)
        return {**values, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Read a preprocessing from JSON values.

        Raises:
            InputError: The values are not a preprocessing.
        """
        known = [field.name for field in fields(cls)]
        for name in data:
            if name not in known:
                raise unknown("entry of a preprocessing", name, known)
        try:
            mean, std = (tuple(float(value) for value in data[name]) for name in ("mean", "std"))
            sizes = {name: None if data.get(name) is None else int(data[name]) for name in ("resize", "crop")}
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the preprocessing cannot be read: {error!r}") from error
        return cls(mean, std, **sizes, interpolation=data.get("interpolation", "bilinear"))
