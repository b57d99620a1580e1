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
    return list(_tensors(value, set()))


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    if value is None or isinstance(value, str | bytes | int | float | nn.Module | type) or id(value) in seen:
        return
    seen.add(id(value))
    for part in _parts(value):
        yield from _tensors(part, seen)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if is_dataclass(value):
        return [getattr(value, one.name, None) for one in fields(value)]
    return list(getattr(value, "__dict__", {}).values())
