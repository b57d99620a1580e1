"""Fine-tuned networks beside the published ones: ResNet-56 and VGG-16 on CIFAR-10, at the points that papers compare.

    python benchmarks/fine_tuned.py --data-dir DIR [--weights-dir DIR]                       # measures weights/
    python benchmarks/fine_tuned.py --data-dir DIR --weights-dir DIR --retrain resnet56-53 --state FOLDER

The first measures the stored networks in minutes. ``--retrain`` makes one of them again, or ``all``: filters chosen by
``reconstruction``, repaired by least squares, then trained on all 50,000 training images. ``TEACHERS`` names whose mean
of logits is the soft target. The last epoch is kept: no held-out image and no test image chooses anything. ``--go-on``
trains the stored network on, ``--lr`` sets the largest rate. Every training image has six forms (``few_crops``), so
the answers and attention maps of the teacher are kept in ``--state`` and computed once for all trainings. A training
that was interrupted resumes.

On a GPU, where images and teachers are held on the device, this makes all of them with as many epochs as fit:

    python benchmarks/fine_tuned.py --data-dir DIR --weights-dir DIR --retrain all --minutes 14
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import infoprune
from infoprune import zoo
from infoprune.data import loader, open_source, random_sample
from infoprune.data.images import StoredImages
from infoprune.device import pick_device
from infoprune.experiment.network import open_network, preprocessing_of, stored_precision
from infoprune.experiment.options import NetworkOptions
from infoprune.files import write_text
from infoprune.measure.record import removed
from infoprune.network.cost import Cost, count
from infoprune.pipeline import Result
from infoprune.storage import checkpoint
from infoprune.training.activation_maps import ActivationMaps
from infoprune.training.attention_maps import attention
from infoprune.training.duration import epochs_within
from infoprune.training.teachers import Teachers
from infoprune.training.train import make_fabric

WEIGHTS = Path(__file__).parents[1] / "weights"
RESNET = "akamaster_resnet56-4bfd9763.th"
PUBLISHED_ACCURACY = 93.39  # of RESNET, which benchmarks/zoo.py measures too
VGG = WEIGHTS / "vgg16-cifar10.safetensors"
RECIPE = infoprune.Recipe(epochs=12, learning_rate=0.03, distillation=0.7, attention=100.0)
# The original comes first: the logits of the others are brought to its scale.
TEACHERS = {"resnet56": ("resnet56", "vgg16"), "vgg16": ("vgg16", "resnet56-trained-on")}
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
    """A network at a share of its MACs (``None``: the whole network, trained on), and what was published near it."""

    network: str
    macs: float | None
    published: tuple[Published, ...] = ()


POINTS = {
    "resnet56-trained-on": Point("resnet56", None),
    "resnet56-53": Point(
        "resnet56",
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
        "resnet56",
        0.277,
        (
            Published("NORTON (decomposition too)", 93.26, 93.81, 71.0, 75.0),
            Published("CORING-E", 93.26, 92.84, 72.3, 71.8),
            Published("CHIP", 93.26, 92.05, 72.3, 71.8),
            Published("HRankPlus", 93.26, 92.32, 74.1, 68.0),
        ),
    ),
    "vgg16-trained-on": Point("vgg16", None),
    "vgg16-58": Point(
        "vgg16",
        0.419,
        (
            Published("AutoBot", 93.96, 94.19, 53.7, 50.0),
            Published("CHIP", 93.96, 93.86, 58.1, 81.6),
            Published("CORING-C-5", 93.96, 94.42, 58.1, 81.6),
            Published("HRankPlus", 93.96, 93.73, 58.1, 81.6),
        ),
    ),
    "vgg16-79": Point(
        "vgg16",
        0.214,
        (
            Published("AutoBot", 93.96, 93.62, 76.9, 63.0),
            Published("NORTON (decomposition too)", 93.96, 94.11, 77.0, 76.0),
            Published("CHIP", 93.96, 93.18, 78.6, 87.3),
            Published("CORING-C-10", 93.96, 93.83, 78.6, 87.3),
        ),
    ),
}


class Remembered:
    """What a function returns for every image, kept in a file by what the image is: 16 bytes and the values.

    Args:
        ask: Returns ``(n, values)`` for images.
        values: Number of values of an image.
        file: Holds them, in half precision.

    Example:
        >>> import tempfile
        >>> asked = []
        >>> def sums(images):
        ...     asked.append(len(images))
        ...     return images.flatten(1).sum(dim=1, keepdim=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     known = Remembered(sums, 1, Path(folder) / "sums.bin")
        ...     known(torch.ones(1, 2)).tolist(), known(torch.tensor([[1.0, 1.0], [0.0, 3.0]])).tolist(), asked
        ([[2.0]], [[2.0], [3.0]], [1, 1])
    """

    def __init__(self, ask: Callable[[Tensor], Tensor], values: int, file: Path) -> None:
        self.ask, self.file = ask, file
        self.record = np.dtype([("image", "V16"), ("values", np.float16, (values,))])
        self.known: dict[bytes, Any] = {}
        self.read = 0
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()

    def __call__(self, images: Tensor) -> Tensor:
        """Return ``(n, values)``."""
        names = [_name(image) for image in images.cpu().contiguous().numpy()]
        if any(name not in self.known for name in names):
            self._read()
        new = [row for row, name in enumerate(names) if name not in self.known]
        if new:
            self._ask(images[new], [names[row] for row in new])
        return torch.from_numpy(np.stack([self.known[name] for name in names])).to(images.device).float()

    def _read(self) -> None:
        """Read what this process and others have written since the last time."""
        records = np.fromfile(self.file, self.record, offset=self.read)
        self.read += records.nbytes
        self.known.update((record["image"].tobytes(), record["values"]) for record in records)

    def _ask(self, images: Tensor, names: list[bytes]) -> None:
        found = self.ask(images).cpu().to(torch.float16).numpy()
        records = np.array([(np.void(name), values) for name, values in zip(names, found, strict=True)], self.record)
        with self.file.open("ab") as end:
            end.write(records.tobytes())
        self.known.update(zip(names, found, strict=True))


class RememberedTeacher(nn.Module):
    """A teacher whose answers, and what the attention maps of one network are, are computed once for every image.

    Args:
        teacher: Returns logits.
        file: Holds them; the attention maps are in a file beside it.
        shown: A network whose attention maps are learnt.
        classes: Number of logits.

    Example:
        >>> import tempfile
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()
        >>> images = torch.rand(2, 1, 8, 8)
        >>> with tempfile.TemporaryDirectory() as folder, torch.no_grad(), ActivationMaps(attention) as found:
        ...     answers = RememberedTeacher(net, Path(folder) / "answers.bin", net)(images)
        >>> tuple(found[0].shape), tuple(answers.shape)
        ((2, 36), (2, 10))
    """

    def __init__(self, teacher: nn.Module, file: Path, shown: nn.Module | None = None, classes: int = 10) -> None:
        super().__init__()
        self.teacher, self.file, self.shown = teacher, file, shown
        self.answers = Remembered(self.teacher, classes, file)
        self.maps: Remembered | None = None
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(n, classes)`` logits."""
        if self.shown is not None:
            self._show(self.shown, images)
        return self.answers(images)

    def _show(self, network: nn.Module, images: Tensor) -> None:
        """Run activation functions on maps of one channel that have the attention maps of the network."""
        if self.maps is None:
            self.sizes = [one.shape[1] for one in _attention_maps(network, images[:1])]
            self.maps = Remembered(
                lambda some: torch.cat(_attention_maps(network, some), dim=1).sqrt(),
                sum(self.sizes),
                self.file.with_name(f"{self.file.stem}-maps.bin"),
            )
        for roots in torch.split(self.maps(images), self.sizes, dim=1):
            F.relu(roots[:, None])


def _attention_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the attention maps of all layers, unseen by who collects maps in this thread."""
    half = torch.is_autocast_enabled(images.device.type)

    def run() -> list[Tensor]:
        precision = torch.autocast(images.device.type, torch.bfloat16, enabled=half)
        with torch.no_grad(), precision, ActivationMaps(attention) as found:
            network(images)
        return found

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


def _name(image: Any) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def few_crops(images: Tensor) -> Tensor:
    """Return each image moved by three pixels along a diagonal or not at all, and flipped half of the time.

    An image has six forms, whose answers are soon all known; the usual crops have 162.
    """
    moved = torch.stack([F.pad(images, (most, -most, most, -most)) for most in (-3, 0, 3)])
    chosen = moved[torch.randint(0, 3, (len(images),)), torch.arange(len(images))]
    flip = (torch.rand(len(images)) < 0.5).to(images.device)
    return torch.where(flip[:, None, None, None], chosen.flip(-1), chosen)


def base_of(network: str, weights_dir: Path) -> nn.Module:
    """Return the original of a point, or a stored network that teaches."""
    if network in POINTS:
        return infoprune.load(WEIGHTS / f"{network}.safetensors")
    options = NetworkOptions("resnet56", weights_dir / RESNET) if network == "resnet56" else NetworkOptions(weights=VGG)
    return open_network(options, "cpu")


def small_network(point: Point, original: nn.Module, start: Path, data_dir: Path) -> nn.Module:
    """Return the network that is kept at ``start``, else the pruned and repaired one of a point, or the whole one."""
    if not start.exists():
        if point.macs is None:
            return original
        infoprune.save(pruned(original, point.macs, data_dir).model, start)
    return infoprune.load(start)


def pruned(original: nn.Module, macs: float, data_dir: Path) -> Result:
    """Prune by ``reconstruction``, which divides the budget too, and repair by least squares."""
    train = open_source("cifar10", data_dir).train
    some, more = (loader(random_sample(train, count, 0), preprocessing_of(original), batch_size=128)
                  for count in (IMAGES, REPAIR_IMAGES))  # fmt: skip
    return infoprune.prune(original, some, macs=macs, criterion="reconstruction", budget_by="reconstruction",
                           repair="least-squares", repair_images=more)  # fmt: skip


def retrain(
    name: str,
    data_dir: Path,
    weights_dir: Path,
    state: Path,
    recipe: infoprune.Recipe,
    *,
    minutes: float | None = None,
    go_on: bool = False,
) -> None:
    """Prune, repair and train the network of one point, and write its weights in half precision.

    Args:
        name: The point.
        data_dir: Holds cifar-10-batches-py.
        weights_dir: Holds the published weights.
        state: Folder of what a training keeps.
        recipe: Of this training.
        minutes: With these, as many epochs as fit, in place of those of the recipe.
        go_on: Train the stored network of the point on, in place of the repaired one.
    """
    point, device = POINTS[name], pick_device()
    state.mkdir(parents=True, exist_ok=True)
    original = base_of(point.network, weights_dir).to(device)
    preprocessing = preprocessing_of(original)
    stored = WEIGHTS / f"{name}.safetensors"
    before = [checkpoint.describe(stored).settings] if go_on else []
    start = stored if go_on else state / f"{name}-start.safetensors"
    small = small_network(point, original, start, data_dir)
    names = TEACHERS[point.network]
    networks = [base_of(teacher, weights_dir) for teacher in names]
    teachers: nn.Module = Teachers(networks, preprocessing, [preprocessing_of(network) for network in networks])
    if device.type == "cpu":
        shown = networks[0] if recipe.attention else None
        teachers = RememberedTeacher(teachers, state / f"answers-{'-'.join(names)}.bin", shown)
    train = open_source("cifar10", data_dir).train
    assert isinstance(train, StoredImages)
    # A GPU trains faster than a processor core normalises images.
    train = replace(train, images=train.images.to(device), labels=train.labels.to(device))
    batches = loader(train, preprocessing, batch_size=128, shuffle=True)
    how: dict[str, Any] = {
        "teacher": teachers.eval(), "augmentation": few_crops, "fabric": make_fabric(precision=recipe.precision),
    }  # fmt: skip
    if minutes is not None:
        recipe = replace(recipe, epochs=epochs_within(minutes, small, batches, recipe=recipe, **how).epochs)
    resume = state / f"{name}{'-on' if go_on else ''}.resume"
    found = infoprune.train(
        small, batches, recipe=recipe, **how, resume=resume,
        on_epoch=lambda epoch: print(f"{name}: {epoch}", flush=True),
    )  # fmt: skip
    settings = {
        "command": f"python benchmarks/fine_tuned.py --retrain {name} --epochs {recipe.epochs} "
        f"--lr {recipe.learning_rate} --attention {recipe.attention}{' --go-on' if go_on else ''}",
        "before": before,
        "teachers": list(names),
        "recipe": asdict(recipe),
        "device": str(device),
        "seconds": sum(epoch.seconds for epoch in found.epochs),
    }
    final = stored_precision(found.model.cpu(), half=True)
    accuracy, images, cost = measured(final, data_dir)
    figures = {"accuracy": accuracy, "images": images, **asdict(cost)}
    infoprune.save(final, stored, settings=settings, figures=figures, half=True, force=True)
    # The next training begins from what is stored now.
    resume.unlink(missing_ok=True)


def measured(model: nn.Module, data_dir: Path) -> tuple[float, int, Cost]:
    """Return the accuracy of a network on the test images in percent, their number, and its cost."""
    test: DataLoader[Any] = loader(open_source("cifar10", data_dir).test, preprocessing_of(model), batch_size=256)
    found = infoprune.evaluate(model, test)
    assert found.accuracy is not None  # there are labels
    return found.accuracy, found.images, count(model, torch.zeros(1, 3, 32, 32))


def cells(name: str, base: float, pruned: float, macs_gone: float, parameters_gone: float | None) -> tuple[str, ...]:
    """Return a row of the table."""
    parameters = "" if parameters_gone is None else f"{parameters_gone:.1f}"
    return name, f"{base:.2f}", f"{pruned:.2f}", f"{pruned - base:+.2f}", f"{macs_gone:.1f}", parameters


def table(data_dir: Path, weights_dir: Path | None) -> dict[str, Any]:
    """Print what the stored networks reach beside the published rows, and return the figures."""
    shown = Table(title="CIFAR-10, fine-tuned")
    for column in ("network", "base %", "pruned %", "points", "MACs gone %", "parameters gone %"):
        shown.add_column(column, justify="left" if column == "network" else "right")
    found: dict[str, Any] = {}
    for network in ("resnet56", "vgg16"):
        if network == "resnet56" and weights_dir is None:
            accuracy, whole = PUBLISHED_ACCURACY, count(zoo.build(network), torch.zeros(1, 3, 32, 32))
        else:
            accuracy, _, whole = measured(base_of(network, weights_dir or WEIGHTS), data_dir)
        found[network] = {"accuracy": accuracy, **asdict(whole)}
        for name, point in POINTS.items():
            if point.network != network:
                continue
            file = WEIGHTS / f"{name}.safetensors"
            if file.exists():
                reached, _, cost = measured(infoprune.load(file), data_dir)
                found[name] = {
                    "accuracy": reached,
                    **asdict(cost),
                    "settings": checkpoint.describe(file).settings,
                }
                gone = (removed(whole.macs, cost.macs), removed(whole.parameters, cost.parameters))
                shown.add_row(*cells(f"[bold]{name}[/]", accuracy, reached, *gone))
            for row in point.published:
                shown.add_row(*cells(f"  {row.method}", row.base, row.pruned, row.macs_gone, row.parameters_gone))
    Console(width=110).print(shown)
    return found


def main(
    data_dir: Annotated[Path, typer.Option(help="Holds cifar-10-batches-py.")],
    weights_dir: Annotated[Path | None, typer.Option(help="Holds the published weights of ResNet-56.")] = None,
    point: Annotated[str | None, typer.Option("--retrain", help=f"all, or one of {', '.join(POINTS)}.")] = None,
    state: Annotated[Path, typer.Option(help="Folder of what a training keeps.")] = Path("runs/fine-tuned"),
    epochs: Annotated[int | None, typer.Option(help="Of each training; 12, or what fits into the minutes.")] = None,
    learning_rate: Annotated[float, typer.Option("--lr", help="The largest of the training.")] = RECIPE.learning_rate,
    attention: Annotated[float, typer.Option(help="Weight of the original's attention maps.")] = RECIPE.attention,
    minutes: Annotated[float | None, typer.Option(help="For all trainings together.")] = None,
    go_on: Annotated[bool, typer.Option(help="Train the stored network on, in place of the repaired one.")] = False,
    threads: int = 1,
    json_out: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure the stored networks, or make them again."""
    torch.set_num_threads(threads)
    if point is not None:
        if weights_dir is None or point not in (*POINTS, "all"):
            raise typer.BadParameter("--retrain takes 'all' or the name of a point, and needs --weights-dir")
        names = list(POINTS) if point == "all" else [point]
        recipe = replace(RECIPE, epochs=epochs or RECIPE.epochs, learning_rate=learning_rate, attention=attention)
        begun = time.monotonic()
        for done, name in enumerate(names):
            left = None
            if minutes is not None and epochs is None:
                left = (minutes - (time.monotonic() - begun) / 60) / (len(names) - done)
            retrain(name, data_dir, weights_dir, state, recipe, minutes=left, go_on=go_on)
    found = table(data_dir, weights_dir)
    if json_out is not None:
        write_text(json_out, json.dumps(found, indent=1) + "\n", force=True)


if __name__ == "__main__":
    typer.run(main)
