"""The check of option values: pydantic does it, by the annotations and ranges that declare the options."""

from __future__ import annotations

import difflib
import inspect
import numbers
import sys
from collections.abc import Callable, Container, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, StrictBool, StrictStr, TypeAdapter, ValidationError
from pydantic import Field as Constraint
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

from infoprune.declarations.option import (
    LARGEST_WHOLE_NUMBER,
    Field,
    Option,
    alternatives,
    field_of,
    fields_of,
    nested_in,
    takes,
)
from infoprune.errors import InputError, unknown

_T = TypeVar("_T")
_SHOWN = 60
_ANY_TYPE = ConfigDict(arbitrary_types_allowed=True)


def checked(field: Field, value: object, label: str = "") -> Any:
    """Return the value of an option, as its type has it: a list as the tuple it stands for.

    Args:
        field: The option.
        value: The value given for it.
        label: How the user names it; by default the field's name.

    Raises:
        InputError: The value is of a wrong type or out of range, or it names nothing that is known.

    Example:
        >>> checked(field_of("sizes", tuple[int, ...]), [1, 2])
        (1, 2)
    """
    try:
        found = _adapter_of(field).validate_python(_plain(value))
    except ValidationError as error:
        raise InputError(_refusal(field, value, label or field.name)) from error
    names = None if field.option is None else field.option.names
    if names is not None and found is not None:
        known = tuple(names.known())
        if found not in known:
            raise unknown(names.kind, found, known)
    return found


def check_fields(instance: Any) -> None:
    """Check every field of an options dataclass; to be called first in its ``__post_init__``.

    Raises:
        InputError: The value of a field is of a wrong type or out of range.

    Example:
        >>> from dataclasses import dataclass
        >>> from typing import Annotated
        >>> @dataclass(frozen=True)
        ... class Blur:
        ...     width: Annotated[float, Option("Width of the blur.", gt=0)] = 1.0
        ...     def __post_init__(self):
        ...         check_fields(self)
        >>> Blur(width=-1)
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: width takes a number above 0, not -1
    """
    kind: type = type(instance)
    for name, field in fields_of(kind).items():
        value = getattr(instance, name)
        if value is not field.default or field.is_required:
            object.__setattr__(instance, name, checked(field, value))


def check_keywords(
    function: Callable[..., Any], options: Mapping[str, Any], what: str, *, but: Container[str] = ()
) -> None:
    """Check options against the keyword-only parameters of a function: their names and their annotated types.

    Args:
        function: The function, class or partial that receives them.
        options: The options by name.
        what: Whose options they are, such as ``"the criterion 'cmi'"``.
        but: Parameters that are not options.

    Raises:
        InputError: There is no such option, or its value is of a wrong type.

    Example:
        >>> def rule(curve, *, count: int = 3): ...
        >>> check_keywords(rule, {"count": "three"}, "the rule")
        Traceback (most recent call last):
        ...
        infoprune.errors.InputError: option 'count' of the rule takes a whole number, not 'three'
    """
    known = {name: field for name, field in keywords_of(function).items() if name not in but}
    for word, value in options.items():
        if word not in known:
            raise unknown(f"option of {what}", word, known)
        checked(known[word], value, f"option '{word}' of {what}")


def keywords_of(function: Callable[..., Any]) -> dict[str, Field]:
    """Return the keyword-only parameters of a function, without those that a partial has settled.

    Example:
        >>> def rule(curve, *, share: float = 0.5):
        ...     return [1]
        >>> list(keywords_of(rule))
        ['share']
    """
    settled = getattr(function, "keywords", {})
    inner = getattr(function, "func", function)
    module = sys.modules.get(inner.__module__)
    names = {} if module is None else vars(module)
    return {
        one.name: field_of(one.name, _evaluated(one.annotation, names), one.default)
        for one in inspect.signature(function).parameters.values()
        if one.kind is one.KEYWORD_ONLY and one.name not in settled
    }


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    """Return the type that an annotation names; what cannot be known here, such as a name for type checkers, is any."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return get_type_hints(type("_", (), {"__annotations__": {"it": annotation}}), names, include_extras=True)["it"]
    except (NameError, AttributeError, TypeError):
        return Any


def words_of(cls: type) -> tuple[str, ...]:
    """Return the names of the options of a dataclass, those of the dataclasses in it in their place.

    Example:
        >>> from infoprune.options import PruneOptions
        >>> {"criterion", "ratio", "macs", "cutoff"} <= set(words_of(PruneOptions))
        True
    """
    words: list[str] = []
    for field in fields_of(cls).values():
        inner = nested_in(field.type) if field.option is None else None
        words.extend((field.name,) if inner is None else words_of(inner))
    return tuple(words)


def assembled(cls: type[_T], words: Mapping[str, Any]) -> _T:
    """Return the options dataclass that flat words make: those of a dataclass in it stand beside its own.

    Args:
        cls: The dataclass.
        words: By field, or by field of a dataclass in it, the values that were given.

    Raises:
        InputError: A required value is missing, a value is of a wrong type or out of range, or the dataclass refuses
            the combination.

    Example:
        >>> from infoprune.options import PruneOptions
        >>> assembled(PruneOptions, {"macs": 0.5, "seed": 3}).budget.macs
        0.5
    """
    kind: type = cls
    values, own = dict(words), fields_of(kind)
    for name, field in own.items():
        inner = nested_in(field.type) if field.option is None else None
        if inner is None:
            continue
        of_inner = {word: values.pop(word) for word in words_of(inner) if word in values}
        if of_inner and name in values:
            raise InputError(f"give either {name} or {next(iter(of_inner))}, not both")
        if of_inner or (field.is_required and name not in values):
            values[name] = assembled(inner, of_inner)
    missing = [one.name for one in own.values() if one.is_required and one.name not in values]
    if missing:
        raise InputError(f"{missing[0]} is missing")
    return cls(**values)


def strict(kind: Any, option: Option) -> Any:
    """Return a type whose leaves are checked strictly and against the range of an option: no text is a number.

    Example:
        >>> from pydantic import TypeAdapter, ValidationError
        >>> wanted = TypeAdapter(strict(float, Option("A share.", ge=0, le=1)))
        >>> wanted.validate_python(0.5)
        0.5
        >>> wanted.validate_python("0.5")
        Traceback (most recent call last):
            ...
        pydantic_core._pydantic_core.ValidationError: 1 validation error
    """
    if kind is bool:
        return StrictBool
    if kind is str:
        return StrictStr
    if kind is int:
        most = LARGEST_WHOLE_NUMBER if option.le is None and option.lt is None else option.le
        return Annotated[int, Constraint(strict=True, ge=option.ge, gt=option.gt, le=most, lt=option.lt)]
    if kind is float:
        return Annotated[
            float,
            Constraint(strict=True, ge=option.ge, gt=option.gt, le=option.le, lt=option.lt, allow_inf_nan=False),
        ]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is None or origin is Literal or origin is Annotated:
        return kind
    parts = tuple(one if one is Ellipsis else strict(one, option) for one in arguments)
    return Union[parts] if alternatives(kind) != (kind,) else origin[parts]  # noqa: UP007 - made at run time


def shown(value: object) -> str:
    """Return a value for a message: short, on one line.

    Example:
        >>> shown(0.5)
        '0.5'
    """
    try:
        text = repr(value)
    except Exception:  # whatever a stranger's __repr__ raises
        text = f"a {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


_ADAPTERS: dict[int, tuple[Field, TypeAdapter[Any]]] = {}


def _adapter_of(field: Field) -> TypeAdapter[Any]:
    # By identity: a field with a default such as a dictionary has no hash.
    known = _ADAPTERS.get(id(field))
    if known is None:
        known = _ADAPTERS[id(field)] = (field, _made(strict(field.type, field.option or Option(""))))
    return known[1]


def _made(kind: Any) -> TypeAdapter[Any]:
    try:
        # Of a dataclass an instance is wanted; the options of types such as tensors are for all others.
        return TypeAdapter(kind) if nested_in(kind) else TypeAdapter(kind, config=_ANY_TYPE)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):
        return TypeAdapter(Any)


def _plain(value: object) -> object:
    """Return a number of NumPy's as Python's own."""
    if isinstance(value, numbers.Integral) and not isinstance(value, int):
        return int(value)
    return value


def _refusal(field: Field, value: object, label: str) -> str:
    words = takes(field, text=label.startswith("--"))
    if isinstance(value, int) and value > LARGEST_WHOLE_NUMBER:
        words += f" up to {LARGEST_WHOLE_NUMBER}"
    return f"{label} takes {words}, not {shown(value)}{_nearest(field.type, value)}"


def _nearest(kind: Any, value: object) -> str:
    words = [str(word) for one in alternatives(kind) if get_origin(one) is Literal for word in get_args(one)]
    near = difflib.get_close_matches(value, words, n=1) if isinstance(value, str) else []
    return f": did you mean '{near[0]}'?" if near else ""
