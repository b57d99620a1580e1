"""One round of a schedule: which filters it removes, and what the network is measured by after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from infoprune import criteria
from infoprune.criteria.base import Importance
from infoprune.criteria.scoring import score
from infoprune.cutoff import Limits
from infoprune.cutoff.ranking import kept_after, ladder
from infoprune.data.batches import Batches
from infoprune.errors import InputError, unknown
from infoprune.iterative.run_state import Round
from infoprune.iterative.schedule import LayerPace, PruningSchedule
from infoprune.measure.accuracy import accuracy_of
from infoprune.measure.figures import dead_filters
from infoprune.network import cost
from infoprune.network.coupled_groups import CoupledGroup, Groups, find_groups
from infoprune.network.layers import is_convolution
from infoprune.plan import LayerDecision, Plan
from infoprune.progress import Progress, silent


@dataclass(frozen=True)
class ScheduledLayer:
    """A coupled group that a schedule makes smaller.

    Args:
        pace: What is removed from it.
        first: Number of filters before the first round.
        together: How many filters can only be removed together.

    Example:
        >>> from infoprune.iterative.schedule import LayerPace, Pace
        >>> layer = ScheduledLayer(LayerPace("conv1", Pace(plus=4), 8), first=16, together=1)
        >>> layer.left(16), layer.rounds(16)
        (12, 2)
    """

    pace: LayerPace
    first: int
    together: int

    def left(self, filters: int) -> int:
        """Return how many filters stay after one more round."""
        return self.pace.left(filters, self.first, self.together)

    def rounds(self, filters: int) -> int:
        """Return after how many rounds there is nothing left to remove."""
        return self.pace.rounds(filters, self.first, self.together)


def scheduled_layers(groups: Groups, schedule: PruningSchedule) -> dict[str, ScheduledLayer]:
    """Return the groups that a schedule names, by the layers that name them.

    Raises:
        InputError: A pattern names nothing, or no filters can be removed.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> from infoprune.iterative.schedule import LayerPace, Pace
        >>> from infoprune.network.coupled_groups import find_groups
        >>> from infoprune.training.recipe import Recipe
        >>> schedule = PruningSchedule((LayerPace("features.0", Pace(plus=4), 8),), Recipe(epochs=1))
        >>> list(scheduled_layers(find_groups(zoo.build("digits").eval(), torch.rand(2, 1, 8, 8)), schedule))
        ['features.0']
    """
    for one in schedule.layers:
        if not any(one.fits(group.producers) for group in groups.groups):
            raise unknown("layer", one.layers, [layer for group in groups.groups for layer in group.producers])
    found = {}
    for group in groups.groups:
        pace = schedule.pace_of(group.producers)
        if pace is not None:
            found[group.name] = ScheduledLayer(pace, group.filters, min(len(unit) for unit in group.units))
    if not any(layer.rounds(layer.first) for layer in found.values()):
        raise InputError("the schedule removes no filters: all the layers it names are at their limits from the start")
    return found


def rounds_left(layers: Mapping[str, ScheduledLayer], widths: Mapping[str, int]) -> int:
    """Return after how many more rounds every layer is at its limit.

    Args:
        layers: What ``scheduled_layers`` returns.
        widths: How many filters each of them has.

    Example:
        >>> from infoprune.iterative.schedule import LayerPace, Pace
        >>> rounds_left({"conv1": ScheduledLayer(LayerPace("conv1", Pace(plus=4), 8), 16, 1)}, {"conv1": 16})
        2
    """
    return max(layer.rounds(widths[name]) for name, layer in layers.items())


def scored(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    schedule: PruningSchedule,
    calibration: Batches,
    number: int,
    progress: Progress = silent,
) -> dict[str, Importance]:
    """Return what the criterion of a schedule finds in round ``number``; each round has its own seed.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> from infoprune.iterative.schedule import LayerPace, Pace
        >>> from infoprune.training.recipe import Recipe
        >>> network, images = zoo.build("digits").eval(), torch.rand(4, 1, 8, 8)
        >>> schedule = PruningSchedule((LayerPace("features.0", Pace(plus=4), 8),), Recipe(epochs=1), criterion="l1")
        >>> list(scored(network, find_groups(network, images).groups[:1], schedule, [images], 1))
        ['features.0']
    """
    return score(
        model,
        groups,
        calibration,
        criteria.resolve(schedule.criterion),
        tap=schedule.tap,
        seed=schedule.seed + number,
        options=schedule.options,
        progress=progress,
    )


def rehearse(
    model: nn.Module,
    found: Groups,
    layers: Mapping[str, ScheduledLayer],
    schedule: PruningSchedule,
    calibration: Batches,
    progress: Progress = silent,
) -> None:
    """Score the smallest layer once, so that what a criterion refuses is refused before the first training.

    Raises:
        InputError: The criterion refuses an option, the images or the network.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> from infoprune.iterative.schedule import LayerPace, Pace
        >>> from infoprune.training.recipe import Recipe
        >>> network, images = zoo.build("digits").eval(), torch.rand(4, 1, 8, 8)
        >>> schedule = PruningSchedule((LayerPace("features.0", Pace(plus=4), 8),), Recipe(epochs=1), criterion="hrel")
        >>> groups = find_groups(network, images)
        >>> rehearse(network, groups, scheduled_layers(groups, schedule), schedule, [images])
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: ...
    """
    smallest = min((one for one in found.groups if one.name in layers), key=lambda one: one.filters)
    scored(model, [smallest], schedule, calibration, 0, progress)


def plan_of_round(
    model: nn.Module,
    found: Groups,
    layers: Mapping[str, ScheduledLayer],
    schedule: PruningSchedule,
    calibration: Batches,
    number: int,
    progress: Progress = silent,
) -> Plan:
    """Return which filters round ``number`` removes.

    Args:
        model: The network after the round before.
        found: Its coupled groups.
        layers: What ``scheduled_layers`` returned for the first network.
        schedule: Criterion, limits and paces.
        calibration: Images that score the filters.
        number: From 1.
        progress: Called while filters are scored.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> from infoprune.iterative.schedule import LayerPace, Pace
        >>> from infoprune.training.recipe import Recipe
        >>> network, images = zoo.build("digits").eval(), torch.rand(4, 1, 8, 8)
        >>> schedule = PruningSchedule((LayerPace("features.0", Pace(plus=4), 8),), Recipe(epochs=1), criterion="l1")
        >>> groups = find_groups(network, images)
        >>> plan = plan_of_round(network, groups, scheduled_layers(groups, schedule), schedule, [images], 1)
        >>> len(plan.kept["features.0"])
        12
    """
    groups = [
        group
        for group in found.groups
        if group.name in layers and layers[group.name].left(group.filters) < group.filters
    ]
    importances = scored(model, groups, schedule, calibration, number, progress)
    return Plan({group.name: _decision(group, layers[group.name], importances[group.name], number) for group in groups})


def _decision(group: CoupledGroup, layer: ScheduledLayer, importance: Importance, number: int) -> LayerDecision:
    rungs = ladder(group, importance, Limits(keep_at_least=layer.pace.least(layer.first)))
    taken, left = 0, group.filters
    while taken < len(rungs) and left > layer.left(group.filters):
        left -= len(rungs[taken].filters)
        taken += 1
    return LayerDecision(
        group.name,
        group.filters,
        kept_after(group, rungs[:taken]),
        coupled=group.producers[1:],
        scores=tuple(importance.scores.tolist()),
        order=importance.order,
        reason=f"{left} of {layer.first} filters stay after round {number}",
    )


def figures_of_round(
    model: nn.Module,
    example: Tensor,
    number: int,
    widths: Mapping[str, int],
    calibration: Batches,
    held_out: Batches | None = None,
    test: Batches | None = None,
    **known: Any,
) -> Round:
    """Return the figures of a network after round ``number``, measured.

    Args:
        model: The network, retrained.
        example: A batch of its inputs.
        number: 0 before the first cut.
        widths: How many filters each layer of the schedule has.
        calibration: Images on which dead filters are counted.
        held_out: Labelled training images that are not trained on.
        test: Labelled images that choose nothing.
        known: Other fields of ``Round``.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> network, images = zoo.build("digits").eval(), torch.rand(4, 1, 8, 8)
        >>> figures_of_round(network, images, 0, {"features.0": 16}, [images], epochs=3).epochs
        3
    """
    accuracies = [None if part is None else accuracy_of(model, part) for part in (held_out, test)]
    groups = [one for one in find_groups(model, example, check=False).groups if one.name in widths]
    modules = dict(model.named_modules())
    by_layer = cost.macs_by_layer(model, example)
    return Round(
        number,
        widths,
        macs=sum(by_layer.values()),
        convolution_macs=sum(macs for name, macs in by_layer.items() if is_convolution(modules[name])),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dead=sum(map(len, dead_filters(model, calibration, groups).values())),
        held_out=accuracies[0],
        test=accuracies[1],
        **known,
    )


def judged(one: Round, schedule: PruningSchedule, layers: Mapping[str, ScheduledLayer]) -> tuple[Round, str]:
    """Return a round, undone where it fell below the floor, and why the pruning ends with it; empty to go on.

    Example:
        >>> from infoprune.iterative.schedule import LayerPace, Pace
        >>> from infoprune.training.recipe import Recipe
        >>> pace = LayerPace("conv1", Pace(plus=4), 8)
        >>> schedule = PruningSchedule((pace,), Recipe(epochs=1), rounds=1)
        >>> one = Round(1, {"conv1": 12}, macs=20, convolution_macs=20, parameters=10)
        >>> judged(one, schedule, {"conv1": ScheduledLayer(pace, 16, 1)})[1]
        'all rounds are done'
    """
    floor = schedule.floor
    if floor is not None and one.number and one.held_out is not None and one.held_out < floor:
        return replace(
            one, stands=False
        ), f"round {one.number} fell below {floor:g} % on held-out images and was undone"
    if not rounds_left(layers, one.filters):
        return one, "every layer is at its limit"
    return one, "all rounds are done" if one.number == schedule.rounds else ""
