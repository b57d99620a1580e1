"""What the user says stays, and what cannot be said."""

import pytest
from toy_costs import ToyGroup, important, kept_of, singles

from infoprune.cutoff import cut_by_counts
from infoprune.errors import InputError

GROUPS = [singles("conv1", 4), singles("conv2", 3), ToyGroup("grouped", 6, ((0, 3), (1, 4), (2, 5)))]
SCORES = {"conv1": important(3, 1, 4, 2), "conv2": important(1, 1, 1), "grouped": important(1, 9, 2, 1, 9, 5)}


def test_a_count_keeps_the_most_important():
    cuts = cut_by_counts(GROUPS, SCORES, {"conv1": 2, "conv2": 2, "grouped": 4})
    assert kept_of(cuts) == {"conv1": (0, 2), "conv2": (0, 1), "grouped": (1, 2, 4, 5)}
    assert cuts["conv1"].reason == "2 of 4 filters stay: the count was given"


def test_all_filters_may_stay_and_one_must():
    assert kept_of(cut_by_counts(GROUPS, SCORES, {"conv1": 4, "conv2": 1})) == {"conv1": (0, 1, 2, 3), "conv2": (0,)}


def test_a_list_is_kept_as_it_is_and_needs_no_importances():
    cuts = cut_by_counts(GROUPS, {}, {"conv1": [3, 0], "grouped": (1, 4), "conv2": range(2)})
    assert kept_of(cuts) == {"conv1": (0, 3), "grouped": (1, 4), "conv2": (0, 1)}
    assert cuts["conv1"].reason == "2 of 4 filters stay: they were listed"


def test_layers_that_are_not_named_are_not_cut():
    assert list(cut_by_counts(GROUPS, SCORES, {"conv2": 2})) == ["conv2"]


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"conv3": 2}, "unknown layer 'conv3': did you mean 'conv[12]'"),
        ({"conv1": 0}, "layer 'conv1' can keep 1 to 4 filters, not 0"),
        ({"conv1": 5}, "layer 'conv1' can keep 1 to 4 filters, not 5"),
        ({"conv1": -1}, "not -1"),
        ({"conv1": True}, "layer 'conv1' is given True: give a count, or a list"),
        ({"conv1": 0.5}, r"layer 'conv1' is given 0.5"),
        ({"conv1": "0"}, "layer 'conv1' is given '0'"),
        ({"conv1": [0, 1.0]}, "layer 'conv1' is given"),
        ({"conv1": [0, True]}, "layer 'conv1' is given"),
        ({"conv1": None}, "layer 'conv1' is given None"),
        ({"conv1": []}, "'conv1' would be left without filters"),
        ({"conv1": [1, 1]}, "'conv1' lists a filter twice"),
        ({"conv1": [0, 4]}, "'conv1' has filters 0 to 3: there is no filter 4"),
        ({"conv1": [-1, 2]}, "there is no filter -1"),
        ({"grouped": 3}, "'grouped' cannot keep 3 filters, because some only go together: keep 4 instead"),
        ({"grouped": 1}, "keep 2 instead"),
        ({"grouped": [0, 1, 4]}, "'grouped': the filters 0, 3 stay or go together"),
    ],
)
def test_what_cannot_be_kept_is_told(keep, message):
    with pytest.raises(InputError, match=message):
        cut_by_counts(GROUPS, SCORES, keep)


def test_filters_that_cannot_go_are_told():
    fixed = ToyGroup("a", 3, ((1,), (2,)))
    with pytest.raises(InputError, match="'a': filter 0 cannot go"):
        cut_by_counts([fixed], {}, {"a": [1, 2]})
    with pytest.raises(InputError, match="keep 1 instead|only go together"):
        cut_by_counts([ToyGroup("a", 3, ((1,),))], {"a": important(1, 2, 3)}, {"a": 1})


def test_a_count_needs_importances():
    with pytest.raises(InputError, match="layer 'conv1' has no importances"):
        cut_by_counts(GROUPS, {}, {"conv1": 2})
