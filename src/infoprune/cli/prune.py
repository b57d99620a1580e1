"""The command that removes filters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
from infoprune.cli.parsing import chosen_tap, json_object, network_choice, one_of
from infoprune.cli.tables import reach_table, saturation_table, stability_table
from infoprune.cutoff import all_rules
from infoprune.experiment.images import DataOptions
from infoprune.experiment.prune import RepairOptions, choice_or_plan, read_keep
from infoprune.experiment.prune import prune as prune_network
from infoprune.measure.record import comparison
from infoprune.options import Conditioning, Direction, PruneOptions
from infoprune.plan import Budget
from infoprune.repair import all_repairs
from infoprune.report.terminal import messages, results, shown_progress

_REPAIRS = ", ".join(info.name for info in all_repairs())
_RULES = ", ".join(info.name for info in all_rules())


@app.command()
def prune(
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
    calibration: Annotated[int, typer.Option(min=1, help="Images that score the filters.")] = 256,
    criterion: Annotated[str, typer.Option(help="A name of 'infoprune criteria', or package.module:function.")] = "cmi",
    ratio: Annotated[float | None, typer.Option(help="Share of the filters removed from every layer.")] = None,
    keep: Annotated[Path | None, typer.Option(help="JSON: a plan, or by layer how many filters stay or which.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Filters that score below it go from every layer.")] = None,
    macs: Annotated[float | None, typer.Option(help="Share of the MACs that may remain.")] = None,
    parameters: Annotated[float | None, typer.Option(help="Share of the parameters that may remain.")] = None,
    latency: Annotated[float | None, typer.Option(help="Share of the measured latency that may remain.")] = None,
    budget_by: Annotated[str | None, typer.Option(help="Criterion that shares the budget out to the layers.")] = None,
    cutoff: Annotated[str | None, typer.Option(help=f"Cut each layer's curve by a rule: {_RULES}.")] = None,
    cutoff_options: Annotated[str, typer.Option(help="JSON object of options of the cut-off.")] = "{}",
    conditioning: Annotated[str, typer.Option(help="What cmi is given of other layers: none, compact, full, all.")] = (
        "none"
    ),
    direction: Annotated[str, typer.Option(help="In which order layers are cut: forward, backward, both.")] = "forward",
    tolerance: Annotated[float | None, typer.Option(help="Points of held-out accuracy a cut-off may cost.")] = None,
    held_out: Annotated[int, typer.Option(min=1, help="Held-out training images that choose the cut.")] = 1000,
    parallel: Annotated[bool, typer.Option("--parallel", help="The branches of both in two processes.")] = False,
    repair_between_layers: Annotated[
        str | None, typer.Option(help="Repair after each layer, before the next is read.")
    ] = None,
    candidate_repair: Annotated[str | None, typer.Option(help="Repair given to each candidate of a cut-off.")] = None,
    candidate_bf16: Annotated[bool, typer.Option("--candidate-bf16", help="Measure candidates in bfloat16.")] = False,
    stability: Annotated[int, typer.Option(min=1, help="Samples of images to make the plan with, to compare.")] = 1,
    reselect: Annotated[bool, typer.Option("--reselect", help="Choose which stay anew, front to back.")] = False,
    layers: Annotated[list[str] | None, typer.Option(help="Pattern of layers that may lose filters.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Pattern of layers that may not.")] = None,
    tap: MapsTap = None,
    multiple: Annotated[int, typer.Option(min=1, help="Kept counts are multiples of this.")] = 1,
    keep_at_least: Annotated[int, typer.Option(min=1, help="Filters that stay in every layer.")] = 1,
    keep_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of its filters that every layer keeps, whatever the ranking.")
    ] = 0.0,
    criterion_options: Annotated[str, typer.Option(help="JSON object of options of the criterion.")] = "{}",
    repair: Annotated[str | None, typer.Option(help=f"Repair without labels or gradient: {_REPAIRS}.")] = None,
    repair_images: Annotated[int, typer.Option(min=1, help="Training images to repair with.")] = 1000,
    repair_minutes: Annotated[float | None, typer.Option(help="How long the repair distil may take.")] = None,
    remove_constant: Annotated[
        bool, typer.Option("--remove-constant", help="First remove filters whose output is constant, without loss.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    run_out: Annotated[Path | None, typer.Option("--run", help="Folder for record, plan and evidence.")] = None,
    report_out: Annotated[Path | None, typer.Option("--report", help="Also write the page of this run.")] = None,
    json_out: JsonOut = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Remove filters and write the smaller network."""
    shares = {"macs": macs, "parameters": parameters, "latency": latency}
    cuts = {
        "ratio": ratio,
        "budget": Budget(**shares) if any(share is not None for share in shares.values()) else None,
        **read_keep(keep),
    }
    choice = choice_or_plan(
        criterion=criterion,
        layers=tuple(layers or ()),
        skip=tuple(skip or ()),
        tap=chosen_tap(tap),
        multiple=multiple,
        keep_at_least=keep_at_least,
        keep_share=keep_share,
        seed=seed,
        options=json_object(criterion_options, "--criterion-options"),
        budget_by=budget_by,
        threshold=threshold,
        reselect=reselect,
        cutoff=cutoff,
        cutoff_options=json_object(cutoff_options, "--cutoff-options"),
        conditioning=one_of(conditioning, Conditioning, "--conditioning"),
        direction=one_of(direction, Direction, "--direction"),
        tolerance=tolerance,
        parallel=parallel,
        repair_between_layers=repair_between_layers,
        candidate_repair=candidate_repair,
        candidate_bf16=candidate_bf16,
        **cuts,
    )
    network = network_choice(model, weights, model_args, mean, std, input_shape)
    images = DataOptions(data, data_dir, batch_size=batch_size, calibration=calibration, workers=workers)
    console = messages()
    with shown_progress(console, quiet=quiet) as progress:
        run = prune_network(
            network,
            images,
            choice,
            out=out,
            repair=None if repair is None else RepairOptions(repair, repair_images, repair_minutes),
            record_out=json_out,
            run_out=run_out,
            report_out=report_out,
            held_out=held_out,
            stability=stability,
            remove_constant=remove_constant,
            seed=seed,
            device=device,
            force=force,
            progress=progress,
            on_reach=lambda found: None if quiet else console.print(reach_table(found)),
        )
    if not quiet:
        if run.result.free is not None:
            gone = run.result.free
            results().print(
                f"for free: {gone['filters']} filters, {gone['macs']:,} MACs and {gone['parameters']:,} parameters"
            )
        title = f"{out} by {_named(choice)}" + ("" if repair is None else f", repaired by {repair}")
        for table in (saturation_table(run.record), stability_table(run.record)):
            if table is not None:
                results().print(table)
        results().print(comparison(run.result.base, run.result.pruned, title, run.result.as_cut))


def _named(choice: Any) -> str:
    return choice.criterion if isinstance(choice, PruneOptions) and choice.criterion else "the given plan"
