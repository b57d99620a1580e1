"""The command line: parses, calls, prints. A user's mistake is one sentence and exit code 2."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from typer.exceptions import TyperException

from infoprune import commands, criteria, report, zoo
from infoprune.commands import RepairChoice, TuneChoice
from infoprune.console import messages, results, shown_progress
from infoprune.criteria.base import Tap
from infoprune.cutoff import Reach
from infoprune.data import source_names
from infoprune.errors import InputError
from infoprune.experiment import DataChoice, NetworkChoice
from infoprune.export import TOLERANCE, export
from infoprune.output import check_writable, write_text
from infoprune.plan import Budget
from infoprune.planning import Choice
from infoprune.record import comparison
from infoprune.repair import all_repairs
from infoprune.report.figures import comparison_figures, run_figures
from infoprune.report.run import RECORD
from infoprune.tune import Precision, Recipe, Schedule
from infoprune.version import __version__

app = typer.Typer(
    help="Smaller, faster convolutional networks: whole filters removed by what their feature maps know.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_REPAIRS = ", ".join(info.name for info in all_repairs())

INTERRUPTED = 130

# Typer reads Optional[...] at run time, also on Python 3.10.
Model = Annotated[
    str | None,
    typer.Option("--model", help="A zoo name, timm:NAME, torchvision:NAME or package.module:function."),
]
Weights = Annotated[Path | None, typer.Option("--weights", help="Weights of the model, or an infoprune checkpoint.")]
ModelArguments = Annotated[str, typer.Option("--model-args", help="JSON object given to the model's function.")]
Mean = Annotated[str | None, typer.Option("--mean", help="Per channel, pixels in [0, 1]: what the weights want.")]
Std = Annotated[str | None, typer.Option("--std", help="Per channel, pixels in [0, 1]: what the weights want.")]
InputShape = Annotated[str | None, typer.Option("--input-shape", help="C,H,W of one image.")]
Data = Annotated[str, typer.Option("--data", help=f"The data set: {', '.join(source_names())}.")]
DataDirectory = Annotated[Path | None, typer.Option("--data-dir", help="Where its files lie.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1)]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Processes that read image files.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")]
LabelSmoothing = Annotated[float, typer.Option(help="Of the cross entropy, 0 to below 1.")]
Cutout = Annotated[float, typer.Option(help="Side of a blanked square in each image, as a share of the image's.")]
Sizes = Annotated[str | None, typer.Option(help="Image sides, part by part of the epochs: 16,24,32.")]
Seed = Annotated[int, typer.Option("--seed")]
Out = Annotated[Path, typer.Option("--out", help="The checkpoint to write.")]
JsonOut = Annotated[Path | None, typer.Option("--json", help="Also write the record as JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no tables.")]

Page = Annotated[Path | None, typer.Option("--out", "-o", help="The HTML page to write.")]
Figures = Annotated[Path | None, typer.Option("--figures", help="Folder for PNG and SVG figures.")]


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
    _check_outputs(json_out, force=force)
    network = _network(model, weights or checkpoint, model_args, mean, std, input_shape)
    images = DataChoice(data, data_dir, batch_size=batch_size, workers=workers)
    with shown_progress(messages(), quiet=quiet) as progress:
        record = commands.evaluate(network, images, device=device, progress=progress)
    _finish(record, json_out, force=force)
    if not quiet:
        results().print(_single(record["figures"], str(model or checkpoint or weights)))


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
    macs: Annotated[float | None, typer.Option(help="Share of the MACs that may remain.")] = None,
    params: Annotated[float | None, typer.Option(help="Share of the parameters that may remain.")] = None,
    latency: Annotated[float | None, typer.Option(help="Share of the measured latency that may remain.")] = None,
    budget_by: Annotated[str | None, typer.Option(help="Criterion that shares the budget out to the layers.")] = None,
    layers: Annotated[list[str] | None, typer.Option(help="Pattern of layers that may lose filters.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Pattern of layers that may not.")] = None,
    tap: Annotated[str | None, typer.Option(help="Where maps are read: convolution, norm or activation.")] = None,
    multiple: Annotated[int, typer.Option(min=1, help="Kept counts are multiples of this.")] = 1,
    keep_at_least: Annotated[int, typer.Option(min=1, help="Filters that stay in every layer.")] = 1,
    options: Annotated[str, typer.Option(help="JSON object of options of the criterion.")] = "{}",
    repair: Annotated[str | None, typer.Option(help=f"Repair without labels or gradient: {_REPAIRS}.")] = None,
    repair_images: Annotated[int, typer.Option(min=1, help="Training images to repair with.")] = 1000,
    seed: Seed = 0,
    device: Device = "auto",
    run_out: Annotated[Path | None, typer.Option("--run", help="Folder for record, plan and evidence.")] = None,
    report_out: Annotated[Path | None, typer.Option("--report", help="Also write the page of this run.")] = None,
    json_out: JsonOut = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Remove filters and write the smaller network."""
    _check_outputs(out, json_out, report_out, force=force)
    _check_outputs(run_out and run_out / RECORD, force=force)
    shares = {"macs": macs, "parameters": params, "latency": latency}
    cuts = {
        "ratio": ratio,
        "budget": Budget(**shares) if any(share is not None for share in shares.values()) else None,
        **commands.read_keep(keep),
    }
    choice = commands.choice_or_plan(
        criterion=criterion,
        layers=tuple(layers or ()),
        skip=tuple(skip or ()),
        tap=_tap(tap),
        multiple=multiple,
        keep_at_least=keep_at_least,
        seed=seed,
        options=_json_object(options, "--options"),
        budget_by=budget_by,
        **cuts,
    )
    network = _network(model, weights, model_args, mean, std, input_shape)
    images = DataChoice(data, data_dir, batch_size=batch_size, calibration=calibration, workers=workers)
    console = messages()
    with shown_progress(console, quiet=quiet) as progress:
        run = commands.prune(
            network,
            images,
            choice,
            out=out,
            repair=None if repair is None else RepairChoice(repair, repair_images),
            keep_evidence=run_out is not None or report_out is not None,
            seed=seed,
            device=device,
            force=force,
            progress=progress,
            on_reach=lambda found: None if quiet else console.print(_reach_table(found)),
        )
    _finish(run.record, json_out, force=force)
    if run.kept is not None:
        if run_out is not None:
            report.write_run(run.kept, run_out, force=force)
        if report_out is not None:
            write_text(report_out, report.page(run.kept), force=force)
    if not quiet:
        title = f"{out} by {_named(choice)}" + ("" if repair is None else f", repaired by {repair}")
        results().print(comparison(run.result.base, run.result.pruned, title, run.result.as_cut))


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
    recipe = _recipe(epochs, learning_rate, schedule, weight_decay, label_smoothing, cutout, sizes, precision, seed)
    network = _network(model, weights, model_args, mean, std, input_shape)
    _train(network, data, data_dir, batch_size, workers, TuneChoice(recipe, None, devices, nodes, half), out, device,
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
    cutout: Cutout = 0.0,
    sizes: Sizes = None,
    precision: Annotated[str, typer.Option(help="auto, 32-true, bf16-mixed or 16-mixed.")] = "auto",
    teacher: Annotated[Path | None, typer.Option(help="Weights of the original network, to distil from.")] = None,
    distillation: Annotated[float, typer.Option(min=0, max=1, help="Weight of the teacher in the loss.")] = 0.5,
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
    weight = distillation if teacher is not None else 0.0
    recipe = _recipe(epochs, learning_rate, schedule, weight_decay, label_smoothing, cutout, sizes, precision, seed,
                     weight)  # fmt: skip
    network = NetworkChoice(weights=checkpoint)
    _train(network, data, data_dir, batch_size, workers, TuneChoice(recipe, teacher, devices, nodes, half), out, device,
           json_out, force, quiet)  # fmt: skip


@app.command()
def show(
    checkpoint: Annotated[Path, typer.Argument(help="An infoprune checkpoint.")],
    json_out: JsonOut = None,
    force: Force = False,
) -> None:
    """Say what is in a checkpoint: architecture, plan, settings, figures."""
    _check_outputs(json_out, force=force)
    contents = commands.show(checkpoint)
    _finish(contents, json_out, force=force)
    printed = results()
    printed.print(f"{checkpoint}: {contents['architecture']} {json.dumps(contents['arguments'])}, "
                  f"images {contents['input_shape']}, written by infoprune {contents['version']}")  # fmt: skip
    if contents["plan"] is not None:
        printed.print(_plan_table(contents["plan"]))
    for name in ("figures", "settings"):
        if contents[name]:
            printed.print(f"{name}:")
            printed.print_json(json.dumps(contents[name]))


@app.command("export")
def export_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="An infoprune checkpoint.")],
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
    _check_outputs(json_out, force=force)
    with shown_progress(messages(), quiet=quiet) as progress:
        record = export(checkpoint, onnx=onnx, program=program, tolerance=tolerance, force=force, progress=progress)
    _finish(record, json_out, force=force)
    if not quiet:
        for table in (_export_table(record), _latency_table(record["latency_ms"])):
            results().print(table)


@app.command("report")
def write_report(
    run: Annotated[Path, typer.Argument(help="A folder that 'prune --run' wrote.")],
    page: Page = None,
    against: Annotated[list[Path] | None, typer.Option(help="Another run to lay beside it.")] = None,
    figures: Figures = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Show a run: one page that opens offline, and figures for papers."""
    _check_page(page, figures, force=force)
    opened, others = report.read_run(run), [report.read_run(one) for one in against or ()]
    with shown_progress(messages(), quiet=quiet) as progress:
        files = [] if figures is None else run_figures(opened, figures, force=force, progress=progress)
    if page is not None:
        write_text(page, report.page(opened, others), force=force)
    _told(page, figures, len(files), quiet=quiet)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders that 'prune --run' wrote.")],
    page: Page = None,
    figures: Figures = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Show accuracy against cost over several runs."""
    _check_page(page, figures, force=force)
    opened = [report.read_run(run) for run in runs]
    files = [] if figures is None else comparison_figures(opened, figures, force=force)
    if page is not None:
        write_text(page, report.comparison_page(opened), force=force)
    _told(page, figures, len(files), quiet=quiet)


@app.command("criteria")
def list_criteria() -> None:
    """List the criteria."""
    table = Table()
    for column in ("name", "what it measures", "needs labels", "cost", "paper"):
        table.add_column(column)
    for info in criteria.all_criteria():
        table.add_row(info.name, info.description, "yes" if info.needs_labels else "", info.cost, info.paper)
    results().print(table)


@app.command("networks")
def list_networks() -> None:
    """List the networks of the zoo."""
    table = Table()
    for column in ("name", "what it is", "images", "classes"):
        table.add_column(column)
    for name in zoo.names():
        info = zoo.info(name)
        table.add_row(name, info.description, "x".join(map(str, info.input_shape)), str(info.classes))
    results().print(table)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the checkpoints and the record.")] = Path("runs/demo"),
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Train a small network on the digits, prune it by five criteria to one budget, and compare them."""
    from infoprune.demo import run, table, write_pages

    with shown_progress(messages(), quiet=quiet) as progress:
        record = run(out, seed=seed, progress=progress)
    if not quiet:
        results().print(table(record))
        results().print(f"checkpoints and record: {out}")
    try:
        page = write_pages(out)
    except InputError as error:
        # A plain installation has no packages for pages; the table is complete without.
        messages().print(f"no report: {error}", markup=False, soft_wrap=True)
    else:
        if not quiet:
            results().print(f"report: {page}", soft_wrap=True)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        results().print(f"infoprune {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    # Lightning tells the precision on every start; the record holds it.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        code = app(standalone_mode=False)
    except InputError as error:
        _fail(f"Error: {error}", 2)
    except TyperException as error:
        _fail(f"Error: {error.format_message()}", 2)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # typer turns some interrupts into this code by itself
        _fail("Interrupted: nothing half-written is left; the same command of train or tune goes on.", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(sentence: str, code: int) -> None:
    messages().print(sentence, markup=False, soft_wrap=True)
    sys.exit(code)


def _train(
    network: NetworkChoice,
    data: str,
    data_dir: Path | None,
    batch_size: int,
    workers: int,
    choice: TuneChoice,
    out: Path,
    device: str,
    json_out: Path | None,
    force: bool,
    quiet: bool,
) -> None:
    _check_outputs(out, json_out, force=force)
    images = DataChoice(data, data_dir, batch_size=batch_size, workers=workers)
    console = messages()
    with shown_progress(console, quiet=quiet) as progress:
        record = commands.train(
            network,
            images,
            choice,
            out=out,
            device=device,
            force=force,
            progress=progress,
            tell=lambda line: None if quiet else console.print(line),
        )
    if record is None:
        return
    _finish(record, json_out, force=force)
    if not quiet:
        results().print(_single(record["figures"], str(out)))


def _network(
    model: str | None, weights: Path | None, arguments: str, mean: str | None, std: str | None, shape: str | None
) -> NetworkChoice:
    sizes = None if shape is None else tuple(int(size) for size in _numbers(shape, "--input-shape"))
    if sizes is not None and len(sizes) != 3:
        raise InputError(f"--input-shape takes three numbers C,H,W, not '{shape}'")
    return NetworkChoice(
        model,
        weights,
        _json_object(arguments, "--model-args"),
        None if mean is None else _numbers(mean, "--mean"),
        None if std is None else _numbers(std, "--std"),
        sizes,
    )


def _recipe(
    epochs: int,
    rate: float,
    schedule: str,
    decay: float,
    label_smoothing: float,
    cutout: float,
    sizes: str | None,
    precision: str,
    seed: int,
    distillation: float = 0.0,
) -> Recipe:
    return Recipe(
        epochs=epochs,
        learning_rate=rate,
        schedule=_one_of(schedule, Schedule, "--schedule"),
        weight_decay=decay,
        label_smoothing=label_smoothing,
        cutout=cutout,
        sizes=() if sizes is None else tuple(int(size) for size in _numbers(sizes, "--sizes")),
        precision=_one_of(precision, Precision, "--precision"),
        distillation=distillation,
        seed=seed,
    )


def _tap(tap: str | None) -> Tap | None:
    return None if tap is None else _one_of(tap, Tap, "--tap")


def _one_of(word: str, choices: Any, option: str) -> Any:
    if word not in choices.__args__:
        raise InputError(f"{option} takes one of {', '.join(choices.__args__)}, not '{word}'")
    return word


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise InputError(f"{option} takes numbers with commas between them, not '{text}'") from error


def _json_object(text: str, option: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(f"{option} takes a JSON object such as '{{\"classes\": 10}}': {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{option} takes a JSON object such as '{{\"classes\": 10}}', not {text}")
    return value


def _check_outputs(*paths: Path | None, force: bool) -> None:
    for path in paths:
        if path is not None:
            check_writable(path, force=force)


def _check_page(page: Path | None, figures: Path | None, *, force: bool) -> None:
    if page is None and figures is None:
        raise InputError("say what to write: --out report.html, --figures FOLDER, or both")
    _check_outputs(page, force=force)


def _told(page: Path | None, figures: Path | None, files: int, *, quiet: bool) -> None:
    if quiet:
        return
    if page is not None:
        results().print(f"page: {page}")
    if figures is not None:
        results().print(f"{files} figures: {figures}")


def _finish(record: dict[str, Any], path: Path | None, *, force: bool) -> None:
    if path is not None:
        write_text(path, json.dumps(record, indent=1) + "\n", force=force)


def _named(choice: Any) -> str:
    return choice.criterion if isinstance(choice, Choice) and choice.criterion else "the given plan"


def _single(figures: dict[str, Any], title: str) -> Table:
    table = Table(title=title, show_header=False)
    forms = {"accuracy": "{:.2f} %", "top5": "{:.2f} %", "loss": "{:.4f} nats", "latency_ms": "{:.2f}"}
    for name, value in figures.items():
        if value is not None:
            table.add_row(name.replace("_", " "), forms.get(name, "{:,}").format(value))
    return table


def _export_table(record: dict[str, Any]) -> Table:
    table = Table(title=f"{record['checkpoint']}: {record['architecture']}")
    for column in ("file", "bytes", "max abs difference", "largest output"):
        table.add_column(column, justify="left" if column == "file" else "right")
    for one in (record[kind] for kind in ("onnx", "program") if kind in record):
        difference, largest = f"{one['max_abs_difference']:.2g}", f"{one['largest_output']:.3g}"
        table.add_row(one["file"], f"{one['bytes']:,}", difference, largest)
    return table


def _latency_table(times: dict[str, dict[str, float]]) -> Table:
    table = Table(title="latency of one image, one thread of the CPU (ms)")
    runtimes = list(times["network"])
    for column in ("", *runtimes):
        table.add_column(column, justify="right" if column else "left")
    for name, by_runtime in times.items():
        table.add_row(name, *(f"{by_runtime[runtime]:.2f}" for runtime in runtimes))
    return table


def _reach_table(found: Reach) -> Table:
    table = Table(title=f"within reach: down to {found.macs:.2%} of the MACs, {found.parameters:.2%} of the parameters")
    for column in ("layer", "filters", "at least", "MACs it can save", "parameters", "binds"):
        table.add_column(column, justify="left" if column in ("layer", "binds") else "right", overflow="fold")
    for one in found.groups:
        binds = "yes" if one.held_macs > 0 or one.held_parameters > 0 else ""
        table.add_row(one.layer, str(one.filters), str(one.least), f"{one.macs:.2%}", f"{one.parameters:.2%}", binds)
    return table


def _plan_table(plan: dict[str, Any]) -> Table:
    table = Table(title="plan")
    for column in ("layer", "filters", "kept", "coupled with", "why"):
        table.add_column(column, justify="right" if column in ("filters", "kept") else "left")
    for layer, decision in plan["layers"].items():
        coupled = ", ".join(decision.get("coupled", ()))
        table.add_row(layer, str(decision["filters"]), str(len(decision["kept"])), coupled, decision.get("reason", ""))
    return table
