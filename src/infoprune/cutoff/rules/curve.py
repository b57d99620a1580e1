"""Where a curve says to cut: what a rule is, and the rules by name."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from infoprune.declarations.option_values import check_keywords, shown
from infoprune.entropy.ties import ranking
from infoprune.errors import InputError
from infoprune.registry import enter, in_order, look_up


@dataclass(frozen=True)
class Curve:
    """What is left after the first 1, 2, ..., C filters of an order, and falls as filters join.

    Args:
        left: C finite values, the m-th with the first m filters kept; for CMI I(Y; the rest | those) in bits.
        whole: The value before any filter, ``None`` where it is not known.
        resolved: The number of first values that mean something; what comes after is rounding or a choice of the tail.
            ``None`` for C.
        p_value: From m to the share of random rearrangements of the m-th filter that leave no more than it does,
            where the criterion computes it: low where the filter matters.

    Example:
        >>> curve = Curve((3.0, 1.0, 0.5), whole=4.0)
        >>> curve.gains
        {1: 1.0, 2: 2.0, 3: 0.5}
    """

    left: tuple[float, ...]
    whole: float | None = None
    resolved: int | None = None
    p_value: Callable[[int], float] | None = None

    def __post_init__(self) -> None:
        if not self.left or not all(map(math.isfinite, self.left)):
            raise InputError("a curve is one value after each of 1, 2, ... filters: at least one number, all finite")

    @property
    def filters(self) -> int:
        """Number of filters C."""
        return len(self.left)

    @property
    def resolved_values(self) -> tuple[float, ...]:
        """The values that mean something, at least one."""
        count = self.filters if self.resolved is None else self.resolved
        return self.left[: min(max(count, 1), self.filters)]

    @property
    def points(self) -> dict[int, float]:
        """By m, the values that mean something, m = 0 included where it is known."""
        start = {} if self.whole is None else {0: self.whole}
        return start | dict(enumerate(self.resolved_values, 1))

    @property
    def gains(self) -> dict[int, float]:
        """By m, by how much the m-th filter reduces the value."""
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

    Example:
        >>> RuleInfo("first", lambda curve: (1,), "keeps one filter").name
        'first'
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

    Example:
        >>> register(RuleInfo("keep-one", lambda curve: (1,), "keeps one filter")).name
        'keep-one'
        >>> del _REGISTRY["keep-one"]
    """
    return enter(_REGISTRY, "cut-off rule", info)


def register_rule(
    name: str, function: Rule, *, description: str = "", paper: str = "", tests: bool = False
) -> RuleInfo:
    """Make a function selectable as a cut-off rule: in Python and, where its module is imported, on the command line.

    Args:
        name: The word that selects it.
        function: ``function(curve, *, options...)`` receives a :class:`Curve` and returns candidates: numbers m of
            filters to keep, best first or in any order; none where it sees no place to cut. Its keyword-only arguments
            are its options, checked against their annotations.
        description: One line for ``infoprune cutoffs``; by default the first line of the function's docstring.
        paper: Where it was published.
        tests: Whether it needs ``Curve.p_value``, which only the criterion ``cmi`` gives.

    Raises:
        InputError: The name is taken, or the function does not take a curve and keyword-only options with defaults.

    Example:
        >>> def half(curve, *, share: float = 0.5):
        ...     "Keep the first filters that halve the first value."
        ...     return [next(m for m, left in curve.points.items() if m and left <= share * curve.points[1])]
        >>> rule = register_rule("half-of-first", half)
        >>> candidates("half-of-first", Curve((4.0, 3.0, 2.0, 1.0)))
        (3,)
        >>> del _REGISTRY["half-of-first"]
    """
    if not callable(function):
        raise InputError(f"the cut-off '{name}' must be a function of a curve, not {shown(function)}")
    parameters = list(inspect.signature(function).parameters.values())
    needed = [
        one for one in parameters if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if len(needed) != 1 or needed[0] is not parameters[0] or needed[0].kind is needed[0].KEYWORD_ONLY:
        raise InputError(
            f"the cut-off '{name}' must take (curve, *, options with defaults), not {inspect.signature(function)}"
        )
    first_line = (inspect.getdoc(function) or "a function of the user").splitlines()[0]
    return register(RuleInfo(name, function, description or first_line, paper, tests))


def find_rule(name: str) -> RuleInfo:
    """Return what is declared of the rule of that name.

    Raises:
        InputError: There is none.

    Example:
        >>> find_rule("scree").paper
        'arXiv 2411.18578'
    """
    return look_up(_REGISTRY, "cut-off rule", name)


def all_rules() -> tuple[RuleInfo, ...]:
    """Return every registered rule, by name.

    Example:
        >>> "scree" in [rule.name for rule in all_rules()]
        True
    """
    return in_order(_REGISTRY)


def check_rule(name: str, options: Mapping[str, Any]) -> RuleInfo:
    """Return the rule of that name.

    Raises:
        InputError: There is none, it has no such option, or a value is of a wrong type.

    Example:
        >>> check_rule("grid", {"steps": 4}).name
        'grid'
    """
    info = find_rule(name)
    check_keywords(info.function, options, f"the cut-off '{name}'")
    return info


def candidates(name: str, curve: Curve, options: Mapping[str, Any] | None = None) -> tuple[int, ...]:
    """Return how many of the first filters a rule would keep: its candidates, fewest first.

    Raises:
        InputError: There is no such rule or option, or the rule needs what the curve does not have.

    Example:
        >>> candidates("grid", Curve((4.0, 2.0, 1.0, 0.5)), {"steps": 4})
        (1, 2, 3)
    """
    info = check_rule(name, options or {})
    if info.tests and curve.p_value is None:
        raise InputError(f"the cut-off '{name}' tests feature maps: it goes with the criterion 'cmi' only")
    found = info.function(curve, **(options or {}))
    try:
        counts = {operator.index(m) for m in found}
    except TypeError as error:
        raise InputError(f"the cut-off '{name}' must return numbers of filters to keep, not {shown(found)}") from error
    return tuple(sorted(m for m in counts if 1 <= m <= curve.filters))


def largest(values: Mapping[int, float], count: int) -> tuple[int, ...]:
    """Return the keys of the largest values, ties by the smaller key.

    Example:
        >>> largest({1: 0.5, 2: 3.0, 3: 1.0}, 2)
        (2, 3)
    """
    keys = sorted(values)
    ranked = ranking(torch.tensor([values[m] for m in keys], dtype=torch.float64))
    return tuple(keys[i] for i in ranked[:count])
