"""Options are declared once; their values are checked by the declaration, in words that say what would be right."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infoprune.declarations.option import Field, Option, takes
from infoprune.declarations.option_values import assembled, check_fields, check_keywords, checked, shown, words_of
from infoprune.errors import InputError
from infoprune.experiment.options import DataOptions
from infoprune.options import PruneOptions
from infoprune.plan import Budget


def number(kind=float, **limits):
    return Field("it", kind, Option("A number.", **limits), 0)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({}, ""),
        ({"ge": 0}, "0 or more"),
        ({"gt": 0}, "above 0"),
        ({"ge": 0, "le": 1}, "from 0 to 1"),
        ({"ge": 0, "lt": 1}, "from 0 to below 1"),
        ({"gt": 0, "le": 1}, "above 0 and at most 1"),
        ({"gt": 0, "lt": 1}, "above 0 and below 1"),
        ({"le": 5}, "at most 5"),
        ({"lt": 0.5}, "below 0.5"),
    ],
)
def test_a_range_is_told_in_words(limits, words):
    assert Option("", **limits).range() == words


BOUND = st.none() | st.integers(-3, 3)


@given(BOUND, BOUND, BOUND, BOUND, st.floats(-4, 4) | st.integers(-4, 4))
def test_a_number_passes_where_the_bounds_hold_and_nowhere_else(ge, gt, le, lt, value):
    inside = all((
        ge is None or value >= ge, gt is None or value > gt, le is None or value <= le, lt is None or value < lt,
    ))  # fmt: skip
    field = number(ge=ge, gt=gt, le=le, lt=lt)
    if inside:
        assert checked(field, value) == value
    else:
        with pytest.raises(InputError, match="it takes a number"):
            checked(field, value)


@pytest.mark.parametrize("value", [np.int64(3), np.uint8(3), 3])
def test_whole_numbers_of_numpy_are_whole_numbers(value):
    found = checked(number(int, ge=1), value)
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize("value", [True, 3.0, "3", None, torch.tensor(3.5), [3], float("nan"), 2**31])
def test_nothing_else_is_a_whole_number(value):
    with pytest.raises(InputError, match="it takes a whole number"):
        checked(number(int), value)


def test_lists_stand_for_tuples():
    field = Field("sizes", tuple[int, ...], Option("Sides.", ge=1), ())
    assert checked(field, [8, 16]) == (8, 16)
    with pytest.raises(InputError, match="sizes takes whole numbers of 1 or more in a tuple, not"):
        checked(field, [8, 0])


def test_a_value_is_shown_on_one_short_line():
    class Odd:
        def __repr__(self):
            raise RuntimeError

    assert shown("a\nb" * 100).endswith("...")
    assert len(shown("x" * 10**6)) == 60
    assert shown(Odd()) == "a Odd"


def test_flat_words_make_the_dataclasses_inside():
    options = assembled(PruneOptions, {"macs": 0.5, "parameters": 0.8, "seed": 3})
    assert options == PruneOptions(budget=Budget(macs=0.5, parameters=0.8), seed=3)
    assert {"macs", "ratio", "cutoff", "tolerance"} <= set(words_of(PruneOptions))
    with pytest.raises(InputError, match="either budget or macs, not both"):
        assembled(PruneOptions, {"macs": 0.5, "budget": Budget(macs=0.3)})
    with pytest.raises(InputError, match="name is missing"):
        assembled(DataOptions, {})


def test_a_default_is_not_shared_between_instances():
    @dataclass(frozen=True)
    class Two:
        some: Annotated[Mapping[str, Any], Option("Some.")] = None  # type: ignore[assignment]

        def __post_init__(self):
            check_fields(self)

    given_ = {"a": [1]}
    assert PruneOptions(ratio=0.5).criterion_options is not PruneOptions(ratio=0.5).criterion_options
    assert Two(given_).some == given_


def rule(curve, *, count: int = 3, share: "float | None" = None, unknown_type: "NotThere" = 0, free=1):  # noqa: F821
    return curve, count, share, unknown_type, free


def test_options_of_a_function_are_checked_by_its_annotations():
    check_keywords(rule, {"count": 2, "share": 0.5, "unknown_type": object(), "free": object()}, "the rule")
    with pytest.raises(InputError, match="option 'count' of the rule takes a whole number, not 2.5"):
        check_keywords(rule, {"count": 2.5}, "the rule")
    with pytest.raises(InputError, match="option 'share' of the rule takes a number, not 'a'"):
        check_keywords(rule, {"share": "a"}, "the rule")
    with pytest.raises(InputError, match="unknown option of the rule 'cuont': did you mean 'count'"):
        check_keywords(rule, {"cuont": 2}, "the rule")
    with pytest.raises(InputError, match="unknown option of the rule 'count'"):
        check_keywords(partial(rule, count=2), {"count": 2}, "the rule")
    with pytest.raises(InputError, match="unknown option of the rule 'count'"):
        check_keywords(rule, {"count": 2}, "the rule", but=("count",))


def test_what_is_taken_is_told_in_the_words_of_its_place():
    shape = Field("shape", tuple[int, int, int] | None, Option("C,H,W.", ge=1), None)
    assert takes(shape) == "3 whole numbers of 1 or more in a tuple"
    assert takes(shape, text=True) == "3 whole numbers of 1 or more with commas between them"
    assert takes(Field("some", tuple[str, ...], Option(""), ()), text=True) == "a text, once or more"
    assert takes(Field("budget", Budget | None, None, None)) == "a Budget"
