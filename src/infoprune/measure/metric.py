"""What is measured of a network: a metric by name, an own function of outputs and targets, or one of torchmetrics."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from infoprune.data.batches import Batches, number_of_batches, parse, some_batches
from infoprune.device import place_of
from infoprune.errors import InputError, unknown
from infoprune.network.modes import eval_mode
from infoprune.network.tensors import parts_of
from infoprune.progress import Progress, silent
from infoprune.runs.together import current
from infoprune.user_code import reason


@runtime_checkable
class Accumulating(Protocol):
    """A metric that accumulates over batches, such as every ``torchmetrics.Metric``.

    Example:
        >>> from torchmetrics import MeanSquaredError
        >>> isinstance(MeanSquaredError(), Accumulating)
        True
    """

    def update(self, outputs: Any, targets: Any, /) -> Any:
        """Add a batch."""

    def compute(self) -> Any:
        """Return the value over all batches."""

    def reset(self) -> Any:
        """Forget all batches."""


Metric: TypeAlias = str | Callable[[Any, Any], Any] | Accumulating
"""A name of ``metric_names()``, a function of outputs and targets that returns a number, or a ``torchmetrics.Metric``.
Higher is better, unless its attribute ``higher_is_better`` is False."""

Output: TypeAlias = str | Callable[[Any], Any]
"""The name of a part of what a network returns, such as ``"out"``, or ``"0"`` for the first; or a function of it, such
as ``lambda found: found["out"].argmax(1)``."""

# By name: the class of torchmetrics.classification, and its settings besides the number of classes.
_NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "accuracy": ("MulticlassAccuracy", {"average": "micro"}),
    "top-5": ("MulticlassAccuracy", {"average": "micro", "top_k": 5}),
    "balanced-accuracy": ("MulticlassAccuracy", {"average": "macro"}),
    "f1": ("MulticlassF1Score", {"average": "macro"}),
    "miou": ("MulticlassJaccardIndex", {"average": "macro"}),
    "auroc": ("MulticlassAUROC", {"average": "macro"}),
    "kappa": ("MulticlassCohenKappa", {}),
}


def metric_names() -> tuple[str, ...]:
    """Return the metrics that have a name. All are by torchmetrics, for ``(n, classes, ...)`` outputs.

    Example:
        >>> metric_names()
        ('accuracy', 'top-5', 'balanced-accuracy', 'f1', 'miou', 'auroc', 'kappa')
    """
    return tuple(_NAMED)


@dataclass(frozen=True)
class Quality:
    """What is measured of a network, and of which part of its output.

    Args:
        metric: See ``Metric``; ``None`` for accuracy.
        output: What is measured of what the network returns: see ``Output``; ``None`` for all of it.

    Raises:
        InputError: The metric or the output is something else.

    Example:
        >>> Quality("f1").name, Quality("f1").points(0.25)
        ('f1', 25.0)
    """

    metric: Metric | None = None
    output: Output | None = None

    def __post_init__(self) -> None:
        metric = self.metric
        if isinstance(metric, str):
            if metric not in _NAMED:
                raise unknown("metric", metric, _NAMED)
        elif isinstance(metric, type) or not (metric is None or isinstance(metric, Accumulating) or callable(metric)):
            raise InputError(
                f"metric is a name, a function of outputs and targets, or a torchmetrics.Metric, not {_kind(metric)}"
            )
        if not (self.output is None or isinstance(self.output, str) or callable(self.output)):
            raise InputError(
                f"output is the name of a part of what the network returns, or a function of it, not "
                f"{_kind(self.output)}"
            )

    @property
    def name(self) -> str:
        """The metric in a word: its name, or that of its function or class."""
        if self.metric is None or isinstance(self.metric, str):
            return self.metric or "accuracy"
        return getattr(self.metric, "__name__", type(self.metric).__name__)

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher value is better."""
        return getattr(self.metric, "higher_is_better", None) is not False

    def points(self, value: float) -> float:
        """Return a value in points, hundredths of the metric's unit, so that more is better."""
        return 100 * value if self.higher_is_better else -100 * value

    def answers(self, model: nn.Module) -> Callable[[Any], Any]:
        """Return the function from images to what is measured of a network."""
        return model if self.output is None else lambda images: self.of(model(images))

    def of(self, found: Any) -> Any:
        """Return what is measured of the output of a network.

        Raises:
            InputError: The function ``output`` fails, or there is no part of that name.

        Example:
            >>> Quality(output="out").of({"out": 1, "aux": 2})
            1
        """
        if self.output is None:
            return found
        if isinstance(self.output, str):
            return _part(found, self.output)
        try:
            return self.output(found)
        except Exception as error:  # a user's function can raise anything
            raise InputError(
                f"the function 'output' fails on what the network returns, {_kind(found)}: {reason(error)}"
            ) from error

    @torch.no_grad()
    def measure(self, model: nn.Module, batches: Batches, progress: Progress = silent) -> tuple[float, int]:
        """Return the value of the metric over all batches, and the number of images.

        A function is averaged over the batches, weighted by their images; a metric that accumulates sees all batches.

        Args:
            model: Left in the mode it was in.
            batches: ``(images, targets)`` in any form that the metric reads.
            progress: Called after every batch.

        Raises:
            InputError: There are no images or no targets, the metric fails, or its value is not one finite number.

        Example:
            >>> batches = [(torch.ones(3, 1, 2, 2), torch.ones(3, 1, 2, 2))]
            >>> Quality(lambda found, wanted: (found - wanted).abs().mean()).measure(nn.Identity(), batches)
            (0.0, 3)
        """
        assert self.metric is not None
        device, dtype = place_of(model)
        total, seen, batches_there = 0.0, 0, number_of_batches(batches)
        gathered: Accumulating | None = None
        processes = current()

        def own() -> Iterator[tuple[Any, Any, int]]:
            for _, some in some_batches(batches, processes.share):
                batch = parse(some)
                if batch.labels is None:
                    raise InputError(
                        f"the metric '{self.name}' needs targets: each batch must be (images, targets), "
                        "with a target for every image"
                    )
                yield self.of(model(batch.placed(device, dtype))), moved(batch.labels, device), len(batch)

        with eval_mode(model):
            # All processes see the outputs for all images, in the order of the batches.
            for done, (outputs, targets, images) in enumerate(processes.in_rounds(own()), 1):
                if gathered is None and not self._is_function():
                    gathered = self._ready(outputs, device)
                if gathered is None:
                    total += self._number(self._called(self.metric, outputs, targets)) * images
                else:
                    self._called(gathered.update, outputs, targets)
                seen += images
                progress("evaluating", done, batches_there or done)
        if not seen:
            raise InputError("there are no images: the loader is empty, give at least one batch")
        if gathered is None:
            return total / seen, seen
        return self._number(self._called(gathered.compute)), seen

    def _is_function(self) -> bool:
        return not isinstance(self.metric, str | Accumulating)

    def _ready(self, outputs: Any, device: torch.device | None) -> Accumulating:
        """Return an accumulating metric of its own for one measurement."""
        found: Any = named_metric(self.metric, outputs) if isinstance(self.metric, str) else copy.deepcopy(self.metric)
        found.reset()
        if hasattr(found, "sync_on_compute"):  # every process sees the outputs for all images
            found.sync_on_compute = False
        return found.to(device) if device is not None and hasattr(found, "to") else found  # type: ignore[no-any-return]

    def _called(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except InputError:
            raise
        except Exception as error:  # a user's function can raise anything
            raise InputError(f"the metric '{self.name}' fails: {reason(error)}") from error

    def _number(self, value: Any) -> float:
        if isinstance(value, Mapping) and value:  # several figures, the main one first, as mean average precision
            value = next(iter(value.values()))
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"the metric '{self.name}' must be one number, not {_kind(value)}") from error
        if not math.isfinite(number):
            raise InputError(f"the metric '{self.name}' is {number} on these images: it must be a finite number")
        return number


PLAIN = Quality()
"""Accuracy of the network's own output."""


def named_metric(name: str, outputs: Any) -> Accumulating:
    """Return a metric of torchmetrics, for the number of classes of ``(n, classes, ...)`` outputs.

    Raises:
        InputError: The outputs are something else.

    Example:
        >>> metric = named_metric("miou", torch.zeros(2, 3, 8, 8))
        >>> metric.update(torch.eye(3), torch.tensor([0, 1, 1]))
        >>> round(float(metric.compute()), 4)
        0.5
    """
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or outputs.shape[1] < 2:
        raise InputError(
            f"the metric '{name}' needs (n, classes, ...) outputs, not {_kind(outputs)}: choose them by output"
        )
    from torchmetrics import classification

    kind, settings = _NAMED[name]
    classes = outputs.shape[1]
    if "top_k" in settings:
        settings = {**settings, "top_k": min(settings["top_k"], classes)}
    return getattr(classification, kind)(num_classes=classes, sync_on_compute=False, **settings).to(outputs.device)  # type: ignore[no-any-return]


def moved(value: Any, device: torch.device | None) -> Any:
    """Return targets with every tensor in their lists, tuples and dicts on a device.

    Example:
        >>> moved([{"boxes": torch.zeros(1, 4), "name": "cat"}], torch.device("cpu"))[0]["name"]
        'cat'
    """
    if isinstance(value, Tensor):
        return value if device is None else value.to(device)
    if isinstance(value, Mapping):
        return {name: moved(one, device) for name, one in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(_moved(value, device))
    return value


def _moved(values: Iterable[Any], device: torch.device | None) -> list[Any]:
    return [moved(one, device) for one in values]


def _kind(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"'{type(value).__name__}'"


def _part(found: Any, name: str) -> Any:
    parts = {} if isinstance(found, Tensor) else parts_of(found)
    if name not in parts:
        held = f"the parts {', '.join(parts)}" if parts else _kind(found)
        raise InputError(f"the network returns no part '{name}', but {held}: name another 'output'")
    return parts[name]
