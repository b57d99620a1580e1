"""A criterion on one number per filter and image, the pooled map: ``(n, C)`` values are kept, no maps."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from infoprune.criteria.base import Criterion, Factory, Filters, Importance
from infoprune.criteria.dead import Extremes
from infoprune.criteria.keywords import options_of
from infoprune.errors import unknown

Pool = Literal["mean", "max"]
Scoring = Callable[[Tensor, Tensor, Tensor], Importance]


class Pooled:
    """Keeps the mean or the largest value of every map and the labels, in the order of arrival.

    Args:
        function: ``function(values, labels, dead)`` with ``(n, C)`` float64 values, ``(n,)`` labels and ``(C,)``
            booleans.
        pool: ``"mean"`` or ``"max"`` over the positions.
        name: The layer that names the group, for messages.

    Raises:
        InputError: The pooling is unknown.

    Example:
        >>> largest = Pooled(lambda values, labels, dead: Importance(values.mean(0)), pool="max")
        >>> largest.update(torch.tensor([[[[1.0, 3.0]], [[5.0, 7.0]]]]), torch.tensor([0]))
        >>> largest.compute().scores.tolist()
        [3.0, 7.0]
    """

    def __init__(self, function: Scoring, pool: Pool = "mean", name: str = "") -> None:
        if pool not in get_args(Pool):
            raise unknown("pooling of feature maps", str(pool), get_args(Pool))
        self.function = function
        self.pool = pool
        self.extremes = Extremes(name)
        self.values: list[Tensor] = []
        self.labels: list[Tensor] = []

    def update(self, maps: Tensor, labels: Tensor) -> None:
        """Take in ``(n, C, H, W)`` maps and ``(n,)`` labels."""
        self.extremes.note(maps)
        # Contiguous, so that the sum over positions rounds alike in every split into batches.
        flat = maps.detach().to("cpu", torch.float64).flatten(2).contiguous()
        self.values.append(flat.mean(dim=2) if self.pool == "mean" else flat.amax(dim=2))
        self.labels.append(labels.cpu())

    def merge(self, other: Pooled) -> None:
        """Append what another instance holds."""
        self.extremes.merge(other.extremes)
        self.values.extend(other.values)
        self.labels.extend(other.labels)

    def compute(self) -> Importance:
        """Return the importance over all images.

        Raises:
            InputError: There were no maps.
        """
        dead = self.extremes.dead()
        # A constant map has one mean, whatever rounding makes of it.
        values = torch.where(dead, 0.0, torch.cat(self.values))
        return self.function(values, torch.cat(self.labels), dead)


def pooled(function: Callable[..., Importance]) -> Factory:
    """Make a criterion of a function ``function(values, labels, dead, **options)``.

    Its keyword-only arguments and ``pool`` are the options of the criterion.

    Example:
        >>> from infoprune.criteria.dead import dead_last
        >>> from infoprune.entropy.ties import default_bound
        >>> def spread(values, labels, dead):
        ...     found = values.std(dim=0)
        ...     return dead_last(found, dead, default_bound(found))
        >>> factory = pooled(spread)
        >>> criterion = factory(Filters(()), pool="max")
        >>> criterion.update(torch.tensor([[[[0.0, 1.0]]], [[[0.0, 3.0]]]]), torch.tensor([0, 1]))
        >>> round(criterion.compute().scores.item(), 4)
        1.4142
    """
    options = options_of(function).values()

    def make(filters: Filters, *, seed: int = 0, pool: Pool = "mean", **given: Any) -> Criterion:
        return Pooled(partial(function, **given), pool, filters.name)

    own = [*list(inspect.signature(make).parameters.values())[:2], options_of(make)["pool"]]
    make.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    return make
