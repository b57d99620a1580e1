"""The commands that measure, show and export a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from infoprune.cli.app import app
from infoprune.cli.options import (
    BatchSize,
    Data,
    DataDirectory,
    Device,
    Force,
    InputShape,
    JsonOut,
    Mean,
    Model,
    ModelArguments,
    Quiet,
    Std,
    Weights,
    Workers,
)
from infoprune.cli.parsing import check_outputs, network_choice, write_record
from infoprune.cli.tables import export_table, figures_table, latency_table, plan_table
from infoprune.experiment.evaluate import evaluate as evaluate_network
from infoprune.experiment.evaluate import show as describe
from infoprune.experiment.images import DataOptions
from infoprune.experiment.network import typed_build
from infoprune.report.terminal import messages, results, shown_progress
from infoprune.storage.export import TOLERANCE, export


@app.command()
def evaluate(
    data: Data,
    checkpoint: Annotated[Path | None, typer.Argument(help="An infoprune checkpoint.")] = None,
    model: Model = None,
    weights: Weights = None,
    model_args: ModelArguments = "{}",
    mean: Mean = None,
    std: Std = None,
    input_shape: InputShape = None,
    data_dir: DataDirectory = None,
    batch_size: BatchSize = 128,
    workers: Workers = 0,
    device: Device = "auto",
    json_out: JsonOut = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Measure accuracy, loss, MACs, parameters and latency of a network."""
    check_outputs(json_out, force=force)
    network = network_choice(model, weights or checkpoint, model_args, mean, std, input_shape)
    images = DataOptions(data, data_dir, batch_size=batch_size, workers=workers)
    with shown_progress(messages(), quiet=quiet) as progress:
        record = evaluate_network(network, images, device=device, progress=progress)
    write_record(record, json_out, force=force)
    if not quiet:
        results().print(figures_table(record["figures"], str(model or checkpoint or weights)))


@app.command()
def show(
    checkpoint: Annotated[Path, typer.Argument(help="An infoprune checkpoint.")],
    json_out: JsonOut = None,
    force: Force = False,
) -> None:
    """Say what is in a checkpoint: architecture, plan, settings, figures."""
    check_outputs(json_out, force=force)
    contents = describe(checkpoint)
    write_record(contents, json_out, force=force)
    printed = results()
    printed.print(f"{checkpoint}: {contents['architecture']} {json.dumps(contents['arguments'])}, "
                  f"images {contents['input_shape']}, written by infoprune {contents['version']}")  # fmt: skip
    if contents["plan"] is not None:
        printed.print(plan_table(contents["plan"]))
    for name in ("figures", "settings"):
        if contents[name]:
            printed.print(f"{name}:")
            printed.print_json(json.dumps(contents[name]))


@app.command("export")
def export_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="An infoprune checkpoint.")],
    model: Model = None,
    model_args: ModelArguments = "{}",
    onnx: Annotated[Path | None, typer.Option("--onnx", help="The ONNX file to write.")] = None,
    program: Annotated[Path | None, typer.Option("--program", help="The file of torch.export to write.")] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Share of the largest output by which outputs may differ.")
    ] = TOLERANCE,
    json_out: JsonOut = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write a checkpoint's network for other runtimes, checked against PyTorch."""
    check_outputs(json_out, force=force)
    build = typed_build(network_choice(model, None, model_args, None, None, None))
    with shown_progress(messages(), quiet=quiet) as progress:
        record = export(checkpoint, build=build, onnx=onnx, program=program, tolerance=tolerance, force=force,
                        progress=progress)  # fmt: skip
    write_record(record, json_out, force=force)
    if not quiet:
        for table in (export_table(record), latency_table(record["latency_ms"])):
            results().print(table)
