"""Train or fine-tune a network from files to a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from infoprune import data
from infoprune.data import usual_augmentation
from infoprune.data.batches import Batches, example_of
from infoprune.device import pick_device
from infoprune.errors import InputError
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.devices import on_devices
from infoprune.experiment.images import Parts
from infoprune.experiment.options import DataOptions, NetworkOptions, TuneOptions
from infoprune.experiment.settings import measured, settings_of, write_record
from infoprune.measure.accuracy import accuracy_of, logits_of
from infoprune.measure.loggers import MetricsLogger, logging_to, note
from infoprune.network.deep_copy import deep_copy
from infoprune.network.modes import eval_mode
from infoprune.network.origin import Origin, origin_of
from infoprune.progress import Progress, silent
from infoprune.runs.outputs import outputs
from infoprune.storage import checkpoint
from infoprune.training.duration import Duration, epochs_within
from infoprune.training.loss import with_common_maps
from infoprune.training.memory import memory_in_words
from infoprune.training.recipe import Epoch, Recipe
from infoprune.training.teachers import Teachers
from infoprune.training.train import Training, check_sizes
from infoprune.training.train import train as train_network
from infoprune.training.train_state import epochs_of
from infoprune.zoo.factory import is_listed

# Of the figures of the trained network.
_LOGGED = ("accuracy", "top5", "loss", "macs", "parameters")


def train(
    network: NetworkOptions,
    images: DataOptions,
    choice: TuneOptions,
    *,
    out: Path,
    record_out: Path | None = None,
    fine_tuning: bool = False,
    device: str = "auto",
    force: bool = False,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train a network, from fresh or existing weights, and write the weights that did best on held-out images.

    The state after every epoch is kept beside ``out`` until all is written, so that the same command resumes after an
    interruption.

    Args:
        network: Which network.
        images: Which images.
        choice: How it is trained.
        out: The checkpoint to write.
        record_out: Also write the record as JSON.
        fine_tuning: Whether the network is good already: its held-out accuracy is measured first, and a training that
            does not reach it says so.
        device: Where the network is.
        force: Replace files that exist.
        progress: Called after every step.
        tell: Given a line after every epoch.

    Returns:
        The record. Of several processes, the first one alone writes.

    Raises:
        InputError: The network or the data cannot be used, or the training diverges.

    Example:
        >>> import tempfile
        >>> out = Path(tempfile.mkdtemp()) / "base.safetensors"
        >>> recipe = Recipe(epochs=0, precision="32-true")
        >>> _ = train(NetworkOptions("digits"), DataOptions("digits"), TuneOptions(recipe), out=out, device="cpu")
        >>> out.exists()
        True
    """
    pick_device(device)  # refuses what is not there, in a sentence
    with (
        outputs(out, record_out, inputs=(network.weights,), run="train", force=force) as written,
        logging_to(choice.log_to) as loggers,
        on_devices(device, choice.devices, choice.nodes, precision=choice.recipe.precision) as place,
    ):
        assert place.fabric is not None  # there is one for every precision
        state = out.with_name(out.name + ".resume")
        parts = run_images.open_training_parts(images)
        trained, recipe, before = _trained(network, images, parts, choice, state, place.fabric, progress, tell, loggers,
                                           fine_tuning=fine_tuning)  # fmt: skip
        best = run_network.stored_precision(trained.model, half=choice.half).to(place.fabric.device)
        figures = measured(best, run_images.batches(parts.test, best, images), progress)
        note(
            loggers, {f"test/{name}": float(figures[name]) for name in _LOGGED if name in figures}, len(trained.epochs)
        )
        how = {
            "recipe": {**asdict(recipe), "epochs": len(trained.epochs)},
            "teacher": [str(path) for path in choice.teacher],
        }
        settings = {**settings_of(network, images, best), **how, "processes": place.fabric.world_size}
        record = {
            "figures": figures,
            **({} if before is None else {"held_out_before": before}),
            "best_epoch": trained.best,
            "epochs": [asdict(epoch) for epoch in trained.epochs],
            "settings": settings,
        }
        checkpoint.save(best, written.staged(out), settings=settings, figures=figures, half=choice.half)
        write_record(record, written, record_out)
        written.commit()
        if place.fabric.is_global_zero:
            state.unlink(missing_ok=True)
        return record


def _trained(
    network: NetworkOptions,
    images: DataOptions,
    parts: Parts,
    choice: TuneOptions,
    state: Path,
    fabric: Fabric,
    progress: Progress,
    tell: Callable[[str], None],
    loggers: Sequence[MetricsLogger],
    *,
    fine_tuning: bool,
) -> tuple[Training, Recipe, float | None]:
    """Return the trained network, how it was trained, and the held-out accuracy before a fine-tuning."""
    torch.manual_seed(choice.recipe.seed)
    model = run_network.open_network(network, "cpu")
    run_images.check_classes(parts.source, model, images)
    tell(run_network.images_in_words(network, model, photos=isinstance(parts.train, data.FolderImages)))
    assert parts.held_out is not None  # of the parts of a training
    folder = isinstance(parts.train, data.FolderImages)
    batches = run_images.batches(parts.train, model, images, shuffle=True, random_crop=folder)
    held_out = run_images.batches(parts.held_out, model, images)
    teacher = None
    if choice.teacher:
        with torch.random.fork_rng([]):
            example = example_of(batches, model)
        teacher = _teacher(choice.teacher, network, model, example)
        common = with_common_maps(choice.recipe, model, teacher, example)
        if common != choice.recipe:
            tell("The teacher is a network of another form: its answers are learned, its attention maps are not.")
            choice = replace(choice, recipe=common)
    check_sizes(model, batches, choice.recipe)
    size = min(images.batch_size, len(parts.train))
    tell(memory_in_words(model, batches, size, choice.recipe, teacher=teacher, fabric=fabric))
    how: dict[str, Any] = {"teacher": teacher, "augmentation": usual_augmentation(images.name), "fabric": fabric}
    recipe = _fitting(choice, state, lambda minutes: epochs_within(minutes, model, batches, held_out, choice.recipe,
                                                                   **how), tell)  # fmt: skip
    before = _held_out_accuracy(model, held_out, fabric) if fine_tuning else None
    if before is not None:
        tell(f"before the training: held-out accuracy {before:.2f} %")
    found = train_network(
        model,
        batches,
        held_out,
        recipe,
        **how,
        resume=state,
        progress=progress,
        on_epoch=lambda epoch: tell(_told(epoch, recipe)),
        loggers=loggers,
    )
    if before is not None and found.epochs and (found.epochs[found.best].held_out or 0.0) < before:
        tell(_worse_in_words(before, recipe))
    return found, recipe, before


def _held_out_accuracy(model: nn.Module, held_out: Batches, fabric: Fabric) -> float:
    with fabric.autocast(), torch.random.fork_rng([]):  # an iteration of a loader draws a number
        return accuracy_of(fabric.to_device(deep_copy(model)), held_out)


def _worse_in_words(before: float, recipe: Recipe) -> str:
    return (
        f"No epoch reached the held-out accuracy from before the training, {before:.2f} %. If the network was never "
        "trained on the held-out images, it got worse: try a lower learning rate, such as --lr "
        f"{recipe.learning_rate / 3:.2g}, or more epochs. If it was, this says little."
    )


def _fitting(
    choice: TuneOptions, state: Path, timed: Callable[[float], Duration], tell: Callable[[str], None]
) -> Recipe:
    """Return the recipe with as many epochs as fit into the minutes; a training that goes on keeps its number."""
    if choice.minutes is None:
        return choice.recipe
    begun = epochs_of(state)
    if begun is not None:
        return replace(choice.recipe, epochs=begun)
    found = timed(choice.minutes)
    tell(found.in_words())
    return replace(choice.recipe, epochs=found.epochs)


def _teacher(weights: Sequence[Path], network: NetworkOptions, student: nn.Module, example: Tensor) -> nn.Module:
    """Return the teacher; of several networks their mean. Each reads the images normalised in its own way."""
    teachers = [_opened_teacher(path, network, student) for path in weights]
    ours = _classes(student, example)
    for path, teacher in zip(weights, teachers, strict=True):
        theirs = _classes(teacher, example)
        if theirs != ours:
            raise InputError(f"the teacher '{path}' has {theirs} classes, the network {ours}: they must be the same")
    wanted = [run_network.preprocessing_of(teacher) for teacher in teachers]
    return Teachers(teachers, run_network.preprocessing_of(student), wanted).eval()


def _opened_teacher(weights: Path, network: NetworkOptions, student: nn.Module) -> nn.Module:
    if checkpoint.is_checkpoint(weights) and is_listed(checkpoint.describe(weights).origin.architecture):
        return run_network.open_network(NetworkOptions(weights=weights), "cpu")
    if network.model is not None:
        return run_network.open_network(replace(network, weights=weights), "cpu")
    origin = origin_of(student)
    assert isinstance(origin, Origin)  # open_network notes it
    if not is_listed(origin.architecture):  # the name is the file's: it is looked up, not imported
        raise InputError(f"name the network of the teacher '{weights}' with --model")
    return run_network.open_network(NetworkOptions(origin.architecture, weights, origin.arguments), "cpu")


def _classes(network: nn.Module, images: Tensor) -> int:
    with torch.no_grad(), eval_mode(network):
        return logits_of(network, images).shape[-1]


def _told(epoch: Epoch, recipe: Recipe) -> str:
    held_out = "" if epoch.held_out is None else f", held-out accuracy {epoch.held_out:.2f} %"
    return f"epoch {epoch.number + 1} of {recipe.epochs}: loss {epoch.loss:.4f}{held_out}, {epoch.seconds:.0f} s"
