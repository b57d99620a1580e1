"""In which order filters go: inside one group, and over all groups at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

import torch

from infoprune.criteria.base import Importance
from infoprune.cutoff.base import NO_LIMITS, Group, Limits, Units, importance_of
from infoprune.entropy.ties import snapped
from infoprune.errors import unknown

Normalisation = Literal["mean", "none"]


@dataclass(frozen=True)
class Rung:
    """Filters of one group that go in one step.

    Args:
        filters: Their indices.
        importance: Mean of their scores; never less than on the rung before.

    Example:
        >>> Rung((3, 7), importance=0.2).filters
        (3, 7)
    """

    filters: tuple[int, ...]
    importance: float


def units_by_importance(group: Group, importance: Importance) -> Units:
    """Return the units of a group, the least important first; ties by the order, then the later one first.

    Example:
        >>> import torch
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.Conv2d(4, 2, 1))
        >>> group = find_groups(net, torch.rand(2, 1, 4, 4)).groups[0]
        >>> importance = Importance(torch.tensor([1.0, 4.0, 3.0, 2.0]))
        >>> units_by_importance(group, importance)
        ((0,), (3,), (2,), (1,))
    """
    place = {filter_: i for i, filter_ in enumerate(importance.order)}
    scores, out_by = importance.scores.tolist(), importance.out_by.tolist()
    means = [_mean([scores[f] for f in unit]) for unit in group.units]
    bounds = [max(out_by[f] for f in unit) for unit in group.units]
    equal = snapped(torch.tensor(means, dtype=torch.float64), torch.tensor(bounds, dtype=torch.float64)).tolist()
    keys = [
        (score, -_mean([place[f] for f in unit]), -min(unit)) for score, unit in zip(equal, group.units, strict=True)
    ]
    return tuple(unit for _, unit in sorted(zip(keys, group.units, strict=True)))


def ladder(group: Group, importance: Importance, limits: Limits = NO_LIMITS) -> tuple[Rung, ...]:
    """Return the steps in which a group can be cut, first to last, as far as the limits allow.

    After every step the number of filters that stay is a multiple of ``limits.multiple``, and at least one filter of
    each of the group's parts stays. The step that makes the first multiple of a width that is none is always taken:
    its importance is minus infinity.

    Example:
        >>> import torch
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.Conv2d(4, 2, 1))
        >>> group = find_groups(net, torch.rand(2, 1, 4, 4)).groups[0]
        >>> importance = Importance(torch.tensor([1.0, 4.0, 3.0, 2.0]))
        >>> [rung.filters for rung in ladder(group, importance)]
        [(0,), (3,), (2,)]
    """
    return _rungs(group, units_by_importance(group, importance), importance.scores.tolist(), limits)


def fewest(group: Group, limits: Limits = NO_LIMITS) -> tuple[int, ...]:
    """Return the fewest filters that can stay, ascending, whatever the criterion; the lowest indices stay.

    How many can go does not depend on which go first, as long as the units are of one size.

    Example:
        >>> import torch
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.Conv2d(4, 2, 1))
        >>> fewest(find_groups(net, torch.rand(2, 1, 4, 4)).groups[0], Limits(keep_at_least=2))
        (0, 1)
    """
    units = sorted(group.units, key=lambda unit: (-_mean(unit), -min(unit)))
    return kept_after(group, _rungs(group, units, range(group.filters, 0, -1), limits))


def _rungs(group: Group, units: Iterable[Sequence[int]], scores: Sequence[float], limits: Limits) -> tuple[Rung, ...]:
    left, least = group.filters, limits.least(group.filters)
    staying = [set(part) for part in group.parts]
    rungs: list[Rung] = []
    pending: list[int] = []
    for unit in units:
        if staying and any(part <= set(unit) for part in staying):
            continue
        left -= len(unit)
        if left < least:
            break
        pending.extend(unit)
        for part in staying:
            part.difference_update(unit)
        if left % limits.multiple == 0:
            before = rungs[-1].importance if rungs else -float("inf")
            own = (
                -float("inf") if not rungs and group.filters % limits.multiple else _mean([scores[f] for f in pending])
            )
            rungs.append(Rung(tuple(pending), max(before, own)))
            pending = []
    return tuple(rungs)


def forced(rungs: Sequence[Rung]) -> int:
    """Return how many of these steps are always taken, 0 or 1.

    Example:
        >>> forced([Rung((3,), importance=0.2)]), forced([Rung((3,), importance=-float("inf"))])
        (0, 1)
    """
    return int(bool(rungs) and rungs[0].importance == -float("inf"))


def kept_after(group: Group, rungs: Sequence[Rung]) -> tuple[int, ...]:
    """Return what stays, ascending, once the filters of these rungs are gone.

    Example:
        >>> import torch
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.Conv2d(4, 2, 1))
        >>> group = find_groups(net, torch.rand(2, 1, 4, 4)).groups[0]
        >>> importance = Importance(torch.tensor([1.0, 4.0, 3.0, 2.0]))
        >>> kept_after(group, ladder(group, importance)[:2])
        (1, 2)
    """
    gone = set(chain.from_iterable(rung.filters for rung in rungs))
    return tuple(i for i in range(group.filters) if i not in gone)


def fewest_from(group: Group, rungs: Sequence[Rung], count: int) -> tuple[int, ...]:
    """Return the fewest filters that can stay, ascending, if it is to be ``count`` or more.

    A step that is always taken is taken even where fewer than ``count`` filters stay after it.

    Example:
        >>> import torch
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.Conv2d(4, 2, 1))
        >>> group = find_groups(net, torch.rand(2, 1, 4, 4)).groups[0]
        >>> importance = Importance(torch.tensor([1.0, 4.0, 3.0, 2.0]))
        >>> fewest_from(group, ladder(group, importance), count=3)
        (1, 2, 3)
    """
    taken = forced(rungs)
    left = group.filters - sum(len(rung.filters) for rung in rungs[:taken])
    while taken < len(rungs) and left - len(rungs[taken].filters) >= count:
        left, taken = left - len(rungs[taken].filters), taken + 1
    return kept_after(group, rungs[:taken])


@dataclass(frozen=True)
class Ranking:
    """The steps of all groups in one order, the least important first.

    Args:
        groups: What is ranked.
        ladders: Of each group, its steps.
        steps: Index of the group that takes its next step.

    Example:
        >>> import torch
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.Conv2d(4, 2, 1))
        >>> group = find_groups(net, torch.rand(2, 1, 4, 4)).groups[0]
        >>> importance = Importance(torch.tensor([1.0, 4.0, 3.0, 2.0]))
        >>> ranking = rank([group], {group.name: importance})
        >>> ranking.kept(ranking.levels(2))
        {'0': (1, 2)}
    """

    groups: tuple[Group, ...]
    ladders: tuple[tuple[Rung, ...], ...]
    steps: tuple[int, ...]
    _kept: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def forced(self) -> int:
        """How many of the first steps are always taken."""
        return sum(forced(rungs) for rungs in self.ladders)

    def levels(self, count: int) -> list[int]:
        """Return how many steps each group has taken after the first ``count`` of the ranking."""
        levels = [0] * len(self.groups)
        for group in self.steps[:count]:
            levels[group] += 1
        return levels

    def kept(self, levels: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Return the kept filters, by group, after the number of steps of each."""
        return {group.name: self._kept_of(index, levels[index]) for index, group in enumerate(self.groups)}

    def _kept_of(self, index: int, level: int) -> tuple[int, ...]:
        # A search for a budget asks for the same levels again and again.
        if (index, level) not in self._kept:
            self._kept[index, level] = kept_after(self.groups[index], self.ladders[index][:level])
        return self._kept[index, level]


def rank(
    groups: Sequence[Group],
    importances: Mapping[str, Importance],
    limits: Limits = NO_LIMITS,
    normalise: Normalisation = "mean",
) -> Ranking:
    """Rank the filters of all groups against each other.

    Args:
        groups: What is ranked.
        importances: By the groups' names.
        limits: How far each may be cut.
        normalise: ``"mean"``: a score counts relative to the mean absolute score of its group, unless all importances
            say that they are comparable; ``"none"``: as it is.

    Returns:
        The ranking; steps of equal importance are taken by all groups alike, in the order of the groups.

    Raises:
        InputError: A group has no importances, or the normalisation is unknown.

    Example:
        >>> import torch
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.Conv2d(4, 2, 1))
        >>> group = find_groups(net, torch.rand(2, 1, 4, 4)).groups[0]
        >>> importance = Importance(torch.tensor([1.0, 4.0, 3.0, 2.0]))
        >>> rank([group], {group.name: importance}).steps
        (0, 0, 0)
    """
    if normalise not in ("mean", "none"):
        raise unknown("normalisation", normalise, ("mean", "none"))
    ladders = [ladder(group, importance_of(group, importances), limits) for group in groups]
    relative = normalise == "mean" and not all(importances[group.name].comparable for group in groups)
    keys: list[tuple[float, int]] = []
    values: list[float] = []
    bounds: list[float] = []
    for index, (group, rungs) in enumerate(zip(groups, ladders, strict=True)):
        importance = importances[group.name]
        scale = _scale(importance) if relative else 1.0
        keys += [(i / len(rungs), index) for i in range(len(rungs))]
        values += [rung.importance / scale for rung in rungs]
        out_by = importance.out_by.tolist()
        bounds += [max(max(out_by[filter_] for filter_ in rung.filters) / scale, 0.0) for rung in rungs]
    equal = snapped(torch.tensor(values, dtype=torch.float64), torch.tensor(bounds, dtype=torch.float64)).tolist()
    steps = sorted(zip(equal, keys, strict=True))
    return Ranking(tuple(groups), tuple(ladders), tuple(index for _, (_, index) in steps))


def _scale(importance: Importance) -> float:
    # Where all scores are zero any scale will do.
    return float(importance.scores.to(torch.float64).abs().mean()) or 1.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
