"""Commands made from declared options: a parameter that is an options dataclass becomes one flag for each field."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, replace
from dataclasses import field as made_by
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

import typer

from infoprune.declarations.option import Field, Option, alternatives, field_of, fields_of, nested_in
from infoprune.declarations.option_values import assembled, checked
from infoprune.errors import InputError

_T = TypeVar("_T")


class But:
    """Fields of a dataclass that a command does not offer: ``Annotated[DataOptions, But("held_out")]``.

    Example:
        >>> But("held_out").names
        ('held_out',)
    """

    def __init__(self, *names: str) -> None:
        self.names = names


class Defaults:
    """Defaults of a command that differ from the dataclass's: ``Annotated[Recipe, Defaults(epochs=30)]``.

    Example:
        >>> Defaults(epochs=30).values
        {'epochs': 30}
    """

    def __init__(self, **values: Any) -> None:
        self.values = values


class DefaultIs:
    """What the defaults of a dataclass are in a command, in words: ``DefaultIs("the schedule's")``.

    Example:
        >>> DefaultIs("the schedule's").words
        "the schedule's"
    """

    def __init__(self, words: str) -> None:
        self.words = words


@dataclass(frozen=True)
class Given(Generic[_T]):
    """Options that are not yet a dataclass, because the command chooses some that the user did not pass.

    Args:
        kind: The dataclass.
        given: What the user passed, by field.
        defaults: The command's own defaults, by field.

    Example:
        >>> from infoprune.training.recipe import Recipe
        >>> Given(Recipe, {"epochs": 3}, {"epochs": 10, "clip": 1.0}).build().epochs
        3
    """

    kind: type[_T]
    given: Mapping[str, Any]
    defaults: Mapping[str, Any]

    def build(self, **more: Any) -> _T:
        """Return the dataclass; ``more`` takes precedence over what the user passed.

        Raises:
            InputError: The dataclass refuses the combination.
        """
        return assembled(self.kind, {**self.defaults, **self.given, **more})


@dataclass(frozen=True)
class Flag:
    """One flag or argument of a command.

    Args:
        parameter: The parameter of the command's function that it is for, or that its dataclass is.
        field: The field or parameter that declares it, with the command's own default.
        of: The dataclass, ``None`` for a plain parameter.

    Example:
        >>> from infoprune.training.recipe import Recipe
        >>> def train(recipe: Recipe) -> None:
        ...     print(recipe.epochs)
        >>> flags_of(from_dataclasses(train))[1].flag
        '--lr'
    """

    parameter: str
    field: Field
    of: type | None = None

    @property
    def option(self) -> Option:
        """What is declared of it."""
        assert self.field.option is not None
        return self.field.option

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return self.field.name if self.option.is_argument else self.option.flag_of(self.field.name)

    @property
    def key(self) -> str:
        """Its name in the command's signature, unlike any other's."""
        return self.flag.lstrip("-").replace("-", "_")

    def value(self, written: Any) -> Any:
        """Return the value that was written on the command line.

        Raises:
            InputError: It is of a wrong type or out of range.
        """
        return checked(self.field, _read(self.field, written), self.flag)


@dataclass(frozen=True)
class _Parameter:
    """A parameter of a command's function: plain, or an options dataclass and how it is wanted."""

    name: str
    field: Field
    of: type | None = None
    deferred: bool = False
    but: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = made_by(default_factory=dict)
    default_words: str = ""

    @classmethod
    def read(cls, name: str, annotation: Any, default: Any) -> _Parameter:
        one = field_of(name, annotation, default)
        extras = annotation.__metadata__ if get_origin(annotation) is Annotated else ()
        but = tuple(word for extra in extras if isinstance(extra, But) for word in extra.names)
        defaults = next((extra.values for extra in extras if isinstance(extra, Defaults)), {})
        deferred = get_origin(one.type) is Given
        of = get_args(one.type)[0] if deferred else nested_in(one.type) if one.option is None else None
        if of is None and one.option is None:
            raise TypeError(f"the parameter '{name}' of a command declares no option")
        words = next((extra.words for extra in extras if isinstance(extra, DefaultIs)), "")
        return cls(name, one, of, deferred, but, defaults, words)

    def flags(self) -> Iterator[Flag]:
        if self.of is None:
            yield Flag(self.name, self.field)
            return
        optional = type(None) in get_args(self.field.type)
        for one in _flat(self.of):
            assert one.option is not None
            if one.name in self.but or not one.option.on_command_line:
                continue
            default = None if one.is_required and (optional or self.deferred) else one.default
            shown = replace(one, default=self.defaults.get(one.name, default))
            if self.default_words:
                shown = replace(one, default=None, option=replace(one.option, default=self.default_words))
            yield Flag(self.name, shown, self.of)

    def argument(self, given: Mapping[str, Any], flags: Mapping[str, str]) -> Any:
        """Return what the function receives for what was given, by field."""
        if self.of is None:
            return given.get(self.name, self.field.default)
        if self.deferred:
            return Given(self.of, given, self.defaults)
        if type(None) in get_args(self.field.type):
            if not given:
                return None
            for one in _flat(self.of):
                if one.is_required and one.name not in given:
                    raise InputError(f"{flags[next(iter(given))]} needs {flags[one.name]}: pass both")
        return Given(self.of, given, self.defaults).build()


def _flat(cls: type) -> Iterator[Field]:
    for one in fields_of(cls).values():
        inner = nested_in(one.type) if one.option is None else None
        if inner is None:
            yield one
        elif type(None) in get_args(one.type):
            yield from (replace(part, default=None) if part.is_required else part for part in _flat(inner))
        else:
            yield from _flat(inner)


def from_dataclasses(function: Callable[..., None]) -> Callable[..., None]:
    """Return a function with one parameter for each flag, for Typer; it calls the given one with dataclasses.

    Every parameter of ``function`` is either declared by an ``Option``, or it is an options dataclass, one that may be
    ``None`` (where none of its flags is given), or ``Given[...]`` of one.

    Args:
        function: The command. Its docstring is the command's help.

    Example:
        >>> from infoprune.training.recipe import Recipe
        >>> def show(recipe: Recipe) -> None:
        ...     "Print the number of epochs."
        ...     print(recipe.epochs)
        >>> from_dataclasses(show)(epochs="3")
        3
        >>> from_dataclasses(show)(epochs="x")
        Traceback (most recent call last):
        ...
        infoprune.errors.InputError: --epochs takes a whole number of 0 or more, not 'x'
    """
    parameters = _parameters(function)
    flags = tuple(flag for parameter in parameters for flag in parameter.flags())
    by_key = {flag.key: flag for flag in flags}
    if len(by_key) < len(flags):
        raise TypeError(f"two options of the command '{function.__name__}' have the same flag")

    def command(**written: Any) -> None:
        values: dict[str, dict[str, Any]] = {parameter.name: {} for parameter in parameters}
        names: dict[str, dict[str, str]] = {parameter.name: {} for parameter in parameters}
        for key, flag in by_key.items():
            names[flag.parameter][flag.field.name] = flag.flag
            if written.get(key) is not None:
                values[flag.parameter][flag.field.name] = flag.value(written[key])
        function(**{one.name: one.argument(values[one.name], names[one.name]) for one in parameters})

    command.__name__, command.__doc__, command.__module__ = function.__name__, function.__doc__, function.__module__
    command.__annotations__ = {}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=_default(flag), annotation=_annotation(flag))
            for key, flag in by_key.items()
        ]
    )
    command.flags = flags  # type: ignore[attr-defined]
    return command


def flags_of(command: Callable[..., None]) -> tuple[Flag, ...]:
    """Return the flags of a command made by ``from_dataclasses``, in their order.

    Example:
        >>> from infoprune.training.recipe import Recipe
        >>> def train(recipe: Recipe) -> None:
        ...     print(recipe.epochs)
        >>> [flag.flag for flag in flags_of(from_dataclasses(train))][:2]
        ['--epochs', '--lr']
    """
    return command.flags  # type: ignore[attr-defined, no-any-return]


def _parameters(function: Callable[..., None]) -> list[_Parameter]:
    hints = get_type_hints(function, include_extras=True)
    return [
        _Parameter.read(one.name, hints[one.name], MISSING if one.default is one.empty else one.default)
        for one in inspect.signature(function).parameters.values()
    ]


def _default(flag: Flag) -> Any:
    return ... if flag.field.is_required else None


def _annotation(flag: Flag) -> Any:
    """Return what Typer reads: a flag, paths, several words, or one text that ``Flag.value`` reads."""
    option, kinds = flag.option, alternatives(flag.field.type)
    kind: Any = kinds[0]
    repeated = get_origin(kind) is tuple and get_args(kind)[0] in (str, Path) and get_args(kind)[-1] is Ellipsis
    read_as = list[get_args(kind)[0]] if repeated else kind if kind in (bool, Path) else str  # type: ignore[misc]
    if not flag.field.is_required:
        read_as = read_as | None
    words = help_of(flag)
    if option.is_argument:
        return Annotated[read_as, typer.Argument(help=words, show_default=False)]
    declared = [flag.flag]
    if kind is bool and (flag.field.default is None or flag.field.default is True):
        declared = [f"{flag.flag}/--no-{flag.flag.removeprefix('--')}"]
    declared += ["-q"] if flag.flag == "--quiet" else ["-o"] if flag.flag == "--out" else []
    completion = _completion(kinds, option)
    metavar = None if kind is bool else _metavar(flag)
    return Annotated[
        read_as,
        typer.Option(*declared, help=words, show_default=False, metavar=metavar, autocompletion=completion),
    ]


def _completion(kinds: tuple[Any, ...], option: Option) -> Callable[..., list[str]] | None:
    words = [str(word) for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    if option.names is None and not words:
        return None
    known = option.names.known if option.names is not None else lambda: words

    def complete(incomplete: str) -> list[str]:
        return [word for word in known() if word.startswith(incomplete)]

    return complete


def _metavar(flag: Flag) -> str:
    forms = []
    for kind in alternatives(flag.field.type):
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Literal:
            forms.append("|".join(map(str, arguments)))
        elif origin is tuple and arguments[0] in (int, float):
            forms.append(",".join(["N"] * 2 + ["..."] if arguments[-1] is Ellipsis else ["N"] * len(arguments)))
        elif origin is not None and origin is not tuple:
            forms.append("JSON")
        else:
            forms.append({int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT"))
    return "|".join(forms)


def help_of(flag: Flag) -> str:
    """Return the help of a flag: what it decides, its range and its default.

    Example:
        >>> from infoprune.training.recipe import Recipe
        >>> def train(recipe: Recipe) -> None:
        ...     print(recipe.epochs)
        >>> help_of(flags_of(from_dataclasses(train))[0]).startswith("Passes over the training images.")
        True
    """
    allowed = flag.option.range()
    unit = flag.option.unit
    notes = [" ".join(part for part in (allowed, unit) if part), default_of(flag)]
    shown = "; ".join(note for note in notes if note)
    return f"{flag.option.help} [{shown}]" if shown else flag.option.help


def default_of(flag: Flag) -> str:
    """Return the default of a flag in words, empty where it is just not given.

    Example:
        >>> from infoprune.training.recipe import Recipe
        >>> def train(recipe: Recipe) -> None:
        ...     print(recipe.epochs)
        >>> default_of(flags_of(from_dataclasses(train))[0])
        'default: 10'
    """
    default = flag.field.default
    if flag.option.default is not None and default in (None, (), {}, ""):
        return f"default: {flag.option.default}"
    if flag.field.is_required or default in (None, (), {}) or default is False:
        return ""
    if isinstance(default, tuple):
        return "default: " + ",".join(f"{one:g}" if isinstance(one, float) else str(one) for one in default)
    return "default: " + (f"{default:g}" if isinstance(default, float) else "yes" if default is True else str(default))


def _read(field: Field, written: Any) -> Any:
    """Return the value of a text; one that cannot be read is returned unchanged, for the option to refuse."""
    if isinstance(written, list):
        return tuple(written)
    if not isinstance(written, str):
        return written
    for kind in alternatives(field.type):
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is tuple and arguments[0] in (int, float):
            return tuple(_number(part, (arguments[0],)) for part in written.split(","))
        if origin is not None and origin not in (tuple, Literal):
            return _json(written)
    return _number(written, alternatives(field.type))


def _number(text: str, kinds: tuple[Any, ...]) -> Any:
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    return text


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
