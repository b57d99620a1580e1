"""How a network is trained, as values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from infoprune.errors import InputError

Schedule = Literal["one-cycle", "cosine", "steps", "constant"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]


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
