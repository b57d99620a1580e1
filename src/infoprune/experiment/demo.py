"""The tour: train a small network on real digits, prune it by the one line, and compare five criteria on a board."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infoprune import pipeline, report
from infoprune.board import Board, BoardOptions
from infoprune.board.options import GLOBAL
from infoprune.experiment import board_files
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.bench import Job, bench, read_board, write_page
from infoprune.experiment.options import DataOptions, NetworkOptions, TuneOptions
from infoprune.experiment.train import train as train_network
from infoprune.files import write_text
from infoprune.plan import Budget
from infoprune.progress import Progress, silent
from infoprune.storage import checkpoint
from infoprune.training.recipe import Recipe

CRITERIA = ("cmi", "hrel", "qsfm", "l1", "random")
BUDGET = Budget(macs=0.5)
# What one line without options gives; its checkpoint and its run have this name.
DEFAULT = "small"
DIGITS = DataOptions("digits", batch_size=64)
# The folder of the board, in that of the demo.
BOARD = "board"
RECIPE = Recipe(epochs=20, learning_rate=0.1, precision="32-true")


def run(out: Path, *, seed: int = 0, progress: Progress = silent) -> dict[str, Any]:
    """Train, prune without options and by every criterion, write checkpoints and ``record.json``, return the record.

    Raises:
        InputError: The folder cannot be written.
    """
    base = out / "base.safetensors"
    trained = train_network(
        NetworkOptions("digits"), DIGITS, TuneOptions(RECIPE), out=base, device="cpu", force=True, progress=progress
    )
    rows = _pruned(out, base, seed, progress)
    default = rows.pop(DEFAULT)
    board_files.remove(out / BOARD)
    board = bench(_job(out), progress=progress)
    measured = {"base": asdict(board.base), "rows": [asdict(row) for row in board.rows]}
    whole = {"base": trained, "default": default, "criteria": rows, "board": measured, "budget": asdict(BUDGET)}
    write_text(out / "record.json", json.dumps(whole, indent=1) + "\n", force=True)
    return whole


def _pruned(out: Path, base: Path, seed: int, progress: Progress) -> dict[str, Any]:
    """Prune without options and by every criterion, write checkpoints and runs, and return the records by name."""
    model = run_network.open_network(NetworkOptions(weights=base), "cpu")
    parts = run_images.open_parts(DIGITS, seed)
    calibration, test = (run_images.batches(part, model, DIGITS) for part in (parts.calibration, parts.test))
    words: dict[str, dict[str, Any]] = {DEFAULT: {}}
    words |= {criterion: {"criterion": criterion, "repair": "bn"} for criterion in CRITERIA}
    rows = {}
    for name, how in words.items():
        result = pipeline.prune(model, calibration, test=test, progress=progress, budget=BUDGET, seed=seed, **how)
        record = result.record()
        figures = {part: record[part] for part in ("base", "as_cut", "pruned", "seconds")}
        path = out / f"{name}.safetensors"
        checkpoint.save(result.model, path, settings=record["settings"], figures=figures, force=True)
        rows[name] = record
        report.write_run(report.kept_run(model, result, record, calibration, name=name), out / name, force=True)
    return rows


def _job(out: Path) -> Job:
    options = BoardOptions(criteria=CRITERIA, budgets=(float(BUDGET.shares()["macs"]),), sharing=(GLOBAL,))
    return Job(NetworkOptions(weights=out / "base.safetensors"), DIGITS, options, out / BOARD, device="cpu")


def board_of(out: Path) -> Board:
    """Return the board of a demo.

    Raises:
        InputError: There is no demo in the folder.

    Example:
        >>> board_of(Path("no_such_folder"))
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: there is no board
    """
    return read_board(out / BOARD)


def write_pages(out: Path) -> Path:
    """Write the page of the network pruned without options, beside the criteria, a comparison, and the board's page.

    Returns:
        The page of the network pruned without options.

    Raises:
        InputError: There is no demo in the folder, or the packages that pages need are not installed.

    Example:
        >>> write_pages(Path("no_such_folder"))
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: there is no run in 'no_such_folder/cmi'
    """
    runs = [report.read_run(out / criterion) for criterion in (DEFAULT, *CRITERIA)]
    write_text(out / "compare.html", report.comparison_page(runs), force=True)
    write_text(out / "report.html", report.page(runs[0], runs[1:]), force=True)
    write_page(_job(out), board_of(out))
    return out / "report.html"
