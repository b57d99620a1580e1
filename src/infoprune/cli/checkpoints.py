"""The commands that measure, show and export a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from infoprune.cli.from_dataclass import But, Given, from_dataclasses
from infoprune.cli.options import Checkpoint, Device, Devices, Force, JsonOut, Nodes, Quiet
from infoprune.declarations.option import Option
from infoprune.experiment.options import DataOptions, MetricOptions, NetworkOptions


@from_dataclasses
def evaluate(
    images: Annotated[DataOptions, But("calibration", "held_out")],
    network: Given[NetworkOptions],
    metric: MetricOptions,
    checkpoint: Annotated[Path | None, Option("An infoprune checkpoint.", is_argument=True)] = None,
    device: Device = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
    json_out: JsonOut = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Measure accuracy, loss, MACs, parameters and latency of a network."""
    from infoprune.cli.output import check_outputs, write_record
    from infoprune.cli.tables import figures_table
    from infoprune.experiment.evaluate import evaluate as evaluate_network
    from infoprune.report.terminal import messages, results, shown_progress

    check_outputs(json_out, force=force)
    choice = network.build(weights=network.given.get("weights", checkpoint))
    console = messages()
    with shown_progress(console, quiet=quiet) as progress:
        record = evaluate_network(
            choice,
            images,
            metric=metric,
            device=device,
            devices=devices,
            nodes=nodes,
            progress=progress,
            tell=lambda line: None if quiet else console.print(line, soft_wrap=True),
        )
    write_record(record, json_out, force=force)
    if not quiet:
        results().print(figures_table(record["figures"], str(choice.model or checkpoint or choice.weights)))


@from_dataclasses
def show(
    checkpoint: Checkpoint,
    json_out: JsonOut = None,
    force: Force = False,
) -> None:
    """Show what is in a checkpoint: architecture, plan, settings, figures."""
    from infoprune.cli.output import check_outputs, write_record
    from infoprune.cli.tables import plan_table
    from infoprune.experiment.evaluate import show as describe
    from infoprune.report.terminal import results

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


@from_dataclasses
def export(
    checkpoint: Checkpoint,
    network: Annotated[NetworkOptions, But("weights", "mean", "std", "resize", "crop", "interpolation", "input_shape")],
    onnx: Annotated[Path | None, Option("The ONNX file to write.")] = None,
    program: Annotated[Path | None, Option("The file of torch.export to write.")] = None,
    state: Annotated[
        Path | None,
        Option("The state dict to write, as safetensors, with the widths of the layers beside it as JSON."),
    ] = None,
    tolerance: Annotated[
        float | None, Option("Share of the largest output by which outputs may differ.", ge=0, default="1e-4")
    ] = None,
    json_out: JsonOut = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write a checkpoint's network for other runtimes, checked against PyTorch."""
    from infoprune.cli.output import check_outputs, write_record
    from infoprune.cli.tables import export_table, latency_table
    from infoprune.experiment.network import typed_build
    from infoprune.measure.advice import latency_advice
    from infoprune.report.terminal import messages, results, shown_progress
    from infoprune.storage.export import TOLERANCE
    from infoprune.storage.export import export as write_export

    check_outputs(json_out, force=force)
    build = typed_build(network)
    with shown_progress(messages(), quiet=quiet) as progress:
        record = write_export(
            checkpoint,
            build=build,
            onnx=onnx,
            program=program,
            state=state,
            tolerance=TOLERANCE if tolerance is None else tolerance,
            force=force,
            progress=progress,
        )
    write_record(record, json_out, force=force)
    if not quiet:
        for table in (export_table(record), latency_table(record["latency_ms"])):
            results().print(table)
        for sentence in latency_advice(record["latency_ms"]):
            results().print(sentence)
