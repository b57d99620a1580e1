"""Train or fine-tune a network from files to a file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from infoprune import data
from infoprune.data import usual_augmentation
from infoprune.errors import InputError
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.images import DataOptions, Parts
from infoprune.experiment.network import NetworkOptions
from infoprune.experiment.settings import check_seed, measured, settings_of, text_or_none, write_record
from infoprune.network.origin import Origin, origin_of
from infoprune.outputs import outputs
from infoprune.processes import is_first_process, launched_processes_end_with_this_one
from infoprune.progress import Progress, silent
from infoprune.storage import checkpoint
from infoprune.training.recipe import Epoch, Recipe
from infoprune.training.train import Training, make_fabric
from infoprune.training.train import train as train_network


@dataclass(frozen=True)
class TuneOptions:
    """How a network is trained.

    Args:
        recipe: Epochs, rates and the like.
        teacher: Weights of the network to distil from.
        devices: How many devices of each machine, or ``auto`` for all.
        nodes: How many machines; each is given the same command.
        half: Store the weights in half precision.
    """

    recipe: Recipe
    teacher: Path | None = None
    devices: str = "1"
    nodes: int = 1
    half: bool = False


def train(
    network: NetworkOptions,
    images: DataOptions,
    choice: TuneOptions,
    *,
    out: Path,
    record_out: Path | None = None,
    device: str = "auto",
    force: bool = False,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any] | None:
    """Train a network, from fresh or given weights, and write the weights that did best on held-out images.

    The state after every epoch is kept beside ``out`` until all is written, so that the same command goes on after an
    interruption.

    Args:
        network: Which network.
        images: Which images.
        choice: How it is trained.
        out: The checkpoint to write.
        record_out: Also write the record as JSON.
        device: Where the network is.
        force: Replace files that exist.
        progress: Told after every step.
        tell: Given a line after every epoch.

    Returns:
        The record; ``None`` in every process but the first, which alone writes.

    Raises:
        InputError: The network or the data cannot be used, or the training diverges.
    """
    check_seed(choice.recipe.seed)
    with ExitStack() as held:
        held.enter_context(launched_processes_end_with_this_one())
        written = None
        if is_first_process():
            written = held.enter_context(outputs(out, record_out, run="train", force=force))
        state = out.with_name(out.name + ".resume")
        parts = run_images.open_parts(images)
        trained, fabric = _trained(network, images, parts, choice, state, device, progress, tell)
        if written is None:
            return None
        best = run_network.stored_precision(trained.model, half=choice.half).to(fabric.device)
        figures = measured(best, run_images.batches(parts.test, best, images), progress)
        how = {"recipe": asdict(choice.recipe), "teacher": text_or_none(choice.teacher)}
        settings = {**settings_of(network, images, best), **how, "processes": fabric.world_size}
        record = {
            "figures": figures,
            "best_epoch": trained.best,
            "epochs": [asdict(epoch) for epoch in trained.epochs],
            "settings": settings,
        }
        checkpoint.save(best, written.staged(out), settings=settings, figures=figures, half=choice.half)
        write_record(record, written, record_out)
        written.commit()
        state.unlink(missing_ok=True)
        return record


def _trained(
    network: NetworkOptions,
    images: DataOptions,
    parts: Parts,
    choice: TuneOptions,
    state: Path,
    device: str,
    progress: Progress,
    tell: Callable[[str], None],
) -> tuple[Training, Fabric]:
    torch.manual_seed(choice.recipe.seed)
    model = run_network.open_network(network, "cpu")
    if parts.held_out is None:
        raise InputError(f"'{images.directory}' has no test part of its own: training needs train/ and test/ (or val/)")
    folder = isinstance(parts.train, data.FolderImages)
    teacher = _teacher(choice.teacher, model)
    fabric = make_fabric(
        accelerator=device.partition(":")[0],
        devices=_devices(choice.devices),
        nodes=choice.nodes,
        precision=choice.recipe.precision,
    )
    fabric.launch()
    first = fabric.is_global_zero
    trained = train_network(
        model,
        run_images.batches(parts.train, model, images, shuffle=True, random_crop=folder),
        run_images.batches(parts.held_out, model, images),
        choice.recipe,
        teacher=teacher,
        augmentation=usual_augmentation(images.name),
        fabric=fabric,
        resume=state,
        progress=progress if first else silent,
        on_epoch=lambda epoch: tell(_told(epoch, choice.recipe)) if first else None,
    )
    return trained, fabric


def _teacher(weights: Path | None, student: nn.Module) -> nn.Module | None:
    if weights is None:
        return None
    origin = origin_of(student)
    assert isinstance(origin, Origin)  # open_network notes it
    return run_network.open_network(NetworkOptions(origin.architecture, weights, origin.arguments), "cpu")


def _told(epoch: Epoch, recipe: Recipe) -> str:
    held_out = "" if epoch.held_out is None else f", held-out accuracy {epoch.held_out:.2f} %"
    return f"epoch {epoch.number + 1} of {recipe.epochs}: loss {epoch.loss:.4f}{held_out}, {epoch.seconds:.0f} s"


def _devices(devices: str) -> int | str:
    if devices == "auto":
        return devices
    if not devices.isdigit() or int(devices) < 1:
        raise InputError(f"--devices takes a number of devices or auto, not '{devices}'")
    return int(devices)
