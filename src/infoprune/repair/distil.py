"""The one repair by gradient: the pruned network is drawn to the original's feature maps and logits, without labels.

It starts from least squares. Modules that give maps of the same shape in both networks (residual blocks whose stream is
whole, stages) are drawn to the original's, first alone, then with the logits. Batch norm keeps its statistics. The
weights that come nearest to the original on held-out images are kept, those of least squares among them. With a time
limit the result depends on how fast the machine is, and is no longer the same every time.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprune.network.equivalence import duplicate
from infoprune.progress import Progress
from infoprune.repair.base import Pair, RepairInfo, register
from infoprune.repair.both import HeldOut, divergence, normed_if_nearer
from infoprune.repair.least_squares import least_squares

EPOCHS = 20
LEARNING_RATE = 1e-3
# Share of the epochs in which feature maps are matched alone.
_MAPS_ALONE = 0.25
_BATCH = 128


def distil(
    pair: Pair,
    progress: Progress,
    *,
    start: nn.Module,
    epochs: int = EPOCHS,
    learning_rate: float = LEARNING_RATE,
    seconds: float | None = None,
) -> nn.Module:
    """Return a copy of a pruned network after label-free training towards the original.

    Args:
        pair: The networks and the images; every fifth image chooses and is not trained on.
        progress: Told after every epoch.
        start: The pruned network to start from; left as it is.
        epochs: Times all images are seen, at most.
        learning_rate: Of Adam; it falls along a cosine to zero at the end.
        seconds: How long it may take. The first epoch is timed, and the cosine ends with as many as fit; where not
            even one does, ``start`` is what comes out. By default all epochs run, however long they take.
    """
    clock = _Clock(seconds, epochs)
    student = duplicate(start).eval()
    modules = _alike(pair, student)
    weights = [p.requires_grad_(True) for p in student.parameters() if p.is_floating_point()]
    optimiser = torch.optim.Adam(weights, lr=learning_rate)
    best, least = copy.deepcopy(student.state_dict()), divergence(pair, student)
    epoch = 0
    while epoch < clock.epochs:
        for images in _batches(pair):
            if clock.is_over():
                break
            with torch.enable_grad():
                loss = _loss(pair.original, student, modules, images, logits=epoch >= _MAPS_ALONE * clock.epochs)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
        else:
            found = divergence(pair, student)
            if found < least:
                best, least = copy.deepcopy(student.state_dict()), found
        epoch += 1
        clock.tell(epoch)
        for some in optimiser.param_groups:
            some["lr"] = learning_rate * (1 + math.cos(math.pi * epoch / clock.epochs)) / 2
        progress("distilling", epoch, clock.epochs)
    student.load_state_dict(best)
    for mine, theirs in zip(student.parameters(), start.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
        mine.grad = None
    return student


class _Clock:
    """How many epochs fit into a time, known after the first."""

    def __init__(self, seconds: float | None, epochs: int) -> None:
        self.begun = time.perf_counter()
        self.seconds = seconds
        self.epochs = epochs

    def is_over(self) -> bool:
        return self.seconds is not None and time.perf_counter() - self.begun > self.seconds

    def tell(self, epoch: int) -> None:
        """Note that so many epochs are done: the others take as long as these did."""
        if self.seconds is None:
            return
        each = (time.perf_counter() - self.begun) / epoch
        self.epochs = min(self.epochs, max(epoch, int(self.seconds / each)))


def _batches(pair: Pair) -> Iterator[Tensor]:
    for images in HeldOut(pair, held_out=False):
        yield from (images[first : first + _BATCH] for first in range(0, len(images), _BATCH))


def _alike(pair: Pair, student: nn.Module) -> list[str]:
    """Return the containers that run and give one tensor of the same shape in both networks."""
    images = next(pair.images())[:2]
    containers = [name for name, module in student.named_modules() if name and next(module.children(), None)]
    with torch.no_grad(), _outputs(student, containers) as mine, _outputs(pair.original, containers) as theirs:
        student(images)
        pair.original(images)
    return [name for name in containers if name in mine and name in theirs and mine[name].shape == theirs[name].shape]


def _loss(original: nn.Module, student: nn.Module, modules: list[str], images: Tensor, *, logits: bool) -> Tensor:
    with torch.no_grad(), _outputs(original, modules) as theirs:
        wanted = original(images)
    with _outputs(student, modules) as mine:
        found = student(images)
    loss = torch.zeros((), device=images.device)
    for name in modules:
        spread = theirs[name].float().var().clamp_min(1e-12)
        loss = loss + F.mse_loss(mine[name].float(), theirs[name].float()) / (spread * len(modules))
    if not logits and modules:
        return loss
    if wanted.dim() == 2 and wanted.shape[1] > 1:
        nearer = F.kl_div(
            F.log_softmax(found, dim=1), F.log_softmax(wanted, dim=1), reduction="batchmean", log_target=True
        )
    else:
        nearer = F.mse_loss(found, wanted)
    return loss + nearer


@contextmanager
def _outputs(model: nn.Module, modules: list[str]) -> Iterator[dict[str, Tensor]]:
    given: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, arguments: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                given[name] = output

        return keep

    with ExitStack() as hooks:
        for name in modules:
            hooks.callback(model.get_submodule(name).register_forward_hook(note(name)).remove)
        yield given


def _repair(pair: Pair, progress: Progress) -> nn.Module:
    begun = time.perf_counter()
    refitted = normed_if_nearer(pair, least_squares(pair, progress), progress)
    left = None if pair.minutes is None else 60 * pair.minutes - (time.perf_counter() - begun)
    return distil(pair, progress, start=refitted, seconds=left)


register(RepairInfo("distil", _repair, "least squares, then label-free training towards the original (gradient)"))
