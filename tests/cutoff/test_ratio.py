"""The same share from every layer."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_costs import ToyGroup, drawn, important, kept_of, singles

from infoprune.criteria.base import Importance
from infoprune.cutoff import Limits, cut_by_ratio
from infoprune.errors import InputError


def test_the_least_important_go():
    groups = [singles("a", 4), singles("b", 3)]
    cuts = cut_by_ratio(groups, {"a": important(3, 1, 4, 2), "b": important(1, 1, 1)}, 0.5)
    assert kept_of(cuts) == {"a": (0, 2), "b": (0, 1)}
    assert cuts["a"].reason == "2 of 4 filters stay: the ratio removes 50 %"


@given(filters=st.integers(1, 100), percent=st.integers(0, 99))
def test_the_share_is_rounded_down_and_one_filter_stays(filters, percent):
    group = singles("a", filters)
    kept = cut_by_ratio([group], drawn([group]), percent / 100)["a"].kept
    assert len(kept) == max(1, filters - filters * percent // 100)


def test_the_order_decides_where_scores_are_equal():
    importance = Importance(torch.zeros(4, dtype=torch.float64), order=(3, 1, 0, 2))
    assert cut_by_ratio([singles("a", 4)], {"a": importance}, 0.5)["a"].kept == (1, 3)
    assert cut_by_ratio([singles("a", 4)], {"a": important(0, 0, 0, 0)}, 0.5)["a"].kept == (0, 1)


def test_units_go_whole():
    pairs = ToyGroup("a", 6, ((0, 3), (1, 4), (2, 5)))
    importance = {"a": important(0, 5, 2, 6, 1, 2)}
    # The means of the units are 3, 3 and 2; of the equal ones the first stays.
    for ratio, kept in ((0.32, (0, 1, 2, 3, 4, 5)), (0.5, (0, 1, 3, 4)), (0.66, (0, 1, 3, 4)), (0.67, (0, 3))):
        assert cut_by_ratio([pairs], importance, ratio)["a"].kept == kept, ratio


def test_filters_of_no_unit_stay():
    assert cut_by_ratio([ToyGroup("a", 4, ((1,), (2,)))], {"a": important(0, 1, 2, 3)}, 0.9)["a"].kept == (0, 3)


@pytest.mark.parametrize(
    ("filters", "ratio", "multiple", "kept"),
    [
        (16, 0.5, 4, 8),
        (16, 0.4, 4, 12),
        (16, 0.99, 4, 4),
        (18, 0.1, 4, 16),
        (18, 0.2, 4, 16),
        (4, 0.9, 4, 4),
        (3, 0.9, 4, 3),
    ],
)
def test_counts_are_multiples_and_thin_layers_are_left(filters, ratio, multiple, kept):
    group = singles("a", filters)
    assert len(cut_by_ratio([group], drawn([group]), ratio, limits=Limits(multiple=multiple))["a"].kept) == kept


def test_limits_hold():
    group = singles("a", 10)
    for limits, kept in ((Limits(keep_at_least=4), 4), (Limits(keep_share=0.35), 4), (Limits(keep_at_least=20), 10)):
        assert len(cut_by_ratio([group], drawn([group]), 0.9, limits=limits)["a"].kept) == kept


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.5, float("nan")])
def test_ratios_out_of_range_are_refused(ratio):
    with pytest.raises(InputError, match="from 0 to below 1"):
        cut_by_ratio([singles("a", 4)], {"a": important(1, 2, 3, 4)}, ratio)


def test_missing_or_foreign_importances_are_refused():
    with pytest.raises(InputError, match="layer 'a' has no importances"):
        cut_by_ratio([singles("a", 4)], {}, 0.5)
    with pytest.raises(InputError, match="layer 'a' has 4 filters, but importances for 3"):
        cut_by_ratio([singles("a", 4)], {"a": important(1, 2, 3)}, 0.5)


@pytest.mark.parametrize("limits", [{"keep_at_least": 0}, {"keep_share": 1.5}, {"keep_share": -1}, {"multiple": 0}])
def test_limits_out_of_range_are_refused(limits):
    with pytest.raises(InputError):
        Limits(**limits)
