"""Prune a network from files to a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from infoprune import data, pipeline
from infoprune.cutoff import Reach
from infoprune.errors import InputError
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.images import DataOptions, Parts
from infoprune.experiment.network import NetworkOptions
from infoprune.experiment.settings import check_seed, paper_tap, settings_of, write_record
from infoprune.files import write_text
from infoprune.json_files import read_given
from infoprune.options import LayerwiseOptions, PruneOptions, check_words, chosen
from infoprune.outputs import Outputs, outputs
from infoprune.pipeline import Result
from infoprune.plan import Plan
from infoprune.progress import Progress, silent
from infoprune.report import Run, kept_run, page
from infoprune.report.page import check_pages
from infoprune.report.run import run_files, stage_run
from infoprune.selection.stability import further_plans, spread
from infoprune.storage import checkpoint


@dataclass(frozen=True)
class PruneRun:
    """The result of a pruning command and its record."""

    result: Result
    record: dict[str, Any]


@dataclass(frozen=True)
class RepairOptions:
    """How a cut network is repaired.

    Args:
        method: A name of ``infoprune.all_repairs()``.
        images: Number of training images, without labels, drawn at random.
        minutes: How long the repair by gradient may take, by default as long as it needs.
    """

    method: str
    images: int = 1000
    minutes: float | None = None


def prune(
    network: NetworkOptions,
    images: DataOptions,
    choice: PruneOptions | Plan,
    *,
    out: Path,
    record_out: Path | None = None,
    run_out: Path | None = None,
    report_out: Path | None = None,
    repair: RepairOptions | None = None,
    held_out: int = 1000,
    stability: int = 1,
    remove_constant: bool = False,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    progress: Progress = silent,
    on_reach: Callable[[Reach], None] | None = None,
) -> PruneRun:
    """Prune a network and write the smaller one.

    Args:
        network: Which.
        images: Which images.
        choice: What is removed.
        out: The checkpoint to write. Beside it lies, until all is written, what is known of layers that are cut one by
            one, and the state of the repair ``distil``: the same call goes on after an interruption.
        record_out: Also write the record as JSON.
        run_out: Folder for the record, the plan and the evidence.
        report_out: Also write the page of this run.
        repair: How the cut network is repaired.
        held_out: At most so many held-out training images choose among the candidates of a cut-off rule.
        stability: With this many samples of calibration images, this run's among them, the plan is made to see how far
            it depends on them.
        remove_constant: Whether filters that no repair image moves go first, at no loss.
        seed: Of every draw.
        device: Where it is done.
        force: Whether files that exist are replaced.
        progress: Told how far it is.
        on_reach: Told what a budget can reach.

    Raises:
        InputError: As in ``pipeline.prune``; a plan is given together with ``stability``. Nothing is written then.
    """
    check_seed(seed)
    if isinstance(choice, Plan) and stability > 1:
        raise InputError("a plan that is given depends on no images: leave out the stability, or the plan")
    check_pages(report_out)
    files = () if run_out is None else run_files(run_out)
    with outputs(out, record_out, report_out, *files, run="prune", force=force) as written:
        model = run_network.open_network(network, device)
        parts = run_images.open_parts(images, seed)
        if isinstance(choice, PruneOptions) and choice.tap is None:
            choice = replace(choice, tap=paper_tap(model, choice.criterion))
        calibration, test = (run_images.batches(part, model, images) for part in (parts.calibration, parts.test))
        resume = out.with_name(out.name + ".resume")
        given: dict[str, Any] = {"plan": choice} if isinstance(choice, Plan) else choice.words()
        given |= _repair_words(repair, parts, model, images, seed, remove_constant)
        if isinstance(choice, PruneOptions) and choice.layerwise.is_asked_for:
            given["held_out"] = run_images.batches(_judging(parts, held_out, seed), model, images)
        result = pipeline.prune(model, calibration, test=test, resume=resume, keep_resume=True, progress=progress,
                                on_reach=on_reach, **given)  # fmt: skip
        record = result.record()
        record["settings"] |= {**settings_of(network, images, model), "seed": seed, **_repair_settings(repair, parts)}
        if isinstance(choice, PruneOptions) and stability > 1:
            samples = [data.balanced_sample(parts.train, len(parts.calibration), seed + i) for i in range(1, stability)]
            others = [run_images.batches(sample, model, images) for sample in samples]
            plans = further_plans(model, others, choice, held_out=given.get("held_out"), resume=resume,
                                  progress=progress)  # fmt: skip
            record["stability"] = spread([result.plan, *plans])
        shown = run_out is not None or report_out is not None
        kept = kept_run(model, result, record, calibration, name=out.stem) if shown else None
        told = ("base", "free", "as_cut", "pruned", "seconds")
        figures: dict[str, Any] = {name: record[name] for name in told if name in record}
        checkpoint.save(result.model, written.staged(out), settings=record["settings"], figures=figures)
        write_record(record, written, record_out)
        _stage_shown(kept, written, run_out, report_out)
        written.commit()
        pipeline.remove_states(resume)
    return PruneRun(result, record)


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


def _repair_words(
    repair: RepairOptions | None, parts: Parts, model: nn.Module, images: DataOptions, seed: int, remove_constant: bool
) -> dict[str, Any]:
    """Return how a network is repaired in the words of ``pipeline.prune``."""
    if repair is None and not remove_constant:
        return {}
    count = RepairOptions.images if repair is None else repair.images
    unlabelled = data.random_sample(parts.train, count, seed)
    found = {"remove_constant": remove_constant, "repair_batches": run_images.batches(unlabelled, model, images)}
    return found if repair is None else found | {"repair": repair.method, "repair_minutes": repair.minutes}


def _repair_settings(repair: RepairOptions | None, parts: Parts) -> dict[str, Any]:
    if repair is None:
        return {}
    how = {"method": repair.method, "images": min(repair.images, len(parts.train)), "minutes": repair.minutes}
    return {"repair": {name: value for name, value in how.items() if value is not None}}


def read_keep(path: Path | None) -> dict[str, Any]:
    """Return, under the name of the option they are, the plan or the counts that a JSON file holds.

    Raises:
        InputError: The file cannot be read as either.
    """
    if path is None:
        return {}
    values = read_given(path)
    if isinstance(values, dict) and "layers" in values:
        return {"plan": Plan.from_dict(values)}
    if isinstance(values, dict) and isinstance(values.get("plan"), dict):
        values = values["plan"]  # a record, whose plan is by layer the filters that stay
    if not isinstance(values, dict) or not values or not all(map(_is_count_or_filters, values.values())):
        raise InputError(f"'{path}' must hold a plan, or by layer the number or the list of the filters that stay")
    return {"keep": values}


def choice_or_plan(**given: Any) -> PruneOptions | Plan:
    """Return the plan that was given, else the choice.

    Args:
        **given: The words of ``PruneOptions``, and ``plan``; a seed may come with a plan, since images are drawn too.

    Raises:
        InputError: A plan was given together with a word that chooses filters.
    """
    plan: Plan | None = given.pop("plan", None)
    if plan is None:
        return chosen(**given)
    check_words(given)
    usual = {one.name: one for kind in (PruneOptions, LayerwiseOptions) for one in fields(kind)}
    said = [word for word, value in given.items() if word != "seed" and value != _default_of(usual[word])]
    if said:
        raise InputError(f"a plan names the filters that stay already: leave out {', '.join(said)}, or the plan")
    return plan


def _default_of(one: Field[Any]) -> Any:
    """Return the default of a field of a dataclass."""
    return one.default if one.default_factory is MISSING else one.default_factory()


def _is_count_or_filters(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, list) and all(isinstance(i, int) for i in value))
