"""What a repair is: a pruned network, the one it was cut from and images in; a better pruned network out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infoprune.device import device_of
from infoprune.errors import InputError
from infoprune.network.coupled_groups import Groups
from infoprune.network.layers import Side
from infoprune.network.removal import Removal
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
        minutes: How long the repair may take, ``None`` for as long as it needs. Only those by gradient can stop early.
        resume: Beside this file a long repair keeps its state, so that it can go on after an interruption.
    """

    original: nn.Module
    small: nn.Module
    plan: Plan
    groups: Groups
    removal: Removal
    batches: Iterable[Any]
    minutes: float | None = None
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


def images_of(batches: Iterable[Any], model: nn.Module) -> Iterator[Tensor]:
    """Yield the images of batches that are images alone or images with something beside them.

    Raises:
        InputError: A batch is something else, or there are none.
    """
    device = device_of(model)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    found = False
    for batch in batches:
        images = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        if not isinstance(images, Tensor) or images.ndim < 2 or not len(images):
            raise InputError("each batch must be a tensor of images, or a pair of images and labels")
        found = True
        yield images.to(device, dtype)
    if not found:
        raise InputError("there are no images to repair with: the loader is empty")


def batches_in(batches: Iterable[Any]) -> int:
    """Return the number of batches, 0 where only reading them would tell."""
    return len(batches) if isinstance(batches, Sized) else 0
