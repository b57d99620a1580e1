"""The command that prunes in rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from infoprune.cli.from_dataclass import But, DefaultIs, Given, from_dataclasses
from infoprune.cli.options import Device, Devices, Force, JsonOut, Nodes, Out, Quiet
from infoprune.declarations.option import Option
from infoprune.declarations.option_values import check_fields
from infoprune.declarations.validation import read_object
from infoprune.errors import InputError
from infoprune.experiment.options import DataOptions, LogTo, NetworkOptions
from infoprune.iterative.published_schedules import named_schedule, named_schedules
from infoprune.iterative.schedule import LayerPace, Pace, PruningSchedule
from infoprune.training.recipe import Recipe

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class RetrainingOptions:
    """What differs from the schedule's own retraining.

    Example:
        >>> RetrainingOptions(epochs=1).changed(PruningSchedule((), Recipe())).retraining.epochs
        1
    """

    epochs: Annotated[int | None, Option("Epochs of retraining in each round.", ge=0, default="the schedule's")] = None
    last_epochs: Annotated[
        int | None, Option("Epochs of retraining after the last cut.", ge=0, default="the schedule's")
    ] = None
    learning_rate: Annotated[
        float | None,
        Option("The largest learning rate of each retraining.", gt=0, flag="--lr", default="the schedule's"),
    ] = None
    distillation: Annotated[
        float | None,
        Option("Weight of the original network as a teacher in retraining.", ge=0, le=1, default="the schedule's"),
    ] = None

    def __post_init__(self) -> None:
        check_fields(self)

    def changed(self, schedule: PruningSchedule) -> PruningSchedule:
        """Return the schedule with these changes."""
        both = {"learning_rate": self.learning_rate, "distillation": self.distillation}
        found = replace(schedule, retraining=_with(schedule.retraining, epochs=self.epochs, **both))
        if schedule.last is None and self.last_epochs is None:
            return found
        return replace(found, last=_with(schedule.last or found.retraining, epochs=self.last_epochs, **both))


@from_dataclasses
def iterate(
    images: Annotated[DataOptions, But("calibration", "batch_size")],
    out: Out,
    network: Given[NetworkOptions],
    choice: Annotated[Given[PruningSchedule], DefaultIs("the schedule's")],
    retraining: RetrainingOptions,
    schedule: Annotated[str | None, Option("A name of 'infoprune schedules', or a JSON file.")] = None,
    remove: Annotated[
        tuple[str, ...],
        Option("LAYERS=PACE:LIMIT, such as 'conv1=2:4' or 'layer3.*=5%+1:0.25'; repeatable."),
    ] = (),
    initial: Annotated[bool | None, Option("Train before the first cut.", default="where no weights are given")] = None,
    train_images: Annotated[
        int | None, Option("Train on a sample of this size.", ge=1, unit="images", default="all")
    ] = None,
    state: Annotated[Path | None, Option("Folder that keeps all networks and states after the run.")] = None,
    plane: Annotated[Path | None, Option("Write an information plane: .csv or .parquet.")] = None,
    plane_every: Annotated[int, Option("Steps between two points of the plane.", ge=1, unit="steps")] = 50,
    log_to: LogTo = None,
    device: Device = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
    json_out: JsonOut = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Prune in rounds: score, cut, retrain, until all layers are at their limits.

    The same command resumes after an interruption.
    """
    from infoprune.experiment.iterate import iterate as prune_in_rounds
    from infoprune.measure.information_plane import InformationPlane, check_points_file
    from infoprune.report.terminal import messages, results, shown_progress

    if plane is not None:
        check_points_file(plane)
    trained = "weights" in network.given
    chosen = _initial(_chosen(schedule, remove, choice.given, retraining), initial, trained=trained)
    named = {} if {"model", "weights"} & network.given.keys() else _network_of(schedule)
    console = messages()
    with shown_progress(console, quiet=quiet) as progress:
        record = prune_in_rounds(
            network.build(**named),
            replace(images, batch_size=chosen.batch_size),
            chosen,
            out=out,
            record_out=json_out,
            train_images=train_images,
            state=state,
            plane=None if plane is None else (
                plane, InformationPlane(tap=chosen.tap or "convolution", every=plane_every)),
            device=device,
            devices=devices,
            nodes=nodes,
            force=force,
            log_to=log_to,
            progress=progress,
            tell=lambda line: None if quiet else console.print(line, soft_wrap=True),
        )  # fmt: skip
    if not quiet:
        results().print(_rounds_table(record, str(out)))
        results().print(f"{record['ended']}: {out}")


def _chosen(
    name: str | None, remove: tuple[str, ...], changes: Mapping[str, Any], retraining: RetrainingOptions
) -> PruningSchedule:
    found = retraining.changed(_schedule(name, remove, changes.get("criterion")))
    found = replace(found, **{word: value for word, value in changes.items() if word != "seed"})
    return found.seeded(changes["seed"]) if "seed" in changes else found


def _initial(schedule: PruningSchedule, initial: bool | None, *, trained: bool) -> PruningSchedule:
    if initial and schedule.initial is None:
        raise InputError("the schedule has no initial training: train first ('infoprune train') and pass --weights")
    return schedule if (not trained if initial is None else initial) else replace(schedule, initial=None)


def _network_of(schedule: str | None) -> dict[str, Any]:
    known = named_schedules()
    return {"model": known[schedule].network} if schedule is not None and schedule in known else {}


def _schedule(name: str | None, remove: tuple[str, ...], criterion: str | None) -> PruningSchedule:
    layers = tuple(_layer_pace(text) for text in remove)
    if name is None:
        if not layers:
            raise InputError("name what is removed each round: a --schedule, or --remove 'LAYERS=PACE:LIMIT'")
        return PruningSchedule(layers, Recipe())
    of_file = name.endswith(".json")
    if of_file:
        found = PruningSchedule.from_dict(read_object(Path(name), "the schedule"), criterion=criterion)
    else:
        found = named_schedule(name).make()
    return replace(found, layers=layers) if layers else found


def _layer_pace(text: str) -> LayerPace:
    layers, equals, rest = text.rpartition("=")
    pace, _, limit = rest.partition(":")
    if not equals or not layers:
        raise InputError(f"--remove takes LAYERS=PACE:LIMIT, such as 'layer1.*=5%+1:8', not '{text}'")
    try:
        return LayerPace(layers, Pace.parse(pace), float(limit) if "." in limit else int(limit or 1))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the limit of '{text}' is a count such as 8 or a share such as 0.25") from error


def _with(recipe: Recipe, **changes: Any) -> Recipe:
    return replace(recipe, **{name: value for name, value in changes.items() if value is not None})


def _rounds_table(record: dict[str, Any], title: str) -> Table:
    from rich.table import Table

    table = Table(title=title)
    for column in ("round", "held-out %", "test %", "MACs", "removed %", "parameters", "removed %", "dead", "s"):
        table.add_column(column, justify="right")
    base = record["rounds"][0]
    for one in record["rounds"]:
        accuracies = ["" if one[part] is None else f"{one[part]:.2f}" for part in ("held_out", "test")]
        costs = [f(one, base, name) for name in ("macs", "parameters") for f in (_count, _gone)]
        undone = "" if one["stands"] else " (undone)"
        table.add_row(
            f"{one['number']}{undone}", *accuracies, *costs, str(one["dead"]), f"{sum(one['seconds'].values()):.0f}"
        )
    return table


def _count(one: dict[str, Any], _: dict[str, Any], cost: str) -> str:
    return f"{one[cost]:,}"


def _gone(one: dict[str, Any], base: dict[str, Any], cost: str) -> str:
    from infoprune.measure.record import removed

    return f"{removed(base[cost], one[cost]):.2f}"
