"""Scales of blocks that a penalty draws to zero, and shortcuts that are fused into a convolution (Xu et al. 2020).

arXiv 2011.14356, a reconstruction from the abstract; no parity is claimed. The branch of a block is multiplied by a
scale s, 1 at the start, and with L the cross entropy of the labels this is made small::

    L + penalty * sum over blocks of |s|

After every step of the gradient of L, |s| is shrunk by the learning rate times the penalty, which makes zeros that a
gradient never reaches. Blocks of a small |s| are removed. The paper trains the whole network so; here its weights are
frozen, so that a score costs a few steps and the network stays as it is.

In a network without shortcuts the paper adds one around each convolution, y = s (W * x) + a x, which afterwards is an
ordinary convolution: ``fused``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from infoprune.criteria.trained_gates import Steps, frozen, held_images, mean_loss, train_gates
from infoprune.data.batches import Batches
from infoprune.depth.blocks import Block, stand_in
from infoprune.depth.scoring import BlockCriterionInfo, register
from infoprune.errors import InputError
from infoprune.network.equivalence import duplicate
from infoprune.progress import Progress, silent


def layer_scale(
    model: nn.Module,
    blocks: Sequence[Block],
    batches: Batches,
    *,
    penalty: float = 1e-2,
    steps: int = 100,
    batch: int = 64,
    learning_rate: float = 0.1,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, float]:
    """Return by block the modulus of its scale after training, of frozen weights.

    Args:
        model: Gives ``(n, classes)`` logits; left as it is.
        blocks: What ``find_blocks`` found.
        batches: ``(images, labels)`` pairs.
        penalty: 0 or more.
        steps: Of gradient descent.
        batch: Images in each step.
        learning_rate: Above 0.
        seed: For the order of the images.
        progress: Called after every step.

    Raises:
        InputError: Labels are missing, images have several sizes, or an option is out of range.

    Example:
        >>> import infoprune
        >>> from infoprune.depth import find_blocks
        >>> net, images = infoprune.zoo.build("resnet20").eval(), torch.rand(8, 3, 32, 32)
        >>> batches = [(images, torch.arange(8))]
        >>> found = layer_scale(net, find_blocks(net, images)[:2], batches, steps=1, learning_rate=1e-3)
        >>> all(0.5 < scale < 1.5 for scale in found.values())
        True
    """
    if not (math.isfinite(penalty) and penalty >= 0):
        raise InputError(f"the penalty of the criterion 'layer-scale' is 0 or more, not {penalty}")
    how = Steps(steps, batch, learning_rate, seed=seed, rule="sgd")
    if not blocks:
        return {}
    twin = frozen(model)
    images, labels = held_images(twin, batches, "layer-scale")
    scales = torch.ones(len(blocks), device=images.device, requires_grad=True)

    def loss(network: nn.Module, some: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        return mean_loss(network, some, classes)

    def shrink() -> None:
        scales.copy_(shrunk(scales, learning_rate * penalty))

    with scaled(twin, blocks, scales):
        train_gates(twin, [scales], images, labels, loss, how, progress, shrink)
    return {block.name: abs(scale) for block, scale in zip(blocks, scales.detach().cpu().tolist(), strict=True)}


def shrunk(values: Tensor, by: float) -> Tensor:
    """Return values whose moduli are smaller by so much, zero where they were smaller than that: a proximal step of L1.

    Example:
        >>> shrunk(torch.tensor([0.3, 0.05, -0.3], dtype=torch.float64), 0.1).round(decimals=9).tolist()
        [0.2, 0.0, -0.2]
    """
    return values.sign() * (values.abs() - by).clamp_min(0)


@contextmanager
def scaled(model: nn.Module, blocks: Sequence[Block], scales: Tensor) -> Iterator[None]:
    """Multiply the branches of blocks by their scales for the length of a ``with`` block.

    Where a branch has no last layer, the output of the block is mixed with what stays without it.

    Args:
        model: The network.
        blocks: What ``find_blocks`` found in it.
        scales: ``(blocks,)``; 1 leaves a block as it is, 0 removes it.

    Example:
        >>> import infoprune
        >>> from infoprune.depth import find_blocks, remove_blocks
        >>> net, images = infoprune.zoo.build("resnet20").eval(), torch.rand(2, 3, 32, 32)
        >>> blocks = find_blocks(net, images)[:1]
        >>> with torch.no_grad(), scaled(net, blocks, torch.zeros(1)):
        ...     silent_block = net(images)
        >>> torch.equal(silent_block, remove_blocks(net, blocks, images)(images))
        True
    """

    def at_end(place: int) -> Any:
        return lambda module, inputs, output: scales[place] * output

    def around(place: int, block: Block) -> Any:
        past = stand_in(block)
        return lambda module, inputs, output: scales[place] * output + (1 - scales[place]) * past(inputs[0])

    with ExitStack() as hooks:
        for place, block in enumerate(blocks):
            module = model.get_submodule(block.end or block.name)
            hook = at_end(place) if block.end else around(place, block)
            hooks.callback(module.register_forward_hook(hook).remove)
        yield


@torch.no_grad()
def folded(model: nn.Module, blocks: Sequence[Block], scales: Mapping[str, float]) -> nn.Module:
    """Return the network with the scales of some blocks in the weights of the last layers of their branches.

    Args:
        model: The network; left as it is.
        blocks: What ``find_blocks`` found in it.
        scales: By the name of a block.

    Raises:
        InputError: The branch of a block has no last layer.

    Example:
        >>> import infoprune
        >>> from infoprune.depth import find_blocks
        >>> net, images = infoprune.zoo.build("resnet20").eval(), torch.rand(2, 3, 32, 32)
        >>> block = find_blocks(net, images)[0]
        >>> small = folded(net, [block], {block.name: 0.5})
        >>> torch.equal(small.get_submodule(block.end).weight, 0.5 * net.get_submodule(block.end).weight)
        True
    """
    found = duplicate(model)
    for block in blocks:
        if not block.end:
            raise InputError(f"the branch of block '{block.name}' has no last layer that could hold its scale")
        layer = found.get_submodule(block.end)
        for parameter in (layer.weight, layer.bias):
            if isinstance(parameter, Tensor):
                parameter.mul_(scales[block.name])
    return found


@torch.no_grad()
def fused(layer: nn.Module, scale: float, shortcut: float) -> nn.Module:
    """Return the convolution that computes ``scale * layer(x) + shortcut * x``.

    Args:
        layer: A convolution of stride 1, as many outputs as inputs, an odd kernel, and padding that keeps the size.
        scale: Of the convolution, bias included.
        shortcut: Of the input.

    Raises:
        InputError: The input cannot be added to the output, or scale and shortcut are both zero, so that nothing is
            left.

    Example:
        >>> layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        >>> _ = nn.init.ones_(layer.weight)
        >>> round(fused(layer, 2.0, 0.5)(torch.arange(1.0, 10).reshape(1, 1, 3, 3))[0, 0, 1, 1].item(), 4)
        92.5
    """
    if not isinstance(layer, _ConvNd) or isinstance(layer, _ConvTransposeNd):
        raise InputError(f"a shortcut is fused into a convolution, not into {type(layer).__name__}")
    same = layer.padding == "same" or list(layer.padding) == [
        dilation * (size - 1) // 2 for size, dilation in zip(layer.kernel_size, layer.dilation, strict=True)
    ]
    odd = all(size % 2 for size in layer.kernel_size)
    if not (same and odd and layer.in_channels == layer.out_channels and set(layer.stride) == {1}):
        raise InputError(
            "a shortcut is fused into a convolution of stride 1 with an odd kernel, padding that keeps the size, and "
            f"as many outputs as inputs, not into {layer}"
        )
    if scale == 0 and shortcut == 0:
        raise InputError("scale and shortcut are both zero: nothing of the layer would be left")
    found = duplicate(layer)
    assert isinstance(found, _ConvNd)
    found.weight.mul_(scale)
    if found.bias is not None:
        found.bias.mul_(scale)
    centre: Tensor = found.weight
    for size in layer.kernel_size:
        centre = centre.select(2, size // 2)
    outputs = torch.arange(layer.out_channels, device=centre.device)
    centre[outputs, outputs % centre.shape[1]] += shortcut
    return found


register(
    BlockCriterionInfo(
        "layer-scale",
        layer_scale,
        "modulus of a scale of the branch, trained with a penalty (reconstruction)",
        paper="arXiv 2011.14356",
        needs_labels=True,
        cost="100 steps of 64 forward and backward passes",
    )
)
