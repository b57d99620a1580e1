"""What a network is measured by before and after: cost, time, accuracy, dead filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from infoprune.criteria.dead import CONSTANT
from infoprune.criteria.scoring import score
from infoprune.data.batches import Batches
from infoprune.device import device_of
from infoprune.errors import InputError
from infoprune.measure.accuracy import evaluate
from infoprune.measure.metric import PLAIN, Quality
from infoprune.measure.record import Figures
from infoprune.network import cost, equivalence
from infoprune.network.cost import Cost, Latency
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.network.intake import check_network
from infoprune.network.layers import is_convolution
from infoprune.network.modes import eval_mode
from infoprune.network.origin import origin_of
from infoprune.network.tensors import tensors_in
from infoprune.plan import Plan
from infoprune.progress import Progress, silent
from infoprune.runs.together import current

# How long a network is measured before it is another one's turn, in seconds.
TURN = 0.1


def figures(
    model: nn.Module,
    counted: Cost,
    latency: Latency,
    test: Batches | None,
    *,
    quality: Quality = PLAIN,
    dead: int | None = None,
    progress: Progress = silent,
) -> Figures:
    """Return the figures of a network, measured; accuracy and loss, or a metric, where there are images to test on.

    Args:
        model: The network; left as it is.
        counted: What it costs.
        latency: Its time for one image.
        test: Labelled images, ``None`` to measure no accuracy.
        quality: What is measured on the images.
        dead: How many of its filters are dead, where that is known.
        progress: Called after every batch.

    Example:
        >>> import torch
        >>> net = nn.Linear(4, 2)
        >>> found = figures(net, Cost(8, 10), latencies([net], torch.rand(2, 4), rounds=1)[0], None)
        >>> found.macs, found.accuracy is None
        (8, True)
    """
    found = Figures(
        counted.macs,
        counted.parameters,
        latency.milliseconds,
        latency_spread_ms=latency.spread,
        dead_filters=dead,
    )
    if test is None:
        return found
    measured = evaluate(model, test, metric=quality.metric, output=quality.output, progress=progress)
    if quality.metric is not None:
        found = replace(
            found, metric=measured.metric, metric_name=quality.name, higher_is_better=quality.higher_is_better
        )
    return replace(found, accuracy=measured.accuracy, top5=measured.top5, loss=measured.loss, images=measured.images)


def latencies(models: Sequence[nn.Module], example: Tensor, rounds: int = 3) -> list[Latency]:
    """Return each network's time for one image; the networks are measured alternately, so that drift affects all.

    Example:
        >>> import torch
        >>> len(latencies([nn.Linear(4, 2), nn.Linear(4, 1)], torch.rand(2, 4), rounds=1))
        2
    """
    processes = current()
    if not processes.is_first:
        # Measured by the first process alone, undisturbed.
        return processes.agreed([])
    turns = [[cost.latency(model, example[:1], seconds=TURN) for model in models] for _ in range(rounds)]
    return processes.agreed([Latency.of(*measured) for measured in zip(*turns, strict=True)])


def dead_filters(
    model: nn.Module, batches: Batches, groups: Sequence[CoupledGroup], *, progress: Progress = silent
) -> dict[str, set[int]]:
    """Return, by convolution, the filters whose maps after activation are constant over all images and positions.

    Example:
        >>> import torch
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(8, 2))
        >>> _ = nn.init.constant_(net[0].weight[1], 0.0)
        >>> images = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> 1 in dead_filters(net, [images], find_groups(net, images).groups)["0"]
        True
    """
    modules = dict(model.named_modules())
    convolutions = [group for group in groups if is_convolution(modules[group.name])]

    def looking(stage: str, done: int, total: int) -> None:
        progress("looking for dead filters", done, total)

    changes = score(model, convolutions, batches, CONSTANT, tap="activation", progress=looking)
    return {name: set((found.scores <= 0).nonzero().flatten().tolist()) for name, found in changes.items()}


def outputs_of(model: nn.Module, example: Tensor, quality: Quality = PLAIN) -> int | None:
    """Return the number of classes of a network, ``None`` where what is measured of it is not ``(n, classes)``.

    Example:
        >>> import torch
        >>> outputs_of(nn.Linear(4, 3), torch.rand(2, 4)), outputs_of(nn.Conv2d(1, 3, 1), torch.rand(2, 1, 4, 4))
        (3, None)
    """
    with eval_mode(model), torch.no_grad():
        output = quality.answers(model)(example)
    return output.shape[1] if isinstance(output, Tensor) and output.dim() == 2 else None


def check_runs(model: nn.Module, example: Tensor) -> None:
    """Refuse a network that cannot be cut, cannot read the images, or returns no tensors or values that are not finite.

    Args:
        model: Returns tensors in any form: alone, in lists, dicts, dataclasses.
        example: ``(n, ...)`` one batch.

    Raises:
        InputError: One of these.

    Example:
        >>> import torch
        >>> check_runs(nn.Linear(4, 3), torch.rand(2, 4))
    """
    check_network(model)
    if device_of(model).type == "meta":
        raise InputError("the network has shapes but no weights: it lies on the device 'meta'; load its weights first")
    placed = equivalence.placed(example, model)
    with eval_mode(model), torch.no_grad():
        try:
            found = tensors_in(model(placed))
        except Exception as error:  # a network's own forward may raise anything
            shape, reason = tuple(example.shape[1:]), equivalence.one_line(error)
            kind = "" if example.is_floating_point() else f", stored as {example.dtype}"
            axes = " (C, H, W)" if len(shape) == 3 else ""
            hint = "; a batch is (n, C, H, W), so one image is image[None]" if len(shape) == 2 else ""
            raise InputError(f"the network cannot read images of shape {shape}{axes}{kind}: {reason}{hint}") from error
    if not found:
        raise InputError("the network returns nothing with a tensor in it: wrap it so that it returns its outputs")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in found):
        raise InputError("the network returns values that are not finite: look for NaN in its weights or in the images")


def example_for(plan: Plan, model: nn.Module) -> Tensor | list[Tensor]:
    """Return zeros of the shape that the plan was made with, or of all shapes where there were several.

    Raises:
        InputError: The plan does not say it, and nothing is known of the network.

    Example:
        >>> from infoprune.plan import LayerDecision
        >>> plan = Plan({"0": LayerDecision("0", 4, (0, 2))}, settings={"input_shape": [1, 8, 8]})
        >>> example_for(plan, nn.Sequential(nn.Conv2d(1, 4, 3))).shape[1:]
        torch.Size([1, 8, 8])
    """
    origin = origin_of(model)
    shape = plan.settings.get("input_shape") or (origin.input_shape if origin else None)
    if shape is None:
        raise InputError("the plan does not name the shape of the images: pass an example batch")
    shapes = plan.settings.get("input_shapes", [shape])
    zeros = [torch.zeros(2, *one, device=device_of(model)) for one in shapes]
    return zeros if len(zeros) > 1 else zeros[0]
