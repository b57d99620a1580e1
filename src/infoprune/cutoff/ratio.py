"""The same share of filters goes from every layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from infoprune.criteria.base import Importance
from infoprune.cutoff.base import NO_LIMITS, Cut, Group, Limits, importance_of, percent
from infoprune.cutoff.ranking import fewest_from, ladder
from infoprune.errors import InputError


def cut_by_ratio(
    groups: Sequence[Group], importances: Mapping[str, Importance], ratio: float, *, limits: Limits = NO_LIMITS
) -> dict[str, Cut]:
    """Remove the least important share of every group.

    Args:
        groups: What is cut.
        importances: By the groups' names.
        ratio: Share of the filters that goes, in [0, 1); rounded down to whole filters, and to whole units.
        limits: How far each group may be cut.

    Returns:
        What stays, by group; never nothing.

    Raises:
        InputError: The ratio is out of range, or a group has no importances.

    Example:
        >>> import torch
        >>> from infoprune.criteria.base import Importance
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.Conv2d(4, 2, 1))
        >>> group = find_groups(net, torch.rand(2, 1, 4, 4)).groups[0]
        >>> importance = Importance(torch.tensor([1.0, 4.0, 3.0, 2.0]))
        >>> cut_by_ratio([group], {group.name: importance}, 0.5)["0"].kept
        (1, 2)
    """
    if not 0 <= ratio < 1:
        raise InputError(f"the ratio is the share of filters to remove, from 0 to below 1, not {ratio}")
    cuts = {}
    for group in groups:
        rungs = ladder(group, importance_of(group, importances), limits)
        kept = fewest_from(group, rungs, left_by_ratio(group.filters, ratio))
        cuts[group.name] = Cut(kept, f"{len(kept)} of {group.filters} filters stay: the ratio removes {percent(ratio)}")
    return cuts


def left_by_ratio(filters: int, ratio: float) -> int:
    """Return how many filters are kept when a share of them, rounded down, is removed.

    Example:
        >>> left_by_ratio(10, 0.25)
        8
    """
    return filters - math.floor(ratio * filters + 1e-9)
