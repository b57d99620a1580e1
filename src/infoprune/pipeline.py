"""From a network and its images to a smaller network: the only place that knows the order of the rooms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from infoprune.automatic.descent import LEAST_SQUARES
from infoprune.automatic.effort import allowance
from infoprune.automatic.max_loss import prune_within
from infoprune.automatic.parts import Parts
from infoprune.automatic.prune import prune_automatically
from infoprune.criteria.base import Importance
from infoprune.cutoff import Reach
from infoprune.data.batches import Batches, number_of_images
from infoprune.data.fixed_sample import fixed_sample
from infoprune.data.given import as_batches
from infoprune.data.preprocessing import Preprocessing
from infoprune.errors import InputError
from infoprune.measure.advice import Spent, advice
from infoprune.measure.divergence import Divergence, divergence_between
from infoprune.measure.figures import dead_filters, example_for, figures, latencies, outputs_of
from infoprune.measure.metric import Metric, Output, Quality
from infoprune.measure.record import Figures, Stopwatch, as_text, comparison
from infoprune.network import cost, surgery
from infoprune.network.cost import Cost
from infoprune.network.coupled_groups import Examples
from infoprune.network.intake import check_network
from infoprune.network.modes import eval_mode
from infoprune.network.origin import note_cut, origin_of
from infoprune.network.several_inputs import reading_as_noted, reads_its_own, takes_several_inputs
from infoprune.network.verify import verify as verify_cut
from infoprune.options import (
    AUTO,
    Effort,
    EffortOptions,
    PruneOptions,
    RepairOptions,
    check_words,
    chosen,
    plain_counts,
)
from infoprune.plan import Plan
from infoprune.progress import Progress, reported, silent
from infoprune.repair import repair_options, repaired
from infoprune.repair.constant_filters import ConstantRemoval, remove_constant_filters
from infoprune.repair.distil_state import remove_state as remove_repair_state
from infoprune.repair.run import check_read
from infoprune.runs.together import together
from infoprune.selection.calibration import Calibration
from infoprune.selection.layerwise.state import remove_state
from infoprune.selection.planning import Planned, make_plan, named_counts, plan_for

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True, repr=False)
class Result:
    """A smaller network and everything that led to it.

    Args:
        model: The smaller network, on the device and in the mode of the original.
        plan: What stayed, and why.
        base: Figures of the original network.
        pruned: Figures of the smaller one.
        importances: The criterion's answer by layer.
        seconds: Wall time by stage.
        as_cut: Figures of the smaller one before it was repaired, ``None`` where nothing was.
        repair: How it was repaired, ``None`` where it was not.
        free: ``filters``, ``macs`` and ``parameters`` of the constant filters that were removed first, without loss;
            ``None`` where ``remove_constant`` was not set.
        automatic: What was compared where everything was chosen for the network, as JSON values; ``None`` otherwise.
        advice: What to do next, in sentences.

    Example:
        >>> import torch, infoprune
        >>> net = infoprune.zoo.build("digits").eval()
        >>> result = infoprune.prune(net, torch.rand(16, 1, 8, 8), criterion="l1", ratio=0.5, repair=None)
        >>> result.model.features[0].out_channels, result.repair
        (8, None)
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
    automatic: Mapping[str, Any] | None = None
    advice: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return a table of the figures before and after, and what to do next."""
        return "\n".join((as_text(comparison(self.base, self.pruned, "", self.as_cut)), *self.advice))

    def record(self) -> dict[str, Any]:
        """Return the record of the run as JSON values."""
        repaired = {} if self.as_cut is None else {"as_cut": asdict(self.as_cut), "repair": self.repair}
        return {
            "base": asdict(self.base),
            **({} if self.free is None else {"free": dict(self.free)}),
            **repaired,
            **({} if self.automatic is None else {"automatic": dict(self.automatic)}),
            **({"advice": list(self.advice)} if self.advice else {}),
            "pruned": asdict(self.pruned),
            "plan": {layer: list(kept) for layer, kept in self.plan.kept.items()},
            **({"saturation": saturation} if (saturation := saturation_of(self.importances)) else {}),
            "left_alone": dict(self.plan.left_alone),
            "seconds": dict(self.seconds),
            "settings": dict(self.plan.settings),
        }


@takes_several_inputs
def plan(
    model: nn.Module,
    batches: Batches,
    *,
    held_out: Batches | None = None,
    resume: Path | None = None,
    fabric: Fabric | None = None,
    **choice: Any,
) -> Plan:
    """Decide which filters are kept.

    Args:
        model: The trained network; left as it is.
        batches: Calibration images: ``(images, labels)`` pairs, iterable more than once.
        held_out: Images that choose among the candidates of a cut-off rule; by default the calibration images.
        resume: File in which layers that are done are kept, so that the same call resumes after an interruption;
            removed once the plan is made. It is written only where layers are cut one after the other; any other file
            is left alone.
        fabric: A launched Fabric, in each process of which this is called; they share the images.
        choice: The words of ``PruneOptions``: ``criterion="hrel", budget=Budget(macs=0.5)``.

    Raises:
        InputError: The network has no convolutions or nothing that can be removed, a name is unknown, the budget
            cannot be met, or the images do not fit.

    Example:
        >>> import torch, infoprune
        >>> net = infoprune.zoo.build("digits").eval()
        >>> made = plan(net, [torch.rand(8, 1, 8, 8)], criterion="l1", ratio=0.5)
        >>> len(made.decisions["features.0"].kept) * 2 == made.decisions["features.0"].filters
        True
    """
    asked = chosen(**choice)
    with together(fabric):
        planned = make_plan(model, batches, asked, held_out=held_out, resume=resume)
        if asked.layerwise.is_asked_for:
            remove_state(resume)
    return planned.plan


def apply(plan: Plan, model: nn.Module, example: Examples | None = None) -> nn.Module:
    """Return a new, smaller network; the original is not changed.

    Args:
        plan: Which filters are kept.
        model: The network that the plan was made for.
        example: A batch of ``(n, C, H, W)`` images to trace with, or a list with one of every shape that the network
            reads; by default zeros of the shapes noted in the plan.

    Raises:
        InputError: The plan was made for another network; the layer is named.

    Example:
        >>> import torch, infoprune
        >>> net = infoprune.zoo.build("digits").eval()
        >>> small = apply(infoprune.plan(net, [torch.rand(8, 1, 8, 8)], criterion="l1", ratio=0.5), net)
        >>> small.features[0].out_channels, net.features[0].out_channels
        (8, 16)
    """
    with reading_as_noted(model, plan):
        pruned = surgery.apply(plan, model, example_for(plan, model) if example is None else example)
    return note_cut(reads_its_own(pruned), model, plan)


def verify(plan: Plan, model: nn.Module, example: Examples | None = None) -> float:
    """Check that a plan is right for a network: the cut and the masked network return the same outputs.

    Returns:
        The largest absolute difference between the outputs of the cut network and of the whole one whose removed
        channels are held at zero.

    Raises:
        InputError: The plan was made for another network.
        infoprune.VerificationError: The outputs differ.

    Example:
        >>> import torch, infoprune
        >>> net = infoprune.zoo.build("digits").eval()
        >>> verify(infoprune.plan(net, [torch.rand(8, 1, 8, 8)], criterion="l1", ratio=0.5), net) < 1e-4
        True
    """
    with reading_as_noted(model, plan):
        return verify_cut(plan, model, example_for(plan, model) if example is None else example)


@takes_several_inputs
def prune(
    model: nn.Module,
    images: Any,
    plan: Plan | None = None,
    *,
    effort: Effort = "normal",
    minutes: float | None = None,
    max_loss: float | None = None,
    metric: Metric | None = None,
    output: Output | None = None,
    repair: str | RepairOptions | None = AUTO,
    repair_images: Any = None,
    remove_constant: bool = False,
    preprocessing: Preprocessing | None = None,
    held_out: Batches | None = None,
    test: Batches | None = None,
    resume: Path | None = None,
    keep_resume: bool = False,
    fabric: Fabric | None = None,
    progress: Progress | None = None,
    on_reach: Callable[[Reach], None] | None = None,
    **choice: Any,
) -> Result:
    """Make a network smaller: score, plan, cut, check the cut, repair, and measure before and after.

    With nothing but a network, images and a budget, everything else is chosen for the network, by what comes nearest
    to its outputs on a held-out part of the images. With a ``criterion``, that criterion chooses the filters.

    Args:
        model: The trained network; left as it is.
        images: A ``DataLoader``, a list of batches, one ``(n, C, H, W)`` tensor, or a folder of image files. Labels
            are read only by criteria that need them. Where nothing but a budget is given, 2,000 of more images are
            used (5,000 with ``max_loss``), and all of them by the repair by gradient of ``"thorough"``. A network that
            takes several inputs has batches ``((left, right), labels)``, or dicts of what its forward takes by keyword.
        plan: The filters that are kept, where they are known already.
        effort: ``"quick"``, ``"normal"`` or ``"thorough"``: the time that may be spent on a smaller loss.
        minutes: Minutes for the whole run, in place of the effort.
        max_loss: In place of a budget: the smallest network that loses no more points on held-out images; points of
            ``metric``, hundredths of its unit, where it is passed; of accuracy where the images have labels; else
            images in a hundred on which another class is named.
        metric: What is measured on ``test`` and limited by ``max_loss`` in place of accuracy: a name of
            ``infoprune.measure.metric.metric_names()``, a function of outputs and targets, or a
            ``torchmetrics.Metric``. Higher is better, unless its attribute ``higher_is_better`` is False.
        output: The part of what the network returns, such as ``"out"``, or a function of it: what is measured, and
            compared with the original's.
        repair: How the cut network is repaired: ``"auto"``, a name of ``infoprune.all_repairs()``, the options of a
            repair, or ``None`` for not at all.
        repair_images: Images to repair with; their labels are not read. By default ``images``.
        remove_constant: Whether filters whose output is constant on these images are removed first, as in
            ``remove_constant_filters``. A budget is of the whole network; a ratio and a threshold are of the
            network without them.
        preprocessing: How image files of a folder become tensors; by default as is known of the network.
        held_out: Images that choose among the candidates of a cut-off rule; by default the calibration images.
        test: Labelled images to measure accuracy on. They choose nothing.
        resume: File in which layers that are done are kept, as in ``plan``, and beside it the state of the repair
            ``distil``; removed at the end. Where everything is chosen for the network, nothing is kept.
        keep_resume: Whether ``resume`` is kept, for a caller that has more to do before the result is safe.
        fabric: A launched Fabric, in each process of which this is called with the same arguments, the network on the
            device of the process. They share the images and all return the same result.
        progress: Called in every stage; by default a bar is drawn on a terminal and in a notebook.
        on_reach: Called, before anything is scored, with how small the network can get and which layers bind.
        choice: The words of ``PruneOptions``: ``macs=0.5``, ``criterion="hrel"``, ``skip=("stem",)``.

    Raises:
        InputError: As in ``plan`` and ``apply``; a metric is passed that nothing is measured by; a plan is passed
            together with words of ``PruneOptions``; a plan or listed filters are passed together with
            ``remove_constant``.
        infoprune.VerificationError: The cut network would not compute what the masked one does.

    Example:
        >>> import torch, infoprune
        >>> net = infoprune.zoo.build("digits").eval()
        >>> result = infoprune.prune(net, torch.rand(40, 1, 8, 8), macs=0.5, effort="quick")
        >>> result.pruned.macs <= 0.5 * result.base.macs
        True
    """
    mending = None if repair is None else repair_options(repair)
    if mending is not None:
        check_read(mending)
    how, quality = EffortOptions(effort, minutes, max_loss), Quality(metric, output)
    if metric is not None and test is None and max_loss is None:
        raise InputError("a metric measures the images of test, or those that limit the loss: pass one of them with it")
    check_network(model)
    batches = as_batches(images, preprocessing or _known_preprocessing(model))
    repairing = batches if repair_images is None else as_batches(repair_images, preprocessing)
    watch = Stopwatch()
    if plan is not None:
        _check_nothing_but_the_plan(choice)
    with together(fabric) as processes, reported(progress if processes.is_first else silent) as shown:
        on_reach = on_reach if processes.is_first else None
        if plan is None and not remove_constant and chooses_everything(choice, mending):
            made = _automatic(model, repairing, how, choice, quality, watch, shown, on_reach)
        elif max_loss is not None:
            raise InputError("a limit on the loss finds its own criterion, budget and repair: leave these out")
        elif how.says_how_long():
            raise InputError(
                "an effort and minutes are of runs where criterion and repair are chosen for the network: leave them "
                "out, or what you chose"
            )
        else:
            made = _chosen(model, batches, repairing, plan, choice, mending, remove_constant, held_out,
                           resume, watch, shown, on_reach)  # fmt: skip
        result = _measured(model, made, test, quality, watch, shown)
        if not keep_resume:
            if made.layer_by_layer:
                remove_state(resume)
            remove_repair_state(None if made.repair is None else resume)
    return result


@dataclass(frozen=True)
class _Made:
    """A pruned network before it is measured."""

    whole: Calibration
    plan: Plan
    model: nn.Module
    cut: nn.Module | None
    importances: Mapping[str, Importance]
    repair_images: int
    repair: str | None = None
    free: Mapping[str, int] | None = None
    automatic: Mapping[str, Any] | None = None
    effort: str | None = None
    layer_by_layer: bool = False


# Images that closed forms use where everything is chosen: more do not help them (docs/repair.md), and a loader of a
# whole training set would take hours. A loss in points is judged by a fifth of them, so that there are more.
_MOST_IMAGES, _MOST_JUDGED = 2000, 5000
_LEFT_TO_A_CHOICE = {"budget", "macs", "parameters", "ratio", "keep", "layers", "skip", "multiple", "keep_at_least",
                     "keep_share", "seed"}  # fmt: skip


def chooses_everything(words: Mapping[str, Any], repair: RepairOptions | None) -> bool:
    """Return whether criterion, sharing-out and repair are all left to be chosen for the network.

    Example:
        >>> how = RepairOptions()
        >>> chooses_everything({"macs": 0.5}, how), chooses_everything({"macs": 0.5, "criterion": "l1"}, how)
        (True, False)
    """
    budget = words.get("budget")
    by_latency = words.get("latency") is not None or (budget is not None and budget.latency is not None)
    keep = plain_counts(words.get("keep"))
    listed = isinstance(keep, Mapping) and any(not isinstance(kept, int) for kept in keep.values())
    automatic = repair is not None and repair.method == AUTO
    return automatic and set(words) <= _LEFT_TO_A_CHOICE and not by_latency and not listed


def _automatic(
    model: nn.Module,
    batches: Batches,
    how: EffortOptions,
    words: Mapping[str, Any],
    quality: Quality,
    watch: Stopwatch,
    progress: Progress,
    on_reach: Callable[[Reach], None] | None,
) -> _Made:
    spend = allowance(how.effort, how.minutes)
    with watch.stage("prune"):
        few, every = fixed_sample(batches, _MOST_IMAGES if how.max_loss is None else _MOST_JUDGED)
        whole = Calibration.of(model, few)
        if how.max_loss is None:
            more = None if every is few else every
            found = prune_automatically(whole, chosen(**words), spend, quality=quality, more=more, progress=progress,
                                        on_reach=on_reach)  # fmt: skip
        else:
            found = prune_within(whole, how.max_loss, words, spend, quality=quality, progress=progress)
    with watch.stage("cut"):
        cut = surgery.apply(found.plan, model, whole.examples, groups=whole.groups)
    with watch.stage("verify"):
        verify_cut(found.plan, model, whole.examples, cut, groups=whole.groups)
    # Fitted in single precision at least.
    found.model.to(next((values.dtype for values in cut.parameters() if values.is_floating_point()), None))
    modes = {name: module.training for name, module in cut.named_modules()}
    for name, module in found.model.named_modules():
        module.training = modes.get(name, model.training)
    final, cut = (note_cut(one, model, found.plan) for one in (found.model, cut))
    effort = how.effort if how.minutes is None else f"{how.minutes:g} minutes"
    return _Made(whole, found.plan, final, cut, found.importances, whole.count, found.repair, None, found.to_dict(),
                 effort)  # fmt: skip


def _chosen(
    model: nn.Module,
    batches: Batches,
    repairing: Batches,
    plan: Plan | None,
    words: Mapping[str, Any],
    repair: RepairOptions | None,
    remove_constant: bool,
    held_out: Batches | None,
    resume: Path | None,
    watch: Stopwatch,
    progress: Progress,
    on_reach: Callable[[Reach], None] | None,
) -> _Made:
    """Prune as the user says, stage by stage."""
    asked = None if plan is not None else chosen(**words)
    if remove_constant:
        _check_can_be_freed(asked)
    with watch.stage("plan"):
        whole = Calibration.of(model, batches)
    begun, freed = whole, None
    if remove_constant:
        with watch.stage("free"):
            freed = remove_constant_filters(model, repairing, progress=progress)
            begun = whole.of_network(freed.model)
            asked = _of_what_is_left(asked, freed, whole, begun.costs.base)
    with watch.stage("plan"):
        if asked is not None:
            planned = plan_for(begun, asked, held_out=held_out, resume=resume, progress=progress, on_reach=on_reach)
        else:
            assert plan is not None
            planned = Planned(plan, {}, whole.groups)
    cut = _cut(begun, planned, watch)
    final, method = cut, None if repair is None else repair.method
    if repair is not None and method == AUTO:
        repair, method = replace(repair, method=LEAST_SQUARES), LEAST_SQUARES
    if repair is not None:
        with watch.stage("repair"):
            final = repaired(cut, begun.model, repairing, planned.plan, planned.groups, how=repair, resume=resume,
                             progress=progress)  # fmt: skip
    by_layer = asked is not None and asked.layerwise.is_asked_for
    before = None if method is None else cut
    count = whole.count if repairing is batches else number_of_images(repairing)
    if freed is None:
        return _Made(whole, planned.plan, final, before, planned.importances, count, method, layer_by_layer=by_layer)
    # What a criterion shows of a layer is of the filters it was asked about.
    importances = {name: found for name, found in planned.importances.items() if name not in freed.plan.decisions}
    saved = _saved(freed.filters, whole.costs.base, begun.costs.base)
    joined = freed.then(planned.plan)
    return _Made(whole, joined, final, before, importances, count, method, saved, layer_by_layer=by_layer)


def _measured(
    model: nn.Module,
    made: _Made,
    test: Batches | None,
    quality: Quality,
    watch: Stopwatch,
    progress: Progress,
) -> Result:
    whole, final = made.whole, made.model
    with watch.stage("dead filters"):
        dead = _dead(model, whole, progress)
    with watch.stage("latency"):
        times = latencies((model, final), whole.example)
    with watch.stage("evaluate"):
        left, example = None if dead is None else _still_there(dead, made.plan), whole.example
        in_base = None if dead is None else sum(map(len, dead.values()))
        measured: dict[str, Any] = {"quality": quality, "progress": progress}
        base = figures(model, whole.costs.base, times[0], test, dead=in_base, **measured)
        after = figures(final, cost.count(final, example), times[1], test, dead=left, **measured)
        if test is None and (away := _distance(model, final, whole.batches, quality)).images:
            after = replace(after, agreement=away.agreement, divergence=away.value)
        as_cut = None
        if made.cut is not None:
            as_cut = figures(made.cut, cost.count(made.cut, example), times[1], test, dead=left, **measured)
    classes = outputs_of(model, example, quality)
    spent = Spent(made.repair_images, made.repair, made.effort, classes)
    return Result(final, made.plan, base, after, made.importances, watch.seconds, as_cut, made.repair, made.free,
                  made.automatic, advice(base, after, spent))  # fmt: skip


def _dead(model: nn.Module, whole: Calibration, progress: Progress) -> dict[str, set[int]] | None:
    """Return the dead filters by layer; ``None`` where a layer has other maps than one for each image."""
    try:
        return dead_filters(model, whole.batches, whole.groups.groups, progress=progress)
    except InputError:
        return None


def _distance(model: nn.Module, final: nn.Module, batches: Batches, quality: Quality) -> Divergence:
    """Return how far a network is from the original on some of the calibration images."""
    judges = Parts.of(batches, model).held_out
    with eval_mode(model), eval_mode(final):
        return divergence_between(quality.answers(model), quality.answers(final), judges)


def _check_nothing_but_the_plan(choice: Mapping[str, Any]) -> None:
    """Refuse words that choose filters beside a plan that names them.

    Raises:
        InputError: There is such a word, or one that nothing knows.
    """
    if choice:
        check_words(choice)
        raise InputError(f"a plan already names the kept filters: leave out {', '.join(choice)}, or leave out the plan")


def remove_states(resume: Path | None) -> None:
    """Remove the state that ``prune`` keeps in and beside a file to resume from; no other file is touched.

    Example:
        >>> remove_states(None)
    """
    remove_state(resume)
    remove_repair_state(resume)


def _known_preprocessing(model: nn.Module) -> Preprocessing | None:
    origin = origin_of(model)
    return None if origin is None else origin.preprocessing


def _cut(begun: Calibration, planned: Planned, watch: Stopwatch) -> nn.Module:
    """Return the cut network, checked; the one of the iterative form where there is one."""
    model, examples, groups = begun.model, begun.examples, planned.groups
    with watch.stage("cut"):
        pruned = note_cut(surgery.apply(planned.plan, model, examples, groups=groups), model, planned.plan)
    with watch.stage("verify"):
        verify_cut(planned.plan, model, examples, pruned, groups=groups)
    return pruned if planned.model is None else note_cut(planned.model, model, planned.plan)


def _saved(filters: int, base: Cost, left: Cost) -> dict[str, int]:
    return {"filters": filters, "macs": base.macs - left.macs, "parameters": base.parameters - left.parameters}


def _check_can_be_freed(asked: PruneOptions | None) -> None:
    listed = asked is not None and asked.keep is not None and not all(isinstance(n, int) for n in asked.keep.values())
    if asked is None or listed:
        raise InputError(
            "a plan or a list of filters already names the kept filters: leave out remove_constant, or the plan"
        )


def _of_what_is_left(
    asked: PruneOptions | None, freed: ConstantRemoval, whole: Calibration, left: Cost
) -> PruneOptions | None:
    """Return the choice for the network without its constant filters, with the same target as for the whole one."""
    if asked is None:
        return None
    if asked.budget is not None:
        return replace(asked, budget=freed.budget(asked.budget, whole.costs.base, left))
    if asked.keep is not None:
        there = {name: len(kept) for name, kept in freed.plan.kept.items()}
        counts = named_counts(asked.keep, whole.groups)
        return replace(asked, keep={name: min(count, there.get(name, count)) for name, count in counts.items()
                                    if isinstance(count, int)})  # fmt: skip
    return asked


def saturation_of(importances: Mapping[str, Importance]) -> dict[str, dict[str, float]]:
    """Return by layer how much of the labels' entropy it explains, and after how many filters its order is noise.

    Example:
        >>> import torch
        >>> evidence = {"saturation": torch.tensor(0.9), "saturated_at": torch.tensor(2)}
        >>> found = Importance(torch.tensor([3.0, 2.0, 1.0]), evidence=evidence)
        >>> saturation_of({"conv1": found})["conv1"]["saturated_at"]
        2
    """
    return {
        layer: {
            "saturation": float(found.evidence["saturation"]),
            "saturated_at": int(found.evidence["saturated_at"]),
            "filters": len(found.order),
        }
        for layer, found in importances.items()
        if {"saturation", "saturated_at"} <= found.evidence.keys()
    }


def _still_there(dead: Mapping[str, set[int]], plan: Plan) -> int:
    """Return how many of the dead filters a plan keeps."""
    return sum(len(some & set(plan.kept[name]) if name in plan.kept else some) for name, some in dead.items())
