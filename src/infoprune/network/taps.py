"""The points at which the feature maps of a layer can be read."""

from __future__ import annotations

from typing import Literal, get_args

Tap = Literal["convolution", "norm", "activation"]
TAPS: tuple[Tap, ...] = get_args(Tap)
