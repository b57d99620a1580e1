"""Re-estimated batch-norm statistics: the means and variances of the pruned network replace those of the original."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from infoprune.data.batches import Batches, images_of, number_of_batches
from infoprune.errors import InputError
from infoprune.network.equivalence import duplicate
from infoprune.progress import Progress, silent
from infoprune.repair.base import Pair, RepairInfo, register


@dataclass
class Moments:
    """Exact running moments of channels, over any number of batches.

    Args:
        count: Values per channel so far.
        mean: ``(C,)`` float64.
        squares: ``(C,)`` float64, the sum of squared distances from the mean.

    Example:
        >>> moments = Moments.of(torch.tensor([[[1.0, 3.0]]]))
        >>> moments.join(Moments.of(torch.tensor([[[5.0, 7.0]]])))
        >>> moments.count, moments.mean.tolist(), round(moments.squares.item(), 3)
        (4, [4.0], 20.0)
    """

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, maps: Tensor) -> Moments:
        """Return the moments of ``(n, C, ...)`` maps.

        Sums over one image are float32 or better, sums over images float64: converting all maps to float64 would take
        most of the time of a pass. The rounding of the mean to float32 is corrected.
        """
        values = maps.detach().reshape(*maps.shape[:2], -1)
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        mean = values.mean(dim=2).double().mean(dim=0)
        about = mean.to(values.dtype)
        distances = torch.linalg.vector_norm(values - about[:, None], dim=2).double()
        count = values.shape[0] * values.shape[2]
        return cls(count, mean, distances.square().sum(dim=0) - count * (mean - about).square())

    def join(self, other: Moments) -> None:
        """Add the moments of further values (Chan, Golub and LeVeque 1983)."""
        total = self.count + other.count
        difference = other.mean - self.mean
        self.mean = self.mean + difference * (other.count / total)
        self.squares = self.squares + other.squares + difference.square() * (self.count * other.count / total)
        self.count = total

    def write(self, norm: _BatchNorm) -> None:
        """Write these as the running statistics of a batch norm."""
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(self.mean)
        norm.running_var.copy_(self.squares / self.count)


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms that hold statistics.

    Example:
        >>> len(batch_norms(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))))
        1
    """
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@torch.no_grad()
def reestimate(model: nn.Module, batches: Batches, progress: Progress = silent) -> nn.Module:
    """Return a copy of a network with batch-norm statistics re-estimated on images.

    One pass, forward only. Every batch norm normalises with the exact moments, summed in float64, of all images it
    has seen so far, the present batch included. Later norms therefore see inputs that differ slightly from the final
    ones during the first batches. With all images in one batch there is no difference.

    Args:
        model: The network; it is not changed. The copy is in the same mode.
        batches: Images, ``(n, C, H, W)``, with or without labels.
        progress: Called after every batch.

    Raises:
        InputError: There are no images, or a layer's values are not finite.

    Example:
        >>> norm = reestimate(nn.BatchNorm2d(1).eval(), [torch.full((4, 1, 2, 2), 3.0)])
        >>> norm.running_mean.item(), norm.running_var.item()
        (3.0, 0.0)
    """
    fresh = duplicate(model)
    modes = [(module, module.training) for module in fresh.modules()]
    seen: dict[_BatchNorm, Moments] = {}

    def count(norm: nn.Module, arguments: tuple[Any, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        found = Moments.of(arguments[0])
        if not torch.isfinite(found.mean).all():
            raise InputError("a batch norm receives values that are not finite: weights or images may hold NaN")
        if norm in seen:
            seen[norm].join(found)
        else:
            seen[norm] = found
        seen[norm].write(norm)

    with ExitStack() as hooks:
        for norm in batch_norms(fresh):
            hooks.callback(norm.register_forward_pre_hook(count).remove)
        fresh.eval()
        total = number_of_batches(batches)
        for done, images in enumerate(images_of(batches, fresh), 1):
            fresh(images)
            progress("re-estimating batch norm", done, max(total, done))
    for module, mode in modes:
        module.training = mode
    return fresh


def _repair(pair: Pair, progress: Progress) -> nn.Module:
    return reestimate(pair.small, pair.batches, progress)


register(RepairInfo("bn", _repair, "batch norm statistics re-estimated on the images, forward only"))
