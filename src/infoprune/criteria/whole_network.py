"""A criterion that is one function of the whole network, its coupled groups and images."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from infoprune.criteria.base import Criterion, CriterionInfo, Filters, Importance, register
from infoprune.errors import InputError, unknown
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.progress import Progress

ScoreNetwork = Callable[..., dict[str, Importance]]


def register_network_criterion(name: str, function: ScoreNetwork, description: str, **declared: Any) -> CriterionInfo:
    """Make a function of the whole network selectable by name.

    Args:
        name: The word that selects it.
        function: ``function(model, groups, batches, *, progress, **options)``; its other keyword-only arguments are the
            options of the criterion.
        description: One line.
        **declared: Further fields of :class:`~infoprune.criteria.base.CriterionInfo`.

    Raises:
        InputError: The name is taken.
    """
    parameters = inspect.signature(function).parameters.values()
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "progress"]

    def make(filters: Filters, *, seed: int = 0, **given: Any) -> Criterion:
        raise InputError(f"the criterion '{name}' scores a whole network: use infoprune.prune or infoprune.plan")

    def score_network(
        model: nn.Module,
        groups: Sequence[CoupledGroup],
        batches: Iterable[Any],
        given: Mapping[str, Any],
        progress: Progress,
    ) -> dict[str, Importance]:
        for option in given:
            if option not in [one.name for one in options]:
                raise unknown(f"option of the criterion '{name}'", option, [one.name for one in options])
        return function(model, groups, batches, progress=progress, **given)

    further = [one for one in options if one.name != "seed"]
    own = list(inspect.signature(make).parameters.values())[:2]
    make.__signature__ = inspect.Signature([*own, *further])  # type: ignore[attr-defined]
    return register(CriterionInfo(name, make, description, score_network=score_network, **declared))


def by_filter(values: Tensor, channels: Sequence[Sequence[int]]) -> Tensor:
    """Return ``(n, C)``: the sums of ``(n, channels)`` values over the channels that belong to each filter.

    Example:
        >>> import torch
        >>> by_filter(torch.tensor([[1.0, 2.0, 4.0]]), [(0, 2), (1,), ()]).tolist()
        [[5.0, 2.0, 0.0]]
    """
    if all(len(some) == 1 for some in channels):
        return values[:, [some[0] for some in channels]]
    found = values.new_zeros(len(values), len(channels))
    for filter_, some in enumerate(channels):
        found[:, filter_] = values[:, list(some)].sum(dim=1)
    return found
