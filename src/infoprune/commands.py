"""What each command does, from names and files to a record and files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from infoprune import checkpoint, data, experiment, pipeline
from infoprune.choice import Choice, chosen
from infoprune.cutoff import Reach
from infoprune.data import usual_augmentation
from infoprune.device import device_of
from infoprune.errors import InputError
from infoprune.experiment import DataChoice, NetworkChoice
from infoprune.json_files import read_given
from infoprune.measuring import example_of, figures, latencies
from infoprune.origin import Origin, origin_of
from infoprune.pipeline import Result
from infoprune.plan import Plan
from infoprune.plane import InformationPlane, write_points
from infoprune.progress import Progress, silent
from infoprune.report import Run, kept_run
from infoprune.rounds.loop import Images as RoundImages
from infoprune.rounds.loop import iterate as run_rounds
from infoprune.rounds.schedule import PruningSchedule
from infoprune.rounds.state import Round
from infoprune.stability import further_plans, spread
from infoprune.tune import Epoch, Recipe, make_fabric
from infoprune.tune import train as train_network
from infoprune.zoo import registry


@dataclass(frozen=True)
class PruneRun:
    """The result of a pruning command, its record, and what a report shows of it, where that was asked for."""

    result: Result
    record: dict[str, Any]
    kept: Run | None = None


@dataclass(frozen=True)
class RepairChoice:
    """How a cut network is repaired.

    Args:
        method: A name of ``infoprune.all_repairs()``.
        images: Number of training images, without labels, drawn at random.
        minutes: How long the repair by gradient may take, by default as long as it needs.
    """

    method: str
    images: int = 1000
    minutes: float | None = None


@dataclass(frozen=True)
class TuneChoice:
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


def evaluate(
    network: NetworkChoice, images: DataChoice, *, device: str = "auto", progress: Progress = silent
) -> dict[str, Any]:
    """Measure a network on the test images of a data set.

    Raises:
        InputError: The network or the data cannot be used, or they do not fit.
    """
    model = experiment.open_network(network, device)
    source = data.open_source(images.name, images.directory)
    figures = _figures(model, experiment.batches(source.test, model, images), progress)
    return {"figures": figures, "settings": _settings(network, images, model)}


def prune(
    network: NetworkChoice,
    images: DataChoice,
    choice: Choice | Plan,
    *,
    out: Path,
    repair: RepairChoice | None = None,
    keep_evidence: bool = False,
    held_out: int = 1000,
    stability: int = 1,
    free: bool = False,
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
        free: Whether filters that no repair image moves go first, at no loss.
        seed: Of every draw.
        device: Where it is done.
        force: Whether a file at ``out`` is replaced.
        progress: Told how far it is.
        on_reach: Told what a budget can reach.

    Raises:
        InputError: As in ``pipeline.prune``; nothing is written then.
    """
    model = experiment.open_network(network, device)
    parts = experiment.open_parts(images, seed)
    if isinstance(choice, Choice) and choice.tap is None:
        choice = replace(choice, tap=_paper_tap(model, choice.criterion))
    calibration, test = (experiment.batches(part, model, images) for part in (parts.calibration, parts.test))
    given: dict[str, Any] = {"plan": choice} if isinstance(choice, Plan) else choice.words()
    if repair is not None:
        given |= {"repair": repair.method, "repair_minutes": repair.minutes}
    if repair is not None or free:
        count = RepairChoice.images if repair is None else repair.images
        unlabelled = data.random_sample(parts.train, count, seed)
        given |= {"free": free, "repair_batches": experiment.batches(unlabelled, model, images)}
    if isinstance(choice, Choice) and choice.layerwise.is_asked_for:
        judges = parts.calibration if parts.held_out is None else data.balanced_sample(
            parts.held_out, min(held_out, len(parts.held_out)), seed)  # fmt: skip
        given |= {"held_out": experiment.batches(judges, model, images), "resume": out.with_name(out.name + ".resume")}
    result = pipeline.prune(model, calibration, test=test, progress=progress, on_reach=on_reach, **given)
    settings = {**_settings(network, images, model), "seed": seed}
    if repair is not None:
        how = {"method": repair.method, "images": min(repair.images, len(parts.train)), "minutes": repair.minutes}
        settings["repair"] = {name: value for name, value in how.items() if value is not None}
    record = result.record()
    record["settings"] = {**record["settings"], **settings}
    if isinstance(choice, Choice) and stability > 1:
        samples = [data.balanced_sample(parts.train, len(parts.calibration), seed + i) for i in range(1, stability)]
        others = [experiment.batches(sample, model, images) for sample in samples]
        plans = further_plans(model, others, choice, held_out=given.get("held_out"), progress=progress)
        record["stability"] = spread([result.plan, *plans])
    told = ("base", "free", "as_cut", "pruned", "seconds")
    figures: dict[str, Any] = {name: record[name] for name in told if name in record}
    checkpoint.save(result.model, out, settings=record["settings"], figures=figures, force=force)
    kept = kept_run(model, result, record, calibration, name=out.stem) if keep_evidence else None
    return PruneRun(result, record, kept)


def train(
    network: NetworkChoice,
    images: DataChoice,
    choice: TuneChoice,
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
    torch.manual_seed(choice.recipe.seed)
    model = experiment.open_network(network, "cpu")
    parts = experiment.open_parts(images)
    if parts.held_out is None:
        raise InputError(f"'{images.directory}' has no test part of its own: training needs train/ and test/ (or val/)")
    folder = isinstance(parts.train, data.FolderImages)
    fabric = make_fabric(
        accelerator=_accelerator(device),
        devices=_devices(choice.devices),
        nodes=choice.nodes,
        precision=choice.recipe.precision,
    )
    fabric.launch()
    first = fabric.is_global_zero
    state = out.with_name(out.name + ".resume")
    trained = train_network(
        model,
        experiment.batches(parts.train, model, images, shuffle=True, random_crop=folder),
        experiment.batches(parts.held_out, model, images),
        choice.recipe,
        teacher=_teacher(choice.teacher, model),
        augmentation=usual_augmentation(images.name),
        fabric=fabric,
        resume=state,
        progress=progress if first else silent,
        on_epoch=lambda epoch: tell(_told(epoch, choice.recipe)) if first else None,
    )
    if not first:
        return None
    best = experiment.stored_precision(trained.model, half=choice.half).to(fabric.device)
    figures = _figures(best, experiment.batches(parts.test, best, images), progress)
    settings = {**_settings(network, images, best), "recipe": asdict(choice.recipe), "teacher": _text(choice.teacher)}
    settings["processes"] = fabric.world_size
    checkpoint.save(best, out, settings=settings, figures=figures, half=choice.half, force=force)
    state.unlink(missing_ok=True)
    return {
        "figures": figures,
        "best_epoch": trained.best,
        "epochs": [asdict(epoch) for epoch in trained.epochs],
        "settings": settings,
    }


def iterate(
    network: NetworkChoice,
    images: DataChoice,
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
    model = experiment.open_network(network, device)
    images = replace(images, calibration=schedule.images)
    parts = experiment.open_parts(images, schedule.seed)
    if parts.held_out is None:
        raise InputError(f"'{images.directory}' has no test part of its own: training needs train/ and test/ (or val/)")
    if schedule.tap is None:
        schedule = replace(schedule, tap=_paper_tap(model, schedule.criterion))
    folder = isinstance(parts.train, data.FolderImages)
    some = parts.train if train_images is None else data.balanced_sample(parts.train, train_images, schedule.seed)
    training = experiment.batches(some, model, images, shuffle=True, random_crop=folder and schedule.augmentation)
    others = [experiment.batches(part, model, images) for part in (parts.calibration, parts.held_out, parts.test)]
    kept_in = state or out.with_name(out.name + ".rounds")
    done = run_rounds(
        model,
        RoundImages(training, others[0], others[1], others[2], usual_augmentation(images.name)),
        schedule,
        folder=kept_in,
        fabric=make_fabric(accelerator=_accelerator(device), precision=schedule.retraining.precision),
        plane=None if plane is None else plane[1],
        progress=progress,
        on_round=lambda one, last: tell(_told_round(one, last, schedule)),
    )
    settings = {
        **_settings(network, images, model),
        "schedule": schedule.to_dict(),
        "seed": schedule.seed,
        "train_images": len(some),
    }
    record = {**done.record(), "figures": _figures(done.model, experiment.batches(parts.test, model, images), progress)}
    checkpoint.save(done.model, out, settings=settings, figures=record["figures"], force=force)
    if plane is not None:
        write_points(plane[1].points, plane[0], force=force)
    if state is None:
        shutil.rmtree(kept_in)
    return {**record, "settings": settings}


def show(path: Path) -> dict[str, Any]:
    """Return what a checkpoint says of itself, as JSON values.

    Raises:
        InputError: The file is not a checkpoint.
    """
    contents = checkpoint.describe(path)
    return {
        **contents.origin.to_dict(),
        "settings": dict(contents.settings),
        "figures": dict(contents.figures),
        "version": contents.version,
    }


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


def choice_or_plan(**given: Any) -> Choice | Plan:
    """Return the plan that was given, else the choice.

    Raises:
        InputError: A plan was given together with another way to say how much goes.
    """
    plan: Plan | None = given.pop("plan", None)
    if plan is None:
        return chosen(**given)
    if any(given.get(way) is not None for way in ("ratio", "budget", "threshold")):
        raise InputError("a plan says already how much goes: give it without a ratio and without a budget")
    return plan


def _figures(model: nn.Module, batches: Any, progress: Progress) -> dict[str, Any]:
    example = example_of(batches, model)
    found = asdict(figures(model, example, latencies((model,), example)[0], batches, progress=progress))
    return {name: value for name, value in found.items() if value is not None}


def _settings(network: NetworkChoice, images: DataChoice, model: nn.Module) -> dict[str, Any]:
    origin = origin_of(model)
    return {
        "network": {**_jsonable(asdict(network)), "architecture": origin.architecture if origin else None},
        "preprocessing": experiment.preprocessing_of(model).to_dict(),
        "data": _jsonable(asdict(images)),
        "versions": experiment.versions(),
        "machine": experiment.machine(device_of(model)),
    }


def _teacher(weights: Path | None, student: nn.Module) -> nn.Module | None:
    if weights is None:
        return None
    origin = origin_of(student)
    assert isinstance(origin, Origin)  # open_network notes it
    return experiment.open_network(NetworkChoice(origin.architecture, weights, origin.arguments), "cpu")


def _paper_tap(model: nn.Module, criterion: str) -> Any:
    origin = origin_of(model)
    if origin is None or origin.architecture not in registry.names():
        return None
    return registry.info(origin.architecture).taps.get(criterion)


def _told(epoch: Epoch, recipe: Recipe) -> str:
    held_out = "" if epoch.held_out is None else f", held-out accuracy {epoch.held_out:.2f} %"
    return f"epoch {epoch.number + 1} of {recipe.epochs}: loss {epoch.loss:.4f}{held_out}, {epoch.seconds:.0f} s"


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


def _accelerator(device: str) -> str:
    return device.partition(":")[0]


def _devices(devices: str) -> int | str:
    if devices == "auto":
        return devices
    if not devices.isdigit() or int(devices) < 1:
        raise InputError(f"--devices takes a number of devices or auto, not '{devices}'")
    return int(devices)


def _is_count_or_filters(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, list) and all(isinstance(i, int) for i in value))


def _jsonable(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
