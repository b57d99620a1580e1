"""The settings of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from infoprune.declarations.option import Option
from infoprune.declarations.option_values import check_fields

Schedule = Literal["one-cycle", "cosine", "steps", "constant"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True)
class Recipe:
    """All settings of a training.

    The schedules of the learning rate: ``one-cycle`` rises linearly over the first ``warmup`` of the steps, then
    follows a cosine to zero; ``cosine`` has no warm-up; ``steps`` multiplies the rate by ``step_factor`` at each share
    of ``step_at``, as in the papers; ``constant`` keeps it.

    Example:
        >>> Recipe(epochs=2).learning_rate
        0.05
        >>> Recipe(schedule="cosin")
        Traceback (most recent call last):
        ...
        infoprune.errors.InputError: schedule takes one of one-cycle, cosine, steps, constant, not 'cosin': did you \
mean 'cosine'?
    """

    epochs: Annotated[int, Option("Passes over the training images.", ge=0, unit="epochs")] = 10
    learning_rate: Annotated[float, Option("The largest learning rate of the schedule.", gt=0, flag="--lr")] = 0.05
    momentum: Annotated[float, Option("Momentum of SGD.", ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Option("L2 penalty on weights, not on biases and norms.", ge=0)] = 5e-4
    nesterov: Annotated[bool, Option("Use Nesterov momentum.")] = True
    schedule: Annotated[Schedule, Option("How the learning rate changes over the training.")] = "one-cycle"
    warmup: Annotated[float, Option("Share of the steps of one-cycle in which the rate rises.", ge=0, lt=1)] = 0.2
    step_at: Annotated[
        tuple[float, ...], Option("Shares of the training at which the schedule steps lowers the rate.", gt=0, le=1)
    ] = (0.5, 0.75)
    step_factor: Annotated[float, Option("Factor on the rate at each of these steps.", gt=0, le=1)] = 0.1
    label_smoothing: Annotated[float, Option("Label smoothing of the cross entropy.", ge=0, lt=1)] = 0.0
    distillation: Annotated[
        float, Option("Weight of the teacher's soft targets in the loss (Hinton et al. 2015).", ge=0, le=1)
    ] = 0.0
    temperature: Annotated[float, Option("Temperature of the soft targets.", gt=0)] = 4.0
    attention: Annotated[
        float,
        Option("Weight of the distance to the teacher's attention maps, which say where in an image a layer is active.",
               ge=0),
    ] = 0.0  # fmt: skip
    correlation: Annotated[
        float,
        Option("Reward for feature maps that correlate, for each layer, so that more filters can be removed afterwards "
               "(CCM loss; published: 0.05 to 0.09).", ge=0),
    ] = 0.0  # fmt: skip
    accumulate: Annotated[
        int,
        Option("Parts that each batch is computed in, one after the other, to need less memory; their gradients add up "
               "to those of the batch, except that batch norm reads each part alone.", ge=1),
    ] = 1  # fmt: skip
    clip: Annotated[float, Option("Gradient clipping: maximum gradient norm; 0 disables it.", ge=0)] = 0.0
    rotation: Annotated[
        float, Option("Largest random rotation of a training image, either way.", ge=0, le=180, unit="degrees")
    ] = 0.0
    scaling: Annotated[
        float, Option("Largest random change of the size of a training image, as a share of it.", ge=0, lt=1)
    ] = 0.0
    cutout: Annotated[
        float,
        Option("Side of a blanked square in each training image, as a share of the image's (Cutout).", ge=0, lt=1),
    ] = 0.0
    mixing: Annotated[
        float, Option("Mix each image with another by a share from Beta(mixing, mixing) (mixup); 0: not.", ge=0)
    ] = 0.0
    average: Annotated[
        float,
        Option("What each step keeps of a running average of the weights, which is then judged and kept in place of "
               "the last weights; 0: none.", ge=0, lt=1),
    ] = 0.0  # fmt: skip
    sizes: Annotated[
        tuple[int, ...],
        Option("Sides that the images are resized to, one part of the epochs after the other.", ge=1, le=16384,
               unit="pixels", default="as they are"),
    ] = ()  # fmt: skip
    seed: Annotated[int, Option("Seed of order, augmentation and dropout of every epoch.", ge=0)] = 0
    precision: Annotated[
        Precision, Option("Precision of the training; auto is bfloat16 where it is multiplied natively, else float32.")
    ] = "auto"

    def __post_init__(self) -> None:
        check_fields(self)


# Of a pruned and repaired network, with the original as teacher; what each part is worth: docs/fine-tuned.md.
# A larger weight of the attention maps gains more on CIFAR-10, and loses on small networks and in short trainings.
FINE_TUNING = Recipe(learning_rate=0.01, distillation=0.7, attention=10.0, clip=1.0)


@dataclass(frozen=True)
class Epoch:
    """Figures of one epoch: mean training loss (nats), held-out accuracy (percent), wall seconds.

    Example:
        >>> Epoch(number=0, loss=2.3, held_out=11.5, seconds=4.2).held_out
        11.5
    """

    number: int
    loss: float
    held_out: float | None
    seconds: float

    def metrics(self) -> dict[str, float]:
        """Return the figures that a logger shows, by name.

        Example:
            >>> Epoch(number=0, loss=2.3, held_out=None, seconds=4.2).metrics()
            {'training/loss': 2.3, 'training/seconds': 4.2}
        """
        found = {"loss": self.loss, "held_out_accuracy": self.held_out, "seconds": self.seconds}
        return {f"training/{name}": value for name, value in found.items() if value is not None}
