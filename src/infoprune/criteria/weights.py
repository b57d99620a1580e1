"""A criterion that is one function of the weights of a group, and what such functions share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from infoprune.criteria.base import Criterion, Factory, Filters, Importance
from infoprune.criteria.keywords import options_of


class OfWeights:
    """Scores the weights when it is asked; feature maps are not looked at.

    Args:
        function: Returns the importance.

    Example:
        >>> OfWeights(lambda: Importance(torch.tensor([1.0, 2.0]))).compute().order
        (1, 0)
    """

    def __init__(self, function: Callable[[], Importance]) -> None:
        self.function = function

    def update(self, maps: Tensor, labels: Tensor) -> None:
        """Ignore the maps."""

    def merge(self, other: OfWeights) -> None:
        """Do nothing: no maps were taken in."""

    def compute(self) -> Importance:
        """Return the importance of every filter."""
        return self.function()


def of_weights(function: Callable[..., Importance]) -> Factory:
    """Make a criterion of a function ``function(filters, **options)``.

    Its keyword-only arguments are the options of the criterion.

    Example:
        >>> largest = of_weights(lambda filters: Importance(flat_weights(filters).amax(dim=1)))
        >>> largest(Filters((torch.tensor([[1.0, -2.0], [3.0, 0.0]]),))).compute().scores.tolist()
        [1.0, 3.0]
    """
    options = options_of(function).values()

    def make(filters: Filters, *, seed: int = 0, **given: Any) -> Criterion:
        return OfWeights(partial(function, filters, **given))

    own = list(inspect.signature(make).parameters.values())[:2]
    make.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    return make


def flat_weights(filters: Filters) -> Tensor:
    """Return all weights of each filter side by side, ``(C, d)`` float64 on the CPU.

    Those of a group of several layers are concatenated, so that squared distances add over the layers.

    Example:
        >>> flat_weights(Filters((torch.ones(2, 3, 1, 1), torch.ones(2, 4)))).shape
        torch.Size([2, 7])
    """
    return torch.cat([weight.detach().to("cpu", torch.float64).flatten(1) for weight in filters.weights], dim=1)


def cosines(rows: Tensor) -> Tensor:
    """Return the ``(C, C)`` cosines of all pairs of ``(C, d)`` rows; 0 with a row of zeros.

    Example:
        >>> cosines(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])).tolist()
        [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    units = torch.where(norms > 0, rows / norms.clamp_min(torch.finfo(rows.dtype).tiny), 0)
    return (units @ units.mT).clamp(-1, 1)


def centred(rows: Tensor) -> Tensor:
    """Return ``(C, d)`` rows minus their means; a constant row becomes exactly 0.

    Example:
        >>> centred(torch.tensor([[1.0, 3.0], [2.0, 2.0]])).tolist()
        [[-1.0, 1.0], [0.0, 0.0]]
    """
    away = rows - rows.mean(dim=-1, keepdim=True)
    constant = rows.amin(dim=-1, keepdim=True) == rows.amax(dim=-1, keepdim=True)
    return torch.where(constant, 0, away)
