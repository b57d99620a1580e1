"""Top-1 of every published weights file on the whole real test set, beside the figure published for it.

python benchmarks/zoo.py --data-dir .data --weights-dir ../shared/data/weights [--json out.json] [--only resnet56]

ImageNet stands for 1000 images, one a class, which are apparently training images: those figures are optimistic.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table

from infoprune import data, zoo
from infoprune.device import pick_device
from infoprune.errors import InputError, unknown
from infoprune.files import check_writable, write_text
from infoprune.measure.accuracy import Evaluation, evaluate
from infoprune.progress import Progress
from infoprune.report.terminal import messages, results, shown_progress

IMAGENET_SAMPLE = "imagenet_sample"


@dataclass(frozen=True)
class Published:
    """A weights file and what is said of it: accuracies in percent."""

    network: str
    file: str
    top1: float
    top5: float | None = None


@dataclass(frozen=True)
class Row:
    """What was published and what was measured here."""

    published: Published
    measured: Evaluation

    @property
    def equal(self) -> bool:
        """Whether the measured figures round to the published ones, with room for one image more or less."""
        room = 0.005 + 100 / self.measured.images
        pairs = ((self.published.top1, self.measured.accuracy), (self.published.top5, self.measured.top5))
        return all(expected is None or abs(expected - found) <= room for expected, found in pairs)


PUBLISHED = (
    Published("lenet5", "lenet5_caffe_mnist.pt", 99.14),
    Published("resnet20", "akamaster_resnet20-12fca82f.th", 91.73),
    Published("resnet32", "akamaster_resnet32-d509ac18.th", 92.63),
    Published("resnet44", "akamaster_resnet44-014dd654.th", 93.10),
    Published("resnet56", "akamaster_resnet56-4bfd9763.th", 93.39),
    Published("resnet56_b", "nm_ResNet.cifar10.original.56.pth.tar", 93.88),
    Published("vgg16", "vgg16_bn_cifar10.safetensors", 91.30),
    Published("mobilenet_v2_imagenet", "coral_tf2_mobilenet_v2_1.0_224_ptq_dequant.pt", 86.6, 97.8),
)


def measured(row: Published, data_dir: Path, weights_dir: Path, device: torch.device, progress: Progress) -> Row:
    """Evaluate one weights file on its test set."""
    network, preprocessing = zoo.load_network(row.network, weights_dir / row.file)
    images = zoo.info(row.network).dataset
    directory = data_dir / IMAGENET_SAMPLE if images == "folder" else data_dir
    batches = data.loader(data.open_source(images, directory).test, preprocessing, batch_size=50)
    return Row(row, evaluate(network.to(device), batches, progress=progress))


def table(rows: list[Row]) -> Table:
    shown = Table()
    for column in ("network", "images", "published top-1 (%)", "measured top-1 (%)", "measured top-5 (%)", "seconds"):
        shown.add_column(column, justify="left" if column == "network" else "right")
    for row in rows:
        name, found = row.published.network, row.measured
        expected = f"{row.published.top1:.2f}{'' if row.equal else ' !'}"
        figures = (f"{found.accuracy:.2f}", f"{found.top5:.2f}", f"{found.seconds:.1f}")
        shown.add_row(name, f"{found.images:,}", expected, *figures)
    return shown


def chosen(only: list[str]) -> list[Published]:
    names = [row.network for row in PUBLISHED]
    for name in only:
        if name not in names:
            raise unknown("network with published weights", name, names)
    return [row for row in PUBLISHED if not only or row.network in only]


def main(
    data_dir: Annotated[Path, typer.Option(help="Holds cifar-10-batches-py, MNIST and imagenet_sample.")],
    weights_dir: Annotated[Path, typer.Option(help="Holds the published weights.")],
    json_path: Annotated[Path | None, typer.Option("--json", help="Where the figures go as JSON.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Measure this network only; may be repeated.")] = None,
    device: str = "auto",
    force: bool = False,
) -> None:
    """Measure every published weights file; exit code 1 if a figure is not the published one."""
    try:
        if json_path:
            check_writable(json_path, force=force)
        with shown_progress(messages()) as progress:
            torch_device = pick_device(device)
            rows = [measured(row, data_dir, weights_dir, torch_device, progress) for row in chosen(only or [])]
        if json_path:
            machine = {"torch": torch.__version__, "device": str(torch_device), "threads": torch.get_num_threads()}
            record = {**machine, "networks": [{**asdict(row), "equal": row.equal} for row in rows]}
            write_text(json_path, json.dumps(record, indent=1) + "\n", force=force)
    except InputError as error:
        messages().print(f"error: {error}")
        raise typer.Exit(2) from error
    results().print(table(rows))
    raise typer.Exit(0 if all(row.equal for row in rows) else 1)


if __name__ == "__main__":
    typer.run(main)
