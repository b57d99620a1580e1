"""What each part of a fine-tuning is worth: one change at a time, judged on held-out images, over seeds.

    python benchmarks/recipe.py --data-dir DIR --weights-dir DIR --state FOLDER [--json out.json]

The VGG-16 of ``weights/`` with 79 % of its MACs gone, by ``reconstruction`` and least squares, is trained for a few
epochs on a part of the training images. 5,000 other training images judge: those that were held out when the VGG-16 was
trained. (The published ResNets have seen all of them, so that a judge would reward what is remembered of the original.)
Each row differs from the first in what its name says. The seeds change the order of the images and their augmentation.
The same command resumes.
``--only 'learning rate 0.01' --only 'learning rate 0.03'`` measures these rows alone, as for a longer training.
"""

from __future__ import annotations

import itertools
import json
import statistics
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

import infoprune
from fine_tuned import POINTS, RECIPE, RememberedTeacher, base_of, few_crops, pruned
from infoprune.data import balanced_sample, held_out_split, loader, open_source
from infoprune.experiment.network import preprocessing_of
from infoprune.files import write_text
from infoprune.training.teachers import Teachers
from infoprune.training.train import make_fabric


@dataclass(frozen=True)
class Variant:
    """A change of the recipe, of the teachers or of the start."""

    name: str
    recipe: dict[str, Any] = field(default_factory=dict)
    teachers: tuple[str, ...] = ("original",)
    repaired: bool = True
    batch_size: int = 128


BASE = replace(RECIPE, attention=0.0)
# All but those that say otherwise have the original as teacher and a learning rate of 0.03.
VARIANTS = (
    Variant("learning rate 0.03"),
    Variant("labels alone", {"distillation": 0.0}, ()),
    Variant("starts from the cut network, not repaired", repaired=False),
    Variant("labels alone, from the cut network", {"distillation": 0.0}, (), repaired=False),
    Variant("two teachers: the original and ResNet-56, on one scale", {}, ("original", "resnet56")),
    Variant("soft targets alone", {"distillation": 1.0}),
    Variant("temperature 2", {"temperature": 2.0}),
    Variant("learning rate 0.001", {"learning_rate": 0.001}),
    Variant("learning rate 0.003", {"learning_rate": 0.003}),
    Variant("learning rate 0.01", {"learning_rate": 0.01}),
    Variant("learning rate 0.01, labels alone", {"learning_rate": 0.01, "distillation": 0.0}, ()),
    Variant("learning rate 0.01, soft targets alone", {"learning_rate": 0.01, "distillation": 1.0}),
    Variant("learning rate 0.01, two teachers on one scale", {"learning_rate": 0.01}, ("original", "resnet56")),
    Variant("learning rate 0.1", {"learning_rate": 0.1}),
    Variant("labels alone, label smoothing 0.1", {"distillation": 0.0, "label_smoothing": 0.1}, ()),
    Variant("cutout 0.25", {"cutout": 0.25}),
    Variant("batches of 64", {}, batch_size=64),
    Variant("cosine without warm-up", {"schedule": "cosine"}),
    Variant("learning rate 0.01, attention maps, weight 1", {"learning_rate": 0.01, "attention": 1.0}),
    Variant("learning rate 0.01, attention maps, weight 10", {"learning_rate": 0.01, "attention": 10.0}),
    Variant("learning rate 0.01, attention maps, weight 100", {"learning_rate": 0.01, "attention": 100.0}),
    Variant("learning rate 0.01, attention maps, weight 1000", {"learning_rate": 0.01, "attention": 1000.0}),
    Variant("learning rate 0.003, attention maps, weight 10", {"learning_rate": 0.003, "attention": 10.0}),
    Variant("learning rate 0.003, attention maps, weight 100", {"learning_rate": 0.003, "attention": 100.0}),
    Variant("attention maps, weight 100", {"attention": 100.0}),
    Variant("learning rate 0.01, mixing 0.2", {"learning_rate": 0.01, "mixing": 0.2}),
    Variant("learning rate 0.01, mixing 1.0", {"learning_rate": 0.01, "mixing": 1.0}),
    Variant("learning rate 0.01, average 0.99", {"learning_rate": 0.01, "average": 0.99}),
    Variant("average 0.99", {"average": 0.99}),
    Variant(
        "learning rate 0.01, constant, average 0.99", {"learning_rate": 0.01, "schedule": "constant", "average": 0.99}
    ),
    Variant(
        "learning rate 0.01, attention maps, weight 10, clipped at 1",
        {"learning_rate": 0.01, "attention": 10.0, "clip": 1.0},
    ),
    Variant(
        "learning rate 0.01, attention maps, weight 30, clipped at 1",
        {"learning_rate": 0.01, "attention": 30.0, "clip": 1.0},
    ),
    Variant("learning rate 0.01, clipped at 1", {"learning_rate": 0.01, "clip": 1.0}),
)


def starts(original: nn.Module, data_dir: Path) -> dict[bool, nn.Module]:
    """Return the pruned network as cut and repaired, by whether it is repaired."""
    found = pruned(original, POINTS["vgg16-79"].macs or 1.0, data_dir)
    return {True: found.model, False: infoprune.apply(found.plan, original)}


def held_out_accuracy(
    variant: Variant, start: nn.Module, teachers: dict[str, nn.Module], parts: tuple[Any, Any], state: Path,
    epochs: int, seed: int
) -> float:  # fmt: skip
    preprocessing = preprocessing_of(teachers["original"])
    train, judges = parts
    named = [teachers[name] for name in variant.teachers]
    teacher = None
    if named:
        both = Teachers(named, preprocessing, [preprocessing_of(one) for one in named])
        # Mixed images are new in every epoch, and answers alone have no maps.
        asked_anew = variant.recipe.keys() & {"mixing", "attention"}
        teacher = both if asked_anew else RememberedTeacher(both, state / f"{'-'.join(variant.teachers)}.bin")
        teacher.eval()
    recipe = replace(BASE, epochs=epochs, seed=seed, **variant.recipe)
    batches = loader(train, preprocessing, batch_size=variant.batch_size, shuffle=True)
    found = infoprune.train(start, batches, recipe=recipe, teacher=teacher, augmentation=few_crops,
                            fabric=make_fabric(precision=recipe.precision))  # fmt: skip
    accuracy = infoprune.evaluate(found.model, loader(judges, preprocessing, batch_size=256)).accuracy
    assert accuracy is not None  # there are labels
    return accuracy


def main(
    data_dir: Annotated[Path, typer.Option(help="Holds cifar-10-batches-py.")],
    weights_dir: Annotated[Path, typer.Option(help="Holds the published weights.")],
    state: Annotated[Path, typer.Option(help="Folder of the teachers' answers.")] = Path("runs/recipe"),
    images: int = 10_000,
    epochs: int = 4,
    seeds: int = 2,
    threads: int = 1,
    only: Annotated[list[str] | None, typer.Option(help="Names of rows; all by default.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure every variant, and print the table as it grows."""
    torch.set_num_threads(threads)
    chosen = [variant for variant in VARIANTS if not only or variant.name in only]
    if len(chosen) < len(only or []):
        raise typer.BadParameter(f"--only takes {', '.join(variant.name for variant in VARIANTS)}")
    teachers = {"original": base_of("vgg16", weights_dir), "resnet56": base_of("resnet56", weights_dir)}
    start = starts(teachers["original"], data_dir)
    train, judges = held_out_split(open_source("cifar10", data_dir).train)
    parts = (balanced_sample(train, images), judges)
    for repaired, network in start.items():
        accuracy = infoprune.evaluate(network, loader(judges, preprocessing_of(teachers["original"]), batch_size=256))
        print(f"not trained, {'repaired' if repaired else 'as cut'}: {accuracy.accuracy:.2f}", flush=True)
    kept = state / "rows.json"
    done: dict[str, float] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}

    def key_of(variant: Variant, seed: int) -> str:
        return f"{variant.name}, {images} images, {epochs} epochs, seed {seed}"

    for seed, variant in itertools.product(range(seeds), chosen):
        key = key_of(variant, seed)
        if key not in done:
            done[key] = held_out_accuracy(variant, start[variant.repaired], teachers, parts, state, epochs, seed)
            write_text(kept, json.dumps(done, indent=1) + "\n", force=True)
        print(f"{key}: {done[key]:.2f}", flush=True)
    rows = [
        {**asdict(variant), "held_out": [done[key_of(variant, seed)] for seed in range(seeds)]} for variant in chosen
    ]
    table = Table(title=f"VGG-16, {images:,} images, {epochs} epochs, {seeds} seeds")
    for column in ("variant", "held out %", "against the first"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    first = statistics.mean(rows[0]["held_out"])
    for row in rows:
        mean = statistics.mean(row["held_out"])
        table.add_row(row["name"], f"{mean:.2f}", f"{mean - first:+.2f}")
    Console(width=100).print(table)
    if json_out is not None:
        write_text(json_out, json.dumps(rows, indent=1) + "\n", force=True)


if __name__ == "__main__":
    typer.run(main)
