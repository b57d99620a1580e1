"""One criterion decides how many filters each group loses, another one which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from infoprune.criteria.base import Importance
from infoprune.cutoff.base import NO_LIMITS, CostModel, Cut, Group, Limits, importance_of
from infoprune.cutoff.budget import cut_to_budget, share_of
from infoprune.cutoff.counts import cut_by_counts
from infoprune.errors import InputError
from infoprune.plan import Budget

# Trades between two limited costs that are tried.
_STEPS = 20


def cut_by_worth(
    groups: Sequence[Group],
    importances: Mapping[str, Importance],
    worths: Mapping[str, Importance],
    cost: CostModel,
    budget: Budget,
    *,
    limits: Limits = NO_LIMITS,
) -> dict[str, Cut]:
    """Meet a budget where the least is lost for what is saved, and keep the most important filters of each group.

    Filters of all groups are ranked by their worth, taken as it is, divided by the share of the budget's cost that a
    filter of their group saves. That ranking, cut at the budget, gives the number of filters of each group. Where MACs
    and parameters are both limited, what weighs a filter is ``w`` times the one share and ``1 - w`` times the other:
    of 21 values of w the one that loses the least worth is taken.

    Args:
        groups: What can be cut.
        importances: Which filters stay, by the groups' names.
        worths: How many do, likewise: scores that compare between groups, such as those of ``reconstruction``.
        cost: What the network costs with only some filters kept.
        budget: Shares of MACs and parameters that may remain.
        limits: How far each group may be cut.

    Raises:
        InputError: The budget cannot be met or is a latency, or a group has no importances.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> from infoprune.criteria.base import Importance
        >>> from infoprune.selection.calibration import Calibration
        >>> found = Calibration.of(zoo.build("digits"), [torch.zeros(8, 1, 8, 8)])
        >>> groups = found.groups.groups
        >>> scores = {g.name: Importance(torch.arange(1.0 * g.filters), tuple(range(g.filters))[::-1]) for g in groups}
        >>> from infoprune.plan import Budget
        >>> cuts = cut_by_worth(groups, scores, scores, found.costs, Budget(macs=0.5))
        >>> found.costs.cost({name: cut.kept for name, cut in cuts.items()}).macs <= 0.5 * found.costs.base.macs
        True
    """
    if budget.latency is not None:
        raise InputError("a latency budget is met by measuring: leave out by which criterion it is shared")
    savings = {group.name: _savings(group, cost, budget) for group in groups}
    tried = []
    for weights in _weights(budget):
        scaled = {group.name: _scaled(importance_of(group, worths), savings[group.name], weights) for group in groups}
        tried.append(cut_to_budget(groups, scaled, cost, budget, limits=limits, normalise="none"))
    shared = min(tried, key=lambda cuts: _lost(groups, worths, cuts))
    cuts = cut_by_counts(groups, importances, {name: len(cut.kept) for name, cut in shared.items()})
    return {name: replace(cut, reason=shared[name].reason) for name, cut in cuts.items()}


def _weights(budget: Budget) -> list[dict[str, float]]:
    """Return how much each of the limited costs counts, in every way that is tried."""
    limited = list(budget.shares())
    if len(limited) == 1:
        return [{limited[0]: 1.0}]
    first, second = limited
    return [{first: step / _STEPS, second: 1 - step / _STEPS} for step in range(_STEPS + 1)]


def _savings(group: Group, cost: CostModel, budget: Budget) -> dict[str, float]:
    """Return by limited cost the share of it that a filter of a group saves."""
    unit = set(group.units[0])
    less = cost.cost({group.name: [filter_ for filter_ in range(group.filters) if filter_ not in unit]})
    return {what: (1 - share_of(less, cost.base, what)) / len(unit) for what in budget.shares()}


def _scaled(worth: Importance, savings: Mapping[str, float], weights: Mapping[str, float]) -> Importance:
    saved = sum(weight * savings[what] for what, weight in weights.items())
    # A filter that saves nothing is removed last.
    return Importance(worth.scores / max(saved, 1e-12), worth.order)


def _lost(groups: Sequence[Group], worths: Mapping[str, Importance], cuts: Mapping[str, Cut]) -> float:
    """Return the worth of all removed filters."""
    lost = 0.0
    for group in groups:
        scores = importance_of(group, worths).scores
        lost += float(scores.sum() - scores[list(cuts[group.name].kept)].sum())
    return lost
