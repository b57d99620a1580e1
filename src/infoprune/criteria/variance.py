"""The variance of a filter's feature map over images and positions."""

from __future__ import annotations

import torch
from torch import Tensor

from infoprune.criteria.base import CriterionInfo, Filters, Importance, register
from infoprune.errors import InputError


class Variance:
    """Streams mean and squared deviations (Chan, Golub and LeVeque 1979).

    Within an image it is as precise as the maps are, at least float32; over images it sums in float64.

    Args:
        filters: The group.
        seed: Not used.
    """

    def __init__(self, filters: Filters, *, seed: int = 0) -> None:
        self.name = filters.name
        self.count = 0
        self.mean: Tensor | None = None
        self.squares: Tensor | None = None

    def update(self, maps: Tensor, labels: Tensor) -> None:
        """Take in ``(n, C, H, W)`` maps."""
        flat = maps.flatten(2)
        flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
        # Relative to a value of the map itself, so that a constant map has a variance of exactly 0.
        first = flat[..., :1]
        offsets = flat - first
        shift = offsets.mean(dim=2, keepdim=True)
        within = torch.linalg.vector_norm(offsets - shift, dim=2).cpu().double().square().sum(dim=0)
        means = (first.cpu().double() + shift.cpu().double())[..., 0]
        steps = means - means[0]
        step = steps.mean(dim=0)
        between = (steps - step).square().sum(dim=0) * flat.shape[2]
        self._join(len(flat) * flat.shape[2], means[0] + step, within + between)

    def merge(self, other: Variance) -> None:
        """Take in what another instance has seen."""
        if other.mean is not None and other.squares is not None:
            self._join(other.count, other.mean, other.squares)

    def _join(self, count: int, mean: Tensor, squares: Tensor) -> None:
        if self.mean is None or self.squares is None:
            self.count, self.mean, self.squares = count, mean, squares
            return
        total = self.count + count
        step = mean - self.mean
        self.squares = self.squares + squares + step.square() * (self.count * count / total)
        self.mean = self.mean + step * (count / total)
        self.count = total

    def compute(self) -> Importance:
        """Return the ``(C,)`` variances, in squared units of the maps; 0 for a dead filter.

        Raises:
            InputError: There were no maps.
        """
        if self.squares is None:
            raise InputError(f"layer '{self.name}' cannot be scored: there are no feature maps")
        return Importance(self.squares / self.count)


INFO = register(
    CriterionInfo("variance", Variance, "variance of the feature map over images and positions", cost="one pass")
)
