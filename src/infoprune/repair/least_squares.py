"""Least squares for the layers from the first cut on: each is refitted, front to back, to the output of the original.

For each layer, X is its input in the PRUNED network (im2col patches). T is its output in the ORIGINAL after the batch
norm that follows; in a residual block T includes the difference of the other branches::

    T = original result + original shortcut - pruned shortcut
    W, b = argmin ||X W + b - T||^2 + ridge ||W - W_cut||^2

W divided by the norm's scale becomes the weight, b is added to the norm's shift or the layer's bias. The ridge is the
one with the lowest error on every fifth image; the solution is then computed from all images. Both networks run once
over the images, and once more for each layer that runs several times in one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from infoprune.network.equivalence import duplicate
from infoprune.progress import Progress
from infoprune.repair.base import Pair, RepairInfo, register
from infoprune.repair.repeated_layer import refit_in_order
from infoprune.repair.walks import MEMORY, Walks, refit


@torch.no_grad()
def least_squares(pair: Pair, progress: Progress, *, every: bool = True, memory: int = MEMORY) -> nn.Module:
    """Return a copy of the pruned network whose layers from the first cut on are refitted.

    Args:
        pair: The networks and the images, which are read once, and once more for each layer that runs several times.
        progress: Called after every layer.
        every: Whether all layers from the first cut on are refitted, or only those that lost inputs.
        memory: Bytes of feature maps that are kept in memory between layers; the rest is written to files.

    Example:
        >>> import infoprune
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> pair = Pair.of(whole, plan, [images])
        >>> from infoprune.progress import silent
        >>> least_squares(pair, silent).features[0].out_channels == pair.small.features[0].out_channels
        True
    """
    small = duplicate(pair.small)

    def walked(layers: list[str], step: Callable[[], None]) -> None:
        with Walks.of(pair, small, layers, memory, late=True) as walks:
            for site in walks.sites:
                refit(walks, site)
                step()

    refit_in_order(pair, small, "least squares", progress, walked, every=every)
    return small


def _repair(pair: Pair, progress: Progress) -> nn.Module:
    return least_squares(pair, progress)


register(
    RepairInfo("least-squares", _repair, "every layer from the first cut on refitted to the original, front to back")
)
