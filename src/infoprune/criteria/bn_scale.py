"""The scale of a filter's batch norm: network slimming (Liu et al. 2017, arXiv 1708.06519)."""

from __future__ import annotations

import torch
from torch import Tensor

from infoprune.criteria.base import CriterionInfo, Filters, Importance, register
from infoprune.entropy.ties import rounding
from infoprune.errors import InputError


class BatchNormScale:
    """The mean of abs(gamma) over the norms of the coupled group.

    Args:
        filters: The group; its ``scales`` are ``(C,)`` each.
        seed: Not used.

    Raises:
        InputError: No norm with a scale follows the group's layers.

    Example:
        >>> import torch
        >>> BatchNormScale(Filters((torch.rand(2, 1, 3, 3),), (torch.tensor([-0.5, 0.1]),))).compute().order
        (0, 1)
    """

    def __init__(self, filters: Filters, *, seed: int = 0) -> None:
        if not filters.scales:
            raise InputError(
                f"layer '{filters.name}' has no batch norm with a scale: the criterion 'bn-scale' cannot score it, "
                "choose 'l1' or leave the layer out"
            )
        self.filters = filters

    def update(self, maps: Tensor, labels: Tensor) -> None:
        """Look away."""

    def merge(self, other: BatchNormScale) -> None:
        """Nothing was taken in."""

    def compute(self) -> Importance:
        """Return ``(C,)`` mean absolute scales."""
        scales = torch.stack([scale.detach().to("cpu", torch.float64).abs() for scale in self.filters.scales])
        found = scales.mean(dim=0)
        return Importance(found, rounding=rounding(found.dtype, len(scales)) * found)


INFO = register(
    CriterionInfo(
        "bn-scale",
        BatchNormScale,
        "absolute scale of the filter's batch norm",
        paper="arXiv 1708.06519",
        needs_maps=False,
        cost="none",
    )
)
