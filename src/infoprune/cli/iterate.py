"""The command that prunes in rounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from infoprune.cli.app import app
from infoprune.cli.options import (
    Data,
    DataDirectory,
    Device,
    Force,
    InputShape,
    JsonOut,
    MapsTap,
    Mean,
    Model,
    ModelArguments,
    Out,
    Quiet,
    Seed,
    Std,
    Weights,
    Workers,
)
from infoprune.cli.parsing import chosen_tap, json_object, network_choice
from infoprune.criteria.base import Tap
from infoprune.errors import InputError
from infoprune.experiment.images import DataOptions
from infoprune.experiment.iterate import iterate as prune_in_rounds
from infoprune.iterative.published_schedules import named_schedule, named_schedules
from infoprune.iterative.schedule import LayerPace, Pace, PruningSchedule
from infoprune.json_files import read_given
from infoprune.measure.information_plane import InformationPlane, check_points_file
from infoprune.measure.record import removed
from infoprune.report.terminal import messages, results, shown_progress
from infoprune.training.recipe import Recipe


@app.command()
def iterate(
    data: Data,
    out: Out,
    schedule: Annotated[str | None, typer.Option(help="Name of 'infoprune schedules', or a JSON file.")] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(help="LAYERS=PACE:LIMIT, such as 'conv1=2:4' or 'layer3.*=5%+1:0.25'."),
    ] = None,
    model: Model = None,
    weights: Weights = None,
    model_args: ModelArguments = "{}",
    mean: Mean = None,
    std: Std = None,
    input_shape: InputShape = None,
    data_dir: DataDirectory = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="By default the schedule's.")] = None,
    workers: Workers = 0,
    criterion: Annotated[str | None, typer.Option(help="A name of 'infoprune criteria'.")] = None,
    criterion_options: Annotated[str | None, typer.Option(help="JSON object of options of the criterion.")] = None,
    tap: MapsTap = None,
    calibration: Annotated[int | None, typer.Option(min=1, help="Training images that score the filters.")] = None,
    train_images: Annotated[int | None, typer.Option(min=1, help="Train on a sample of so many images.")] = None,
    repair: Annotated[str | None, typer.Option(help="Repair given to every cut network before retraining.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    floor: Annotated[
        float | None, typer.Option(help="Held-out accuracy (%) below which the last round is undone and all ends.")
    ] = None,
    initial: Annotated[
        bool | None, typer.Option(help="Train before the first cut; by default where no weights are given.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=0, help="Of retraining, each round.")] = None,
    last_epochs: Annotated[int | None, typer.Option(min=0, help="Of retraining, after the last cut.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help="The largest of each retraining.")] = None,
    distillation: Annotated[
        float | None, typer.Option(min=0, max=1, help="Weight of the original as a teacher in retraining.")
    ] = None,
    augmentation: Annotated[
        bool | None, typer.Option(help="Change training images at random, as is usual for their data set.")
    ] = None,
    state: Annotated[Path | None, typer.Option(help="Folder to keep all networks and states in, for good.")] = None,
    plane: Annotated[Path | None, typer.Option(help="Write an information plane: .csv or .parquet.")] = None,
    plane_every: Annotated[int, typer.Option(min=1, help="Steps between two points of the plane.")] = 50,
    seed: Seed = 0,
    device: Device = "auto",
    json_out: JsonOut = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Prune in rounds: score, cut, retrain, until all layers are at their limits. After a kill the same goes on."""
    if plane is not None:
        check_points_file(plane)
    chosen = _schedule(schedule, remove or [])
    chosen = _trained(chosen, epochs, last_epochs, learning_rate, distillation)
    words: dict[str, Any] = {
        "criterion": criterion,
        "options": None if criterion_options is None else json_object(criterion_options, "--criterion-options"),
        "tap": chosen_tap(tap),
        "images": calibration,
        "repair": repair,
        "rounds": rounds,
        "floor": floor,
        "augmentation": augmentation,
    }
    chosen = replace(chosen, **{word: value for word, value in words.items() if value is not None}).seeded(seed)
    if not (weights is None if initial is None else initial):
        chosen = replace(chosen, initial=None)
    if initial and chosen.initial is None:
        raise InputError("the schedule has no initial training: train first ('infoprune train') and give --weights")
    if model is None and weights is None and schedule is not None and schedule in named_schedules():
        model = named_schedule(schedule).network
    network = network_choice(model, weights, model_args, mean, std, input_shape)
    images = DataOptions(data, data_dir, batch_size=batch_size or chosen.batch_size, workers=workers)
    console = messages()
    with shown_progress(console, quiet=quiet) as progress:
        record = prune_in_rounds(
            network,
            images,
            chosen,
            out=out,
            record_out=json_out,
            train_images=train_images,
            state=state,
            plane=None if plane is None else (plane, InformationPlane(tap=_plane_tap(chosen), every=plane_every)),
            device=device,
            force=force,
            progress=progress,
            tell=lambda line: None if quiet else console.print(line, soft_wrap=True),
        )
    if not quiet:
        results().print(_rounds_table(record, str(out)))
        results().print(f"{record['ended']}: {out}")


@app.command("schedules")
def list_schedules() -> None:
    """List the schedules of 'infoprune iterate'."""
    table = Table()
    for column in ("name", "network", "data", "what it does"):
        table.add_column(column)
    for name, one in named_schedules().items():
        table.add_row(name, one.network, one.data, one.description)
    results().print(table)


def _schedule(name: str | None, remove: list[str]) -> PruningSchedule:
    layers = tuple(_layer_pace(text) for text in remove)
    if name is None:
        if not layers:
            raise InputError("say what goes each round: a --schedule, or --remove 'LAYERS=PACE:LIMIT'")
        return PruningSchedule(layers, Recipe())
    found = PruningSchedule.from_dict(_file(Path(name))) if name.endswith(".json") else named_schedule(name).make()
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


def _trained(
    schedule: PruningSchedule,
    epochs: int | None,
    last_epochs: int | None,
    rate: float | None,
    distillation: float | None,
) -> PruningSchedule:
    common = {
        name: value for name, value in (("learning_rate", rate), ("distillation", distillation)) if value is not None
    }
    retraining: dict[str, Any] = common if epochs is None else {**common, "epochs": epochs}
    last: dict[str, Any] = common if last_epochs is None else {**common, "epochs": last_epochs}
    found = replace(schedule, retraining=replace(schedule.retraining, **retraining))
    if schedule.last is None and last_epochs is None:
        return found
    return replace(found, last=replace(schedule.last or found.retraining, **last))


def _plane_tap(schedule: PruningSchedule) -> Tap:
    return schedule.tap or "convolution"


def _file(path: Path) -> dict[str, Any]:
    values = read_given(path)
    if not isinstance(values, dict):
        raise InputError(f"'{path}' must hold a JSON object, a schedule")
    return values


def _rounds_table(record: dict[str, Any], title: str) -> Table:
    table = Table(title=title)
    for column in ("round", "held-out %", "test %", "MACs", "gone %", "parameters", "gone %", "dead", "s"):
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
    return f"{removed(base[cost], one[cost]):.2f}"
