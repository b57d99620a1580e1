"""One layer after the other: each ordered given the kept maps of others, and cut where held-out images allow it.

Vu-Van et al., arXiv 2411.18578: per layer, compact and full cross-layer conditioning; forward, backward, or from the
layer that would lose most in both directions at once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from infoprune.criteria.base import Importance
from infoprune.cutoff.base import NO_LIMITS, Cut, Limits
from infoprune.cutoff.ranking import fewest_from, ladder
from infoprune.cutoff.rules.curve import Curve
from infoprune.errors import InputError
from infoprune.network.coupled_groups import CoupledGroup, find_groups
from infoprune.network.execution_order import Flow
from infoprune.options import LayerwiseOptions
from infoprune.progress import Progress, silent
from infoprune.runs.processes import side_by_side
from infoprune.selection.layerwise.judging import Judge
from infoprune.selection.layerwise.maps import LayerMaps
from infoprune.selection.layerwise.state import State, from_json, to_json

Kept: TypeAlias = Mapping[str, tuple[int, ...]]

# So many candidates are tried one after the other.
_FEW = 3


# From a group, the maps of the network and the maps it is conditioned on, to its importance and the curve to cut.
Orders: TypeAlias = Callable[[CoupledGroup, LayerMaps, Sequence[Tensor]], tuple[Importance, Curve]]


@dataclass(frozen=True)
class Ready:
    """Importances that are known already and depend on no other layer.

    Example:
        >>> known = Importance(torch.tensor([2.0, 1.0]))
        >>> Ready({"conv1": known}).importances["conv1"].order
        (0, 1)
    """

    importances: Mapping[str, Importance]

    def __call__(self, group: CoupledGroup, maps: LayerMaps, given: Sequence[Tensor]) -> tuple[Importance, Curve]:
        """Return what is known of a group; where there is no curve, that of its scores."""
        found = self.importances[group.name]
        return found, curve_of_scores(found) if found.curve is None else curve_of(found)


@dataclass(frozen=True)
class Conditional:
    """The criterion ``cmi``, layer by layer.

    Args:
        order: ``order(maps, labels, given)``.
        test: ``test(maps, labels, order, given)`` gives the p value of the m-th filter.

    Example:
        >>> from infoprune import zoo
        >>> from infoprune.criteria.cmi import conditional_mutual_information_order, permutation_p_value
        >>> from infoprune.network.coupled_groups import find_groups
        >>> _ = torch.manual_seed(0)
        >>> net, images = zoo.build("digits").eval(), torch.rand(16, 1, 8, 8)
        >>> groups = find_groups(net, images).groups
        >>> maps = LayerMaps(net, groups, [(images, torch.arange(16) % 4)])
        >>> orders = Conditional(conditional_mutual_information_order, permutation_p_value)
        >>> importance, curve = orders(groups[0], maps, given=())
        >>> curve.filters
        16
    """

    order: Callable[..., Importance]
    test: Callable[..., Callable[[int], float]]

    def __call__(self, group: CoupledGroup, maps: LayerMaps, given: Sequence[Tensor]) -> tuple[Importance, Curve]:
        """Order the filters of a group."""
        own = maps.of(group.name)
        labels = maps.labels
        found = self.order(own, labels, given)

        @cache
        def test() -> Callable[[int], float]:
            return cache(self.test(own, labels, found.order, given))

        return found, replace(curve_of(found), p_value=lambda m: test()(m))


@dataclass(frozen=True)
class Cutting:
    """How layers are taken and cut.

    Args:
        rule: From a group and its curve to candidates "keep the first m".
        how: Conditioning, direction, tolerances and processes.
        limits: How far each group may be cut.
        between: In the iterative form, what is done to the cut network before the maps of the next layer are read
            from it; otherwise all maps are of the original network.

    Example:
        >>> Cutting(lambda group, curve: [curve.filters // 2], LayerwiseOptions(cutoff="scree")).how.direction
        'forward'
    """

    rule: Callable[[CoupledGroup, Curve], Sequence[int]]
    how: LayerwiseOptions
    limits: Limits = NO_LIMITS
    between: Callable[[Judge, Kept], nn.Module] | None = None


@dataclass(frozen=True)
class Layers:
    """A network and what is known of it, as of one moment.

    Args:
        model: The network that maps are read from.
        groups: The groups that may lose filters, in the order of the data flow.
        flow: Which groups are neighbours.
        maps: Their maps over the calibration images.
        judge: How good the network would be.

    Example:
        >>> from infoprune import zoo
        >>> from infoprune.network.coupled_groups import find_groups
        >>> from infoprune.network.execution_order import flow
        >>> net, images = zoo.build("digits").eval(), torch.rand(8, 1, 8, 8)
        >>> found, batches = find_groups(net, images), [(images, torch.arange(8))]
        >>> judge, maps = Judge(net, images, found, batches), LayerMaps(net, found.groups, batches)
        >>> Layers(net, found.groups, flow(net, found.groups, images), maps, judge).group("features.3").filters
        32
    """

    model: nn.Module
    groups: tuple[CoupledGroup, ...]
    flow: Flow
    maps: LayerMaps
    judge: Judge

    def group(self, name: str) -> CoupledGroup:
        """Return the group of that name."""
        return next(group for group in self.groups if group.name == name)


@dataclass(frozen=True)
class Decided:
    """What is found of one group.

    Args:
        importance: With the evidence of the choice: ``candidates``, how many filters each would keep, their
            ``candidate_accuracy`` in percent on held-out images (NaN where it was not needed), and ``cut``, how many
            stay.
        cut: What stays.

    Example:
        >>> Decided(Importance(torch.tensor([2.0, 1.0])), Cut((0,), "the better one")).cut.kept
        (0,)
    """

    importance: Importance
    cut: Cut


@dataclass(frozen=True)
class Outcome:
    """The layers one after the other, and what was found.

    Args:
        decided: By group, in the order of the data flow.
        model: The network of the iterative form, ``None`` otherwise.
        start: The layer that direction ``"both"`` started from.

    Example:
        >>> Outcome({}, start="conv3").start
        'conv3'
    """

    decided: Mapping[str, Decided]
    model: nn.Module | None = None
    start: str | None = None


def curve_of_scores(importance: Importance) -> Curve:
    """Return the curve of a criterion that has none: the sum of the scores of all but the first 1, 2, ... filters.

    Example:
        >>> curve_of_scores(Importance(torch.tensor([1.0, 4.0, 3.0, 2.0]))).left
        (6.0, 3.0, 1.0, 0.0)
    """
    left = importance.scores[list(importance.order)].double().flip(0).cumsum(0).flip(0).tolist()
    return Curve((*left[1:], 0.0), whole=left[0])


def curve_of(importance: Importance) -> Curve:
    """Return the curve of an importance, as far as it is resolved.

    Raises:
        InputError: It has none.

    Example:
        >>> curve_of(Importance(torch.tensor([2.0, 1.0]), (0, 1), curve=(0.5, 0.0))).left
        (0.5, 0.0)
    """
    if importance.curve is None:
        raise InputError("this criterion gives no curve, so there is nothing for a cut-off rule to cut")
    whole, resolved = (importance.evidence.get(name) for name in ("whole", "saturated_at"))
    return Curve(
        tuple(importance.curve),
        None if whole is None else float(whole),
        None if resolved is None else int(resolved),
    )


def in_sequence(
    layers: Layers, orders: Orders, cutting: Cutting, state: State, *, progress: Progress = silent
) -> Outcome:
    """Order and cut every layer of a network.

    Args:
        layers: The network.
        orders: Where the orders come from.
        cutting: How layers are taken and cut.
        state: What is known already of this very run; every finished layer is noted there.
        progress: Called after every layer.

    Example:
        >>> from infoprune import zoo
        >>> from infoprune.network.coupled_groups import find_groups
        >>> from infoprune.network.execution_order import flow
        >>> net, images = zoo.build("digits").eval(), torch.rand(8, 1, 8, 8)
        >>> found, batches = find_groups(net, images), [(images, torch.arange(8))]
        >>> judge, maps = Judge(net, images, found, batches), LayerMaps(net, found.groups, batches)
        >>> layers = Layers(net, found.groups, flow(net, found.groups, images), maps, judge)
        >>> scores = Ready({group.name: Importance(torch.arange(group.filters).double()) for group in found.groups})
        >>> half = Cutting(lambda group, curve: [curve.filters // 2], LayerwiseOptions())
        >>> in_sequence(layers, scores, half, State(None, {})).decided["features.0"].cut.kept
        (8, 9, 10, 11, 12, 13, 14, 15)
    """
    names = [group.name for group in layers.groups]
    names = [name for name in layers.flow.order if name in names]
    if cutting.how.direction != "both":
        ordered = names if cutting.how.direction == "forward" else names[::-1]
        branch = _Branch(layers, orders, cutting, len(names), state, _LayerProgress(progress, len(names)))
        decided = branch.run(ordered)
        model = None if cutting.between is None else branch.layers.model
        return Outcome({name: decided[name] for name in names}, model)
    report = _LayerProgress(progress, 2 * len(names) - 1)
    alone = {
        name: _Branch(layers, orders, cutting, len(names), state, report, stage="alone").run([name])[name]
        for name in names
    }
    start = max(names, key=lambda name: (_lost(alone[name], layers.group(name)), -names.index(name)))
    at = names.index(start)
    begun = {start: alone[start]}
    forward = _Branch(layers, orders, cutting, len(names), state.part("forward"), report, begun, stage="forward")
    backward = _Branch(layers, orders, cutting, len(names), state.part("backward"), report, begun, stage="backward")
    if cutting.how.parallel:
        after, before = _in_two_processes((forward, names[at + 1 :]), (backward, names[:at][::-1]))
    else:
        after = forward.run(names[at + 1 :])
        if cutting.how.conditioning == "all":
            backward = replace(backward, also=after)
        before = backward.run(names[:at][::-1])
    decided = {**before, **begun, **after}
    return Outcome({name: decided[name] for name in names}, None, start)


def candidate_cuts(group: CoupledGroup, importance: Importance, counts: Iterable[int], limits: Limits) -> list[Cut]:
    """Return the kept filters for each count, fewest filters first: at least the count, as units and limits allow.

    Example:
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 2, 1))
        >>> group = find_groups(net, torch.rand(2, 1, 4, 4)).by_name()["0"]
        >>> found = candidate_cuts(group, Importance(torch.tensor([1.0, 4.0, 3.0, 2.0])), (1, 3), NO_LIMITS)
        >>> [cut.kept for cut in found]
        [(1,), (1, 2, 3)]
    """
    rungs = ladder(group, importance, limits)
    found: dict[int, Cut] = {}
    for count in counts:
        kept = fewest_from(group, rungs, count)
        found[len(kept)] = Cut(kept, f"{len(kept)} of {group.filters} filters stay")
    return [found[left] for left in sorted(found)]


@dataclass
class _LayerProgress:
    progress: Progress
    total: int
    done: int = 0

    def __call__(self) -> None:
        self.done += 1
        self.progress("ordering and cutting layers", self.done, self.total)


@dataclass
class _Branch:
    """Some layers one after the other, after those that were decided before."""

    layers: Layers
    orders: Orders
    cutting: Cutting
    total: int
    state: State
    report: Callable[[], None]
    begun: Mapping[str, Decided] = field(default_factory=dict)
    stage: str = "layer"
    also: Mapping[str, Decided] = field(default_factory=dict)
    held: dict[str, Tensor] = field(init=False, default_factory=dict)

    def run(self, names: Sequence[str]) -> dict[str, Decided]:
        """Decide these groups in turn; those that the state knows are taken from there."""
        found: dict[str, Decided] = {}
        kept = {name: decided.cut.kept for name, decided in self.begun.items()}
        base = self.layers.judge.base if names else 0.0
        for name in names:
            key = f"{self.stage}/{name}"
            noted = self.state.get(key)
            if noted is None:
                decided = self._decide(name, kept, base)
                self.state.put(key, _noted(decided))
            else:
                decided = _from_note(noted)
            found[name] = decided
            kept[name] = decided.cut.kept
            if self.cutting.between is not None:
                self._go_on(name, decided.cut.kept)
            elif self.cutting.how.conditioning != "none" and noted is None:
                self._kept_maps(name, decided.cut.kept)
            self._forget(list(kept))
            self.report()
        return found

    def _decide(self, name: str, kept: dict[str, tuple[int, ...]], base: float) -> Decided:
        layers, cutting = self.layers, self.cutting
        group = layers.group(name)
        others = {one: decided.cut.kept for one, decided in self.also.items()} | kept
        given = [self._kept_maps(one, others[one]) for one in self._conditions(name, list(others))]
        importance, curve = self.orders(group, layers.maps, given)
        counts = list(cutting.rule(group, curve))
        share = (len(kept) + 1) / self.total
        limited = cutting.how.tolerance is not None or cutting.how.class_tolerance is not None
        if limited or not counts:
            counts += [group.filters, *_without_dead(group, importance)]
        cuts = candidate_cuts(group, importance, counts, cutting.limits)
        before = {} if cutting.between is not None else kept

        def accuracy(cut: Cut) -> float:
            return layers.judge.accuracy({**before, name: cut.kept})

        def allowed(cut: Cut) -> bool:
            if cutting.how.tolerance is not None and accuracy(cut) < base - cutting.how.tolerance * share:
                return False
            most = cutting.how.class_tolerance
            return most is None or layers.judge.largest_class_loss({**before, name: cut.kept}) <= most * share

        chosen, accuracies = _choose(cuts, accuracy, allowed if limited else None)
        evidence = {
            **importance.evidence,
            "candidates": torch.tensor([len(cut.kept) for cut in cuts]),
            "candidate_accuracy": torch.tensor(accuracies, dtype=torch.float64),
            "cut": torch.tensor(len(chosen.kept)),
        }
        return Decided(
            replace(importance, evidence=evidence), replace(chosen, reason=_reason(chosen, cuts, accuracies))
        )

    def _forget(self, cut: Sequence[str]) -> None:
        """Let go of maps that nothing will be conditioned on any more."""
        if self.cutting.how.conditioning != "compact":
            return
        for name in list(self.held):
            if self.layers.flow.beside[name] <= set(cut):
                del self.held[name]

    def _conditions(self, name: str, cut: Sequence[str]) -> Sequence[str]:
        if self.cutting.how.conditioning == "none":
            return ()
        # In the iterative form a layer that was cut to one filter is no group of the network any more.
        there = {group.name for group in self.layers.groups}
        cut = [other for other in cut if other in there]
        if self.cutting.how.conditioning == "compact":
            return [other for other in cut if other in self.layers.flow.beside[name]][-1:]
        return cut

    def _kept_maps(self, name: str, kept: tuple[int, ...]) -> Tensor:
        if name not in self.held:
            maps = self.layers.maps.of(name)
            # In the iterative form what was cut is gone from the network.
            self.held[name] = maps if self.cutting.between is not None else maps[:, list(kept)].clone()
        return self.held[name]

    def _go_on(self, name: str, kept: tuple[int, ...]) -> None:
        """Take the cut and repaired network as the network from here on."""
        layers = self.layers
        assert self.cutting.between is not None
        if len(kept) == layers.group(name).filters:
            return
        model = self.cutting.between(layers.judge, {name: kept})
        judge = layers.judge
        groups = find_groups(model, judge.examples, check=False)
        by_name = groups.by_name()
        chosen = tuple(by_name[group.name] for group in layers.groups if group.name in by_name)
        maps = replace(layers.maps, model=model, groups=chosen)
        by_class = judge.class_base if self.cutting.how.class_tolerance is not None else None
        fresh = replace(judge, model=model, groups=groups, base_accuracy=judge.base, base_classes=by_class)
        self.held.clear()
        self.layers = replace(layers, model=model, groups=chosen, maps=maps, judge=fresh)


def _without_dead(group: CoupledGroup, importance: Importance) -> list[int]:
    dead = importance.evidence.get("dead")
    return [] if dead is None or not 0 < int(dead) < group.filters else [group.filters - int(dead)]


def _choose(
    cuts: list[Cut], accuracy: Callable[[Cut], float], allowed: Callable[[Cut], bool] | None
) -> tuple[Cut, list[float]]:
    """Return the fewest filters that are allowed, else the most accurate; and the accuracies that were needed.

    Few candidates are tried from the fewest filters up. Of many, the gap between one that fails and one that does not
    is halved, accuracy being taken to rise with the number of filters.
    """
    known: dict[int, float] = {}
    if len(cuts) == 1:
        return cuts[0], [float("nan")]

    def reaches(i: int) -> bool:
        known[i] = accuracy(cuts[i])
        return allowed is not None and allowed(cuts[i])

    if allowed is not None and len(cuts) > _FEW:
        chosen = bisect_left(range(len(cuts)), True, key=reaches)
    else:
        chosen = next((i for i in range(len(cuts)) if reaches(i)), len(cuts))
    if chosen == len(cuts):
        chosen = max(known, key=lambda i: (known[i], -i))
    return cuts[chosen], [known.get(i, float("nan")) for i in range(len(cuts))]


def _reason(chosen: Cut, cuts: Sequence[Cut], accuracies: Sequence[float]) -> str:
    tried = ", ".join(
        f"{len(cut.kept)}" if accuracy != accuracy else f"{len(cut.kept)}: {accuracy:.2f} %"
        for cut, accuracy in zip(cuts, accuracies, strict=True)
    )
    return f"{chosen.reason}: candidates on held-out images {tried}" if len(cuts) > 1 else chosen.reason


def _lost(decided: Decided, group: CoupledGroup) -> float:
    return 1 - len(decided.cut.kept) / group.filters


def _in_two_processes(*branches: tuple[_Branch, Sequence[str]]) -> list[dict[str, Decided]]:
    threads = max(1, torch.get_num_threads() // len(branches))
    report = branches[0][0].report
    found = side_by_side(_run, [(_alone(branch), names, threads) for branch, names in branches])
    for decided in found:
        for _ in decided:
            report()
    return found


def _run(branch: _Branch, names: Sequence[str], threads: int) -> dict[str, Decided]:
    torch.set_num_threads(threads)
    return branch.run(names)


def _alone(branch: _Branch) -> _Branch:
    """Return a branch that another process can be given: without a bar to draw and without maps that are held."""
    layers = replace(branch.layers, maps=replace(branch.layers.maps, progress=silent))
    return replace(branch, layers=layers, report=_nobody)


def _nobody() -> None:
    """Report nothing: a bar is drawn by the process that started this one."""


def _noted(decided: Decided) -> dict[str, Any]:
    importance = decided.importance
    return {
        "scores": to_json(importance.scores),
        "order": importance.order,
        "curve": importance.curve,
        "comparable": importance.comparable,
        "evidence": {name: to_json(tensor) for name, tensor in importance.evidence.items()},
        "kept": decided.cut.kept,
        "reason": decided.cut.reason,
    }


def _from_note(note: Mapping[str, Any]) -> Decided:
    importance = Importance(
        from_json(note["scores"]),
        tuple(note["order"]),
        None if note["curve"] is None else tuple(note["curve"]),
        {name: from_json(values) for name, values in note["evidence"].items()},
        note["comparable"],
    )
    return Decided(importance, Cut(tuple(note["kept"]), note["reason"]))
