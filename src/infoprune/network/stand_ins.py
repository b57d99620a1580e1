"""What is put in the place of a module that is removed: nothing, or the activation behind it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from infoprune.errors import InputError, unknown

# What may follow the addition of a residual block, by the name in torch.nn; the identity first.
ACTIVATIONS = ("", "ReLU", "ReLU6", "SiLU", "GELU", "Hardswish", "Mish", "ELU")


def activation_named(name: str) -> nn.Module:
    """Return an activation of ``torch.nn``, one of ``ACTIVATIONS``; the identity for an empty name.

    Raises:
        InputError: It is none of those.

    Example:
        >>> activation_named("ReLU"), activation_named("")
        (ReLU(), Identity())
    """
    if name not in ACTIVATIONS:
        raise unknown("activation in the place of a block", name, [one for one in ACTIVATIONS if one])
    found: nn.Module = getattr(nn, name)() if name else nn.Identity()
    return found


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another one.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2))
        >>> replace_module(net, "0", nn.Identity())
        >>> net[0]
        Identity()
    """
    parent, _, last = name.rpartition(".")
    model.get_submodule(parent)._modules[last] = module


def remove_named(model: nn.Module, blocks: Mapping[str, str]) -> None:
    """Put activations in the places of blocks, in place, as a checkpoint names them.

    Args:
        model: The network.
        blocks: By the name of a block, one of ``ACTIVATIONS``.

    Raises:
        InputError: The network has no such module, or the activation is none of those.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> remove_named(net, {"0": ""})
        >>> net[0]
        Identity()
    """
    there = dict(model.named_modules())
    for name, activation in blocks.items():
        if not name or name not in there:
            raise InputError(f"the network has no block '{name}', which is noted as removed")
        replace_module(model, name, activation_named(activation))
