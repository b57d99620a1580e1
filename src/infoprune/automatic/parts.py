"""The images that compare ways: a few that short repairs fit, and those held out that judge."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from infoprune.data.batches import Batch, every_nth, parsed
from infoprune.device import place_of
from infoprune.regression.layer_fit import HELD_OUT_EVERY

# Images of a short repair: enough to rank ways that differ, few enough to take seconds.
FIT_IMAGES = 128
JUDGING_IMAGES = 512


@dataclass(frozen=True)
class Parts:
    """Calibration images in memory.

    Args:
        fit: Batches for short repairs.
        held_out: Batches that nothing is fitted to while ways are compared.
        judges: The same batches with what came with their images, for a metric.

    Example:
        >>> import torch
        >>> parts = Parts.of([torch.rand(10, 1, 8, 8)], nn.Conv2d(1, 2, 3))
        >>> sum(map(len, parts.fit)), sum(map(len, parts.held_out))
        (8, 2)
    """

    fit: tuple[Tensor, ...]
    held_out: tuple[Tensor, ...]
    judges: tuple[Batch, ...] = ()

    @classmethod
    def of(cls, batches: Iterable[Any], model: nn.Module) -> Parts:
        """Read the first images of the batches, where the network is and in its precision."""
        place = place_of(model)
        fit: list[Batch] = []
        held: list[Batch] = []
        seen = 0
        for batch in parsed(batches):
            chosen = every_nth(len(batch), seen, HELD_OUT_EVERY)
            seen += len(batch)
            placed = Batch(batch.placed(*place), batch.labels)
            room = FIT_IMAGES - sum(map(len, fit))
            if room > 0:
                fit.append(placed.chosen(~chosen).first(room))
            held.append(placed.chosen(chosen))
            if seen >= HELD_OUT_EVERY * JUDGING_IMAGES:
                break
        fitting = tuple(some for some in fit if len(some))
        # Of fewer than five images the same ones judge.
        judges = tuple(some for some in held if len(some)) or fitting
        return cls(tuple(one.images for one in fitting), tuple(one.images for one in judges), judges)
