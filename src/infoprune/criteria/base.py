"""What a criterion is: one that sees feature maps and never a network, or one that sees the network.

A criterion of maps is a class with ``update``, ``merge`` and ``compute``, one instance per coupled group. A criterion
of networks is one function, ``score_network``, for what depends on how layers follow one another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from infoprune.declarations.option_values import check_keywords
from infoprune.entropy.ties import default_bound, ranking, snapped
from infoprune.errors import InputError
from infoprune.network.taps import Tap as Tap
from infoprune.registry import enter, in_order, look_up


@dataclass(frozen=True)
class Importance:
    """The answer of a criterion for one coupled group of C filters.

    Args:
        scores: ``(C,)`` float64; the larger, the better the reason to keep the filter. Finite. Where no order is
            passed, scores within their rounding of one another become equal, see :mod:`infoprune.entropy.ties`.
        order: All filters, most important first; by default the scores descending, ties by index.
        curve: Value of keeping the first 1, 2, ..., C filters of ``order`` (for CMI: bits left), where there is one.
        evidence: Tensors that show why, such as a ``(C, C)`` similarity matrix, by name.
        comparable: Whether scores compare between groups as they are, so that a budget need not take them relative to
            the mean of their group.
        rounding: What each score may be out by, in the unit of the scores, ``(C,)``; by default the rounding of a
            float64 sum of 65,536 terms, as a share of the score.

    Example:
        >>> Importance(torch.tensor([0.1, 0.5, 0.3])).order
        (1, 2, 0)
    """

    scores: Tensor
    order: tuple[int, ...] = ()
    curve: tuple[float, ...] | None = None
    evidence: Mapping[str, Tensor] = field(default_factory=dict)
    comparable: bool = False
    rounding: Tensor | None = None

    def __post_init__(self) -> None:
        if not torch.isfinite(self.scores).all():
            raise InputError("the criterion gave importances that are not finite: the feature maps may hold NaN")
        if not self.order:
            object.__setattr__(self, "order", tuple(ranking(self.scores, self.rounding)))
            object.__setattr__(self, "scores", snapped(self.scores, self.rounding))

    @property
    def out_by(self) -> Tensor:
        """What each score may be out by, ``(C,)`` float64 on the CPU."""
        return default_bound(self.scores) if self.rounding is None else self.rounding.detach().cpu().double()


@dataclass(frozen=True)
class Filters:
    """The weights of one coupled group of C filters, as a criterion may read them.

    Args:
        weights: One ``(C, ...)`` tensor per convolution or linear layer of the group.
        scales: One ``(C,)`` tensor per batch norm of the group (its gamma); empty where there is none.
        name: The layer that names the group, for messages and for seeds.
        shapes: Of one filter of each layer, inputs first, such as ``(16, 3, 3)``, to which a row of its weights can be
            reshaped; where none are given, the rows have their shapes.

    Example:
        >>> Filters((torch.rand(4, 3, 3, 3),), (torch.ones(4),), name="conv1").name
        'conv1'
    """

    weights: tuple[Tensor, ...]
    scales: tuple[Tensor, ...] = ()
    name: str = ""
    shapes: tuple[tuple[int, ...], ...] = ()


class Criterion(Protocol):
    """Scores the filters of one coupled group from a stream of batches; any split into batches scores alike.

    One that has seen enough says so by an attribute ``settled``: no more images are read once all have.

    Example:
        >>> instance = create(find("variance"), Filters((torch.rand(2, 1, 3, 3),)))
        >>> instance.update(torch.rand(8, 2, 4, 4), torch.zeros(8).long())
        >>> instance.compute().scores.shape
        torch.Size([2])
    """

    def update(self, maps: Tensor, labels: Tensor) -> None:
        """Take in one batch.

        Args:
            maps: ``(n, C, H, W)`` feature maps; the maps of a group of several layers are laid side by side along
                the last axis, ``(n, C, 1, D)``. They are the criterion's to keep: nobody changes them later.
            labels: ``(n,)`` class indices; -1 where the images have no labels and the criterion needs none.
        """

    def merge(self, other: Any) -> None:
        """Take in what another instance of this criterion has seen, as from another process."""

    def compute(self) -> Importance:
        """Return the importance of every filter over all that was taken in."""


Factory = Callable[..., Criterion]
HeldBytes = Callable[[int, int, int, Mapping[str, Any]], int]
NetworkScoring = Callable[..., dict[str, Importance]]


@dataclass(frozen=True)
class CriterionInfo:
    """What is declared of a criterion, of one kind or the other: exactly one of factory and score_network is given.

    Args:
        name: The word that selects it.
        factory: Of a criterion that sees maps: ``factory(filters, seed=..., **options)`` makes one instance for one
            coupled group; its options are its keyword-only arguments. ``None`` for one that sees the network.
        description: One line.
        paper: Where it was published, empty for the usual baselines.
        tap: Where the feature maps are read, unless the user says otherwise.
        needs_maps: Whether images are read at all.
        needs_labels: Whether the labels matter.
        holds_maps: Whether it keeps the feature maps until ``compute``, so that layers are taken one at a time.
        by_layer: Whether the layers of a coupled group are scored one by one, each by an instance of its own that sees
            ``(n, C, H, W)`` maps, and the scores joined; for criteria that look at maps as pictures.
        held_images: Of how many images a criterion that keeps maps has them at once, at most; ``None`` for all.
        held_bytes: What such a criterion keeps of one image, in bytes, from the number of filters, the values of one
            map, the bytes of a value and its options by name; ``None`` for the maps as they are.
        images: How many images it receives at most, unless the user says otherwise; ``None`` for all there are.
        cost: How its time grows, in words.
        score_network: Of a criterion that sees the network: ``score_network(model, groups, batches, options,
            progress)`` returns the importance by group. Without ``needs_maps`` there may be no batches.

    Example:
        >>> find("variance").kind, find("variance").needs_labels
        ('maps', False)
    """

    name: str
    factory: Factory | None
    description: str
    paper: str = ""
    tap: Tap = "activation"
    needs_maps: bool = True
    needs_labels: bool = False
    holds_maps: bool = False
    by_layer: bool = False
    held_images: int | None = None
    held_bytes: HeldBytes | None = None
    images: int | None = None
    cost: str = ""
    score_network: NetworkScoring | None = None

    def __post_init__(self) -> None:
        if (self.factory is None) == (self.score_network is None):
            raise InputError(
                f"the criterion '{self.name}' either sees maps or sees the network: declare a factory or score_network"
            )

    @property
    def kind(self) -> Literal["maps", "network"]:
        """What the criterion sees."""
        return "maps" if self.score_network is None else "network"


_REGISTRY: dict[str, CriterionInfo] = {}


def register(info: CriterionInfo) -> CriterionInfo:
    """Make a criterion selectable by name.

    Raises:
        InputError: The name is taken.

    Example:
        >>> info = CriterionInfo("first-filters", lambda filters, seed=0: None, "keeps the first filters")
        >>> register(info).name
        'first-filters'
        >>> del _REGISTRY["first-filters"]
    """
    return enter(_REGISTRY, "criterion", info)


def find(name: str) -> CriterionInfo:
    """Return what is declared of the criterion of that name.

    Raises:
        InputError: There is none.

    Example:
        >>> find("l1").name
        'l1'
        >>> find("l3")
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: unknown criterion 'l3'
    """
    return look_up(_REGISTRY, "criterion", name)


def create(
    info: CriterionInfo, filters: Filters, *, seed: int = 0, options: Mapping[str, Any] | None = None
) -> Criterion:
    """Make one instance of a criterion for one coupled group.

    Args:
        info: Which criterion.
        filters: The group's weights.
        seed: For what is random.
        options: Options of the criterion, by name.

    Raises:
        InputError: The criterion has no such option, a value is of a wrong type, it cannot score such a group, or it
            sees whole networks only.

    Example:
        >>> create(find("l1"), Filters((torch.tensor([[1.0, -2.0], [0.5, 0.0]]),))).compute().scores.tolist()
        [3.0, 0.5]
    """
    if info.factory is None:
        raise InputError(f"the criterion '{info.name}' sees the whole network: score it by infoprune.prune or plan")
    options = options or {}
    check_keywords(info.factory, options, f"the criterion '{info.name}'", but=("seed",))
    return info.factory(filters, seed=seed, **options)


def all_criteria() -> tuple[CriterionInfo, ...]:
    """Return every registered criterion, by name.

    Example:
        >>> {"cmi", "hrel", "l1"} <= {info.name for info in all_criteria()}
        True
    """
    return in_order(_REGISTRY)
