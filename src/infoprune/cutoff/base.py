"""The inputs of a cut-off rule: groups of filters, limits, and the cost of kept filters. It never sees a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from infoprune.criteria.base import Importance
from infoprune.errors import InputError

Kept = Mapping[str, Sequence[int]]
Units = tuple[tuple[int, ...], ...]


class Group(Protocol):
    """A coupled group, as far as a rule needs it; see :class:`infoprune.network.coupled_groups.CoupledGroup`.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = infoprune.zoo.build("digits").eval()
        >>> group: Group = find_groups(net, torch.rand(2, 1, 8, 8)).groups[0]
        >>> group.name, group.filters
        ('features.0', 16)
    """

    @property
    def name(self) -> str:
        """Layer that names the group."""

    @property
    def filters(self) -> int:
        """Number of filters."""

    @property
    def units(self) -> Units:
        """The smallest sets of filters that can be removed."""

    @property
    def parts(self) -> Units:
        """Sets of filters of which at least one is kept."""


class Cost(Protocol):
    """What a network costs.

    Example:
        >>> import torch
        >>> from infoprune.network import cost
        >>> found: Cost = cost.count(torch.nn.Conv2d(1, 2, 3), torch.rand(1, 1, 5, 5))
        >>> found.macs, found.parameters
        (162, 20)
    """

    @property
    def macs(self) -> float:
        """Multiply-adds of one image."""

    @property
    def parameters(self) -> float:
        """Number of parameters."""


class CostModel(Protocol):
    """The cost of a network of which only some filters are kept, without building it.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.network import cost
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net, images = infoprune.zoo.build("digits").eval(), torch.rand(2, 1, 8, 8)
        >>> model: CostModel = cost.CostModel(net, images, find_groups(net, images))
        >>> model.cost({"features.0": (0, 1)}).macs < model.base.macs
        True
    """

    @property
    def base(self) -> Cost:
        """Cost of the whole network."""

    def cost(self, kept: Kept) -> Cost:
        """Return the cost with these filters kept, by group; groups not named are whole."""


@dataclass(frozen=True)
class Cut:
    """The kept filters of one coupled group.

    Args:
        kept: Filter indices, ascending.
        reason: One sentence on how the cut was found.

    Example:
        >>> Cut((0, 2), "2 of 4 filters are kept").kept
        (0, 2)
    """

    kept: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Limits:
    """How far a layer may be cut.

    Args:
        keep_at_least: Filters that are kept in every layer.
        keep_share: Share of the filters that is kept in every layer, in [0, 1].
        multiple: Kept counts are multiples of this: a layer of 52 filters keeps 48 or fewer. Layers that are not wider
            than this are left alone.

    Example:
        >>> Limits(keep_at_least=2, keep_share=0.5).least(8)
        4
    """

    keep_at_least: int = 1
    keep_share: float = 0.0
    multiple: int = 1

    def __post_init__(self) -> None:
        if self.keep_at_least < 1:
            raise InputError(f"at least one filter stays in every layer: keep_at_least cannot be {self.keep_at_least}")
        if not 0 <= self.keep_share <= 1:
            raise InputError(f"the share of the filters that stays is between 0 and 1, not {self.keep_share}")
        if self.multiple < 1:
            raise InputError(f"kept counts are multiples of a whole number from 1 up, not of {self.multiple}")

    def least(self, filters: int) -> int:
        """Return the smallest number of filters that is kept in a layer of ``filters`` filters."""
        return max(self.keep_at_least, math.ceil(self.keep_share * filters - 1e-9))


NO_LIMITS = Limits()


def importance_of(group: Group, importances: Mapping[str, Importance]) -> Importance:
    """Return the importance of a group's filters.

    Raises:
        InputError: There is none, or it is of another number of filters.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = infoprune.zoo.build("digits").eval()
        >>> group = find_groups(net, torch.rand(2, 1, 8, 8)).groups[0]
        >>> importance_of(group, {"features.0": Importance(torch.rand(16))}).scores.shape
        torch.Size([16])
    """
    importance = importances.get(group.name)
    if importance is None:
        raise InputError(f"layer '{group.name}' has no importances: score it first, or leave it out")
    if len(importance.scores) != group.filters:
        raise InputError(
            f"layer '{group.name}' has {group.filters} filters, but importances for {len(importance.scores)}"
        )
    return importance


def percent(share: float) -> str:
    """Return a share as people read it.

    Example:
        >>> percent(0.25)
        '25 %'
    """
    return f"{100 * share:.4g} %"
