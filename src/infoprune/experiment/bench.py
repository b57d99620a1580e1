"""The board of a network and a data set, from files to a folder of rows that a later run adds to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from infoprune import data
from infoprune.board.options import BoardOptions
from infoprune.board.protocol import Subject, measured, reference
from infoprune.board.rows import Board, Row, Scored
from infoprune.data import Images, Source, usual_augmentation
from infoprune.data.batches import example_of
from infoprune.errors import InputError
from infoprune.experiment import board_files
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.options import CALIBRATION, DataOptions, NetworkOptions
from infoprune.experiment.settings import as_json, paper_tap, settings_of
from infoprune.files import locked, write_text
from infoprune.measure.advice import chance_warning, is_chance
from infoprune.measure.figures import outputs_of
from infoprune.network.fingerprint import fingerprint
from infoprune.progress import Progress, silent
from infoprune.report.board_page import board_page
from infoprune.runs.processes import side_by_side
from infoprune.training.loss import with_common_maps
from infoprune.training.recipe import FINE_TUNING
from infoprune.training.train import make_fabric
from infoprune.training.train import train as train_network
from infoprune.version import __version__

Unit = tuple[str, int]


@dataclass(frozen=True)
class Job:
    """A board that is to be measured.

    Args:
        network: Which network.
        images: Which images.
        options: What is compared.
        folder: Where its rows are kept.
        test_images: Size of a class-balanced sample of the test images; all where it is ``None``.
        device: Where the network is.

    Example:
        >>> Job(NetworkOptions("digits"), DataOptions("digits"), BoardOptions(seeds=1), Path("board")).test_images
    """

    network: NetworkOptions
    images: DataOptions
    options: BoardOptions
    folder: Path
    test_images: int | None = None
    device: str = "auto"


def bench(
    job: Job,
    *,
    processes: int = 1,
    progress: Progress = silent,
    tell: Callable[[str], None] | None = None,
    on_images: Callable[[str], None] = lambda line: None,
) -> Board:
    """Measure the cells of a board that its folder does not hold yet, and return those that were asked for.

    Every row is appended to ``rows.jsonl`` in the folder when it is measured, so that the same command resumes after an
    interruption, and a command with more criteria, budgets, repairs or seeds measures only what is new. Cells that
    could not be measured are tried again.

    Args:
        job: The board.
        processes: Number of processes that measure side by side, each with its share of the threads.
        progress: Called in every stage.
        tell: Called with a line after every row, where there is one process.
        on_images: Receives what is done to the images, and a warning where the network is hardly better than guessing.

    Raises:
        InputError: The network or the data cannot be used, the folder holds another board or cannot be written, or
            another run writes it.

    Example:
        >>> import tempfile
        >>> from infoprune.board import BoardOptions
        >>> options = BoardOptions(criteria=("l2",), repairs=("bn",), budgets=(0.5,), sharing=("uniform",), seeds=1)
        >>> folder = Path(tempfile.mkdtemp()) / "board"
        >>> job = Job(NetworkOptions("digits"), DataOptions("digits", calibration=20), options, folder, device="cpu")
        >>> [(row.criterion, row.repair) for row in bench(job).rows][:3]
        [('random', 'none'), ('random', 'bn'), ('l1', 'none')]
    """
    with locked(job.folder):
        subject, settings = _opened(job)
        board_files.check_folder(job.folder, settings["conditions"])
        found = board_files.read(job.folder)
        if found.base is None:
            base = reference(subject, progress=progress)
            board_files.write_settings(job.folder, settings)
            board_files.append(job.folder, base)
            found = board_files.read(job.folder)
        on_images(run_network.images_in_words(job.network, subject.model, photos=job.images.name == "folder"))
        classes = outputs_of(subject.model, example_of(subject.test, subject.model))
        if found.base is not None and is_chance(found.base.accuracy, classes):
            on_images(f"Warning: {chance_warning(found.base.accuracy)}")
        done = {row.cell for row in found.rows if not row.reason}
        units = [unit for unit in job.options.units() if set(job.options.cells(*unit)) - done]
        if processes == 1 or len(units) < 2:
            _measure(job, subject, units, progress, tell)
        else:
            threads = max(1, torch.get_num_threads() // processes)
            shares = [units[number::processes] for number in range(processes)]
            side_by_side(_measure_in_process, [(job, share, threads) for share in shares if share])
        return _asked_for(job)


def read_board(folder: Path) -> Board:
    """Return everything that the folder of a board holds.

    Raises:
        InputError: There is no board in the folder.

    Example:
        >>> read_board(Path("nowhere"))
        Traceback (most recent call last):
        infoprune.errors.InputError: 'nowhere' holds no board: run infoprune bench --out nowhere
    """
    return board_files.read(folder).board(folder)


def write_page(job: Job, board: Board) -> Path:
    """Write the page of a board into its folder and return its path.

    Raises:
        InputError: Jinja2 or Plotly is not installed, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> from infoprune.board.rows import Reference
        >>> job = Job(NetworkOptions("digits"), DataOptions("digits"), BoardOptions(), Path(tempfile.mkdtemp()))
        >>> rows = (Row("l1", 0, "uniform", 0.5, "none", 55.0, None, 1.2, 50, 5, 6.0, 0, 0.0),)
        >>> write_page(job, Board(Reference(93.4, 0.3, 2000, 100, 10, 9.1, {}), (), rows)).name
        'board.html'
    """
    name = job.network.model or (job.network.weights.stem if job.network.weights else "")
    page = job.folder / board_files.PAGE
    write_text(page, board_page(board, f"{name}, {job.images.name}"), force=True)
    return page


def _measure(
    job: Job, subject: Subject, units: Sequence[Unit], progress: Progress, tell: Callable[[str], None] | None
) -> None:
    found = board_files.read(job.folder)
    done = [row.cell for row in found.rows if not row.reason]
    for one in measured(subject, units, known=found.scored, done=done, progress=progress):
        board_files.append(job.folder, one)
        if tell is not None and isinstance(one, Row):
            tell(_told(one))


def _measure_in_process(job: Job, units: Sequence[Unit], threads: int) -> None:
    torch.set_num_threads(threads)
    _measure(job, _opened(job)[0], units, silent, None)


def _asked_for(job: Job) -> Board:
    whole = board_files.read(job.folder).board(job.folder)
    units = job.options.units()
    cells = {cell: None for unit in units for cell in job.options.cells(*unit)}
    rows = {row.cell: row for row in whole.rows}
    scores: dict[Unit, Scored] = {(one.criterion, one.seed): one for one in whole.scored}
    return replace(
        whole,
        scored=tuple(scores[unit] for unit in units if unit in scores),
        rows=tuple(rows[cell] for cell in cells if cell in rows),
    )


def _opened(job: Job) -> tuple[Subject, dict[str, Any]]:
    """Return what is measured, and the settings of the board with the conditions that all its rows share."""
    model = run_network.open_network(job.network, job.device)
    source = data.open_source(job.images.name, job.images.directory)
    run_images.check_classes(source, model, job.images)
    count, sample, train, test = _images(source, job)
    if job.test_images is not None and job.test_images < len(test):
        test = data.balanced_sample(test, job.test_images)
    subject = Subject(
        model,
        lambda seed: run_images.batches(sample(seed), model, job.images),
        run_images.batches(test, model, job.images),
        job.options,
        lambda criterion: paper_tap(model, criterion),
        _tune(job, model, train) if job.options.fine_tune_epochs else None,
    )
    options = job.options
    settings = settings_of(job.network, job.images, model)
    conditions = {
        "network": fingerprint(model.state_dict()),
        "preprocessing": settings["preprocessing"],
        "data set": as_json({"name": job.images.name, "directory": job.images.directory}),
        "number of calibration images": count,
        "number of test images": len(test),
        "layers": {"layers": list(options.layers), "skip": list(options.skip)},
        "precision of the accuracy": "bfloat16" if options.bf16 else "float32",
        "fine-tuning": _fine_tuning(options, train),
        "version": __version__,
    }
    return subject, {**settings, "board": asdict(options), "conditions": conditions}


def _images(source: Source, job: Job) -> tuple[int, Callable[[int], Images], Images, Images]:
    """Return the number of calibration images, those of a seed, the training and the test images; no two share one.

    Of a set without test images at most half calibrate, all seeds together.
    """
    asked = job.images.calibration
    if source.train is source.test:
        seeds = job.options.seeds
        count = asked or min(CALIBRATION, max(1, len(source.train) // (2 * seeds)))
        pool, test = data.divided(source.train, count * seeds)
        return count, lambda seed: pool.subset(torch.arange(seed, len(pool), seeds)), pool, test
    train, _ = data.held_out_split(source.train, job.images.held_out)
    count = asked or min(CALIBRATION, len(train))
    return count, lambda seed: data.balanced_sample(train, count, seed), train, source.test


def _fine_tuning(options: BoardOptions, train: Images) -> dict[str, Any]:
    if not options.fine_tune_epochs:
        return {}
    images = options.fine_tune_images or len(train)
    recipe = asdict(replace(FINE_TUNING, epochs=options.fine_tune_epochs, learning_rate=options.fine_tune_rate))
    return {**recipe, "images": images}


def _tune(job: Job, original: nn.Module, train: Images) -> Callable[[nn.Module, int], nn.Module]:
    options = job.options
    if (options.fine_tune_images or 0) > len(train):
        raise InputError(
            f"there are {len(train)} training images, and fine-tuning on {options.fine_tune_images} is asked for"
        )

    def tune(model: nn.Module, seed: int) -> nn.Module:
        recipe = replace(FINE_TUNING, epochs=options.fine_tune_epochs, learning_rate=options.fine_tune_rate, seed=seed)
        some = data.balanced_sample(train, options.fine_tune_images, seed) if options.fine_tune_images else train
        crop = isinstance(train, data.FolderImages)
        batches = run_images.batches(some, model, job.images, shuffle=True, random_crop=crop)
        recipe = with_common_maps(recipe, model, original, example_of(batches, model))  # blocks may be gone
        fabric = make_fabric(accelerator=job.device.partition(":")[0], precision=recipe.precision)
        augmentation = usual_augmentation(job.images.name)
        found = train_network(model, batches, None, recipe, teacher=original, augmentation=augmentation, fabric=fabric)
        return found.model.eval()

    return tune


def _told(row: Row) -> str:
    measured = row.reason or f"{row.accuracy:.2f} %" + ("" if row.tuned is None else f", tuned {row.tuned:.2f} %")
    return f"{row.criterion}, seed {row.seed}, {row.sharing} {row.budget:g}, {row.repair}: {measured}"
