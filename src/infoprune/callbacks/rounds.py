"""The rounds of a schedule inside a training loop of the user's own: cut before an epoch, measure after one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from infoprune import criteria
from infoprune.callbacks.optimizers import cut_optimizer, plain_optimizer, restore_optimizer
from infoprune.data.batches import Batches, example_of
from infoprune.data.given import as_batches
from infoprune.declarations.validation import validated
from infoprune.device import device_of
from infoprune.errors import InputError
from infoprune.iterative.iterate import OnRound
from infoprune.iterative.rounds import (
    figures_of_round,
    judged,
    plan_of_round,
    rehearse,
    rounds_left,
    scheduled_layers,
)
from infoprune.iterative.run_state import Round
from infoprune.iterative.schedule import PruningSchedule
from infoprune.measure.figures import check_runs
from infoprune.network.coupled_groups import find_groups
from infoprune.network.equivalence import duplicate
from infoprune.network.in_place import InPlace, cut_in_place
from infoprune.network.origin import carry_notes, note_cut
from infoprune.plan import Plan
from infoprune.progress import Progress, silent
from infoprune.repair import find as find_repair
from infoprune.repair import repaired
from infoprune.runs.resuming import as_noted

FORMAT = 1


@dataclass(frozen=True)
class RoundImages:
    """The images that decide and measure; the loop trains on its own.

    Args:
        calibration: Training images that score the filters, in any form that ``prune`` takes, iterable more than once.
        held_out: Labelled training images that are not trained on; needed for an accuracy floor.
        test: Labelled images that are measured after every round and choose nothing.

    Example:
        >>> RoundImages([torch.zeros(2, 1, 8, 8)]).test is None
        True
    """

    calibration: Any
    held_out: Any = None
    test: Any = None

    def __post_init__(self) -> None:
        for name in ("calibration", "held_out", "test"):
            given = getattr(self, name)
            object.__setattr__(self, name, None if given is None else as_batches(given))


@dataclass(frozen=True)
class _Written:
    """The state as JSON values, without tensors."""

    format: int
    schedule: dict[str, Any]
    rounds: tuple[Round, ...]
    plans: tuple[dict[str, Any], ...]
    ended: str


class PruningRounds:
    """Cuts a network in rounds while a loop trains it: :func:`infoprune.iterate` for loops of the user's own.

    Of the schedule's recipes only the numbers of epochs are read: ``initial`` before the first cut, ``retraining``
    after every cut, ``last`` after the last one. The loop decides about loss, optimizer and learning rate. The network
    is cut in place: its parameters stay the same objects, and optimizers that are passed keep their momentum.

    Args:
        network: The network that the loop trains; changed in place.
        schedule: What is removed in each round, and when.
        images: What scores the filters and measures the network.
        on_round: Called after every round with its figures and the number of the last round there will be at most.
        progress: Called while filters are scored.

    Raises:
        InputError: Nothing that the schedule names can lose filters, there is a floor without held-out images, a
            penalty or a teacher, which the loss of the loop would have to know, or the criterion refuses the network.

    Example:
        >>> from infoprune import zoo
        >>> from infoprune.iterative.schedule import LayerPace, Pace
        >>> from infoprune.training.recipe import Recipe
        >>> _ = torch.manual_seed(0)
        >>> network, images = zoo.build("digits"), torch.rand(16, 1, 8, 8)
        >>> schedule = PruningSchedule((LayerPace("features.0", Pace(plus=4), 8),), Recipe(epochs=1), criterion="l1")
        >>> rounds = PruningRounds(network, schedule, RoundImages(images))
        >>> optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        >>> for epoch in range(rounds.epochs):
        ...     rounds.before_epoch(epoch, optimizer)
        ...     network(images).square().mean().backward()
        ...     optimizer.step()
        ...     rounds.after_epoch(epoch, optimizer)
        >>> network.features[0].out_channels, rounds.ended
        (8, 'every layer is at its limit')
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: PruningSchedule,
        images: RoundImages,
        *,
        on_round: OnRound | None = None,
        progress: Progress = silent,
    ) -> None:
        self.network = network
        self.schedule = schedule
        self.images = images
        self.on_round = on_round
        self.progress = progress
        self.rounds: list[Round] = []
        self.plans: list[Plan] = []
        self.ended = ""
        self._changes: list[InPlace] = []
        self._before: dict[str, Tensor] = {}
        # Notes of the network as it came; those of a cut are made from them.
        self._notes = carry_notes(nn.Module(), network)
        with _apart(network):
            self._begin()

    def _begin(self) -> None:
        calibration: Batches = self.images.calibration
        _check_schedule(self.schedule, self.images)
        self.example = example_of(calibration, self.network)
        check_runs(self.network, self.example)
        groups = find_groups(self.network, self.example)
        self.layers = scheduled_layers(groups, self.schedule)
        self._first = {name: layer.first for name, layer in self.layers.items()}
        rehearse(self.network, groups, self.layers, self.schedule, calibration)
        most = rounds_left(self.layers, self._first)
        self.last_round = min(self.schedule.rounds or most, most)
        initial = 0 if self.schedule.initial is None else self.schedule.initial.epochs
        self._ends = [initial]
        for number in range(1, self.last_round + 1):
            recipe = self.schedule.recipe(number, is_last=number == self.last_round)
            self._ends.append(self._ends[-1] + recipe.epochs)

    @property
    def epochs(self) -> int:
        """How many epochs the whole schedule takes."""
        return self._ends[-1]

    @property
    def cuts(self) -> tuple[int, ...]:
        """Before which epochs, counted from 0, the network is cut."""
        return tuple(self._ends[:-1])

    @property
    def undone(self) -> bool:
        """Whether the last round fell below the floor and was undone: the training should end with it."""
        return bool(self.rounds) and not self.rounds[-1].stands

    @property
    def plan(self) -> Plan:
        """Which filters the network has kept, in the indices of the network as it came."""
        whole = Plan({})
        for one in self._standing():
            whole = whole.then(one)
        shape = {"input_shape": list(self.example.shape[1:])}
        return replace(whole, settings={"schedule": as_noted(self.schedule.to_dict()), **shape})

    def begins_with(self, number: int) -> bool:
        """Return whether there is something to do before this epoch: to cut, or to measure where that is missing."""
        return not self.ended and number >= self._ends[len(self.plans)]

    def ends_with(self, number: int) -> bool:
        """Return whether a round ends with this epoch."""
        is_open = len(self.plans) == len(self.rounds)
        return not self.ended and is_open and number + 1 >= self._ends[len(self.plans)]

    def before_epoch(self, number: int, *optimizers: Any) -> None:
        """Cut the network, where the schedule says so, and the state of the optimizers with it.

        Args:
            number: Of the epoch that begins, from 0.
            optimizers: All that train parameters of the network.

        Raises:
            InputError: Epochs are missing before this one, or an optimizer keeps a state that cannot be cut.
        """
        for one in optimizers:
            plain_optimizer(one)
        while not self.ended:
            if number < self._ends[len(self.plans)]:
                return
            if len(self.plans) == len(self.rounds):
                self._finish(*optimizers)
            elif number == self._ends[len(self.plans)]:
                self._cut(*optimizers)
            else:
                raise InputError(
                    f"round {len(self.rounds)} begins with epoch {self._ends[len(self.plans)]}, counted from 0, and "
                    f"epoch {number} begins: call before_epoch before every epoch, and load_state_dict to resume"
                )

    def after_epoch(self, number: int, *optimizers: Any) -> None:
        """Measure the network, where a round ends with this epoch, and undo the round if it is below the floor.

        Args:
            number: Of the epoch that ends, from 0.
            optimizers: As for ``before_epoch``.
        """
        if self.ends_with(number):
            self._finish(*optimizers)

    def record(self) -> dict[str, Any]:
        """Return the record as JSON values, as that of ``iterate``."""
        kept = {layer: list(kept) for layer, kept in self.plan.kept.items()}
        return {"rounds": [asdict(one) for one in self.rounds], "ended": self.ended, "plan": kept}

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to resume: JSON values, and under ``"before"`` the tensors for a floor."""
        written = {
            "format": FORMAT,
            "schedule": as_noted(self.schedule.to_dict()),
            "rounds": as_noted({"rounds": [asdict(one) for one in self.rounds]})["rounds"],
            "plans": [one.to_dict() for one in self.plans],
            "ended": self.ended,
        }
        return {**written, "before": dict(self._before)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give the network the layers that it had when a state was written; its weights are loaded afterwards.

        Call it before optimizers are made, since those read the sizes of the parameters.

        Args:
            state: What ``state_dict`` returned, for the same network and schedule.

        Raises:
            InputError: It is another state, or one of another schedule or network.

        Example:
            >>> from infoprune import zoo
            >>> from infoprune.iterative.schedule import LayerPace, Pace
            >>> from infoprune.training.recipe import Recipe
            >>> layers = (LayerPace("features.0", Pace(plus=4), 8),)
            >>> schedule = PruningSchedule(layers, Recipe(epochs=1), criterion="l1")
            >>> images = RoundImages(torch.rand(16, 1, 8, 8))
            >>> rounds = PruningRounds(zoo.build("digits"), schedule, images)
            >>> rounds.before_epoch(0)
            >>> other = zoo.build("digits")
            >>> PruningRounds(other, schedule, images).load_state_dict(rounds.state_dict())
            >>> _ = other.load_state_dict(rounds.network.state_dict())
        """
        values = {name: value for name, value in state.items() if name != "before"}
        if values.get("format") != FORMAT:
            raise InputError("this is no state of a pruning in rounds that this version can resume from")
        found = validated(_Written, values, "the state of the pruning")
        if found.schedule != as_noted(self.schedule.to_dict()):
            raise InputError("the state is of a pruning by another schedule: pass the same schedule to resume")
        for change in reversed(self._changes):
            change.undo()
        self.rounds, self.ended = list(found.rounds), found.ended
        self.plans = [Plan.from_dict(one) for one in found.plans]
        self._before = dict(state.get("before", {}))
        standing, self._changes = self._standing(), []
        whole = Plan({})
        for one in standing[:-1]:
            whole = whole.then(one)
        with _apart(self.network):
            # The last cut apart, so that it can be undone.
            for plan in (whole, *standing[-1:]):
                if plan.decisions:
                    self._changes.append(cut_in_place(plan, self.network, self.example, check=False))
        note_cut(self.network, self._notes, self.plan)

    def _standing(self) -> list[Plan]:
        return self.plans[:-1] if self.undone else self.plans

    def _widths(self) -> dict[str, int]:
        widths = dict(self._first)
        for plan in self.plans:
            widths |= {name: len(kept) for name, kept in plan.kept.items()}
        return widths

    def _cut(self, *optimizers: Any) -> None:
        network, number, batches = self.network, len(self.plans) + 1, self.images.calibration
        with _apart(network):
            groups = find_groups(network, self.example, check=False)
            plan = plan_of_round(network, groups, self.layers, self.schedule, batches, number, self.progress)
            original = None if self.schedule.repair is None else duplicate(network)
            if self.schedule.floor is not None:
                self._before = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
            change = cut_in_place(plan, network, self.example, groups=groups)
            for one in optimizers:
                cut_optimizer(one, change)
            if original is not None and self.schedule.repair is not None:
                how = self.schedule.repair
                better = repaired(network, original, batches, plan, groups, how=how, progress=self.progress)
                network.load_state_dict(better.state_dict())
        self._changes.append(change)
        self.plans.append(plan)
        note_cut(network, self._notes, self.plan)

    def _finish(self, *optimizers: Any) -> None:
        number, images = len(self.plans), self.images
        epochs = self._ends[number] - (self._ends[number - 1] if number else 0)
        with _apart(self.network):
            one = figures_of_round(
                self.network, self.example, number, self._widths(), images.calibration, images.held_out, images.test,
                epochs=epochs,
            )  # fmt: skip
        if number:
            one, self.ended = judged(one, self.schedule, self.layers)
        self.rounds.append(one)
        if not one.stands:
            change = self._changes.pop()
            change.undo()
            self.network.load_state_dict(self._before)
            for optimizer in optimizers:
                restore_optimizer(optimizer, change)
            note_cut(self.network, self._notes, self.plan)
        if self.on_round is not None:
            self.on_round(one, number if self.ended else self.last_round)


class Following:
    """What the callbacks of Trainers report: nothing until the training begins, then what their rounds do.

    Example:
        >>> Following().rounds, Following().plan.kept, Following().ended
        ((), {}, '')
    """

    _work: PruningRounds | None = None

    @property
    def rounds(self) -> tuple[Round, ...]:
        """Figures of every round so far; round 0 is before the first cut."""
        return () if self._work is None else tuple(self._work.rounds)

    @property
    def plan(self) -> Plan:
        """Which filters the network has kept, in the indices of the network before the first cut."""
        return Plan({}) if self._work is None else self._work.plan

    @property
    def ended(self) -> str:
        """Why the pruning ended, in words; empty while it goes on."""
        return "" if self._work is None else self._work.ended


def _check_schedule(schedule: PruningSchedule, images: RoundImages) -> None:
    if schedule.floor is not None and images.held_out is None:
        raise InputError("an accuracy floor needs held-out images: give some that are not trained on")
    if schedule.penalty is not None:
        raise InputError("a penalty belongs to the loss, which this loop computes: use infoprune.iterate for it")
    recipes = [one for one in (schedule.initial, schedule.retraining, schedule.last) if one is not None]
    if any(one.distillation or one.attention for one in recipes):
        raise InputError(
            "a teacher belongs to the loss, which this loop computes: leave out distillation and attention"
        )
    if schedule.repair is not None:
        find_repair(schedule.repair)
    criteria.resolve(schedule.criterion)


@contextmanager
def _apart(network: nn.Module) -> Iterator[None]:
    """Leave the random numbers of the loop as they are, so that a cut does not change what it draws."""
    device = device_of(network)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
        yield
