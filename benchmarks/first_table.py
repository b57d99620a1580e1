"""ResNet-56 on CIFAR-10 at the size of the QSFM headline, by every criterion: as cut, and after BN re-estimation.

    python benchmarks/first_table.py --weights akamaster_resnet56-4bfd9763.th --data-dir DIR [--json out.json]

10, 17 and 24 of the 16, 32 and 64 filters stay in the first convolution of every block: 48.68 % of the MACs and 58.08 %
of the parameters go. Criteria that look at images or draw at random are run with several seeds, each another
calibration sample of 256 class-balanced training images, which re-estimates BN too; the test set measures and chooses
nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from infoprune import criteria, evaluate, pipeline
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.options import DataOptions, NetworkOptions
from infoprune.measure.figures import dead_filters
from infoprune.measure.record import removed
from infoprune.network.cost import count
from infoprune.options import PruneOptions
from infoprune.repair import repaired
from infoprune.selection.planning import make_plan

KEPT = {1: 10, 2: 17, 3: 24}
COLUMNS = ("criterion", "as cut %", "+ BN %", "MACs gone %", "parameters gone %", "dead left", "plan s")


def counts() -> dict[str, int]:
    return {f"layer{stage}.{block}.conv1": kept for stage, kept in KEPT.items() for block in range(9)}


def measure(model: nn.Module, images: DataOptions, criterion: str, seed: int) -> dict[str, Any]:
    parts = run_images.open_parts(images, seed)
    calibration, test = (run_images.batches(part, model, images) for part in (parts.calibration, parts.test))
    tap = {"hrel": "convolution"}.get(criterion)
    start = time.perf_counter()
    planned = make_plan(model, calibration, PruneOptions(criterion=criterion, keep=counts(), seed=seed, tap=tap))
    seconds = time.perf_counter() - start
    small = pipeline.apply(planned.plan, model)
    renewed = repaired(small, model, calibration, planned.plan, planned.groups, how="bn")
    dead = dead_filters(model, calibration, planned.groups.groups)
    return {
        "criterion": criterion,
        "seed": seed,
        "seconds": seconds,
        "cost": asdict(count(small, torch.zeros(1, 3, 32, 32))),
        "dead_kept": sum(len(dead[name] & set(kept)) for name, kept in planned.plan.kept.items()),
        "as_cut": asdict(evaluate(small, test)),
        "after_norms": asdict(evaluate(renewed, test)),
        "plan": {name: list(kept) for name, kept in planned.plan.kept.items()},
    }


def mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def row(name: str, base: dict[str, int], records: list[dict[str, Any]]) -> tuple[str, ...]:
    return (
        name,
        mean([record["as_cut"]["accuracy"] for record in records]),
        mean([record["after_norms"]["accuracy"] for record in records]),
        f"{removed(base['macs'], records[0]['cost']['macs']):.2f}",
        f"{removed(base['parameters'], records[0]['cost']['parameters']):.2f}",
        mean([record["dead_kept"] for record in records]),
        f"{statistics.mean(record['seconds'] for record in records):.1f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--criteria", type=lambda text: text.split(","), help="by default all")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    model = run_network.open_network(NetworkOptions("resnet56", arguments.weights), arguments.device)
    images = DataOptions("cifar10", arguments.data_dir, batch_size=256)
    parts = run_images.open_parts(images)
    base = asdict(count(model, torch.zeros(1, 3, 32, 32)))
    whole = evaluate(model, run_images.batches(parts.test, model, images))
    table = Table(title=f"ResNet-56, CIFAR-10, base {whole.accuracy:.2f} %, {base['macs']:,} MACs")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "criterion" else "right")
    records = {}
    for info in criteria.all_criteria():
        wanted = arguments.criteria is None or info.name in arguments.criteria
        if not wanted or info.name == "qsfm":  # another name of qsfm-ssim
            continue
        seeds = range(arguments.seeds if info.needs_maps or info.name == "random" else 1)
        records[info.name] = [measure(model, images, info.name, seed) for seed in seeds]
        table.add_row(*row(info.name, base, records[info.name]))
        print(" | ".join(row(info.name, base, records[info.name])), flush=True)
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"base": asdict(whole), **records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
