"""What is known of a pruning in rounds at any moment, and kept in a folder, so that it can go on after a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from infoprune.declarations.validation import read_object, validated
from infoprune.errors import InputError
from infoprune.files import written_whole
from infoprune.iterative.schedule import PruningSchedule
from infoprune.measure.information_plane import InformationPlane, read_points, write_points
from infoprune.network import surgery
from infoprune.network.fingerprint import fingerprint
from infoprune.plan import Plan
from infoprune.runs.resuming import as_noted, check_same_run

STATE, PLANE = "state.json", "plane.csv"
FORMAT = 2


@dataclass(frozen=True)
class Round:
    """Figures of one round.

    Args:
        number: 0 is the network before the first cut.
        filters: How many filters each layer has that the schedule names.
        macs: Multiply-adds of convolution and linear layers for one image.
        convolution_macs: Of convolutions alone.
        parameters: Number of parameters.
        dead: Filters of these layers whose maps are constant over all calibration images: training can kill the last
            few of a layer.
        held_out: Accuracy on held-out training images, percent, which chose the epoch; ``None`` without any.
        test: Accuracy on test images, percent, which chose nothing.
        epochs: Epochs it was trained for.
        best_epoch: The one whose weights were kept; ``None`` without training.
        seconds: Wall time by stage, without what was done before an interruption.
        stands: Whether the round was kept; the one that falls below the accuracy floor is not.

    Example:
        >>> Round(0, {"conv1": 16}, macs=200, convolution_macs=150, parameters=30).stands
        True
    """

    number: int
    filters: Mapping[str, int]
    macs: int
    convolution_macs: int
    parameters: int
    dead: int = 0
    held_out: float | None = None
    test: float | None = None
    epochs: int = 0
    best_epoch: int | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    stands: bool = True

    def metrics(self) -> dict[str, float]:
        """Return the figures that a logger shows, by name.

        Example:
            >>> sorted(Round(0, {"conv1": 16}, macs=200, convolution_macs=150, parameters=30).metrics())
            ['pruning/dead_filters', 'pruning/filters', 'pruning/macs', 'pruning/parameters', 'pruning/round']
        """
        found = {
            "round": self.number,
            "macs": self.macs,
            "parameters": self.parameters,
            "filters": sum(self.filters.values()),
            "dead_filters": self.dead,
            "held_out_accuracy": self.held_out,
            "test_accuracy": self.test,
        }
        return {f"pruning/{name}": float(value) for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class _Written:
    """The state as it is written in JSON."""

    format: int
    run: dict[str, Any]
    rounds: tuple[Round, ...]
    plans: tuple[dict[str, Any], ...]
    pending: dict[str, Any] | None
    ended: str


class Rounds:
    """The rounds done, the plan of the round under way, and the networks to go on from.

    After every step a folder holds either the state before it or the one after it, never anything between.

    Args:
        model: The network before any training.
        schedule: What decides the rounds.
        folder: Where the state is kept; ``None`` for nowhere.
        plane: Its points are kept too.
        writes: Whether this process is the one that writes.
        conditions: What the result follows from besides network and schedule, by name, as JSON values.

    Raises:
        InputError: The folder holds the state of another run, or cannot be read.

    Example:
        >>> from infoprune import zoo
        >>> from infoprune.iterative.schedule import LayerPace, Pace
        >>> from infoprune.training.recipe import Recipe
        >>> schedule = PruningSchedule((LayerPace("features.0", Pace(plus=4), 8),), Recipe(epochs=1))
        >>> Rounds(zoo.build("digits"), schedule).rounds
        []
    """

    def __init__(
        self,
        model: nn.Module,
        schedule: PruningSchedule,
        folder: Path | None = None,
        plane: InformationPlane | None = None,
        *,
        writes: bool = True,
        conditions: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.folder = folder
        self.plane = plane
        self.writes = writes and folder is not None
        self.settings = as_noted(schedule.to_dict())
        weights = {"set of weights to start from": fingerprint(model.state_dict())}
        self.run = as_noted({**self.settings, **(conditions or {}), **weights})
        self.rounds: list[Round] = []
        self.plans: list[Plan] = []
        self.pending: Plan | None = None
        self.ended = ""
        self._networks: dict[int, nn.Module] = {}
        if folder is not None and (folder / STATE).is_file():
            self._read(folder)

    @property
    def standing(self) -> Round:
        """The last round that was kept."""
        return next(one for one in reversed(self.rounds) if one.stands)

    def plan(self, number: int) -> Plan:
        """Return all cuts up to that round as one plan, in the indices of the first network."""
        whole = Plan({})
        for one in self.plans[:number]:
            whole = whole.then(one)
        return whole

    def network(self, number: int, example: Tensor) -> nn.Module:
        """Return the network after that round, on the device and in the mode of the first one."""
        if number not in self._networks:
            assert self.folder is not None  # otherwise nothing is ever read
            network = surgery.apply(self.plan(number), self.model, example, check=False)
            network.load_state_dict(_tensors(self._weights(number)))
            self._networks[number] = network
        return self._networks[number]

    def training(self, number: int) -> Path | None:
        """Return the file in which the training of that round keeps its state."""
        return None if self.folder is None else self.folder / f"training-{number}.safetensors"

    def note_plan(self, plan: Plan) -> None:
        """Take note of the cut of the round that begins."""
        self.pending = plan
        self._write()

    def finish(self, one: Round, network: nn.Module, ended: str = "") -> None:
        """Take note of a round that is done, the first one of which had no plan, and of the end if it is one."""
        if self.writes:
            tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
            with written_whole(self._weights(one.number), force=True) as temporary:
                save_file(tensors, temporary)
        self.rounds.append(one)
        self.plans += [] if self.pending is None else [self.pending]
        self.pending, self.ended = None, ended
        self._networks[one.number] = network
        self._write()
        self._forget()

    def write_plane(self) -> None:
        """Write the points noted so far."""
        if self.plane is not None and self.writes and self.folder is not None:
            write_points(self.plane.points, self.folder / PLANE, force=True)

    def _forget(self) -> None:
        """Let go of networks that nobody will ask for: all but the first, the last that stands and the newest."""
        needed = {0, self.standing.number}
        self._networks = {number: network for number, network in self._networks.items() if number in needed}
        for number in range(len(self.rounds)) if self.writes else ():
            training = self.training(number)
            assert training is not None
            training.unlink(missing_ok=True)
            if number not in needed:
                self._weights(number).unlink(missing_ok=True)

    def _weights(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"round-{number}.safetensors"

    def _write(self) -> None:
        if not self.writes or self.folder is None:
            return
        values = {
            "format": FORMAT,
            "run": self.run,
            "rounds": [asdict(one) for one in self.rounds],
            "plans": [plan.to_dict() for plan in self.plans],
            "pending": None if self.pending is None else self.pending.to_dict(),
            "ended": self.ended,
        }
        with written_whole(self.folder / STATE, force=True) as temporary:
            temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")

    def _read(self, folder: Path) -> None:
        values = read_object(folder / STATE, "the state")
        if values.get("format") != FORMAT:
            raise InputError(f"'{folder}' holds no run in rounds that this version can go on with: name another folder")
        check_same_run(folder, values.get("run"), self.run)
        found = validated(_Written, values, f"the state '{folder / STATE}'")
        self.rounds = list(found.rounds)
        self.plans = [Plan.from_dict(one) for one in found.plans]
        self.pending = None if found.pending is None else Plan.from_dict(found.pending)
        self.ended = found.ended
        if not self.rounds or len(self.plans) != len(self.rounds) - 1:
            raise InputError(
                f"the state '{folder / STATE}' cannot be used: it needs one plan for each round but the first"
            )
        if self.plane is not None and (folder / PLANE).is_file():
            self.plane.points = read_points(folder / PLANE)


def forget(folder: Path) -> None:
    """Remove the state of a pruning in rounds. After a kill in between, what is left holds nothing to go on from.

    Args:
        folder: Where the state was kept.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> forget(folder)
        >>> folder.exists()
        False
    """
    # First what the others are read by: a state without its networks cannot go on.
    (folder / STATE).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"'{path}' is needed to go on and cannot be read: {error}") from error
