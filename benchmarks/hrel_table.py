"""HRel in rounds: LeNet-5 on MNIST, ResNet-56 and VGG-16 on CIFAR-10, at the sizes of the paper.

    python benchmarks/hrel_table.py --data-dir DIR --out runs/hrel [--weights-dir DIR] [--network lenet5] [--full]

One row is one pruning in rounds. By default the schedules are shortened (``hrel-lenet5-short`` and the like): one epoch
of retraining a round in place of 33 to 100, all of it in under three hours on 2 CPU cores. ``--full`` takes the
published schedules, for a GPU. A killed run goes on where it was, inside a row too, when the same command is
given again.

Held-out training images (10 %) choose the epochs; the test set is measured on after every round and chooses nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from infoprune import data
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.options import DataOptions, NetworkOptions
from infoprune.iterative.iterate import Images, iterate
from infoprune.iterative.published_schedules import named_schedule
from infoprune.iterative.run_state import Round
from infoprune.iterative.schedule import PruningSchedule
from infoprune.measure import environment
from infoprune.measure.information_plane import InformationPlane, write_points
from infoprune.measure.record import removed
from infoprune.report.terminal import shown_progress
from infoprune.training.train import make_fabric

SEEDS = (0, 1, 2)
RESNET56 = "akamaster_resnet56-4bfd9763.th"
VGG16 = "vgg16-cifar10.safetensors"
COLUMNS = (
    *("row", "round", "test %", "drop", "MACs gone %", "of convolutions", "parameters gone %"),
    *("filters", "dead", "min"),
)


@dataclass(frozen=True)
class Row:
    """One pruning: ``network`` by ``criterion`` on ``schedule``, from stored ``weights`` where there are any.

    ``repair`` repairs every cut network before it is retrained; the published method has none.
    """

    network: str
    schedule: str
    criterion: str
    seed: int
    weights: Path | None = None
    repair: str | None = None

    @property
    def name(self) -> str:
        """What its files are called."""
        return name_of(self.schedule, self.criterion, self.seed, self.repair)


def name_of(schedule: str, criterion: str, seed: int, repair: str | None) -> str:
    return ".".join((schedule, criterion, *([repair] if repair else []), str(seed)))


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    short = "" if arguments.full else "-short"
    weights = arguments.weights_dir
    for seed in SEEDS:
        yield Row("lenet5_hrel", f"hrel-lenet5{short}", "hrel", seed)
    resnet56 = None if weights is None else weights / RESNET56
    for criterion in ("hrel", "l1", "variance", "random"):
        yield Row("resnet56", f"hrel-resnet56{short}", criterion, 0, resnet56)
    yield Row("resnet56", f"hrel-resnet56{short}", "hrel", 0, resnet56, "least-squares")
    yield Row("resnet56", f"hrel-resnet56-inner{short}", "hrel", 0, resnet56)
    vgg16 = arguments.vgg16
    yield Row("vgg16" if vgg16 else "vgg16_hrel", f"hrel-vgg16{short}", "hrel", 0, vgg16)


def chosen(row: Row, arguments: argparse.Namespace) -> bool:
    wanted = (arguments.network, arguments.seed, arguments.criterion, arguments.schedule, arguments.repair)
    given = (row.network.removesuffix("_hrel"), row.seed, row.criterion, row.schedule, row.repair or "none")
    return all(want is None or want == have for want, have in zip(wanted, given, strict=True))


def scheduled(row: Row) -> PruningSchedule:
    schedule = named_schedule(row.schedule).make().seeded(row.seed)
    initial = schedule.initial if row.weights is None else None
    return replace(schedule, criterion=row.criterion, tap=tap_of(row.network), initial=initial, repair=row.repair)


def tap_of(network: str) -> Any:
    return "activation" if network.startswith("vgg16") else "convolution"


def run(row: Row, arguments: argparse.Namespace) -> dict[str, Any]:
    schedule = scheduled(row)
    torch.manual_seed(row.seed)
    model = run_network.open_network(NetworkOptions(row.network, row.weights), arguments.device)
    name = named_schedule(row.schedule).data
    images = DataOptions(name, arguments.data_dir, batch_size=arguments.batch_size or schedule.batch_size,
                        calibration=schedule.images)  # fmt: skip
    parts = run_images.open_parts(images, row.seed)
    assert parts.held_out is not None
    folder = arguments.out / row.name
    plane = InformationPlane(tap=tap_of(row.network), every=arguments.plane) if arguments.plane else None
    console = Console(stderr=True, highlight=False)
    with shown_progress(console, quiet=arguments.quiet) as progress:
        done = iterate(
            model,
            Images(
                run_images.batches(parts.train, model, images, shuffle=True),
                run_images.batches(parts.calibration, model, replace(images, batch_size=100)),
                run_images.batches(parts.held_out, model, replace(images, batch_size=500)),
                run_images.batches(parts.test, model, replace(images, batch_size=500)),
                data.usual_augmentation(name),
            ),
            schedule,
            folder=folder,
            fabric=make_fabric(accelerator=arguments.device.partition(":")[0]),
            plane=plane,
            progress=progress,
            on_round=lambda one, last: console.print(f"{row.name}: {described(one, last)}"),
        )
    if plane is not None:
        write_points(plane.points, arguments.out / f"{row.name}.plane.csv", force=True)
    settings = {
        "schedule": schedule.to_dict(),
        "batch_size": images.batch_size,
        "versions": environment.versions(),
        "machine": environment.machine(torch.device("cpu")),
    }
    return {
        **asdict(row),
        "weights": row.weights and row.weights.name,
        **done.record(),
        "settings": settings,
    }


def described(one: Round, last: int) -> str:
    filters = ", ".join(map(str, list(one.filters.values())[:4]))
    seconds = sum(one.seconds.values())
    return (
        f"round {one.number} of {last}: {filters}{', ...' if len(one.filters) > 4 else ''} filters, held-out "
        f"{one.held_out:.2f} %, test {one.test:.2f} %, {one.macs:,} MACs, {seconds:.0f} s"
    )


def table(records: list[dict[str, Any]]) -> Table:
    found = Table(title="HRel in rounds")
    for column in COLUMNS:
        found.add_column(column, justify="left" if column in ("row", "filters") else "right")
    for record in records:
        name = name_of(record["schedule"], record["criterion"], record["seed"], record.get("repair"))
        base = record["rounds"][0]
        shown = record["rounds"] if record["network"].startswith("resnet") else [base, record["rounds"][-1]]
        for one in shown:
            found.add_row(name if one is base else "", *cells(base, one, record))
    return found


def cells(base: dict[str, Any], one: dict[str, Any], record: dict[str, Any]) -> tuple[str, ...]:
    spent = sum(sum(r["seconds"].values()) for r in record["rounds"] if r["number"] <= one["number"]) / 60
    widths = list(dict.fromkeys(one["filters"].values()))
    return (
        str(one["number"]),
        f"{one['test']:.2f}",
        f"{base['test'] - one['test']:+.2f}",
        *(f"{removed(base[cost], one[cost]):.2f}" for cost in ("macs", "convolution_macs", "parameters")),
        ", ".join(map(str, widths)) if len(widths) < 6 else f"{min(widths)} to {max(widths)}",
        str(one["dead"]),
        f"{spent:.1f}",
    )


def spread(records: list[dict[str, Any]]) -> str:
    drops = [record["rounds"][0]["test"] - record["rounds"][-1]["test"] for record in records]
    deviation = f" ± {statistics.stdev(drops):.2f}" if len(drops) > 1 else ""
    return f"LeNet-5 at 2 and 3 filters: drop {statistics.mean(drops):.2f}{deviation} points over {len(drops)} seeds"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights-dir", type=Path, help=f"Where {RESNET56} lies; without it that network is trained.")
    parser.add_argument("--vgg16", type=Path, help="A trained checkpoint of vgg16; without it vgg16_hrel is trained.")
    parser.add_argument("--network", choices=("lenet5", "resnet56", "vgg16"))
    parser.add_argument("--schedule")
    parser.add_argument("--criterion")
    parser.add_argument("--repair", choices=("none", "least-squares"))
    parser.add_argument("--seed", type=int)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--batch-size", type=int, help="By default as published.")
    parser.add_argument("--plane", type=int, default=0, help="Note the information plane every this many steps.")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    records = []
    for row in rows(arguments):
        path = arguments.out / f"{row.name}.json"
        if not chosen(row, arguments):
            continue
        if not path.exists():
            path.write_text(json.dumps(run(row, arguments), indent=1) + "\n")
        records.append(json.loads(path.read_text()))
        Console(width=140).print(table(records))
    lenets = [record for record in records if record["network"].startswith("lenet5")]
    if lenets:
        print(spread(lenets))


if __name__ == "__main__":
    main()
