"""Batch norm re-estimated after another repair, where that comes nearer to the original on held-out images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprune.progress import Progress
from infoprune.regression.layer_fit import HELD_OUT_EVERY
from infoprune.repair.base import Pair, RepairInfo, register
from infoprune.repair.batch_norm import reestimate
from infoprune.repair.channel_combination import nearest_kept, put_in
from infoprune.repair.least_squares import least_squares


@dataclass(frozen=True)
class HeldOut:
    """The images of a pair that are held out, every fifth, or all others; iterable more than once."""

    pair: Pair
    held_out: bool

    def __iter__(self) -> Iterator[Tensor]:
        """Yield their batches."""
        seen = 0
        for images in self.pair.images():
            held = (torch.arange(len(images)) + seen) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
            seen += len(images)
            chosen = images[held if self.held_out else ~held]
            if len(chosen):
                yield chosen


@torch.no_grad()
def divergence(pair: Pair, small: nn.Module, held_out: bool = True) -> float:
    """Return how far the outputs are from the original's on held-out images.

    For ``(n, classes)`` logits the mean Kullback-Leibler divergence in nats, for any other output the mean squared
    difference; lower is nearer. No labels are read.
    """
    total, count = 0.0, 0
    for images in HeldOut(pair, held_out):
        wanted, found = pair.original(images), small(images)
        if not isinstance(wanted, Tensor):
            return 0.0
        if wanted.dim() == 2 and wanted.shape[1] > 1:
            mine, theirs = F.log_softmax(found.double(), dim=1), F.log_softmax(wanted.double(), dim=1)
            total += float(F.kl_div(mine, theirs, reduction="sum", log_target=True))
        else:
            total += float((wanted.double() - found.double()).square().flatten(1).mean(dim=1).sum())
        count += len(images)
    return total / max(1, count)


def normed_if_nearer(pair: Pair, small: nn.Module, progress: Progress) -> nn.Module:
    """Return a network with its batch norm re-estimated, or as it is, whichever is nearer on held-out images."""
    normed = reestimate(small, HeldOut(pair, held_out=False), progress)
    nearer = divergence(pair, normed) < divergence(pair, small)
    return reestimate(small, pair.batches, progress) if nearer else small


def _all(pair: Pair, progress: Progress) -> nn.Module:
    return normed_if_nearer(pair, least_squares(pair, progress), progress)


def _merge(pair: Pair, progress: Progress) -> nn.Module:
    return normed_if_nearer(pair, put_in(pair, nearest_kept, progress), progress)


register(RepairInfo("all", _all, "least squares, then batch norm where held-out images come out nearer"))
register(
    RepairInfo(
        "merge",
        _merge,
        "each removed channel as a x + b of the kept one x that tells most of it; then batch norm likewise",
        "arXiv 2010.13160",
    )
)
