"""How far the outputs of one network are from those of another, without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from infoprune.data.batches import some_batches
from infoprune.network.tensors import tensors_in
from infoprune.runs.together import current


@dataclass(frozen=True)
class Divergence:
    """How far a pruned network is from its original on some images.

    Args:
        value: For ``(n, classes)`` logits the mean Kullback-Leibler divergence in nats, for any other tensor the mean
            squared difference relative to the variance of the original's output, and for several tensors the mean of
            theirs; lower is nearer.
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
def divergence_between(
    original: Callable[[Tensor], Any], pruned: Callable[[Tensor], Any], images: Iterable[Tensor]
) -> Divergence:
    """Compare the outputs of two networks on the same images.

    Args:
        original: In eval mode; returns a tensor, or several in any form.
        pruned: In eval mode; returns tensors of the same shapes. Outputs of other shapes, such as the boxes of a
            detector, cannot be compared: the divergence is then 0, of 0 images.
        images: Batches of ``(n, ...)`` inputs, on the networks' device and in their precision.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> same = divergence_between(net, net, [torch.ones(2, 1, 2, 2)])
        >>> same.value, same.agreement, same.images
        (0.0, 100.0, 2)
        >>> both = divergence_between(lambda x: {"a": x, "b": 2 * x}, lambda x: {"a": x, "b": x}, [torch.eye(2)[None]])
        >>> both.value, both.agreement
        (0.25, None)
    """
    processes = current()
    own = [_of_batch(original(some), pruned(some), len(some)) for _, some in some_batches(images, processes.share)]
    batches = processes.in_order(own)
    if None in batches:
        return Divergence(0.0, None, 0)
    tensors = list(zip(*(batch for batch in batches if batch is not None), strict=True))
    count = sum(part.images for part in tensors[0]) if tensors else 0
    value = sum(_value(parts, count) for parts in tensors) / max(1, len(tensors))
    alone = bool(tensors) and all(part.classes and part.alone for part in tensors[0])
    return Divergence(value, 100 * sum(part.same for part in tensors[0]) / max(1, count) if alone else None, count)


@dataclass(frozen=True)
class _Part:
    """Sums over the images of one batch, of one tensor of the output."""

    total: float
    variance: float
    same: int
    images: int
    classes: bool
    alone: bool


def _of_batch(wanted: Any, found: Any, images: int) -> tuple[_Part, ...] | None:
    """Return the sums of one batch by tensor, ``None`` where the outputs have different shapes."""
    mine, theirs = _real(wanted), _real(found)
    if [one.shape for one in mine] != [one.shape for one in theirs]:
        return None
    alone = isinstance(wanted, Tensor)
    return tuple(_part(one.double(), other.double(), images, alone) for one, other in zip(mine, theirs, strict=True))


def _part(wanted: Tensor, found: Tensor, images: int, alone: bool) -> _Part:
    if wanted.dim() == 2 and wanted.shape[1] > 1:
        mine, theirs = F.log_softmax(found, dim=1), F.log_softmax(wanted, dim=1)
        total = float(F.kl_div(mine, theirs, reduction="sum", log_target=True))
        same = int((found.argmax(1) == wanted.argmax(1)).sum())
        return _Part(total, 0.0, same, images, classes=True, alone=alone)
    if not wanted.numel():
        return _Part(0.0, 0.0, 0, images, classes=False, alone=alone)
    total = float((wanted - found).square().mean()) * images
    return _Part(total, float(wanted.var(unbiased=False)) * images, 0, images, classes=False, alone=alone)


def _value(parts: Sequence[_Part], images: int) -> float:
    # Logits of equal networks may leave a divergence of a rounding below zero.
    value = float(max(0.0, sum(part.total for part in parts)) / max(1, images))
    if parts[-1].classes:
        return value
    variance = float(sum(part.variance for part in parts) / max(1, images))
    return value / max(variance, torch.finfo(torch.float64).tiny)


def _real(output: Any) -> list[Tensor]:
    """Return the tensors of an output that hold real numbers; indices of any kind have no distance."""
    return [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]
