"""Prune in rounds with retraining, from files to a file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from infoprune import data
from infoprune.data import usual_augmentation
from infoprune.errors import InputError
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.options import DataOptions, NetworkOptions
from infoprune.experiment.settings import measured, paper_tap, settings_of
from infoprune.iterative.iterate import Images as RoundImages
from infoprune.iterative.iterate import iterate as run_rounds
from infoprune.iterative.run_state import Round
from infoprune.iterative.schedule import PruningSchedule
from infoprune.measure.information_plane import InformationPlane, write_points
from infoprune.progress import Progress, silent
from infoprune.storage import checkpoint
from infoprune.training.train import make_fabric


def iterate(
    network: NetworkOptions,
    images: DataOptions,
    schedule: PruningSchedule,
    *,
    out: Path,
    train_images: int | None = None,
    state: Path | None = None,
    plane: tuple[Path, InformationPlane] | None = None,
    device: str = "auto",
    force: bool = False,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Prune a network in rounds and write the smallest one.

    The state is kept in a folder beside ``out`` until the end, or in ``state`` for good, so that the same command goes
    on after an interruption.

    Args:
        network: Which network.
        images: Which images; the schedule says how many score the filters.
        schedule: What goes in each round, and how the network is trained.
        out: The checkpoint to write.
        train_images: Train on a sample of so many images, of balanced classes; by default on all.
        state: Where the state is kept.
        plane: A file for the points of an information plane, and the plane that notes them.
        device: Where the network is.
        force: Replace ``out`` where it exists.
        progress: Told while filters are scored and the network is trained.
        tell: Given a line after every round.

    Raises:
        InputError: The network, the data or the schedule cannot be used, or the training diverges.
    """
    torch.manual_seed(schedule.seed)
    model = run_network.open_network(network, device)
    images = replace(images, calibration=schedule.images)
    parts = run_images.open_parts(images, schedule.seed)
    if parts.held_out is None:
        raise InputError(f"'{images.directory}' has no test part of its own: training needs train/ and test/ (or val/)")
    if schedule.tap is None:
        schedule = replace(schedule, tap=paper_tap(model, schedule.criterion))
    folder = isinstance(parts.train, data.FolderImages)
    some = parts.train if train_images is None else data.balanced_sample(parts.train, train_images, schedule.seed)
    training = run_images.batches(some, model, images, shuffle=True, random_crop=folder and schedule.augmentation)
    others = [run_images.batches(part, model, images) for part in (parts.calibration, parts.held_out, parts.test)]
    kept_in = state or out.with_name(out.name + ".rounds")
    done = run_rounds(
        model,
        RoundImages(training, others[0], others[1], others[2], usual_augmentation(images.name)),
        schedule,
        folder=kept_in,
        fabric=make_fabric(accelerator=device.partition(":")[0], precision=schedule.retraining.precision),
        plane=None if plane is None else plane[1],
        progress=progress,
        on_round=lambda one, last: tell(_told_round(one, last, schedule)),
    )
    settings = {
        **settings_of(network, images, model),
        "schedule": schedule.to_dict(),
        "seed": schedule.seed,
        "train_images": len(some),
    }
    record = {**done.record(), "figures": measured(done.model, run_images.batches(parts.test, model, images), progress)}
    checkpoint.save(done.model, out, settings=settings, figures=record["figures"], force=force)
    if plane is not None:
        write_points(plane[1].points, plane[0], force=force)
    if state is None:
        shutil.rmtree(kept_in)
    return {**record, "settings": settings}


def _told_round(one: Round, last: int, schedule: PruningSchedule) -> str:
    accuracies = [
        f"{name} accuracy {value:.2f} %"
        for name, value in (("held-out", one.held_out), ("test", one.test))
        if value is not None
    ]
    cost = f"{one.macs:,} MACs, {one.parameters:,} parameters"
    spent = sum(one.seconds.values())
    told = f"round {one.number} of {last}: {cost}, {', '.join(accuracies)}, {spent:.0f} s"
    epochs = sum(schedule.recipe(n, is_last=n == last).epochs for n in range(one.number + 1, last + 1))
    if not epochs or not one.epochs:
        return told
    # Later rounds are cheaper: it can only be less.
    return f"{told}, at most about {spent / one.epochs * epochs / 60:.0f} minutes left"
