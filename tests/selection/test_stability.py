"""How alike plans are that were made from different samples."""

import pytest

from infoprune.errors import InputError
from infoprune.plan import LayerDecision, Plan
from infoprune.selection.stability import spread


def plan(kept, order=None):
    return Plan({"conv": LayerDecision("conv", 4, kept, order=order)})


def test_plans_that_are_the_same():
    found = spread([plan((0, 1), (1, 0, 2, 3)), plan((0, 1), (1, 0, 2, 3))])["conv"]
    assert found == {"kept": [2, 2], "overlap": 1.0, "kendall_tau": pytest.approx(1.0)}


def test_overlap_and_agreement_are_means_over_pairs():
    found = spread([plan((0, 1), (0, 1, 2, 3)), plan((0, 1, 2), (0, 1, 2, 3)), plan((3,), (3, 2, 1, 0))])["conv"]
    assert found["kept"] == [2, 3, 1]
    assert found["overlap"] == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert found["kendall_tau"] == pytest.approx((1 - 1 - 1) / 3)


def test_orders_are_compared_by_the_places_of_filters():
    # One neighbouring pair of four filters has changed places: 5 of 6 pairs agree.
    found = spread([plan((0,), (3, 1, 0, 2)), plan((0,), (1, 3, 0, 2))])["conv"]
    assert found["kendall_tau"] == pytest.approx(4 / 6)


def test_without_orders_only_the_filters_are_compared():
    assert spread([plan((0,)), plan((0, 1))])["conv"] == {"kept": [1, 2], "overlap": 0.5}


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="at least two plans, not of 1"):
        spread([plan((0,))])
    with pytest.raises(InputError, match="different layers"):
        spread([plan((0,)), Plan({"other": LayerDecision("other", 4, (0,))})])
