"""Every filter that scores below a threshold goes: the layers say for themselves how many that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from infoprune.criteria.base import Importance
from infoprune.cutoff.base import NO_LIMITS, Cut, Group, Limits, importance_of
from infoprune.cutoff.ranking import kept_after, ladder
from infoprune.errors import InputError


def cut_by_threshold(
    groups: Sequence[Group], importances: Mapping[str, Importance], threshold: float, *, limits: Limits = NO_LIMITS
) -> dict[str, Cut]:
    """Remove every filter whose score is below a threshold, in the criterion's own unit.

    For QSFM the score is how unlike its most similar partner a filter was when it went, so that a threshold of 0.1
    with SSIM takes filters until no two that are left are more alike than 0.9, and one of 70 with PSNR until none are
    closer than 30 dB.

    Args:
        groups: What is cut.
        importances: By the groups' names.
        threshold: Filters with less go, as far as the limits allow.
        limits: How far each group may be cut.

    Returns:
        What stays, by group; never nothing.

    Raises:
        InputError: The threshold is not finite, or a group has no importances.

    Example:
        >>> import torch
        >>> from infoprune.criteria.base import Importance
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.Conv2d(4, 2, 1))
        >>> group = find_groups(net, torch.rand(2, 1, 4, 4)).groups[0]
        >>> importance = Importance(torch.tensor([1.0, 4.0, 3.0, 2.0]))
        >>> cut_by_threshold([group], {group.name: importance}, 2.5)["0"].kept
        (1, 2)
    """
    if not math.isfinite(threshold):
        raise InputError(f"the threshold is a score below which filters go, not {threshold}")
    cuts = {}
    for group in groups:
        taken = [
            rung for rung in ladder(group, importance_of(group, importances), limits) if rung.importance < threshold
        ]
        kept = kept_after(group, taken)
        cuts[group.name] = Cut(
            kept, f"{len(kept)} of {group.filters} filters stay: the others score below {threshold:g}"
        )
    return cuts
