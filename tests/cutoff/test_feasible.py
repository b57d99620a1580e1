"""What can be reached, and what stands in the way."""

import pytest
from toy_costs import Chain, ToyGroup, groups_of, singles

from infoprune.cutoff import Limits, check_reach, reach
from infoprune.errors import InputError
from infoprune.plan import Budget


def test_the_smallest_share_keeps_one_filter_everywhere():
    chain = Chain([16, 8], [64, 16])
    found = reach(groups_of(chain), chain)
    smallest = chain.shares({"a": [0], "b": [0]})
    assert (found.macs, found.parameters) == (smallest["macs"], smallest["parameters"])
    assert found.binding("macs") == found.binding("parameters") == ()


def test_every_group_tells_what_it_can_give_alone():
    chain = Chain([16, 8], [64, 16])
    first, second = reach(groups_of(chain), chain, limits=Limits(keep_at_least=2)).groups
    assert (first.layer, first.filters, first.least) == ("a", 16, 2)
    assert first.macs == pytest.approx(1 - chain.shares({"a": range(2)})["macs"])
    assert second.parameters == pytest.approx(1 - chain.shares({"b": range(2)})["parameters"])


def test_limits_that_bind_are_named_the_worst_first():
    chain = Chain([16, 100, 7], [64, 64, 64])
    found = reach(groups_of(chain), chain, limits=Limits(multiple=8))
    assert [(one.layer, one.least) for one in found.groups] == [("a", 8), ("b", 8), ("c", 7)]
    assert [one.layer for one in found.binding()] == ["b", "a", "c"]
    kept = {"a": range(8), "b": range(8), "c": range(7)}
    lifted = {**kept, "c": range(1)}
    assert found.groups[2].held_macs == pytest.approx(chain.shares(kept)["macs"] - chain.shares(lifted)["macs"])
    assert found.groups[2].macs == 0


def test_groups_go_as_far_as_their_units_allow():
    groups = [ToyGroup("a", 6, ((0, 3), (1, 4), (2, 5))), singles("b", 4)]
    chain = Chain([6, 4], [4, 4])
    assert [one.least for one in reach(groups, chain).groups] == [2, 1]
    assert [one.least for one in reach(groups, chain, limits=Limits(keep_at_least=3)).groups] == [4, 3]


def test_layers_outside_all_groups_bound_the_reach():
    chain = Chain([16, 8], [64, 16])
    found = reach(groups_of(chain)[:1], chain)
    assert found.macs == chain.shares({"a": [0]})["macs"]
    with pytest.raises(InputError, match="the rest is in layers that cannot lose filters"):
        check_reach(found, Budget(macs=0.01))


def test_what_can_be_met_passes():
    chain = Chain([16, 8], [64, 16])
    found = reach(groups_of(chain), chain)
    check_reach(found, Budget(macs=found.macs, parameters=found.parameters))
    check_reach(found, Budget(latency=0.01))
    with pytest.raises(InputError, match="of the MACs cannot be met"):
        check_reach(found, Budget(macs=found.macs * 0.999))


def test_without_groups_nothing_can_be_reached():
    chain = Chain([4], [4])
    with pytest.raises(InputError, match="100 % remain at least, so ask for 1 or more"):
        check_reach(reach([], chain), Budget(parameters=0.9))
