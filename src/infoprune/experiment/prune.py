"""Prune a network from files to a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from infoprune import data, pipeline
from infoprune.automatic.effort import allowance
from infoprune.cutoff import Reach
from infoprune.data.batches import Batches
from infoprune.declarations.validation import read_json
from infoprune.errors import InputError
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.devices import Devices, on_devices
from infoprune.experiment.images import Parts
from infoprune.experiment.options import CALIBRATION, CALIBRATION_CHOSEN, DataOptions, MetricOptions, NetworkOptions
from infoprune.experiment.settings import metric_settings, paper_tap, settings_of, write_record
from infoprune.files import write_text
from infoprune.options import (
    GRADIENT_IMAGES,
    REPAIR_IMAGES,
    EffortOptions,
    PruneOptions,
    RepairOptions,
    check_words,
    chosen,
)
from infoprune.pipeline import Result
from infoprune.plan import Plan
from infoprune.progress import Progress, silent
from infoprune.report import Run, kept_run, page
from infoprune.report.page import check_pages
from infoprune.report.run import run_files, stage_run
from infoprune.runs.outputs import Outputs, outputs
from infoprune.selection.stability import further_plans, spread
from infoprune.storage import checkpoint

# Held-out images that choose among the candidates of a cut-off rule, at most.
HELD_OUT = 1000


@dataclass(frozen=True)
class PruneRun:
    """The result of a pruning command and its record.

    Example:
        >>> import tempfile
        >>> network, images = NetworkOptions("digits"), DataOptions("digits", calibration=64)
        >>> out, choice = Path(tempfile.mkdtemp()) / "small.safetensors", PruneOptions("l1", ratio=0.5)
        >>> run = prune(network, images, choice, out=out, device="cpu")
        >>> run.record["pruned"]["macs"] == run.result.pruned.macs
        True
    """

    result: Result
    record: dict[str, Any]


def prune(
    network: NetworkOptions,
    images: DataOptions,
    choice: PruneOptions | Plan,
    *,
    out: Path,
    record_out: Path | None = None,
    run_out: Path | None = None,
    report_out: Path | None = None,
    words: Mapping[str, Any] | None = None,
    repair: RepairOptions | None = None,
    effort: EffortOptions | None = None,
    metric: MetricOptions | None = None,
    held_out: int | None = None,
    stability: int = 1,
    remove_constant: bool = False,
    seed: int = 0,
    device: str = "auto",
    devices: Devices = 1,
    nodes: int = 1,
    force: bool = False,
    progress: Progress = silent,
    on_reach: Callable[[Reach], None] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> PruneRun:
    """Prune a network and write the smaller one.

    Args:
        network: Which.
        images: Which images.
        choice: What is removed.
        out: The checkpoint to write. Beside it lies, until all is written, what is known of layers that are cut one by
            one, and the state of the repair ``distil``: the same call resumes after an interruption.
        record_out: Also write the record as JSON.
        run_out: Folder for the record, the plan and the evidence.
        report_out: Also write the page of this run.
        words: Where a user chose nothing but how much is removed: these words alone, so that the rest is chosen for
            the network.
        repair: How the cut network is repaired, ``None`` for not at all.
        effort: How much time may be spent where everything is chosen for the network.
        metric: What is measured, in place of accuracy, and limited by a largest loss.
        held_out: Largest number of held-out training images that choose among the candidates of a cut-off rule, by
            default 1,000.
        stability: With this many samples of calibration images, this run's among them, the plan is made to see how far
            it depends on them.
        remove_constant: Whether filters that are constant on all repair images are removed first, without loss.
        seed: Of every draw.
        device: Where it is done.
        devices: Devices of each machine, with one process each; all processes return the same. The first one writes.
        nodes: Machines.
        force: Whether files that exist are replaced.
        progress: Called in every stage.
        on_reach: Called with what a budget can reach.
        tell: Receives what is done to the images, and a warning where the network is hardly better than guessing.

    Raises:
        InputError: As in ``pipeline.prune``; a plan is passed together with ``stability``. Nothing is written then.

    Example:
        >>> import tempfile
        >>> out = Path(tempfile.mkdtemp()) / "small.safetensors"
        >>> network, images = NetworkOptions("digits"), DataOptions("digits", calibration=64)
        >>> choice = PruneOptions("l1", ratio=0.5)
        >>> run = prune(network, images, choice, out=out, device="cpu")
        >>> out.exists()
        True
    """
    if isinstance(choice, Plan) and stability > 1:
        raise InputError("a plan that you pass depends on no images: leave out the stability, or the plan")
    by_layer = isinstance(choice, PruneOptions) and choice.layerwise.is_asked_for
    if held_out is not None and not by_layer:
        raise InputError("held-out images choose among the candidates of a cut-off rule, and there is none: leave out "
                         "their number")  # fmt: skip
    check_pages(report_out)
    metric = metric or MetricOptions()
    quality = metric.quality()
    files = () if run_out is None else run_files(run_out)
    with (
        outputs(out, record_out, report_out, *files, inputs=(network.weights,), run="prune", force=force) as written,
        on_devices(device, devices, nodes) as place,
    ):
        model = run_network.open_network(network, place.device)
        everything = words is not None and pipeline.chooses_everything(words, repair) and not remove_constant
        most = CALIBRATION_CHOSEN if everything else CALIBRATION
        parts, images, calibration, test = run_images.parts_for(network, model, images, quality, seed, most, tell)
        if isinstance(choice, PruneOptions) and choice.tap is None:
            choice = replace(choice, tap=paper_tap(model, choice.criterion))
        resume = out.with_name(out.name + ".resume")
        given = _words(choice, words if everything else None, effort or EffortOptions())
        most = _most_repair_images(repair, effort if everything else None)
        given |= _repair_words(repair, run_images.batches(data.random_sample(parts.train, most, seed), model, images),
                               remove_constant)  # fmt: skip
        if by_layer:
            given["held_out"] = run_images.batches(_judging(parts, held_out or HELD_OUT, seed), model, images)
        result = pipeline.prune(model, calibration, test=test, resume=resume, keep_resume=True, progress=progress,
                                on_reach=on_reach, metric=quality.metric, output=quality.output, **given)  # fmt: skip
        record = result.record()
        record["settings"] = {
            **record["settings"],
            **settings_of(network, images, model),
            "seed": seed,
            **metric_settings(metric),
            **_repair_settings(repair, result, min(most, len(parts.train))),
        }
        if isinstance(choice, PruneOptions) and stability > 1:
            samples = [data.balanced_sample(parts.train, len(parts.calibration), seed + i) for i in range(1, stability)]
            others = [run_images.batches(sample, model, images) for sample in samples]
            plans = further_plans(model, others, choice, held_out=given.get("held_out"), resume=resume,
                                  progress=progress)  # fmt: skip
            record["stability"] = spread([result.plan, *plans])
        shown = run_out is not None or report_out is not None
        kept = kept_run(model, result, record, calibration, name=out.stem) if shown else None
        _stage_checkpoint(result.model, record, written.staged(out))
        write_record(record, written, record_out)
        _stage_shown(kept, written, run_out, report_out)
        written.commit()
        pipeline.remove_states(resume)
    return PruneRun(result, record)


def _words(choice: PruneOptions | Plan, words: Mapping[str, Any] | None, effort: EffortOptions) -> dict[str, Any]:
    """Return what is removed in the words of ``pipeline.prune``: these alone where all else is chosen."""
    if words is not None:
        return {**words, **asdict(effort)}
    found = {"plan": choice} if isinstance(choice, Plan) else choice.words()
    return {**found, **asdict(effort)}


def _stage_checkpoint(model: nn.Module, record: Mapping[str, Any], file: Path) -> None:
    copied = ("base", "free", "as_cut", "automatic", "pruned", "seconds")
    figures = {name: record[name] for name in copied if name in record}
    checkpoint.save(model, file, settings=record["settings"], figures=figures)


def _stage_shown(kept: Run | None, written: Outputs, run_out: Path | None, report_out: Path | None) -> None:
    if kept is not None and report_out is not None:
        write_text(written.staged(report_out), page(kept))
    if kept is not None and run_out is not None:
        stage_run(kept, run_out, written)


def _judging(parts: Parts, most: int, seed: int) -> data.Images:
    """Return the images that choose among the candidates of a cut-off rule."""
    if parts.held_out is None:
        return parts.calibration
    return data.balanced_sample(parts.held_out, min(most, len(parts.held_out)), seed)


def _most_repair_images(repair: RepairOptions | None, effort: EffortOptions | None) -> int:
    """Return how many images repair at most; more where everything is chosen and there is time for a gradient."""
    if repair is not None and repair.images is not None:
        return repair.images
    gradient = effort is not None and allowance(effort.effort, effort.minutes).minutes is not None
    return GRADIENT_IMAGES if gradient else REPAIR_IMAGES


def _repair_words(repair: RepairOptions | None, batches: Batches, remove_constant: bool) -> dict[str, Any]:
    """Return how a network is repaired in the words of ``pipeline.prune``."""
    if (repair is None or repair.method is None) and not remove_constant:
        return {"repair": repair}
    return {"repair": repair, "remove_constant": remove_constant, "repair_images": batches}


def _repair_settings(repair: RepairOptions | None, result: Result, images: int) -> dict[str, Any]:
    if repair is None or repair.method is None:
        return {}
    how = {**asdict(repair), "method": result.repair, "images": images}
    return {"repair": {name: value for name, value in how.items() if value is not None}}


def read_keep(path: Path | None) -> dict[str, Any]:
    """Return, under the name of the option they are, the plan or the counts that a JSON file holds.

    Raises:
        InputError: The file cannot be read as either.

    Example:
        >>> read_keep(None)
        {}
    """
    if path is None:
        return {}
    values = read_json(path, "the plan or counts")
    if isinstance(values, dict) and "layers" in values:
        return {"plan": Plan.from_dict(values)}
    if isinstance(values, dict) and isinstance(values.get("plan"), dict):
        values = values["plan"]  # a record, whose plan is by layer the kept filters
    if not isinstance(values, dict) or not values or not all(map(_is_count_or_filters, values.values())):
        raise InputError(f"'{path}' must hold a plan, or by layer the number or the list of the kept filters")
    return {"keep": values}


def choice_or_plan(
    words: Mapping[str, Any], *, plan: Plan | None = None, keep: Mapping[str, Any] | None = None
) -> PruneOptions | Plan:
    """Return the plan that was passed, else the options of pruning.

    Args:
        words: What was passed, as words of ``PruneOptions``; a seed may come with a plan, since images are drawn too.
        plan: A plan that was passed.
        keep: Counts or filters by layer that were passed.

    Raises:
        InputError: A plan was passed together with a word that chooses filters.

    Example:
        >>> choice_or_plan({"criterion": "l1", "ratio": 0.5}).criterion
        'l1'
    """
    if plan is None:
        return chosen(**words) if keep is None else chosen(**words, keep=keep)
    check_words(words)
    others = [word for word, value in words.items() if word != "seed" and value is not None]
    if others:
        raise InputError(f"a plan already names the kept filters: leave out {', '.join(others)}, or the plan")
    return plan


def _is_count_or_filters(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, list) and all(isinstance(i, int) for i in value))
