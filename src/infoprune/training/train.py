"""Training by SGD; a resumed training ends with the same weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from infoprune.data.augmentation import Augmentation, cutout, turn_and_scale
from infoprune.data.batches import Batches, labelled
from infoprune.device import device_of, multiplies_bfloat16
from infoprune.errors import InputError
from infoprune.measure.accuracy import accuracy_of, logits_of
from infoprune.measure.loggers import MetricsLogger, note
from infoprune.network.deep_copy import deep_copy
from infoprune.network.fingerprint import fingerprint
from infoprune.network.memory_format import fastest_layout
from infoprune.network.modes import eval_mode
from infoprune.network.origin import origin_of
from infoprune.progress import Progress, silent
from infoprune.training.loss import check_teacher, loss_of
from infoprune.training.penalties import Penalty
from infoprune.training.recipe import Epoch, Precision, Recipe
from infoprune.training.schedules import learning_rates
from infoprune.training.train_state import TrainState

OnStep = Callable[[nn.Module, Tensor, Tensor, int], None]


@dataclass(frozen=True)
class Training:
    """A trained network and the figures of its epochs.

    Args:
        model: The weights that were best on the held-out images; without held-out images the last ones.
        epochs: Figures of every epoch, those before an interruption included.
        best: Number of the epoch whose weights were kept.

    Example:
        >>> Training(nn.Linear(2, 2), (Epoch(0, 0.7, 50.0, 1.0),), best=0).epochs[0].loss
        0.7
    """

    model: nn.Module
    epochs: tuple[Epoch, ...]
    best: int


def train(
    model: nn.Module,
    batches: DataLoader[Any],
    held_out: Batches | None = None,
    recipe: Recipe | None = None,
    *,
    teacher: nn.Module | None = None,
    augmentation: Augmentation | None = None,
    penalty: Penalty | None = None,
    fabric: Fabric | None = None,
    resume: Path | None = None,
    progress: Progress = silent,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: OnStep | None = None,
    loggers: Sequence[MetricsLogger] | None = None,
) -> Training:
    """Train a copy of a network by SGD and return the weights that did best on held-out images.

    Args:
        model: Returns ``(n, classes)`` logits; it is not changed.
        batches: ``(images, labels)`` training batches.
        held_out: Images that choose the epoch to keep: a part of the training set, not the test set.
        recipe: How to train.
        teacher: Network whose soft targets are mixed in with the weight ``recipe.distillation``.
        augmentation: Changes a batch of images at random.
        penalty: Added to the loss of every step, a function of the network, such as
            :func:`infoprune.training.penalties.make_penalty` returns.
        fabric: Devices and precision; by default one device and the recipe's precision.
        resume: File in which the state after each epoch is saved. If it exists, the training resumes from it and ends
            with the same weights as an uninterrupted one. The recipe, the network, its preprocessing,
            the teacher, the batch size, the numbers of images, worker processes and devices must be the same.
        progress: Called after every step.
        on_epoch: Called with the figures of every epoch.
        on_step: Called after every step with the network, the images and labels of the step, and the number of the
            step, for example to record an information plane. It must not change the network where the training may be
            resumed.
        loggers: Take the figures of every epoch, at the number of epochs done: loggers of Lightning, such as
            ``TensorBoardLogger``; by default those of ``fabric``. The first process alone logs.

    Raises:
        InputError: There are no batches, the network cannot read one of the sizes of the recipe, the loss is no longer
            finite, or ``resume`` belongs to another training.

    Example:
        >>> from infoprune import zoo
        >>> _ = torch.manual_seed(0)
        >>> images, labels = torch.rand(16, 1, 8, 8), torch.arange(16) % 10
        >>> loader = DataLoader(list(zip(images, labels)), batch_size=8)
        >>> found = train(zoo.build("digits"), loader, recipe=Recipe(epochs=1), fabric=make_fabric(accelerator="cpu"))
        >>> len(found.epochs), found.best
        (1, 0)
    """
    recipe = recipe or Recipe()
    fabric = fabric or make_fabric(precision=recipe.precision)
    rng = torch.get_rng_state()
    try:
        check_teacher(recipe, teacher)
        check_sizes(model, batches, recipe)
        layout = _layout(fabric, batches, *((model,) if teacher is None else (model, teacher)))
        state = TrainState.start(
            model, fabric, recipe, layout, conditions_of(model, batches, held_out, teacher, fabric)
        )
        if resume is not None:
            _check_can_be_repeated(batches)
            if resume.exists():
                state.read(resume)
        loop = _Loop(state, fabric.setup_dataloaders(batches, move_to_device=False), recipe, augmentation, progress)
        loop.teacher = None if teacher is None else fabric.to_device(deep_copy(teacher).eval())
        loop.on_step = on_step
        loop.penalty = penalty
        for number in range(len(state.epochs), recipe.epochs):
            epoch = loop.run(number, held_out)
            state.note(epoch)
            if resume is not None and fabric.is_global_zero:
                state.write(resume)
            if fabric.is_global_zero:
                metrics = {**epoch.metrics(), "training/learning_rate": loop.rate}
                note(fabric.loggers if loggers is None else loggers, metrics, number + 1)
            if on_epoch is not None:
                on_epoch(epoch)
    finally:
        torch.set_rng_state(rng)
    return Training(state.best_model(model), tuple(state.epochs), state.best)


def make_fabric(
    *, accelerator: str = "auto", devices: int | str = 1, nodes: int = 1, precision: Precision = "auto"
) -> Fabric:
    """Return the Fabric for a number of devices on a number of machines; ``precision`` as in ``Recipe``.

    Example:
        >>> make_fabric(accelerator="cpu", precision="32-true").device.type
        'cpu'
    """
    if precision == "auto":
        device = torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
        precision = "bf16-mixed" if multiplies_bfloat16(device) else "32-true"
    return Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, precision=precision)


def conditions_of(
    model: nn.Module, batches: Any, held_out: Any = None, teacher: nn.Module | None = None, fabric: Fabric | None = None
) -> dict[str, Any]:
    """Return, by name, what the result of a training depends on besides the weights and the recipe.

    Args:
        model: The network; its preprocessing is read from its origin, if it has one.
        batches: Training batches.
        held_out: Batches that choose the epoch.
        teacher: Network to distil from.
        fabric: Devices and precision; by default those of one process.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> images, labels = torch.rand(16, 1, 8, 8), torch.arange(16) % 10
        >>> loader = DataLoader(list(zip(images, labels)), batch_size=8)
        >>> conditions_of(nn.Linear(2, 2), loader)["number of training images"]
        16
    """
    origin = origin_of(model)
    preprocessing = None if origin is None else origin.preprocessing
    return {
        "preprocessing": {} if preprocessing is None else preprocessing.to_dict(),
        "batch size": getattr(batches, "batch_size", None),
        "number of workers": getattr(batches, "num_workers", None),
        "number of training images": _count(batches),
        "number of held-out images": _count(held_out),
        "teacher": None if teacher is None else fingerprint(teacher.state_dict()),
        "number of processes": 1 if fabric is None else fabric.world_size,
        "kind of device": "cpu" if fabric is None else fabric.device.type,
        "precision of the multiplications": None if fabric is None else str(fabric.strategy.precision.precision),
    }


def _count(batches: Any) -> int | None:
    images = getattr(batches, "dataset", None)
    return len(images) if isinstance(images, Sized) else None


def _check_can_be_repeated(batches: Any) -> None:
    if getattr(batches, "num_workers", 0) and getattr(batches, "persistent_workers", False):
        raise InputError(
            "a training that can be resumed needs a loader with persistent_workers=False: the random numbers of "
            "persistent workers cannot be repeated"
        )


def check_sizes(model: nn.Module, batches: Batches, recipe: Recipe | None) -> None:
    """Check before the first epoch that the network can read all image sizes of a recipe.

    Raises:
        InputError: The network cannot read a size.

    Example:
        >>> from infoprune import zoo
        >>> _ = torch.manual_seed(0)
        >>> images, labels = torch.rand(16, 1, 8, 8), torch.arange(16) % 10
        >>> loader = DataLoader(list(zip(images, labels)), batch_size=8)
        >>> check_sizes(zoo.build("digits"), loader, Recipe(sizes=(6, 8)))
    """
    sizes = () if recipe is None else recipe.sizes
    first = next(labelled(batches), None) if sizes else None
    if first is None:
        return
    for size in sorted(set(sizes)):
        images = F.interpolate(first[0][:1].float(), size=(size, size)).to(device_of(model))
        with torch.no_grad(), eval_mode(model):
            logits_of(model, images)


def _layout(fabric: Fabric, batches: Batches, *networks: nn.Module) -> torch.memory_format:
    first = next(labelled(batches), None)
    if first is None:
        return torch.contiguous_format
    with fabric.autocast():
        return fastest_layout(fabric.to_device(first[0][:2]), *networks)


def _set_pass(batches: Any, number: int) -> None:
    """Set the epoch of a sampler that shuffles for several processes.

    Fabric counts the passes over its loader by itself, from 0 in every process that starts.
    """
    if hasattr(batches, "_num_iter_calls"):
        batches._num_iter_calls = number


@dataclass
class _Loop:
    """One epoch after the other over the same batches."""

    state: TrainState
    batches: Any
    recipe: Recipe
    augmentation: Augmentation | None
    progress: Progress
    teacher: nn.Module | None = None
    on_step: OnStep | None = None
    penalty: Penalty | None = None
    rates: tuple[float, ...] | None = None
    rate: float = 0.0

    def run(self, number: int, held_out: Batches | None) -> Epoch:
        """Train one epoch. Its random numbers depend on the seed and the epoch number only, so it can be repeated."""
        start = time.perf_counter()
        state, steps = self.state, len(self.batches)
        if not steps:
            raise InputError("there are no images to train on: the loader is empty")
        rates = self._rates(steps)
        torch.manual_seed(self.recipe.seed * 100_003 + number)
        _set_pass(self.batches, number)
        state.model.train()
        total = torch.zeros((), dtype=torch.float64)
        for step, (images, labels) in enumerate(labelled(self.batches)):
            self.rate = rate = rates[number * steps + step]
            images, labels = self._prepared(images, number), labels.to(state.fabric.device)
            total += self._step(images, labels, rate)
            if not math.isfinite(total):
                raise InputError(f"the loss is no longer finite at a learning rate of {rate:.3g}: use a lower one")
            if self.on_step is not None:
                self.on_step(state.plain_model(), images, labels, number * steps + step)
            self.progress("training", number * steps + step + 1, self.recipe.epochs * steps)
        state.agree_on_buffers()
        accuracy = None if held_out is None else self._held_out(held_out)
        mean = float(cast(Tensor, state.fabric.all_reduce(total / steps)))
        return Epoch(number, mean, accuracy, time.perf_counter() - start)

    def _rates(self, steps: int) -> tuple[float, ...]:
        if self.rates is None:
            self.rates = learning_rates(self.recipe, self.recipe.epochs * steps)
        return self.rates

    def _prepared(self, images: Tensor, number: int) -> Tensor:
        images = images.to(self.state.fabric.device)
        if self.recipe.sizes:
            size = self.recipe.sizes[number * len(self.recipe.sizes) // self.recipe.epochs]
            if images.shape[-1] != size:
                images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
        if self.augmentation is not None:
            images = self.augmentation(images)
        if self.recipe.rotation or self.recipe.scaling:
            images = turn_and_scale(images, self.recipe.rotation, self.recipe.scaling)
        if self.recipe.cutout:
            images = cutout(images, self.recipe.cutout)
        return images.contiguous(memory_format=self.state.layout)

    def _step(self, images: Tensor, labels: Tensor, rate: float) -> float:
        state = self.state
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        parts = list(zip(images.chunk(self.recipe.accumulate), labels.chunk(self.recipe.accumulate), strict=True))
        for number, (some, named) in enumerate(parts):
            is_last = number == len(parts) - 1
            with state.fabric.no_backward_sync(cast(Any, state.model), enabled=not is_last):
                loss = self._loss_of(some, named) * (len(some) / len(images))
                if self.penalty is not None and is_last:
                    loss = loss + self.penalty(state.plain_model())
                state.fabric.backward(loss)
            total += float(loss.detach())
        if norm := self.recipe.clip:
            # The loss is checked for values that are not finite; in float16 the scaler skips such steps.
            state.fabric.clip_gradients(state.model, state.optimizer, max_norm=norm, error_if_nonfinite=False)
        state.optimizer.step()
        state.follow()
        return total

    def _loss_of(self, images: Tensor, labels: Tensor) -> Tensor:
        answers = None if self.teacher is None else self._asked
        return loss_of(self.state.model, answers, images, labels, self.recipe)

    def _asked(self, images: Tensor) -> Tensor:
        assert self.teacher is not None
        with self.state.fabric.autocast():
            return cast(Tensor, self.teacher(images))

    def _held_out(self, held_out: Batches) -> float:
        with self.state.fabric.autocast():
            # Without the wrapper, which would exchange tensors in every forward pass of every process.
            return accuracy_of(self.state.judged_model(), held_out)
