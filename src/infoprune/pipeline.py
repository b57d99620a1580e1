"""From a network and its images to a smaller network: the only place that knows the order of the rooms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from infoprune import criteria
from infoprune.criteria.base import Importance
from infoprune.cutoff import Reach
from infoprune.data.pairs import as_pairs
from infoprune.errors import InputError
from infoprune.measure.figures import all_examples, dead_filters, example_for, figures, latencies
from infoprune.measure.record import Figures, Stopwatch
from infoprune.network import cost, surgery
from infoprune.network.cost import Cost
from infoprune.network.coupled_groups import find_groups
from infoprune.network.intake import check_network
from infoprune.network.origin import origin_of, set_origin
from infoprune.network.verify import verify as verify_cut
from infoprune.options import PruneOptions, chosen
from infoprune.plan import Plan
from infoprune.progress import Progress, silent
from infoprune.repair import find as find_repair
from infoprune.repair import repaired
from infoprune.repair.constant_filters import ConstantRemoval, remove_constant_filters
from infoprune.selection.layerwise.state import remove_state
from infoprune.selection.planning import Planned, make_plan

Batches = Iterable[Any]


@dataclass(frozen=True)
class Result:
    """A smaller network and everything that led to it.

    Args:
        model: The smaller network, on the device and in the mode of the given one.
        plan: What stayed, and why.
        base: Figures of the given network.
        pruned: Figures of the smaller one.
        importances: The criterion's answer by layer.
        seconds: Wall time by stage.
        as_cut: Figures of the smaller one before it was repaired, ``None`` where nothing was.
        repair: How it was repaired, ``None`` where it was not.
        free: How many ``filters``, ``macs`` and ``parameters`` went before everything else at no loss, ``None`` where
            nobody asked.
    """

    model: nn.Module
    plan: Plan
    base: Figures
    pruned: Figures
    importances: Mapping[str, Importance]
    seconds: Mapping[str, float]
    as_cut: Figures | None = None
    repair: str | None = None
    free: Mapping[str, int] | None = None

    def record(self) -> dict[str, Any]:
        """Return the record of the run as JSON values."""
        repaired = {} if self.as_cut is None else {"as_cut": asdict(self.as_cut), "repair": self.repair}
        return {
            "base": asdict(self.base),
            **({} if self.free is None else {"free": dict(self.free)}),
            **repaired,
            "pruned": asdict(self.pruned),
            "plan": {layer: list(kept) for layer, kept in self.plan.kept.items()},
            **({"saturation": saturation} if (saturation := saturation_of(self.importances)) else {}),
            "left_alone": dict(self.plan.left_alone),
            "seconds": dict(self.seconds),
            "settings": dict(self.plan.settings),
        }


def plan(
    model: nn.Module, batches: Batches, *, held_out: Batches | None = None, resume: Path | None = None, **choice: Any
) -> Plan:
    """Decide which filters stay.

    Args:
        model: The trained network; left as it is.
        batches: Calibration images: ``(images, labels)`` pairs, iterable more than once.
        held_out: Images that choose among the candidates of a cut-off rule; by default the calibration images.
        resume: File in which layers that are done are kept, so that the same call goes on after an interruption;
            removed once the plan is made.
        choice: The words of ``PruneOptions``: ``criterion="hrel", budget=Budget(macs=0.5)``.

    Raises:
        InputError: The network has no convolutions or nothing that can be removed, a name is unknown, the budget
            cannot be met, or the images do not fit.
    """
    asked = chosen(**choice)
    batches = as_pairs(batches, labels=_reads_labels(asked))
    planned = make_plan(model, batches, asked, held_out=held_out, resume=resume)
    remove_state(resume)
    return planned.plan


def apply(plan: Plan, model: nn.Module, example: Tensor | None = None) -> nn.Module:
    """Return a new, really smaller network; the given one is left as it is.

    Args:
        plan: What stays.
        model: The network that the plan was made for.
        example: A batch of ``(n, C, H, W)`` images to trace with; by default zeros of the shape noted in the plan.

    Raises:
        InputError: The plan was made for another network; the layer is named.
    """
    pruned = surgery.apply(plan, model, example_for(plan, model) if example is None else example)
    return _with_origin(pruned, model, plan)


def verify(plan: Plan, model: nn.Module, example: Tensor | None = None) -> float:
    """Prove that cutting a plan is right for a network: cut and masked network give the same outputs.

    Returns:
        The largest absolute difference between the outputs of the cut network and of the whole one whose removed
        channels are held at zero.

    Raises:
        InputError: The plan was made for another network.
        infoprune.VerificationError: The outputs differ.
    """
    return verify_cut(plan, model, example_for(plan, model) if example is None else example)


def prune(
    model: nn.Module,
    batches: Batches,
    plan: Plan | None = None,
    *,
    held_out: Batches | None = None,
    test: Batches | None = None,
    resume: Path | None = None,
    repair: str | None = None,
    repair_batches: Batches | None = None,
    repair_minutes: float | None = None,
    remove_constant: bool = False,
    progress: Progress = silent,
    on_reach: Callable[[Reach], None] | None = None,
    **choice: Any,
) -> Result:
    """Make a network smaller: score, plan, cut, check the cut, repair, and measure before and after.

    Args:
        model: The trained network; left as it is.
        batches: Calibration images: ``(images, labels)`` pairs, iterable more than once. They choose the filters.
        plan: What stays, where it is known already; then there is no further choice.
        held_out: Images that choose among the candidates of a cut-off rule; by default the calibration images.
        test: Images to measure accuracy on. They choose nothing.
        resume: File in which layers that are done are kept, as in ``plan``; removed at the end.
        repair: How the cut network is repaired, a name of ``infoprune.all_repairs()``; by default it is not.
        repair_batches: Images to repair with; their labels are not read. By default the calibration images.
        repair_minutes: How long the repair ``distil`` may take, by default as long as its epochs need.
        remove_constant: Whether filters whose output is constant on these images are removed first, as in
            ``remove_constant_filters``. A budget is of the whole network; a ratio and a threshold are of the
            network without them.
        progress: Told while feature maps are scored and images are evaluated.
        on_reach: Told, before anything is scored, how small the network can get and which layers bind.
        choice: The words of ``PruneOptions``: ``criterion="hrel", budget=Budget(macs=0.5)``.

    Raises:
        InputError: As in ``plan`` and ``apply``; a plan or listed filters are given together with ``remove_constant``.
        infoprune.VerificationError: The cut network would not compute what the masked one does.
    """
    watch = Stopwatch()
    if repair is not None:
        find_repair(repair)
    asked = None if plan is not None else chosen(**choice)
    batches = as_pairs(batches, labels=asked is not None and _reads_labels(asked))
    images = batches if repair_batches is None else as_pairs(repair_batches, labels=False)
    test = None if test is None else as_pairs(test, labels=True)
    check_network(model)
    examples = all_examples(batches, model)
    example = examples[0]
    start, freed = model, None
    if remove_constant:
        with watch.stage("free"):
            _check_can_be_freed(asked)
            freed = remove_constant_filters(model, images, progress=progress)
            start = freed.model
            asked = _of_what_is_left(asked, freed, *(cost.count(one, example) for one in (model, start)))
    with watch.stage("plan"):
        if asked is not None:
            planned = make_plan(start, batches, asked, held_out=held_out, resume=resume, progress=progress,
                                on_reach=on_reach)  # fmt: skip
        else:
            assert plan is not None
            planned = Planned(plan, {}, find_groups(model, examples))
    with watch.stage("cut"):
        pruned = _with_origin(surgery.apply(planned.plan, start, examples, groups=planned.groups), start, planned.plan)
    with watch.stage("verify"):
        verify_cut(planned.plan, start, examples, pruned, groups=planned.groups)
    if planned.model is not None:
        pruned = _with_origin(planned.model, start, planned.plan)
    final = pruned
    if repair is not None:
        with watch.stage("repair"):
            final = repaired(pruned, start, images, planned.plan, planned.groups, method=repair, minutes=repair_minutes,
                             progress=progress)  # fmt: skip
    whole = planned.plan if freed is None else freed.then(planned.plan)
    with watch.stage("dead filters"):
        groups = planned.groups if freed is None else find_groups(model, examples)
        dead = dead_filters(model, batches, groups.groups)
    with watch.stage("latency"):
        times = latencies((model, final), example)
    with watch.stage("evaluate"):
        left = _still_there(dead, whole)
        base = figures(model, example, times[0], test, dead=sum(map(len, dead.values())), progress=progress)
        after = figures(final, example, times[1], test, dead=left, progress=progress)
        as_cut = None if repair is None else figures(pruned, example, times[1], test, dead=left, progress=progress)
    remove_state(resume)
    importances, saved = planned.importances, None
    if freed is not None:
        # What a criterion shows of a layer is of the filters it was asked about.
        importances = {name: found for name, found in importances.items() if name not in freed.plan.decisions}
        saved = _saved(freed.filters, base, cost.count(start, example))
    return Result(final, whole, base, after, importances, watch.seconds, as_cut, repair, saved)


def _reads_labels(asked: PruneOptions) -> bool:
    """Return whether anything that chooses filters reads labels: a criterion, or a rule that measures accuracy."""
    names = [asked.criterion, *([] if asked.budget_by is None else [asked.budget_by])]
    return asked.layerwise.is_asked_for or any(criteria.resolve(name).needs_labels for name in names)


def _saved(filters: int, base: Figures, left: Cost) -> dict[str, int]:
    return {"filters": filters, "macs": base.macs - left.macs, "parameters": base.parameters - left.parameters}


def _check_can_be_freed(asked: PruneOptions | None) -> None:
    listed = asked is not None and asked.keep is not None and not all(isinstance(n, int) for n in asked.keep.values())
    if asked is None or listed:
        raise InputError(
            "a plan or a list of filters already names the filters that stay: leave out remove_constant, or the plan"
        )


def _of_what_is_left(
    asked: PruneOptions | None, freed: ConstantRemoval, whole: Cost, left: Cost
) -> PruneOptions | None:
    """Return the choice for the network without its free filters, that asks for what was asked of the whole one."""
    if asked is None:
        return None
    if asked.budget is not None:
        return replace(asked, budget=freed.budget(asked.budget, whole, left))
    if asked.keep is not None:
        there = {name: len(kept) for name, kept in freed.plan.kept.items()}
        return replace(asked, keep={name: min(count, there.get(name, count)) for name, count in asked.keep.items()
                                    if isinstance(count, int)})  # fmt: skip
    return asked


def saturation_of(importances: Mapping[str, Importance]) -> dict[str, dict[str, float]]:
    """Return by layer how much of the labels' entropy it tells, and after how many filters its order is noise."""
    return {
        layer: {
            "saturation": float(found.evidence["saturation"]),
            "saturated_at": int(found.evidence["saturated_at"]),
            "filters": len(found.order),
        }
        for layer, found in importances.items()
        if {"saturation", "saturated_at"} <= found.evidence.keys()
    }


def _with_origin(pruned: nn.Module, model: nn.Module, plan: Plan) -> nn.Module:
    origin = origin_of(model)
    return pruned if origin is None else set_origin(pruned, origin.cut(plan))


def _still_there(dead: Mapping[str, set[int]], plan: Plan) -> int:
    """Return how many of the dead filters a plan keeps."""
    return sum(len(some & set(plan.kept[name]) if name in plan.kept else some) for name, some in dead.items())
