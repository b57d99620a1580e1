"""The one repair by gradient: the pruned network is drawn to the original's feature maps and logits, without labels.

It starts from least squares on a part of the images: what more of them would tell it, the gradient finds. Modules that
give maps of the same shape in both networks (residual blocks whose stream is whole, stages) are drawn to those of the
original, first alone, then with the logits. Batch norm keeps its statistics. The weights that come nearest to the
original on held-out images are kept, those of least squares among them. Where bfloat16 is multiplied natively, it is.
With a time limit the result depends on how fast the machine is, and is no longer the same every time.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprune.data.augmentation import crop_and_flip
from infoprune.device import device_of, multiplies_bfloat16
from infoprune.network.equivalence import duplicate
from infoprune.network.memory_format import fastest_layout, laid_out
from infoprune.options import RepairOptions
from infoprune.progress import Progress
from infoprune.regression.layer_fit import HELD_OUT_EVERY
from infoprune.repair.base import Pair, RepairInfo, register
from infoprune.repair.combined import HeldOut, divergence, normed_if_nearer
from infoprune.repair.distil_state import DistilState, moments_of, restore_moments
from infoprune.repair.least_squares import least_squares

# How much of its root mean square a weight changes by in a step at first: what suits a narrow network would tear a wide
# one, whose weights are smaller, from the solution it starts with.
LEARNING_RATE = 1e-2
_LEAST_SIZE = 1e-3
# Share of the epochs in which feature maps are matched alone.
_MAPS_ALONE = 0.25
_BATCH = 128
_LEAST_SQUARES_IMAGES = 1000
# Held-out images that say when it was nearest.
_CHOOSING = 1000


def distil(
    pair: Pair,
    progress: Progress,
    *,
    start: nn.Module,
    epochs: int = RepairOptions.epochs,
    learning_rate: float = LEARNING_RATE,
    seconds: float | None = None,
    state: DistilState | None = None,
) -> nn.Module:
    """Return a copy of a pruned network after label-free training towards the original.

    Args:
        pair: The networks and the images; every fifth image is not trained on, and the first thousand of those choose.
        progress: Told after every step.
        start: The pruned network to start from; left as it is.
        epochs: Times all images are seen, at most.
        learning_rate: Of Adam, relative to the root mean square of each weight tensor; it falls along a cosine to zero.
        seconds: How long it may take. The cosine then ends with the time, if the epochs do not end before. By default
            all epochs run, however long they take.
        state: Where the state after every epoch is kept, and what lies there already: without a time limit the result
            is the same, bit for bit, however often it was interrupted; with one the time that is left is used.
    """
    with _quickly(pair, start) as (quick, student):
        best = _drawn(quick, student, _Clock(seconds), epochs, learning_rate, progress, state)
    better = duplicate(start)
    better.load_state_dict(best)
    return better


@contextmanager
def _quickly(pair: Pair, start: nn.Module) -> Iterator[tuple[Pair, nn.Module]]:
    """Give the pair and a copy of ``start`` as they are trained fastest: in the layout and the precision for it."""
    device = device_of(start)
    half = multiplies_bfloat16(device)
    # Autocast would go on with the first copies of weights that change meanwhile.
    with torch.autocast(device.type, torch.bfloat16, enabled=half, cache_enabled=False):
        layout = fastest_layout(next(pair.images())[:2], pair.original, start)
        original, student = (laid_out(duplicate(one), layout).eval() for one in (pair.original, start))
        yield replace(pair, original=original), student


def _drawn(
    pair: Pair,
    student: nn.Module,
    clock: _Clock,
    epochs: int,
    learning_rate: float,
    progress: Progress,
    state: DistilState | None,
) -> dict[str, Tensor]:
    """Train the student and return its weights where they were nearest to the original."""
    modules = _alike(pair, student)
    weights = [p.requires_grad_(True) for p in student.parameters() if p.is_floating_point()]
    optimiser = torch.optim.Adam([{"params": [weight], "size": _size(weight)} for weight in weights])
    choosing = _first(pair, HELD_OUT_EVERY * _CHOOSING)
    best, least = copy.deepcopy(student.state_dict()), divergence(choosing, student)
    clock.keep_free_as_long_as_now()
    steps = epochs * sum(1 for _ in _batches(pair))
    step = 0
    if state is not None and state.parts:
        step, least, best = int(state.figures["step"]), state.figures["least"], _restored(state, student, optimiser)
        clock.go_on(state.figures["seconds"])
    share = clock.share(step, steps)
    while share < 1:
        for images in _batches(pair):
            for some in optimiser.param_groups:
                some["lr"] = some["size"] * learning_rate * (1 + math.cos(math.pi * share)) / 2
            with torch.enable_grad():
                loss = _loss(pair.original, student, modules, _changed(images, step), logits=share >= _MAPS_ALONE)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            step += 1
            share = clock.share(step, steps)
            progress("distilling", step, max(step, round(step / share)))
            if share >= 1:
                break
        found = divergence(choosing, student)
        if found < least:
            best, least = copy.deepcopy(student.state_dict()), found
        if state is not None:
            parts = {"weights": student.state_dict(), "best": best, "moments": moments_of(optimiser)}
            state.note(parts, step=step, least=least, seconds=clock.spent())
    return best


def _restored(state: DistilState, student: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Put the student and its optimiser where they were, and return the best weights until then."""
    student.load_state_dict(state.parts["weights"])
    restore_moments(optimiser, state.parts["moments"])
    return state.parts["best"]


def _changed(images: Tensor, step: int) -> Tensor:
    """Return ``(n, C, H, W)`` images moved and mirrored at random, the same for the same step; others as they are.

    The original answers for whatever it is shown, so that few images become many.
    """
    if images.dim() != 4:
        return images
    with torch.random.fork_rng([]):
        torch.manual_seed(step)
        return crop_and_flip(images, max(1, min(images.shape[-2:]) // 8))


def _size(weight: Tensor) -> float:
    return max(float(weight.detach().double().square().mean().sqrt()), _LEAST_SIZE)


class _Clock:
    """How much of a training is over: of its steps, or of the time it has, whichever is more."""

    def __init__(self, seconds: float | None) -> None:
        self.begun = time.perf_counter()
        self.seconds = math.inf if seconds is None else seconds

    def spent(self) -> float:
        """Return the seconds since the beginning."""
        return time.perf_counter() - self.begun

    def go_on(self, seconds: float) -> None:
        """Count these seconds, spent before an interruption, as spent."""
        self.begun -= seconds

    def keep_free_as_long_as_now(self) -> None:
        """Keep as much time as was spent so far for the end."""
        self.seconds -= self.spent()

    def share(self, step: int, steps: int) -> float:
        """Return the share, 1 at the end, after so many of all steps."""
        in_time = 1.0 if self.seconds <= 0 else self.spent() / self.seconds
        return min(1.0, max(step / steps, in_time))


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
        wanted = original(images).float()
    with _outputs(student, modules) as mine:
        found = student(images).float()
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


@dataclass(frozen=True)
class _First:
    """The first so many images of a pair, iterable more than once."""

    pair: Pair
    count: int

    def __iter__(self) -> Iterator[Tensor]:
        left = self.count
        for images in self.pair.images():
            yield images[:left]
            left -= len(images)
            if left <= 0:
                return


def _first(pair: Pair, count: int) -> Pair:
    return replace(pair, batches=_First(pair, count))


def _repair(pair: Pair, progress: Progress) -> nn.Module:
    begun = time.perf_counter()
    how = pair.options
    settings = {"repair": "distil", "epochs": how.epochs, "learning rate": LEARNING_RATE, "minutes": how.minutes}
    state = DistilState(pair, settings)
    if state.start is None:
        # Fitted to the images that are trained on: those that choose would otherwise favour the start.
        few = _first(replace(pair, batches=HeldOut(pair, held_out=False)), _LEAST_SQUARES_IMAGES)
        refitted = normed_if_nearer(few, least_squares(few, progress), progress)
        state.note_start(refitted.state_dict(), time.perf_counter() - begun)
    else:
        refitted = duplicate(pair.small)
        refitted.load_state_dict(state.start)
    left = None if how.minutes is None else 60 * how.minutes - state.figures["seconds before"]
    return distil(pair, progress, start=refitted, epochs=how.epochs, seconds=left, state=state)


register(RepairInfo("distil", _repair, "least squares, then label-free training towards the original (gradient)"))
