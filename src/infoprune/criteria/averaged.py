"""A criterion that is the mean over images of what a function finds in each: only sums are kept."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from infoprune.criteria.base import Criterion, Factory, Filters, Importance
from infoprune.criteria.dead import Extremes
from infoprune.criteria.keywords import options_of
from infoprune.errors import InputError

Measure = Callable[..., Tensor]
Finish = Callable[..., Importance]


class Averaged:
    """Sums in float64 what is measured in every image, so that any split into batches scores alike.

    Args:
        measure: From ``(n, C, H, W)`` maps to ``(n, ...)``, each image for itself.
        finish: From the mean over images and ``(C,)`` booleans of dead filters to the importance.
        name: The layer that names the group, for messages.

    Example:
        >>> mean = Averaged(lambda maps: maps.mean((2, 3)), lambda mean, dead: Importance(mean))
        >>> mean.update(torch.tensor([[[[1.0, 3.0]], [[5.0, 7.0]]]]), torch.tensor([0]))
        >>> mean.compute().scores.tolist()
        [2.0, 6.0]
    """

    def __init__(self, measure: Callable[[Tensor], Tensor], finish: Callable[[Tensor, Tensor], Importance],
                 name: str = "") -> None:  # fmt: skip
        self.measure = measure
        self.finish = finish
        self.extremes = Extremes(name)
        self.images = 0
        self.total: Tensor | None = None

    def update(self, maps: Tensor, labels: Tensor) -> None:
        """Take in ``(n, C, H, W)`` maps."""
        self.extremes.note(maps)
        self._join(len(maps), self.measure(maps).to("cpu", torch.float64).sum(dim=0))

    def merge(self, other: Averaged) -> None:
        """Take in what another instance has seen."""
        self.extremes.merge(other.extremes)
        if other.total is not None:
            self._join(other.images, other.total)

    def compute(self) -> Importance:
        """Return the importance over all images.

        Raises:
            InputError: There were no maps.
        """
        dead = self.extremes.dead()
        assert self.total is not None
        return self.finish(self.total / self.images, dead)

    def _join(self, images: int, total: Tensor) -> None:
        self.images += images
        self.total = total if self.total is None else self.total + total


def averaged(measure: Measure, finish: Finish) -> Factory:
    """Make a criterion of two functions, ``measure(maps, ...)`` and ``finish(mean, dead, ...)``.

    The keyword-only arguments of both are its options. A parameter ``filters`` of either receives the group's weights.

    Example:
        >>> from infoprune.criteria.dead import dead_last
        >>> from infoprune.entropy.ties import default_bound
        >>> def finish(mean, dead):
        ...     return dead_last(mean, dead, default_bound(mean))
        >>> factory = averaged(lambda maps: maps.abs().mean(dim=(2, 3)), finish)
        >>> criterion = factory(Filters(()))
        >>> criterion.update(torch.tensor([[[[1.0, 3.0]], [[2.0, 5.0]]]]), torch.tensor([0]))
        >>> criterion.compute().scores.tolist()
        [2.0, 3.5]
    """
    words = [options_of(one, but=("filters",)) for one in (measure, finish)]

    def make(filters: Filters, *, seed: int = 0, **given: Any) -> Criterion:
        def own(function: Callable[..., Any], known: dict[str, inspect.Parameter]) -> dict[str, Any]:
            weights = {"filters": filters} if "filters" in inspect.signature(function).parameters else {}
            return {name: value for name, value in given.items() if name in known} | weights

        return Averaged(
            partial(measure, **own(measure, words[0])), partial(finish, **own(finish, words[1])), filters.name
        )

    own = list(inspect.signature(make).parameters.values())[:2]
    make.__signature__ = inspect.Signature([*own, *{**words[0], **words[1]}.values()])  # type: ignore[attr-defined]
    return make


def check_spatial(maps: Tensor, criterion: str) -> Tensor:
    """Return ``(n, C, H, W)`` maps, which a criterion compares as pictures.

    Raises:
        InputError: They have one row or one position only: maps of a linear layer or of a layer that runs several
            times.

    Example:
        >>> check_spatial(torch.rand(2, 3, 1, 1), "hrank")
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: the criterion 'hrank' compares maps as pictures
    """
    if maps.shape[2] == 1 or maps.shape[3] == 1:
        raise InputError(
            f"the criterion '{criterion}' needs feature maps of several rows and columns, not of "
            f"{maps.shape[2]} x {maps.shape[3]}: choose 'entropy' or 'variance', or leave the layer out"
        )
    return maps
