"""The same share of filters goes from every layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from infoprune.criteria.base import Importance
from infoprune.cutoff.base import NO_LIMITS, Cut, Group, Limits, importance_of, percent
from infoprune.cutoff.ranking import kept_after, ladder
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
    """
    if not 0 <= ratio < 1:
        raise InputError(f"the ratio is the share of filters to remove, from 0 to below 1, not {ratio}")
    cuts = {}
    for group in groups:
        asked = math.floor(ratio * group.filters + 1e-9)
        taken, gone = [], 0
        for rung in ladder(group, importance_of(group, importances), limits):
            gone += len(rung.filters)
            if gone > asked:
                break
            taken.append(rung)
        kept = kept_after(group, taken)
        cuts[group.name] = Cut(kept, f"{len(kept)} of {group.filters} filters stay: the ratio removes {percent(ratio)}")
    return cuts
