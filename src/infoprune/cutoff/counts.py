"""The user sets the kept filters of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from infoprune.criteria.base import Importance
from infoprune.cutoff.base import Cut, Group, importance_of
from infoprune.cutoff.ranking import kept_after, ladder
from infoprune.errors import InputError, unknown


def cut_by_counts(
    groups: Sequence[Group],
    importances: Mapping[str, Importance],
    keep: Mapping[str, int | Sequence[int]],
    *,
    multiple: int = 1,
) -> dict[str, Cut]:
    """Keep the n most important filters of each named layer, or exactly the listed ones.

    Args:
        groups: What can be cut.
        importances: By the groups' names; not needed where filters are listed.
        keep: By layer, a count from 1 up, or filter indices.
        multiple: Every layer that is wider than this keeps a multiple of it: a count is rounded to the nearest one,
            upwards from the middle, and a list must have as many.

    Returns:
        What stays, for the named layers only.

    Raises:
        InputError: A layer is unknown, a count or an index is out of range, or the count or list would split filters
            that can only go together, leave a coupled layer without channels, or is no multiple.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> from infoprune.criteria.base import Importance
        >>> from infoprune.selection.calibration import Calibration
        >>> found = Calibration.of(zoo.build("digits"), [torch.zeros(8, 1, 8, 8)])
        >>> groups = found.groups.groups
        >>> scores = {g.name: Importance(torch.arange(1.0 * g.filters), tuple(range(g.filters))[::-1]) for g in groups}
        >>> cuts = cut_by_counts(groups, scores, {groups[0].name: 2})
        >>> len(cuts[groups[0].name].kept)
        2
    """
    by_name = {group.name: group for group in groups}
    cuts = {}
    for layer, asked in keep.items():
        if layer not in by_name:
            raise unknown("layer", layer, by_name)
        group = by_name[layer]
        if type(asked) is int:
            count = _rounded(group, asked, multiple)
            kept = _most_important(group, importance_of(group, importances), count)
            how = "the count was given" if count == asked else f"the nearest multiple of {multiple} to {asked}"
            cuts[layer] = Cut(kept, f"{len(kept)} of {group.filters} filters stay: {how}")
        else:
            kept = _listed(group, asked)
            if _rounded(group, len(kept), multiple) != len(kept):
                raise InputError(
                    f"layer '{layer}' lists {len(kept)} filters to keep, which is no multiple of {multiple}"
                )
            cuts[layer] = Cut(kept, f"{len(kept)} of {group.filters} filters stay: they were listed")
    return cuts


def _rounded(group: Group, count: int, multiple: int) -> int:
    if group.filters <= multiple or not 1 <= count <= group.filters:
        return count
    nearest = (count + multiple // 2) // multiple * multiple
    return max(multiple, min(nearest, group.filters - group.filters % multiple))


def _most_important(group: Group, importance: Importance, count: int) -> tuple[int, ...]:
    if not 1 <= count <= group.filters:
        raise InputError(f"layer '{group.name}' can keep 1 to {group.filters} filters, not {count}")
    rungs = ladder(group, importance)
    possible = [group.filters]
    for taken, rung in enumerate([None, *rungs]):
        if rung is not None:
            possible.append(possible[-1] - len(rung.filters))
        if possible[-1] == count:
            return kept_after(group, rungs[:taken])
    near = min(possible, key=lambda other: (abs(other - count), -other))
    why = "every coupled layer keeps a channel" if group.parts and count < min(possible) else "some only go together"
    raise InputError(f"layer '{group.name}' cannot keep {count} filters, because {why}: keep {near} instead")


def _listed(group: Group, asked: int | Sequence[int]) -> tuple[int, ...]:
    if not isinstance(asked, (list, tuple, range)) or not all(type(index) is int for index in asked):
        raise InputError(f"layer '{group.name}' is given {asked!r}: give a count, or a list of filter indices")
    kept = tuple(sorted(set(asked)))
    if not kept:
        raise InputError(f"layer '{group.name}' would be left without filters: keep at least one")
    if len(kept) < len(asked):
        raise InputError(f"layer '{group.name}' lists a filter twice")
    if kept[0] < 0 or kept[-1] >= group.filters:
        wrong = kept[0] if kept[0] < 0 else kept[-1]
        raise InputError(f"layer '{group.name}' has filters 0 to {group.filters - 1}: there is no filter {wrong}")
    gone = set(range(group.filters)) - set(kept)
    for unit in group.units:
        if gone.intersection(unit) and not gone.issuperset(unit):
            together = ", ".join(map(str, sorted(unit)))
            raise InputError(f"layer '{group.name}': the filters {together} stay or go together")
        gone -= set(unit)
    if gone:
        raise InputError(f"layer '{group.name}': filter {min(gone)} cannot go")
    for part in group.parts:
        if not set(part) & set(kept):
            some = ", ".join(map(str, part[:8])) + (", ..." if len(part) > 8 else "")
            raise InputError(
                f"layer '{group.name}': keep at least one of the filters {some}, or a coupled layer is empty"
            )
    return kept
