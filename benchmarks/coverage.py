"""Prunes every torchvision CNN and one network per timm module to half of their MACs, and checks each result.

    python benchmarks/coverage.py [--only 'resnet*'] [--suite timm] [--tools infoprune,torch-pruning,torch-kirigami]

Needs torchvision and timm. Each network and tool runs in a process of its own, with one thread and a limit of processor
time, and adds one line of JSON to ``benchmarks/coverage_rows/rows.jsonl``. What has a line is not run again, so an
interrupted run goes on where it was. ``docs/coverage.md`` is written from the lines. Weights are random: nothing is
downloaded.

A result is right if its outputs are those of the masked network in double precision; ``coverage_check.py`` says how.
infoprune is asked for half of the MACs. The other two have no budget of MACs: they are asked for 30 % fewer channels in
every layer, which is about half of the MACs.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import coverage_check
import coverage_networks
import coverage_page
from coverage_networks import Network

FOLDER = Path("benchmarks/coverage_rows")
PAGE = Path("docs/coverage.md")
PACKAGES = {"infoprune": "infoprune", "torch-pruning": "torch-pruning", "torch-kirigami": "torch-kirigami"}
# Where half of the MACs is more than the network can lose, less is asked for, so that the cut is checked too.
TARGETS = (0.5, 0.7, 0.9)
CLASSES = {1000, 21, 91, 400}
HEADS = ("rpn", "roi_heads", "head", "anchor_generator")


class RefusedError(Exception):
    """The tool says that it cannot prune the network."""


Pruned = tuple[nn.Module, dict[str, Any]]


def by_infoprune(model: nn.Module, example: Tensor) -> Pruned:
    import infoprune

    plan_of, apply, budget = infoprune.plan, infoprune.apply, infoprune.Budget  # imported before time is taken
    notes: dict[str, Any] = {}
    for target in TARGETS:
        start = time.process_time()
        try:
            plan = plan_of(model, [example], criterion="l1", budget=budget(macs=target))
            small = apply(plan, model, example)
        except infoprune.InputError as error:
            notes.setdefault("refused", str(error))
            continue
        seconds = time.process_time() - start
        return small, {**notes, "target": target, "seconds": seconds, "left_alone": dict(plan.left_alone)}
    raise RefusedError(notes["refused"])


def by_torch_pruning(model: nn.Module, example: Tensor) -> Pruned:
    import torch_pruning as tp

    names = dict(model.named_modules())
    producers = {name: one for name, one in names.items() if isinstance(one, (*coverage_check.CONVOLUTIONS, nn.Linear))}
    # Its users name the layers whose outputs are the network's.
    ignored = [
        one
        for name, one in producers.items()
        if getattr(one, "out_channels", getattr(one, "out_features", 0)) in CLASSES or _in_head(name, model)
    ]
    start = time.process_time()
    importance = tp.importance.MagnitudeImportance(p=1)
    pruner = tp.pruner.MagnitudePruner(model, example, importance, pruning_ratio=0.3, ignored_layers=ignored)
    pruner.step()
    return model, {"seconds": time.process_time() - start}


def _in_head(name: str, model: nn.Module) -> bool:
    return isinstance(model, coverage_networks.Detector) and any(part in HEADS for part in name.split("."))


def by_torch_kirigami(model: nn.Module, example: Tensor) -> Pruned:
    from torch_kirigami import DependencyGraph, KirigamiError
    from torch_kirigami.pruning import ChannelRatio, Greedy, GroupMagnitude, Pruner

    start = time.process_time()
    try:
        graph = DependencyGraph.build(model, args=(example,))
        pruner = Pruner(model, graph=graph)
        candidates = pruner.discover_candidates()
        small, _ = pruner.prune(candidates, budget=ChannelRatio(0.3), strategy=Greedy(GroupMagnitude(p=1)))
    except KirigamiError as error:
        raise RefusedError(f"{type(error).__name__}: {error}") from error
    return small, {"seconds": time.process_time() - start}


TOOLS: dict[str, Callable[[nn.Module, Tensor], Pruned]] = {
    "infoprune": by_infoprune,
    "torch-pruning": by_torch_pruning,
    "torch-kirigami": by_torch_kirigami,
}


def one(suite: str, name: str, tool: str) -> dict[str, Any]:
    """Prune one network by one tool, and compare the result with the masked network."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    row: dict[str, Any] = {"suite": suite, "name": name, "tool": tool, "version": version(PACKAGES[tool])}
    whole, example = coverage_networks.built(suite, name)
    coverage_check.randomise(whole, example)
    row |= {"input": list(example.shape), "convolutional": is_convolutional(whole, example)}
    before = macs(whole, example)
    try:
        small, notes = TOOLS[tool](coverage_check.duplicated(whole), example)
    except RefusedError as refused:
        return {**row, "status": "refused", "reason": str(refused)}
    except Exception as error:
        return {**row, "status": "crashed", "reason": f"{type(error).__name__}: {error}"[:400], "where": _where(error)}
    row |= notes
    try:
        row["macs"] = macs(small, example) / before
    except Exception as error:
        return {**row, "status": "wrong", "reason": f"does not run: {type(error).__name__}: {error}"[:400]}
    verdict = coverage_check.judged(whole, small, example)
    return {**row, "status": verdict.status, "difference": verdict.difference, "reason": verdict.reason,
            "tensors": verdict.tensors}  # fmt: skip


def macs(model: nn.Module, example: Tensor) -> int:
    """Count multiplications and additions of one input with PyTorch's own counter."""
    return sum(_operations(model.eval(), example).values()) // 2


def is_convolutional(model: nn.Module, example: Tensor) -> bool:
    """Return whether no product of two feature maps, as attention has, takes part."""
    counts = _operations(model, example)
    products = sum(count for kind, count in counts.items() if "bmm" in kind or "attention" in kind)
    return products <= 0.001 * sum(counts.values())


def _operations(model: nn.Module, example: Tensor) -> dict[str, int]:
    from torch.utils.flop_counter import FlopCounterMode

    # The counter follows gradients and fails where a network detaches some.
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(example[:1])
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    return {str(kind): count for kind, count in counter.get_flop_counts()["Global"].items()}


def _where(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


def in_a_process(network: Network, tool: str, limit: float) -> dict[str, Any]:
    """Run one network and tool in a process of its own, which begins as a copy of this one with all packages loaded."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sending, network, tool, int(limit)))
    process.start()
    sending.close()
    try:
        row: dict[str, Any] = receiving.recv()
    except EOFError:
        late = process.join() or process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL)
        reason = f"more than {limit:.0f} s of processor time" if late else f"exit {process.exitcode}"
        row = {**key_of(network, tool), "status": "timed out" if late else "crashed", "reason": reason}
    process.join()
    return row


def _answer(sending: Any, network: Network, tool: str, limit: int) -> None:
    # Processor time, so that other work on the machine changes no row.
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    try:
        row = one(network.suite, network.name, tool)
    except Exception as error:
        row = {**key_of(network, tool), "status": "failed", "reason": f"{type(error).__name__}: {error}"[:400],
               "where": _where(error)}  # fmt: skip
    sending.send(row)


def key_of(network: Network, tool: str) -> dict[str, Any]:
    return {"suite": network.suite, "name": network.name, "tool": tool}


def load(tools: str) -> None:
    """Import what all processes need, once."""
    torch.set_num_threads(1)
    import timm
    import torchvision

    if "infoprune" in tools.split(","):
        import infoprune

        _ = infoprune.plan, timm, torchvision


def rows_of(file: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return the latest row of each network and tool."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    rows = [json.loads(line) for line in lines if line]
    return {(row["suite"], row["name"], row["tool"]): row for row in rows}


def one_of_each_family_first(networks: list[Network]) -> list[Network]:
    first = {(network.suite, network.family): network for network in reversed(networks)}
    return sorted(networks, key=lambda network: first[network.suite, network.family] is not network)


def asked_for(networks: list[Network], arguments: argparse.Namespace) -> Iterator[tuple[Network, str]]:
    for tool in arguments.tools.split(","):
        if tool not in TOOLS:
            raise SystemExit(f"no tool is called '{tool}': {', '.join(TOOLS)}")
        for network in networks:
            if fnmatch.fnmatch(network.name, arguments.only) and arguments.suite in ("all", network.suite):
                yield network, tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="names to run, such as 'resnet*'")
    parser.add_argument("--suite", choices=("all", "torchvision", "timm"), default="all")
    parser.add_argument("--tools", default=",".join(TOOLS), help="tools to run, with commas between them")
    parser.add_argument("--limit", type=float, default=600, help="seconds of processor time for one network and tool")
    parser.add_argument("--again", action="store_true", help="run what has a row already")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where rows are kept")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(*arguments.one.split(":"))))
        return
    networks = coverage_networks.listed(arguments.folder / "networks.json")
    file = arguments.folder / "rows.jsonl"
    load(arguments.tools)
    for network, tool in asked_for(one_of_each_family_first(networks), arguments):
        if not arguments.again and (network.suite, network.name, tool) in rows_of(file):
            continue
        row = in_a_process(network, tool, arguments.limit)
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        share = f"{row['macs']:.2f} of the MACs" if "macs" in row else ""
        print(network.suite, network.name, tool, row["status"], share, row.get("reason", ""), flush=True)
    page = coverage_page.written(list(rows_of(file).values()), networks)
    arguments.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
