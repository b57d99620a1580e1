"""What a budget can reach, and which layers stand in its way: asked before anything is cut."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from infoprune.cutoff.base import NO_LIMITS, CostModel, Group, Limits, percent
from infoprune.cutoff.ranking import fewest
from infoprune.errors import InputError
from infoprune.plan import Budget


@dataclass(frozen=True)
class Potential:
    """What one group can give, in shares of the original network.

    Args:
        layer: Layer that names the group.
        filters: How many filters it has.
        least: How many stay at least, within the limits.
        macs: Share of the multiply-adds that goes when this group alone is cut that far.
        parameters: Share of the parameters likewise.
        held_macs: Share of the multiply-adds that would go besides, everything being cut as far as it may, if this
            group had no limits; above 0 where the group binds the budget.
        held_parameters: Share of the parameters likewise.

    Example:
        >>> Potential("conv1", 16, least=1, macs=0.2, parameters=0.1, held_macs=0.01, held_parameters=0.0).least
        1
    """

    layer: str
    filters: int
    least: int
    macs: float
    parameters: float
    held_macs: float
    held_parameters: float


@dataclass(frozen=True)
class Reach:
    """How small a network can get, in shares of the original.

    Args:
        macs: Share of the multiply-adds that remains when every group is cut as far as it may.
        parameters: Share of the parameters likewise.
        groups: What each group can give.

    Example:
        >>> Reach(macs=0.2, parameters=0.1, groups=()).macs
        0.2
    """

    macs: float
    parameters: float
    groups: tuple[Potential, ...]

    def binding(self, what: str = "macs") -> tuple[Potential, ...]:
        """Return the groups whose limits stand in the way of ``"macs"`` or ``"parameters"``, the worst first."""
        held = attrgetter(f"held_{what}")
        return tuple(sorted((one for one in self.groups if held(one) > 0), key=held, reverse=True))


def reach(groups: Sequence[Group], cost: CostModel, *, limits: Limits = NO_LIMITS) -> Reach:
    """Return what can be reached, whatever the criterion.

    Args:
        groups: What can be cut.
        cost: What the network costs with only some filters kept.
        limits: How far each group may be cut.

    Example:
        >>> import torch
        >>> from infoprune.network.cost import CostModel
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.Conv2d(4, 2, 1))
        >>> images = torch.rand(2, 1, 4, 4)
        >>> found = find_groups(net, images)
        >>> costs = CostModel(net, images, found)
        >>> reach(found.groups, costs).macs
        0.25
    """
    least = {group.name: fewest(group, limits) for group in groups}
    free = least if limits == NO_LIMITS else {group.name: fewest(group) for group in groups}
    macs, parameters = _shares(cost, least)
    potentials = []
    for group in groups:
        alone = _shares(cost, {group.name: least[group.name]})
        lifted = _shares(cost, {**least, group.name: free[group.name]})
        potentials.append(
            Potential(
                group.name,
                group.filters,
                len(least[group.name]),
                1 - alone[0],
                1 - alone[1],
                macs - lifted[0],
                parameters - lifted[1],
            )
        )
    return Reach(macs, parameters, tuple(potentials))


def check_reach(found: Reach, budget: Budget) -> None:
    """Refuse a budget that cannot be met.

    Raises:
        InputError: It says the nearest share that can be met, and the layers that stand in the way.

    Example:
        >>> check_reach(Reach(macs=0.2, parameters=0.1, groups=()), Budget(macs=0.1))
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: the budget cannot be met
    """
    for what, words, least in (
        ("macs", "MACs", found.macs),
        ("parameters", "parameters", found.parameters),
    ):
        share = budget.shares().get(what)
        if share is None or least <= share:
            continue
        nearest = math.ceil(least * 1e4 - 1e-6) / 1e4
        bound = ", ".join(f"'{one.layer}'" for one in found.binding(what)[:3])
        why = f"the limits of {bound} stand in the way" if bound else "the rest is in layers that cannot lose filters"
        raise InputError(
            f"a budget of {percent(share)} of the {words} cannot be met: {percent(least)} remain at least, so ask for "
            f"{nearest:g} or more; {why}"
        )


def _shares(cost: CostModel, kept: Mapping[str, Sequence[int]]) -> tuple[float, float]:
    base, found = cost.base, cost.cost(kept)
    return found.macs / base.macs, found.parameters / base.parameters
