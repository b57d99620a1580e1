"""Deep copies of networks, equal to those of ``copy.deepcopy`` and about twice as fast.

Most of what a module holds are numbers and empty dictionaries of hooks, and ``copy.deepcopy`` asks each of them how it
is copied.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

# What cannot be changed is its own copy.
_CONSTANT = frozenset({bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size})
_STATE = (getattr(object, "__getstate__", None), getattr(nn.Module, "__getstate__", None))


def deep_copy(model: nn.Module, known: dict[int, Any] | None = None) -> nn.Module:
    """Return an independent copy of a network.

    Args:
        model: The network.
        known: By the identity of an object, what stands for it in the copy, as for ``copy.deepcopy``.

    Raises:
        Exception: What a part raises that cannot be copied.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
        >>> twin = deep_copy(net)
        >>> twin[0].weight is net[0].weight, torch.equal(twin[0].weight, net[0].weight)
        (False, True)
    """
    found: nn.Module = _copy(model, {} if known is None else known)
    return found


def _copy(value: Any, known: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _CONSTANT:
        return value
    if id(value) in known:
        return known[id(value)]
    if kind is dict or kind is OrderedDict:
        known[id(value)] = twin = kind()  # first: what is inside may point back
        for key, one in value.items():
            twin[_copy(key, known)] = _copy(one, known)
        return twin
    if kind is list:
        known[id(value)] = copies = list[Any]()
        copies.extend(_copy(one, known) for one in value)
        return copies
    if kind is torch.Tensor and not value.is_leaf:
        # What a forward pass has left behind, in a dictionary of maps for example: without its history.
        known[id(value)] = still = value.detach().clone()
        return still
    if kind is set and not value:
        known[id(value)] = nothing = set[Any]()
        return nothing
    if kind is tuple and all(type(one) in _CONSTANT for one in value):
        return value
    if isinstance(value, nn.Module) and _is_plain(kind):
        return _copy_module(value, known)
    return copy.deepcopy(value, known)


def _copy_module(module: nn.Module, known: dict[int, Any]) -> nn.Module:
    whole: Any = module
    twin: Any = module.__new__(type(module))
    known[id(module)] = twin
    state = whole.__getstate__() if hasattr(whole, "__getstate__") else vars(whole)  # Python 3.10 has none
    twin.__setstate__({name: _copy(value, known) for name, value in state.items()})
    found: nn.Module = twin
    return found


def _is_plain(kind: type) -> bool:
    """Return whether ``copy.deepcopy`` copies the state of such an object, a dictionary, and does nothing else."""
    ways = ("__reduce_ex__", "__reduce__", "__new__")
    return (
        all(getattr(kind, way) is getattr(object, way) for way in ways)
        and not hasattr(kind, "__deepcopy__")
        and getattr(kind, "__getstate__", None) in _STATE
        and not any(vars(base).get("__slots__") for base in kind.__mro__)
    )
