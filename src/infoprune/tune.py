"""Training by gradient: from nothing, or after pruning, with distillation where a teacher is given."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from infoprune.data.augmentation import Augmentation, cutout, turn_and_scale
from infoprune.device import multiplies_bfloat16
from infoprune.errors import InputError
from infoprune.evaluation import Evaluation, evaluate, labelled
from infoprune.fingerprint import fingerprint
from infoprune.layout import fastest_layout, laid_out
from infoprune.output import written_whole
from infoprune.progress import Progress, silent

Schedule = Literal["one-cycle", "cosine", "steps", "constant"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
Batches = Iterable[Any]
OnStep = Callable[[nn.Module, Tensor, Tensor, int], None]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is trained.

    Args:
        epochs: Passes over the training images.
        learning_rate: The largest of the schedule.
        momentum: Of SGD.
        weight_decay: L2 penalty; not on biases and norms.
        nesterov: Whether SGD looks ahead.
        schedule: ``one-cycle`` (linear rise over the first ``warmup`` of the steps, then cosine to zero), ``cosine``,
            ``steps`` (times ``step_factor`` at each share of ``step_at``, as in the papers), ``constant``.
        warmup: Share of the steps of ``one-cycle`` in which the rate rises.
        step_at: Shares of the training at which ``steps`` lowers the rate.
        step_factor: Factor at each of them.
        label_smoothing: Of the cross entropy.
        distillation: Weight of the teacher's soft targets in the loss, 0 to 1.
        temperature: Of the soft targets (Hinton et al. 2015).
        clip: Largest norm of the gradient, a longer one is shortened to it; 0: as they are.
        rotation: Most degrees by which a training image is turned either way, drawn anew each time.
        scaling: Most share by which it is made larger or smaller.
        cutout: Side of the square that is blanked out of every training image, as a share of the image's; 0: none
            (DeVries and Taylor 2017).
        sizes: Sides in pixels that the images are resized to, one part of the epochs after the other; empty: as given.
        seed: Seeds order, augmentation and dropout of every epoch.
        precision: ``auto`` is bfloat16 where the processor or GPU multiplies it natively, else float32.
    """

    epochs: int = 10
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = True
    schedule: Schedule = "one-cycle"
    warmup: float = 0.2
    step_at: tuple[float, ...] = (0.5, 0.75)
    step_factor: float = 0.1
    label_smoothing: float = 0.0
    distillation: float = 0.0
    temperature: float = 4.0
    clip: float = 0.0
    rotation: float = 0.0
    scaling: float = 0.0
    cutout: float = 0.0
    sizes: tuple[int, ...] = ()
    seed: int = 0
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        for name, right, wanted in (
            ("epochs", self.epochs >= 0, "0 or more"),
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("distillation", 0 <= self.distillation <= 1, "a weight from 0 to 1"),
            ("warmup", 0 <= self.warmup < 1, "a share from 0 to below 1"),
            ("cutout", 0 <= self.cutout < 1, "a share from 0 to below 1"),
            ("temperature", self.temperature > 0, "above 0"),
            ("rotation", 0 <= self.rotation <= 180, "from 0 to 180 degrees"),
            ("scaling", 0 <= self.scaling < 1, "a share from 0 to below 1"),
            ("clip", self.clip >= 0, "0 or more"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "a share from 0 to below 1"),
        ):
            if not right:
                raise InputError(f"{name.replace('_', ' ')} must be {wanted}, not {getattr(self, name)}")

    def rate(self, done: float) -> float:
        """Return the learning rate when a share ``done`` of the training is over."""
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "steps":
            return self.learning_rate * self.step_factor ** sum(done >= at for at in self.step_at)
        warmup = self.warmup if self.schedule == "one-cycle" else 0.0
        if done < warmup:
            return self.learning_rate * (0.04 + 0.96 * done / warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


@dataclass(frozen=True)
class Epoch:
    """Figures of one epoch: mean training loss (nats), held-out accuracy (percent), wall seconds."""

    number: int
    loss: float
    held_out: float | None
    seconds: float


@dataclass(frozen=True)
class Training:
    """A trained network and the way there.

    Args:
        model: The weights that were best on the held-out images; without held-out images the last ones.
        epochs: Figures of every epoch, those before an interruption included.
        best: Number of the epoch whose weights were kept.
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
    fabric: Fabric | None = None,
    resume: Path | None = None,
    progress: Progress = silent,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: OnStep | None = None,
) -> Training:
    """Train a copy of a network by SGD and return the weights that did best on held-out images.

    Args:
        model: Gives ``(n, classes)`` logits; left as it is.
        batches: ``(images, labels)`` training batches.
        held_out: Images that choose the epoch to keep: a part of the training set, never the test set.
        recipe: How to train.
        teacher: Network whose soft targets are mixed in with the weight ``recipe.distillation``.
        augmentation: Changes a batch of images at random.
        fabric: Devices and precision; by default one device and the recipe's precision.
        resume: File in which the state after each epoch is kept; where it exists, the training goes on from there and
            ends with the same weights as one that was never interrupted.
        progress: Told after every step.
        on_epoch: Told after every epoch.
        on_step: Given the network, the images and labels it was just trained on, and the number of the step, after
            every step; such as an information plane. It changes nothing.

    Raises:
        InputError: There are no batches, the loss is no longer finite, or ``resume`` belongs to another training.
    """
    recipe = recipe or Recipe()
    fabric = fabric or make_fabric(precision=recipe.precision)
    rng = torch.get_rng_state()
    try:
        layout = _layout(fabric, batches, *((model,) if teacher is None else (model, teacher)))
        state = _State.start(model, fabric, recipe, layout)
        if resume is not None and resume.exists():
            state.read(resume)
        loop = _Loop(state, fabric.setup_dataloaders(batches, move_to_device=False), recipe, augmentation, progress)
        loop.teacher = None if teacher is None else fabric.to_device(copy.deepcopy(teacher).eval())
        loop.on_step = on_step
        for number in range(len(state.epochs), recipe.epochs):
            epoch = loop.run(number, held_out)
            state.note(epoch)
            if resume is not None and fabric.is_global_zero:
                state.write(resume)
            if on_epoch is not None:
                on_epoch(epoch)
    finally:
        torch.set_rng_state(rng)
    return Training(state.best_model(model), tuple(state.epochs), state.best)


def make_fabric(
    *, accelerator: str = "auto", devices: int | str = 1, nodes: int = 1, precision: Precision = "auto"
) -> Fabric:
    """Return the Fabric for so many devices on so many machines; ``precision`` as in ``Recipe``."""
    if precision == "auto":
        device = torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
        precision = "bf16-mixed" if multiplies_bfloat16(device) else "32-true"
    return Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, precision=precision)


def _layout(fabric: Fabric, batches: Batches, *networks: nn.Module) -> torch.memory_format:
    first = next(labelled(batches), None)
    if first is None:
        return torch.contiguous_format
    with fabric.autocast():
        return fastest_layout(fabric.to_device(first[0][:2]), *networks)


class _State:
    """Everything that must survive an interruption: weights, momentum, the best weights, the figures so far."""

    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        optimizer: torch.optim.SGD,
        recipe: Recipe,
        layout: torch.memory_format,
    ) -> None:
        self.fabric = fabric
        self.recipe = recipe
        self.layout = layout
        self.model = model
        self.optimizer = optimizer
        self.epochs: list[Epoch] = []
        self.best = -1
        self.best_weights: dict[str, Tensor] = {}
        self.started_from = ""

    @classmethod
    def start(cls, model: nn.Module, fabric: Fabric, recipe: Recipe, layout: torch.memory_format) -> _State:
        trained = laid_out(copy.deepcopy(model), layout)
        decayed = [p for p in trained.parameters() if p.ndim > 1 and p.requires_grad]
        others = [p for p in trained.parameters() if p.ndim <= 1 and p.requires_grad]
        optimizer = torch.optim.SGD(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov and recipe.momentum > 0,
        )
        wrapped, optimizer = fabric.setup(trained, optimizer)
        state = cls(fabric, wrapped, optimizer, recipe, layout)
        state.best_weights = state.weights()
        state.started_from = fingerprint(state.best_weights)
        return state

    def weights(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def plain_model(self) -> nn.Module:
        # Fabric wraps it to set the precision.
        return cast(nn.Module, getattr(self.model, "module", self.model))

    def note(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        best = max((e.held_out or 0.0 for e in self.epochs[:-1]), default=-1.0)
        if epoch.held_out is None or epoch.held_out >= best:
            self.best, self.best_weights = epoch.number, self.weights()

    def best_model(self, model: nn.Module) -> nn.Module:
        trained = copy.deepcopy(model)
        trained.load_state_dict(self.best_weights)
        return trained

    def momenta(self) -> dict[str, Tensor]:
        buffers = self.optimizer.state
        found = {}
        for name, parameter in self.model.named_parameters():
            buffer = buffers.get(parameter, {}).get("momentum_buffer")
            if buffer is not None:
                found[name] = buffer.detach().cpu()
        return found

    def write(self, path: Path) -> None:
        parts = {"weights": self.weights(), "best": self.best_weights, "momentum": self.momenta()}
        tensors = {f"{part}/{name}": t.contiguous() for part, named in parts.items() for name, t in named.items()}
        notes = {
            "recipe": json.dumps(asdict(self.recipe)),
            "epochs": json.dumps([asdict(epoch) for epoch in self.epochs]),
            "best": str(self.best),
            "started_from": self.started_from,
        }
        with written_whole(path, force=True) as temporary:
            save_file(tensors, temporary, metadata=notes)

    def read(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                notes = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            recipe, epochs = json.loads(notes["recipe"]), json.loads(notes["epochs"])
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise InputError(f"'{path}' is not the state of a training: {error}; remove it to start anew") from error
        if recipe != json.loads(json.dumps(asdict(self.recipe))):
            changed = next(k for k in {**recipe, **asdict(self.recipe)} if recipe.get(k) != asdict(self.recipe).get(k))
            raise InputError(f"'{path}' is of a training with another {changed}: remove it to start anew")
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}, "momentum": {}}
        for key, tensor in tensors.items():
            part, name = key.split("/", 1)
            parts[part][name] = tensor
        self._load(path, parts)
        if notes.get("started_from") != self.started_from:
            raise InputError(f"'{path}' is of a training that started from other weights: remove it to start anew")
        self.epochs = [Epoch(**epoch) for epoch in epochs]
        self.best, self.best_weights = int(notes["best"]), parts["best"]

    def _load(self, path: Path, parts: dict[str, dict[str, Tensor]]) -> None:
        try:
            self.model.load_state_dict(parts["weights"])
        except RuntimeError as error:
            raise InputError(f"'{path}' is of a training of another network: remove it to start anew") from error
        for name, parameter in self.model.named_parameters():
            if name in parts["momentum"]:
                momentum = torch.empty_like(parameter).copy_(parts["momentum"][name])
                self.optimizer.state[parameter]["momentum_buffer"] = momentum


@dataclass
class _Loop:
    """One epoch after the other over the same batches."""

    state: _State
    batches: Any
    recipe: Recipe
    augmentation: Augmentation | None
    progress: Progress
    teacher: nn.Module | None = None
    on_step: OnStep | None = None

    def run(self, number: int, held_out: Batches | None) -> Epoch:
        """Train one epoch. All that is random in it follows from the seed and its number, so it can be repeated."""
        start = time.perf_counter()
        state, steps = self.state, len(self.batches)
        if not steps:
            raise InputError("there are no images to train on: the loader is empty")
        torch.manual_seed(self.recipe.seed * 100_003 + number)
        state.model.train()
        total = torch.zeros((), dtype=torch.float64)
        for step, (images, labels) in enumerate(labelled(self.batches)):
            rate = self.recipe.rate((number + step / steps) / self.recipe.epochs)
            images, labels = self._prepared(images, number), labels.to(state.fabric.device)
            total += self._step(images, labels, rate)
            if not math.isfinite(total):
                raise InputError(f"the loss is no longer finite at a learning rate of {rate:.3g}: use a lower one")
            if self.on_step is not None:
                self.on_step(state.plain_model(), images, labels, number * steps + step)
            self.progress("training", number * steps + step + 1, self.recipe.epochs * steps)
        accuracy = None if held_out is None else self._held_out(held_out).accuracy
        mean = float(cast(Tensor, state.fabric.all_reduce(total / steps)))
        return Epoch(number, mean, accuracy, time.perf_counter() - start)

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
        loss = self._loss(state.model(images).float(), images, labels)
        state.fabric.backward(loss)
        if norm := self.recipe.clip:
            # What is not finite is told by the loss, and in float16 the scaler passes over it.
            state.fabric.clip_gradients(state.model, state.optimizer, max_norm=norm, error_if_nonfinite=False)
        state.optimizer.step()
        return float(loss.detach())

    def _loss(self, logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        hard = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        weight, temperature = self.recipe.distillation, self.recipe.temperature
        if self.teacher is None or not weight:
            return hard
        with torch.no_grad(), self.state.fabric.autocast():
            targets = self.teacher(images).float()
        soft = F.kl_div(
            F.log_softmax(logits / temperature, 1),
            F.log_softmax(targets / temperature, 1),
            log_target=True,
            reduction="batchmean",
        )
        return (1 - weight) * hard + weight * temperature**2 * soft

    def _held_out(self, held_out: Batches) -> Evaluation:
        with self.state.fabric.autocast():
            return evaluate(self.state.model, held_out)
