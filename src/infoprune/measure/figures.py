"""What a network is measured by before and after: cost, time, accuracy, dead filters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infoprune import criteria
from infoprune.criteria.scoring import score
from infoprune.data.pairs import examples_of
from infoprune.device import device_of
from infoprune.errors import InputError
from infoprune.measure.accuracy import check_repeatable, evaluate
from infoprune.measure.record import Figures
from infoprune.network import cost, equivalence
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.network.intake import check_network
from infoprune.network.layers import is_convolution
from infoprune.network.modes import eval_mode
from infoprune.network.origin import origin_of
from infoprune.network.tensors import tensors_in
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
    return all_examples(batches, model)[0]


def all_examples(batches: Batches, model: nn.Module) -> list[Tensor]:
    """Return two images of every shape that the batches have, on the network's device.

    Raises:
        InputError: As for ``example_of``.
    """
    check_repeatable(batches)
    return [images.to(device_of(model)) for images in examples_of(batches)]


def check_runs(model: nn.Module, example: Tensor) -> None:
    """Refuse a network that cannot be cut, cannot read the images, or returns no tensors or values that are not finite.

    Args:
        model: Returns tensors in any form: alone, in lists, dicts, dataclasses.
        example: ``(n, ...)`` one batch.

    Raises:
        InputError: One of these.
    """
    check_network(model)
    placed = equivalence.placed(example, model)
    with eval_mode(model), torch.no_grad():
        try:
            found = tensors_in(model(placed))
        except (RuntimeError, ValueError, TypeError) as error:
            shape, reason = tuple(example.shape[1:]), equivalence.one_line(error)
            raise InputError(f"the network cannot read images of shape {shape} (C, H, W): {reason}") from error
    if not found:
        raise InputError("the network returns nothing with a tensor in it: wrap it so that it returns its outputs")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in found):
        raise InputError("the network gives values that are not finite: look for NaN in its weights or in the images")


def example_for(plan: Plan, model: nn.Module) -> Tensor | list[Tensor]:
    """Return zeros of the shape that the plan was made with, or of all shapes where there were several.

    Raises:
        InputError: The plan does not say it, and nothing is known of the network.
    """
    origin = origin_of(model)
    shape = plan.settings.get("input_shape") or (origin.input_shape if origin else None)
    if shape is None:
        raise InputError("the plan does not say what images the network reads: give an example batch")
    shapes = plan.settings.get("input_shapes", [shape])
    zeros = [torch.zeros(2, *one, device=device_of(model)) for one in shapes]
    return zeros if len(zeros) > 1 else zeros[0]
