"""Cut in steps and repair after each, with what held-out images say is nearest to the original at every choice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from infoprune import criteria
from infoprune.automatic.effort import Allowance
from infoprune.automatic.ways import COMPARED_IMAGES, Way, nearest_way, plan_of, possible_ways
from infoprune.criteria.base import Importance
from infoprune.criteria.scoring import score
from infoprune.cutoff import Reach, check_reach, reach
from infoprune.data.augmentation import WithCopies
from infoprune.measure.divergence import Divergence, divergence_between
from infoprune.measure.figures import check_runs, example_of
from infoprune.network import surgery
from infoprune.network.cost import CostModel
from infoprune.network.coupled_groups import Groups, find_groups
from infoprune.network.equivalence import copied
from infoprune.options import PruneOptions
from infoprune.plan import Budget, Plan
from infoprune.progress import Progress, silent
from infoprune.repair import repaired
from infoprune.repair.base import images_of
from infoprune.selection.planning import choose_groups

CRITERION = "reconstruction"
# Every fifth image judges, as in the repairs.
_HELD_OUT_EVERY = 5
_JUDGING_IMAGES = 512


@dataclass(frozen=True)
class Automatic:
    """What a run without options came to.

    Args:
        plan: All cuts together, in the indices of the original network.
        model: The pruned and repaired network.
        importances: Scores of the first cut, by layer.
        groups: The coupled groups of the original network.
        ways: How the budget could be shared out, the way that was taken first.
        repairs: Divergence on held-out images after each repair that was tried, in order.
        repair: Name of the repair whose result was kept.
    """

    plan: Plan
    model: nn.Module
    importances: Mapping[str, Importance]
    groups: Groups
    ways: tuple[Way, ...]
    repairs: Mapping[str, Divergence] = field(default_factory=dict)
    repair: str = "least-squares"

    def to_dict(self) -> dict[str, Any]:
        """Return what was compared, as JSON values."""
        return {
            "ways": [way.to_dict() for way in self.ways],
            "repairs": {
                name: {"divergence": found.value, "agreement": found.agreement, "images": found.images}
                for name, found in self.repairs.items()
            },
            "repair": self.repair,
        }


@dataclass(frozen=True)
class Parts:
    """Calibration images in memory: a few that fit, and those held out that judge.

    Args:
        fit: Batches for short repairs.
        held_out: Batches that nothing is fitted to while ways are compared.
    """

    fit: tuple[Tensor, ...]
    held_out: tuple[Tensor, ...]

    @classmethod
    def of(cls, batches: Iterable[Any], model: nn.Module) -> Parts:
        """Read the first images of the batches, where the network is and in its precision."""
        fit: list[Tensor] = []
        held: list[Tensor] = []
        seen = 0
        for images in images_of(batches, model):
            chosen = (torch.arange(len(images)) + seen) % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1
            seen += len(images)
            if sum(map(len, fit)) < COMPARED_IMAGES:
                fit.append(images[~chosen][: COMPARED_IMAGES - sum(map(len, fit))])
            held.append(images[chosen])
            if seen >= _HELD_OUT_EVERY * _JUDGING_IMAGES:
                break
        held = [some for some in held if len(some)]
        # Of fewer than five images the same ones judge.
        return cls(tuple(some for some in fit if len(some)), tuple(held) or tuple(fit))


def prune_automatically(
    model: nn.Module,
    batches: Iterable[Any],
    choice: PruneOptions,
    spend: Allowance,
    *,
    progress: Progress = silent,
    on_reach: Callable[[Reach], None] | None = None,
) -> Automatic:
    """Meet a budget with the least loss that the allowance buys.

    Args:
        model: The trained network; left as it is.
        batches: Images, with or without labels, iterable more than once. Labels are not read.
        choice: A budget of MACs or parameters, limits, and layers that may lose filters; its criterion is not read.
        spend: What the run may spend.
        progress: Told in every stage.
        on_reach: Told, before anything is scored, how small the network can get and which layers bind.

    Raises:
        InputError: The budget cannot be met, or the images do not fit the network.
    """
    begun = time.perf_counter()
    original = copied(model)
    choice = replace(choice, criterion=CRITERION, budget_by=CRITERION if choice.budget is not None else None)
    example = example_of(batches, original)
    check_runs(original, example)
    groups = find_groups(original, example)
    costs = CostModel(original, example, groups)
    if choice.budget is not None:
        found = reach(choose_groups(original, groups, choice), costs, limits=choice.limits())
        if on_reach is not None:
            on_reach(found)
        check_reach(found, choice.budget)
    parts = Parts.of(batches, original)
    ways = possible_ways(original, groups, costs, choice)
    importances = _scores(original, groups, choice, ways, batches, progress)
    if spend.compares and len(ways) > 1:
        ways = nearest_way(ways, original, groups, choice, importances, parts.fit, parts.held_out, progress)
    stepped = _in_steps(original, groups, choice, ways[0], importances, batches, spend, progress)
    left = None if spend.minutes is None else spend.minutes - (time.perf_counter() - begun) / 60
    finished = _finish(original, groups, stepped, batches, parts, spend, left, progress)
    return Automatic(stepped.plan, finished.model, importances, groups, ways, finished.repairs, finished.repair)


def _scores(
    model: nn.Module,
    groups: Groups,
    choice: PruneOptions,
    ways: tuple[Way, ...],
    batches: Iterable[Any],
    progress: Progress,
) -> dict[str, Importance]:
    """Score every group that some way may cut, once for all ways."""
    kept_whole = set.intersection(*(set(way.skip) for way in ways))
    some = [group for group in choose_groups(model, groups, choice) if group.name not in kept_whole]
    return score(model, some, batches, criteria.find(CRITERION), progress=progress)


@dataclass(frozen=True)
class _Stepped:
    plan: Plan
    model: nn.Module


def _in_steps(
    original: nn.Module,
    groups: Groups,
    choice: PruneOptions,
    way: Way,
    importances: Mapping[str, Importance],
    batches: Iterable[Any],
    spend: Allowance,
    progress: Progress,
) -> _Stepped:
    """Cut step by step; after each but the last the network is repaired, and scored again."""
    budgets = stepwise(choice, spend.steps)
    current, total, known = original, None, importances
    for number, budget in enumerate(budgets, 1):
        if number > 1:
            here = find_groups(current, example_of(batches, current))
            known = _scores(current, here, choice, (way,), batches, progress)
        plan = plan_of(way, current, replace(choice, budget=budget), batches, known)
        cut = surgery.apply(plan, current, example_of(batches, current))
        total = plan if total is None else total.then(plan)
        if number == len(budgets):
            return _Stepped(replace(total, settings={**plan.settings, **choice.settings()}), cut.eval())
        current = repaired(cut, original, batches, total, groups, method="least-squares", progress=progress).eval()
    raise AssertionError("there is at least one step")


def stepwise(choice: PruneOptions, steps: int) -> tuple[Budget | None, ...]:
    """Return the budget of each step, as a share of the network that the step starts from.

    What remains falls by the same number of points in each step. Where no budget of MACs and parameters is given, or
    limits are shares of the original layers, there is one step.

    Example:
        >>> from infoprune.options import PruneOptions
        >>> [round(one.macs, 3) for one in stepwise(PruneOptions("l1", budget=Budget(macs=0.5)), 2)]
        [0.75, 0.667]
    """
    budget = choice.budget
    if budget is None or budget.latency is not None or choice.keep_share > 0 or choice.multiple > 1:
        return (budget,)

    def share(target: float | None, number: int) -> float | None:
        if target is None:
            return None
        before, after = (1 - (1 - target) * done / steps for done in (number - 1, number))
        return after / before

    return tuple(
        Budget(macs=share(budget.macs, number), parameters=share(budget.parameters, number))
        for number in range(1, steps + 1)
    )


@dataclass(frozen=True)
class _Finished:
    model: nn.Module
    repairs: dict[str, Divergence]
    repair: str


def _finish(
    original: nn.Module,
    groups: Groups,
    stepped: _Stepped,
    batches: Iterable[Any],
    parts: Parts,
    spend: Allowance,
    minutes: float | None,
    progress: Progress,
) -> _Finished:
    """Repair the last cut by every repair that is allowed, and keep what is nearest on held-out images."""
    images = WithCopies(batches, spend.copies, _HELD_OUT_EVERY) if spend.copies else batches
    found: dict[str, Divergence] = {}
    best, kept = stepped.model, "none"
    for method in ("least-squares", *(("alternating",) if spend.alternating else ())):
        begun = time.perf_counter()
        tried = repaired(stepped.model, original, images, stepped.plan, groups, method=method, progress=progress).eval()
        found[method] = divergence_between(original, tried, parts.held_out)
        if kept == "none" or found[method].value < found[kept].value:
            best, kept = tried, method
        minutes = None if minutes is None else minutes - (time.perf_counter() - begun) / 60
    if minutes is not None and minutes > 1:
        tried = repaired(best, original, images, stepped.plan, groups, method="distil", minutes=minutes,
                         progress=progress).eval()  # fmt: skip
        found["distil"] = divergence_between(original, tried, parts.held_out)
        if found["distil"].value < found[kept].value:
            best, kept = tried, "distil"
    return _Finished(best, found, kept)
