"""What a repair is: a pruned network, the one it was cut from and images in; a better pruned network out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from infoprune.data.batches import Batches, images_of
from infoprune.network.coupled_groups import Groups
from infoprune.network.layers import Side
from infoprune.network.removal import Removal
from infoprune.options import RepairOptions
from infoprune.plan import Plan
from infoprune.progress import Progress
from infoprune.registry import enter, in_order, look_up


@dataclass(frozen=True)
class Pair:
    """A pruned network and the one it was cut from.

    Args:
        original: The whole network, in eval mode.
        small: The pruned network, in eval mode. A repair changes a copy of it.
        plan: What stayed.
        groups: What ``find_groups`` said of the original.
        removal: What went, by layer and side, in the numbering of the original.
        batches: Images, with or without labels, iterable more than once. Labels are not read.
        options: How it is repaired; a repair reads from them what concerns it.
        resume: Beside this file a long repair keeps its state, so that it can go on after an interruption.
    """

    original: nn.Module
    small: nn.Module
    plan: Plan
    groups: Groups
    removal: Removal
    batches: Batches
    options: RepairOptions = field(default_factory=lambda: RepairOptions("bn"))
    resume: Path | None = None

    def images(self) -> Iterator[Tensor]:
        """Yield the images of every batch, where the networks are and in their precision."""
        return images_of(self.batches, self.small)

    def kept(self, layer: str, side: Side, width: int) -> list[int]:
        """Return which channels of the original are still there, of so many along one side of a layer."""
        gone = set(self.removal.get((layer, side), ()))
        return [channel for channel in range(width) if channel not in gone]


Repair = Callable[[Pair, Progress], nn.Module]


@dataclass(frozen=True)
class RepairInfo:
    """What is declared of a repair.

    Args:
        name: The word that selects it.
        function: Returns a repaired copy of ``pair.small``.
        description: One line.
        paper: Where it was published, empty where it is common knowledge or this project's own.
    """

    name: str
    function: Repair
    description: str
    paper: str = ""


_REGISTRY: dict[str, RepairInfo] = {}


def register(info: RepairInfo) -> RepairInfo:
    """Make a repair selectable by name.

    Raises:
        InputError: The name is taken.
    """
    return enter(_REGISTRY, "repair", info)


def find(name: str) -> RepairInfo:
    """Return what is declared of the repair of that name.

    Raises:
        InputError: There is none.
    """
    return look_up(_REGISTRY, "repair", name)


def all_repairs() -> tuple[RepairInfo, ...]:
    """Return every registered repair, by name."""
    return in_order(_REGISTRY)
