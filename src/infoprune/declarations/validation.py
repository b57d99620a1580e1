"""Values from outside become the dataclasses of the package, or one clear sentence. JSON files are read here too."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from infoprune.errors import InputError, unknown

_T = TypeVar("_T")
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")

# A record of a large network is a few MB; a file of this size is no record.
LARGEST_JSON = 256 * 2**20

# What a wrong value should have been, by the type of pydantic's error.
_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "an object",
    "mapping_type": "an object",
    "dataclass_type": "an object",
    "none_required": "null",
}
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")


def validated(cls: type[_T], values: Any, what: str) -> _T:
    """Return a dataclass made from JSON values, checked against its annotations and its ``__post_init__``.

    Nothing is converted silently: 1.5 and 1.0 are no whole number, ``"3"`` and ``true`` are no number. Lists become
    tuples and objects become dataclasses where the annotation says so. Unknown entries are refused.

    Args:
        cls: A dataclass, or any other type of JSON values such as ``dict[str, int]``.
        values: JSON values; tuples, paths and dataclasses count as what they are written as in JSON.
        what: What the values are, for the message, such as ``"the plan 'p.json'"``.

    Raises:
        InputError: The values do not fit; the sentence names the entry.

    Example:
        >>> from infoprune.plan import Budget
        >>> validated(Budget, {"macs": 0.5}, "the budget")
        Budget(macs=0.5, parameters=None, latency=None)
        >>> validated(Budget, {"macs": "half"}, "the budget")
        Traceback (most recent call last):
        infoprune.errors.InputError: the budget cannot be used: 'macs' must be a number, not 'half'
    """
    try:
        text = json.dumps(values, default=_as_json)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{what} cannot be used: it must hold JSON values ({error})") from None
    try:
        found: _T = _adapter(cast(Hashable, cls)).validate_json(text, strict=True, extra="forbid")
        return found
    except ValidationError as error:
        raise _refusal(error, cls, values, what) from None


def read_json(path: str | Path, what: str = "the file") -> Any:
    """Return what a JSON file holds.

    Args:
        path: A regular file; pipes and devices are refused, as reading them might never end.
        what: What the file is, for the message.

    Raises:
        InputError: The file is missing, not a regular file, too large, or not JSON.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "keep.json"
        >>> _ = file.write_text('{"conv1": 8}')
        >>> read_json(file)
        {'conv1': 8}
    """
    path = Path(path)
    check_regular(path, what)
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise InputError(f"{what} '{path}' is larger than {LARGEST_JSON // 2**20} MiB: it is no file of this kind")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{what} '{path}' cannot be read: {error.strerror or error}") from error
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(f"{what} '{path}' is not JSON that can be read: it is nested too deeply") from error
    except ValueError as error:
        raise InputError(f"{what} '{path}' is not JSON: {error}") from error


def read_object(path: str | Path, what: str = "the file") -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises:
        InputError: As in ``read_json``, or the file holds something else than an object.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "keep.json"
        >>> _ = file.write_text("[1, 2]")
        >>> read_object(file, "the counts")
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: the counts must hold a JSON object
    """
    values = read_json(path, what)
    if not isinstance(values, dict):
        raise InputError(f"{what} '{path}' must hold a JSON object, not {_shown(values)}")
    return values


def parsed_object(text: str, what: str) -> dict[str, Any]:
    """Return the JSON object that a text holds.

    Args:
        text: JSON.
        what: What the text is, for the message.

    Raises:
        InputError: The text is no JSON object.

    Example:
        >>> parsed_object('{"conv1": 8}', "the counts")
        {'conv1': 8}
    """
    try:
        values = json.loads(text)
    except RecursionError as error:
        raise InputError(f"{what} is not JSON that can be read: it is nested too deeply") from error
    except ValueError as error:
        raise InputError(f"{what} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{what} must be a JSON object, not {_shown(values)}")
    return values


def check_regular(path: Path, what: str = "the file") -> None:
    """Refuse what is not a regular file before anything is opened: opening a pipe waits for a writer.

    Raises:
        InputError: The file is missing, a folder, a pipe or a device, or its name cannot be a file's.

    Example:
        >>> check_regular(Path("no_such_file.json"))
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: the file 'no_such_file.json' does not exist
    """
    try:
        path.stat()
        regular, folder = path.is_file(), path.is_dir()
    except FileNotFoundError:
        raise InputError(f"{what} '{path}' does not exist") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{what} '{path}' cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not regular:
        raise InputError(f"{what} '{path}' is {'a folder' if folder else 'not a regular file'}")


@cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def _as_json(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is none")


def _refusal(error: ValidationError, cls: Any, values: Any, what: str) -> InputError:
    # A misspelt entry is named before the one that is missing because of it.
    first = min(error.errors(include_url=False), key=lambda one: one["type"] not in _UNKNOWN)
    kind, place = first["type"], _place(first["loc"], values)
    named = f"'{'.'.join(map(str, place))}'"
    if kind in ("missing", "missing_argument"):
        return InputError(f"{what} cannot be used: it has no {named}")
    if kind in _UNKNOWN:
        known = _entries_at(cls, place[:-1])
        if known:
            return unknown(f"entry of {what}", str(place[-1]), known)
        return InputError(f"{what} cannot be used: it must not have {named}")
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, Exception):
        return InputError(f"{what} cannot be used: {cause}")
    if kind == "json_invalid":
        return InputError(f"{what} cannot be used: it must hold JSON values ({first['msg']})")
    wanted = f"must be {_WANTED[kind]}" if kind in _WANTED else _lowered(first["msg"])
    subject = named if place else "it"
    return InputError(f"{what} cannot be used: {subject} {wanted}, not {_shown(first['input'])}")


def _place(location: Iterable[int | str], values: Any) -> list[int | str]:
    """Return the path of an error without the names pydantic adds for the members of a union."""
    found: list[int | str] = []
    steps = list(location)
    for number, step in enumerate(steps):
        here = _as_json(values) if is_dataclass(values) else values
        try:
            values = here[step]
        except (KeyError, IndexError, TypeError):
            # What is missing has no value; it is the last step, inside an object or a list.
            if number < len(steps) - 1 or not isinstance(here, (Mapping, list, tuple)):
                continue
        found.append(step)
    return found


def _entries_at(cls: Any, place: Iterable[int | str]) -> list[str]:
    """Return the entries of the dataclass at a path inside another one; nothing where that is not clear."""
    for step in place:
        if is_dataclass(cls):
            cls = get_type_hints(cls).get(str(step))
        else:
            cls = next((one for one in reversed(get_args(cls)) if one not in (type(None), Ellipsis)), None)
        cls = _dataclass_in(cls)
    return [one.name for one in fields(cls) if one.init] if is_dataclass(cls) else []


def _dataclass_in(cls: Any) -> Any:
    """Return the dataclass of ``Recipe | None``, and any other type as it is."""
    optional = [one for one in get_args(cls) if one is not type(None)]
    return optional[0] if len(optional) == 1 and type(None) in get_args(cls) else cls


def _lowered(message: str) -> str:
    return message.replace("Input should", "must", 1) if message.startswith("Input should") else message.lower()


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
