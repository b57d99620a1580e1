"""Where a curve says to cut: what a rule is, and the rules by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from infoprune.errors import InputError, unknown
from infoprune.registry import enter, in_order, look_up


@dataclass(frozen=True)
class Curve:
    """What is left after the first 1, 2, ..., C filters of an order, and falls as filters join.

    Args:
        left: C finite values, the m-th with the first m filters kept; for CMI I(Y; the rest | those) in bits.
        whole: The value before any filter, ``None`` where it is not known.
        resolved: So many of the values mean something; what comes after is rounding or a choice of the tail. C where
            nothing is said.
        p_value: From m to the share of random rearrangements of the m-th filter that leave no more than it does,
            where the criterion can tell: low where the filter matters.
    """

    left: tuple[float, ...]
    whole: float | None = None
    resolved: int | None = None
    p_value: Callable[[int], float] | None = None

    def __post_init__(self) -> None:
        if not self.left or not all(map(math.isfinite, self.left)):
            raise InputError("a curve is what is left after 1, 2, ... filters: at least one number, all finite")

    @property
    def filters(self) -> int:
        """Number of filters C."""
        return len(self.left)

    @property
    def told(self) -> tuple[float, ...]:
        """The values that mean something, at least one."""
        count = self.filters if self.resolved is None else self.resolved
        return self.left[: min(max(count, 1), self.filters)]

    @property
    def points(self) -> dict[int, float]:
        """By m, the values that mean something, m = 0 included where it is known."""
        start = {} if self.whole is None else {0: self.whole}
        return start | dict(enumerate(self.told, 1))

    @property
    def gains(self) -> dict[int, float]:
        """By m, what the m-th filter takes away from what is left."""
        points = self.points
        return {m: points[m - 1] - value for m, value in points.items() if m - 1 in points}


Rule = Callable[..., tuple[int, ...]]


@dataclass(frozen=True)
class RuleInfo:
    """What is declared of a rule.

    Args:
        name: The word that selects it.
        function: ``function(curve, **options)`` returns candidates "keep the first m", none where it sees no place to
            cut; its keyword-only arguments are its options.
        description: One line.
        paper: Where it was published.
        tests: Whether it needs ``Curve.p_value``.
        from_scores: Whether it also cuts the curve of scores of a criterion that has no curve of its own.
    """

    name: str
    function: Rule
    description: str
    paper: str = ""
    tests: bool = False
    from_scores: bool = False


_REGISTRY: dict[str, RuleInfo] = {}


def register(info: RuleInfo) -> RuleInfo:
    """Make a rule selectable by name.

    Raises:
        InputError: The name is taken.
    """
    return enter(_REGISTRY, "cut-off rule", info)


def find_rule(name: str) -> RuleInfo:
    """Return what is declared of the rule of that name.

    Raises:
        InputError: There is none.
    """
    return look_up(_REGISTRY, "cut-off rule", name)


def all_rules() -> tuple[RuleInfo, ...]:
    """Return every registered rule, by name."""
    return in_order(_REGISTRY)


def check_rule(name: str, options: Mapping[str, Any]) -> RuleInfo:
    """Return the rule of that name.

    Raises:
        InputError: There is none, or it has no such option.
    """
    info = find_rule(name)
    parameters = inspect.signature(info.function).parameters.values()
    known = {one.name for one in parameters if one.kind is one.KEYWORD_ONLY}
    for option in options:
        if option not in known:
            raise unknown(f"option of the cut-off '{name}'", option, known)
    return info


def candidates(name: str, curve: Curve, options: Mapping[str, Any] | None = None) -> tuple[int, ...]:
    """Return how many of the first filters a rule would keep: its candidates, fewest first.

    Raises:
        InputError: There is no such rule or option, or the rule needs what the curve does not have.
    """
    info = check_rule(name, options or {})
    if info.tests and curve.p_value is None:
        raise InputError(f"the cut-off '{name}' tests feature maps: it goes with the criterion 'cmi' only")
    found = info.function(curve, **(options or {}))
    return tuple(sorted({m for m in found if 1 <= m <= curve.filters}))


def largest(values: Mapping[int, float], count: int) -> tuple[int, ...]:
    """Return the keys of the largest values, equal ones by the smaller key."""
    return tuple(sorted(values, key=lambda m: (-values[m], m))[:count])
