"""The words for how a photo is resized, where neither torch nor Pillow is needed to read them."""

from __future__ import annotations

from typing import Literal, TypeAlias

Interpolation: TypeAlias = Literal["nearest", "bilinear", "bicubic", "lanczos"]
