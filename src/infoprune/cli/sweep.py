"""The command that prunes to several budgets in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from infoprune.cli.from_dataclass import But, from_dataclasses
from infoprune.cli.options import Device, Devices, Force, JsonOut, Layers, Nodes, Quiet, Seed, Skip
from infoprune.declarations.option import Option
from infoprune.experiment.options import DataOptions, MetricOptions, NetworkOptions
from infoprune.options import EffortOptions


@from_dataclasses
def sweep(
    images: DataOptions,
    out_dir: Annotated[Path, Option("Folder for the checkpoints, one per budget: macs-SHARE.safetensors.")],
    network: NetworkOptions,
    effort: Annotated[EffortOptions, But("minutes", "max_loss")],
    metric: MetricOptions,
    macs: Annotated[tuple[float, ...], Option("Shares of the MACs to keep.", gt=0, lt=1)] = (0.9, 0.8, 0.7),
    layers: Layers = (),
    skip: Skip = (),
    seed: Seed = 0,
    device: Device = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
    json_out: JsonOut = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Prune to several budgets in one run and write one checkpoint for each.

    Each network is cut from the repaired one before it. Labels are read only to measure the test accuracy.
    """
    from infoprune.cli.tables import sweep_table
    from infoprune.experiment.sweep import sweep as sweep_of
    from infoprune.report.terminal import messages, results, shown_progress

    console = messages()
    with shown_progress(console, quiet=quiet) as progress:
        record = sweep_of(
            network,
            images,
            macs,
            out_dir,
            effort=effort.effort,
            metric=metric,
            layers=layers,
            skip=skip,
            record_out=json_out,
            seed=seed,
            device=device,
            devices=devices,
            nodes=nodes,
            force=force,
            progress=progress,
            tell=lambda line: None if quiet else console.print(line, soft_wrap=True),
        )
    if not quiet:
        results().print(sweep_table(record))
        results().print(f"checkpoints: {out_dir}", soft_wrap=True)
