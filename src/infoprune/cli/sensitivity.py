"""The command that prunes each layer alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from infoprune.cli.from_dataclass import from_dataclasses
from infoprune.cli.options import Device, Devices, Force, JsonOut, Layers, Nodes, Quiet, Seed, Skip
from infoprune.declarations.option import Option
from infoprune.experiment.options import DataOptions, MetricOptions, NetworkOptions


@from_dataclasses
def sensitivity(
    images: DataOptions,
    network: NetworkOptions,
    metric: MetricOptions,
    ratios: Annotated[tuple[float, ...], Option("Shares of the filters to remove from a layer.", gt=0, lt=1)] = (
        0.25,
        0.5,
        0.75,
    ),
    layers: Layers = (),
    skip: Skip = (),
    seed: Seed = 0,
    device: Device = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
    plot: Annotated[Path | None, Option("Also draw the divergence of each layer: .svg or .png.")] = None,
    json_out: JsonOut = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Prune each layer alone, to see which may lose many filters.

    Each pruned network is repaired by least squares and compared with the original on held-out images, without labels.
    """
    from infoprune.cli.output import check_outputs, write_record
    from infoprune.cli.tables import sensitivity_table
    from infoprune.experiment.sensitivity import sensitivity as sensitivity_of
    from infoprune.files import check_apart
    from infoprune.report.sensitivity import check_plot, sensitivity_plot
    from infoprune.report.terminal import messages, results, shown_progress
    from infoprune.runs.together import is_first_process

    if plot is not None and is_first_process():
        check_plot(plot, force=force)
    check_outputs(json_out, force=force)
    check_apart([file for file in (json_out, plot, network.weights) if file is not None])
    console = messages()
    with shown_progress(console, quiet=quiet) as progress:
        run = sensitivity_of(
            network,
            images,
            ratios,
            metric=metric,
            layers=layers,
            skip=skip,
            seed=seed,
            device=device,
            devices=devices,
            nodes=nodes,
            progress=progress,
            tell=lambda line: None if quiet else console.print(line, soft_wrap=True),
        )
    write_record(run.record, json_out, force=force)
    if plot is not None and is_first_process():
        sensitivity_plot(run.found, plot, force=force)
    if not quiet:
        results().print(sensitivity_table(run.found))
