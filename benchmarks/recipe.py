"""What each part of a fine-tuning is worth: one change at a time, judged on held-out images, over seeds.

    python benchmarks/recipe.py --data-dir DIR --weights-dir DIR --state FOLDER [--json out.json]

A ResNet of the zoo at half of its MACs, by ``reconstruction`` and least squares, is trained for a few epochs on a part
of the training images. 5,000 other training images judge; the original has seen them in its own training, the
fine-tuning has not. Each row differs from the first in what its name says. The seeds change the order of the images and
their augmentation.
"""

from __future__ import annotations

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
from fine_tuned import RECIPE, Remembered, pruned
from infoprune.data import balanced_sample, held_out_split, loader, open_source, usual_augmentation
from infoprune.experiment.network import open_network, preprocessing_of
from infoprune.experiment.options import NetworkOptions
from infoprune.files import write_text
from infoprune.training.teachers import Teachers
from infoprune.training.train import make_fabric
from zoo import PUBLISHED

FILES = {row.network: row.file for row in PUBLISHED}


@dataclass(frozen=True)
class Variant:
    """A change of the recipe, of the teachers or of the start."""

    name: str
    recipe: dict[str, Any] = field(default_factory=dict)
    teachers: tuple[str, ...] = ("original",)
    repaired: bool = True
    batch_size: int = 128


VARIANTS = (
    Variant("the original as teacher, learning rate 0.03"),
    Variant("labels alone", {"distillation": 0.0}, ()),
    Variant("labels alone, label smoothing 0.1", {"distillation": 0.0, "label_smoothing": 0.1}, ()),
    Variant("two teachers: the original and ResNet-56", {}, ("original", "resnet56")),
    Variant("ResNet-56 alone as teacher", {}, ("resnet56",)),
    Variant("soft targets alone", {"distillation": 1.0}),
    Variant("temperature 2", {"temperature": 2.0}),
    Variant("starts from the cut network, not repaired", repaired=False),
    Variant("learning rate 0.01", {"learning_rate": 0.01}),
    Variant("learning rate 0.1", {"learning_rate": 0.1}),
    Variant("cutout 0.25", {"cutout": 0.25}),
    Variant("batches of 64", {}, batch_size=64),
    Variant("batches of 256", {}, batch_size=256),
    Variant("cosine without warm-up", {"schedule": "cosine"}),
)


def starts(original: nn.Module, data_dir: Path) -> dict[bool, nn.Module]:
    """Return the pruned network as cut and repaired, by whether it is repaired."""
    found = pruned(original, 0.5, data_dir)
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
        teacher = Remembered(both, state / "-".join(variant.teachers)).eval()
    recipe = replace(RECIPE, epochs=epochs, seed=seed, **variant.recipe)
    batches = loader(train, preprocessing, batch_size=variant.batch_size, shuffle=True)
    found = infoprune.train(start, batches, recipe=recipe, teacher=teacher, augmentation=usual_augmentation("cifar10"),
                            fabric=make_fabric(precision=recipe.precision))  # fmt: skip
    accuracy = infoprune.evaluate(found.model, loader(judges, preprocessing, batch_size=256)).accuracy
    assert accuracy is not None  # there are labels
    return accuracy


def main(
    data_dir: Annotated[Path, typer.Option(help="Holds cifar-10-batches-py.")],
    weights_dir: Annotated[Path, typer.Option(help="Holds the published weights.")],
    state: Annotated[Path, typer.Option(help="Folder of the teachers' answers.")] = Path("runs/recipe"),
    network: str = "resnet20",
    images: int = 20_000,
    epochs: int = 6,
    seeds: int = 2,
    threads: int = 1,
    json_out: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure every variant, and print the table as it grows."""
    torch.set_num_threads(threads)
    names = {"original": network, "resnet56": "resnet56"}
    teachers = {
        key: open_network(NetworkOptions(name, weights_dir / FILES[name]), "cpu") for key, name in names.items()
    }
    start = starts(teachers["original"], data_dir)
    train, judges = held_out_split(open_source("cifar10", data_dir).train)
    parts = (balanced_sample(train, images), judges)
    rows = []
    for variant in VARIANTS:
        network_of = start[variant.repaired]
        found = [held_out_accuracy(variant, network_of, teachers, parts, state, epochs, seed) for seed in range(seeds)]
        rows.append({**asdict(variant), "held_out": found})
        print(f"{variant.name}: {', '.join(f'{one:.2f}' for one in found)}", flush=True)
    table = Table(title=f"{network}, {images:,} images, {epochs} epochs, {seeds} seeds")
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
