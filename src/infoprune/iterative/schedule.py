"""Pruning in rounds, as values: what goes each round, how the network is retrained in between, when it ends."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from infoprune.criteria.base import Tap
from infoprune.errors import InputError, unknown
from infoprune.training.penalties import check_penalty
from infoprune.training.recipe import Recipe

_PACE = re.compile(r"(?:(?P<share>\d+(?:\.\d+)?)%)?(?:\+?(?P<plus>\d+))?")


@dataclass(frozen=True)
class Pace:
    """How many filters of a layer go in one round: int(share * n) + plus, at least one, n the number still there.

    Args:
        share: Of the filters that are still there, from 0 to below 1.
        plus: Filters besides.
    """

    share: float = 0.0
    plus: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1 or self.plus < 0 or not (self.share or self.plus):
            raise InputError(f"a round takes a share from 0 to below 1, and more than nothing: not {self}")

    def __str__(self) -> str:
        share = f"{100 * self.share:.10g}%" if self.share else ""
        plus = f"{'+' if self.share else ''}{self.plus}" if self.plus else ""
        return share + plus

    def filters(self, left: int) -> int:
        """Return how many of the ``left`` filters go, if the layer's limit allows it."""
        # A share such as 0.07 of 100 must not fall below 7 by rounding.
        return max(1, int(self.share * left + 1e-9) + self.plus)

    @classmethod
    def parse(cls, text: str) -> Pace:
        """Read ``"2"`` (two filters), ``"5%"`` (a share of those left) or ``"5%+1"`` (the papers' int(p n) + 1).

        Raises:
            InputError: The text is none of these.
        """
        found = _PACE.fullmatch(text.replace(" ", ""))
        if found is None or not any(found.groups()):
            raise InputError(f"how many filters go in a round is said as '2', '5%' or '5%+1', not '{text}'")
        return cls(round(float(found["share"] or 0) / 100, 12), int(found["plus"] or 0))


@dataclass(frozen=True)
class LayerPace:
    """What goes of the layers whose names fit a pattern.

    Args:
        layers: Pattern of layer names; a coupled group fits when any of its layers does.
        pace: How many filters go in a round.
        limit: Filters that stay in the end: a count, or a share (below 1) of those of the first network.
    """

    layers: str
    pace: Pace
    limit: int | float = 1

    def __post_init__(self) -> None:
        if isinstance(self.limit, float) and not 0 < self.limit < 1:
            raise InputError(f"a limit is a count from 1 up, or a share above 0 and below 1, not {self.limit}")
        if isinstance(self.limit, int) and self.limit < 1:
            raise InputError(f"at least one filter stays in '{self.layers}': a limit of {self.limit} cannot be")

    def fits(self, layers: tuple[str, ...]) -> bool:
        """Return whether a coupled group of these layers is meant."""
        return any(fnmatchcase(layer, self.layers) for layer in layers)

    def least(self, filters: int) -> int:
        """Return how many of a layer's filters stay in the end, of so many at first."""
        return min(filters, self.limit) if isinstance(self.limit, int) else max(1, round(self.limit * filters))

    def left(self, filters: int, first: int) -> int:
        """Return how many of ``filters`` stay after one more round, of ``first`` at the very first."""
        return min(filters, max(self.least(first), filters - self.pace.filters(filters)))


@dataclass(frozen=True)
class PruningSchedule:
    """Everything that decides a pruning in rounds, but the network and the images.

    Args:
        layers: What goes a round; of several that fit a layer, the first counts. Layers that none fits stay whole.
        retraining: How the network is trained after every cut.
        initial: How it is trained before the first cut; ``None`` for a network that is trained already.
        last: How it is trained after the last cut, in place of ``retraining``.
        repair: A repair given to every cut network before it is retrained, from the images that score the filters.
        before: How the network is trained between scoring and cutting, with ``penalty`` on the filters that will be
            cut; ``None`` for not at all.
        penalty: Name of a penalty of ``infoprune.training.penalties``, added to the loss of that training.
        penalty_options: Its options.
        rounds: At most so many; by default until every layer is at its limit.
        floor: Held-out accuracy (percent) below which the last round is undone and the pruning ends.
        criterion: What scores the filters.
        tap: Where the feature maps are read; by default where the criterion says.
        options: Further options of the criterion.
        images: Training images that score the filters, the same in every round, of balanced classes.
        batch_size: Images a training batch; read by the command line.
        augmentation: Whether training images are changed at random.
        seed: Seeds what scoring draws.
    """

    layers: tuple[LayerPace, ...]
    retraining: Recipe
    initial: Recipe | None = None
    last: Recipe | None = None
    repair: str | None = None
    before: Recipe | None = None
    penalty: str | None = None
    penalty_options: Mapping[str, Any] = field(default_factory=dict)
    rounds: int | None = None
    floor: float | None = None
    criterion: str = "hrel"
    tap: Tap | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    images: int = 1000
    batch_size: int = 128
    augmentation: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rounds is not None and self.rounds < 1:
            raise InputError(f"a schedule has at least one round, not {self.rounds}")
        if self.floor is not None and not 0 <= self.floor <= 100:
            raise InputError(f"the accuracy floor is in percent, 0 to 100, not {self.floor}")
        if (self.penalty is None) != (self.before is None):
            raise InputError(
                "a penalty acts in the training before a cut: give both 'before' and 'penalty', or neither"
            )
        if self.penalty is not None:
            check_penalty(self.penalty, self.penalty_options)

    def pace_of(self, layers: tuple[str, ...]) -> LayerPace | None:
        """Return what goes of a coupled group of these layers, ``None`` where it stays whole."""
        return next((one for one in self.layers if one.fits(layers)), None)

    def recipe(self, number: int, *, is_last: bool) -> Recipe:
        """Return how the network is trained after round ``number``; every round draws anew."""
        recipe = self.last if is_last and self.last is not None else self.retraining
        return replace(recipe, seed=1009 * recipe.seed + number)

    def seeded(self, seed: int) -> PruningSchedule:
        """Return the schedule with another seed, that of all its trainings too."""
        names = ("retraining", "initial", "last", "before")
        recipes = {name: replace(one, seed=seed) for name in names if (one := getattr(self, name)) is not None}
        return replace(self, seed=seed, **recipes)

    def to_dict(self) -> dict[str, Any]:
        """Return the schedule as JSON values."""
        paces = [{"layers": one.layers, "pace": str(one.pace), "limit": one.limit} for one in self.layers]
        values = {**asdict(self), "options": dict(self.options), "layers": paces}
        # Runs that were begun before there were penalties go on.
        absent = ("before", "penalty", "penalty_options") if self.penalty is None else ()
        return {name: value for name, value in values.items() if name not in absent}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PruningSchedule:
        """Read a schedule from JSON values; what is left out is as by default.

        Raises:
            InputError: The values are not a schedule.
        """
        _check_words(values, cls, "schedule")
        try:
            paces = tuple(
                LayerPace(str(one["layers"]), Pace.parse(str(one["pace"])), one.get("limit", 1))
                for one in values["layers"]
            )
            recipes = {
                name: _recipe(values[name]) for name in ("retraining", "initial", "last", "before") if values.get(name)
            }
            return cls(**{**values, "layers": paces, **recipes})
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"this is not a schedule: {type(error).__name__} {error}") from error


def _recipe(values: Mapping[str, Any]) -> Recipe:
    _check_words(values, Recipe, "recipe")
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return Recipe(**given)


def _check_words(values: Mapping[str, Any], kind: type, what: str) -> None:
    known = [one.name for one in fields(kind)]
    for word in values:
        if word not in known:
            raise unknown(f"word of a {what}", word, known)
