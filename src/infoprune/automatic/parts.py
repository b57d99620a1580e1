"""The images that compare ways: a few that short repairs fit, and those held out that judge."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from infoprune.automatic.descent import HELD_OUT_EVERY
from infoprune.data.batches import images_of

# Images of a short repair: enough to rank ways that differ, few enough to take seconds.
FIT_IMAGES = 128
JUDGING_IMAGES = 512


@dataclass(frozen=True)
class Parts:
    """Calibration images in memory.

    Args:
        fit: Batches for short repairs.
        held_out: Batches that nothing is fitted to while ways are compared; with their labels where there are any.
    """

    fit: tuple[Tensor, ...]
    held_out: tuple[Tensor, ...]

    @classmethod
    def of(cls, batches: Iterable[Any], model: nn.Module) -> Parts:
        """Read the first images of the batches, where the network is and in its precision."""
        fit: list[Tensor] = []
        held: list[Tensor] = []
        seen = 0
        for images in images_of(batches, model):
            chosen = (torch.arange(len(images)) + seen) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
            seen += len(images)
            room = FIT_IMAGES - sum(map(len, fit))
            fit.append(images[~chosen][: max(0, room)])
            held.append(images[chosen])
            if seen >= HELD_OUT_EVERY * JUDGING_IMAGES:
                break
        fitting = tuple(some for some in fit if len(some))
        # Of fewer than five images the same ones judge.
        return cls(fitting, tuple(some for some in held if len(some)) or fitting)
