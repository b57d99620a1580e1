"""What a user selects by name: entered once, found or refused with the nearest name, listed in order."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Protocol, TypeVar

from infoprune.errors import InputError, unknown


class Named(Protocol):
    """What is declared of one choice.

    Example:
        >>> from infoprune.criteria import all_criteria
        >>> entry: Named = all_criteria()[0]
        >>> isinstance(entry.name, str)
        True
    """

    @property
    def name(self) -> str:
        """The word that selects it."""


_N = TypeVar("_N", bound=Named)
_T = TypeVar("_T")


def enter(registry: MutableMapping[str, _N], kind: str, one: _N) -> _N:
    """Make a choice selectable by its name, and return it.

    Args:
        registry: The choices so far.
        kind: What they are, such as ``"criterion"``.
        one: The new one.

    Raises:
        InputError: The name is taken.

    Example:
        >>> from types import SimpleNamespace
        >>> registry = {}
        >>> enter(registry, "rule", SimpleNamespace(name="half")).name
        'half'
        >>> enter(registry, "rule", SimpleNamespace(name="half"))
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: a rule named 'half' exists already
    """
    if one.name in registry:
        raise InputError(f"a {kind} named '{one.name}' exists already: choose another name")
    registry[one.name] = one
    return one


def look_up(registry: Mapping[str, _T], kind: str, name: str) -> _T:
    """Return the choice of that name.

    Raises:
        InputError: There is none.

    Example:
        >>> look_up({"half": 1, "third": 2}, "rule", "half")
        1
    """
    if name not in registry:
        raise unknown(kind, name, registry)
    return registry[name]


def in_order(registry: Mapping[str, _T]) -> tuple[_T, ...]:
    """Return every choice, by name.

    Example:
        >>> from types import SimpleNamespace
        >>> [one.name for one in in_order({"b": SimpleNamespace(name="b"), "a": SimpleNamespace(name="a")})]
        ['a', 'b']
    """
    return tuple(registry[name] for name in sorted(registry))
