"""The interface of a repair: takes a pruned network, its original and images, and returns a repaired network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from infoprune.data.batches import Batches, examples_of, images_of
from infoprune.network import surgery
from infoprune.network.coupled_groups import Groups, find_groups
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
        plan: The kept filters.
        groups: What ``find_groups`` returned for the original.
        removal: The removed channels, by layer and side, in the numbering of the original.
        batches: Images, with or without labels, iterable more than once. Labels are not read.
        options: Options of the repair; each repair reads those it has.
        resume: A long repair saves its state beside this file, so that it can be resumed.

    Example:
        >>> import torch, infoprune
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> pair = Pair.of(whole, plan, [images])
        >>> pair.kept("features.0", "out", 16) == list(plan.kept["features.0"])
        True
    """

    original: nn.Module
    small: nn.Module
    plan: Plan
    groups: Groups
    removal: Removal
    batches: Batches
    options: RepairOptions = field(default_factory=lambda: RepairOptions("bn"))
    resume: Path | None = None

    @classmethod
    def of(
        cls,
        original: nn.Module,
        plan: Plan,
        batches: Batches,
        *,
        small: nn.Module | None = None,
        groups: Groups | None = None,
        options: RepairOptions | None = None,
        resume: Path | None = None,
    ) -> Pair:
        """Return the pair of a plan; the pruned network and the coupled groups are made where they are not passed.

        Args:
            original: The whole network, in eval mode.
            plan: The kept filters.
            batches: Images, iterable more than once.
            small: The pruned network, in eval mode.
            groups: What ``find_groups`` returned for the original.
            options: As in the class.
            resume: As in the class.

        Raises:
            InputError: The plan is for another network, or the images do not fit.

        Example:
            >>> import torch, infoprune
            >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
            >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
            >>> len(Pair.of(whole, plan, [images]).small.features[0].weight) == len(plan.kept["features.0"])
            True
        """
        if groups is None:
            groups = find_groups(original, examples_of(batches, original))
        if small is None:
            small = surgery.apply(plan, original, examples_of(batches, original), groups=groups, check=False)
        removal = surgery.removal_of(plan, groups, original)
        return cls(original, small, plan, groups, removal, batches, options or RepairOptions("bn"), resume)

    def images(self) -> Iterator[Tensor]:
        """Yield the images of every batch, on the device and in the precision of the networks."""
        return images_of(self.batches, self.small)

    def kept(self, layer: str, side: Side, width: int) -> list[int]:
        """Return which of the ``width`` channels of the original on one side of a layer are kept."""
        gone = set(self.removal.get((layer, side), ()))
        return [channel for channel in range(width) if channel not in gone]


Repair = Callable[[Pair, Progress], nn.Module]


@dataclass(frozen=True)
class RepairInfo:
    """Declaration of a repair.

    Args:
        name: The name that selects it.
        function: Returns a repaired copy of ``pair.small``.
        description: One line.
        paper: Where it was published, empty where it is common knowledge or this project's own.
        reads: The options of ``RepairOptions`` that it reads, beside its images.

    Example:
        >>> RepairInfo("none", lambda pair, progress: pair.small, "returns the network unchanged").paper
        ''
    """

    name: str
    function: Repair
    description: str
    paper: str = ""
    reads: tuple[str, ...] = ()


_REGISTRY: dict[str, RepairInfo] = {}


def register(info: RepairInfo) -> RepairInfo:
    """Make a repair selectable by name.

    Raises:
        InputError: The name is taken.

    Example:
        >>> info = register(RepairInfo("none", lambda pair, progress: pair.small, "returns the network unchanged"))
        >>> find("none") is info
        True
        >>> del _REGISTRY["none"]
    """
    return enter(_REGISTRY, "repair", info)


def find(name: str) -> RepairInfo:
    """Return the declaration of a repair by its name.

    Raises:
        InputError: There is no such repair.

    Example:
        >>> import infoprune.repair
        >>> find("merge").paper
        'arXiv 2010.13160'
    """
    return look_up(_REGISTRY, "repair", name)


def all_repairs() -> tuple[RepairInfo, ...]:
    """Return every registered repair, by name.

    Example:
        >>> import infoprune.repair
        >>> [info.name for info in all_repairs()][:3]
        ['all', 'alternating', 'bn']
    """
    return in_order(_REGISTRY)
