"""From a network and its images to a smaller network: the only place that knows the order of the rooms."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from infoprune import (
    criteria,
    cutoff,
    reconstruction,  # noqa: F401 - it registers
)
from infoprune.criteria.base import Importance, Tap
from infoprune.cutoff import Cut, Limits, Reach
from infoprune.device import device_of
from infoprune.errors import InputError, unknown
from infoprune.evaluation import eval_mode, evaluate, labelled, logits_of
from infoprune.network import cost, surgery
from infoprune.network.groups import CoupledGroup, Groups, find_groups
from infoprune.network.verify import verify as verify_cut
from infoprune.origin import origin_of, set_origin
from infoprune.plan import Budget, LayerDecision, Plan
from infoprune.progress import Progress, silent
from infoprune.record import Figures, Stopwatch
from infoprune.repair import find as find_repair
from infoprune.repair import repaired
from infoprune.scoring import score
from infoprune.version import __version__

Batches = Iterable[Any]
Keep = Mapping[str, int | Sequence[int]]


@dataclass(frozen=True)
class Choice:
    """What is removed, and by what rule; the same words as the options of the command line.

    Args:
        criterion: Name of a criterion, or ``package.module:function``.
        ratio: Share of the filters removed from every layer, below 1.
        keep: By layer, how many filters stay or which; layers not named are left alone.
        budget: What may remain of the whole network. Exactly one of ``ratio``, ``keep`` and ``budget`` is given.
        layers: Patterns of layer names that may lose filters; by default every convolution.
        skip: Patterns of layer names that may not.
        tap: Where the feature maps are read; by default where the criterion's paper reads them.
        multiple: Kept counts are multiples of this; thinner layers are left alone.
        keep_at_least: Filters that stay in every layer.
        seed: Seeds whatever is random.
        options: Further options of the criterion.
        budget_by: Criterion that says how many filters of each layer a budget takes, by what is lost for what is saved;
            by default ``criterion`` does, by one ranking relative to the layers' means.
    """

    criterion: str = "cmi"
    ratio: float | None = None
    keep: Keep | None = None
    budget: Budget | None = None
    layers: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    tap: Tap | None = None
    multiple: int = 1
    keep_at_least: int = 1
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    budget_by: str | None = None

    def words(self) -> dict[str, Any]:
        """Return the choice as keyword arguments of ``prune`` and ``plan``."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def limits(self) -> Limits:
        """Return how far a layer may be cut."""
        return Limits(keep_at_least=self.keep_at_least, multiple=self.multiple)

    def __post_init__(self) -> None:
        given = [name for name in ("ratio", "keep", "budget") if getattr(self, name) is not None]
        if len(given) != 1:
            said = " and ".join(given) if given else "nothing"
            raise InputError(f"say how much goes by one of a ratio, explicit counts, or a budget, not by {said}")
        if self.budget_by is not None and self.budget is None:
            raise InputError("budget_by shares a budget out between the layers: give a budget with it")
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise InputError(f"the ratio is the share of the filters to remove, from 0 to below 1, not {self.ratio}")


@dataclass(frozen=True)
class Planned:
    """A plan and the evidence behind it.

    Args:
        plan: What stays.
        importances: The criterion's answer by layer; empty where no criterion was asked.
        groups: Everything that could have been removed, and why the rest could not.
    """

    plan: Plan
    importances: Mapping[str, Importance]
    groups: Groups


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
    """

    model: nn.Module
    plan: Plan
    base: Figures
    pruned: Figures
    importances: Mapping[str, Importance]
    seconds: Mapping[str, float]
    as_cut: Figures | None = None
    repair: str | None = None

    def record(self) -> dict[str, Any]:
        """Return the record of the run as JSON values."""
        repaired = {} if self.as_cut is None else {"as_cut": asdict(self.as_cut), "repair": self.repair}
        return {
            "base": asdict(self.base),
            **repaired,
            "pruned": asdict(self.pruned),
            "plan": {layer: list(kept) for layer, kept in self.plan.kept.items()},
            "left_alone": dict(self.plan.left_alone),
            "seconds": dict(self.seconds),
            "settings": dict(self.plan.settings),
        }


def plan(model: nn.Module, batches: Batches, **choice: Any) -> Plan:
    """Decide which filters stay.

    Args:
        model: The trained network; left as it is.
        batches: Calibration images: ``(images, labels)`` pairs, iterable more than once.
        choice: The words of ``Choice``: ``criterion="hrel", budget=Budget(macs=0.5)``.

    Raises:
        InputError: The network has no convolutions or nothing that can be removed, a name is unknown, the budget
            cannot be met, or the images do not fit.
    """
    return make_plan(model, batches, chosen(**choice)).plan


def make_plan(
    model: nn.Module,
    batches: Batches,
    choice: Choice,
    *,
    progress: Progress = silent,
    on_reach: Callable[[Reach], None] | None = None,
) -> Planned:
    """Decide which filters stay, and keep the evidence.

    Args:
        model: The trained network; left as it is.
        batches: Calibration images: ``(images, labels)`` pairs, iterable more than once.
        choice: What is removed, and by what rule.
        progress: Told while feature maps are scored.
        on_reach: Told, before anything is scored, how small the network can get and which layers bind.

    Raises:
        InputError: As in ``plan``.
    """
    example = example_of(batches, model)
    check_runs(model, example)
    groups = find_groups(model, example)
    cut_groups = choose_groups(model, groups, choice)
    costs = cost.CostModel(model, example, groups)
    if choice.budget is not None:
        found = cutoff.reach(cut_groups, costs, limits=choice.limits())
        if on_reach is not None:
            on_reach(found)
        cutoff.check_reach(found, choice.budget)
    importances = _importances(model, cut_groups, batches, choice, progress)
    if choice.budget is not None and choice.budget_by is not None:
        worths = _worths(model, cut_groups, batches, choice, importances, progress)
        cuts = cutoff.cut_by_worth(cut_groups, importances, worths, costs, choice.budget, limits=choice.limits())
    else:
        cuts = _cut(_Network(model, example, groups, costs), cut_groups, importances, choice)
    decisions = {
        group.name: _decision(group, cuts[group.name], importances.get(group.name))
        for group in cut_groups
        if group.name in cuts
    }
    skipped = {g.name: "was not chosen to lose filters" for g in groups.groups if g.name not in decisions}
    settings = _settings(choice, example, batches)
    return Planned(Plan(decisions, {**groups.left_alone, **skipped}, settings), importances, groups)


def chosen(**choice: Any) -> Choice:
    """Return the choice that these words make.

    Raises:
        InputError: A word is unknown, or a value is out of range.
    """
    words = [one.name for one in fields(Choice)]
    for word in choice:
        if word not in words:
            raise unknown("option of pruning", word, words)
    return Choice(**choice)


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
    test: Batches | None = None,
    repair: str | None = None,
    repair_batches: Batches | None = None,
    progress: Progress = silent,
    on_reach: Callable[[Reach], None] | None = None,
    **choice: Any,
) -> Result:
    """Make a network smaller: score, plan, cut, check the cut, repair, and measure before and after.

    Args:
        model: The trained network; left as it is.
        batches: Calibration images: ``(images, labels)`` pairs, iterable more than once. They choose the filters.
        plan: What stays, where it is known already; then there is no further choice.
        test: Images to measure accuracy on. They choose nothing.
        repair: How the cut network is repaired, a name of ``infoprune.all_repairs()``; by default it is not.
        repair_batches: Images to repair with; their labels are not read. By default the calibration images.
        progress: Told while feature maps are scored and images are evaluated.
        on_reach: Told, before anything is scored, how small the network can get and which layers bind.
        choice: The words of ``Choice``: ``criterion="hrel", budget=Budget(macs=0.5)``.

    Raises:
        InputError: As in ``plan`` and ``apply``.
        infoprune.VerificationError: The cut network would not compute what the masked one does.
    """
    watch = Stopwatch()
    if repair is not None:
        find_repair(repair)
    example = example_of(batches, model)
    with watch.stage("plan"):
        if plan is None:
            planned = make_plan(model, batches, chosen(**choice), progress=progress, on_reach=on_reach)
        else:
            planned = Planned(plan, {}, find_groups(model, example))
    with watch.stage("cut"):
        pruned = _with_origin(surgery.apply(planned.plan, model, example, groups=planned.groups), model, planned.plan)
    with watch.stage("verify"):
        verify_cut(planned.plan, model, example, pruned, groups=planned.groups)
    final = pruned
    if repair is not None:
        with watch.stage("repair"):
            some = batches if repair_batches is None else repair_batches
            final = repaired(pruned, model, some, planned.plan, planned.groups, method=repair, progress=progress)
    with watch.stage("dead filters"):
        dead = dead_filters(model, batches, planned.groups.groups)
    with watch.stage("latency"):
        times = latencies((model, final), example)
    with watch.stage("evaluate"):
        base = figures(model, example, times[0], sum(map(len, dead.values())), test, progress)
        left = _still_there(dead, planned.plan)
        after = figures(final, example, times[1], left, test, progress)
        as_cut = None if repair is None else figures(pruned, example, times[1], left, test, progress)
    return Result(final, planned.plan, base, after, planned.importances, watch.seconds, as_cut, repair)


def figures(
    model: nn.Module, example: Tensor, latency_ms: float, dead: int, test: Batches | None, progress: Progress = silent
) -> Figures:
    """Measure the network that is really there."""
    counted = cost.count(model, example)
    if test is None:
        return Figures(counted.macs, counted.parameters, latency_ms, dead_filters=dead)
    measured = evaluate(model, test, progress=progress)
    return Figures(
        counted.macs,
        counted.parameters,
        latency_ms,
        measured.accuracy,
        measured.top5,
        measured.loss,
        measured.images,
        dead,
    )


def latencies(models: Sequence[nn.Module], example: Tensor, rounds: int = 3) -> list[float]:
    """Return each network's median milliseconds for one image, taken in turns so that drift hits all alike."""
    one = example[:1]
    turns = [[cost.latency(model, one) for model in models] for _ in range(rounds)]
    return [sorted(times)[len(times) // 2] for times in zip(*turns, strict=True)]


def dead_filters(model: nn.Module, batches: Batches, groups: Sequence[CoupledGroup]) -> dict[str, set[int]]:
    """Return, by convolution, the filters whose maps after activation are constant over all images and positions."""
    modules = dict(model.named_modules())
    convolutions = [group for group in groups if isinstance(modules[group.name], nn.modules.conv._ConvNd)]
    variances = score(model, convolutions, batches, criteria.find("variance"), tap="activation")
    return {name: set((found.scores <= 0).nonzero().flatten().tolist()) for name, found in variances.items()}


def choose_groups(model: nn.Module, groups: Groups, choice: Choice) -> tuple[CoupledGroup, ...]:
    """Return the groups that may lose filters, in the order of the network.

    Raises:
        InputError: The network has no convolutions, nothing can be removed, or a pattern names nothing.
    """
    modules = dict(model.named_modules())
    if not any(isinstance(module, nn.modules.conv._ConvNd) for module in modules.values()):
        raise InputError("the network has no convolutions: there are no filters to remove")
    wanted = choice.layers or (tuple(choice.keep) if choice.keep is not None else ())
    for pattern in (*wanted, *choice.skip):
        _check_pattern(pattern, groups)
    chosen = tuple(
        group
        for group in groups.groups
        if (_matches(group, wanted) if wanted else isinstance(modules[group.name], nn.modules.conv._ConvNd))
        and not _matches(group, choice.skip)
    )
    if not chosen:
        reason = next((f": '{layer}' {why}" for layer, why in groups.left_alone.items()), "")
        raise InputError(f"nothing that was chosen can lose filters{reason}")
    return chosen


def example_of(batches: Batches, model: nn.Module) -> Tensor:
    """Return two images of the first batch, on the network's device.

    Raises:
        InputError: There are no batches, or they can be read only once.
    """
    if iter(batches) is batches:
        raise InputError("the images must be iterable more than once: give a DataLoader or a list of batches")
    first = next(labelled(batches), None)
    if first is None:
        raise InputError("there are no calibration images: the loader is empty")
    return first[0][:2].to(device_of(model))


def check_runs(model: nn.Module, example: Tensor) -> None:
    """Refuse a network that cannot read the images, or gives values that are not finite.

    Raises:
        InputError: One of these.
    """
    with eval_mode(model), torch.no_grad():
        logits_of(model, example)


def example_for(plan: Plan, model: nn.Module) -> Tensor:
    """Return zeros of the shape that the plan was made with.

    Raises:
        InputError: The plan does not say it, and nothing is known of the network.
    """
    origin = origin_of(model)
    shape = plan.settings.get("input_shape") or (origin.input_shape if origin else None)
    if shape is None:
        raise InputError("the plan does not say what images the network reads: give an example batch")
    return torch.zeros(2, *shape, device=device_of(model))


def _importances(
    model: nn.Module, groups: Sequence[CoupledGroup], batches: Batches, choice: Choice, progress: Progress
) -> dict[str, Importance]:
    explicit = choice.keep is not None and not any(isinstance(kept, int) for kept in choice.keep.values())
    if explicit:
        return {}
    info = criteria.resolve(choice.criterion)
    return score(
        model, groups, batches, info, tap=choice.tap, seed=choice.seed, options=choice.options, progress=progress
    )


def _worths(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    batches: Batches,
    choice: Choice,
    importances: Mapping[str, Importance],
    progress: Progress,
) -> Mapping[str, Importance]:
    if choice.budget_by == choice.criterion:
        return importances
    assert choice.budget_by is not None
    info = criteria.resolve(choice.budget_by)
    return score(model, groups, batches, info, seed=choice.seed, progress=progress)


@dataclass(frozen=True)
class _Network:
    """A network and what is known of it."""

    model: nn.Module
    example: Tensor
    groups: Groups
    costs: cost.CostModel

    def milliseconds(self, kept: Mapping[str, Sequence[int]]) -> float:
        """Return the latency of the network really built with these filters."""
        if not kept:
            return latencies((self.model,), self.example)[0]
        filters = {group.name: group.filters for group in self.groups.groups}
        cut = Plan({name: LayerDecision(name, filters[name], tuple(some)) for name, some in kept.items()})
        built = surgery.apply(cut, self.model, self.example, groups=self.groups, check=False)
        return latencies((built,), self.example)[0]


def _cut(
    network: _Network, groups: Sequence[CoupledGroup], importances: Mapping[str, Importance], choice: Choice
) -> dict[str, Cut]:
    if choice.keep is not None:
        return cutoff.cut_by_counts(groups, importances, choice.keep)
    if choice.ratio is not None:
        return cutoff.cut_by_ratio(groups, importances, choice.ratio, limits=choice.limits())
    assert choice.budget is not None  # one of the three is given
    if choice.budget.latency is None:
        return cutoff.cut_to_budget(groups, importances, network.costs, choice.budget, limits=choice.limits())
    return cutoff.cut_to_latency(
        groups, importances, network.milliseconds, choice.budget, cost=network.costs, limits=choice.limits()
    )


def _with_origin(pruned: nn.Module, model: nn.Module, plan: Plan) -> nn.Module:
    origin = origin_of(model)
    return pruned if origin is None else set_origin(pruned, origin.cut(plan))


def _still_there(dead: Mapping[str, set[int]], plan: Plan) -> int:
    """Return how many of the dead filters a plan keeps."""
    return sum(len(some & set(plan.kept[name]) if name in plan.kept else some) for name, some in dead.items())


def _decision(group: CoupledGroup, cut: Cut, importance: Importance | None) -> LayerDecision:
    told: dict[str, Any] = {}
    if importance is not None:
        told = {
            "scores": tuple(importance.scores.tolist()),
            "order": importance.order,
            "curve": importance.curve,
        }
    return LayerDecision(
        group.name, group.filters, tuple(cut.kept), coupled=group.producers[1:], reason=cut.reason, **told
    )


def _matches(group: CoupledGroup, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(layer, pattern) for layer in group.producers for pattern in patterns)


def _check_pattern(pattern: str, groups: Groups) -> None:
    if any(_matches(group, (pattern,)) for group in groups.groups):
        return
    if pattern in groups.left_alone:
        raise InputError(f"layer '{pattern}' cannot lose filters: {groups.left_alone[pattern]}")
    raise unknown("layer", pattern, [layer for group in groups.groups for layer in group.producers])


def _settings(choice: Choice, example: Tensor, batches: Batches) -> dict[str, Any]:
    told = {name: value for name, value in asdict(choice).items() if value not in (None, (), {})}
    if choice.budget is not None:
        told["budget"] = choice.budget.shares()
    return {
        **told,
        "calibration_images": sum(len(labels) for _, labels in labelled(batches)),
        "input_shape": list(example.shape[1:]),
        "versions": {"infoprune": __version__, "torch": torch.__version__},
    }
