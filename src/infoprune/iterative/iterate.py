"""Pruning in rounds: score, cut, retrain, again and again. Filters are really removed, so every round is cheaper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader

from infoprune import criteria
from infoprune.criteria.base import Importance
from infoprune.criteria.scoring import score
from infoprune.cutoff import Limits
from infoprune.cutoff.ranking import kept_after, ladder
from infoprune.data.augmentation import Augmentation
from infoprune.data.batches import Batches, example_of
from infoprune.errors import InputError, unknown
from infoprune.iterative.run_state import Round, Rounds
from infoprune.iterative.schedule import LayerPace, PruningSchedule
from infoprune.measure.accuracy import accuracy_of
from infoprune.measure.figures import check_runs, dead_filters
from infoprune.measure.information_plane import InformationPlane
from infoprune.measure.record import Stopwatch
from infoprune.network import cost, surgery
from infoprune.network.coupled_groups import CoupledGroup, Groups, find_groups
from infoprune.network.layers import is_convolution
from infoprune.network.origin import note_cut
from infoprune.plan import LayerDecision, Plan
from infoprune.progress import Progress, silent
from infoprune.repair import find as find_repair
from infoprune.repair import repaired
from infoprune.training.penalties import Parting, make_penalty
from infoprune.training.recipe import Epoch, Recipe
from infoprune.training.train import Training, check_sizes, conditions_of, make_fabric, train

OnRound = Callable[[Round, int], None]


@dataclass(frozen=True)
class Images:
    """The images of a pruning in rounds.

    Args:
        train: ``(images, labels)`` training batches.
        calibration: Training images that score the filters, iterable more than once.
        held_out: Training images, in neither of the others, that choose the epoch to keep and decide on the floor.
        test: Measured on after every round. They choose nothing.
        augmentation: Changes a training batch at random, where the schedule wants that.

    Example:
        >>> from infoprune import data
        >>> digits = data.open_source("digits").train
        >>> batches = data.loader(digits, data.Preprocessing((0.0,), (1.0,)))
        >>> Images(train=batches, calibration=batches).held_out is None
        True
    """

    train: DataLoader[Any]
    calibration: Batches
    held_out: Batches | None = None
    test: Batches | None = None
    augmentation: Augmentation | None = None


@dataclass(frozen=True)
class Iterated:
    """A network pruned in rounds, and the way there.

    Args:
        model: The smaller network.
        original: The network before the first cut, after its initial training.
        plan: The kept filters, in the indices of the original.
        rounds: Figures of every round; round 0 is the original.
        ended: Why it ended, in words.

    Example:
        >>> from infoprune import data, zoo
        >>> from infoprune.iterative.schedule import LayerPace, Pace
        >>> from infoprune.training.recipe import Recipe
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> few = data.open_source("digits").train.subset(torch.arange(64))
        >>> batches = data.loader(few, data.Preprocessing((0.0,), (1.0,)))
        >>> retraining = Recipe(epochs=1, precision="32-true")
        >>> layers = (LayerPace("features.0", Pace(plus=4), 8),)
        >>> schedule = PruningSchedule(layers, retraining, criterion="l1", rounds=1)
        >>> found = iterate(zoo.build("digits"), Images(batches, batches), schedule)
        >>> found.ended, sorted(found.record())[0]
        ('all rounds are done', 'ended')
    """

    model: nn.Module
    original: nn.Module
    plan: Plan
    rounds: tuple[Round, ...]
    ended: str

    def record(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {
            "rounds": [asdict(one) for one in self.rounds],
            "ended": self.ended,
            "plan": {layer: list(kept) for layer, kept in self.plan.kept.items()},
        }


def iterate(
    model: nn.Module,
    images: Images,
    schedule: PruningSchedule,
    *,
    folder: Path | None = None,
    fabric: Fabric | None = None,
    plane: InformationPlane | None = None,
    progress: Progress = silent,
    on_round: OnRound | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Iterated:
    """Train, then score, cut and retrain in rounds, until every layer is at its limit or the accuracy floor is hit.

    Args:
        model: The network; left as it is.
        images: What trains, scores, chooses and measures.
        schedule: What is removed in each round, and how the network is retrained.
        folder: Where all that is needed to go on is kept; where it holds an interrupted run of the same schedule and
            network, that goes on and ends with the same network as one that was never interrupted.
        fabric: Devices and precision of the training; by default one device and the precision of the recipe.
        plane: Notes what every layer knows, at the steps of every training.
        progress: Called while filters are scored and the network is trained.
        on_round: Called after every round with its figures and the number of the last round there will be at most.
        on_epoch: Called after every epoch.

    Raises:
        InputError: Nothing that the schedule names can lose filters, there is a floor without held-out images, there
            is no such criterion, option or repair, the folder belongs to another run, or training diverges. All but
            the last is found before anything is trained or written.

    Example:
        >>> from infoprune import data, zoo
        >>> from infoprune.iterative.schedule import LayerPace, Pace
        >>> from infoprune.training.recipe import Recipe
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> few = data.open_source("digits").train.subset(torch.arange(64))
        >>> batches = data.loader(few, data.Preprocessing((0.0,), (1.0,)))
        >>> retraining = Recipe(epochs=1, precision="32-true")
        >>> layers = (LayerPace("features.0", Pace(plus=4), 8),)
        >>> schedule = PruningSchedule(layers, retraining, criterion="l1", rounds=1)
        >>> found = iterate(zoo.build("digits"), Images(batches, batches), schedule)
        >>> found.model.features[0].out_channels, len(found.rounds)
        (12, 2)
    """
    example = example_of(images.calibration, model)
    check_runs(model, example)
    if schedule.floor is not None and images.held_out is None:
        raise InputError("an accuracy floor needs held-out images: give some that are not trained on")
    if schedule.repair is not None:
        find_repair(schedule.repair)
    groups = find_groups(model, example)
    layers = scheduled_layers(groups, schedule)
    criteria.resolve(schedule.criterion)
    for recipe in (schedule.initial, schedule.retraining, schedule.last):
        check_sizes(model, images.train, recipe)
    fabric = fabric or make_fabric(precision=schedule.retraining.precision)
    conditions = conditions_of(model, images.train, images.held_out, fabric=fabric)
    state = Rounds(model, schedule, folder, plane, writes=fabric.is_global_zero, conditions=conditions)
    work = _Work(state, images, schedule, layers, example, fabric, progress, on_epoch)
    if not state.rounds:
        work.rehearse(groups)
        work.begin()
        _tell(on_round, work)
    while not state.ended:
        work.next_round()
        _tell(on_round, work)
    last = state.standing.number
    plan = replace(state.plan(last), settings={"schedule": state.settings, "input_shape": list(example.shape[1:])})
    smaller = note_cut(state.network(last, example), model, plan)
    return Iterated(smaller, state.network(0, example), plan, tuple(state.rounds), state.ended)


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


def _parting(model: nn.Module, groups: Groups, plan: Plan, kept_in_the_end: Mapping[str, int]) -> Parting:
    """Return which outputs of the layers a plan removes, and which have the largest L1 norms."""
    removed: dict[str, tuple[int, ...]] = {}
    important: dict[str, tuple[int, ...]] = {}
    chosen = [group for group in groups.groups if group.name in plan.decisions]
    norms = score(model, chosen, None, criteria.find("l1"))
    for group in chosen:
        largest = norms[group.name].order[: kept_in_the_end[group.name]]
        for member in group.members:
            if member.side == "out" and member.layer in group.producers:
                gone = plan.decisions[group.name].removed
                removed[member.layer] = tuple(channel for one in gone for channel in member.channels[one])
                important[member.layer] = tuple(channel for one in largest for channel in member.channels[one])
    return Parting(removed, important)


def _tell(on_round: OnRound | None, work: _Work) -> None:
    if on_round is not None:
        on_round(work.state.rounds[-1], work.last_round())


@dataclass
class _Work:
    """What one round after the other is done with."""

    state: Rounds
    images: Images
    schedule: PruningSchedule
    layers: Mapping[str, ScheduledLayer]
    example: Tensor
    fabric: Fabric
    progress: Progress
    on_epoch: Callable[[Epoch], None] | None
    watch: Stopwatch = field(default_factory=Stopwatch)

    def rehearse(self, found: Groups) -> None:
        """Score the smallest layer once, so that what a criterion refuses is refused before the first training.

        Raises:
            InputError: The criterion refuses an option, the images or the network.
        """
        smallest = min((one for one in found.groups if one.name in self.layers), key=lambda one: one.filters)
        self._scored(self.state.model, [smallest], 0)

    def begin(self) -> None:
        """Train the first network, where the schedule says so, and measure it."""
        network, training = self.state.model, None
        if self.schedule.initial is not None:
            training = self._train(network, 0, self.schedule.initial)
            network = training.model
        widths = {name: layer.first for name, layer in self.layers.items()}
        self.state.finish(self._measured(network, 0, widths, training), network)

    def next_round(self) -> None:
        """Cut and retrain once more, and find out whether it was the last time."""
        number = self.state.rounds[-1].number + 1
        before = self.state.network(number - 1, self.example)
        with self.watch.stage("score"):
            groups = find_groups(before, self.example, check=False)
            if self.state.pending is None:
                self.state.note_plan(self._plan(before, groups, number))
        plan = self.state.pending or Plan({})
        before = self._prepared(before, groups, plan, number)
        with self.watch.stage("cut"):
            cut = surgery.apply(plan, before, self.example, groups=groups)
        if (method := self.schedule.repair) is not None:
            with self.watch.stage("repair"):
                batches = self.images.calibration
                cut = repaired(cut, before, batches, plan, groups, how=method, progress=self.progress)
        widths = dict(self.state.rounds[-1].filters)
        widths |= {name: len(one.kept) for name, one in plan.decisions.items()}
        over = number == self.schedule.rounds or not self._rounds_left(widths)
        training = self._train(cut, number, self.schedule.recipe(number, is_last=over))
        measured = self._measured(training.model, number, widths, training)
        self.state.finish(*self._judged(measured, training.model, over))

    def _prepared(self, network: nn.Module, groups: Groups, plan: Plan, number: int) -> nn.Module:
        """Return the network trained with the schedule's penalty on the filters that the plan removes."""
        if self.schedule.before is None or self.schedule.penalty is None:
            return network
        important = {name: layer.pace.least(layer.first) for name, layer in self.layers.items()}
        penalty = make_penalty(
            self.schedule.penalty, _parting(network, groups, plan, important), self.schedule.penalty_options
        )
        recipe = replace(self.schedule.before, seed=1009 * self.schedule.before.seed + number)
        augmentation = self.images.augmentation if self.schedule.augmentation else None
        with self.watch.stage("train"):
            # Without held-out images, so that the last weights are taken: the penalty is not to be chosen away.
            return train(
                network, self.images.train, None, recipe, augmentation=augmentation, penalty=penalty,
                fabric=self.fabric, progress=self.progress, on_epoch=self.on_epoch,
            ).model  # fmt: skip

    def last_round(self) -> int:
        """Return the number of the last round that there will be at most."""
        last = self.state.rounds[-1]
        most = last.number if self.state.ended else last.number + self._rounds_left(last.filters)
        return min(most, self.schedule.rounds or most)

    def _judged(self, one: Round, network: nn.Module, over: bool) -> tuple[Round, nn.Module, str]:
        floor = self.schedule.floor
        if floor is not None and one.held_out is not None and one.held_out < floor:
            ended = f"round {one.number} fell below {floor:g} % on held-out images and was undone"
            return replace(one, stands=False), network, ended
        at_limits = not self._rounds_left(one.filters)
        return one, network, "" if not over else "every layer is at its limit" if at_limits else "all rounds are done"

    def _rounds_left(self, widths: Mapping[str, int]) -> int:
        return max(layer.rounds(widths[name]) for name, layer in self.layers.items())

    def _plan(self, model: nn.Module, found: Groups, number: int) -> Plan:
        groups = [
            group
            for group in found.groups
            if group.name in self.layers and self.layers[group.name].left(group.filters) < group.filters
        ]
        importances = self._scored(model, groups, number)
        return Plan({group.name: self._decision(group, importances[group.name], number) for group in groups})

    def _scored(self, model: nn.Module, groups: Sequence[CoupledGroup], number: int) -> dict[str, Importance]:
        return score(
            model,
            groups,
            self.images.calibration,
            criteria.resolve(self.schedule.criterion),
            tap=self.schedule.tap,
            seed=self.schedule.seed + number,
            options=self.schedule.options,
            progress=self.progress,
        )

    def _decision(self, group: CoupledGroup, importance: Importance, number: int) -> LayerDecision:
        layer = self.layers[group.name]
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

    def _train(self, network: nn.Module, number: int, recipe: Recipe) -> Training:
        plane = self.state.plane
        if plane is not None:
            plane.round = number
        teacher = self.state.network(0, self.example) if recipe.distillation and number else None
        with self.watch.stage("train"):
            return train(
                network,
                self.images.train,
                self.images.held_out,
                recipe,
                teacher=teacher,
                augmentation=self.images.augmentation if self.schedule.augmentation else None,
                fabric=self.fabric,
                resume=self.state.training(number),
                progress=self.progress,
                on_epoch=self.on_epoch,
                on_step=None if plane is None else self._note_plane,
            )

    def _note_plane(self, model: nn.Module, images: Tensor, labels: Tensor, step: int) -> None:
        assert self.state.plane is not None
        self.state.plane(model, images, labels, step)
        # Before the state of the epoch is written, so that a kill in between repeats both.
        if (step + 1) % len(self.images.train) == 0:
            self.state.write_plane()

    def _measured(self, model: nn.Module, number: int, widths: Mapping[str, int], training: Training | None) -> Round:
        with self.watch.stage("measure"):
            held_out = None if self.images.held_out is None else accuracy_of(model, self.images.held_out)
            test = None if self.images.test is None else accuracy_of(model, self.images.test)
            groups = [one for one in find_groups(model, self.example, check=False).groups if one.name in self.layers]
            dead = dead_filters(model, self.images.calibration, groups)
        modules = dict(model.named_modules())
        by_layer = cost.macs_by_layer(model, self.example)
        one = Round(
            number,
            widths,
            macs=sum(by_layer.values()),
            convolution_macs=sum(macs for name, macs in by_layer.items() if is_convolution(modules[name])),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            dead=sum(map(len, dead.values())),
            held_out=held_out,
            test=test,
            epochs=0 if training is None else len(training.epochs),
            best_epoch=None if training is None else training.best,
            seconds=dict(self.watch.seconds),
        )
        self.watch.seconds.clear()
        return one
