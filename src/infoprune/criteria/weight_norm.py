"""The norm of a filter's weights: L1 (Li et al. 2017, arXiv 1608.08710) and L2."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from infoprune.criteria.base import CriterionInfo, Filters, Importance, register
from infoprune.entropy.copies import copies
from infoprune.entropy.ties import rounding


class WeightNorm:
    """The p-norm of all weights that belong to a filter, over every layer of the coupled group.

    Args:
        filters: The group; its ``weights`` are ``(C, ...)`` each.
        power: 1 or 2.
        seed: Not used.

    Example:
        >>> WeightNorm(Filters((torch.tensor([[3.0, -4.0], [1.0, 0.0]]),)), power=2).compute().scores.tolist()
        [5.0, 1.0]
    """

    def __init__(self, filters: Filters, power: int, *, seed: int = 0) -> None:
        self.filters = filters
        self.power = power

    def update(self, maps: Tensor, labels: Tensor) -> None:
        """Look away."""

    def merge(self, other: WeightNorm) -> None:
        """Nothing was taken in."""

    def compute(self) -> Importance:
        """Return the ``(C,)`` norms."""
        flat = torch.cat(
            [weight.detach().to("cpu", torch.float64).flatten(1) for weight in self.filters.weights], dim=1
        )
        leaders = copies(flat[:, None])
        norms = torch.linalg.vector_norm(flat, ord=self.power, dim=1)[leaders]
        return Importance(norms, rounding=rounding(norms.dtype, flat.shape[1]) * norms)


L1 = register(
    CriterionInfo(
        "l1",
        partial(WeightNorm, power=1),
        "sum of the absolute weights of a filter",
        paper="arXiv 1608.08710",
        needs_maps=False,
        cost="none",
    )
)
L2 = register(
    CriterionInfo(
        "l2", partial(WeightNorm, power=2), "Euclidean norm of the weights of a filter", needs_maps=False, cost="none"
    )
)
