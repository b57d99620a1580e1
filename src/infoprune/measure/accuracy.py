"""How good a network is on labelled images."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprune.data.batches import Batches, labelled, number_of_batches
from infoprune.device import device_of
from infoprune.errors import InputError
from infoprune.network.memory_format import fastest_layout, laid_out
from infoprune.network.modes import eval_mode
from infoprune.progress import Progress, silent


@dataclass(frozen=True)
class Evaluation:
    """Figures over a whole set of images.

    Args:
        accuracy: Top-1, percent.
        top5: Top-5, percent; 100 where there are five classes or fewer.
        loss: Mean cross entropy, nats.
        images: Number of images.
        seconds: Wall time.

    Example:
        >>> Evaluation(accuracy=91.5, top5=99.0, loss=0.3, images=1000, seconds=2.0).accuracy
        91.5
    """

    accuracy: float
    top5: float
    loss: float
    images: int
    seconds: float


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches, *, half: bool = False, progress: Progress = silent) -> Evaluation:
    """Measure a network on labelled images, in eval mode, on the device it is on.

    Args:
        model: Returns ``(n, classes)`` logits for ``(n, C, H, W)`` images. Left in the mode it was in.
        batches: ``(images, labels)`` pairs.
        half: Whether to multiply in bfloat16, in the layout that is fastest: a third of the time on processors made
            for it, and a few images in ten thousand classified differently.
        progress: Called after every batch.

    Raises:
        InputError: There are no batches, a batch does not fit the network, a label names no class, or the logits are
            not finite.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> evaluate(net, [(torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1]))]).images
        3
    """
    device = device_of(model)
    start = time.perf_counter()
    loss, right, right5, seen = 0.0, 0, 0, 0
    with eval_mode(model), torch.autocast(device.type, torch.bfloat16, enabled=half):
        total, measured = number_of_batches(batches), None if half else model
        for done, (images, labels) in enumerate(labelled(batches), 1):
            if measured is None:
                measured = _in_fastest_layout(model, images[:1].to(device))
            logits = logits_of(measured, images.to(device)).float()
            labels = labels_within(labels, logits).to(device)
            loss += F.cross_entropy(logits, labels, reduction="sum").double().item()
            ranked = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
            right += int(ranked[:, 0].sum())
            right5 += int(ranked.sum())
            seen += len(labels)
            progress("evaluating", done, total or done)
    if not seen:
        raise InputError("there are no images to evaluate on: the loader is empty")
    return Evaluation(100 * right / seen, 100 * right5 / seen, loss / seen, seen, time.perf_counter() - start)


def _in_fastest_layout(model: nn.Module, image: Tensor) -> nn.Module:
    logits_of(model, image)  # what does not fit is refused here
    return laid_out(copy.deepcopy(model), fastest_layout(image.repeat(2, 1, 1, 1), model))


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return the ``(n, classes)`` logits of a network.

    Raises:
        InputError: The network cannot read such images, returns something else, or returns values that are not finite.

    Example:
        >>> logits_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(2, 1, 2, 2)).shape
        torch.Size([2, 3])
    """
    try:
        logits = model(images)
    except RuntimeError as error:
        shape = tuple(images.shape[1:])
        reason = str(error).splitlines()[0]
        raise InputError(f"the network cannot read images of shape {shape} (C, H, W): {reason}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"the network must return (n, classes) logits, not {given}")
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
