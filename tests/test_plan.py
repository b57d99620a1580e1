"""The plan is pure data: it reads back as it was written, composes, and refuses nonsense."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infoprune.errors import InputError
from infoprune.plan import Budget, LayerDecision, Plan


@st.composite
def decisions(draw, layer="a", filters=None):
    filters = filters or draw(st.integers(1, 12))
    kept = draw(st.sets(st.integers(0, filters - 1), min_size=1))
    return LayerDecision(layer, filters, tuple(sorted(kept)))


def plans(*entries):
    return Plan({entry.layer: entry for entry in entries})


@given(decisions())
def test_reads_back_what_it_wrote(decision):
    plan = Plan({"a": decision}, {"b": "its outputs are the network's outputs"}, {"seed": 3})
    assert Plan.from_dict(json.loads(plan.to_json())) == plan


@given(st.data())
def test_two_plans_in_turn_are_one_plan(data):
    first = data.draw(decisions())
    second = data.draw(decisions(filters=len(first.kept)))
    channels = [f"filter {i}" for i in range(first.filters)]
    after_first = [channels[i] for i in first.kept]
    after_both = [after_first[i] for i in second.kept]
    assert [channels[i] for i in plans(first).then(plans(second)).kept["a"]] == after_both


@given(decisions())
def test_kept_and_removed_are_all_filters(decision):
    assert sorted(decision.kept + decision.removed) == list(range(decision.filters))


def test_a_later_plan_of_other_widths_is_refused():
    with pytest.raises(InputError, match="'a' has 2 filters after the first plan"):
        plans(LayerDecision("a", 4, (0, 1))).then(plans(LayerDecision("a", 3, (0,))))


def test_differences_name_the_filters():
    one, other = plans(LayerDecision("a", 4, (0, 1))), plans(LayerDecision("a", 4, (1, 2)))
    assert one.differences(other) == {"a": ((0,), (2,))}
    assert one.differences(one) == {}


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [
        ((), "left without filters"),
        ((1, 0), "ascending"),
        ((0, 0), "without repeats"),
        ((0, 4), "there is no filter 4"),
        ((-1, 2), "there is no filter -1"),
    ],
)
def test_impossible_decisions_are_refused(kept, sentence):
    with pytest.raises(InputError, match=sentence):
        LayerDecision("a", 4, kept)


@pytest.mark.parametrize("share", [0, -0.1, 1.01])
@pytest.mark.parametrize("name", ["macs", "parameters", "latency"])
def test_a_budget_outside_its_range_is_refused(name, share):
    with pytest.raises(InputError, match=f"{name} takes a number above 0 and at most 1"):
        Budget(**{name: share})


def test_an_empty_budget_is_refused():
    with pytest.raises(InputError, match="at least one"):
        Budget()


@pytest.mark.parametrize("values", [{}, {"format": 99, "layers": {}}, {"format": 1}, {"format": 1, "layers": {"a": 3}}])
def test_what_is_no_plan_is_refused(values):
    with pytest.raises(InputError, match="plan"):
        Plan.from_dict(values)
