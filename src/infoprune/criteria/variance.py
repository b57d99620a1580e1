"""The variance of a filter's feature map over images and positions."""

from __future__ import annotations

import torch
from torch import Tensor

from infoprune.criteria.base import CriterionInfo, Filters, Importance, register
from infoprune.entropy import variables
from infoprune.entropy.copies import Copies
from infoprune.entropy.ties import rounding
from infoprune.errors import InputError


class Variance:
    """Streams mean and squared deviations (Chan, Golub and LeVeque 1979).

    All sums are float64. What the maps themselves are rounded by moves the variance of x by a share of the rounding of
    its precision times sqrt(var x * mean x^2): filters that are nearer to each other than that tie.

    Args:
        filters: The group.
        seed: Not used.

    Example:
        >>> variance = Variance(Filters((torch.rand(2, 1),)))
        >>> variance.update(torch.tensor([[[[0.0, 2.0]], [[1.0, 1.0]]]]), torch.tensor([0]))
        >>> variance.compute().scores.tolist()
        [1.0, 0.0]
    """

    def __init__(self, filters: Filters, *, seed: int = 0) -> None:
        self.name = filters.name
        self.count = 0
        self.copies = Copies()
        self.dtype = torch.float32
        self.mean: Tensor | None = None
        self.squares: Tensor | None = None

    def update(self, maps: Tensor, labels: Tensor) -> None:
        """Take in ``(n, C, H, W)`` maps."""
        flat = maps.flatten(2)
        self.copies.update(variables(maps))
        self.dtype = torch.promote_types(flat.dtype, torch.float32)
        # Relative to a value of the map itself, so that a constant map has a variance of exactly 0.
        first = flat[..., :1].double()
        offsets = flat.double() - first
        shift = offsets.mean(dim=2, keepdim=True)
        within = (offsets - shift).square_().sum(dim=(0, 2)).cpu()
        means = (first + shift)[..., 0].cpu()
        steps = means - means[0]
        step = steps.mean(dim=0)
        between = (steps - step).square().sum(dim=0) * flat.shape[2]
        self._join(len(flat) * flat.shape[2], means[0] + step, within + between)

    def merge(self, other: Variance) -> None:
        """Take in what another instance has seen."""
        if other.mean is not None and other.squares is not None:
            self.copies.merge(other.copies)
            self.dtype = other.dtype
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
        if self.mean is None or self.squares is None:
            raise InputError(f"layer '{self.name}' cannot be scored: there are no feature maps")
        variance = self.squares / self.count
        out_by = rounding(self.dtype, 1) * (variance * (variance + self.mean.square())).sqrt()
        leaders = self.copies.leaders
        return Importance(variance[leaders], rounding=out_by[leaders])


INFO = register(
    CriterionInfo("variance", Variance, "variance of the feature map over images and positions", cost="one pass")
)
