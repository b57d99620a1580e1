"""Train or fine-tune a network from files to a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from infoprune import data
from infoprune.data import usual_augmentation
from infoprune.device import pick_device
from infoprune.errors import InputError
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.options import DataOptions, NetworkOptions, TuneOptions
from infoprune.experiment.settings import measured, settings_of, text_or_none
from infoprune.network.origin import Origin, origin_of
from infoprune.progress import Progress, silent
from infoprune.storage import checkpoint
from infoprune.training.recipe import Epoch, Recipe
from infoprune.training.train import make_fabric
from infoprune.training.train import train as train_network
from infoprune.zoo.factory import is_listed


def train(
    network: NetworkOptions,
    images: DataOptions,
    choice: TuneOptions,
    *,
    out: Path,
    device: str = "auto",
    force: bool = False,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any] | None:
    """Train a network, from fresh or given weights, and write the weights that did best on held-out images.

    The state after every epoch is kept beside ``out`` until the end, so that the same command goes on after an
    interruption.

    Returns:
        The record; ``None`` in every process but the first, which alone writes.

    Raises:
        InputError: The network or the data cannot be used, or the training diverges.
    """
    pick_device(device)  # refuses what is not there, in a sentence
    torch.manual_seed(choice.recipe.seed)
    model = run_network.open_network(network, "cpu")
    parts = run_images.open_parts(images)
    if parts.held_out is None:
        raise InputError(f"'{images.directory}' has no test part of its own: training needs train/ and test/ (or val/)")
    folder = isinstance(parts.train, data.FolderImages)
    fabric = make_fabric(
        accelerator=device.partition(":")[0],
        devices=choice.devices,
        nodes=choice.nodes,
        precision=choice.recipe.precision,
    )
    fabric.launch()
    first = fabric.is_global_zero
    state = out.with_name(out.name + ".resume")
    trained = train_network(
        model,
        run_images.batches(parts.train, model, images, shuffle=True, random_crop=folder),
        run_images.batches(parts.held_out, model, images),
        choice.recipe,
        teacher=_teacher(choice.teacher, network, model),
        augmentation=usual_augmentation(images.name),
        fabric=fabric,
        resume=state,
        progress=progress if first else silent,
        on_epoch=lambda epoch: tell(_told(epoch, choice.recipe)) if first else None,
    )
    if not first:
        return None
    best = run_network.stored_precision(trained.model, half=choice.half).to(fabric.device)
    figures = measured(best, run_images.batches(parts.test, best, images), progress)
    how = {"recipe": asdict(choice.recipe), "teacher": text_or_none(choice.teacher)}
    settings = {**settings_of(network, images, best), **how}
    settings["processes"] = fabric.world_size
    checkpoint.save(best, out, settings=settings, figures=figures, half=choice.half, force=force)
    state.unlink(missing_ok=True)
    return {
        "figures": figures,
        "best_epoch": trained.best,
        "epochs": [asdict(epoch) for epoch in trained.epochs],
        "settings": settings,
    }


def _teacher(weights: Path | None, network: NetworkOptions, student: nn.Module) -> nn.Module | None:
    if weights is None:
        return None
    if network.model is not None:
        return run_network.open_network(replace(network, weights=weights), "cpu")
    origin = origin_of(student)
    assert isinstance(origin, Origin)  # open_network notes it
    if not is_listed(origin.architecture):  # the name is the file's: it is looked up, not imported
        raise InputError(f"name the network of the teacher '{weights}' with --model")
    return run_network.open_network(NetworkOptions(origin.architecture, weights, origin.arguments), "cpu")


def _told(epoch: Epoch, recipe: Recipe) -> str:
    held_out = "" if epoch.held_out is None else f", held-out accuracy {epoch.held_out:.2f} %"
    return f"epoch {epoch.number + 1} of {recipe.epochs}: loss {epoch.loss:.4f}{held_out}, {epoch.seconds:.0f} s"
