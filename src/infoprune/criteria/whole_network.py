"""A criterion that is one function of the whole network, its coupled groups and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from infoprune.criteria.base import CriterionInfo, Importance, register
from infoprune.data.batches import Batches
from infoprune.declarations.option_values import check_keywords
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

    Example:
        >>> import torch
        >>> from infoprune.criteria import base
        >>> def flat(model, groups, batches, *, progress):
        ...     return {group.name: Importance(torch.ones(group.filters)) for group in groups}
        >>> register_network_criterion("flat", flat, "all filters are equal").kind
        'network'
        >>> del base._REGISTRY["flat"]
    """

    def score_network(
        model: nn.Module,
        groups: Sequence[CoupledGroup],
        batches: Batches,
        given: Mapping[str, Any],
        progress: Progress,
    ) -> dict[str, Importance]:
        check_keywords(function, given, f"the criterion '{name}'", but=("progress",))
        return function(model, groups, batches, progress=progress, **given)

    return register(CriterionInfo(name, None, description, score_network=score_network, **declared))


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
