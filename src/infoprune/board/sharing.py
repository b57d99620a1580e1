"""From importances and a budget to the kept filters, by the two ways to share a budget out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from infoprune.board.options import UNIFORM, BoardOptions
from infoprune.criteria.base import Importance
from infoprune.cutoff import cut_by_ratio
from infoprune.errors import InputError
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.options import PruneOptions, chosen
from infoprune.selection.calibration import Calibration
from infoprune.selection.planning import Planned, plan_for


def plan_of_cell(
    calibration: Calibration,
    groups: Sequence[CoupledGroup],
    importances: Mapping[str, Importance],
    options: BoardOptions,
    sharing: str,
    budget: float,
) -> Planned:
    """Return the plan of one budget, shared out in one way.

    Args:
        calibration: The network and its images.
        groups: What may lose filters.
        importances: By the groups' names.
        options: The layers that may lose filters.
        sharing: ``"uniform"`` or ``"global"``.
        budget: Share of the MACs to keep.

    Raises:
        InputError: The budget cannot be met.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.criteria import find
        >>> from infoprune.criteria.scoring import score
        >>> calibration = Calibration.of(infoprune.zoo.build("digits").eval(), [torch.rand(16, 1, 8, 8)])
        >>> groups = calibration.groups.groups
        >>> found = score(calibration.model, groups, calibration.batches, find("l1"))
        >>> plan = plan_of_cell(calibration, groups, found, BoardOptions(), "uniform", 0.5).plan
        >>> calibration.costs.cost(plan.kept).macs <= 0.5 * calibration.costs.base.macs
        True
    """
    # The criterion's name is not needed any more: a function of the user's may have no name that is found again.
    words: dict[str, Any] = {"criterion": "l1", "layers": options.layers, "skip": options.skip}
    if sharing == UNIFORM:
        words["ratio"] = uniform_ratio(calibration, groups, budget)
    else:
        words["macs"] = budget
    how: PruneOptions = chosen(**words)
    return plan_for(calibration, how, importances=importances)


def uniform_ratio(calibration: Calibration, groups: Sequence[CoupledGroup], budget: float) -> float:
    """Return the smallest share of the filters of every layer whose removal meets a budget of MACs.

    It depends on the network alone, so that every criterion keeps the same number of filters in every layer, where the
    filters of a layer go one by one.

    Args:
        calibration: The network.
        groups: What loses filters.
        budget: Share of the MACs to keep.

    Raises:
        InputError: The budget cannot be met.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> found = Calibration.of(zoo.build("digits"), [torch.zeros(8, 1, 8, 8)])
        >>> uniform_ratio(found, found.groups.groups, 0.5)
        0.3125
    """
    costs = calibration.costs
    anyhow = {group.name: Importance(torch.arange(group.filters, 0, -1).double()) for group in groups}

    def met(ratio: float) -> bool:
        cuts = cut_by_ratio(groups, anyhow, ratio)
        return costs.cost({name: cut.kept for name, cut in cuts.items()}).macs <= budget * costs.base.macs

    ratios = sorted({removed / group.filters for group in groups for removed in range(group.filters)})
    place = bisect_left(ratios, True, key=met)
    if place == len(ratios):
        raise InputError(f"a budget of {budget:.4g} of the MACs cannot be met by the same ratio in every layer")
    return ratios[place]
