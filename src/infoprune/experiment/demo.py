"""The ten-second tour: train a small network on real digits, prune it by five criteria to one budget, compare."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from infoprune import pipeline, report
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.options import DataOptions, NetworkOptions, TuneOptions
from infoprune.experiment.train import train as train_network
from infoprune.files import write_text
from infoprune.measure.record import removed
from infoprune.plan import Budget
from infoprune.progress import Progress, silent
from infoprune.storage import checkpoint
from infoprune.training.recipe import Recipe

CRITERIA = ("cmi", "hrel", "qsfm", "l1", "random")
BUDGET = Budget(macs=0.5)
RECIPE = Recipe(epochs=20, learning_rate=0.1, precision="32-true")


def run(out: Path, *, seed: int = 0, progress: Progress = silent) -> dict[str, Any]:
    """Train, prune by every criterion, write checkpoints and ``record.json`` into a folder, and return the record.

    Raises:
        InputError: The folder cannot be written.
    """
    digits = DataOptions("digits", batch_size=64)
    base = out / "base.safetensors"
    trained = train_network(
        NetworkOptions("digits"), digits, TuneOptions(RECIPE), out=base, device="cpu", force=True, progress=progress
    )
    model = run_network.open_network(NetworkOptions(weights=base), "cpu")
    parts = run_images.open_parts(digits, seed)
    calibration, test = (run_images.batches(part, model, digits) for part in (parts.calibration, parts.test))
    rows = {}
    for criterion in CRITERIA:
        result = pipeline.prune(
            model,
            calibration,
            test=test,
            repair="bn",
            progress=progress,
            criterion=criterion,
            budget=BUDGET,
            seed=seed,
        )
        record = result.record()
        figures = {name: record[name] for name in ("base", "as_cut", "pruned", "seconds")}
        path = out / f"{criterion}.safetensors"
        checkpoint.save(result.model, path, settings=record["settings"], figures=figures, force=True)
        rows[criterion] = record
        report.write_run(
            report.kept_run(model, result, record, calibration, name=criterion), out / criterion, force=True
        )
    whole = {"base": trained, "criteria": rows, "budget": asdict(BUDGET)}
    write_text(out / "record.json", json.dumps(whole, indent=1) + "\n", force=True)
    return whole


def write_pages(out: Path) -> Path:
    """Write the page of the first criterion, the others beside it, and the page that compares them all.

    Returns:
        The page of the first criterion.

    Raises:
        InputError: There is no demo in the folder, or the packages that pages need are not installed.

    Example:
        >>> write_pages(Path("no_such_folder"))
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: there is no run in 'no_such_folder/cmi'
    """
    runs = [report.read_run(out / criterion) for criterion in CRITERIA]
    write_text(out / "compare.html", report.comparison_page(runs), force=True)
    write_text(out / "report.html", report.page(runs[0], runs[1:]), force=True)
    return out / "report.html"


def table(record: dict[str, Any]) -> Table:
    """Return the record of a demo as one table.

    Example:
        >>> base = {"accuracy": 98.0, "macs": 200, "parameters": 20, "latency_ms": 1.0}
        >>> half = {"accuracy": 97.0, "macs": 100, "parameters": 10, "latency_ms": 0.5}
        >>> row = {"base": base, "as_cut": half, "pruned": half, "seconds": {"prune": 1.0}}
        >>> table({"criteria": {"l1": row}}).row_count
        1
    """
    shown = Table(title="digits, at most half of the MACs, no fine-tuning")
    for column in (
        "criterion",
        "accuracy (%)",
        "as cut (%)",
        "+ BN (%)",
        "MACs",
        "MACs removed",
        "parameters",
        "latency (ms)",
        "s",
    ):
        shown.add_column(column, justify="left" if column == "criterion" else "right")
    for criterion, row in record["criteria"].items():
        base, pruned = row["base"], row["pruned"]
        shown.add_row(
            criterion,
            f"{base['accuracy']:.2f}",
            f"{row['as_cut']['accuracy']:.2f}",
            f"{pruned['accuracy']:.2f}",
            f"{base['macs']:,} -> {pruned['macs']:,}",
            f"{removed(base['macs'], pruned['macs']):.1f} %",
            f"{base['parameters']:,} -> {pruned['parameters']:,}",
            f"{base['latency_ms']:.2f} -> {pruned['latency_ms']:.2f}",
            f"{sum(row['seconds'].values()):.1f}",
        )
    return shown
