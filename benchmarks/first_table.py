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
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from infoprune import criteria, experiment, pipeline
from infoprune.experiment import DataChoice, NetworkChoice
from infoprune.record import removed

KEPT = {1: 10, 2: 17, 3: 24}


def counts() -> dict[str, int]:
    return {f"layer{stage}.{block}.conv1": kept for stage, kept in KEPT.items() for block in range(9)}


def measure(model: nn.Module, images: DataChoice, criterion: str, seed: int) -> dict[str, Any]:
    parts = experiment.open_parts(images, seed)
    calibration, test = (experiment.batches(part, model, images) for part in (parts.calibration, parts.test))
    tap = {"hrel": "convolution"}.get(criterion)
    result = pipeline.prune(
        model, calibration, test=test, criterion=criterion, keep=counts(), seed=seed, tap=tap, repair="bn"
    )
    return result.record()


def mean(accuracies: list[float]) -> str:
    spread = f" ± {statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    return f"{statistics.mean(accuracies):.2f}{spread}"


def row(name: str, records: list[dict[str, Any]]) -> tuple[str, ...]:
    base, pruned = records[0]["base"], records[0]["pruned"]
    seconds = statistics.mean(record["seconds"]["plan"] for record in records)
    return (
        name,
        f"{base['accuracy']:.2f}",
        mean([record["as_cut"]["accuracy"] for record in records]),
        mean([record["pruned"]["accuracy"] for record in records]),
        f"{removed(base['macs'], pruned['macs']):.2f}",
        f"{removed(base['parameters'], pruned['parameters']):.2f}",
        f"{base['dead_filters']}",
        f"{seconds:.1f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    model = experiment.open_network(NetworkChoice("resnet56", arguments.weights), arguments.device)
    images = DataChoice("cifar10", arguments.data_dir, batch_size=256)
    table = Table(title="ResNet-56, CIFAR-10, 10/17/24 filters in the first convolution of each block")
    for column in ("criterion", "base %", "as cut %", "+ BN %", "MACs gone %", "parameters gone %", "dead", "plan s"):
        table.add_column(column, justify="left" if column == "criterion" else "right")
    records = {}
    for info in criteria.all_criteria():
        if info.name == "qsfm":
            continue  # another name of qsfm-ssim
        seeds = range(arguments.seeds if info.needs_maps or info.name == "random" else 1)
        records[info.name] = [measure(model, images, info.name, seed) for seed in seeds]
        table.add_row(*row(info.name, records[info.name]))
        print(" | ".join(row(info.name, records[info.name])), flush=True)
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
