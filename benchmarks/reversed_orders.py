"""Is a criterion that scores below random upside down? Each order and its reverse, on the digits network of the demo.

    infoprune demo --out runs/demo
    python benchmarks/reversed_orders.py --weights runs/demo/base.safetensors [--json out.json]

Half of the MACs, the same share of filters from every layer, batch norm re-estimated, three samples of 256 images, 359
test images. An order that is upside down does badly, and its reverse does well. An order that has little to do with
what the network needs does no better either way. The last columns are the rank correlation of the order with the
variance of the feature maps and with the L1 norm of the weights, averaged over layers and samples.
"""

from __future__ import annotations

import json
import statistics
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from scipy.stats import spearmanr

from infoprune.board import BoardOptions
from infoprune.board.protocol import Sample, Subject
from infoprune.board.sharing import plan_of_cell
from infoprune.board.summary import places
from infoprune.criteria import resolve
from infoprune.criteria.base import Importance
from infoprune.criteria.scoring import score
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.options import DataOptions, NetworkOptions
from infoprune.files import write_text
from infoprune.measure.accuracy import evaluate
from infoprune.network import surgery
from infoprune.repair import repaired
from infoprune.report.terminal import results

# Name, where the maps are read, options.
CASES: tuple[tuple[str, Any, dict[str, Any]], ...] = (
    ("random", None, {}),
    ("l1", None, {}),
    ("variance", None, {}),
    ("apoz", None, {}),
    ("hrank", None, {}),
    ("hrank", "norm", {}),
    ("concentration", None, {}),
    ("consistency", None, {}),
    ("wavelet", None, {}),
    ("entropy", None, {}),
    ("mrmr", None, {}),
    ("mrmr", None, {"beta": 0.0}),
    ("coring", None, {}),
)
SEEDS = 3
OPTIONS = BoardOptions(budgets=(0.5,), sharing=("uniform",), seeds=SEEDS)


def reverse(importance: Importance) -> Importance:
    return Importance(-importance.scores, tuple(reversed(importance.order)), rounding=importance.out_by)


def accuracy(subject: Subject, sample: Sample, importances: Mapping[str, Importance]) -> float:
    known = sample.calibration
    planned = plan_of_cell(known, sample.groups, importances, OPTIONS, "uniform", 0.5)
    small = surgery.apply(planned.plan, known.model, known.examples, groups=known.groups)
    better = repaired(small, known.model, known.batches, planned.plan, known.groups, how="bn")
    return evaluate(better, subject.test).accuracy


def correlation(one: Mapping[str, Importance], other: Mapping[str, Importance]) -> float:
    return statistics.fmean(spearmanr(places(one[name]), places(other[name])).statistic for name in one)


def main(
    weights: Annotated[Path, typer.Option()], json_path: Annotated[Path | None, typer.Option("--json")] = None
) -> None:
    """Measure every order and its reverse."""
    warnings.simplefilter("ignore")
    model = run_network.open_network(NetworkOptions(weights=weights), "cpu")
    images = DataOptions("digits", batch_size=64)
    parts = [run_images.open_parts(images, seed) for seed in range(SEEDS)]
    test = run_images.batches(parts[0].test, model, images)
    subject = Subject(model, lambda seed: run_images.batches(parts[seed].calibration, model, images), test, OPTIONS)
    samples = [Sample.of(subject, seed) for seed in range(SEEDS)]

    def scores(name: str, tap: Any, options: dict[str, Any]) -> list[dict[str, Importance]]:
        return [
            score(model, sample.groups, sample.calibration.batches, resolve(name), tap=tap, seed=seed, options=options)
            for seed, sample in enumerate(samples)
        ]

    variance, l1 = scores("variance", None, {}), scores("l1", None, {})
    table = Table(title="digits, half of the MACs from every layer alike, batch norm re-estimated: accuracy (%)")
    columns = ("criterion", "maps", "options", "its order", "reversed", "rho with variance", "rho with l1")
    for column in columns:
        table.add_column(column, justify="left" if column in columns[:3] else "right")
    rows = []
    for name, tap, options in CASES:
        orders = scores(name, tap, options)
        pairs = list(zip(samples, orders, strict=True))
        ahead = [accuracy(subject, sample, one) for sample, one in pairs]
        back = [accuracy(subject, sample, {layer: reverse(imp) for layer, imp in one.items()}) for sample, one in pairs]
        rho = [statistics.fmean(map(correlation, orders, others)) for others in (variance, l1)]
        figures = (statistics.fmean(ahead), statistics.fmean(back), *rho)
        rows.append({"criterion": name, "tap": tap, "options": options, "order": ahead, "reversed": back, "rho": rho})
        table.add_row(name, tap or "", json.dumps(options) if options else "", *(f"{one:.2f}" for one in figures))
    results().print(table)
    if json_path is not None:
        write_text(json_path, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
