"""Accuracy without labels or training: criteria by repairs, at the same filters kept for every repair.

    python benchmarks/no_gradient.py --network resnet56 --weights FILE --data-dir DIR --rows rows.jsonl [--quick]

Without ``--macs`` and ``--ratios`` the ResNets keep 10, 17 and 24 of the 16, 32 and 64 filters in the first convolution
of every block, the size of the QSFM headline (48.7 % of the MACs and 58.1 % of the parameters go); every other network
keeps half of the filters of every layer, which in VGG-16 is QSFM's published point. With ``--macs 0.8,0.6,0.4`` one
ranking over the network is cut to each of these shares; ``--ratios 0.2,0.5`` takes the same share from every layer;
``--counts`` keeps what papers keep: ``published_counts.py`` lists them.
Calibration and repair images come from the training set (the first chosen with balanced classes, the second at random,
labels unseen); every seed draws both again. The test set measures and chooses nothing; of a set that has none, one half
measures and the other is drawn from. ``--quick`` is one seed, the criteria l1 and random, 500 repair images and the
first 2,000 test images.

Every row is written to ``--rows`` as soon as it is measured; the same command goes on where it was interrupted, and
``--show`` prints what is there. Repairs by gradient come into a table of their own.
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

from infoprune import criteria, data, pipeline
from infoprune.data import Images
from infoprune.data.batches import example_of
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.options import DataOptions, NetworkOptions
from infoprune.measure import figures as measuring
from infoprune.measure.accuracy import evaluate
from infoprune.measure.record import removed
from infoprune.network import cost
from infoprune.network.coupled_groups import Groups, find_groups
from infoprune.options import RepairOptions
from infoprune.plan import Budget, Plan
from infoprune.progress import silent
from infoprune.repair import Pair, all_repairs, repaired
from infoprune.repair.combined import normed_if_nearer
from published_counts import COUNTS

KEPT = {1: 10, 2: 17, 3: 24}
DATA = {"lenet5": "mnist", "mobilenet_v2_imagenet": "folder", "digits": "digits"}
BY_GRADIENT = ("distil",)
KEY = ("network", "weights", "criterion", "size", "reselected", "seed", "repair", "images", "test_images", "half")


@dataclass(frozen=True)
class Case:
    """One network with its images."""

    model: nn.Module
    images: DataOptions
    test: Any
    arguments: argparse.Namespace
    pool: Images | None = None

    def drawn(self, seed: int) -> tuple[Images, Images]:
        """Return what scores the filters and what repairs are drawn from; neither is ever measured on."""
        if self.pool is not None:
            return data.balanced_sample(self.pool, self.images.calibration, seed), self.pool
        parts = run_images.open_parts(self.images, seed)
        return parts.calibration, parts.train

    def settings_of_row(self, criterion: str, size: str, seed: int, repair: str, images: int) -> dict[str, Any]:
        """Return what a row is known by."""
        a = self.arguments
        return {
            "network": a.network,
            "weights": a.weights.name,
            "criterion": criterion,
            "size": size,
            "reselected": a.reselect,
            "seed": seed,
            "repair": repair,
            "images": images,
            "test_images": a.test_images or 0,
            "half": a.half,
        }

    def accuracy(self, model: nn.Module) -> float:
        """Return the accuracy on the test images, in percent."""
        return evaluate(model, self.test, half=self.arguments.half).accuracy


@dataclass(frozen=True)
class Timed:
    """A repaired network and the seconds that it took."""

    model: nn.Module
    seconds: float


@dataclass(frozen=True)
class Cut:
    """One pruned network and what a repair reads."""

    model: nn.Module
    small: nn.Module
    plan: Plan
    groups: Groups
    batches: Any

    def by(self, method: str, minutes: float | None) -> Timed:
        """Repair it."""
        start = time.perf_counter()
        given = (self.small, self.model, self.batches, self.plan, self.groups)
        found = repaired(*given, how=RepairOptions(method, minutes=minutes))
        return Timed(found, time.perf_counter() - start)

    def normed(self, fitted: Timed) -> Timed:
        """Return what ``all`` gives, from the least squares that it begins with."""
        start = time.perf_counter()
        pair = Pair.of(self.model, self.plan, self.batches, small=self.small, groups=self.groups)
        found = normed_if_nearer(pair, fitted.model, silent)
        return Timed(found, fitted.seconds + time.perf_counter() - start)


class Rows:
    """Measured rows, one JSON object a line."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        self.found = [{"half": False, **json.loads(line)} for line in lines]
        self.known = {_key(row) for row in self.found}

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row, print it and write it."""
        row["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        self.found.append(row)
        self.known.add(_key(row))
        print(" | ".join(cells([row])), flush=True)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in KEY)


def rule(model: nn.Module, arguments: argparse.Namespace, size: str) -> dict[str, Any]:
    """Return the words of ``infoprune.plan`` that a size stands for."""
    kind, _, value = size.partition(",")[0].partition(" ")
    limits = {"skip": tuple(arguments.skip), "keep_share": arguments.keep_share}
    if kind == "macs":
        budget = Budget(macs=float(value), parameters=arguments.parameters)
        return {"budget": budget, "budget_by": arguments.budget_by, **limits}
    if kind == "ratio":
        return {"ratio": float(value), **limits}
    if kind in COUNTS:
        return {"keep": COUNTS[kind]}
    if not arguments.network.startswith("resnet"):
        return {"ratio": 0.5}
    blocks = {name for name, _ in model.named_modules() if name.endswith("conv1") and name.startswith("layer")}
    return {"keep": {name: KEPT[int(name[5])] for name in sorted(blocks)}}


def measure(case: Case, rows: Rows, criterion: str, size: str, seed: int) -> None:
    """Measure one plan as cut and with every repair and number of images, what is known already left out."""
    a = case.arguments
    asked = [("as cut", 0), *((repair, count) for count in a.images for repair in a.repairs)]
    missing = [one for one in asked if _key(case.settings_of_row(criterion, size, seed, *one)) not in rows.known]
    if not missing:
        return
    scoring, training = case.drawn(seed)
    calibration = run_images.batches(scoring, case.model, case.images)
    example = example_of(calibration, case.model)
    groups = find_groups(case.model, example)
    start = time.perf_counter()
    tap = {"hrel": "convolution"}.get(criterion)
    chosen = rule(case.model, a, size)
    plan = pipeline.plan(
        case.model, calibration, criterion=criterion, seed=seed, tap=tap, reselect=a.reselect, **chosen
    )
    seconds = time.perf_counter() - start
    small = pipeline.apply(plan, case.model, example)
    figures = {**sizes(case, small, example), **dead(case, calibration, groups, plan)}
    fitted: dict[int, Timed] = {}
    for repair, count in missing:
        row = {**case.settings_of_row(criterion, size, seed, repair, count), **figures}
        if repair == "as cut":
            rows.add({**row, "accuracy": case.accuracy(small), "seconds": seconds})
            continue
        unlabelled = data.random_sample(training, count, seed)
        batches = run_images.batches(unlabelled, case.model, case.images)
        cut = Cut(case.model, small, plan, groups, batches)
        begun = fitted.get(count) if repair == "all" else None
        found = cut.by(repair, a.minutes) if begun is None else cut.normed(begun)
        if repair == "least-squares":
            fitted[count] = found
        rows.add({**row, "accuracy": case.accuracy(found.model), "seconds": found.seconds})


def sizes(case: Case, small: nn.Module, example: torch.Tensor) -> dict[str, float]:
    whole, left = cost.count(case.model, example), cost.count(small, example)
    return {
        "macs_removed": removed(whole.macs, left.macs),
        "parameters_removed": removed(whole.parameters, left.parameters),
    }


def dead(case: Case, calibration: Any, groups: Groups, plan: Plan) -> dict[str, int]:
    found = measuring.dead_filters(case.model, calibration, groups.groups)
    gone = sum(len(found[name] - set(kept)) for name, kept in plan.kept.items() if name in found)
    return {"dead_filters": sum(map(len, found.values())), "dead_filters_removed": gone}


def cells(some: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the cells of the rows that differ in their seed alone."""
    accuracies = [row["accuracy"] for row in some]
    spread = f" ± {statistics.stdev(accuracies):.2f}" if len(some) > 1 else ""
    first = some[0]
    return (
        first["size"],
        f"selected again, counts of {first['criterion']}" if first["reselected"] else first["criterion"],
        first["repair"],
        str(first["images"]),
        f"{first['macs_removed']:.1f}",
        f"{first['parameters_removed']:.1f}",
        f"{first['dead_filters_removed']} of {first['dead_filters']}",
        f"{statistics.mean(accuracies):.2f}{spread}",
        str(len(some)),
        f"{statistics.mean(row['seconds'] for row in some):.0f}",
        f"{max(row['peak_mib'] for row in some):,}",
    )


HEADINGS = (
    *("size", "criterion", "repair", "images", "MACs gone %", "parameters gone %"),
    *("dead gone", "accuracy %", "seeds", "s", "peak MiB"),
)


def show(rows: Rows, network: str, weights: str, title: str) -> None:
    """Print the rows of a network, those by gradient apart, averaged over seeds."""
    for gradient in (False, True):
        table = Table(title=f"{title}, {'by gradient, without labels' if gradient else 'no gradient'}")
        for heading in HEADINGS:
            table.add_column(heading, justify="left" if heading in ("size", "criterion", "repair") else "right")
        by: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in rows.found:
            if (row["network"], row["weights"], row["repair"] in BY_GRADIENT) == (network, weights, gradient):
                by.setdefault(tuple(row[name] for name in KEY if name != "seed"), []).append(row)
        for some in by.values():
            table.add_row(*cells(some))
        if by:
            Console(width=140).print(table)


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def words(text: str) -> list[str]:
    return text.split(",")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet56")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    every = ["qsfm-ssim", "qsfm-psnr", "cmi", "hrel", "reconstruction", "l1", "random"]
    parser.add_argument("--criteria", type=words, default=every)
    usual = [info.name for info in all_repairs() if info.name not in BY_GRADIENT]
    usual.sort(key="all".__eq__)  # it goes on from the row of least squares
    parser.add_argument("--repairs", type=words, default=usual, help="empty for none")
    parser.add_argument("--images", type=numbers, default=[1000], help="repair images, one or several numbers")
    parser.add_argument("--calibration", type=int, default=256, help="images that score the filters")
    parser.add_argument("--macs", type=words, default=[], help="shares of the MACs that remain")
    parser.add_argument("--parameters", type=float, help="share of the parameters that remains as well, with --macs")
    parser.add_argument("--ratios", type=words, default=[], help="shares of the filters that go from every layer")
    parser.add_argument("--counts", choices=("published", *COUNTS), default="published", help="where no share is given")
    parser.add_argument("--skip", type=words, default=[], help="patterns of layers that lose nothing")
    parser.add_argument("--keep-share", type=float, default=0.0, help="share of the filters that stays everywhere")
    parser.add_argument("--budget-by", help="criterion that shares the MACs out to the layers")
    parser.add_argument("--reselect", action="store_true", help="select the same counts again, front to back")
    parser.add_argument("--minutes", type=float, help="how long the repair distil may take")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--test-images", type=int)
    parser.add_argument("--half", action="store_true", help="measure test images in bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=Path, help="JSON lines; rows that are there are not measured again")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.parameters is not None and not arguments.macs:
        parser.error("--parameters limits what --macs leaves: give --macs as well")
    arguments.repairs = [name for name in arguments.repairs if name]
    if arguments.reselect and not arguments.macs:
        arguments.criteria = arguments.criteria[:1]  # counts that are given are all that a criterion leaves here
    if arguments.quick:
        arguments.seeds, arguments.images, arguments.test_images = 1, [500], 2000
        arguments.criteria = [name for name in arguments.criteria if name in ("l1", "random")] or arguments.criteria
    return arguments


def wanted(arguments: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Yield criterion, size and seed of every plan; what draws nothing has one seed."""
    limits = {
        "parameters": arguments.parameters,
        "skip": " ".join(arguments.skip),
        "keep share": arguments.keep_share,
        "by": arguments.budget_by,
    }
    limited = "".join(f", {name} {value}" for name, value in limits.items() if value)
    shares = [*(f"macs {share}" for share in arguments.macs), *(f"ratio {share}" for share in arguments.ratios)]
    for size in [share + limited for share in shares] or [arguments.counts]:
        for criterion in arguments.criteria:
            drawn = criteria.find(criterion).needs_maps or criterion == "random" or arguments.repairs
            for seed in range(arguments.seeds if drawn else 1):
                yield criterion, size, seed


def divided(images: DataOptions) -> tuple[Images | None, Images]:
    """Return the test images, and of a set without a test part the others, the same for every seed."""
    parts = run_images.open_parts(images)
    if parts.source.train is not parts.source.test:
        return None, parts.test
    return data.divided(parts.source.train, len(parts.source.train) // 2)


def main() -> None:
    arguments = parsed()
    rows = Rows(arguments.rows)
    model = run_network.open_network(NetworkOptions(arguments.network, arguments.weights), arguments.device)
    images = DataOptions(
        DATA.get(arguments.network, "cifar10"),
        arguments.data_dir,
        batch_size=50 if arguments.network == "mobilenet_v2_imagenet" else 250,
        calibration=arguments.calibration,
    )
    pool, test = divided(images)
    test = test if arguments.test_images is None else test.subset(torch.arange(min(len(test), arguments.test_images)))
    title = f"{arguments.network} ({arguments.weights.name})"
    if not arguments.show:
        batches = run_images.batches(test, model, images)
        case = Case(model, images, batches, arguments, pool)
        title = f"{title}, {case.accuracy(model):.2f} % on {len(test):,} test images"
        print(title, flush=True)
        for criterion, size, seed in wanted(arguments):
            measure(case, rows, criterion, size, seed)
    show(rows, arguments.network, arguments.weights.name, title)


if __name__ == "__main__":
    main()
