"""Which filters can be removed, and what goes with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Member:
    """One side of one layer that changes with a group.

    Args:
        layer: Dotted name of the module.
        side: ``"out"`` where the layer loses outputs, ``"in"`` where it loses inputs.
        channels: For each filter of the group's naming layer, the indices along that side which go with it.
    """

    layer: str
    side: Literal["out", "in"]
    channels: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class CoupledGroup:
    """Filters of one or several layers that can only be removed together.

    Args:
        name: Dotted name of the layer whose filter indices stand for the group.
        filters: Number of filters of that layer.
        units: The smallest sets of those filters that can go; single filters except under grouped convolutions.
        members: Everything that changes, the naming layer first.
        producers: Convolution and linear layers whose filters go, the naming layer first.
        norms: Batch norms that follow the producers.
    """

    name: str
    filters: int
    units: tuple[tuple[int, ...], ...]
    members: tuple[Member, ...]
    producers: tuple[str, ...]
    norms: tuple[str, ...] = ()
