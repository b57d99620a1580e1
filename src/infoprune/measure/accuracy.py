"""How good a network is on labelled images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprune.data.batches import Batches, in_parts, labelled, number_of_batches, some_batches
from infoprune.device import device_of
from infoprune.errors import InputError
from infoprune.measure.metric import Metric, Output, Quality
from infoprune.network.deep_copy import deep_copy
from infoprune.network.equivalence import one_line
from infoprune.network.memory_format import fastest_layout, laid_out
from infoprune.network.modes import eval_mode
from infoprune.network.several_inputs import takes_several_inputs
from infoprune.network.tensors import logits_in, parts_of
from infoprune.progress import Progress, silent
from infoprune.runs.together import current


@dataclass(frozen=True)
class Evaluation:
    """Figures over a whole set of images.

    Args:
        accuracy: Top-1, percent; ``None`` where a metric was measured in its place.
        top5: Top-5, percent; 100 where there are five classes or fewer.
        loss: Mean cross entropy, nats.
        images: Number of images.
        seconds: Wall time.
        metric: Value of the metric, in its own unit, where one was passed.

    Example:
        >>> Evaluation(accuracy=91.5, top5=99.0, loss=0.3, images=1000, seconds=2.0).accuracy
        91.5
    """

    accuracy: float | None
    top5: float | None
    loss: float | None
    images: int
    seconds: float
    metric: float | None = None


@torch.no_grad()
@takes_several_inputs
def evaluate(
    model: nn.Module,
    batches: Batches,
    *,
    metric: Metric | None = None,
    output: Output | None = None,
    half: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """Measure a network on labelled images, in eval mode, on the device it is on.

    Without a metric, the network returns ``(n, classes)`` logits for ``(n, C, H, W)`` images, and accuracy and loss are
    measured. With one, outputs and targets are what it reads.

    Args:
        model: Left in the mode it was in.
        batches: ``(images, labels)`` pairs.
        metric: What is measured in place of accuracy: a name of ``infoprune.measure.metric.metric_names()``, a function
            of outputs and targets (averaged over the images), or a ``torchmetrics.Metric``.
        output: The part of what the network returns that is measured, such as ``"out"``, or a function of it.
        half: Whether to multiply in bfloat16, in the layout that is fastest: a third of the time on processors made
            for it, and a few images in ten thousand classified differently.
        progress: Called after every batch.

    Raises:
        InputError: There are no batches, a batch does not fit the network, a label names no class, the logits are
            not finite, or the metric fails or is not one finite number.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> batches = [(torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1]))]
        >>> evaluate(net, batches).images
        3
        >>> 0 <= evaluate(net, batches, metric="f1").metric <= 1
        True
    """
    return _measured(model, batches, Quality(metric, output), half, progress)


def accuracy_of(model: nn.Module, batches: Batches, *, half: bool = False) -> float:
    """Return the top-1 accuracy of a network in percent, as ``evaluate`` measures it.

    Example:
        >>> accuracy_of(nn.Flatten(), [(torch.eye(3)[:, None, None], torch.tensor([0, 1, 2]))])
        100.0
    """
    found = _measured(model, batches, Quality(), half, silent).accuracy
    assert found is not None  # no metric was passed
    return found


def _measured(model: nn.Module, batches: Batches, quality: Quality, half: bool, progress: Progress) -> Evaluation:
    device, start = device_of(model), time.perf_counter()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
        if quality.metric is not None:
            value, images = quality.measure(model, batches, progress)
            return Evaluation(None, None, None, images, time.perf_counter() - start, value)
        found, fifth, loss = _classified(model, batches, quality, half, progress)
    images = sum(found.images)
    return Evaluation(found.accuracy, 100 * fifth / images, loss, images, time.perf_counter() - start)


@dataclass(frozen=True)
class ClassCounts:
    """How many images of each class a network puts there.

    Args:
        right: By class, of how many of its images that class is first.
        images: By class, how many there are.

    Example:
        >>> found = ClassCounts((1, 1, 0), (1, 3, 0))
        >>> found.accuracy, found.sensitivity[:2]
        (50.0, (100.0, 33.333333333333336))
    """

    right: tuple[int, ...]
    images: tuple[int, ...]

    @property
    def accuracy(self) -> float:
        """Top-1, percent."""
        return 100 * sum(self.right) / sum(self.images)

    @property
    def sensitivity(self) -> tuple[float, ...]:
        """By class, the share of its images that are put there, percent; NaN for a class without images."""
        pairs = zip(self.right, self.images, strict=True)
        return tuple(100 * right / images if images else float("nan") for right, images in pairs)


@torch.no_grad()
def class_counts_of(model: nn.Module, batches: Batches, *, half: bool = False) -> ClassCounts:
    """Count by class on how many labelled images a network is right.

    Args:
        model: Gives ``(n, classes)`` logits; left in the mode it was in.
        batches: ``(images, labels)`` pairs.
        half: As for :func:`evaluate`.

    Raises:
        InputError: As for :func:`evaluate`.

    Example:
        >>> class_counts_of(nn.Flatten(), [(torch.eye(3)[:, None, None], torch.tensor([0, 1, 1]))])
        ClassCounts(right=(1, 1, 0), images=(1, 2, 0))
    """
    with torch.autocast(device_of(model).type, torch.bfloat16, enabled=half):
        return _classified(model, batches, Quality(), half, silent)[0]


def _classified(
    model: nn.Module, batches: Batches, quality: Quality, half: bool, progress: Progress
) -> tuple[ClassCounts, int, float]:
    """Return the counts by class, on how many images the class is among the first five, and the mean loss."""
    from torchmetrics import MeanMetric
    from torchmetrics.classification import MulticlassStatScores

    device, total = device_of(model), number_of_batches(batches)
    # All processes see the logits of all images, in the order of the batches.
    loss = MeanMetric(sync_on_compute=False).set_dtype(torch.float64).to(device)
    counts: dict[int, Any] = {}
    processes = current()

    def own() -> Iterator[tuple[Tensor, Tensor]]:
        measured = None if half else model
        for _, batch in some_batches(batches, processes.share):
            images, labels = next(labelled([batch]))
            if measured is None:
                measured = _in_fastest_layout(model, images[:1].to(device), quality.of)
            parts = [logits_of(measured, some, quality.of).float() for some in in_parts(images.to(device))]
            logits = torch.cat(parts)
            yield logits, labels_within(labels, logits).to(device)

    with eval_mode(model):
        for done, (logits, labels) in enumerate(processes.in_rounds(own()), 1):
            if not counts:
                # Labels and logits are checked already. Counts are exact; torchmetrics' accuracy is in float32.
                form: dict[str, Any] = {"average": None, "validate_args": False, "sync_on_compute": False}
                counts = {k: MulticlassStatScores(logits.shape[1], min(k, logits.shape[1]), **form) for k in (1, 5)}
                for one in counts.values():
                    one.to(device)
            loss.update(F.cross_entropy(logits, labels, reduction="none").double())
            for one in counts.values():
                one.update(logits, labels)
            progress("evaluating", done, total or done)
    if not counts:
        raise InputError("there are no images to evaluate on: the loader is empty")
    # (classes, 5): true positives first, the number of images last.
    first, fifth = (counts[k].compute() for k in (1, 5))
    found = ClassCounts(tuple(first[:, 0].tolist()), tuple(first[:, -1].tolist()))
    return found, int(fifth[:, 0].sum()), float(loss.compute())


def _in_fastest_layout(model: nn.Module, image: Tensor, output: Callable[[Any], Any]) -> nn.Module:
    logits_of(model, image, output)  # what does not fit is refused here
    return laid_out(deep_copy(model), fastest_layout(image.repeat(2, 1, 1, 1), model))


def _as_it_is(found: Any) -> Any:
    return found


def logits_of(model: nn.Module, images: Tensor, output: Callable[[Any], Any] = _as_it_is) -> Tensor:
    """Return the ``(n, classes)`` logits of a network.

    Args:
        model: The network.
        images: ``(n, C, H, W)``, where the network is.
        output: Applied to what the network returns. The outputs of Hugging Face Transformers need none: their
            ``logits`` are taken.

    Raises:
        InputError: The network cannot read such images, returns something else, or returns values that are not finite.

    Example:
        >>> logits_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(2, 1, 2, 2)).shape
        torch.Size([2, 3])
    """
    try:
        found = model(images)
    except Exception as error:  # a network's own forward may raise anything
        shape = tuple(images.shape[1:])
        reason = one_line(error)
        raise InputError(f"the network cannot read images of shape {shape} (C, H, W): {reason}") from error
    logits = logits_in(output(found))
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        parts = "" if isinstance(logits, Tensor) else ", ".join(parts_of(logits))
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            f"the network must return (n, classes) logits for an accuracy, not {given}"
            f"{f' with the parts {parts}' if parts else ''}: choose the logits by 'output', or measure another 'metric'"
        )
    if not torch.isfinite(logits).all():
        raise InputError("the network returns values that are not finite: look for NaN in its weights or in the images")
    return logits


def labels_within(labels: Tensor, logits: Tensor) -> Tensor:
    """Return ``(n,)`` labels that all name one of the ``(n, classes)`` logits.

    Raises:
        InputError: A label is below 0, or not below the number of classes.

    Example:
        >>> labels_within(torch.tensor([0, 3]), torch.zeros(2, 3))
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: label 3 is out of range: the network has classes 0 to 2
    """
    wrong = labels[(labels < 0) | (labels >= logits.shape[1])]
    if len(wrong):
        raise InputError(f"label {int(wrong[0])} is out of range: the network has classes 0 to {logits.shape[1] - 1}")
    return labels
