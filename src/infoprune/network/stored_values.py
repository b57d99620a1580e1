"""Values outside any layer that shrink with channels: parameters and buffers, and numbers that modules hold."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

# A module may store a whole width where its code uses an equal share of it, as ``x.split(self.width // 2, 1)`` does.
_SHARES = (1, 2, 4)


@dataclass(frozen=True)
class Stored:
    """The place of a stored value that shrinks with channels.

    Args:
        module: Dotted name of the module that holds it; empty for the network itself.
        attribute: Name of a parameter or buffer, or of an attribute that is an integer or a list of integers.
        axis: Axis of a parameter or buffer along which its channels lie; ``None`` for an integer.
        index: Which integer of a list.
        share: The integer divided by the number of channels.

    Example:
        >>> block = nn.Module()
        >>> block.width = 8
        >>> Stored("", "width").remove(block, channels=[1, 3])
        >>> block.width
        6
    """

    module: str
    attribute: str
    axis: int | None = None
    index: int | None = None
    share: int = 1

    def __str__(self) -> str:
        name = f"{self.module}.{self.attribute}" if self.module else self.attribute
        return name if self.index is None else f"{name}[{self.index}]"

    def remove(self, model: nn.Module, channels: Sequence[int]) -> None:
        """Remove channels from the value, in place."""
        owner = model.get_submodule(self.module)
        if self.axis is None:
            old = getattr(owner, self.attribute)
            fewer = len(channels) * self.share
            if self.index is None:
                setattr(owner, self.attribute, old - fewer)
            else:
                changed = [size - fewer if at == self.index else size for at, size in enumerate(old)]
                setattr(owner, self.attribute, type(old)(changed))
            return
        tensor = getattr(owner, self.attribute)
        gone = set(channels)
        kept = torch.tensor([i for i in range(tensor.shape[self.axis]) if i not in gone], device=tensor.device)
        smaller = tensor.detach().index_select(self.axis, kept)
        if isinstance(tensor, nn.Parameter):
            owner._parameters[self.attribute] = nn.Parameter(smaller, tensor.requires_grad)
        else:
            owner._buffers[self.attribute] = smaller

    def tensor_of(self, model: nn.Module) -> Tensor | None:
        """Return the parameter or buffer, ``None`` where the value is an integer."""
        return None if self.axis is None else getattr(model.get_submodule(self.module), self.attribute)


def holders(names: Mapping[nn.Module, str], value: int | Sequence[int]) -> list[list[Stored]]:
    """Return the attributes that the running code may have read a size from.

    Candidates are integers and lists of integers of the module whose method runs, among the attributes that the code of
    this method names. The check of the cut network decides whether they are right.

    Args:
        names: By module, its dotted name.
        value: A size, or several.

    Returns:
        A list of places for each size.

    Example:
        >>> class Halves(nn.Module):
        ...     def forward(self, x):
        ...         self.width
        ...         return holders({self: "block"}, 4)
        >>> block = Halves()
        >>> block.width = 8
        >>> [[(str(place), place.share) for place in places] for places in block(None)]
        [[('block.width', 2)]]
    """
    found = _running(names)
    sizes = [value] if isinstance(value, int) else list(value)
    if found is None:
        return [[] for _ in sizes]
    module, read = found
    held = {name: one for name, one in vars(module).items() if name in read and not name.startswith("_")}
    if not isinstance(value, int):
        for name, one in held.items():
            if isinstance(one, list | tuple) and list(one) == sizes and all(type(size) is int for size in one):
                return [[Stored(names[module], name, index=index)] for index in range(len(sizes))]
    return [list(_places(names[module], held, size)) for size in sizes]


Sizes = Iterator[tuple[int | Sequence[int], list[Tensor]]]


def taken_sizes(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], ids: Tensor, moved: list[Tensor]) -> Sizes:
    """Yield the sizes passed to an operation that are numbers of channels, and the channels that each of them counts.

    Args:
        name: The operation.
        args: Its arguments.
        kwargs: Its keyword arguments.
        ids: The numbers of the channels of its first argument, with length 1 along axes where they are constant.
        moved: The numbers of its outputs, likewise.

    Example:
        >>> ids = torch.arange(6)[None]
        >>> found = taken_sizes("split", (None, [2, 4], 1), {}, ids, list(ids.split([2, 4], 1)))
        >>> [(sizes, len(parts)) for sizes, parts in found]
        [([2, 4], 2)]
    """
    if name in ("split", "split_with_sizes"):
        sizes = args[1] if len(args) > 1 else next(v for key, v in kwargs.items() if key.startswith("split_size"))
        yield from _of_split(sizes, [part for part in map(_along, moved) if part is not None])
    elif name in ("view", "reshape") and len(args) > 1:
        yield from _of_shape(args[1] if isinstance(args[1], list | tuple) else args[1:], moved[0])
    elif name == "__getitem__":
        yield from _of_index(args[1] if isinstance(args[1], tuple) else (args[1],), ids)
    elif name == "narrow" and len(args) > 3:
        yield from _of_narrow(args[2], args[3], _along(ids), _along(moved[0]))


def _of_split(sizes: int | Sequence[int], parts: list[Tensor]) -> Sizes:
    if isinstance(sizes, int):
        if parts:
            yield sizes, parts[:1]
    elif len(parts) == len(sizes):
        yield sizes, parts


def _of_shape(shape: Sequence[Any], moved: Tensor) -> Sizes:
    for axis, size in enumerate(shape):
        if type(size) is int and size > 1 and moved.shape[axis] == size:
            yield size, [moved[tuple(slice(None) if other == axis else 0 for other in range(moved.ndim))]]


def _of_index(index: Sequence[Any], ids: Tensor) -> Sizes:
    line = _along(ids)
    if line is None or Ellipsis in [part for part in index if not isinstance(part, Tensor)]:
        return
    for axis, part in enumerate(index[: ids.ndim]):
        if isinstance(part, slice) and ids.shape[axis] == len(line):
            for bound in (part.start, part.stop):
                if type(bound) is int and 0 < bound < len(line):
                    yield bound, [line[:bound]]


def _of_narrow(start: Any, length: int, line: Tensor | None, part: Tensor | None) -> Sizes:
    if line is not None and part is not None:
        yield length, [part]
        if type(start) is int and start > 0:
            yield start, [line[:start]]


def _along(ids: Tensor) -> Tensor | None:
    """Return the numbers along the one axis where they differ, ``None`` if there are several or none."""
    return ids.flatten() if sum(size > 1 for size in ids.shape) == 1 else None


def _places(module: str, held: Mapping[str, Any], size: int) -> Iterator[Stored]:
    for share in _SHARES:
        places = [Stored(module, name, share=share) for name, one in held.items() if _is(one, size * share)]
        for name, one in held.items():
            if isinstance(one, list | tuple) and all(type(part) is int for part in one):
                places += [
                    Stored(module, name, index=index, share=share)
                    for index, part in enumerate(one)
                    if part == size * share
                ]
        if places:
            yield from places
            return


def _is(value: Any, size: int) -> bool:
    return type(value) is int and value == size


def _running(names: Mapping[nn.Module, str]) -> tuple[nn.Module, frozenset[str]] | None:
    """Return the module whose method runs, the innermost one, and the names that this method's code reads."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and owner in names and not _is_call(frame):
            return owner, frozenset(frame.f_code.co_names)
        frame = frame.f_back
    return None


def _is_call(frame: FrameType) -> bool:
    return frame.f_code.co_name in ("_call_impl", "_wrapped_call_impl", "__call__")
