"""A command is made from dataclasses: flags from fields, and dataclasses from flags."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from infoprune.cli.from_dataclass import But, DefaultIs, Defaults, Given, flags_of, from_dataclasses, help_of
from infoprune.declarations.option import Names, Option
from infoprune.declarations.option_values import check_fields
from infoprune.errors import InputError


@dataclass(frozen=True)
class Inner:
    depth: Annotated[int, Option("How deep.", ge=1, unit="layers")] = 2
    share: Annotated[float | None, Option("How much.", gt=0, le=1)] = None

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class Outer:
    name: Annotated[str, Option("Which one.", flag="--of")]
    inner: Inner = Inner()
    sizes: Annotated[tuple[int, ...], Option("Sides.", ge=1)] = ()
    shape: Annotated[tuple[int, int, int] | None, Option("C,H,W.", ge=1)] = None
    mode: Annotated[Literal["fast", "slow"], Option("How.")] = "slow"
    devices: Annotated[int | Literal["auto"], Option("How many.", ge=1)] = 1
    words: Annotated[tuple[str, ...], Option("Patterns.")] = ()
    extra: Annotated[Mapping[str, Any], Option("More.")] = field(default_factory=dict)
    where: Annotated[Path | None, Option("Folder.")] = None
    on: Annotated[bool, Option("Whether.")] = False
    off: Annotated[bool, Option("Whether not.")] = True
    animal: Annotated[str | None, Option("Which.", names=Names("animal", lambda: ["cat", "dog"]))] = None
    hidden: Annotated[int, Option("Only in Python.", on_command_line=False)] = 7

    def __post_init__(self):
        check_fields(self)


def called(annotation, **written):
    """Return what a command with one parameter of this annotation receives."""
    received = []

    def command(it):
        received.append(it)

    command.__annotations__ = {"it": annotation}
    from_dataclasses(command)(**written)
    return received[0]


def flags(annotation):
    def command(it):
        """Do nothing."""

    command.__annotations__ = {"it": annotation}
    return {flag.flag: flag for flag in flags_of(from_dataclasses(command))}


def test_every_field_has_a_flag_those_of_dataclasses_inside_too():
    assert list(flags(Outer)) == [
        "--of", "--depth", "--share", "--sizes", "--shape", "--mode", "--devices", "--words", "--extra", "--where",
        "--on", "--off", "--animal",
    ]  # fmt: skip


def test_texts_become_the_values_of_the_fields():
    outer = called(
        Outer,
        of="x",
        depth="3",
        share="0.5",
        sizes="8,16",
        shape="3,32,32",
        mode="fast",
        devices="auto",
        words=["a*", "b"],
        extra='{"k": [1]}',
        where=Path("there"),
        on=True,
        off=False,
        animal="cat",
    )
    assert outer == Outer("x", Inner(3, 0.5), (8, 16), (3, 32, 32), "fast", "auto", ("a*", "b"), {"k": [1]},
                          Path("there"), True, False, "cat")  # fmt: skip
    assert called(Outer, of="x", devices="2").devices == 2


def test_what_is_not_given_is_as_by_default():
    assert called(Outer, of="x", depth=None, words=None) == Outer("x")


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ({"depth": "0"}, "--depth takes a whole number of 1 or more, not 0"),
        ({"depth": "1.0"}, "--depth takes a whole number of 1 or more, not '1.0'"),
        ({"share": "nan"}, "--share takes a number above 0 and at most 1, not nan"),
        ({"share": ""}, "--share takes a number above 0 and at most 1, not ''"),
        ({"sizes": "8,,16"}, "--sizes takes whole numbers of 1 or more with commas between them, not (8, '', 16)"),
        ({"shape": "8,8"}, "--shape takes 3 whole numbers of 1 or more with commas between them, not (8, 8)"),
        ({"mode": "fats"}, "--mode takes one of fast, slow, not 'fats': did you mean 'fast'?"),
        ({"devices": "two"}, "--devices takes a whole number of 1 or more or auto, not 'two'"),
        ({"extra": "[1]"}, "--extra takes a JSON object such as '{\"classes\": 10}', not [1]"),
        ({"extra": "{"}, "--extra takes a JSON object such as '{\"classes\": 10}', not '{'"),
        ({"animal": "dag"}, "unknown animal 'dag': did you mean 'dog'?"),
        ({"depth": str(10**30)}, "up to 2147483647, not 1000000"),
    ],
)
def test_what_does_not_fit_is_one_sentence_that_names_the_flag(written, sentence):
    with pytest.raises(InputError) as caught:
        called(Outer, of="x", **written)
    assert sentence in str(caught.value)


def test_a_dataclass_that_may_be_none_is_none_unless_one_of_its_flags_is_given():
    assert called(Outer | None) is None
    assert called(Outer | None, of="x") == Outer("x")
    with pytest.raises(InputError, match="--depth needs --of: pass both"):
        called(Outer | None, depth="3")


def test_what_was_given_is_known_apart_from_the_defaults():
    given = called(Annotated[Given[Outer], Defaults(depth=5)], mode="fast")
    assert given.given == {"mode": "fast"}
    assert given.build(name="x") == Outer("x", Inner(5), mode="fast")
    assert given.build(name="x", depth=6, mode="slow") == Outer("x", Inner(6))
    with pytest.raises(InputError, match="name is missing"):
        given.build()


def test_a_command_leaves_fields_out_and_has_defaults_of_its_own():
    found = flags(Annotated[Outer, But("mode", "depth"), Defaults(sizes=(4, 8))])
    assert not {"--mode", "--depth"} & found.keys()
    assert help_of(found["--sizes"]) == "Sides. [1 or more; default: 4,8]"
    assert called(Annotated[Outer, Defaults(sizes=(4, 8))], of="x").sizes == (4, 8)
    assert help_of(flags(Annotated[Given[Outer], DefaultIs("the file's")])["--mode"]) == "How. [default: the file's]"


def test_the_help_has_range_unit_and_default():
    found = flags(Outer)
    assert help_of(found["--depth"]) == "How deep. [1 or more layers; default: 2]"
    assert help_of(found["--share"]) == "How much. [above 0 and at most 1]"
    assert help_of(found["--off"]) == "Whether not. [default: yes]"
    assert help_of(found["--on"]) == "Whether."


def test_a_parameter_without_an_option_is_a_mistake_of_the_programmer():
    with pytest.raises(TypeError, match="'it' of a command declares no option"):
        flags(int)
