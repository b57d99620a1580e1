"""Prune a network from files to a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from infoprune import data, pipeline
from infoprune.cutoff import Reach
from infoprune.errors import InputError
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.options import DataOptions, NetworkOptions
from infoprune.experiment.settings import paper_tap, settings_of
from infoprune.option_values import words_of
from infoprune.options import PruneOptions, RepairOptions, chosen
from infoprune.pipeline import Result
from infoprune.plan import Budget, Plan
from infoprune.progress import Progress, silent
from infoprune.report import Run, kept_run
from infoprune.selection.stability import further_plans, spread
from infoprune.storage import checkpoint
from infoprune.validation import read_json


@dataclass(frozen=True)
class PruneRun:
    """The result of a pruning command, its record, and what a report shows of it, where that was asked for."""

    result: Result
    record: dict[str, Any]
    kept: Run | None = None


def prune(
    network: NetworkOptions,
    images: DataOptions,
    choice: PruneOptions | Plan,
    *,
    out: Path,
    repair: RepairOptions | None = None,
    keep_evidence: bool = False,
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
        out: The checkpoint to write. Beside it lies, until the end, what is known of layers that are cut one by one.
        repair: How the cut network is repaired.
        keep_evidence: Whether what a report shows is kept.
        held_out: At most so many held-out training images choose among the candidates of a cut-off rule.
        stability: With this many samples of calibration images, this run's among them, the plan is made to see how far
            it depends on them.
        remove_constant: Whether filters that no repair image moves go first, at no loss.
        seed: Of every draw.
        device: Where it is done.
        force: Whether a file at ``out`` is replaced.
        progress: Told how far it is.
        on_reach: Told what a budget can reach.

    Raises:
        InputError: As in ``pipeline.prune``; nothing is written then.
    """
    model = run_network.open_network(network, device)
    parts = run_images.open_parts(images, seed)
    if isinstance(choice, PruneOptions) and choice.tap is None:
        choice = replace(choice, tap=paper_tap(model, choice.criterion))
    calibration, test = (run_images.batches(part, model, images) for part in (parts.calibration, parts.test))
    given: dict[str, Any] = {"plan": choice} if isinstance(choice, Plan) else choice.words()
    if repair is not None:
        given |= {"repair": repair}
    if repair is not None or remove_constant:
        count = RepairOptions.images if repair is None else repair.images
        unlabelled = data.random_sample(parts.train, count, seed)
        given |= {"remove_constant": remove_constant, "repair_batches": run_images.batches(unlabelled, model, images)}
    if isinstance(choice, PruneOptions) and choice.layerwise.is_asked_for:
        judges = parts.calibration if parts.held_out is None else data.balanced_sample(
            parts.held_out, min(held_out, len(parts.held_out)), seed)  # fmt: skip
        given |= {"held_out": run_images.batches(judges, model, images), "resume": out.with_name(out.name + ".resume")}
    result = pipeline.prune(model, calibration, test=test, progress=progress, on_reach=on_reach, **given)
    settings = {**settings_of(network, images, model), "seed": seed}
    if repair is not None:
        how = {**asdict(repair), "images": min(repair.images, len(parts.train))}
        settings["repair"] = {name: value for name, value in how.items() if value is not None}
    record = result.record()
    record["settings"] = {**record["settings"], **settings}
    if isinstance(choice, PruneOptions) and stability > 1:
        samples = [data.balanced_sample(parts.train, len(parts.calibration), seed + i) for i in range(1, stability)]
        others = [run_images.batches(sample, model, images) for sample in samples]
        plans = further_plans(model, others, choice, held_out=given.get("held_out"), progress=progress)
        record["stability"] = spread([result.plan, *plans])
    told = ("base", "free", "as_cut", "pruned", "seconds")
    figures: dict[str, Any] = {name: record[name] for name in told if name in record}
    checkpoint.save(result.model, out, settings=record["settings"], figures=figures, force=force)
    kept = kept_run(model, result, record, calibration, name=out.stem) if keep_evidence else None
    return PruneRun(result, record, kept)


def read_keep(path: Path | None) -> dict[str, Any]:
    """Return, under the name of the option they are, the plan or the counts that a JSON file holds.

    Raises:
        InputError: The file cannot be read as either.
    """
    if path is None:
        return {}
    values = read_json(path, "the plan or counts")
    if isinstance(values, dict) and "layers" in values:
        return {"plan": Plan.from_dict(values)}
    if isinstance(values, dict) and isinstance(values.get("plan"), dict):
        values = values["plan"]  # a record, whose plan is by layer the filters that stay
    if not isinstance(values, dict) or not values or not all(map(_is_count_or_filters, values.values())):
        raise InputError(f"'{path}' must hold a plan, or by layer the number or the list of the filters that stay")
    return {"keep": values}


def choice_or_plan(
    words: Mapping[str, Any], *, plan: Plan | None = None, keep: Mapping[str, Any] | None = None
) -> PruneOptions | Plan:
    """Return the plan that was given, else the options of pruning.

    Args:
        words: What was given, as words of ``PruneOptions``.
        plan: A plan that was given.
        keep: Counts or filters by layer that were given.

    Raises:
        InputError: A plan was given together with another way to say how much goes.
    """
    if plan is None:
        return chosen(**words) if keep is None else chosen(**words, keep=keep)
    if any(words.get(way) is not None for way in ("ratio", "budget", "threshold", *words_of(Budget))):
        raise InputError("a plan says already how much goes: give it without a ratio and without a budget")
    return plan


def _is_count_or_filters(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, list) and all(isinstance(i, int) for i in value))
