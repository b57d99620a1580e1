"""A criterion that is one function of all the feature maps of a group: they are kept until it is asked."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from infoprune.criteria.base import Criterion, Factory, Filters, Importance
from infoprune.errors import InputError

Scoring = Callable[[Tensor, Tensor], Importance]


class Holding:
    """Keeps maps and labels in the order of arrival, and scores them all at once.

    Args:
        function: ``function(maps, labels)`` with all ``(n, C, H, W)`` maps and ``(n,)`` labels.
        name: The layer that names the group, for messages.

    Example:
        >>> mean = Holding(lambda maps, labels: Importance(maps.double().mean((0, 2, 3))))
        >>> mean.update(torch.ones(2, 3, 4, 4), torch.tensor([0, 1]))
        >>> mean.compute().scores.tolist()
        [1.0, 1.0, 1.0]
    """

    def __init__(self, function: Scoring, name: str = "") -> None:
        self.function = function
        self.name = name
        self.maps: list[Tensor] = []
        self.labels: list[Tensor] = []

    def update(self, maps: Tensor, labels: Tensor) -> None:
        """Keep one batch: ``(n, C, H, W)`` maps and ``(n,)`` labels."""
        if self.maps and maps.shape[1:] != self.maps[0].shape[1:]:
            raise InputError(
                f"layer '{self.name}' has maps of several sizes, because the images have, and this criterion compares "
                "maps of one size: give images of one size, or choose 'l1', 'l2', 'bn-scale' or 'variance'"
            )
        self.maps.append(maps)
        self.labels.append(labels)

    def merge(self, other: Holding) -> None:
        """Append what another instance holds."""
        self.maps.extend(other.maps)
        self.labels.extend(other.labels)

    def compute(self) -> Importance:
        """Score all that is held.

        Raises:
            InputError: There are no maps, or the function refuses them.
        """
        if not self.maps:
            raise InputError(f"layer '{self.name}' cannot be scored: there are no feature maps")
        return self.function(torch.cat(self.maps), torch.cat(self.labels))


def holding(function: Callable[..., Importance]) -> Factory:
    """Make a criterion of a function ``function(maps, labels, **options)``.

    Its keyword-only arguments are the options of the criterion.

    Example:
        >>> factory = holding(lambda maps, labels: Importance(maps.double().mean((0, 2, 3))))
        >>> criterion = factory(Filters((torch.ones(3, 1),)), seed=0)
        >>> criterion.update(torch.ones(2, 3, 4, 4), torch.tensor([0, 1]))
        >>> criterion.compute().order
        (0, 1, 2)
    """
    options = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]

    def make(filters: Filters, *, seed: int = 0, **given: Any) -> Criterion:
        return Holding(partial(function, **given), filters.name)

    own = list(inspect.signature(make).parameters.values())[:2]
    make.__module__ = function.__module__  # where the names in the options' annotations are known
    make.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    return make
