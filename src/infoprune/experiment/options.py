"""The options of a run from files to a file: which network, which images, how it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from infoprune.declarations.interpolation import Interpolation
from infoprune.declarations.option import Option
from infoprune.declarations.option_values import check_fields
from infoprune.errors import InputError
from infoprune.training.recipe import Recipe
from infoprune.user_code import imported, reason

if TYPE_CHECKING:
    from infoprune.measure.metric import Quality

# Images that score filters: for a criterion of the user's choice, and where everything is chosen for the network.
CALIBRATION, CALIBRATION_CHOSEN = 256, 500


@dataclass(frozen=True)
class NetworkOptions:
    """Which network, by name and file.

    Example:
        >>> NetworkOptions("vgg16", input_shape=(3, 32, 32)).input_shape
        (3, 32, 32)
    """

    model: Annotated[
        str | None,
        Option("A zoo name, timm:NAME, torchvision:NAME, onnx:FILE or package:function.", default="a checkpoint"),
    ] = None
    weights: Annotated[
        Path | None, Option("Weights of the model, or an infoprune checkpoint.", default="fresh weights")
    ] = None
    arguments: Annotated[
        Mapping[str, Any], Option("Arguments of the function that builds the network.", flag="--model-args")
    ] = field(default_factory=dict)
    mean: Annotated[
        tuple[float, ...] | None,
        Option("Mean of the pixels per channel, in [0, 1], that the weights expect.", default="known of the weights"),
    ] = None
    std: Annotated[
        tuple[float, ...] | None,
        Option(
            "Standard deviation of the pixels per channel, in [0, 1], that the weights expect.",
            gt=0,
            default="known of the weights",
        ),
    ] = None
    resize: Annotated[
        int | None,
        Option("Length that the shorter side of photos is resized to.", ge=1, le=16384, unit="pixels",
               default="known of the weights"),
    ] = None  # fmt: skip
    crop: Annotated[
        int | None,
        Option("Side of the square that is cut from the centre of photos.", ge=1, le=16384, unit="pixels",
               default="known of the weights"),
    ] = None  # fmt: skip
    interpolation: Annotated[
        Interpolation | None,
        Option("How a resize computes pixels; all but nearest are antialiased.", default="known of the weights"),
    ] = None
    input_shape: Annotated[
        tuple[int, int, int] | None,
        Option("Channels, height and width of one image: C,H,W.", ge=1, default="known of the network"),
    ] = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class DataOptions:
    """Which images, and how they are read.

    Example:
        >>> DataOptions("digits", batch_size=64).batch_size
        64
    """

    name: Annotated[
        str, Option("The data set: cifar10, mnist, digits, folder, or photos without labels.", flag="--data")
    ]
    directory: Annotated[Path | None, Option("Folder with its files.", flag="--data-dir")] = None
    batch_size: Annotated[int, Option("Images in a batch.", ge=1, unit="images")] = 128
    calibration: Annotated[
        int | None,
        Option("Training images that score the filters.", ge=1, unit="images",
               default=f"{CALIBRATION}; {CALIBRATION_CHOSEN} where everything is chosen for the network"),
    ] = None  # fmt: skip
    held_out: Annotated[
        float,
        Option(
            "Share of the training images that is held out: it only makes choices.",
            gt=0,
            lt=1,
            flag="--held-out-share",
        ),
    ] = 0.1
    workers: Annotated[int, Option("Processes that read image files; 0 reads in the main process.", ge=0, le=1024)] = 0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class MetricOptions:
    """What is measured of a network, and of which part of its output.

    Example:
        >>> MetricOptions("f1").quality().name
        'f1'
        >>> MetricOptions("f2").quality()
        Traceback (most recent call last):
        ...
        infoprune.errors.InputError: unknown metric 'f2': did you mean 'f1'?
    """

    metric: Annotated[
        str | None,
        Option("What is measured, and limited by --max-loss: top-5, balanced-accuracy, f1, miou, auroc, kappa, or "
               "package.module:function of outputs and targets.", default="accuracy"),
    ] = None  # fmt: skip
    output: Annotated[
        str | None,
        Option(
            "The part of what the network returns that is measured, such as out, or package.module:function of it.",
            default="all",
        ),
    ] = None

    def __post_init__(self) -> None:
        check_fields(self)

    def quality(self) -> Quality:
        """Return the metric and the output function, imported where they are the user's own.

        Raises:
            InputError: There is no such metric or function.
        """
        from infoprune.measure.metric import Quality

        metric: Any = self.metric
        if metric is not None and ":" in metric:
            found = imported(metric, "metric")
            metric = _made(metric, found) if isinstance(found, type) else found
        own = self.output is not None and ":" in self.output
        return Quality(metric, imported(str(self.output), "output function") if own else self.output)


def _made(name: str, kind: type) -> Any:
    """Return a metric made from its class."""
    try:
        return kind()
    except Exception as error:  # a user's class can raise anything
        raise InputError(f"the metric '{name}' cannot be made without arguments: {reason(error)}") from error


LogTo = Annotated[
    str | None,
    Option("Where the figures of every epoch are logged: tensorboard:DIR or wandb:PROJECT.", default="nowhere"),
]


@dataclass(frozen=True)
class TuneOptions:
    """How a network is trained, with what and where.

    Example:
        >>> TuneOptions(Recipe(epochs=1), devices="auto").devices
        'auto'
    """

    recipe: Recipe
    minutes: Annotated[
        float | None,
        Option("Time that the training may take, in place of a number of epochs: a few steps are timed first.", gt=0,
               unit="minutes"),
    ] = None  # fmt: skip
    teacher: Annotated[
        tuple[Path, ...],
        Option("Weights of the original network, to distil from, or an infoprune checkpoint of any network with the "
               "same classes; of several, the mean of their logits, on the scale of the first, is the teacher."),
    ] = ()  # fmt: skip
    devices: Annotated[int | Literal["auto"], Option("Devices of each machine to train on, or auto for all.", ge=1)] = 1
    nodes: Annotated[int, Option("Machines to train on; each is started with the same command.", ge=1)] = 1
    half: Annotated[bool, Option("Store the weights in half precision.")] = False
    log_to: LogTo = None

    def __post_init__(self) -> None:
        check_fields(self)
