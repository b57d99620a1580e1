"""The one repair by gradient: label-free distillation of the original's feature maps and logits.

It starts from least squares on a part of the images. Modules that return maps of the same shape in both networks
(residual blocks with an uncut residual stream, stages) are trained towards the maps of the original, at first alone,
then together with the logits. Batch-norm statistics are not changed. The weights with the lowest divergence from the
original on held-out images are kept, among those that name the same class as the original at least as often as the
start does; the start is a candidate. If weights come nearer but name other classes, weights between them and the start
are candidates at the end. If the loss becomes five times that of the first batch, or an epoch ends far from the best
weights so far, the training goes back to these with a lower rate. With a time limit the result depends on the speed of
the machine and is not reproducible.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprune.data.augmentation import crop_and_flip
from infoprune.data.batches import FirstImages, regrouped
from infoprune.device import device_of, multiplies_bfloat16, seed_generators
from infoprune.measure.divergence import Answers, Divergence, divergence_between
from infoprune.network.equivalence import duplicate
from infoprune.network.layers import is_depthwise
from infoprune.network.memory_format import fastest_layout, laid_out
from infoprune.network.tensors import tensors_in
from infoprune.options import RepairOptions
from infoprune.progress import Progress
from infoprune.regression.layer_fit import HELD_OUT_EVERY
from infoprune.repair.base import Pair, RepairInfo, register
from infoprune.repair.combined import HeldOut, normed_if_nearer
from infoprune.repair.distil_state import DistilState
from infoprune.repair.least_squares import least_squares
from infoprune.repair.student import MAPS, MAPS_AND_LOGITS, Student
from infoprune.runs.together import current

# First step size of a weight, relative to its root mean square. An absolute step that suits a narrow network is too
# large for a wide one, whose weights are smaller.
LEARNING_RATE = 1e-2
# Share of the epochs in which feature maps are matched alone.
_MAPS_ALONE = 0.25
# Few images make small batches, so that an epoch has some steps.
_STEPS, _SMALLEST_BATCH, _LARGEST_BATCH = 25, 16, 128
_LEAST_SQUARES_IMAGES = 1000
# Held-out images on which the best weights are chosen.
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

    Of several processes, each takes a part of every batch, and the gradients are added up. The steps are those of one
    process but for rounding, and for the spread of the feature maps, by which errors are divided: it is that of the
    part. A repeated run with as many processes ends with the same result, bit for bit.

    Args:
        pair: The networks and the images; every fifth image is held out, and the first thousand of these choose
            the best weights.
        progress: Called after every step.
        start: The pruned network to start from; it is not changed.
        epochs: Largest number of passes over the images.
        learning_rate: Of Adam, relative to the root mean square of each weight tensor; it falls along a cosine to zero.
        seconds: Time limit. The cosine ends with the time limit if the epochs do not end before. By default there is
            no limit.
        state: Saves the state after every epoch and holds a state that was saved before. Without a time limit a resumed
            run ends with the same result, bit for bit; with one it uses the remaining time.

    Example:
        >>> import infoprune
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> pair = Pair.of(whole, plan, [images])
        >>> from infoprune.progress import silent
        >>> from infoprune.repair.combined import divergence
        >>> better = distil(pair, silent, start=pair.small, epochs=1)
        >>> divergence(pair, better) <= divergence(pair, pair.small)
        True
    """
    with _quickly(pair, start) as (quick, student):
        best = _drawn(quick, student, _Clock(seconds), epochs, learning_rate, progress, state)
    better = duplicate(start)
    better.load_state_dict(best)
    return better


@contextmanager
def _quickly(pair: Pair, start: nn.Module) -> Iterator[tuple[Pair, nn.Module]]:
    """Yield the pair and a copy of ``start`` in the memory format and precision that train fastest.

    bfloat16 is faster on devices that multiply it natively, but not for the backward pass of depthwise convolutions on
    a processor: a step of EfficientNet-Lite0 takes 1.7 times as long as in float32.
    """
    device = device_of(start)
    half = multiplies_bfloat16(device) and not (device.type == "cpu" and any(map(is_depthwise, start.modules())))
    # The cache of autocast would keep outdated copies of the weights.
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
    """Train the student and return its weights with the lowest divergence from the original."""
    modules, original = _alike(pair, student), Answers(pair.original)
    judges = HeldOut(_first(pair, HELD_OUT_EVERY * _CHOOSING), held_out=True)

    def judged(network: nn.Module) -> Divergence:
        return divergence_between(original, network, judges)

    training = Student.of(student, judged(student), learning_rate)
    clock.keep_free(2)
    size = _batch_size(sum(map(len, HeldOut(pair, held_out=False))))
    steps = epochs * sum(1 for _ in _batches(pair, size))
    if state is not None and state.parts:
        training.restore(state)
        clock.go_on(state.figures["seconds"])
    processes = current()
    share = processes.agreed(clock.share(training.steps, steps))
    while share < 1:
        for images in _batches(pair, size):
            what = MAPS if share < _MAPS_ALONE else MAPS_AND_LOGITS
            own, loss = processes.part_of(_changed(images, training.steps)), None
            if part := len(own) / len(images):
                with torch.enable_grad():
                    loss = part * _loss(pair.original, student, modules, own, logits=what == MAPS_AND_LOGITS)
            if processes.agreed(loss is not None and training.is_lost(float(loss.detach()) / part, what)):
                training.go_back()
                loss = None
            training.step_down(loss, share, processes)
            share = processes.agreed(clock.share(training.steps, steps))
            progress("distilling", training.steps, max(training.steps, round(training.steps / share)))
            if share >= 1:
                break
        training.judge(judged(student))
        if state is not None:
            training.note(state, clock.spent())
    training.look_between(judged)
    return training.best


def _changed(images: Tensor, step: int) -> Tensor:
    """Return ``(n, C, H, W)`` images moved and mirrored at random, the same for the same step; others as they are.

    The original answers for whatever it is shown, so that few images become many.
    """
    if images.dim() != 4:
        return images
    with torch.random.fork_rng([]):
        seed_generators(step, torch.device("cpu"))
        # A network that flattens its maps with ``view`` needs them contiguous.
        return crop_and_flip(images, max(1, min(images.shape[-2:]) // 8)).contiguous()


class _Clock:
    """Measures the finished share of a training: of its steps or of its time limit, whichever is larger."""

    def __init__(self, seconds: float | None) -> None:
        self.begun = time.perf_counter()
        self.seconds = math.inf if seconds is None else seconds

    def spent(self) -> float:
        """Return the seconds since the beginning."""
        return time.perf_counter() - self.begun

    def go_on(self, seconds: float) -> None:
        """Count seconds spent before an interruption."""
        self.begun -= seconds

    def keep_free(self, times: int) -> None:
        """Reserve a multiple of the time spent so far for the last evaluations."""
        self.seconds -= times * self.spent()

    def share(self, step: int, steps: int) -> float:
        """Return the finished share after ``step`` of ``steps`` steps, 1 at the end."""
        in_time = 1.0 if self.seconds <= 0 else self.spent() / self.seconds
        return min(1.0, max(step / steps, in_time))


def _batch_size(images: int) -> int:
    return max(_SMALLEST_BATCH, min(images // _STEPS, _LARGEST_BATCH))


def _batches(pair: Pair, size: int) -> Iterator[Tensor]:
    """Yield the images that are trained on in batches of a size, whatever the batches that they come in."""
    return regrouped(HeldOut(pair, held_out=False), lambda images: size, size)


def _alike(pair: Pair, student: nn.Module) -> list[str]:
    """Return the containers that run and return one tensor of the same shape in both networks."""
    images = next(pair.images())[:2]
    containers = [name for name, module in student.named_modules() if name and next(module.children(), None)]
    with torch.no_grad(), _outputs(student, containers) as mine, _outputs(pair.original, containers) as theirs:
        student(images)
        pair.original(images)
    return [name for name in containers if name in mine and name in theirs and mine[name].shape == theirs[name].shape]


def _loss(original: nn.Module, student: nn.Module, modules: list[str], images: Tensor, *, logits: bool) -> Tensor:
    with torch.no_grad(), _outputs(original, modules) as theirs:
        wanted = _real(original(images))
    with _outputs(student, modules) as mine:
        found = _real(student(images))
    loss = torch.zeros((), device=images.device)
    for name in modules:
        spread = theirs[name].float().var().clamp_min(1e-12)
        loss = loss + F.mse_loss(mine[name].float(), theirs[name].float()) / (spread * len(modules))
    if not logits and modules:
        return loss
    if len(wanted) > 1:
        pairs = zip(found, wanted, strict=True)
        parts = [F.mse_loss(one, other) / other.var().clamp_min(1e-12) for one, other in pairs]
        return loss + torch.stack(parts).mean()
    (one,), (other,) = found, wanted
    if other.dim() == 2 and other.shape[1] > 1:
        one, other = F.log_softmax(one, dim=1), F.log_softmax(other, dim=1)
        return loss + F.kl_div(one, other, reduction="batchmean", log_target=True)
    return loss + F.mse_loss(one, other)


def _real(output: Any) -> list[Tensor]:
    """Return the tensors of an output that hold real numbers, in single precision."""
    return [tensor.float() for tensor in tensors_in(output) if tensor.is_floating_point()]


@contextmanager
def _outputs(model: nn.Module, modules: list[str]) -> Iterator[dict[str, Tensor]]:
    returned: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, arguments: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                returned[name] = output

        return keep

    with ExitStack() as hooks:
        for name in modules:
            hooks.callback(model.get_submodule(name).register_forward_hook(note(name)).remove)
        yield returned


def _first(pair: Pair, count: int) -> Pair:
    return replace(pair, batches=FirstImages(pair.batches, count))


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


register(
    RepairInfo(
        "distil",
        _repair,
        "least squares, then label-free training towards the original (gradient)",
        reads=("minutes", "epochs"),
    )
)
