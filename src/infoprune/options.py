"""What is removed and by what rule, as values: the words of the command line and of ``infoprune.prune``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from torch import Tensor

from infoprune.criteria.base import Tap
from infoprune.cutoff import Limits, check_rule
from infoprune.errors import InputError, unknown
from infoprune.plan import Budget
from infoprune.repair import find as find_repair

Keep = Mapping[str, int | Sequence[int]]
Conditioning: TypeAlias = Literal["none", "compact", "full", "all"]
Direction: TypeAlias = Literal["forward", "backward", "both"]


@dataclass(frozen=True)
class LayerwiseOptions:
    """How layers are taken and cut one after the other.

    Args:
        cutoff: Name of a rule that proposes where each layer's curve is cut, one of ``infoprune.all_rules()``.
        cutoff_options: Options of the rule.
        conditioning: What the maps of a layer are given, with the criterion ``cmi``: ``"none"``; ``"compact"``, the
            kept maps of the neighbour in the data flow that was cut last; ``"full"``, those of all layers cut before
            in this branch; ``"all"``, those of all layers cut before.
        direction: ``"forward"``, ``"backward"``, or ``"both"``: every layer alone first, then from the one that would
            lose the largest share to the last and to the first.
        tolerance: Points of accuracy on held-out images that the whole network may lose; after i of L layers i/L of
            it. A whole layer is always a candidate. By default the best candidate of the rule is taken.
        parallel: Whether the two branches of ``"both"`` run in a process each.
        repair_between_layers: The iterative form: a repair given to the network after each layer, before the
            next one is read.
        candidate_repair: A repair given to each candidate, and to the network that losses are counted from, before its
            accuracy is measured.
        candidate_bf16: Whether candidates are measured in bfloat16, which is quicker.
    """

    cutoff: str | None = None
    cutoff_options: Mapping[str, Any] = field(default_factory=dict)
    conditioning: Conditioning = "none"
    direction: Direction = "forward"
    tolerance: float | None = None
    parallel: bool = False
    repair_between_layers: str | None = None
    candidate_repair: str | None = None
    candidate_bf16: bool = False

    def __post_init__(self) -> None:
        if self.conditioning not in get_args(Conditioning):
            raise unknown("conditioning", self.conditioning, get_args(Conditioning))
        if self.direction not in get_args(Direction):
            raise unknown("direction", self.direction, get_args(Direction))
        if self.tolerance is not None and not self.tolerance >= 0:
            raise InputError(
                f"the tolerance is the points of accuracy that may be lost, 0 or more, not {self.tolerance}"
            )
        if self.parallel and (self.direction != "both" or self.conditioning == "all"):
            raise InputError("two processes take the two branches of direction 'both', with any conditioning but 'all'")
        if self.repair_between_layers is not None and self.direction == "both":
            raise InputError(
                "the iterative form goes forward or backward: with 'both' the branches start from one network"
            )
        if self.cutoff is not None:
            check_rule(self.cutoff, self.cutoff_options)
        for repair in (self.repair_between_layers, self.candidate_repair):
            if repair is not None:
                find_repair(repair)

    @property
    def is_asked_for(self) -> bool:
        """Whether the cut of one layer must be known before the next is ordered."""
        return self.cutoff is not None or self.conditioning != "none" or self.repair_between_layers is not None

    def said(self) -> dict[str, Any]:
        """Return the words that are not as by default."""
        return {name: value for name, value in asdict(self).items() if value != getattr(AT_ONCE, name)}


AT_ONCE = LayerwiseOptions()


@dataclass(frozen=True)
class PruneOptions:
    """What is removed, and by what rule.

    Args:
        criterion: Name of a criterion, or ``package.module:function``.
        ratio: Share of the filters removed from every layer, below 1.
        keep: By layer or pattern, how many filters are kept or which; layers not named are left alone. Any layer of
            a coupled group stands for it, in its own numbering.
        budget: What may remain of the whole network.
        threshold: Filters that score below it go from every layer, in the criterion's own unit. Exactly one of
            ``ratio``, ``keep``, ``budget``, ``threshold`` and a cut-off rule is given.
        layerwise: How layers are cut one after the other, where they are not all cut at once.
        layers: Patterns of layer names that may lose filters, one or several; by default every convolution, and every
            linear layer that runs at each position of a map.
        skip: Patterns of layer names that may not.
        tap: Where the feature maps are read; by default where the criterion's paper reads them.
        multiple: Kept counts are multiples of this: a layer of 52 filters keeps 48 or fewer with 8. Layers that are not
            wider are left alone.
        keep_at_least: Filters that stay in every layer.
        keep_share: Share of the filters that stays in every layer, 0 to 1, whatever a ranking over all layers says.
        seed: Seeds whatever is random.
        options: Further options of the criterion.
        budget_by: Criterion that says how many filters of each layer a budget takes, by what is lost for what is saved;
            by default ``criterion`` does, by one ranking relative to the layers' means.
        reselect: Whether the filters that stay are chosen anew, as many of them, front to back in the network that is
            left, see :func:`infoprune.reselect`.
    """

    criterion: str = "cmi"
    ratio: float | None = None
    keep: Keep | None = None
    budget: Budget | None = None
    threshold: float | None = None
    layerwise: LayerwiseOptions = AT_ONCE
    layers: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    tap: Tap | None = None
    multiple: int = 1
    keep_at_least: int = 1
    keep_share: float = 0.0
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    budget_by: str | None = None
    reselect: bool = False

    def __post_init__(self) -> None:
        ways = {"ratio": self.ratio, "keep": self.keep, "budget": self.budget, "threshold": self.threshold}
        given = [name for name, value in (ways | {"cutoff": self.layerwise.cutoff}).items() if value is not None]
        if len(given) != 1:
            raise InputError(
                "say how much goes by one of a ratio, explicit counts, a budget, a cut-off or a threshold, "
                f"not by {' and '.join(given) or 'nothing'}"
            )
        if self.budget_by is not None and self.budget is None:
            raise InputError("budget_by shares a budget out between the layers: give a budget with it")
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise InputError(f"the ratio is the share of the filters to remove, from 0 to below 1, not {self.ratio}")
        for name in ("layers", "skip"):
            given_names = getattr(self, name)
            object.__setattr__(self, name, (given_names,) if isinstance(given_names, str) else tuple(given_names))
        if self.keep is not None:
            object.__setattr__(self, "keep", {layer: _whole(some) for layer, some in self.keep.items()})
        self.limits()  # refuses what cannot be
        if self.layerwise.is_asked_for:
            self._check_layer_by_layer()
        elif said := next(iter(self.layerwise.said()), None):
            raise InputError(f"{said} is for layers that are cut one after the other: choose a cut-off with it")

    def _check_layer_by_layer(self) -> None:
        way = "budget" if self.budget is not None else "threshold" if self.threshold is not None else None
        if way is not None:
            rest = "leave out the conditioning and the iterative form with it"
            raise InputError(f"a {way} cuts all layers at once: {rest}")
        if self.keep is not None and not all(isinstance(count, int) for count in self.keep.values()):
            raise InputError("filters that are listed need no order: give counts, or leave out the conditioning")
        if self.layerwise.conditioning != "none" and self.criterion != "cmi":
            raise InputError(
                f"only the criterion 'cmi' can be conditioned on other layers, not '{self.criterion}': leave out the "
                "conditioning"
            )
        if self.reselect:
            raise InputError(
                "filters are chosen anew where all layers are cut at once: leave out reselect, or the rest"
            )

    def words(self) -> dict[str, Any]:
        """Return the choice as keyword arguments of ``prune`` and ``plan``."""
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "layerwise"}
        return own | {one.name: getattr(self.layerwise, one.name) for one in fields(self.layerwise)}

    def settings(self) -> dict[str, Any]:
        """Return the words that say something, as JSON values."""
        own = asdict(self)
        layerwise = own.pop("layerwise")
        if self.budget is not None:
            own["budget"] = self.budget.shares()
        for name in ("reselect", "keep_share"):
            if not own[name]:
                del own[name]
        told = own | layerwise if self.layerwise.is_asked_for else own
        return {name: value for name, value in told.items() if value not in (None, (), {})}

    def limits(self) -> Limits:
        """Return how far a layer may be cut."""
        return Limits(self.keep_at_least, self.keep_share, self.multiple)


def _whole(some: Any) -> Any:
    """Return counts and lists of NumPy or PyTorch as Python's own; anything else is for the cut-off to refuse."""
    if isinstance(some, bool | str):
        return some
    if isinstance(some, Tensor | np.ndarray):
        return some.tolist()
    if isinstance(some, list | tuple):
        return [_whole(one) for one in some]
    return int(some) if isinstance(some, Integral) else some


def chosen(**words: Any) -> PruneOptions:
    """Return the choice that these words make, those of ``LayerwiseOptions`` among them.

    Raises:
        InputError: A word is unknown, or a value is out of range.
    """
    of_layers = [one.name for one in fields(LayerwiseOptions)]
    own = [one.name for one in fields(PruneOptions) if one.name != "layerwise"]
    for word in words:
        if word not in (*own, *of_layers):
            raise unknown("option of pruning", word, (*own, *of_layers))
    layerwise = LayerwiseOptions(**{word: value for word, value in words.items() if word in of_layers})
    return PruneOptions(**{word: value for word, value in words.items() if word in own}, layerwise=layerwise)
