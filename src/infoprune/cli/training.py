"""The commands that train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from infoprune.cli.app import app
from infoprune.cli.options import (
    BatchSize,
    Clip,
    Cutout,
    Data,
    DataDirectory,
    Device,
    Force,
    InputShape,
    JsonOut,
    LabelSmoothing,
    Mean,
    Model,
    ModelArguments,
    Out,
    Quiet,
    Rotation,
    Scaling,
    Seed,
    Sizes,
    Std,
    Weights,
    Workers,
)
from infoprune.cli.parsing import network_choice, numbers, one_of
from infoprune.cli.tables import figures_table
from infoprune.experiment.images import DataOptions
from infoprune.experiment.network import NetworkOptions
from infoprune.experiment.train import TuneOptions
from infoprune.experiment.train import train as train_network
from infoprune.report.terminal import messages, results, shown_progress
from infoprune.training.recipe import Precision, Recipe, Schedule


@app.command()
def train(
    data: Data,
    out: Out,
    model: Model = None,
    weights: Weights = None,
    model_args: ModelArguments = "{}",
    mean: Mean = None,
    std: Std = None,
    input_shape: InputShape = None,
    data_dir: DataDirectory = None,
    batch_size: BatchSize = 128,
    workers: Workers = 0,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    learning_rate: Annotated[float, typer.Option("--lr", help="The largest of the schedule.")] = 0.1,
    schedule: Annotated[str, typer.Option(help="one-cycle, cosine, steps or constant.")] = "one-cycle",
    weight_decay: Annotated[float, typer.Option()] = 5e-4,
    label_smoothing: LabelSmoothing = 0.0,
    clip: Clip = 0.0,
    rotation: Rotation = 0.0,
    scaling: Scaling = 0.0,
    cutout: Cutout = 0.0,
    sizes: Sizes = None,
    precision: Annotated[str, typer.Option(help="auto, 32-true, bf16-mixed or 16-mixed.")] = "auto",
    devices: Annotated[str, typer.Option(help="How many devices of each machine, or auto.")] = "1",
    nodes: Annotated[int, typer.Option(min=1, help="How many machines; each is given the same command.")] = 1,
    half: Annotated[bool, typer.Option("--half", help="Store the weights in half precision.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
    json_out: JsonOut = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Train a network, from fresh or given weights. The same command goes on after an interruption."""
    recipe = _recipe(schedule, sizes, precision, epochs=epochs, learning_rate=learning_rate, weight_decay=weight_decay,
                     label_smoothing=label_smoothing, clip=clip, rotation=rotation, scaling=scaling, cutout=cutout,
                     seed=seed)  # fmt: skip
    network = network_choice(model, weights, model_args, mean, std, input_shape)
    _train(network, data, data_dir, batch_size, workers, TuneOptions(recipe, None, devices, nodes, half), out, device,
           json_out, force, quiet)  # fmt: skip


@app.command()
def tune(
    checkpoint: Annotated[Path, typer.Argument(help="An infoprune checkpoint.")],
    data: Data,
    out: Out,
    data_dir: DataDirectory = None,
    batch_size: BatchSize = 128,
    workers: Workers = 0,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    learning_rate: Annotated[float, typer.Option("--lr", help="The largest of the schedule.")] = 0.02,
    schedule: Annotated[str, typer.Option(help="one-cycle, cosine, steps or constant.")] = "one-cycle",
    weight_decay: Annotated[float, typer.Option()] = 5e-4,
    label_smoothing: LabelSmoothing = 0.0,
    clip: Clip = 0.0,
    rotation: Rotation = 0.0,
    scaling: Scaling = 0.0,
    cutout: Cutout = 0.0,
    sizes: Sizes = None,
    precision: Annotated[str, typer.Option(help="auto, 32-true, bf16-mixed or 16-mixed.")] = "auto",
    teacher: Annotated[Path | None, typer.Option(help="Weights of the original network, to distil from.")] = None,
    distillation: Annotated[float, typer.Option(min=0, max=1, help="Weight of the teacher in the loss.")] = 0.5,
    temperature: Annotated[float, typer.Option(help="Of the teacher's soft targets.")] = 4.0,
    devices: Annotated[str, typer.Option(help="How many devices of each machine, or auto.")] = "1",
    nodes: Annotated[int, typer.Option(min=1, help="How many machines; each is given the same command.")] = 1,
    half: Annotated[bool, typer.Option("--half", help="Store the weights in half precision.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
    json_out: JsonOut = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a pruned network, with distillation from the original where its weights are given."""
    recipe = _recipe(schedule, sizes, precision, epochs=epochs, learning_rate=learning_rate, weight_decay=weight_decay,
                     label_smoothing=label_smoothing, clip=clip, rotation=rotation, scaling=scaling, cutout=cutout,
                     distillation=distillation if teacher is not None else 0.0, temperature=temperature,
                     seed=seed)  # fmt: skip
    network = NetworkOptions(weights=checkpoint)
    choice = TuneOptions(recipe, teacher, devices, nodes, half)
    _train(network, data, data_dir, batch_size, workers, choice, out, device,
           json_out, force, quiet)  # fmt: skip


def _train(
    network: NetworkOptions,
    data: str,
    data_dir: Path | None,
    batch_size: int,
    workers: int,
    choice: TuneOptions,
    out: Path,
    device: str,
    json_out: Path | None,
    force: bool,
    quiet: bool,
) -> None:
    images = DataOptions(data, data_dir, batch_size=batch_size, workers=workers)
    console = messages()
    with shown_progress(console, quiet=quiet) as progress:
        record = train_network(
            network,
            images,
            choice,
            out=out,
            record_out=json_out,
            device=device,
            force=force,
            progress=progress,
            tell=lambda line: None if quiet else console.print(line),
        )
    if record is None:
        return
    if not quiet:
        results().print(figures_table(record["figures"], str(out)))


def _recipe(schedule: str, sizes: str | None, precision: str, **words: Any) -> Recipe:
    return Recipe(
        schedule=one_of(schedule, Schedule, "--schedule"),
        sizes=() if sizes is None else tuple(int(size) for size in numbers(sizes, "--sizes")),
        precision=one_of(precision, Precision, "--precision"),
        **words,
    )
