"""Which filters are kept: from a choice of criterion and cut-off to a plan, with its evidence."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from infoprune import criteria, cutoff
from infoprune.criteria.base import Importance
from infoprune.criteria.scoring import score
from infoprune.cutoff import Cut, Reach
from infoprune.cutoff.budget import Allowance, counted
from infoprune.cutoff.ranking import fewest
from infoprune.data.batches import Batches, shapes_of
from infoprune.errors import InputError, unknown
from infoprune.network.channel_tracing import IS_OUTPUT
from infoprune.network.coupled_groups import CoupledGroup, Groups
from infoprune.network.layers import is_convolution
from infoprune.options import Keep, PruneOptions
from infoprune.plan import LayerDecision, Plan
from infoprune.progress import Progress, silent
from infoprune.selection.calibration import Calibration
from infoprune.selection.layerwise.choosing import plan_layer_by_layer
from infoprune.selection.reselection import reselected
from infoprune.version import __version__


@dataclass(frozen=True)
class Planned:
    """A plan and its evidence.

    Args:
        plan: The kept filters.
        importances: The criterion's answer by layer; empty where no criterion was asked.
        groups: Everything that could have been removed, and why the rest could not.
        model: The smaller network of the iterative form, which a plan alone does not give; ``None`` otherwise.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> planned = make_plan(zoo.build("digits").eval(), [torch.rand(8, 1, 8, 8)], PruneOptions("l1", ratio=0.5))
        >>> sorted(planned.importances) == sorted(planned.plan.decisions)
        True
    """

    plan: Plan
    importances: Mapping[str, Importance]
    groups: Groups
    model: nn.Module | None = None


def make_plan(
    model: nn.Module,
    batches: Batches,
    choice: PruneOptions,
    *,
    held_out: Batches | None = None,
    resume: Path | None = None,
    progress: Progress = silent,
    on_reach: Callable[[Reach], None] | None = None,
) -> Planned:
    """Decide which filters are kept, and store the evidence.

    Args:
        model: The trained network; left as it is.
        batches: Calibration images: ``(images, labels)`` pairs, iterable more than once.
        choice: What is removed, and by what rule.
        held_out: Images that choose among the candidates of a cut-off rule; by default the calibration images.
        resume: File in which layers that are done are kept until the plan is made, so that the same call goes on after
            an interruption; where layers are cut one after the other.
        progress: Called while feature maps are scored.
        on_reach: Called, before anything is scored, with the smallest cost that can be reached and the limiting layers.

    Raises:
        InputError: As in ``plan``.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> planned = make_plan(zoo.build("digits").eval(), [torch.rand(8, 1, 8, 8)], PruneOptions("l1", ratio=0.5))
        >>> {layer: len(kept) for layer, kept in planned.plan.kept.items()}
        {'features.0': 8, 'features.3': 16, 'features.7': 32, 'features.10': 32}
    """
    return plan_for(
        Calibration.of(model, batches), choice, held_out=held_out, resume=resume, progress=progress, on_reach=on_reach
    )


def plan_for(
    calibration: Calibration,
    choice: PruneOptions,
    *,
    held_out: Batches | None = None,
    resume: Path | None = None,
    progress: Progress = silent,
    on_reach: Callable[[Reach], None] | None = None,
    importances: Mapping[str, Importance] | None = None,
) -> Planned:
    """Decide which filters are kept, as ``make_plan``, where the network and its images are known already.

    ``importances`` are those of every group that may be cut, where they are known already; by default the criterion
    is asked. The other arguments are those of ``make_plan``.

    Raises:
        InputError: As in ``plan``.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> calibration = Calibration.of(zoo.build("digits").eval(), [torch.rand(8, 1, 8, 8)])
        >>> first = plan_for(calibration, PruneOptions("l1", ratio=0.5))
        >>> again = plan_for(calibration, PruneOptions("l1", ratio=0.75), importances=first.importances)
        >>> len(again.plan.kept["features.0"])
        4
    """
    model, groups = calibration.model, calibration.groups
    if choice.keep is not None:
        choice = replace(choice, keep=named_counts(choice.keep, groups))
    choice = with_what_it_takes(calibration, choice)
    cut_groups = choose_groups(model, groups, choice)
    check_feasible(calibration, cut_groups, choice, on_reach)
    finished = None
    if choice.layerwise.is_asked_for:
        outcome = plan_layer_by_layer(
            calibration, cut_groups, choice, held_out=held_out, resume=resume, progress=progress
        )
        importances = {name: decided.importance for name, decided in outcome.decided.items()}
        cuts, finished = {name: decided.cut for name, decided in outcome.decided.items()}, outcome.model
    else:
        if importances is None:
            importances = _importances(calibration, cut_groups, choice, progress)
        cuts = _cut_at_once(calibration, cut_groups, importances, choice, progress)
    decisions = {
        group.name: _decision(group, cuts[group.name], importances.get(group.name))
        for group in cut_groups
        if group.name in cuts
    }
    skipped = {g.name: "was not chosen to lose filters" for g in groups.groups if g.name not in decisions}
    settings = _settings(choice, calibration)
    touched = {member.layer for group in cut_groups for member in group.members}
    if computed := {layer: how for layer, how in groups.computed.items() if layer in touched}:
        settings["made_plain"] = computed
    plan = Plan(decisions, {**groups.left_alone, **skipped}, settings)
    if choice.reselect:
        plan = reselected(plan, model, calibration.batches, groups, progress=progress)
    return Planned(plan, importances, groups, finished)


def with_what_it_takes(calibration: Calibration, choice: PruneOptions) -> PruneOptions:
    """Let linear layers lose filters too where nobody chose layers and convolutions alone cannot meet the budget.

    Args:
        calibration: The network, and what is known of it.
        choice: The budget, the limits and the layers.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from infoprune.plan import Budget
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 64), nn.ReLU(), nn.Linear(64, 9))
        >>> calibration = Calibration.of(net.eval(), [torch.rand(4, 1, 8, 8)])
        >>> with_what_it_takes(calibration, PruneOptions("l1", budget=Budget(parameters=0.2), keep_at_least=2)).layers
        ('*',)
    """
    if choice.budget is None or choice.layers or choice.keep is not None:
        return choice
    every, limits = replace(choice, layers=("*",)), choice.limits()
    some, more = (choose_groups(calibration.model, calibration.groups, one) for one in (choice, every))
    allowance = Allowance(calibration.costs, counted(choice.budget))
    wider = len(more) > len(some)
    return choice if not wider or allowance.met_by({one.name: fewest(one, limits) for one in some}) else every


def check_feasible(
    calibration: Calibration,
    groups: Sequence[CoupledGroup],
    choice: PruneOptions,
    on_reach: Callable[[Reach], None] | None = None,
) -> None:
    """Report how small the network can get, and refuse a budget that cannot be met.

    Args:
        calibration: The network, and what is known of it.
        groups: The groups that may lose filters.
        choice: The budget and the limits; without a budget nothing is checked.
        on_reach: Called with how small the network can get and which layers bind.

    Raises:
        InputError: The budget cannot be met.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> from infoprune.plan import Budget
        >>> calibration = Calibration.of(zoo.build("digits").eval(), [torch.rand(8, 1, 8, 8)])
        >>> choice = PruneOptions("l1", budget=Budget(macs=0.01), keep_at_least=8)
        >>> check_feasible(calibration, calibration.groups.groups, choice)
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: the budget cannot be met
    """
    if choice.budget is None:
        return
    found = cutoff.reach(groups, calibration.costs, limits=choice.limits())
    if on_reach is not None:
        on_reach(found)
    cutoff.check_reach(found, choice.budget)


def choose_groups(model: nn.Module, groups: Groups, choice: PruneOptions) -> tuple[CoupledGroup, ...]:
    """Return the groups that may lose filters, in the order of the network.

    Raises:
        InputError: The network has no convolutions, nothing can be removed, or a pattern names nothing.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = zoo.build("digits").eval()
        >>> choice = PruneOptions("l1", ratio=0.5, skip=("*.0",))
        >>> found = choose_groups(net, find_groups(net, torch.rand(2, 1, 8, 8)), choice)
        >>> [group.name for group in found]
        ['features.3', 'features.7', 'features.10']
    """
    modules = dict(model.named_modules())
    wanted = choice.layers or (tuple(choice.keep) if choice.keep is not None else ())
    if not wanted and not any(is_convolution(module) for module in modules.values()):
        raise InputError(
            "the network has no convolutions: there are no filters to remove; the layers '*' are all, linear ones too"
        )
    for pattern in (*wanted, *choice.skip):
        _check_pattern(pattern, groups)
    # A linear layer that runs at every position is a convolution of size 1 by another name.
    chosen = tuple(
        group
        for group in groups.groups
        if (_matches(group, wanted) if wanted else group.pointwise or is_convolution(modules[group.name]))
        and not _matches(group, choice.skip)
    )
    if not chosen:
        raise InputError(f"nothing that was chosen can lose filters{_why_nothing(groups, choice, modules)}")
    return chosen


def _why_nothing(groups: Groups, choice: PruneOptions, modules: Mapping[str, nn.Module]) -> str:
    left = {layer: why for layer, why in groups.left_alone.items() if not _matches_name(layer, choice.skip)}
    first = min(left.items(), key=lambda one: one[1] == IS_OUTPUT, default=None)
    reason = "" if first is None else f": '{first[0]}' {first[1]}"
    linear = [group.name for group in groups.groups
              if isinstance(modules[group.name], nn.Linear) and not _matches(group, choice.skip)]  # fmt: skip
    way = (
        f"; linear layers such as '{linear[0]}' can: choose them, or all by the layers '*'"
        if linear and not choice.layers
        else ""
    )
    return reason + way


def named_counts(keep: Keep, groups: Groups) -> Keep:
    """Return counts and lists by the layers that name their groups, for coupled layers and patterns too.

    Args:
        keep: By layer or pattern, how many filters are kept or which.
        groups: What can lose filters.

    Raises:
        InputError: Two entries are about one group and differ, or a layer does not have all filters of its group.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = zoo.build("digits").eval()
        >>> named_counts({"features.1*": 8}, find_groups(net, torch.rand(2, 1, 8, 8)))
        {'features.10': 8}
    """
    found: dict[str, int | Sequence[int]] = {}
    asked: dict[str, str] = {}
    for pattern, some in keep.items():
        exact = [group for group in groups.groups if pattern in group.producers]
        matching = exact or [group for group in groups.groups if _matches(group, (pattern,))]
        if not matching:
            _check_pattern(pattern, groups)
        for group in matching:
            kept = _of_member(group, pattern, some) if exact else some
            if group.name in found and found[group.name] != kept:
                raise InputError(
                    f"'{asked[group.name]}' and '{pattern}' name coupled layers, which keep the same filters: give "
                    f"'{group.name}' alone"
                )
            found[group.name], asked[group.name] = kept, pattern
    return found


def _of_member(group: CoupledGroup, layer: str, some: int | Sequence[int]) -> int | Sequence[int]:
    """Return what a coupled layer keeps, in the filters of the layer that names its group."""
    if layer == group.name:
        return some
    channels = next(one.channels for one in group.members if one.layer == layer and one.side == "out")
    if any(len(of_filter) != 1 for of_filter in channels):
        raise InputError(
            f"layer '{layer}' has only some of the filters that go together, or several for each: name '{group.name}', "
            f"with {group.filters} filters, instead"
        )
    if isinstance(some, int):
        return some
    filters = {of_filter[0]: filter_ for filter_, of_filter in enumerate(channels)}
    return sorted(filters.get(channel, channel) for channel in some)


def _importances(
    calibration: Calibration, groups: Sequence[CoupledGroup], choice: PruneOptions, progress: Progress
) -> dict[str, Importance]:
    explicit = choice.keep is not None and not any(isinstance(kept, int) for kept in choice.keep.values())
    if explicit:
        return {}
    info = criteria.resolve(choice.criterion)
    return score(
        calibration.model, groups, calibration.batches, info, tap=choice.tap, seed=choice.seed,
        options=choice.criterion_options, progress=progress,
    )  # fmt: skip


def _worths(
    calibration: Calibration,
    groups: Sequence[CoupledGroup],
    choice: PruneOptions,
    importances: Mapping[str, Importance],
    progress: Progress,
) -> Mapping[str, Importance]:
    if choice.budget_by == choice.criterion:
        return importances
    assert choice.budget_by is not None
    info = criteria.resolve(choice.budget_by)
    return score(calibration.model, groups, calibration.batches, info, seed=choice.seed, progress=progress)


def _cut_at_once(
    calibration: Calibration,
    groups: Sequence[CoupledGroup],
    importances: Mapping[str, Importance],
    choice: PruneOptions,
    progress: Progress,
) -> dict[str, Cut]:
    if choice.budget is None or choice.budget_by is None:
        return _cut(calibration, groups, importances, choice)
    worths = _worths(calibration, groups, choice, importances, progress)
    return cutoff.cut_by_worth(groups, importances, worths, calibration.costs, choice.budget, limits=choice.limits())


def _cut(
    calibration: Calibration,
    groups: Sequence[CoupledGroup],
    importances: Mapping[str, Importance],
    choice: PruneOptions,
) -> dict[str, Cut]:
    if choice.keep is not None:
        return cutoff.cut_by_counts(groups, importances, choice.keep, multiple=choice.multiple)
    if choice.ratio is not None:
        return cutoff.cut_by_ratio(groups, importances, choice.ratio, limits=choice.limits())
    if choice.threshold is not None:
        return cutoff.cut_by_threshold(groups, importances, choice.threshold, limits=choice.limits())
    assert choice.budget is not None  # one of them is given
    if choice.budget.latency is None:
        return cutoff.cut_to_budget(groups, importances, calibration.costs, choice.budget, limits=choice.limits())
    return cutoff.cut_to_latency(
        groups, importances, calibration.milliseconds, choice.budget, cost=calibration.costs, limits=choice.limits()
    )


def _decision(group: CoupledGroup, cut: Cut, importance: Importance | None) -> LayerDecision:
    details: dict[str, Any] = {}
    if importance is not None:
        details = {
            "scores": tuple(importance.scores.tolist()),
            "order": importance.order,
            "curve": importance.curve,
            "partner": _partner(importance),
        }
    return LayerDecision(
        group.name, group.filters, tuple(cut.kept), coupled=group.producers[1:], reason=cut.reason, **details
    )


def _partner(importance: Importance) -> tuple[int, ...] | None:
    found = importance.evidence.get("partner")
    return None if found is None else tuple(found.tolist())


def _matches(group: CoupledGroup, patterns: Sequence[str]) -> bool:
    return any(_matches_name(layer, patterns) for layer in group.producers)


def _matches_name(layer: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(layer, pattern) for pattern in patterns)


def _check_pattern(pattern: str, groups: Groups) -> None:
    if any(_matches(group, (pattern,)) for group in groups.groups):
        return
    if pattern in groups.left_alone:
        raise InputError(f"layer '{pattern}' cannot lose filters: {groups.left_alone[pattern]}")
    raise unknown("layer", pattern, [layer for group in groups.groups for layer in group.producers])


def _settings(choice: PruneOptions, calibration: Calibration) -> dict[str, Any]:
    return {
        **choice.settings(),
        "calibration_images": calibration.count,
        **shapes_of(calibration.examples),
        "versions": {"infoprune": __version__, "torch": torch.__version__},
    }
