"""Blocks of a network that can be removed: their input has the shape of their output, and a shortcut leads past them.

A block is a module that takes and returns one tensor of one shape, and passes its input on unchanged, perhaps through
an activation, once its weights are zero: input + branch(input), with a branch that is zero without weights. That is
found by running it, whatever its code looks like. Of nested modules the innermost is the block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from infoprune.errors import InputError
from infoprune.network import equivalence
from infoprune.network.cost import macs_by_layer
from infoprune.network.coupled_groups import Examples
from infoprune.network.deep_copy import deep_copy
from infoprune.network.equivalence import outside_inference_mode
from infoprune.network.layers import is_per_channel, is_producer
from infoprune.network.stand_ins import ACTIVATIONS, activation_named, replace_module

# Copies with random weights that show whether the input of a block can be negative.
_COPIES = 2


@dataclass(frozen=True)
class Block:
    """A block that can be removed.

    Args:
        name: Dotted name of the module.
        kind: The class of the module.
        activation: What stays in its place: empty for nothing, or the name in ``torch.nn`` of the activation after
            the addition. A ReLU does not stay where the input of the block is never negative.
        end: Dotted name of the layer with whose weights at zero the whole branch is zero, such as its last norm; empty
            where there is none.
        parameters: How many the block has.
        macs: Multiply-adds of the block for one image.

    Example:
        >>> Block("layer1.1", "BasicBlock", "", "layer1.1.bn2", parameters=74112, macs=231211008).kind
        'BasicBlock'
    """

    name: str
    kind: str
    activation: str
    end: str
    parameters: int
    macs: int


@outside_inference_mode
def find_blocks(model: nn.Module, example: Examples) -> tuple[Block, ...]:
    """Find every block that can be removed, in the order in which they run.

    The network is not changed: all work is done on copies. Residual connections that are written out in the forward of
    a larger module, and not in a module of their own, are not found.

    Args:
        model: Any network that takes one tensor.
        example: ``(n, ...)`` one batch of its inputs, or several, of which the first is used; the values do not matter.

    Raises:
        InputError: The network does not run on the example or cannot be copied.

    Example:
        >>> import infoprune
        >>> net = infoprune.zoo.build("resnet20")
        >>> [block.name for block in find_blocks(net, torch.zeros(1, 3, 32, 32))][:3]
        ['layer1.0', 'layer1.1', 'layer1.2']
    """
    twin = equivalence.copied(model)
    images = equivalence.placed(equivalence.batches_of(example)[0], twin)[:2]
    try:
        inputs = _inputs(twin, images)
        macs = macs_by_layer(twin, images)
    except InputError:
        raise
    except Exception as error:
        shape, reason = tuple(images.shape), equivalence.one_line(error)
        raise InputError(f"the network does not run on an example of shape {shape}: {reason}") from error
    lowest = _lowest_inputs(model, images, list(inputs))
    found: dict[str, Block] = {}
    for name in sorted(inputs, key=lambda name: -name.count(".")):
        if any(other.startswith(f"{name}.") for other in found):
            continue
        module = twin.get_submodule(name)
        activation = _left(module, inputs[name])
        if activation is None:
            continue
        if activation == "ReLU" and lowest[name] >= 0:
            activation = ""
        block = Block(
            name,
            type(module).__name__,
            activation,
            _end_of_branch(module, name, inputs[name]),
            sum(parameter.numel() for parameter in module.parameters()),
            sum(count for layer, count in macs.items() if layer.startswith(f"{name}.")),
        )
        if _runs_without(twin, block, images):
            found[name] = block
    return tuple(found[name] for name in inputs if name in found)


@contextmanager
def silenced(module: nn.Module) -> Iterator[None]:
    """Hold all weights of a module at zero for the length of a ``with`` block; the means of norms are zero too.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> with silenced(layer):
        ...     layer(torch.ones(1, 2)).item()
        0.0
    """
    kept: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for one in module.modules():
            stored: list[Tensor] = [tensor for tensor in one._parameters.values() if tensor is not None]
            if isinstance(one, _BatchNorm) and one.running_mean is not None:
                stored.append(one.running_mean)
            kept += [(tensor, tensor.detach().clone()) for tensor in stored if tensor.is_floating_point()]
        try:
            for tensor, _ in kept:
                tensor.zero_()
            yield
        finally:
            for tensor, values in kept:
                tensor.copy_(values)


def stand_in(block: Block) -> nn.Module:
    """Return the module that takes the place of a block.

    Example:
        >>> stand_in(Block("layer1.1", "BasicBlock", "ReLU", "", 0, 0))
        ReLU()
    """
    return activation_named(block.activation)


def _inputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return by module its input, where it runs once and takes and returns one tensor of one shape."""
    called: dict[str, list[Tensor | None]] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            alone = len(inputs) == 1 and not named and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)
            alike = alone and inputs[0].shape == output.shape and output.is_floating_point()
            called.setdefault(name, []).append(inputs[0].detach().clone() if alike else None)

        return hook

    order: list[str] = []
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if name and not is_producer(module) and any(map(is_producer, module.modules())):
                hooks.callback(module.register_forward_pre_hook(lambda *_, name=name: order.append(name)).remove)
                hooks.callback(module.register_forward_hook(note(name), with_kwargs=True).remove)
        equivalence.outputs(model, images)
    once = [name for name in order if len(called.get(name, ())) == 1]
    return {name: tensor for name in once if (tensor := called[name][0]) is not None}


def _lowest_inputs(model: nn.Module, images: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Return by module the least value of its input in copies with random weights, on random images."""
    lowest = dict.fromkeys(names, float("inf"))
    for seed in range(_COPIES):
        wild = equivalence.randomised(model, seed)
        drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).to(images)

        def note(name: str) -> Any:
            def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
                lowest[name] = min(lowest[name], float(inputs[0].min()))

            return hook

        for name in names:
            wild.get_submodule(name).register_forward_pre_hook(note(name))
        equivalence.outputs(wild, drawn)
    return lowest


@torch.no_grad()
def _left(module: nn.Module, inputs: Tensor) -> str | None:
    """Return the activation through which a module without weights passes its input on; ``None`` if it does not."""
    # Values on both sides of everything that an activation may cut off, such as 6.
    drawn = 10 * torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0)).to(inputs)
    try:
        with silenced(module):
            outputs = [module(drawn.clone()), module(inputs.clone())]
    except Exception:  # a module that runs only inside of its network
        return None
    for name in ACTIVATIONS:
        wanted = [activation_named(name)(one) for one in (drawn, inputs)]
        if all(isinstance(one, Tensor) and torch.equal(one, other)
               for one, other in zip(outputs, wanted, strict=True)):  # fmt: skip
            return name
    return None


@torch.no_grad()
def _end_of_branch(module: nn.Module, name: str, inputs: Tensor) -> str:
    """Return the last layer whose weights alone, at zero, make the branch zero."""
    with silenced(module):
        wanted = module(inputs.clone())
    layers = [(inner, one) for inner, one in module.named_modules() if is_producer(one) or is_per_channel(one)]
    for inner, one in reversed(layers):
        with silenced(one):
            if torch.equal(module(inputs.clone()), wanted):
                return f"{name}.{inner}" if inner else name
    return ""


def _runs_without(model: nn.Module, block: Block, images: Tensor) -> bool:
    """Return whether the network without a block is exactly the network with the weights of the block at zero."""
    with silenced(model.get_submodule(block.name)):
        wanted = equivalence.outputs(model, images)
    small = deep_copy(model)
    replace_module(small, block.name, stand_in(block))
    try:
        found = equivalence.outputs(small, images)
    except Exception:  # the network reads something else of the block than its output
        return False
    return equivalence.compare(wanted, found)[0] == 0
