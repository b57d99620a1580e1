"""Re-estimated batch-norm statistics: the means and variances of the pruned network replace those of the original."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from infoprune.data.batches import Batches, number_of_batches, parse, some_batches
from infoprune.device import place_of
from infoprune.errors import InputError
from infoprune.network.equivalence import duplicate
from infoprune.progress import Progress, silent
from infoprune.repair.base import Pair, RepairInfo, register
from infoprune.repair.moments import Moments, Relay
from infoprune.runs.together import current


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

    One pass, forward only; several processes share the batches and reach the same result. Every batch norm normalises
    with the exact moments, summed in float64, of all images it has seen so far, the present batch included. Later norms
    therefore see inputs that differ slightly from the final ones during the first batches. With all images in one batch
    there is no difference.

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
    relay = Relay(current(), batch_norms(fresh))

    def count(norm: nn.Module, arguments: tuple[Any, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        found = Moments.of(arguments[0])
        if not torch.isfinite(found.mean).all():
            raise InputError("a batch norm receives values that are not finite: weights or images may hold NaN")
        relay.joined(norm, found).write(norm)

    with ExitStack() as hooks:
        for norm in batch_norms(fresh):
            hooks.callback(norm.register_forward_pre_hook(count).remove)
        fresh.eval()
        total = number_of_batches(batches)
        for number, batch in some_batches(batches, relay.processes.share):
            relay.begin(number)
            fresh(parse(batch).placed(*place_of(fresh)))
            relay.end()
            progress("re-estimating batch norm", number + 1, max(total, number + 1))
        relay.finish()
    for module, mode in modes:
        module.training = mode
    return fresh


def _repair(pair: Pair, progress: Progress) -> nn.Module:
    return reestimate(pair.small, pair.batches, progress)


register(RepairInfo("bn", _repair, "batch norm statistics re-estimated on the images, forward only"))
