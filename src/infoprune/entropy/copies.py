"""Which maps are bit for bit the same: found exactly, so that copies are scored once and tie by construction."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import torch
from torch import Tensor

# Values of each map that separate most maps before any two are compared completely.
_SAMPLED = 256
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def copies(maps: Tensor, known: Tensor | None = None) -> Tensor:
    """Return for each map the lowest index of those that are the same.

    Zeros of either sign are the same: which of them a ReLU returns depends on the processor. Nothing is the same as a
    map that holds NaN.

    Args:
        maps: ``(C, n, d)``.
        known: ``(C,)`` numbers; only maps of one number can be copies. By default all can.

    Returns:
        ``(C,)`` int64 on the CPU; an index of its own for a map that is like none before it.

    Example:
        >>> copies(torch.tensor([[[1.0]], [[2.0]], [[1.0]]])).tolist()
        [0, 1, 0]
    """
    maps = maps.detach()
    leaders = torch.arange(len(maps))
    known_of = [0] * len(maps) if known is None else known.tolist()
    for alike in _classes(zip(known_of, _samples(maps), strict=True), range(len(maps))):
        some = maps[torch.tensor(alike, device=maps.device)].flatten(1) + 0.0
        for same in _classes(_sums_of_bits(some), range(len(alike))):
            for members in _compared(some, same):
                leaders[[alike[i] for i in members]] = alike[members[0]]
    return leaders


def distinct(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of the maps that are no copies of an earlier one, and for each map the place of its first.

    Args:
        maps: ``(C, n, d)``.

    Returns:
        ``(D,)`` and ``(C,)`` int64 on the device of the maps: what is computed of the D maps, taken at the places, is
        that of all C.

    Example:
        >>> first, places = distinct(torch.tensor([[[1.0]], [[2.0]], [[1.0]]]))
        >>> first.tolist(), places.tolist()
        ([0, 1], [0, 1, 0])
    """
    leaders = copies(maps)
    own = leaders == torch.arange(len(leaders))
    return own.nonzero().flatten().to(maps.device), (own.cumsum(0) - 1)[leaders].to(maps.device)


class Copies:
    """Finds copies among maps that arrive batch by batch, without keeping the maps.

    Maps that differ in one batch are no copies, so that only those that were the same so far are compared.

    Example:
        >>> found = Copies()
        >>> found.update(torch.ones(3, 5, 1))
        >>> found.update(torch.tensor([[[1.0]], [[2.0]], [[1.0]]]))
        >>> found.leaders.tolist()
        [0, 1, 0]
    """

    def __init__(self) -> None:
        self.leaders = torch.zeros(0, dtype=torch.int64)

    def update(self, maps: Tensor) -> None:
        """Take in ``(C, n, d)`` maps of n further samples."""
        if not len(self.leaders):
            self.leaders = copies(maps)
            return
        sizes = torch.bincount(self.leaders, minlength=len(self.leaders))
        shared = (sizes[self.leaders] > 1).nonzero().flatten()
        if len(shared):
            found = copies(maps[shared.to(maps.device)], self.leaders[shared])
            self.leaders[shared] = shared[found]

    def merge(self, other: Copies) -> None:
        """Take in what another instance has seen of the same maps, on other samples."""
        if not len(self.leaders) or not len(other.leaders):
            self.leaders = self.leaders if len(self.leaders) else other.leaders
            return
        both = torch.stack([self.leaders, other.leaders], dim=1)[..., None]
        self.leaders = copies(both)


def _samples(maps: Tensor) -> list[bytes]:
    """Some values of each map, as bytes: maps whose samples differ are no copies."""
    _, n, d = maps.shape
    places = torch.arange(min(_SAMPLED, n * d), device=maps.device)
    rows, columns = places * n // len(places), (places * 7919) % d
    found = (maps[:, rows, columns] + 0.0).contiguous().cpu()
    return [row.tobytes() for row in found.view(_BITS[found.element_size()]).numpy()]


def _sums_of_bits(rows: Tensor) -> list[int]:
    # A sum of whole numbers is the same in any order, on any processor.
    sums: list[int] = rows.view(_BITS[rows.element_size()]).sum(dim=1, dtype=torch.int64).tolist()
    return sums


def _classes(keys: Iterable[Hashable], members: Iterable[int]) -> list[list[int]]:
    """The members of equal keys, where there are several."""
    found: dict[Hashable, list[int]] = {}
    for key, member in zip(keys, members, strict=True):
        found.setdefault(key, []).append(member)
    return [some for some in found.values() if len(some) > 1]


def _compared(rows: Tensor, candidates: list[int]) -> list[list[int]]:
    """The classes of rows that are the same, value by value."""
    classes = []
    while candidates:
        first, others = candidates[0], torch.tensor(candidates[1:], dtype=torch.int64)
        same = (rows[others.to(rows.device)] == rows[first]).all(dim=1).tolist()
        classes.append([first, *(i for i, one in zip(others.tolist(), same, strict=True) if one)])
        candidates = [i for i, one in zip(others.tolist(), same, strict=True) if not one]
    return classes
