"""The tensors in the output of a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn


def tensors_in(value: Any) -> list[Tensor]:
    """Return every tensor in a value, in a fixed order: in containers, mappings, dataclasses and plain objects.

    Args:
        value: The output of a network: a tensor, a list, a dict, a dataclass, an object with attributes, or a nest
            of them.

    Example:
        >>> import torch
        >>> [len(tensor) for tensor in tensors_in({"logits": torch.zeros(3), "maps": [torch.zeros(2)]})]
        [3, 2]
    """
    return [tensor for _, tensor in _named(value, "", "", set())]


def named_tensors_in(value: Any, single: str = "output") -> dict[str, Tensor]:
    """Return every tensor in a value by the keys, attributes and places that lead to it, ordered as in ``tensors_in``.

    Args:
        value: The output of a network.
        single: The name of the tensor where the output is one tensor.

    Example:
        >>> import torch
        >>> list(named_tensors_in({"out": torch.zeros(3), "maps": [torch.zeros(2)]}))
        ['out', 'maps_0']
    """
    found: dict[str, Tensor] = {}
    for name, tensor in _named(value, "", single, set()):
        found[name if name not in found else f"{name}_{len(found)}"] = tensor
    return found


def logits_in(value: Any) -> Any:
    """Return the ``logits`` of an output that has some, as those of Transformers; anything else as it is.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> logits_in(SimpleNamespace(logits=torch.zeros(2, 3))).shape
        torch.Size([2, 3])
    """
    return value if isinstance(value, Tensor) else getattr(value, "logits", value)


def _named(value: Any, path: str, single: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path or single, value
        return
    if _holds_nothing(value) or id(value) in seen:
        return
    seen.add(id(value))
    for key, part in parts_of(value).items():
        before = path or (single if key.isdigit() else "")
        yield from _named(part, f"{before}_{key}" if before else key, single, seen)


def _holds_nothing(value: Any) -> bool:
    return value is None or isinstance(value, str | bytes | int | float | nn.Module | type)


def parts_of(value: Any) -> dict[str, Any]:
    """Return what an output of several parts holds, by key, field or place.

    Example:
        >>> sorted(parts_of({"out": 1, "aux": 2})), parts_of([3, 4])
        (['aux', 'out'], {'0': 3, '1': 4})
    """
    if isinstance(value, Mapping):
        return {str(key): part for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return {str(place): part for place, part in enumerate(value)}
    if is_dataclass(value):
        return {one.name: getattr(value, one.name, None) for one in fields(value)}
    return dict(getattr(value, "__dict__", {}))
