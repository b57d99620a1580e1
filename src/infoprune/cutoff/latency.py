"""A budget of time, measured on the spot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from infoprune.criteria.base import Importance
from infoprune.cutoff.base import NO_LIMITS, CostModel, Cut, Group, Kept, Limits, percent
from infoprune.cutoff.budget import Allowance, counted, levels_within, steps_needed
from infoprune.cutoff.ranking import Normalisation, Ranking, rank
from infoprune.errors import InputError
from infoprune.plan import Budget

# Measured times are no better than this share of themselves: the search ends so close below the budget.
CLOSE = 0.01


def cut_to_latency(
    groups: Sequence[Group],
    importances: Mapping[str, Importance],
    measure: Callable[[Kept], float],
    budget: Budget,
    *,
    cost: CostModel | None = None,
    limits: Limits = NO_LIMITS,
    normalise: Normalisation = "mean",
) -> dict[str, Cut]:
    """Remove the least important filters of the whole network until it runs in a share of its time.

    The ranking is that of :func:`~infoprune.cutoff.cut_to_budget`; how far to go is found by bisection, one
    measurement a step. The result was measured, not extrapolated.

    Args:
        groups: What can be cut.
        importances: By the groups' names.
        measure: From the filters that stay, by group, to milliseconds; ``{}`` is the whole network.
        budget: The share of the time that may remain; shares of MACs and parameters beside it are met too.
        cost: What the network costs, needed where the budget names MACs or parameters.
        limits: How far each group may be cut.
        normalise: How scores of different groups compare.

    Returns:
        What stays, by group.

    Raises:
        InputError: The budget names no latency, or cannot be met (the nearest that was measured is named).

    Example:
        >>> import torch
        >>> from infoprune.criteria.base import Importance
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.Conv2d(4, 2, 1))
        >>> group = find_groups(net, torch.rand(2, 1, 4, 4)).groups[0]
        >>> importance = Importance(torch.tensor([1.0, 4.0, 3.0, 2.0]))
        >>> milliseconds = lambda kept: 1.0 * len(kept.get("0", range(4)))  # measured, in earnest
        >>> cut_to_latency([group], {group.name: importance}, milliseconds, Budget(latency=0.5))["0"].kept
        (1, 2)
    """
    if budget.latency is None:
        raise InputError("the budget names no latency: give the share of the time that may remain")
    ranking = rank(groups, importances, limits, normalise)
    shares = counted(budget)
    start = ranking.forced
    levels = ranking.levels(start)
    if shares:
        if cost is None:
            raise InputError("a budget of MACs or parameters beside the latency needs a cost model: pass cost=")
        allowance = Allowance(cost, shares)
        start = steps_needed(ranking, allowance, budget, limits)
        levels = levels_within(ranking, allowance, budget, limits)
    whole = measure({})
    levels, found = _fast_enough(ranking, measure, budget.latency, start, levels, whole)
    kept = ranking.kept(levels)
    time = f"{percent(found / whole)} of {whole:.3g} ms (allowed {percent(budget.latency)})"
    return {
        group.name: Cut(
            kept[group.name],
            f"{len(kept[group.name])} of {group.filters} filters stay: one ranking over all layers, measured at {time}",
        )
        for group in groups
    }


def _fast_enough(
    ranking: Ranking, measure: Callable[[Kept], float], share: float, start: int, levels: list[int], whole: float
) -> tuple[list[int], float]:
    """Return the steps of each group and the milliseconds measured with them."""
    first = measure(ranking.kept(levels)) if any(levels) else whole
    if first / whole <= share:
        return levels, first
    slow, quick = start, len(ranking.steps)
    best, found = ranking.levels(quick), measure(ranking.kept(ranking.levels(quick)))
    if found / whole > share:
        raise InputError(
            f"a budget of {percent(share)} of the time cannot be met: {found:.3g} of {whole:.3g} ms remain "
            f"when every layer keeps its fewest filters, so ask for {found / whole + 0.01:.2f} or more"
        )
    while quick - slow > 1 and found / whole < (1 - CLOSE) * share:
        middle = (slow + quick) // 2
        time = measure(ranking.kept(ranking.levels(middle)))
        if time / whole <= share:
            quick, best, found = middle, ranking.levels(middle), time
        else:
            slow = middle
    return best, found
