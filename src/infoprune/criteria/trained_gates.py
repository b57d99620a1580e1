"""Gates that are trained while the weights of the network are frozen, for criteria that read what gates learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from infoprune.data.batches import Batches, parse
from infoprune.device import place_of
from infoprune.errors import InputError
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.network.equivalence import copied
from infoprune.network.gradients import summed_loss
from infoprune.network.layers import channel_axis
from infoprune.progress import Progress

Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
"""From the network with its gates, images, labels and random numbers to what is made small."""

Gate = Callable[[str, Tensor], Tensor]
"""From a layer and its output, channels along axis 1, to what the network goes on with."""


@dataclass(frozen=True)
class Steps:
    """How gates are trained.

    Args:
        count: Steps, 1 or more.
        batch: Images in each, 1 or more.
        learning_rate: Above 0.
        betas: Of Adam.
        seed: For the order of the images and what else is drawn.
        rule: ``"adam"``, or ``"sgd"`` without momentum, after which a proximal step is exact.

    Raises:
        InputError: A value is out of range.

    Example:
        >>> Steps(count=100, batch=64, learning_rate=4e-3).betas
        (0.9, 0.999)
    """

    count: int
    batch: int
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    seed: int = 0
    rule: Literal["adam", "sgd"] = "adam"

    def __post_init__(self) -> None:
        for name, value in (("steps", self.count), ("images a batch", self.batch)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"gates are trained in 1 or more {name}, not {value!r}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"the learning rate of gates is above 0, not {self.learning_rate}")


def frozen(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode and full precision whose weights have no gradients.

    Example:
        >>> any(parameter.requires_grad for parameter in frozen(nn.Linear(2, 1)).parameters())
        False
    """
    twin = copied(model)
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin


def held_images(model: nn.Module, batches: Batches, criterion: str) -> tuple[Tensor, Tensor]:
    """Return all images, where the network is, and their labels.

    Raises:
        InputError: There are fewer than two images, no labels, or images of several sizes.

    Example:
        >>> images, labels = held_images(nn.Conv2d(1, 2, 3), [(torch.zeros(4, 1, 8, 8), torch.arange(4))], "scop")
        >>> len(images), labels.tolist()
        (4, [0, 1, 2, 3])
    """
    images, labels = list[Tensor](), list[Tensor]()
    for some in batches:
        batch = parse(some)
        classes = batch.classes()
        if classes is None:
            raise InputError(f"the criterion '{criterion}' needs labels: give (images, labels) pairs")
        images.append(batch.placed(*place_of(model)))
        labels.append(classes.to(images[-1].device))
    if len({one.shape[1:] for one in images}) > 1:
        raise InputError(f"the criterion '{criterion}' trains on images of one size: give images of one size")
    if sum(map(len, images)) < 2:
        raise InputError(f"the criterion '{criterion}' trains on at least 2 images, not {sum(map(len, images))}")
    return torch.cat(images), torch.cat(labels)


@contextmanager
def gated(model: nn.Module, layers: Sequence[str], gate: Gate) -> Iterator[None]:
    """Let a function change the outputs of some layers for the length of a ``with`` block.

    Args:
        model: The network.
        layers: Dotted names of convolution or linear layers.
        gate: Receives the output with its channels along axis 1.

    Raises:
        InputError: A layer does not return one tensor.

    Example:
        >>> net = nn.Sequential(nn.Identity(), nn.Linear(2, 2))
        >>> with gated(net, ["1"], lambda layer, output: torch.zeros_like(output)):
        ...     net(torch.ones(1, 2)).tolist()
        [[0.0, 0.0]]
    """

    def hook(layer: str) -> Callable[..., Any]:
        def change(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor:
            if not isinstance(output, Tensor):
                raise InputError(f"layer '{layer}' does not return one tensor: leave it out")
            axis = channel_axis(module)
            return gate(layer, output.movedim(axis, 1)).movedim(1, axis)

        return change

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(model.get_submodule(layer).register_forward_hook(hook(layer)).remove)
        yield


def train_gates(
    model: nn.Module,
    gates: Sequence[Tensor],
    images: Tensor,
    labels: Tensor,
    loss: Loss,
    steps: Steps,
    progress: Progress,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Train gates in place, on batches that take each image once before any comes again.

    Args:
        model: The frozen network.
        gates: What is trained; leaves that require gradients.
        images: ``(n, ...)``.
        labels: ``(n,)`` class indices.
        loss: What is made small.
        steps: How.
        progress: Called after every step.
        after: Called after every step, to keep gates in their range or to shrink them.

    Example:
        >>> from infoprune.progress import silent
        >>> scale = torch.zeros(1, requires_grad=True)
        >>> def loss(model, images, labels, generator):
        ...     return summed_loss(scale * model(images), labels)
        >>> images, labels = torch.eye(2), torch.tensor([0, 1])
        >>> train_gates(nn.Identity(), [scale], images, labels, loss, Steps(3, 2, 0.1), silent)
        >>> scale.item() > 0.2
        True
    """
    generator = torch.Generator().manual_seed(steps.seed)
    optimiser: torch.optim.Optimizer = torch.optim.SGD(list(gates), steps.learning_rate)
    if steps.rule == "adam":
        optimiser = torch.optim.Adam(list(gates), steps.learning_rate, steps.betas)
    waiting = torch.zeros(0, dtype=torch.int64)
    with torch.enable_grad():
        for step in range(steps.count):
            if not len(waiting):
                waiting = torch.randperm(len(images), generator=generator)
            some, waiting = waiting[: steps.batch].to(images.device), waiting[steps.batch :]
            optimiser.zero_grad()
            value = loss(model, images[some], labels[some], generator)
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            with torch.no_grad():
                after()
            progress("training gates", step + 1, steps.count)


def mean_loss(model: nn.Module, images: Tensor, labels: Tensor, used: int | None = None) -> Tensor:
    """Return the mean cross entropy of the first ``used`` outputs, by default all.

    Example:
        >>> round(float(mean_loss(nn.Identity(), torch.zeros(4, 2), torch.tensor([0, 1]), used=2)), 4)
        0.6931
    """
    return summed_loss(model(images)[:used], labels) / len(labels)


def filters_of_channels(group: CoupledGroup, layer: str, channels: int) -> Tensor:
    """Return for each output channel of a layer its filter in the group, -1 for those that belong to none.

    Example:
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        >>> group = find_groups(net, torch.zeros(1, 3)).groups[0]
        >>> filters_of_channels(group, "0", 4).tolist()
        [0, 1, 2, 3]
    """
    found = torch.full((channels,), -1)
    for member in group.members:
        if member.layer == layer and member.side == "out":
            for filter_, some in enumerate(member.channels):
                found[list(some)] = filter_
    return found
