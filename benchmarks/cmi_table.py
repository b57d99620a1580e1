"""Conditional mutual information in all its forms: published variants, new ones, and usual criteria at equal counts.

    python benchmarks/cmi_table.py --network vgg16 --weights FILE --data-dir DIR --out rows.json [--quick]
    python benchmarks/cmi_table.py --show rows.json
    python benchmarks/cmi_table.py --network vgg16 --weights FILE --data-dir DIR --curves curves.json --figure FILE.svg

Every row is one variant, one kernel width and one calibration seed. It is written as soon as it is measured; the same
command goes on where it stopped. A cut is chosen on held-out training images; the test set measures and chooses
nothing. Channels that are cut are really gone. At the counts of ``--beside`` variants, L1, random and variance choose
the filters.

``--curves`` orders every layer once per width and writes the curves with the candidates of every rule, those of the
released code with its defects among them; ``--figure`` draws them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.cluster import KMeans
from torch import nn

from infoprune import criteria, cutoff, data, pipeline
from infoprune.criteria.scoring import score
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.options import DataOptions, NetworkOptions
from infoprune.measure import figures as measuring
from infoprune.measure.accuracy import evaluate
from infoprune.measure.record import removed
from infoprune.network import cost
from infoprune.network.coupled_groups import Groups, find_groups
from infoprune.options import PruneOptions, chosen
from infoprune.plan import Plan
from infoprune.repair import repaired
from infoprune.selection.layerwise.sequence import curve_of
from infoprune.selection.planning import choose_groups, make_plan
from infoprune.training import train as tune
from infoprune.training.recipe import Recipe

WIDTHS: dict[str, dict[str, Any]] = {
    "published": {"width": "silverman", "label_kernel": "silverman"},
    "silverman": {"width": "silverman"},
    "median": {"width": "median"},
    "layer": {"width": "layer"},
    "output": {"width": "output"},
}
PUBLISHED = {
    "both-compact-scree": {"direction": "both", "conditioning": "compact", "cutoff": "scree"},
    "both-full-scree": {"direction": "both", "conditioning": "full", "cutoff": "scree"},
    "forward-compact-scree": {"direction": "forward", "conditioning": "compact", "cutoff": "scree"},
    "forward-full-scree": {"direction": "forward", "conditioning": "full", "cutoff": "scree"},
    "both-compact-xmeans": {"direction": "both", "conditioning": "compact", "cutoff": "xmeans"},
    "both-compact-permutation": {"direction": "both", "conditioning": "compact", "cutoff": "permutation"},
}
NEW = {
    "alone-tolerance": {"conditioning": "none", "cutoff": "tolerance"},
    "alone-acceleration": {"conditioning": "none", "cutoff": "acceleration"},
    "alone-coordinates": {"conditioning": "none", "cutoff": "coordinates"},
    "alone-grid": {"conditioning": "none", "cutoff": "grid"},
    "compact-grid": {"conditioning": "compact", "cutoff": "grid"},
    "backward-grid": {"conditioning": "compact", "direction": "backward", "cutoff": "grid"},
    "alone-fifth": {"ratio": 0.2},
    "alone-two-fifths": {"ratio": 0.4},
    "compact-half": {"conditioning": "compact"},
    "alone-half": {},
}
VARIANTS = {**PUBLISHED, **NEW}
# Half of the filters of VGG-16 (2,080 of 4,224 stay), chosen by hand: the early layers, which are narrow, stay whole.
HALF = {14: 224, 17: 224, 20: 224, 24: 192, 27: 192, 30: 160, 34: 160, 37: 160, 40: 160}
BESIDE = ("l1", "random", "variance")


@dataclass(frozen=True)
class Case:
    """One network with its images."""

    name: str
    model: nn.Module
    images: DataOptions
    test: Any
    groups: Groups
    example: torch.Tensor
    arguments: argparse.Namespace

    def parts(self, seed: int) -> tuple[Any, Any, Any]:
        """Return calibration, held-out and repair batches."""
        parts, options = run_images.open_parts(self.images, seed), self.arguments
        assert parts.held_out is not None
        some = (
            parts.calibration,
            data.balanced_sample(parts.held_out, options.held_out, seed),
            data.random_sample(parts.train, options.repair_images, seed),
        )
        calibration, held_out, repair = (list(run_images.batches(one, self.model, self.images)) for one in some)
        return calibration, held_out, repair

    def tuned(self, model: nn.Module, seed: int) -> nn.Module:
        """Return the network after a few epochs on the training images."""
        train = run_images.batches(
            run_images.open_parts(self.images, seed).train, self.model, self.images, shuffle=True
        )
        recipe = Recipe(epochs=self.arguments.tune_epochs, learning_rate=self.arguments.tune_rate, seed=seed)
        return tune.train(model, train, None, recipe, augmentation=data.usual_augmentation("cifar10")).model

    def accuracy(self, model: nn.Module) -> float:
        """Return the accuracy on the test images, in percent."""
        return evaluate(model, self.test, half=self.arguments.half).accuracy


def choice_of(case: Case, variant: str, width: str, seed: int) -> PruneOptions:
    options = case.arguments
    words: dict[str, Any] = {**VARIANTS[variant]}
    if variant.endswith("-half"):
        words["keep"] = {f"features.{layer}": count for layer, count in HALF.items()}
    elif "cutoff" in words:
        words |= {"candidate_bf16": options.candidate_bf16, "candidate_repair": options.candidate_repair}
        if variant not in PUBLISHED or options.tolerance_for_all:
            words["tolerance"] = options.tolerance
    method = "pairs" if options.alpha == 2 else "hybrid"
    kernel = {**WIDTHS[width], "alpha": options.alpha, "method": method}
    return chosen(criterion="cmi", seed=seed, criterion_options=kernel, **words)


def cmi_row(case: Case, variant: str, width: str, seed: int) -> dict[str, Any]:
    calibration, held_out, repair = case.parts(seed)
    start = time.perf_counter()
    clock = time.process_time()

    def tell(stage: str, done: int, total: int) -> None:
        if stage.startswith("ordering"):
            print(f"  {variant} {width} {seed}: {done} of {total}, {time.perf_counter() - start:.0f} s", flush=True)

    found = make_plan(case.model, calibration, choice_of(case, variant, width, seed), held_out=held_out, progress=tell)
    seconds = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - clock}
    saturated = {layer: int(one.evidence["saturated_at"]) for layer, one in found.importances.items()}
    return {**seconds, "saturated_at": saturated, **measured(case, found.plan, calibration, repair, seed)}


def beside_row(case: Case, criterion: str, seed: int, counts: Mapping[str, int]) -> dict[str, Any]:
    calibration, _, repair = case.parts(seed)
    start = time.perf_counter()
    choice = PruneOptions(criterion, keep=dict(counts), seed=seed)
    plan = make_plan(case.model, calibration, choice).plan
    return {"seconds": time.perf_counter() - start, **measured(case, plan, calibration, repair, seed)}


def measured(case: Case, plan: Plan, calibration: Any, repair: Any, seed: int) -> dict[str, Any]:
    """Return what a plan leaves, its accuracies without a gradient step and, where that is asked for, after some."""
    small = pipeline.apply(plan, case.model, case.example)
    whole, left = cost.count(case.model, case.example), cost.count(small, case.example)
    dead = measuring.dead_filters(case.model, calibration, case.groups.groups)
    filters = sum(group.filters for group in choose_groups(case.model, case.groups, PruneOptions("cmi", ratio=0.0)))
    gone = sum(len(decision.removed) for decision in plan.decisions.values())
    row: dict[str, Any] = {
        "kept": {layer: len(kept) for layer, kept in plan.kept.items()},
        "filters": filters,
        "filters_removed": gone,
        "macs_removed": removed(whole.macs, left.macs),
        "parameters_removed": removed(whole.parameters, left.parameters),
        "dead": sum(map(len, dead.values())),
        "dead_removed": sum(len(dead[name] - set(kept)) for name, kept in plan.kept.items() if name in dead),
        "accuracy": {"as cut": case.accuracy(small)},
    }
    for method in case.arguments.repairs:
        start = time.perf_counter()
        better = repaired(small, case.model, repair, plan, case.groups, how=method)
        row["accuracy"][method] = case.accuracy(better)
        row[f"{method}_seconds"] = time.perf_counter() - start
    if case.arguments.tune_epochs:
        last = better if case.arguments.repairs else small
        row["accuracy"]["tuned"] = case.accuracy(case.tuned(last, seed))
    return row


def wanted(case: Case, known: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the rows that are asked for and not known, each with what measures it."""
    options = case.arguments
    for seed in range(options.seeds):
        for variant in options.variants:
            for width in options.widths:
                key = f"{case.name}/{variant}/{width}/{seed}"
                if key not in known:
                    yield key, lambda v=variant, w=width, s=seed: cmi_row(case, v, w, s)
                for criterion in BESIDE if variant in options.beside else ():
                    beside = f"{case.name}/{variant}/{width}/{seed}/{criterion}"
                    if beside not in known:
                        yield beside, lambda k=key, c=criterion, s=seed: beside_row(case, c, s, known[k]["kept"])


def measure(case: Case, out: Path) -> None:
    found = json.loads(out.read_text()) if out.exists() else {"rows": {}}
    base = found.setdefault("base", {})
    if case.name not in base:
        base[case.name] = case.accuracy(case.model)
    found.setdefault("settings", {})[case.name] = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(case.arguments).items()
    }
    print(f"{case.name}: {base[case.name]:.2f} %", flush=True)
    rows = found["rows"]
    for key, work in wanted(case, rows):
        rows[key] = work()
        print(key, described(rows[key]), flush=True)
        out.write_text(json.dumps(found, indent=1) + "\n")


def described(row: Mapping[str, Any]) -> str:
    accuracies = ", ".join(f"{name} {accuracy:.2f}" for name, accuracy in row["accuracy"].items())
    share = 100 * row["filters_removed"] / row["filters"]
    return f"{share:.1f} % of filters, {row['macs_removed']:.1f} % of MACs: {accuracies}; {row['seconds']:.0f} s"


def show(out: Path) -> None:
    found = json.loads(out.read_text())
    by_case: dict[str, list[dict[str, Any]]] = {}
    for key, row in found["rows"].items():
        name, variant, width, _, *criterion = key.split("/")
        by_case.setdefault("/".join([name, variant, width, *criterion]), []).append(row)
    repairs = list(dict.fromkeys(name for row in found["rows"].values() for name in row["accuracy"]))
    table = Table(title=", ".join(f"{name} {base:.2f} %" for name, base in found["base"].items()))
    for column in (
        "variant",
        "seeds",
        "filters gone %",
        "dead of them",
        "MACs gone %",
        "parameters gone %",
        *repairs,
        "s",
    ):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for name, rows in by_case.items():
        shares = [100 * row["filters_removed"] / row["filters"] for row in rows]
        columns = [shares, [row["dead_removed"] for row in rows], [row["macs_removed"] for row in rows],
                   [row["parameters_removed"] for row in rows],
                   *([row["accuracy"].get(repair, math.nan) for row in rows] for repair in repairs),
                   [row["seconds"] for row in rows]]  # fmt: skip
        table.add_row(name, str(len(rows)), *map(spread, columns))
    Console(width=190).print(table)


def spread(values: Sequence[float]) -> str:
    several = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 and statistics.stdev(values) > 0 else ""
    return f"{statistics.mean(values):.2f}{several}"


def released_scree(order: Sequence[int]) -> tuple[int, ...]:
    """Return what the released code's scree gives: it is fed the indices of the filters, not what they leave."""
    quotients = []
    for i in range(1, len(order) - 1):
        below = order[i] - order[i + 1]
        quotients.append((order[i - 1] - order[i]) / below if below else 0.0)
    return tuple(sorted(int(i) + 1 for i in np.argsort(quotients)[-3:]))


def released_xmeans(curve: Sequence[float]) -> tuple[int, ...]:
    """Return the starts of clusters on axes that are not scaled, where only the index counts."""
    points = np.stack([np.arange(len(curve)), np.asarray(curve)], axis=1)
    count = len(cutoff.candidates("xmeans", cutoff.Curve(tuple(curve)))) + 1
    labels = KMeans(max(count, 2), n_init=4, random_state=0).fit(points).labels_
    return tuple(sorted(int(np.flatnonzero(labels == label)[0]) for label in set(labels.tolist())))[1:]


def released_scree_tail(curve: Sequence[float]) -> tuple[int, ...]:
    """Return the largest quotients without a floor: they lie in the round-off tail."""
    return cutoff.candidates("scree", cutoff.Curve(tuple(curve)), {"floor": -math.inf, "step": 0.0})


def curves(case: Case, out: Path) -> dict[str, Any]:
    calibration, _, _ = case.parts(0)
    groups = choose_groups(case.model, case.groups, PruneOptions("cmi", ratio=0.0))
    found: dict[str, Any] = {"network": case.name, "widths": {}}
    for width in case.arguments.widths:
        options = {**WIDTHS[width], "alpha": case.arguments.alpha}
        options["method"] = "pairs" if case.arguments.alpha == 2 else "hybrid"
        start = time.perf_counter()
        layers = {}
        for layer, one in score(case.model, groups, calibration, criteria.find("cmi"), options=options).items():
            curve = curve_of(one)
            rules = {info.name: cutoff.candidates(info.name, curve) for info in cutoff.all_rules()
                     if not info.tests and info.name != "grid"}  # fmt: skip
            released = {
                "scree on indices": released_scree(one.order),
                "scree without a floor": released_scree_tail(curve.left),
                "xmeans on plain axes": released_xmeans(curve.left),
            }
            layers[layer] = {
                "curve": [curve.whole, *curve.left],
                "saturated_at": curve.resolved,
                "saturation": float(one.evidence["saturation"]),
                "rules": rules,
                "released": released,
            }
        found["widths"][width] = {"seconds": time.perf_counter() - start, "layers": layers}
        print(f"{width}: {time.perf_counter() - start:.0f} s", flush=True)
        out.write_text(json.dumps(found, indent=1) + "\n")
    return found


def draw(found: Mapping[str, Any], path: Path, widths: Sequence[str]) -> None:
    """Draw the curve of every layer, a row of panels per width, with the cuts of the rules."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "cmi", "font.family": "sans-serif"}
    from matplotlib import pyplot

    marks = {"scree": ("#2464b4", "o"), "xmeans": ("#c25b12", "|"), "tolerance": ("#1a7f4e", "D")}
    layers = list(found["widths"][widths[0]]["layers"])
    layers = [layers[round(i * (len(layers) - 1) / 4)] for i in range(5)]
    figure, panels = pyplot.subplots(
        len(widths), len(layers), figsize=(12, 2.3 * len(widths)), squeeze=False, layout="constrained"
    )
    for row, width in zip(panels, widths, strict=True):
        for axes, layer in zip(row, layers, strict=True):
            one = found["widths"][width]["layers"][layer]
            curve = one["curve"]
            axes.plot(range(len(curve)), curve, color="#566270", linewidth=1.2)
            for rule, (colour, mark) in marks.items():
                cuts = one["rules"][rule]
                size = 9 if mark == "|" else 4
                axes.plot(cuts, [curve[m] for m in cuts], mark, color=colour, markersize=size, label=rule, linestyle="")
            if one["saturated_at"] is not None and one["saturated_at"] < len(curve) - 1:
                axes.axvline(
                    one["saturated_at"], color="#a02020", linestyle=":", linewidth=1, label="not resolved behind"
                )
            axes.set_title(f"{layer}, width {width}", fontsize=8)
            axes.tick_params(labelsize=7)
        row[0].set_ylabel("bits left", fontsize=8)
    handles, labels = [], []
    for axes in panels.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def words(text: str) -> list[str]:
    return text.split(",") if text else []


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="vgg16")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--variants", type=words, default=list(VARIANTS))
    parser.add_argument("--widths", type=words, default=["output"])
    parser.add_argument("--beside", type=words, default=["compact-half"], help="variants with L1, random and variance")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--alpha", type=float, default=2.0)
    parser.add_argument("--calibration", type=int, default=256)
    parser.add_argument("--held-out", type=int, default=1000)
    parser.add_argument("--tolerance", type=float, default=0.5)
    parser.add_argument("--tolerance-for-all", action="store_true", help="for the published variants too")
    parser.add_argument("--candidate-bf16", action="store_true", help="measure candidates in bfloat16")
    parser.add_argument("--half", action="store_true", help="measure test images in bfloat16 too, base among them")
    parser.add_argument("--candidate-repair", help="repair given to each candidate")
    parser.add_argument("--repairs", type=words, default=["bn", "least-squares"])
    parser.add_argument("--repair-images", type=int, default=1000)
    parser.add_argument("--tune-epochs", type=int, default=0, help="train after the last repair, one cycle")
    parser.add_argument("--tune-rate", type=float, default=0.002, help="largest learning rate of that")
    parser.add_argument("--test-images", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=Path("cmi_rows.json"))
    parser.add_argument("--curves", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--show", type=Path)
    parser.add_argument(
        "--quick", action="store_true", help="one seed, 128 calibration images, 500 to choose and repair"
    )
    arguments = parser.parse_args()
    arguments.candidate_bf16 |= arguments.half
    if arguments.quick:
        arguments.seeds, arguments.calibration, arguments.held_out, arguments.repair_images = 1, 128, 500, 500
        arguments.test_images, arguments.candidate_bf16 = arguments.test_images or 2000, True
    return arguments


def opened(arguments: argparse.Namespace) -> Case:
    model = run_network.open_network(NetworkOptions(arguments.network, arguments.weights), "cpu")
    images = DataOptions("cifar10", arguments.data_dir, calibration=arguments.calibration)
    parts = run_images.open_parts(images)
    count = len(parts.test) if arguments.test_images is None else min(len(parts.test), arguments.test_images)
    test = list(run_images.batches(parts.test.subset(torch.arange(count)), model, images))
    example = test[0][0][:2]
    return Case(arguments.network, model, images, test, find_groups(model, example), example, arguments)


def main() -> None:
    arguments = parsed()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.show:
        show(arguments.show)
    elif arguments.curves:
        known = arguments.curves.exists() and arguments.weights is None
        found = json.loads(arguments.curves.read_text()) if known else curves(opened(arguments), arguments.curves)
        if arguments.figure:
            draw(found, arguments.figure, arguments.widths)
    else:
        measure(opened(arguments), arguments.out)
        show(arguments.out)


if __name__ == "__main__":
    main()
