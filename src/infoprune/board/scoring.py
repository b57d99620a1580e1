"""What one criterion makes of one sample of images, and the time and memory that takes."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import nn

from infoprune.board.rows import Scored
from infoprune.criteria import resolve
from infoprune.criteria.scoring import score
from infoprune.data.batches import Batches, images_of
from infoprune.device import device_of
from infoprune.errors import InputError
from infoprune.measure.memory import peak_memory
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.network.modes import eval_mode
from infoprune.network.taps import Tap
from infoprune.progress import Progress, silent


def scored(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    batches: Batches,
    criterion: str,
    *,
    seed: int = 0,
    tap: Tap | None = None,
    one_pass: float = 0.0,
    progress: Progress = silent,
) -> Scored:
    """Score all groups by one criterion; where it cannot run, return the reason.

    Args:
        model: The network; left as it is.
        groups: What to score.
        batches: Calibration images, iterable more than once.
        criterion: A name of ``infoprune.all_criteria()`` or ``package.module:function``.
        seed: For criteria that draw.
        tap: Where the feature maps are read; by default where the criterion says.
        one_pass: Processor seconds of one forward pass over the images, in which the time is counted.
        progress: Called while feature maps are scored.

    Example:
        >>> from infoprune import zoo
        >>> from infoprune.selection.calibration import Calibration
        >>> images = [torch.rand(20, 1, 8, 8)]
        >>> found = Calibration.of(zoo.build("digits").eval(), images)
        >>> scored(found.model, found.groups.groups, images, "cmi").reason
        "the criterion 'cmi' needs labels: give (images, labels) pairs"
    """
    start, used = time.perf_counter(), time.process_time()
    importances, reason = {}, ""
    with peak_memory(device_of(model)) as peak:
        try:
            importances = score(model, groups, batches, resolve(criterion), tap=tap, seed=seed, progress=progress)
        except Exception as error:  # whatever a criterion raises, the others are still to be measured
            reason = why(error)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    passes = used / one_pass if one_pass > 0 else 0.0
    return Scored(criterion, seed, importances, seconds, passes, peak.mib, reason)


def why(error: Exception) -> str:
    """Return the reason of an error in one line.

    Example:
        >>> why(InputError("no labels")), why(ValueError("no labels"))
        ('no labels', 'ValueError: no labels')
    """
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


@torch.no_grad()
def seconds_of_one_pass(model: nn.Module, batches: Batches) -> float:
    """Return the processor seconds of one forward pass over the images.

    Example:
        >>> seconds_of_one_pass(nn.Linear(4, 2), [torch.rand(8, 4)]) > 0
        True
    """
    with eval_mode(model):
        images = list(images_of(batches, model))
        model(images[0])
        start = time.process_time()
        for some in images:
            model(some)
    return time.process_time() - start
