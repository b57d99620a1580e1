"""Pruning in rounds, as values: what goes each round, how the network is retrained in between, when it ends."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from infoprune.criteria.base import Tap
from infoprune.errors import InputError, unknown
from infoprune.tune import Recipe

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
        rounds: At most so many; by default until every layer is at its limit.
        floor: Held-out accuracy (percent) below which the last round is undone and the pruning ends.
        criterion: What scores the filters.
        tap: Where the feature maps are read; by default where the criterion says.
        options: Further options of the criterion.
        images: Training images that score the filters, the same in every round, of balanced classes.
        batch_size: Images a training batch; read by the command line.
        seed: Seeds what scoring draws.
    """

    layers: tuple[LayerPace, ...]
    retraining: Recipe
    initial: Recipe | None = None
    last: Recipe | None = None
    rounds: int | None = None
    floor: float | None = None
    criterion: str = "hrel"
    tap: Tap | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    images: int = 1000
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rounds is not None and self.rounds < 1:
            raise InputError(f"a schedule has at least one round, not {self.rounds}")
        if self.floor is not None and not 0 <= self.floor <= 100:
            raise InputError(f"the accuracy floor is in percent, 0 to 100, not {self.floor}")

    def pace_of(self, layers: tuple[str, ...]) -> LayerPace | None:
        """Return what goes of a coupled group of these layers, ``None`` where it stays whole."""
        return next((one for one in self.layers if one.fits(layers)), None)

    def recipe(self, number: int, *, is_last: bool) -> Recipe:
        """Return how the network is trained after round ``number``; every round draws anew."""
        recipe = self.last if is_last and self.last is not None else self.retraining
        return replace(recipe, seed=1009 * recipe.seed + number)

    def seeded(self, seed: int) -> PruningSchedule:
        """Return the schedule with another seed, that of all its trainings too."""
        initial, last = (None if one is None else replace(one, seed=seed) for one in (self.initial, self.last))
        return replace(self, seed=seed, retraining=replace(self.retraining, seed=seed), initial=initial, last=last)

    def to_dict(self) -> dict[str, Any]:
        """Return the schedule as JSON values."""
        paces = [{"layers": one.layers, "pace": str(one.pace), "limit": one.limit} for one in self.layers]
        return {**asdict(self), "options": dict(self.options), "layers": paces}

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
            recipes = {name: _recipe(values[name]) for name in ("retraining", "initial", "last") if values.get(name)}
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


# ----------------------------------------------------------------------------------------------------------------------
# HRel's own (Sarvani et al. 2022, arXiv 2202.10716): "x 0.1 at epoch 20 of 40" is a step at the share 0.5.

_PAPER = Recipe(schedule="steps", nesterov=False)
_VGG_CONVOLUTIONS = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)
_VGG_KEPT = (20, 48, 64, 64, 95, 107, 107, 175, 71, 71, 44, 44, 56)
_VGG_FILTERS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
_VGG_SHARES = (0.02,) * 2 + (0.04,) * 2 + (0.05,) * 3 + (0.1,) * 6


def _lenet5() -> PruningSchedule:
    recipe = replace(_PAPER, epochs=40, learning_rate=0.1)
    return PruningSchedule(
        layers=(LayerPace("conv1", Pace(0.04, 1), 2), LayerPace("conv2", Pace(0.12, 1), 3)),
        initial=replace(recipe, step_at=(0.5, 0.75)),
        retraining=replace(recipe, step_at=(0.25, 0.5)),
        batch_size=100,
    )


def _lenet5_short() -> PruningSchedule:
    # A single epoch at a rate of 0.05 may kill one of the last two or three filters of a layer, for good; the two that
    # are left of the first layer find their way only at a high rate.
    cycle = Recipe(weight_decay=5e-4)
    return replace(
        _lenet5(),
        initial=replace(cycle, epochs=8, learning_rate=0.05),
        retraining=replace(cycle, epochs=2, learning_rate=0.02),
        last=replace(cycle, epochs=60, learning_rate=0.1),
    )


def _vgg16() -> PruningSchedule:
    return PruningSchedule(
        layers=tuple(
            LayerPace(f"features.{place}", Pace(share, 1), kept)
            for place, share, kept in zip(_VGG_CONVOLUTIONS, _VGG_SHARES, _VGG_KEPT, strict=True)
        ),
        initial=replace(_PAPER, epochs=300, learning_rate=0.1, step_at=(80 / 300, 140 / 300, 230 / 300)),
        retraining=replace(_PAPER, epochs=90, learning_rate=0.01, step_at=(40 / 90, 70 / 90)),
        batch_size=100,
    )


def _vgg16_short() -> PruningSchedule:
    cycle = Recipe(learning_rate=0.02, weight_decay=5e-4, distillation=0.5)
    return replace(
        _vgg16(),
        layers=tuple(
            LayerPace(f"features.{place}", in_rounds(filters, kept, 6), kept)
            for place, filters, kept in zip(_VGG_CONVOLUTIONS, _VGG_FILTERS, _VGG_KEPT, strict=True)
        ),
        initial=replace(cycle, epochs=12, learning_rate=0.1, distillation=0.0),
        retraining=replace(cycle, epochs=1),
        last=replace(cycle, epochs=20, learning_rate=0.05),
    )


def _resnet56(inner_only: bool) -> PruningSchedule:
    recipe = replace(_PAPER, weight_decay=2e-4, nesterov=True)
    layers = ".*.conv1" if inner_only else ".*"
    return PruningSchedule(
        layers=tuple(
            LayerPace(f"layer{stage}{layers}", Pace(plus=goes), kept)
            for stage, goes, kept in ((1, 1, 8), (2, 2, 15), (3, 4, 30))
        ),
        initial=replace(recipe, epochs=182, learning_rate=0.1, step_at=(91 / 182, 136 / 182)),
        retraining=replace(recipe, epochs=100, learning_rate=0.01, step_at=(0.2, 0.7)),
        tap="convolution",
        batch_size=100,
    )


def _resnet56_short(inner_only: bool) -> PruningSchedule:
    cycle = Recipe(learning_rate=0.02, weight_decay=2e-4)
    full = _resnet56(inner_only)
    return replace(
        full,
        layers=tuple(replace(one, pace=Pace(plus=2 * one.pace.plus)) for one in full.layers),
        initial=replace(cycle, epochs=20, learning_rate=0.1),
        retraining=replace(cycle, epochs=1),
        last=replace(cycle, epochs=4),
    )


def _resnet50(kept: tuple[int, int, int, int]) -> PruningSchedule:
    recipe = replace(_PAPER, weight_decay=2e-4)
    return PruningSchedule(
        layers=tuple(
            LayerPace(f"layer{stage}.*.conv{inner}", Pace(share, 1), kept[stage - 1])
            for stage, share in ((1, 0.09), (2, 0.09), (3, 0.09), (4, 0.07))
            for inner in (1, 2)
        ),
        initial=replace(recipe, epochs=3, learning_rate=1e-4, schedule="constant"),
        retraining=replace(recipe, epochs=33, learning_rate=1e-3, step_at=(10 / 33, 25 / 33)),
        tap="convolution",
        batch_size=80,
    )


def in_rounds(filters: int, limit: int, rounds: int) -> Pace:
    """Return the pace that brings a layer from ``filters`` to ``limit`` in about so many rounds, each the same share.

    Raises:
        InputError: The limit is not below the number of filters, or there are no rounds.
    """
    if not 0 < limit < filters or rounds < 1:
        raise InputError(f"{filters} filters cannot come down to {limit} in {rounds} rounds")
    return Pace(round(1 - (limit / filters) ** (1 / rounds), 4), 1)


@dataclass(frozen=True)
class NamedSchedule:
    """A schedule that has a name.

    Args:
        make: Makes it.
        network: Name in the zoo of the network it is for.
        data: The data set it is for.
        description: One line.
    """

    make: Callable[[], PruningSchedule]
    network: str
    data: str
    description: str


_NAMED = {
    "hrel-lenet5": NamedSchedule(_lenet5, "lenet5_hrel", "mnist", "2 and 3 of 20 and 50 filters, as published"),
    "hrel-lenet5-short": NamedSchedule(_lenet5_short, "lenet5_hrel", "mnist", "the same, 102 epochs in place of 760"),
    "hrel-vgg16": NamedSchedule(_vgg16, "vgg16_hrel", "cifar10", "the published widths, as published"),
    "hrel-vgg16-short": NamedSchedule(
        _vgg16_short, "vgg16_hrel", "cifar10", "the same widths in 6 rounds of one epoch, then 20, with distillation"
    ),
    "hrel-resnet56": NamedSchedule(
        lambda: _resnet56(False), "resnet56", "cifar10", "8, 15, 30 filters by stage, residual streams too"
    ),
    "hrel-resnet56-inner": NamedSchedule(
        lambda: _resnet56(True), "resnet56", "cifar10", "8, 15, 30 filters in the first convolutions of the blocks"
    ),
    "hrel-resnet56-short": NamedSchedule(
        lambda: _resnet56_short(False), "resnet56", "cifar10", "as hrel-resnet56, in 5 rounds of one epoch, then 4"
    ),
    "hrel-resnet56-inner-short": NamedSchedule(
        lambda: _resnet56_short(True), "resnet56", "cifar10", "as hrel-resnet56-inner, in 5 rounds of one epoch, then 4"
    ),
    "hrel-resnet50": NamedSchedule(
        lambda: _resnet50((27, 49, 93, 235)), "resnet50", "folder", "63.99 % of the MACs, as published"
    ),
    "hrel-resnet50-small": NamedSchedule(
        lambda: _resnet50((25, 45, 85, 219)), "resnet50", "folder", "66.42 % of the MACs, as published"
    ),
}


def named_schedules() -> Mapping[str, NamedSchedule]:
    """Return every schedule that has a name."""
    return dict(_NAMED)


def named_schedule(name: str) -> NamedSchedule:
    """Return the schedule of that name.

    Raises:
        InputError: There is none.
    """
    if name not in _NAMED:
        raise unknown("schedule", name, _NAMED)
    return _NAMED[name]
