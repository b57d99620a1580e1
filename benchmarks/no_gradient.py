"""Accuracy without labels, training or gradient: criteria by repairs, at the same filters kept for every repair.

    python benchmarks/no_gradient.py --network resnet56 --weights FILE --data-dir DIR [--quick] [--json out.json]

Without ``--macs`` the ResNets keep 10, 17 and 24 of the 16, 32 and 64 filters in the first convolution of every block,
the size of the QSFM headline (48.7 % of the MACs and 58.1 % of the parameters go); every other network keeps half of
the filters of every layer. With ``--macs 0.8,0.6,0.4`` one ranking over the network is cut to each of these shares.
Calibration and repair images come from the training set (the first chosen with balanced classes, the second at random,
labels unseen); every seed draws both anew. The test set measures and chooses nothing. ``--quick`` is one seed, the
criteria l1 and random, 500 repair images and the first 2,000 test images.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from infoprune import criteria, data, experiment, measuring, pipeline
from infoprune.evaluation import evaluate
from infoprune.experiment import DataChoice, NetworkChoice
from infoprune.network import cost
from infoprune.network.groups import find_groups
from infoprune.plan import Budget
from infoprune.record import removed
from infoprune.repair import all_repairs, repaired

KEPT = {1: 10, 2: 17, 3: 24}
DATA = {"lenet5": "mnist", "mobilenet_v2_imagenet": "folder", "digits": "digits"}


@dataclass(frozen=True)
class Case:
    """One network with its images."""

    model: nn.Module
    images: DataChoice
    test: Any
    base: float


def rule(model: nn.Module, network: str, share: float | None, budget_by: str | None) -> dict[str, Any]:
    if share is not None:
        return {"budget": Budget(macs=share), "budget_by": budget_by}
    if not network.startswith("resnet"):
        return {"ratio": 0.5}
    blocks = {name for name, _ in model.named_modules() if name.endswith("conv1") and name.startswith("layer")}
    return {"keep": {name: KEPT[int(name[5])] for name in sorted(blocks)}}


def rows(case: Case, arguments: argparse.Namespace, criterion: str, share: float | None) -> Iterator[dict[str, Any]]:
    """Measure one criterion with every repair and number of images, seed by seed."""
    seeds = arguments.seeds if criteria.find(criterion).needs_maps or criterion == "random" else 1
    for seed in range(seeds):
        parts = experiment.open_parts(case.images, seed)
        calibration = experiment.batches(parts.calibration, case.model, case.images)
        example = measuring.example_of(calibration, case.model)
        groups = find_groups(case.model, example)
        start = time.perf_counter()
        tap = {"hrel": "convolution"}.get(criterion)
        chosen = rule(case.model, arguments.network, share, arguments.budget_by)
        plan = pipeline.plan(case.model, calibration, criterion=criterion, seed=seed, tap=tap, **chosen)
        seconds = time.perf_counter() - start
        small = pipeline.apply(plan, case.model, example)
        whole, left = cost.count(case.model, example), cost.count(small, example)
        told = {
            "criterion": criterion,
            "seed": seed,
            "macs_removed": removed(whole.macs, left.macs),
            "parameters_removed": removed(whole.parameters, left.parameters),
        }
        dead = measuring.dead_filters(case.model, calibration, groups.groups)
        told["dead_filters"] = sum(map(len, dead.values()))
        told["dead_filters_removed"] = sum(len(dead[n] - set(kept)) for n, kept in plan.kept.items() if n in dead)
        accuracy = evaluate(small, case.test).accuracy
        yield {**told, "repair": "as cut", "images": 0, "accuracy": accuracy, "seconds": seconds}
        for count in arguments.images:
            unlabelled = data.random_sample(parts.train, count, seed)
            batches = experiment.batches(unlabelled, case.model, case.images)
            for method in arguments.repairs:
                start = time.perf_counter()
                better = repaired(small, case.model, batches, plan, groups, method=method)
                seconds = time.perf_counter() - start
                accuracy = evaluate(better, case.test).accuracy
                yield {**told, "repair": method, "images": count, "accuracy": accuracy, "seconds": seconds}


def told(some: list[dict[str, Any]]) -> tuple[str, ...]:
    accuracies = [row["accuracy"] for row in some]
    spread = f" ± {statistics.stdev(accuracies):.2f}" if len(some) > 1 else ""
    first = some[0]
    return (
        first["criterion"],
        first["repair"],
        str(first["images"]),
        f"{first['macs_removed']:.1f}",
        f"{first['parameters_removed']:.1f}",
        f"{statistics.mean(accuracies):.2f}{spread}",
        f"{statistics.mean(row['seconds'] for row in some):.0f}",
    )


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def shares(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def words(text: str) -> list[str]:
    return text.split(",")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet56")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--criteria", type=words, default=["qsfm-ssim", "qsfm-psnr", "cmi", "hrel", "l1", "random"])
    parser.add_argument("--repairs", type=words, default=[info.name for info in all_repairs()])
    parser.add_argument("--images", type=numbers, default=[1000], help="repair images, one or several numbers")
    parser.add_argument("--macs", type=shares, default=[None], help="shares of the MACs that remain")
    parser.add_argument("--budget-by", help="criterion that shares the MACs out to the layers")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--test-images", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.images, arguments.test_images = 1, [500], 2000
        arguments.criteria = [name for name in arguments.criteria if name in ("l1", "random")] or arguments.criteria
    return arguments


def main() -> None:
    arguments = parsed()
    model = experiment.open_network(NetworkChoice(arguments.network, arguments.weights), arguments.device)
    images = DataChoice(DATA.get(arguments.network, "cifar10"), arguments.data_dir, batch_size=250)
    test = experiment.open_parts(images).test
    test = test if arguments.test_images is None else test.subset(torch.arange(min(len(test), arguments.test_images)))
    batches = experiment.batches(test, model, images)
    case = Case(model, images, batches, evaluate(model, batches).accuracy)
    title = (
        f"{arguments.network} ({arguments.weights.name}), {case.base:.2f} % on {len(test):,} test images, no gradient"
    )
    print(title, flush=True)
    table = Table(title=title)
    for column in ("criterion", "repair", "images", "MACs gone %", "parameters gone %", "accuracy %", "s"):
        table.add_column(column, justify="left" if column in ("criterion", "repair") else "right")
    found: list[dict[str, Any]] = []
    for share in arguments.macs:
        for criterion in arguments.criteria:
            by_repair: dict[tuple[str, int], list[dict[str, Any]]] = {}
            for row in rows(case, arguments, criterion, share):
                found.append({**row, "macs_share": share})
                by_repair.setdefault((row["repair"], row["images"]), []).append(row)
                print(" | ".join(told([row])), flush=True)
            for some in by_repair.values():
                table.add_row(*told(some))
    Console(width=120).print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:,.0f} MiB")
    if arguments.json:
        whole = {
            "network": arguments.network,
            "base": case.base,
            "test_images": len(test),
            "rows": found,
            "peak_mib": peak,
        }
        arguments.json.write_text(json.dumps({**whole, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
