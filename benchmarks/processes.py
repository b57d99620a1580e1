"""Scoring and repair by one process and by several on one machine: seconds, speed-up, bytes that each process sends.

    OMP_NUM_THREADS=1 python benchmarks/processes.py --data-dir DIR [--weights FILE] [--processes 2] [--rounds 3]

Every process has one thread. Runs of one process and of several alternate, so that drift affects both; the shortest of
each is compared. The seconds of a processor do not count waiting: where other programs use the cores, their ratio is
nearer to that of an idle machine.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader

from infoprune import criteria, data, plan
from infoprune.criteria.scoring import score
from infoprune.data.batches import examples_of
from infoprune.experiment.images import batches as batches_of
from infoprune.experiment.network import open_network
from infoprune.experiment.options import DataOptions, NetworkOptions
from infoprune.network.coupled_groups import find_groups
from infoprune.repair import repair
from infoprune.runs import together as processes

# What is measured: a criterion, or a repair after it.
SCORES = {"cmi": 256, "hrel": 1024, "qsfm": 256, "reconstruction": 1024, "variance": 4096}
REPAIRS = {"bn": 4096, "least-squares": 1024, "distil": 1024}


@dataclass(frozen=True)
class Measured:
    """One run: its seconds, the processor seconds of its busiest process, the bytes its busiest sender sent."""

    seconds: float
    processor: float
    sent: int
    result: str


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet56")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4, help="of the repair distil")
    parser.add_argument("--only", nargs="*", default=[*SCORES, *REPAIRS])
    given = parser.parse_args()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    print(f"{'':16}{'images':>8}{'1 process, s':>14}{f'{given.processes}, s':>10}{'ratio':>7}"
          f"{'CPU s, 1':>10}{f'CPU s, {given.processes}':>10}{'ratio':>7}{'MB sent':>9}  same bits")  # fmt: skip
    for name in given.only:
        images = {**SCORES, **REPAIRS}[name]
        runs: dict[int, list[Measured]] = {1: [], given.processes: []}
        for _ in range(given.rounds):
            for number, found in runs.items():
                found.append(run(number, name, images, vars(given)))
        one, several = (min(found, key=lambda each: each.seconds) for found in runs.values())
        cpu = [min(each.processor for each in found) for found in runs.values()]
        print(f"{name:16}{images:8}{one.seconds:14.2f}{several.seconds:10.2f}{one.seconds / several.seconds:7.2f}"
              f"{cpu[0]:10.2f}{cpu[1]:10.2f}{cpu[0] / cpu[1]:7.2f}{several.sent / 1e6:9.1f}"
              f"  {one.result == several.result}", flush=True)  # fmt: skip


def run(number: int, name: str, images: int, given: dict[str, Any]) -> Measured:
    """Measure one run by a number of processes."""
    fabric = Fabric(accelerator="cpu", devices=number, strategy="ddp_fork" if number > 1 else "auto")
    found = fabric.launch(in_process, name, images, given) if number > 1 else in_process(fabric, name, images, given)
    return Measured(*found)


def in_process(fabric: Fabric, name: str, images: int, given: dict[str, Any]) -> tuple[float, float, int, str]:
    """Do it in one of the processes; return the largest figures of all."""
    torch.set_num_threads(1)
    options = DataOptions(given["data"], given["data_dir"], batch_size=given["batch_size"])
    model = open_network(NetworkOptions(given["network"], given["weights"]), "cpu")
    source = data.open_source(options.name, options.directory)
    some = batches_of(data.balanced_sample(source.train, images, 0), model, options)
    with processes.together(fabric) as joined:
        work = prepared(name, model, some, given["epochs"])
        sent = Sent()
        joined.exchanged(None)
        start, used, before = time.perf_counter(), time.process_time(), sent.bytes
        result = work()
        joined.exchanged(None)
        mine = (time.perf_counter() - start, time.process_time() - used, sent.bytes - before)
        seconds, processor, moved = (max(each) for each in zip(*joined.exchanged(mine), strict=True))
    return seconds, processor, int(moved), hashlib.sha256(repr(result).encode()).hexdigest()


def prepared(name: str, model: nn.Module, some: DataLoader[Any], epochs: int) -> Callable[[], Any]:
    """Return the function that is measured."""
    groups = find_groups(model, examples_of(some, model)).groups
    if name in SCORES:
        info = criteria.find(name)
        return lambda: [(key, one.order, one.scores.tolist()) for key, one in score(model, groups, some, info).items()]
    made = plan(model, some, criterion="l1", macs=0.5)
    from infoprune import apply

    small = apply(made, model)

    def repaired() -> list[bytes]:
        better = repair(small, model, some, made, method=name, epochs=epochs)
        return [tensor.numpy().tobytes() for tensor in better.state_dict().values()]

    return repaired


class Sent:
    """Counts the bytes that this process sends, by what it passes to ``torch.distributed``."""

    def __init__(self) -> None:
        self.bytes = 0
        library = processes.dist
        for name in ("send", "isend", "all_gather", "broadcast", "all_reduce"):
            setattr(library, name, self._counting(name, getattr(library, name)))
        point = library.P2POp

        def noted(operation: Any, tensor: torch.Tensor, peer: int, **rest: Any) -> Any:
            if operation is not library.irecv:
                self.bytes += tensor.nbytes
            return point(library.irecv if operation is library.irecv else self._isend, tensor, peer, **rest)

        library.P2POp = noted  # type: ignore[misc, assignment]

    def _counting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        if name == "isend":
            self._isend = function

        def counted(*arguments: Any, **words: Any) -> Any:
            tensor = arguments[1] if name == "all_gather" else arguments[0]
            others = processes.current().world - 1
            # A broadcast is sent by the first process only.
            times = others if name == "all_gather" else others * processes.current().is_first
            self.bytes += tensor.nbytes * (times if name in ("all_gather", "broadcast") else 1)
            return function(*arguments, **words)

        return counted


if __name__ == "__main__":
    main()
