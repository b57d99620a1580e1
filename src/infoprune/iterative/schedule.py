"""Pruning in rounds, as values: what is removed each round, how the network is retrained in between, when it ends."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Annotated, Any

from infoprune.declarations.option import LARGEST_WHOLE_NUMBER, Names, Option
from infoprune.declarations.option_values import check_fields
from infoprune.declarations.validation import validated
from infoprune.errors import InputError
from infoprune.network.taps import Tap
from infoprune.training.recipe import Recipe

_PACE = re.compile(r"(?:(?P<share>\d+(?:\.\d+)?)%)?(?:\+?(?P<plus>\d+))?")


@dataclass(frozen=True)
class Pace:
    """Filters of a layer that are removed in one round: int(share * n) + plus, at least one, of the current n.

    Args:
        share: Of the filters that are still there, from 0 to below 1.
        plus: Filters besides.

    Example:
        >>> Pace.parse("5%+1").filters(100)
        6
    """

    share: Annotated[float, Option("Share of the filters that are still there.", ge=0, lt=1)] = 0.0
    plus: Annotated[int, Option("Filters besides.", ge=0, unit="filters")] = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if not (self.share or self.plus):
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
            raise InputError(f"the filters removed in a round are written as '2', '5%' or '5%+1', not '{text}'")
        return cls(round(float(found["share"] or 0) / 100, 12), int(found["plus"] or 0))


@dataclass(frozen=True)
class LayerPace:
    """What is removed from the layers whose names fit a pattern.

    Args:
        layers: Pattern of layer names; a coupled group fits when any of its layers does.
        pace: How many filters go in a round.
        limit: Filters that stay in the end: a count, or a share (below 1) of those of the first network.

    Example:
        >>> LayerPace("*", Pace(plus=3), limit=2).rounds(8, first=8)
        2
    """

    layers: Annotated[str, Option("Pattern of layer names.")]
    pace: Annotated[Pace, Option("How many filters a round removes.")]
    limit: Annotated[int | float, Option("Filters that stay in the end: a count, or a share below 1.", ge=0)] = 1

    def __post_init__(self) -> None:
        check_fields(self)
        if isinstance(self.limit, float) and not 0 < self.limit < 1:
            raise InputError(f"a limit is a count from 1 up, or a share above 0 and below 1, not {self.limit}")
        if isinstance(self.limit, int) and self.limit < 1:
            raise InputError(f"at least one filter stays in '{self.layers}': a limit of {self.limit} cannot be")

    def fits(self, layers: tuple[str, ...]) -> bool:
        """Return whether a coupled group of these layers is meant."""
        return any(fnmatchcase(layer, self.layers) for layer in layers)

    def least(self, filters: int) -> int:
        """Return how many of a layer's filters are kept in the end, of ``filters`` at first."""
        return min(filters, self.limit) if isinstance(self.limit, int) else max(1, round(self.limit * filters))

    def left(self, filters: int, first: int, together: int = 1) -> int:
        """Return how many filters of a layer stay after one more round.

        Args:
            filters: How many it has.
            first: How many it had before the first round.
            together: How many can only be removed together, as under grouped convolutions. A round then removes whole
                sets of them: at least what the pace says, and never more than the limit allows.

        Example:
            >>> LayerPace("*", Pace(plus=3), limit=2).left(8, first=8)
            5
            >>> LayerPace("*", Pace(plus=3), limit=2).left(8, first=8, together=2)
            4
        """
        removed = -(-self.pace.filters(filters) // together) * together
        most = max(0, filters - self.least(first)) // together * together
        return filters - min(removed, most)

    def rounds(self, filters: int, first: int, together: int = 1) -> int:
        """Return after how many rounds a layer is at its limit; arguments as for ``left``."""
        count = 0
        while (fewer := self.left(filters, first, together)) < filters:
            filters, count = fewer, count + 1
        return count


@dataclass(frozen=True)
class PruningSchedule:
    """Everything that decides a pruning in rounds, but the network and the images.

    Of several patterns that fit a layer, the first counts; layers that none fits are not pruned.

    Example:
        >>> schedule = PruningSchedule((LayerPace("conv1", Pace(plus=2), 4),), Recipe(epochs=1), rounds=3)
        >>> schedule.rounds
        3
    """

    layers: Annotated[
        tuple[LayerPace, ...], Option("How many filters of which layers each round removes.", on_command_line=False)
    ]
    retraining: Annotated[Recipe, Option("How the network is trained after every cut.", on_command_line=False)]
    initial: Annotated[
        Recipe | None,
        Option("How it is trained before the first cut; none for trained weights.", on_command_line=False),
    ] = None
    last: Annotated[
        Recipe | None,
        Option("How it is trained after the last cut.", default="as after every cut", on_command_line=False),
    ] = None
    repair: Annotated[
        str | None, Option("Repair of every cut network before it is retrained.", names=Names("repair", _repairs))
    ] = None
    before: Annotated[
        Recipe | None,
        Option(
            "How the network is trained between scoring and cutting, with the penalty on the filters to be cut.",
            default="not at all",
            on_command_line=False,
        ),
    ] = None
    penalty: Annotated[
        str | None,
        Option(
            "What is added to the loss of that training.", names=Names("penalty", _penalties), on_command_line=False
        ),
    ] = None
    penalty_options: Annotated[Mapping[str, Any], Option("Options of the penalty.", on_command_line=False)] = field(
        default_factory=dict
    )
    rounds: Annotated[
        int | None, Option("Largest number of rounds.", ge=1, default="until every layer is at its limit")
    ] = None
    floor: Annotated[
        float | None,
        Option("Held-out accuracy below which the last round is undone and the pruning ends.", ge=0, le=100, unit="%"),
    ] = None
    criterion: Annotated[str, Option("What scores the filters: a name of 'infoprune criteria'.")] = "hrel"
    tap: Annotated[Tap | None, Option("Where the feature maps are read.", default="as in the criterion's paper")] = None
    options: Annotated[Mapping[str, Any], Option("Options of the criterion.", flag="--criterion-options")] = field(
        default_factory=dict
    )
    images: Annotated[
        int,
        Option(
            "Training images that score the filters; all where there are fewer.",
            ge=1,
            unit="images",
            flag="--calibration",
        ),
    ] = 1000
    batch_size: Annotated[int, Option("Images in a training batch.", ge=1, unit="images")] = 128
    augmentation: Annotated[bool, Option("Change training images at random, as is usual for their data set.")] = True
    seed: Annotated[int, Option("Seed of every random choice.", ge=0)] = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.penalty is None) != (self.before is None):
            raise InputError(
                "a penalty acts in the training before a cut: give both 'before' and 'penalty', or neither"
            )
        if self.penalty is not None:
            from infoprune.training.penalties import check_penalty  # needs torch, which the options do not

            check_penalty(self.penalty, self.penalty_options)

    def pace_of(self, layers: tuple[str, ...]) -> LayerPace | None:
        """Return the pace of a coupled group of these layers, ``None`` where nothing is removed."""
        return next((one for one in self.layers if one.fits(layers)), None)

    def recipe(self, number: int, *, is_last: bool) -> Recipe:
        """Return how the network is trained after round ``number``; every round has its own seed."""
        recipe = self.last if is_last and self.last is not None else self.retraining
        return replace(recipe, seed=(1009 * recipe.seed + number) % LARGEST_WHOLE_NUMBER)

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
    def from_dict(cls, values: Mapping[str, Any], *, criterion: str | None = None) -> PruningSchedule:
        """Read a schedule from JSON values; missing entries have their defaults.

        Args:
            values: The schedule. Its criterion is looked up by name, never imported.
            criterion: Replaces the criterion that the values name; ``package.module:function`` of the caller's own.

        Raises:
            InputError: The values are not a schedule, or name a criterion that is not registered.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"the schedule must be a JSON object, not {type(values).__name__}")
        given = dict(values) if criterion is None else {**values, "criterion": criterion}
        if isinstance(given.get("layers"), (list, tuple)):
            given["layers"] = [_with_pace(one) for one in given["layers"]]
        schedule = validated(cls, given, "the schedule")
        from infoprune.criteria import all_criteria, find

        if criterion is None and not any(one.name == schedule.criterion for one in all_criteria()):
            if ":" not in schedule.criterion:
                find(schedule.criterion)  # names the nearest one
            raise InputError(
                f"the schedule names the criterion {schedule.criterion!r}, which is not registered, and nothing that a "
                f"file names is imported: if you trust it, give it yourself (--criterion, or criterion= in Python)"
            )
        return schedule


def _with_pace(one: Any) -> Any:
    """Return the entry of a layer with its pace, written as ``"5%+1"``, as the object it stands for."""
    pace = one.get("pace") if isinstance(one, Mapping) else None
    written = isinstance(pace, str) or type(pace) is int
    return {**one, "pace": Pace.parse(str(pace))} if written else one


def _penalties() -> list[str]:
    from infoprune.training.penalties import all_penalties

    return [info.name for info in all_penalties()]


def _repairs() -> list[str]:
    from infoprune.repair import all_repairs

    return [info.name for info in all_repairs()]
