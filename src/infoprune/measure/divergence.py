"""How far the outputs of one network are from those of another, without labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprune.data.batches import some_batches
from infoprune.runs.together import current


@dataclass(frozen=True)
class Divergence:
    """How far a pruned network is from its original on some images.

    Args:
        value: For ``(n, classes)`` logits the mean Kullback-Leibler divergence in nats, for any other output the mean
            squared difference relative to the variance of the original's output; lower is nearer.
        agreement: Share of the images on which both name the same class, percent; ``None`` for other outputs.
        images: Number of images.

    Example:
        >>> Divergence(0.02, 99.0, 500).agreement
        99.0
    """

    value: float
    agreement: float | None
    images: int


@torch.no_grad()
def divergence_between(original: nn.Module, pruned: nn.Module, images: Iterable[Tensor]) -> Divergence:
    """Compare the outputs of two networks on the same images.

    Args:
        original: In eval mode; returns one tensor.
        pruned: In eval mode; returns a tensor of the same shape.
        images: Batches of ``(n, ...)`` inputs, on the networks' device and in their precision.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> same = divergence_between(net, net, [torch.ones(2, 1, 2, 2)])
        >>> same.value, same.agreement, same.images
        (0.0, 100.0, 2)
    """
    processes = current()
    own = [_of_batch(original(some), pruned(some), len(some)) for _, some in some_batches(images, processes.share)]
    parts = processes.in_order(own)
    if None in parts:
        return Divergence(0.0, None, 0)
    total, variance, same, count, classes = 0.0, 0.0, 0, 0, True
    for part in parts:
        assert part is not None
        total, variance, same = total + part.total, variance + part.variance, same + part.same
        count, classes = count + part.images, part.classes
    # Logits of equal networks may leave a divergence of a rounding below zero.
    value = max(0.0, total) / max(1, count)
    if not classes:
        value /= max(variance / max(1, count), torch.finfo(torch.float64).tiny)
    return Divergence(value, 100 * same / max(1, count) if classes else None, count)


@dataclass(frozen=True)
class _Part:
    """Sums over the images of one batch."""

    total: float
    variance: float
    same: int
    images: int
    classes: bool


def _of_batch(wanted: Any, found: Any, images: int) -> _Part | None:
    """Return the sums of one batch, ``None`` where the network returns something other than a tensor."""
    if not isinstance(wanted, Tensor):
        return None
    wanted, found = wanted.double(), found.double()
    if wanted.dim() == 2 and wanted.shape[1] > 1:
        mine, theirs = F.log_softmax(found, dim=1), F.log_softmax(wanted, dim=1)
        total = float(F.kl_div(mine, theirs, reduction="sum", log_target=True))
        return _Part(total, 0.0, int((found.argmax(1) == wanted.argmax(1)).sum()), images, classes=True)
    total = float((wanted - found).square().flatten(1).mean(dim=1).sum())
    return _Part(total, float(wanted.var(unbiased=False)) * images, 0, images, classes=False)
