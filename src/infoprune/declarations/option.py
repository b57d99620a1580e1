"""How an option is declared: once, in the annotation of a dataclass field or of a command's parameter.

``ratio: Annotated[float | None, Option("Share of the filters removed from every layer.", ge=0, lt=1)] = None`` is all
that an option needs. The check of its values (``option_values.py``), its flag on the command line and its row in the
table of options are made from this line.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

# No whole number of this package is larger: torch, NumPy and scikit-learn all take it as a seed or as a count.
LARGEST_WHOLE_NUMBER = 2**31 - 1


@dataclass(frozen=True)
class Names:
    """Words that a registry knows, asked for when a value is checked, so that what is registered later counts too.

    Args:
        kind: What they name, such as ``"repair"``.
        known: Returns all of them.

    Example:
        >>> tuple(Names("colour", lambda: ("red", "blue")).known())
        ('red', 'blue')
    """

    kind: str
    known: Callable[[], Iterable[str]]


@dataclass(frozen=True)
class Option:
    """What is declared of an option besides its type and its default.

    Args:
        help: One sentence: what the option decides.
        ge: Smallest number allowed; of a tuple, smallest number in it.
        gt: Numbers are above this.
        le: Largest number allowed; for whole numbers ``LARGEST_WHOLE_NUMBER`` where nothing is said.
        lt: Numbers are below this.
        unit: Unit of the number, such as ``"images"``.
        flag: Name on the command line; by default the field's name with dashes.
        names: The words that may be given.
        form: What a value looks like, where its type does not say it, such as ``"C,H,W"``.
        default: What the default means, where the value does not say it, such as ``"the schedule's"``.
        on_command_line: Whether there is a flag at all.
        is_argument: Whether the command line takes it by position.

    Example:
        >>> from dataclasses import dataclass
        >>> from typing import Annotated
        >>> @dataclass(frozen=True)
        ... class Blur:
        ...     width: Annotated[float, Option("Width of the blur.", gt=0, unit="pixels")] = 1.0
        >>> [(one.name, one.default, one.option.flag_of(one.name)) for one in fields_of(Blur).values()]
        [('width', 1.0, '--width')]
    """

    help: str
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    unit: str = ""
    flag: str | None = None
    names: Names | None = None
    form: str = ""
    default: str | None = None
    on_command_line: bool = True
    is_argument: bool = False

    def flag_of(self, name: str) -> str:
        """Return the flag of the field of that name."""
        return self.flag or "--" + name.replace("_", "-")

    def range(self) -> str:
        """Return the numbers that are allowed, in words; empty where all are."""
        low = None if self.ge is None else f"{self.ge:g}"
        above = None if self.gt is None else f"above {self.gt:g}"
        high = f"to {self.le:g}" if self.le is not None else None if self.lt is None else f"to below {self.lt:g}"
        if low is not None:
            return f"{low} or more" if high is None else f"from {low} {high}"
        most = None if self.le is None and self.lt is None else (
            f"at most {self.le:g}" if self.le is not None else f"below {self.lt:g}")  # fmt: skip
        return " and ".join(part for part in (above, most) if part)

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """Return the check that pydantic makes of the annotated type and this range."""
        from infoprune.declarations.option_values import strict

        return handler(strict(source, self))


@dataclass(frozen=True)
class Field:
    """One field of a dataclass, or one parameter of a command, with its option.

    Args:
        name: Its name in Python.
        type: Its type, without the annotation.
        option: What is declared of it; ``None`` for a field that is an options dataclass of its own.
        default: Its default, ``dataclasses.MISSING`` where there is none.

    Example:
        >>> Field("width", int, Option("Width."), 4).is_required
        False
    """

    name: str
    type: Any
    option: Option | None
    default: Any

    @property
    def is_required(self) -> bool:
        """Whether a value must be given."""
        return self.default is MISSING


@functools.cache
def fields_of(cls: type) -> Mapping[str, Field]:
    """Return the fields of an options dataclass, by name, in their order.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Blur:
        ...     width: Annotated[float, Option("Width of the blur.", gt=0)] = 1.0
        >>> list(fields_of(Blur))
        ['width']
    """
    hints = get_type_hints(cls, include_extras=True)
    return {one.name: field_of(one.name, hints[one.name], _default(one)) for one in dataclasses.fields(cls) if one.init}


def field_of(name: str, annotation: Any, default: Any = MISSING) -> Field:
    """Return the field that an annotation declares.

    Example:
        >>> field_of("width", Annotated[int, Option("Width.", ge=1)], 4).default
        4
    """
    if get_origin(annotation) is not Annotated:
        return Field(name, annotation, None, default)
    kind, *extras = get_args(annotation)
    return Field(name, kind, next((extra for extra in extras if isinstance(extra, Option)), None), default)


def _default(one: dataclasses.Field[Any]) -> Any:
    return one.default_factory() if one.default_factory is not MISSING else one.default


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union but ``None``, or the type itself.

    Example:
        >>> alternatives(int | None)
        (<class 'int'>,)
    """
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(one for one in get_args(kind) if one is not types.NoneType)
    return (kind,)


def nested_in(kind: Any) -> type | None:
    """Return the dataclass that a type is, ``None`` beside it or not; ``None`` for any other type.

    Example:
        >>> nested_in(Option), nested_in(int)
        (<class 'infoprune.declarations.option.Option'>, None)
    """
    only = alternatives(kind)
    return only[0] if len(only) == 1 and dataclasses.is_dataclass(only[0]) and isinstance(only[0], type) else None


def takes(field: Field, *, text: bool = False) -> str:
    """Return what a field takes, in words, for messages and tables.

    Args:
        field: The field.
        text: Whether the value is written on the command line.

    Example:
        >>> takes(Field("width", int, Option("Width.", ge=1), 1))
        'a whole number of 1 or more'
    """
    option = field.option or Option("")
    if option.form:
        return option.form
    return " or ".join(_words(kind, option, text=text) for kind in alternatives(field.type))


def _words(kind: Any, option: Option, *, text: bool) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        words = ", ".join(map(str, arguments))
        return f"one of {words}" if len(arguments) > 1 else words
    if origin is tuple:
        return _many(arguments, option, text=text)
    if origin is not None and issubclass(origin, Mapping):
        return "a JSON object such as '{\"classes\": 10}'" if text else "a mapping"
    number = {int: "a whole number", float: "a number"}.get(kind)
    if number is not None:
        return " ".join(part for part in (number, _prefixed(option.range())) if part)
    if kind is str:
        return f"the name of a {option.names.kind}" if option.names else "a text"
    return {bool: "true or false", Path: "a path"}.get(kind, f"a {getattr(kind, '__name__', kind)}")


def _many(arguments: Sequence[Any], option: Option, *, text: bool) -> str:
    number = {int: "whole numbers", float: "numbers"}.get(arguments[0])
    if number is None and text:
        return f"{_words(arguments[0], option, text=True)}, once or more"
    count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
    many = number or {str: "texts", Path: "paths"}.get(arguments[0], f"{getattr(arguments[0], '__name__', '')} objects")
    joined = "with commas between them" if text else "in a tuple"
    return " ".join(part for part in (f"{count}{many}", _prefixed(option.range()), joined) if part)


def _prefixed(words: str) -> str:
    return f"of {words}" if words.endswith("or more") else words
