"""What a network is measured by before and after: cost, time, accuracy, dead filters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infoprune import criteria
from infoprune.criteria.scoring import score
from infoprune.device import device_of
from infoprune.errors import InputError
from infoprune.measure.accuracy import check_repeatable, evaluate, labelled, logits_of
from infoprune.measure.record import Figures
from infoprune.network import cost
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.network.layers import is_convolution
from infoprune.network.modes import eval_mode
from infoprune.network.origin import origin_of
from infoprune.plan import Plan
from infoprune.progress import Progress, silent

Batches = Iterable[Any]


def figures(
    model: nn.Module,
    example: Tensor,
    latency_ms: float,
    test: Batches | None,
    *,
    dead: int | None = None,
    progress: Progress = silent,
) -> Figures:
    """Measure the network that is really there; accuracy and loss where there are images to test on."""
    counted = cost.count(model, example)
    if test is None:
        return Figures(counted.macs, counted.parameters, latency_ms, dead_filters=dead)
    measured = evaluate(model, test, progress=progress)
    return Figures(
        counted.macs,
        counted.parameters,
        latency_ms,
        measured.accuracy,
        measured.top5,
        measured.loss,
        measured.images,
        dead,
    )


def latencies(models: Sequence[nn.Module], example: Tensor, rounds: int = 3) -> list[float]:
    """Return each network's median milliseconds for one image, taken in turns so that drift hits all alike."""
    one = example[:1]
    turns = [[cost.latency(model, one) for model in models] for _ in range(rounds)]
    return [sorted(times)[len(times) // 2] for times in zip(*turns, strict=True)]


def dead_filters(model: nn.Module, batches: Batches, groups: Sequence[CoupledGroup]) -> dict[str, set[int]]:
    """Return, by convolution, the filters whose maps after activation are constant over all images and positions."""
    modules = dict(model.named_modules())
    convolutions = [group for group in groups if is_convolution(modules[group.name])]
    variances = score(model, convolutions, batches, criteria.find("variance"), tap="activation")
    return {name: set((found.scores <= 0).nonzero().flatten().tolist()) for name, found in variances.items()}


def example_of(batches: Batches, model: nn.Module) -> Tensor:
    """Return two images of the first batch, on the network's device.

    Raises:
        InputError: There are no batches, or they can be read only once.
    """
    check_repeatable(batches)
    first = next(labelled(batches), None)
    if first is None:
        raise InputError("there are no calibration images: the loader is empty")
    return first[0][:2].to(device_of(model))


def check_runs(model: nn.Module, example: Tensor) -> None:
    """Refuse a network that cannot read the images, or gives values that are not finite.

    Raises:
        InputError: One of these.
    """
    with eval_mode(model), torch.no_grad():
        logits_of(model, example)


def example_for(plan: Plan, model: nn.Module) -> Tensor:
    """Return zeros of the shape that the plan was made with.

    Raises:
        InputError: The plan does not say it, and nothing is known of the network.
    """
    origin = origin_of(model)
    shape = plan.settings.get("input_shape") or (origin.input_shape if origin else None)
    if shape is None:
        raise InputError("the plan does not say what images the network reads: give an example batch")
    return torch.zeros(2, *shape, device=device_of(model))
