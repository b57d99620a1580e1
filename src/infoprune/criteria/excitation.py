"""Squeeze-and-excitation gates behind each convolution, trained and then read (Hossain, Gong and Shaban 2024).

Advanced Intelligent Systems, a reconstruction from the abstract; no parity is claimed. With o the output of a layer and
z its standard deviation, or mean, over the positions of an image, a gate for every filter is::

    a = sigmoid(W2 relu(W1 z)),    hidden width C / 16

The weights of the network are frozen; W1 and W2 are trained on the cross entropy of the labels, with the output of the
layer multiplied by 2 a, so that a gate that has learnt nothing, a = 1/2, changes nothing. The score of a filter is the
mean of a over the images, and over the layers of a coupled group. The network itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from infoprune.criteria.base import Importance
from infoprune.criteria.trained_gates import (
    Steps,
    filters_of_channels,
    frozen,
    gated,
    held_images,
    mean_loss,
    train_gates,
)
from infoprune.criteria.whole_network import register_network_criterion
from infoprune.data.batches import Batches
from infoprune.entropy.ties import rounding
from infoprune.errors import unknown
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.network.layers import width
from infoprune.progress import Progress, silent

Pooling = Literal["deviation", "mean"]

_REDUCTION = 16


def excitation(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    batches: Batches,
    *,
    pooling: Pooling = "deviation",
    steps: int = 100,
    batch: int = 64,
    learning_rate: float = 1e-2,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Importance]:
    """Return the importance of the filters of every coupled group.

    Args:
        model: Gives ``(n, classes)`` logits; left as it is.
        groups: What to score.
        batches: ``(images, labels)`` pairs.
        pooling: ``"deviation"``, as the paper recommends, or ``"mean"``.
        steps: Of Adam.
        batch: Images in each step.
        learning_rate: Above 0.
        seed: For the gates at the start and the order of the images.
        progress: Called after every step.

    Returns:
        By the names of the groups; scores are mean gates, 0 to 1.

    Raises:
        InputError: Labels are missing, images have several sizes, or an option is unknown or out of range.

    Example:
        >>> import infoprune
        >>> from infoprune.network.coupled_groups import find_groups
        >>> _ = torch.manual_seed(0)
        >>> net, images = infoprune.zoo.build("digits").eval(), torch.rand(8, 1, 8, 8)
        >>> found = excitation(net, find_groups(net, images).groups, [(images, torch.arange(8))], steps=2)
        >>> 0.4 < found["features.0"].scores.mean().item() < 0.6
        True
    """
    if pooling not in get_args(Pooling):
        raise unknown("pooling of the criterion 'excitation'", str(pooling), get_args(Pooling))
    how = Steps(steps, batch, learning_rate, seed=seed)
    if not groups:
        return {}
    twin = frozen(model)
    images, labels = held_images(twin, batches, "excitation")
    generator = torch.Generator().manual_seed(seed)
    layers = list(dict.fromkeys(layer for group in groups for layer in group.producers))
    gates = {layer: SqueezeGate(width(twin.get_submodule(layer), "out"), pooling, generator).to(images.device)
             for layer in layers}  # fmt: skip

    def loss(network: nn.Module, some: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        return mean_loss(network, some, classes)

    with gated(twin, layers, lambda layer, output: gates[layer](output)):
        parameters = [one for gate in gates.values() for one in gate.parameters()]
        train_gates(twin, parameters, images, labels, loss, how, progress)
        means = _mean_gates(twin, gates, images, batch)
    found = {}
    for group in groups:
        rows = [_by_filter(means[layer], group, layer) for layer in group.producers]
        scores = torch.stack(rows).nanmean(dim=0)
        # What training in single precision may be out by: the rounding of as many steps.
        out_by = torch.full_like(scores, rounding(torch.float32, steps))
        found[group.name] = Importance(scores, rounding=out_by)
    return found


class SqueezeGate(nn.Module):
    """One gate for every channel of a layer, from the pooled output of the layer.

    Args:
        channels: C.
        pooling: ``"deviation"`` or ``"mean"``; of outputs of one position the outputs themselves.
        generator: For the weights at the start.

    Example:
        >>> gate = SqueezeGate(4, "mean", torch.Generator().manual_seed(0))
        >>> output = torch.rand(2, 4, 3, 3)
        >>> torch.equal(gate(output), output)  # a gate that has learnt nothing changes nothing
        True
    """

    def __init__(self, channels: int, pooling: Pooling, generator: torch.Generator) -> None:
        super().__init__()
        hidden = max(1, channels // _REDUCTION)
        self.pooling = pooling
        self.squeeze = nn.Parameter(torch.randn(hidden, channels, generator=generator) / channels**0.5)
        # Zero, so that every gate is 1/2 at the start.
        self.excite = nn.Parameter(torch.zeros(channels, hidden))

    def opened(self, output: Tensor) -> Tensor:
        """Return the ``(n, C)`` gates of ``(n, C, ...)`` outputs."""
        flat = output.reshape(*output.shape[:2], -1)
        if flat.shape[2] == 1:
            pooled = flat[:, :, 0]
        elif self.pooling == "mean":
            pooled = flat.mean(dim=2)
        else:
            # With a term that keeps the derivative at a constant map finite.
            pooled = (flat.var(dim=2, unbiased=False) + 1e-12).sqrt()
        return torch.sigmoid(torch.relu(pooled @ self.squeeze.T) @ self.excite.T)

    def forward(self, output: Tensor) -> Tensor:
        """Return the outputs multiplied by twice their gates."""
        return 2 * self.opened(output).reshape(*output.shape[:2], *[1] * (output.ndim - 2)) * output


@torch.no_grad()
def _mean_gates(model: nn.Module, gates: dict[str, SqueezeGate], images: Tensor, batch: int) -> dict[str, Tensor]:
    """Return by layer the ``(channels,)`` mean gates over all images, with all gates at work."""
    total: dict[str, Tensor] = {}

    def add(layer: str) -> object:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found = gates[layer].opened(inputs[0]).double().sum(dim=0).cpu() / len(images)
            total[layer] = total[layer] + found if layer in total else found

        return hook

    hooks = [gate.register_forward_pre_hook(add(layer)) for layer, gate in gates.items()]  # type: ignore[arg-type]
    try:
        for some in torch.split(images, batch):
            model(some)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def _by_filter(values: Tensor, group: CoupledGroup, layer: str) -> Tensor:
    """Return ``(C,)``: the mean over the channels of each filter, NaN for filters without a channel in the layer."""
    of = filters_of_channels(group, layer, len(values))
    own = of >= 0
    sums = torch.zeros(group.filters, dtype=torch.float64).index_add_(0, of[own], values[own])
    return sums / torch.zeros_like(sums).index_add_(0, of[own], torch.ones_like(values[own]))


register_network_criterion(
    "excitation",
    excitation,
    "mean of a trained squeeze-and-excitation gate after the layer (reconstruction)",
    paper="Hossain et al. 2024, Adv. Intell. Syst.",
    needs_labels=True,
    images=1024,
    cost="100 steps of 64 forward and backward passes, then one forward pass per image",
)
