"""One ranking over the whole network, cut where the budget is met."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from infoprune.criteria.base import Importance
from infoprune.cutoff.base import NO_LIMITS, Cost, CostModel, Cut, Group, Limits, percent
from infoprune.cutoff.feasible import Reach, check_reach, reach
from infoprune.cutoff.ranking import Normalisation, Ranking, rank
from infoprune.errors import InputError
from infoprune.plan import Budget

NAMES = {"macs": "MACs", "parameters": "parameters"}


@dataclass(frozen=True)
class Allowance:
    """A cost model and the shares of its cost that may remain.

    Example:
        >>> import torch
        >>> from infoprune.network.cost import CostModel
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.Conv2d(4, 2, 1))
        >>> images = torch.rand(2, 1, 4, 4)
        >>> found = find_groups(net, images)
        >>> costs = CostModel(net, images, found)
        >>> Allowance(costs, {"macs": 0.5}).met_by({"0": (0, 1)})
        True
    """

    cost: CostModel
    shares: Mapping[str, float]

    def met_by(self, kept: Mapping[str, Sequence[int]]) -> bool:
        """Return whether the cost of the kept filters is within the limits."""
        found = self.cost.cost(kept)
        return all(share_of(found, self.cost.base, what) <= share for what, share in self.shares.items())


def counted(budget: Budget) -> dict[str, float]:
    """Return the shares of a budget that are counted, not measured.

    Example:
        >>> counted(Budget(macs=0.5, latency=0.8))
        {'macs': 0.5}
    """
    return {what: share for what, share in budget.shares().items() if what in NAMES}


def cut_to_budget(
    groups: Sequence[Group],
    importances: Mapping[str, Importance],
    cost: CostModel,
    budget: Budget,
    *,
    limits: Limits = NO_LIMITS,
    normalise: Normalisation = "mean",
) -> dict[str, Cut]:
    """Remove the least important filters of the whole network until a budget of MACs and parameters is met.

    The filters of all groups are ranked by normalised score; the fewest that meet the budget are removed. The last
    one may cost much more than was left to save, so the most important removed ones that still fit come back: the
    result is below the budget by less than the cheapest step that could be undone.

    Args:
        groups: What can be cut.
        importances: By the groups' names.
        cost: What the network costs with only some filters kept.
        budget: Shares of MACs and parameters that may remain; both are met where both are given.
        limits: How far each group may be cut.
        normalise: How scores of different groups compare: ``"mean"``, relative to the mean of the group, or
            ``"none"``.

    Returns:
        The kept filters, by group.

    Raises:
        InputError: The budget cannot be met (the nearest that can is named), it asks for a latency, or a group has no
            importances.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> from infoprune.criteria.base import Importance
        >>> from infoprune.selection.calibration import Calibration
        >>> found = Calibration.of(zoo.build("digits"), [torch.zeros(8, 1, 8, 8)])
        >>> groups = found.groups.groups
        >>> scores = {g.name: Importance(torch.arange(1.0 * g.filters), tuple(range(g.filters))[::-1]) for g in groups}
        >>> from infoprune.plan import Budget
        >>> cuts = cut_to_budget(groups, scores, found.costs, Budget(macs=0.5))
        >>> found.costs.cost({name: cut.kept for name, cut in cuts.items()}).macs <= 0.5 * found.costs.base.macs
        True
    """
    if budget.latency is not None:
        raise InputError("a latency budget is measured, not counted: use cut_to_latency")
    ranking = rank(groups, importances, limits, normalise)
    levels = levels_within(ranking, Allowance(cost, budget.shares()), budget, limits)
    kept = ranking.kept(levels)
    found = cost.cost(kept)
    costs = " and ".join(
        f"{percent(share_of(found, cost.base, what))} of the {NAMES[what]} (allowed {percent(share)})"
        for what, share in budget.shares().items()
    )
    return {
        group.name: Cut(
            kept[group.name],
            f"{len(kept[group.name])} of {group.filters} filters stay: one ranking over all layers leaves {costs}",
        )
        for group in groups
    }


def levels_within(ranking: Ranking, allowance: Allowance, budget: Budget, limits: Limits) -> list[int]:
    """Return how many steps each group takes so that the allowance is met.

    Raises:
        InputError: It cannot be met.

    Example:
        >>> import torch
        >>> from infoprune.network.cost import CostModel
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.Conv2d(4, 2, 1))
        >>> images = torch.rand(2, 1, 4, 4)
        >>> found = find_groups(net, images)
        >>> costs = CostModel(net, images, found)
        >>> from infoprune.criteria.base import Importance
        >>> ranking = rank(found.groups, {"0": Importance(torch.tensor([1.0, 4.0, 3.0, 2.0]))})
        >>> levels_within(ranking, Allowance(costs, {"macs": 0.5}), Budget(macs=0.5), NO_LIMITS)
        [2]
    """
    count = steps_needed(ranking, allowance, budget, limits)
    return _filled(ranking, count, allowance)


def steps_needed(ranking: Ranking, allowance: Allowance, budget: Budget, limits: Limits) -> int:
    """Return the fewest steps of the ranking that meet the allowance.

    Raises:
        InputError: It cannot be met.

    Example:
        >>> import torch
        >>> from infoprune.network.cost import CostModel
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.Conv2d(4, 2, 1))
        >>> images = torch.rand(2, 1, 4, 4)
        >>> found = find_groups(net, images)
        >>> costs = CostModel(net, images, found)
        >>> from infoprune.criteria.base import Importance
        >>> ranking = rank(found.groups, {"0": Importance(torch.tensor([1.0, 4.0, 3.0, 2.0]))})
        >>> steps_needed(ranking, Allowance(costs, {"macs": 0.5}), Budget(macs=0.5), NO_LIMITS)
        2
    """
    total = len(ranking.steps)

    def met(count: int) -> bool:
        return allowance.met_by(ranking.kept(ranking.levels(count)))

    if not met(total):
        check_reach(_reached(ranking, allowance.cost, limits), budget)
    return bisect_left(range(total), True, lo=min(ranking.forced, total), key=met)


def _reached(ranking: Ranking, cost: CostModel, limits: Limits) -> Reach:
    # Where units differ in size, what remains depends on which of them the ranking leaves to the last.
    least = cost.cost(ranking.kept(ranking.levels(len(ranking.steps))))
    macs, parameters = share_of(least, cost.base, "macs"), share_of(least, cost.base, "parameters")
    return replace(reach(ranking.groups, cost, limits=limits), macs=macs, parameters=parameters)


def share_of(found: Cost, base: Cost, what: str) -> float:
    """Return the share of ``"macs"`` or ``"parameters"`` that remains.

    Example:
        >>> from infoprune.network.cost import Cost
        >>> share_of(Cost(50, 10), Cost(100, 40), "macs")
        0.5
    """
    return float(getattr(found, what) / getattr(base, what))


def _filled(ranking: Ranking, count: int, allowance: Allowance) -> list[int]:
    levels = ranking.levels(count)
    blocked: set[int] = set()
    for group in reversed(ranking.steps[ranking.forced : count]):
        if group in blocked:
            continue
        levels[group] -= 1
        if not allowance.met_by(ranking.kept(levels)):
            # What does not fit now does not fit later: a step back only costs more as other layers grow.
            levels[group] += 1
            blocked.add(group)
    return levels
