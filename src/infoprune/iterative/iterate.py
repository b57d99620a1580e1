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
from infoprune.criteria.scoring import score
from infoprune.data.augmentation import Augmentation
from infoprune.data.batches import Batches, example_of
from infoprune.errors import InputError
from infoprune.iterative.rounds import (
    ScheduledLayer,
    figures_of_round,
    judged,
    plan_of_round,
    rehearse,
    rounds_left,
    scheduled_layers,
)
from infoprune.iterative.run_state import Round, Rounds
from infoprune.iterative.schedule import PruningSchedule
from infoprune.measure.figures import check_runs
from infoprune.measure.information_plane import InformationPlane
from infoprune.measure.loggers import Later, MetricsLogger, note
from infoprune.measure.record import Stopwatch
from infoprune.network import surgery
from infoprune.network.coupled_groups import Groups, find_groups
from infoprune.network.origin import note_cut
from infoprune.plan import Plan
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
    loggers: Sequence[MetricsLogger] | None = None,
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
        loggers: Take the figures of every epoch and every round, at the number of epochs done in all rounds; see
            ``train``.

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
    work = _Work(state, images, schedule, layers, example, fabric, progress, on_epoch, _loggers(loggers, fabric))
    if not state.rounds:
        rehearse(state.model, groups, layers, schedule, images.calibration, progress)
        work.begin()
        _tell(on_round, work)
    while not state.ended:
        work.next_round()
        _tell(on_round, work)
    last = state.standing.number
    plan = replace(state.plan(last), settings={"schedule": state.settings, "input_shape": list(example.shape[1:])})
    smaller = note_cut(state.network(last, example), model, plan)
    return Iterated(smaller, state.network(0, example), plan, tuple(state.rounds), state.ended)


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
                removed[member.layer] = tuple(member.channels_of(gone))
                important[member.layer] = tuple(member.channels_of(largest))
    return Parting(removed, important)


def _loggers(loggers: Sequence[MetricsLogger] | None, fabric: Fabric) -> Sequence[MetricsLogger]:
    if not fabric.is_global_zero:
        return ()
    return fabric.loggers if loggers is None else loggers


def _tell(on_round: OnRound | None, work: _Work) -> None:
    note(work.loggers, work.state.rounds[-1].metrics(), work.epochs())
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
    loggers: Sequence[MetricsLogger]
    watch: Stopwatch = field(default_factory=Stopwatch)

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
        over = number == self.schedule.rounds or not rounds_left(self.layers, widths)
        training = self._train(cut, number, self.schedule.recipe(number, is_last=over))
        measured = self._measured(training.model, number, widths, training)
        one, ended = judged(measured, self.schedule, self.layers)
        self.state.finish(one, training.model, ended)

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
                fabric=self.fabric, progress=self.progress, on_epoch=self.on_epoch, loggers=(),
            ).model  # fmt: skip

    def epochs(self) -> int:
        """Return how many epochs the rounds so far were trained for."""
        return sum(one.epochs for one in self.state.rounds)

    def last_round(self) -> int:
        """Return the number of the last round that there will be at most."""
        last = self.state.rounds[-1]
        most = last.number if self.state.ended else last.number + rounds_left(self.layers, last.filters)
        return min(most, self.schedule.rounds or most)

    def _plan(self, model: nn.Module, found: Groups, number: int) -> Plan:
        return plan_of_round(model, found, self.layers, self.schedule, self.images.calibration, number, self.progress)

    def _train(self, network: nn.Module, number: int, recipe: Recipe) -> Training:
        plane = self.state.plane
        if plane is not None:
            plane.round = number
        taught = bool(number) and bool(recipe.distillation or recipe.attention)
        teacher = self.state.network(0, self.example) if taught else None
        recipe = recipe if taught else replace(recipe, attention=0.0)
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
                loggers=[Later(one, self.epochs()) for one in self.loggers],
            )

    def _note_plane(self, model: nn.Module, images: Tensor, labels: Tensor, step: int) -> None:
        assert self.state.plane is not None
        self.state.plane(model, images, labels, step)
        # Before the state of the epoch is written, so that a kill in between repeats both.
        if (step + 1) % len(self.images.train) == 0:
            self.state.write_plane()

    def _measured(self, model: nn.Module, number: int, widths: Mapping[str, int], training: Training | None) -> Round:
        with self.watch.stage("measure"):
            one = figures_of_round(
                model,
                self.example,
                number,
                widths,
                self.images.calibration,
                self.images.held_out,
                self.images.test,
                epochs=0 if training is None else len(training.epochs),
                best_epoch=None if training is None else training.best,
            )
        one = replace(one, seconds=dict(self.watch.seconds))
        self.watch.seconds.clear()
        return one
