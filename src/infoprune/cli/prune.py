"""The command that removes filters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from infoprune.cli.from_dataclass import Given, from_dataclasses
from infoprune.cli.options import Device, Devices, Force, JsonOut, Nodes, Out, Quiet
from infoprune.declarations.option import Option
from infoprune.errors import InputError
from infoprune.experiment.options import DataOptions, MetricOptions, NetworkOptions
from infoprune.options import EffortOptions, PruneOptions, RepairOptions
from infoprune.plan import Plan

if TYPE_CHECKING:
    from infoprune.experiment.prune import PruneRun


@from_dataclasses
def prune(
    images: DataOptions,
    out: Out,
    network: NetworkOptions,
    choice: Given[PruneOptions],
    effort: EffortOptions,
    repair: RepairOptions,
    metric: MetricOptions,
    keep: Annotated[Path | None, Option("JSON file: a plan, or by layer how many filters are kept or which.")] = None,
    held_out: Annotated[
        int | None,
        Option(
            "Held-out training images that choose among the candidates of a cut-off.",
            ge=1,
            unit="images",
            default="1,000",
        ),
    ] = None,
    stability: Annotated[
        int, Option("Samples of calibration images to make the plan with, to compare the plans.", ge=1)
    ] = 1,
    no_repair: Annotated[bool, Option("Do not repair the cut network.")] = False,
    remove_constant: Annotated[
        bool, Option("First remove filters whose output is constant on all repair images, without loss.")
    ] = False,
    device: Device = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
    run_out: Annotated[Path | None, Option("Folder for record, plan and evidence.", flag="--run")] = None,
    report_out: Annotated[Path | None, Option("Also write the page of this run.", flag="--report")] = None,
    json_out: JsonOut = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Remove filters and write the smaller network."""
    from infoprune.cli.tables import reach_table
    from infoprune.experiment.prune import choice_or_plan, read_keep
    from infoprune.experiment.prune import prune as prune_network
    from infoprune.report.terminal import messages, shown_progress

    if no_repair and repair.method != RepairOptions.method:
        raise InputError(f"--no-repair and --repair {repair.method} contradict each other: leave out one of them")
    kept = read_keep(keep)
    words = {**choice.given, **kept}
    if effort.max_loss is not None and not {"budget", "macs", "parameters", "latency", "ratio"} & set(words):
        chosen: PruneOptions | Plan = choice.build(macs=1.0)
    else:
        chosen = choice_or_plan(choice.given, **kept)
    console = messages()
    with shown_progress(console, quiet=quiet) as progress:
        run = prune_network(
            network,
            images,
            chosen,
            out=out,
            record_out=json_out,
            run_out=run_out,
            report_out=report_out,
            words=None if isinstance(chosen, Plan) else words,
            repair=None if no_repair else repair,
            effort=effort,
            metric=metric,
            held_out=held_out,
            stability=stability,
            remove_constant=remove_constant,
            seed=chosen.seed if isinstance(chosen, PruneOptions) else choice.given.get("seed", PruneOptions.seed),
            device=device,
            devices=devices,
            nodes=nodes,
            force=force,
            progress=progress,
            on_reach=lambda found: None if quiet else console.print(reach_table(found)),
            tell=lambda line: None if quiet else console.print(line, soft_wrap=True),
        )
    if not quiet:
        _show(run, f"{out} by {_named(chosen)}" + ("" if run.result.repair is None else f", {run.result.repair}"))


def _show(run: PruneRun, title: str) -> None:
    from infoprune.cli.tables import saturation_table, stability_table
    from infoprune.measure.record import comparison
    from infoprune.report.terminal import results

    if run.result.free is not None:
        gone = run.result.free
        results().print(
            f"constant filters, removed without loss: {gone['filters']} filters, {gone['macs']:,} MACs and "
            f"{gone['parameters']:,} parameters"
        )
    for table in (saturation_table(run.record), stability_table(run.record)):
        if table is not None:
            results().print(table)
    results().print(comparison(run.result.base, run.result.pruned, title, run.result.as_cut))
    for sentence in run.result.advice:
        results().print(sentence)


def _named(choice: PruneOptions | Plan) -> str:
    return choice.criterion if isinstance(choice, PruneOptions) and choice.criterion else "the given plan"
