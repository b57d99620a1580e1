"""Seconds and memory of scoring, repair and evaluation on the devices of this machine: one table.

    python benchmarks/devices.py --network vgg16 --weights FILE --data-dir DIR [--devices cpu cuda] [--json out.json]

Each stage runs twice, and the second run is measured, so that kernels are loaded and chosen. On a GPU the clock is read
after all its work is done, and the memory is the most that PyTorch held. Plans are compared with those of the first
device. With ``--quick`` there are 128 images, which takes about a minute on one GPU.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from infoprune import apply, criteria, data, evaluate, plan
from infoprune.criteria.scoring import score
from infoprune.data.batches import examples_of
from infoprune.experiment.images import batches as batches_of
from infoprune.experiment.network import open_network
from infoprune.experiment.options import DataOptions, NetworkOptions
from infoprune.measure import environment
from infoprune.network.coupled_groups import find_groups
from infoprune.repair import repair

CRITERIA = ("l1", "variance", "qsfm", "hrel", "cmi", "taylor", "reconstruction")
REPAIRS = ("bn", "least-squares", "distil")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="vgg16")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--devices", nargs="+", default=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
    parser.add_argument("--stages", nargs="+", default=[*CRITERIA, *REPAIRS, "evaluate"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    images = 128 if given.quick else given.images
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for device in given.devices:
        for stage in given.stages:
            found.setdefault(stage, {})[device] = measured(stage, device, images, given)
    shown(found, given.devices, f"{given.network}, {images} images")
    if given.json is not None:
        machines = {device: environment.machine(torch.device(device)) for device in given.devices}
        given.json.write_text(json.dumps({"stages": found, "machines": machines}, indent=1) + "\n")


def measured(stage: str, device: str, images: int, given: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of the second run of a stage, the memory, and the plan of a criterion."""
    options = DataOptions(given.data, given.data_dir, batch_size=128)
    model = open_network(NetworkOptions(given.network, given.weights), device)
    source = data.open_source(options.name, options.directory)
    some = [(batch.to(device), labels.to(device)) for batch, labels in
            batches_of(data.balanced_sample(source.train, images, 0), model, options)]  # fmt: skip
    work = prepared(stage, model, some)
    work()
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    result = work()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        "orders": result if stage in CRITERIA else None,
    }


def prepared(stage: str, model: nn.Module, some: list[Any]) -> Callable[[], Any]:
    """Return the function that is measured."""
    if stage == "evaluate":
        return lambda: evaluate(model, some).accuracy
    if stage in CRITERIA:
        groups, info = find_groups(model, examples_of(some, model)).groups, criteria.find(stage)
        return lambda: {name: list(one.order) for name, one in score(model, groups, some, info).items()}
    made = plan(model, some, criterion="l1", macs=0.5)
    small = apply(made, model)
    return lambda: repair(small, model, some, made, method=stage, epochs=1)


def shown(found: dict[str, dict[str, dict[str, Any]]], devices: list[str], title: str) -> None:
    """Print the table."""
    table = Table(title=title)
    table.add_column("stage")
    for device in devices:
        table.add_column(f"{device}, s", justify="right")
        table.add_column("GiB", justify="right")
    table.add_column("layers with the same order")
    for stage, by_device in found.items():
        cells = []
        for device in devices:
            peak = by_device[device]["peak_bytes"]
            cells += [f"{by_device[device]['seconds']:.2f}", "" if peak is None else f"{peak / 2**30:.2f}"]
        first, last = (by_device[device]["orders"] for device in (devices[0], devices[-1]))
        same = "" if first is None else f"{sum(first[name] == last[name] for name in first)} of {len(first)}"
        table.add_row(stage, *cells, same)
    Console(width=None).print(table)


if __name__ == "__main__":
    main()
