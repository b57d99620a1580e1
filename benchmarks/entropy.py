"""The entropy engine against the papers' way of computing the same, on the feature maps of VGG-16.

    python benchmarks/entropy.py --weights vgg16_bn_cifar10.safetensors --data-dir DIR [--quick] [--json out.json]

Two references run in the same process, alternating with ours. The papers' way: for every filter, and in a greedy order
for every candidate of every step, distances by broadcasting n x n x d, the full Gram matrix, two full eigen-problems.
Plain: distances by matrix products, Gram matrices kept, two batched eigvalsh. Both take the symmetric solver in double
precision, which the released code does not. Where they would take hours they are timed on some filters of every
layer, or some candidates of one step, and extrapolated by the number of evaluations; the table says so.

Times are CPU seconds of one thread, so that a busy machine changes them little; the last lines say what threads add.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from infoprune.data import balanced_sample, open_source
from infoprune.device import pick_device
from infoprune.entropy import (
    entropy,
    gram,
    greedy_order,
    label_gram,
    low_rank_entropy,
    median_width,
    pairwise_redundancy,
    random_trace_entropy,
    relevance,
    variables,
)
from infoprune.errors import InputError
from infoprune.zoo import load_network

ALPHA = 1.01
SECTIONS = ("relevance-100", "relevance-256", "greedy", "rankings", "approximations", "threads")
# The geometric mean takes an exponential per pair, candidate and step: only layers of at most this many filters.
LARGEST_MEAN = 256
GREEDY = {"64 maps of 32x32": 1, "256 maps of 8x8": 5, "512 maps of 4x4": 8}


@dataclass(frozen=True)
class Line:
    """One line of the table: what was measured of ours and of what it is compared with."""

    section: str
    what: str
    ours: str
    reference: str = ""
    ratio: float | None = None
    target: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Maps:
    """The maps after each ReLU, by depth, as variables, and the labels."""

    layers: list[Tensor]
    labels: Tensor


class DeepEnoughError(Exception):
    """Raised by a hook where nothing deeper is needed."""


def read_maps(args: argparse.Namespace, n: int, seed: int = 0, depth: int | None = None) -> Maps:
    network, preprocessing = load_network("vgg16", weights=args.weights)
    images = balanced_sample(open_source("cifar10", args.data_dir).train, n, seed)
    taps = [module for module in network.modules() if isinstance(module, nn.ReLU)]
    wanted = range(len(taps)) if depth is None else [depth]
    outputs: dict[int, list[Tensor]] = {index: [] for index in wanted}

    def keep(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            outputs[index].append(output.clone())
            if index == depth:
                raise DeepEnoughError

        return hook

    hooks = [taps[index].register_forward_hook(keep(index)) for index in wanted]
    for start in range(0, n, 256):
        part = range(start, min(start + 256, n))
        try:
            with torch.no_grad():
                network(images.read(part, preprocessing, random_crop=False))
        except DeepEnoughError:
            pass
    for hook in hooks:
        hook.remove()
    layers = [variables(torch.cat(outputs[index])).contiguous().to(args.device) for index in wanted]
    return Maps(layers, images.labels.to(args.device))


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds(work: Callable[[], object], device: torch.device, wall: bool = False) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    clock = time.perf_counter if wall or device.type == "cuda" else time.process_time
    start = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def in_turns(works: list[Callable[[], object]], device: torch.device, rounds: int) -> list[float]:
    """The smallest time of each, all of them run once before any is run again."""
    times = [[seconds(work, device) for work in works] for _ in range(rounds)]
    return [min(each) for each in zip(*times, strict=True)]


# The references.


def renyi(K: Tensor, alpha: float) -> Tensor:
    shares = torch.linalg.eigvalsh(K / K.shape[-1]).abs()
    return shares.pow(alpha).sum(dim=-1).log2() / (1 - alpha)


def broadcast_gram(x: Tensor, width: Tensor) -> Tensor:
    distances = (x[:, None] - x[None, :]).square().sum(dim=-1)
    return torch.exp(-distances / (2 * width**2)).double()


def papers_relevance(x: Tensor, widths: Tensor, label: Tensor, alpha: float) -> Tensor:
    grams = (broadcast_gram(each, width) for each, width in zip(x, widths.float(), strict=True))
    return torch.stack([renyi(K, alpha) + renyi(label, alpha) - renyi(K * label, alpha) for K in grams])


def product_gram(x: Tensor, widths: Tensor) -> Tensor:
    x = x.double()
    norms = x.square().sum(dim=-1)
    distances = (norms[:, :, None] + norms[:, None, :] - 2 * x @ x.mT).clamp(min=0)
    return torch.exp(-distances / (2 * widths.double()[:, None, None] ** 2))


def plain_relevance(x: Tensor, widths: Tensor, label: Tensor, alpha: float) -> Tensor:
    parts = []
    for some, of_some in zip(x.split(16), widths.split(16), strict=True):
        K = product_gram(some, of_some)
        parts.append(renyi(K, alpha) + renyi(label, alpha) - renyi(K * label, alpha))
    return torch.cat(parts)


# What is measured.


def floor(args: argparse.Namespace) -> dict[str, float]:
    n, found = 256, {}
    for name, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        A = torch.rand(1024, 1024, dtype=dtype, device=args.device)
        found[f"product {name} GF/s"] = 2 * 1024**3 / min(in_turns([lambda A=A: A @ A], args.device, 5)) / 1e9
    K = gram(torch.randn(16, n, 8, device=args.device))
    spectra = min(in_turns([lambda: torch.linalg.eigvalsh(K)], args.device, 5)) / 16
    found["eigvalsh 256 float64 ms"] = spectra * 1e3
    found["eigvalsh 256 float64 GF/s"] = 4 / 3 * n**3 / spectra / 1e9
    # Larger than a cache, as the packed pairs of a layer are: a product of matrix and vector reads it once.
    rows = torch.rand(1024, n * (n - 1) // 2, device=args.device)
    vector = torch.rand(rows.shape[1], device=args.device)
    found["reading float32 GB/s"] = rows.numel() * 4 / min(in_turns([lambda: rows @ vector], args.device, 5)) / 1e9
    return found


def relevance_lines(args: argparse.Namespace, n: int, machine: dict[str, float]) -> Iterator[Line]:
    maps = read_maps(args, n)
    label = label_gram(maps.labels)
    totals: dict[str, float] = dict.fromkeys(("papers", "plain", "ours", "median", "two", "cosine"), 0.0)
    wrong = {"ours": 0.0, "two": 0.0}
    layers = maps.layers[1::4] if args.quick else maps.layers
    for x in layers:
        widths = median_width(x.double())
        few = x[: 4 if x.shape[-1] > 64 else 12].contiguous()
        works: list[Callable[[], Tensor]] = [
            lambda few=few, widths=widths: papers_relevance(few, widths[: len(few)], label, ALPHA),
            lambda x=x, widths=widths: plain_relevance(x[:32], widths[:32], label, ALPHA),
            lambda x=x, widths=widths: relevance(x, maps.labels, ALPHA, widths),
            lambda x=x: relevance(x, maps.labels, ALPHA),
            lambda x=x, widths=widths: relevance(x, maps.labels, 2.0, widths),
            lambda x=x: relevance(x, maps.labels, ALPHA, kernel="cosine"),
        ]
        # Ours is timed on all filters of the layer, the references on some of them.
        counts = (len(few), 32, len(x), len(x), len(x), len(x))
        with threads(1):
            for name, count, time_ in zip(totals, counts, in_turns(works, args.device, 3), strict=True):
                totals[name] += time_ / count * len(x)
            for name, alpha in (("ours", ALPHA), ("two", 2.0)):
                exact = plain_relevance(x[:32], widths[:32], label, alpha)
                found = relevance(x, maps.labels, alpha, widths)[:32]
                wrong[name] = max(wrong[name], float((found - exact).abs().max()))
    filters = sum(len(x) for x in layers)
    section = f"relevance of {filters:,} filters, n = {n}"
    papers, plain = totals["papers"], totals["plain"]
    reference = f"papers' way {papers:.1f} s"
    same = f"largest difference {wrong['ours']:.0e} bits"
    yield Line(section, "alpha 1.01", f"{totals['ours']:.2f} s", reference, papers / totals["ours"], 5, same)
    yield Line(section, "alpha 1.01", f"{totals['ours']:.2f} s", f"plain {plain:.1f} s", plain / totals["ours"])
    yield Line(
        section, "alpha 1.01, median found too", f"{totals['median']:.2f} s", reference, papers / totals["median"]
    )
    same = f"largest difference {wrong['two']:.0e} bits"
    yield Line(section, "alpha 2", f"{totals['two']:.3f} s", reference, papers / totals["two"], 50, same)
    yield Line(section, "alpha 2", f"{totals['two']:.3f} s", f"plain {plain:.1f} s", plain / totals["two"])
    yield Line(section, "alpha 1.01, cosine", f"{totals['cosine']:.2f} s", reference, papers / totals["cosine"])
    if n == 256:
        least = filters * machine["eigvalsh 256 float64 ms"] / 1e3
        yield Line(section, "alpha 1.01, distance from the floor", f"{totals['ours']:.2f} s",
                   f"one eigvalsh a filter {least:.1f} s", least / totals["ours"])  # fmt: skip


def greedy_lines(args: argparse.Namespace, machine: dict[str, float]) -> Iterator[Line]:
    maps = read_maps(args, 256)
    label = label_gram(maps.labels)
    for name, depth in list(GREEDY.items())[: 1 if args.quick else None]:
        x = maps.layers[depth]
        section = f"greedy order, {name}, n = 256"
        evaluations = len(x) * (len(x) + 1) // 2
        with threads(1):
            papers, plain = greedy_references(x, label, args)
            times, found = {}, {}
            for method in ("hybrid", "pairs", "quadratic"):
                work = greedy_work(x, maps.labels, method, found)
                times[method] = min(in_turns([work], args.device, 2))
            times["exact"] = seconds(greedy_work(x, maps.labels, "exact", found), args.device)
        reference = f"papers' way {papers:,.0f} s (extrapolated)"
        exact, hybrid = found["exact"], found["hybrid"]
        resolved = min(exact.saturated_at, hybrid.saturated_at)
        agrees = next((t for t in range(resolved) if exact.order[t] != hybrid.order[t]), resolved)
        note = f"as exact on {agrees} of {resolved} resolved steps, {hybrid.evaluations} of {evaluations} evaluations"
        yield Line(section, "hybrid", f"{times['hybrid']:.2f} s", reference, papers / times["hybrid"], 50, note)
        yield Line(section, "pairs", f"{times['pairs']:.2f} s", reference, papers / times["pairs"], 300)
        yield Line(section, "quadratic", f"{times['quadratic']:.2f} s", reference, papers / times["quadratic"])
        note = f"to saturation, {exact.evaluations} evaluations"
        yield Line(section, "exact", f"{times['exact']:.2f} s", reference, papers / times["exact"], None, note)
        reference = f"plain {plain:,.0f} s (extrapolated)"
        for method in ("hybrid", "pairs"):
            yield Line(section, method, f"{times[method]:.2f} s", reference, plain / times[method])
        least = len(x) * machine["eigvalsh 256 float64 ms"] / 1e3
        yield Line(section, "hybrid, distance from the floor", f"{times['hybrid']:.2f} s",
                   f"one eigvalsh a map {least:.2f} s", least / times["hybrid"])  # fmt: skip
        read = len(x) * 256 * 255 / 2 * 4 * hybrid.saturated_at / machine["reading float32 GB/s"] / 1e9
        yield Line(section, "pairs, distance from the floor", f"{times['pairs']:.2f} s",
                   f"all pairs read at each resolved step {read:.2f} s", read / times["pairs"])  # fmt: skip


def greedy_work(x: Tensor, labels: Tensor, method: str, found: dict[str, object]) -> Callable[[], object]:
    def work() -> None:
        found[method] = greedy_order(x, labels, alpha=ALPHA, method=method)  # type: ignore[arg-type]

    return work


def greedy_references(x: Tensor, label: Tensor, args: argparse.Namespace) -> tuple[float, float]:
    """Seconds of a whole order, from the candidates of the second step."""
    widths = median_width(x.double())
    few = min(len(x), 4 if x.shape[-1] > 64 else 12)
    selected = product_gram(x[:1], widths[:1])[0]
    grams = product_gram(x[:32], widths[:32])

    def papers() -> None:
        for each, width in zip(x[:few], widths[:few].float(), strict=True):
            joint = selected * broadcast_gram(each, width)
            renyi(joint, ALPHA) - renyi(joint * label, ALPHA)

    def plain() -> None:
        joint = selected * grams
        renyi(joint, ALPHA) - renyi(joint * label, ALPHA)

    once = seconds(lambda: product_gram(x[:32], widths[:32]), args.device) / len(grams)
    of_papers, of_plain = in_turns([papers, plain], args.device, 2)
    evaluations = len(x) * (len(x) + 1) // 2
    return of_papers / few * evaluations, of_plain / len(grams) * evaluations + once * len(x)


def kendall(first: Tensor, second: Tensor) -> float:
    pairs = torch.triu_indices(len(first), len(first), 1)
    signs = [(scores[pairs[0]] - scores[pairs[1]]).sign() for scores in (first, second)]
    return float((signs[0] * signs[1]).sum() / (signs[0].abs().sum() * signs[1].abs().sum()).sqrt())


def overlap(first: Tensor, second: Tensor) -> float:
    quarter = len(first) // 4
    best = [set(scores.argsort(descending=True, stable=True)[:quarter].tolist()) for scores in (first, second)]
    return len(best[0] & best[1]) / quarter


def ranks(order: tuple[int, ...]) -> Tensor:
    places = torch.empty(len(order), dtype=torch.float64)
    places[list(order)] = -torch.arange(len(order), dtype=torch.float64)
    return places


def agreement(section: str, what: str, pairs: list[tuple[Tensor, Tensor]]) -> Line:
    taus = " ".join(f"{kendall(*pair):+.2f}" for pair in pairs)
    shares = " ".join(f"{overlap(*pair):.2f}" for pair in pairs)
    return Line(section, what, f"tau {taus}", f"top 25 % shared {shares}")


def ranking_lines(args: argparse.Namespace) -> Iterator[Line]:
    depths = (5,) if args.quick else (1, 5, 8, 11)
    n = 100 if args.quick else 256
    maps, others = read_maps(args, n), read_maps(args, n, seed=1)
    layers = [(maps.layers[depth], others.layers[depth]) for depth in depths]
    section = f"relevance rankings, n = {n}, convolutions {', '.join(str(depth + 1) for depth in depths)}"
    base = [relevance(x, maps.labels).cpu() for x, _ in layers]
    variants: dict[str, dict[str, object]] = {
        "alpha 1 for 1.01": {"alpha": 1.0},
        "alpha 2 for 1.01": {"alpha": 2.0},
        "mean width for median": {"width": "mean"},
        "Silverman for median": {"width": "silverman"},
        "alignment (HRel, s2) for median": {"width": "alignment", "convention": "s2"},
        "cosine for median": {"kernel": "cosine"},
        "Silverman labels for indicator": {"label_kernel": "silverman"},
    }
    for what, changed in variants.items():
        found = [relevance(x, maps.labels, **changed).cpu() for x, _ in layers]  # type: ignore[arg-type]
        yield agreement(section, what, list(zip(base, found, strict=True)))
    for what, changed in {"": {}, ", mean width": {"width": "mean"}, ", alpha 2": {"alpha": 2.0},
                          ", Silverman": {"width": "silverman"}, ", cosine": {"kernel": "cosine"}}.items():  # fmt: skip
        pairs = [
            (relevance(x, maps.labels, **changed).cpu(), relevance(z, others.labels, **changed).cpu())  # type: ignore[arg-type]
            for x, z in layers
        ]
        yield agreement(section, f"other {n} samples{what}", pairs)
    deviation = [x.double().std(dim=1).norm(dim=-1).cpu() for x, _ in layers]
    yield agreement(section, "activation variance for median", list(zip(base, deviation, strict=True)))
    redundancy = [-pairwise_redundancy(x).sum(dim=1).cpu() for x, _ in layers]
    yield agreement(section, "least redundant (order 2) for relevant", list(zip(base, redundancy, strict=True)))
    yield from order_lines(layers, maps.labels, others.labels, section.replace("relevance rankings", "greedy orders"))


def order_lines(
    layers: list[tuple[Tensor, Tensor]], labels: Tensor, other_labels: Tensor, section: str
) -> Iterator[Line]:
    base = [greedy_order(x, labels) for x, _ in layers]
    yield Line(section, "saturated after", " ".join(str(found.saturated_at) for found in base), "steps, hybrid, median")
    variants: dict[str, dict[str, object]] = {
        "pairs for hybrid": {"method": "pairs"},
        "quadratic for hybrid": {"method": "quadratic", "tail": "quadratic"},
        "tail by relevance": {"tail": "relevance"},
        "mean width for median": {"width": "mean"},
        "Silverman for median": {"width": "silverman"},
        "geometric mean (pairs) for product": {"method": "pairs", "joint": "mean"},
    }
    for what, changed in variants.items():
        few = [x for x, _ in layers if "joint" not in changed or len(x) <= LARGEST_MEAN]
        found = [greedy_order(x, labels, **changed) for x in few]  # type: ignore[arg-type]
        orders = [(ranks(first.order), ranks(second.order)) for first, second in zip(base, found, strict=False)]
        yield agreement(section, what, orders)
    for what, changed in {"": {}, ", quadratic": {"method": "quadratic", "tail": "quadratic"},
                          ", tail by relevance": {"tail": "relevance"},
                          ", geometric mean (pairs)": {"method": "pairs", "joint": "mean"}}.items():  # fmt: skip
        orders = [
            (ranks(greedy_order(x, labels, **changed).order), ranks(greedy_order(z, other_labels, **changed).order))  # type: ignore[arg-type]
            for x, z in layers
            if "joint" not in changed or len(x) <= LARGEST_MEAN
        ]
        yield agreement(section, f"other samples{what}", orders)


def approximation_lines(args: argparse.Namespace) -> Iterator[Line]:
    for n in (256, 1024) if args.quick else (256, 1024, 4096):
        x = read_maps(args, n, depth=7).layers[0][:3]
        grams = gram(x)
        spread = float((entropy(grams, ALPHA)).std())
        ways: dict[str, Callable[[Tensor], float]] = {
            "low rank, k = 64": lambda K: low_rank_entropy(K, ALPHA, 64).value,
            "low rank, k = 128": lambda K: low_rank_entropy(K, ALPHA, 128).value,
            "random trace, k = 32, 32 probes": lambda K: random_trace_entropy(K, ALPHA).value,
            "random trace, k = 0, 32 probes": lambda K: random_trace_entropy(K, ALPHA, 0).value,
        }
        with threads(1):
            start = time.process_time()
            exact = [float(entropy(K, ALPHA)) for K in grams]
            eigenvalues = (time.process_time() - start) / len(grams)
            for what, way in ways.items():
                start = time.process_time()
                found = [way(K) for K in grams]
                took = (time.process_time() - start) / len(grams)
                wrong = max(abs(first - second) for first, second in zip(exact, found, strict=True))
                yield Line(f"approximations, alpha 1.01, n = {n}", what, f"{took * 1e3:.1f} ms",
                           f"eigenvalues {eigenvalues * 1e3:.1f} ms", eigenvalues / took, None,
                           f"wrong by {wrong:.0e} bits where filters differ by {spread:.0e}")  # fmt: skip


def thread_lines(args: argparse.Namespace) -> Iterator[Line]:
    maps = read_maps(args, 256, depth=8)
    x = maps.layers[0][:128]
    available = torch.get_num_threads()
    for what, alpha in (("relevance, alpha 1.01", ALPHA), ("relevance, alpha 2", 2.0)):
        walls = []
        for count in (1, available):
            with threads(count):
                work: Callable[[], Tensor] = lambda alpha=alpha: relevance(x, maps.labels, alpha)  # noqa: E731
                walls.append(min(seconds(work, args.device, wall=True) for _ in range(3)))
        yield Line("threads, wall clock", f"{what}, {available} workers", f"{walls[1]:.3f} s",
                   f"1 worker {walls[0]:.3f} s", walls[0] / walls[1])  # fmt: skip


def table(lines: list[Line], machine: dict[str, float]) -> Table:
    of_machine = ", ".join(f"{name} {value:.1f}" for name, value in machine.items())
    found = Table(title="infoprune.entropy", caption=f"one thread: {of_machine}")
    for column in ("what", "ours", "against", "times faster", "wanted", "note"):
        found.add_column(column, justify="right" if column in ("times faster", "wanted") else "left")
    section = ""
    for line in lines:
        if line.section != section:
            section = line.section
            found.add_section()
            found.add_row(f"[bold]{section}")
        ratio = "" if line.ratio is None else f"{line.ratio:,.1f}" if line.ratio < 100 else f"{line.ratio:,.0f}"
        met = line.target is None or (line.ratio or 0) >= line.target
        wanted = "" if line.target is None else f"{line.target:g}" + ("" if met else " MISSED")
        found.add_row(line.what, line.ours, line.reference, ratio, wanted, line.note)
    return found


def _device(name: str) -> torch.device:
    try:
        return pick_device(name)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="vgg16_bn_cifar10.safetensors")
    parser.add_argument("--data-dir", type=Path, required=True, help="where cifar-10-batches-py lies")
    parser.add_argument("--device", type=_device, default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="fewer layers and samples, no large n")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="these sections of the table")
    parser.add_argument("--json", type=Path, help="write the lines here too")
    args = parser.parse_args()
    progress = Console(stderr=True)
    start = time.perf_counter()
    with threads(1):
        machine = floor(args)
    lines: list[Line] = []
    sections: dict[str, Callable[[], Iterator[Line]]] = {
        "relevance-100": lambda: relevance_lines(args, 100, machine),
        "relevance-256": lambda: iter(()) if args.quick else relevance_lines(args, 256, machine),
        "greedy": lambda: greedy_lines(args, machine),
        "rankings": lambda: ranking_lines(args),
        "approximations": lambda: approximation_lines(args),
        "threads": lambda: thread_lines(args),
    }
    for line in itertools.chain.from_iterable(sections[name]() for name in SECTIONS if name in args.only):
        lines.append(line)
        progress.print(f"{time.perf_counter() - start:5.0f} s  {line.section}: {line.what}", style="dim")
    console = Console()
    console.print(table(lines, machine))
    console.print(f"{time.perf_counter() - start:.0f} s in all")
    if args.json:
        record = {"machine": machine, "torch": torch.__version__, "lines": [asdict(line) for line in lines]}
        args.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
