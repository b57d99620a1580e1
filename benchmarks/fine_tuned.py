"""Fine-tuned networks beside the published ones: ResNet-56 on CIFAR-10 at the points that papers compare.

    python benchmarks/fine_tuned.py --data-dir DIR                                             # measures weights/
    python benchmarks/fine_tuned.py --data-dir DIR --retrain resnet56-53 --weights-dir DIR --state FOLDER

The first measures the stored networks in minutes. ``--retrain`` makes one of them again: filters chosen by
``reconstruction``, repaired by least squares, then trained on all 50,000 training images with the mean of two teachers,
the original and the VGG-16 of ``weights/``; the last epoch is kept, so nothing is chosen by any held-out image. The
trainings read the same images in the same order, so the teachers' answers are kept in ``--state`` and computed once for
all of them. A training that was interrupted resumes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader

import infoprune
from infoprune.data import Preprocessing, loader, open_source, random_sample, usual_augmentation
from infoprune.experiment.network import open_network, preprocessing_of
from infoprune.experiment.options import NetworkOptions
from infoprune.network.cost import Cost, count
from infoprune.training.train import make_fabric

WEIGHTS = Path(__file__).parents[1] / "weights"
BASE = "akamaster_resnet56-4bfd9763.th"
TEACHER = WEIGHTS / "vgg16-cifar10.safetensors"
RECIPE = infoprune.Recipe(epochs=12, learning_rate=0.03, distillation=0.7)
IMAGES, REPAIR_IMAGES = 256, 2000


@dataclass(frozen=True)
class Published:
    """A row of a paper or its repository: top-1 of base and fine-tuned network, and the shares gone, in percent."""

    method: str
    base: float
    pruned: float
    macs_gone: float
    parameters_gone: float | None = None


@dataclass(frozen=True)
class Point:
    """A size of ResNet-56, as a share of its MACs (``None``: the whole network), and what was published near it."""

    macs: float | None
    published: tuple[Published, ...] = ()


POINTS = {
    "resnet56-trained-on": Point(None),
    "resnet56-53": Point(
        0.465,
        (
            Published("CHIP", 93.26, 94.16, 47.4, 42.8),
            Published("CORING-V-5", 93.26, 94.22, 47.4, 42.8),
            Published("HRank", 93.26, 93.17, 50.0, 42.4),
            Published("ResRep", 93.71, 93.71, 52.9),
            Published("DepGraph, group sparsity", 93.53, 93.77, 53.1, 47.8),
            Published("SRR-GR", 93.38, 93.75, 53.8),
            Published("AutoBot", 93.26, 93.76, 55.9),
        ),
    ),
    "resnet56-72": Point(
        0.277,
        (
            Published("NORTON (decomposition too)", 93.26, 93.81, 71.0, 75.0),
            Published("CORING-E", 93.26, 92.84, 72.3, 71.8),
            Published("CHIP", 93.26, 92.05, 72.3, 71.8),
            Published("HRankPlus", 93.26, 92.32, 74.1, 68.0),
        ),
    ),
}


class Teachers(nn.Module):
    """The mean of the logits of several networks; answers are kept in a folder, by what the images are.

    Args:
        networks: Each knows its own preprocessing.
        given: How the images of the batches were normalised.
        kept: Folder of the answers.
    """

    def __init__(self, networks: list[nn.Module], given: Preprocessing, kept: Path) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.given, self.kept = given, kept
        kept.mkdir(parents=True, exist_ok=True)

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(n, classes)`` logits."""
        name = hashlib.blake2b(images.cpu().contiguous().numpy().tobytes(), digest_size=16).hexdigest()
        file = self.kept / f"{name}.npy"
        if not file.exists():
            with infoprune.files.written_whole(file) as temporary:
                np.save(temporary, self._answers(images).cpu().to(torch.float16).numpy())
        return torch.from_numpy(np.load(file, allow_pickle=False)).to(images.device).float()

    def _answers(self, images: Tensor) -> Tensor:
        answers = [network(self._normalised(images, preprocessing_of(network))) for network in self.networks]
        return torch.stack([answer.float() for answer in answers]).mean(0)

    def _normalised(self, images: Tensor, wanted: Preprocessing) -> Tensor:
        mean, spread = (torch.tensor(v, device=images.device)[:, None, None] for v in (self.given.mean, self.given.std))
        return wanted.normalise(images * spread + mean)


def small_network(point: Point, original: nn.Module, start: Path, data_dir: Path) -> nn.Module:
    """Return the pruned and repaired network of a point, kept at ``start``; of the whole network a copy."""
    if point.macs is None:
        return original
    if not start.exists():
        train = open_source("cifar10", data_dir).train
        some, more = (loader(random_sample(train, count, 0), preprocessing_of(original), batch_size=128)
                      for count in (IMAGES, REPAIR_IMAGES))  # fmt: skip
        small = infoprune.prune(original, some, macs=point.macs, criterion="reconstruction",
                                budget_by="reconstruction", repair="least-squares", repair_images=more)  # fmt: skip
        infoprune.save(small.model, start)
    return infoprune.load(start)


def retrain(name: str, data_dir: Path, weights_dir: Path, state: Path, epochs: int) -> None:
    """Prune, repair and train the network of one point, and write its weights in half precision."""
    point = POINTS[name]
    original = open_network(NetworkOptions("resnet56", weights_dir / BASE), "cpu")
    preprocessing = preprocessing_of(original)
    state.mkdir(parents=True, exist_ok=True)
    small = small_network(point, original, state / f"{name}-start.safetensors", data_dir)
    images = loader(open_source("cifar10", data_dir).train, preprocessing, batch_size=128, shuffle=True)
    teachers = Teachers([original, infoprune.load(TEACHER)], preprocessing, state / "answers").eval()
    recipe = infoprune.Recipe(**{**asdict(RECIPE), "epochs": epochs})
    found = infoprune.train(
        small,
        images,
        recipe=recipe,
        teacher=teachers,
        augmentation=usual_augmentation("cifar10"),
        fabric=make_fabric(precision=recipe.precision),
        resume=state / f"{name}.resume",
        on_epoch=lambda epoch: print(f"{name}: {epoch}", flush=True),
    )
    settings = {"command": f"python benchmarks/fine_tuned.py --retrain {name}", "recipe": asdict(recipe),
                "seconds": sum(epoch.seconds for epoch in found.epochs)}  # fmt: skip
    infoprune.save(found.model.cpu(), WEIGHTS / f"{name}.safetensors", settings=settings, half=True, force=True)


def measured(model: nn.Module, data_dir: Path) -> tuple[float, Cost]:
    """Return the accuracy on the test images, in percent, and the cost."""
    test: DataLoader[Any] = loader(open_source("cifar10", data_dir).test, preprocessing_of(model), batch_size=256)
    return infoprune.evaluate(model, test).accuracy, count(model, torch.zeros(1, 3, 32, 32))


def table(data_dir: Path, weights_dir: Path | None) -> dict[str, Any]:
    """Print what the stored networks reach beside the published rows, and return the figures."""
    shown = Table(title="ResNet-56, CIFAR-10, fine-tuned")
    for column in ("network", "base %", "pruned %", "points", "MACs gone %", "parameters gone %"):
        shown.add_column(column, justify="left" if column == "network" else "right")
    if weights_dir is None:
        base, whole = 93.39, Cost(macs=125485706, parameters=853018)
    else:
        base, whole = measured(open_network(NetworkOptions("resnet56", weights_dir / BASE), "cpu"), data_dir)
    found: dict[str, Any] = {"base": base}
    for name, point in POINTS.items():
        file = WEIGHTS / f"{name}.safetensors"
        if file.exists():
            accuracy, cost = measured(infoprune.load(file), data_dir)
            gone = [100 * (1 - cost.macs / whole.macs), 100 * (1 - cost.parameters / whole.parameters)]
            found[name] = {"accuracy": accuracy, **asdict(cost), "settings": infoprune.storage.describe(file).settings}
            shown.add_row(f"[bold]{name}[/]", f"{base:.2f}", f"{accuracy:.2f}", f"{accuracy - base:+.2f}",
                          *(f"{share:.1f}" for share in gone))  # fmt: skip
        for row in point.published:
            parameters = "" if row.parameters_gone is None else f"{row.parameters_gone:.1f}"
            shown.add_row(f"  {row.method}", f"{row.base:.2f}", f"{row.pruned:.2f}", f"{row.pruned - row.base:+.2f}",
                          f"{row.macs_gone:.1f}", parameters)  # fmt: skip
    Console(width=110).print(shown)
    return found


def main(
    data_dir: Annotated[Path, typer.Option(help="Holds cifar-10-batches-py.")],
    weights_dir: Annotated[Path | None, typer.Option(help="Holds the published weights of the base.")] = None,
    retrain_point: Annotated[str | None, typer.Option("--retrain", help=f"One of {', '.join(POINTS)}.")] = None,
    state: Annotated[Path, typer.Option(help="Folder of what a training keeps.")] = Path("runs/fine-tuned"),
    epochs: int = RECIPE.epochs,
    threads: int = 1,
    json_out: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure the stored networks, or make one of them again."""
    torch.set_num_threads(threads)
    if retrain_point is not None:
        if weights_dir is None or retrain_point not in POINTS:
            raise typer.BadParameter("--retrain takes the name of a point, and needs --weights-dir")
        retrain(retrain_point, data_dir, weights_dir, state, epochs)
    found = table(data_dir, weights_dir)
    if json_out is not None:
        infoprune.files.write_text(json_out, json.dumps(found, indent=1) + "\n", force=True)


if __name__ == "__main__":
    typer.run(main)
