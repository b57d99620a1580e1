"""Re-estimates batch norm after another repair if this reduces the divergence from the original on held-out images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from infoprune.data.batches import EveryNth
from infoprune.device import place_of
from infoprune.measure.divergence import Answers, divergence_between
from infoprune.progress import Progress
from infoprune.regression.layer_fit import HELD_OUT_EVERY
from infoprune.repair.base import Pair, RepairInfo, register
from infoprune.repair.batch_norm import reestimate
from infoprune.repair.channel_combination import nearest_kept, put_in
from infoprune.repair.least_squares import least_squares


@dataclass(frozen=True)
class HeldOut:
    """The held-out images of a pair (every fifth), or all others; iterable more than once.

    Example:
        >>> import torch, infoprune
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> pair = Pair.of(whole, plan, [images])
        >>> sum(len(images) for images in HeldOut(pair, held_out=True))
        4
    """

    pair: Pair
    held_out: bool

    def __iter__(self) -> Iterator[Tensor]:
        """Yield their batches."""
        place = place_of(self.pair.small)
        for batch in EveryNth(self.pair.batches, HELD_OUT_EVERY, chosen=self.held_out):
            yield batch.placed(*place)


def divergence(pair: Pair, small: nn.Module, held_out: bool = True, original: Answers | None = None) -> float:
    """Return the divergence of the outputs from those of the original on held-out images.

    It is the value of :func:`infoprune.measure.divergence.divergence_between`. No labels are read. ``original`` are the
    answers of the original, where several networks are compared on the same images.

    Example:
        >>> import torch, infoprune
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> pair = Pair.of(whole, plan, [images])
        >>> divergence(pair, whole), divergence(pair, pair.small) > 0
        (0.0, True)
    """
    return divergence_between(original or pair.original, small, HeldOut(pair, held_out)).value


def normed_if_nearer(pair: Pair, small: nn.Module, progress: Progress) -> nn.Module:
    """Return the network with re-estimated or unchanged batch norm, whichever diverges less on held-out images.

    Example:
        >>> import torch, infoprune
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> pair = Pair.of(whole, plan, [images])
        >>> from infoprune.progress import silent
        >>> divergence(pair, normed_if_nearer(pair, pair.small, silent)) >= 0
        True
    """
    normed = reestimate(small, HeldOut(pair, held_out=False), progress)
    original = Answers(pair.original)
    nearer = divergence(pair, normed, original=original) < divergence(pair, small, original=original)
    return reestimate(small, pair.batches, progress) if nearer else small


def _all(pair: Pair, progress: Progress) -> nn.Module:
    return normed_if_nearer(pair, least_squares(pair, progress), progress)


def _merge(pair: Pair, progress: Progress) -> nn.Module:
    return normed_if_nearer(pair, put_in(pair, nearest_kept, progress), progress)


register(RepairInfo("all", _all, "least squares, then batch norm if this reduces the divergence on held-out images"))
register(
    RepairInfo(
        "merge",
        _merge,
        "each removed channel as a x + b of the kept one x that explains most of it, then batch norm if it helps",
        "arXiv 2010.13160",
    )
)
