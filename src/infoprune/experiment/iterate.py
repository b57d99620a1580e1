"""Prune in rounds with retraining, from files to a file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from infoprune import data
from infoprune.data import usual_augmentation
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.devices import Devices, on_devices
from infoprune.experiment.images import Parts
from infoprune.experiment.options import DataOptions, NetworkOptions
from infoprune.experiment.settings import measured, paper_tap, settings_of, write_record
from infoprune.files import locked
from infoprune.iterative.iterate import Images as RoundImages
from infoprune.iterative.iterate import iterate as run_rounds
from infoprune.iterative.run_state import Round, forget
from infoprune.iterative.schedule import PruningSchedule
from infoprune.measure.information_plane import InformationPlane, write_points
from infoprune.measure.loggers import logging_to
from infoprune.progress import Progress, silent
from infoprune.runs.outputs import outputs
from infoprune.runs.together import is_first_process
from infoprune.storage import checkpoint


def iterate(
    network: NetworkOptions,
    images: DataOptions,
    schedule: PruningSchedule,
    *,
    out: Path,
    record_out: Path | None = None,
    train_images: int | None = None,
    state: Path | None = None,
    plane: tuple[Path, InformationPlane] | None = None,
    device: str = "auto",
    devices: Devices = 1,
    nodes: int = 1,
    force: bool = False,
    log_to: str | None = None,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Prune a network in rounds and write the smallest one.

    The state is kept in a folder beside ``out`` until all is written, or in ``state`` for good, so that the same
    command resumes after an interruption.

    Args:
        network: Which network.
        images: Which images; the schedule sets how many score the filters.
        schedule: What is removed in each round, and how the network is trained.
        out: The checkpoint to write.
        record_out: Also write the record as JSON.
        train_images: Size of a class-balanced sample of training images to train on; by default on all.
        state: Where the state is kept.
        plane: A file for the points of an information plane, and the plane that notes them.
        device: Where the network is.
        devices: Devices of each machine, with one process each. The first one writes.
        nodes: Machines.
        force: Replace files that exist.
        log_to: Where the figures of every epoch and round are logged, such as ``"tensorboard:runs"``.
        progress: Called while filters are scored and the network is trained.
        tell: Given a line after every round.

    Raises:
        InputError: The network, the data or the schedule cannot be used, or the training diverges.
    """
    kept_in = state or out.with_name(out.name + ".rounds")
    points = None if plane is None else plane[0]
    with (
        outputs(out, points, record_out, inputs=(network.weights,), run="iterate", force=force) as written,
        logging_to(log_to) as loggers,
        locked(kept_in) if is_first_process() else nullcontext(),
        on_devices(device, devices, nodes, precision=schedule.retraining.precision) as place,
    ):
        model, parts, images, schedule = _opened(network, images, schedule, place.device)
        tell(run_network.images_in_words(network, model, photos=isinstance(parts.train, data.FolderImages)))
        training, some = _training(model, parts, images, schedule, train_images)
        calibration, test = (run_images.batches(part, model, images) for part in (parts.calibration, parts.test))
        held_out = None if parts.held_out is None else run_images.batches(parts.held_out, model, images)
        done = run_rounds(
            model,
            RoundImages(training, calibration, held_out, test, usual_augmentation(images.name)),
            schedule,
            folder=kept_in,
            fabric=place.fabric,
            plane=None if plane is None else plane[1],
            progress=progress,
            on_round=lambda one, last: tell(_told_round(one, last, schedule)),
            loggers=loggers,
        )
        settings = {
            **settings_of(network, images, model),
            "schedule": schedule.to_dict(),
            "seed": schedule.seed,
            "train_images": some,
        }
        figures = measured(done.model, test, progress)
        record = {**done.record(), "figures": figures, "settings": settings}
        checkpoint.save(done.model, written.staged(out), settings=settings, figures=figures)
        if plane is not None:
            write_points(plane[1].points, written.staged(plane[0]))
        write_record(record, written, record_out)
        written.commit()
        if state is None and is_first_process():
            forget(kept_in)
    return record


def _opened(
    network: NetworkOptions, images: DataOptions, schedule: PruningSchedule, device: str
) -> tuple[nn.Module, Parts, DataOptions, PruningSchedule]:
    torch.manual_seed(schedule.seed)
    model = run_network.open_network(network, device)
    parts = run_images.open_training_parts(images, schedule.seed, calibration=schedule.images)
    images = replace(images, calibration=len(parts.calibration))
    run_images.check_classes(parts.source, model, images)
    if schedule.tap is None:
        schedule = replace(schedule, tap=paper_tap(model, schedule.criterion))
    return model, parts, images, schedule


def _training(
    model: nn.Module, parts: Parts, images: DataOptions, schedule: PruningSchedule, count: int | None
) -> tuple[DataLoader[Any], int]:
    """Return the training batches, and how many images they hold."""
    some = parts.train if count is None else data.balanced_sample(parts.train, count, schedule.seed)
    crop = isinstance(parts.train, data.FolderImages) and schedule.augmentation
    return run_images.batches(some, model, images, shuffle=True, random_crop=crop), len(some)


def _told_round(one: Round, last: int, schedule: PruningSchedule) -> str:
    accuracies = [
        f"{name} accuracy {value:.2f} %"
        for name, value in (("held-out", one.held_out), ("test", one.test))
        if value is not None
    ]
    cost = f"{one.macs:,} MACs, {one.parameters:,} parameters"
    spent = sum(one.seconds.values())
    line = f"round {one.number} of {last}: {cost}, {', '.join(accuracies)}, {spent:.0f} s"
    epochs = sum(schedule.recipe(n, is_last=n == last).epochs for n in range(one.number + 1, last + 1))
    if not epochs or not one.epochs:
        return line
    # Later rounds are cheaper: it can only be less.
    return f"{line}, at most about {spent / one.epochs * epochs / 60:.0f} minutes left"
