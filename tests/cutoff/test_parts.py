"""A group whose filters belong to several layers, part by part: no cut-off leaves one of them without channels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_costs import Chain, ToyGroup, important

from infoprune.cutoff import Limits, cut_by_counts, cut_by_ratio, cut_by_threshold, cut_by_worth, cut_to_budget
from infoprune.cutoff.ranking import rank
from infoprune.errors import InputError
from infoprune.plan import Budget

JOINED = ToyGroup("a", 8, tuple((i,) for i in range(8)), ((0, 1, 2), (3, 4)))
PAIRS = ToyGroup("a", 8, ((0, 4), (1, 5), (2, 6), (3, 7)), ((0, 1), (4, 5)))


class OneLayer(Chain):
    def __init__(self):
        super().__init__([8], [16])


def holds(group, kept):
    return all(set(part) & set(kept) for part in group.parts)


@settings(max_examples=60, deadline=None)
@given(group=st.sampled_from([JOINED, PAIRS]), ratio=st.floats(0, 0.99), scores=st.permutations(range(8)))
def test_a_share_of_the_filters(group, ratio, scores):
    importances = {"a": important(*map(float, scores))}
    assert holds(group, cut_by_ratio([group], importances, ratio)["a"].kept)
    assert holds(group, cut_by_threshold([group], importances, 8 * ratio)["a"].kept)


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0.4, 1), scores=st.permutations(range(8)))
def test_a_budget(share, scores):
    importances = {"a": important(*map(float, scores))}
    cost, budget = OneLayer(), Budget(macs=share)
    for cuts in (
        cut_to_budget([JOINED], importances, cost, budget),
        cut_by_worth([JOINED], importances, {"a": important(*map(float, scores[::-1]))}, cost, budget),
    ):
        assert holds(JOINED, cuts["a"].kept)
        assert cost.shares({"a": cuts["a"].kept})["macs"] <= share


def test_the_least_important_branch_keeps_its_best_filter():
    importances = {"a": important(5.0, 6.0, 7.0, 0.2, 0.1, 8.0, 9.0, 10.0)}
    assert cut_by_ratio([JOINED], importances, 0.5)["a"].kept == (2, 3, 6, 7)
    assert 3 in cut_by_ratio([JOINED], importances, 0.75)["a"].kept
    assert 4 not in cut_by_ratio([JOINED], importances, 0.75)["a"].kept


def test_counts_that_would_empty_a_layer_are_refused():
    importances = {"a": important(*map(float, range(8)))}
    assert cut_by_counts([JOINED], importances, {"a": 2})["a"].kept == (2, 4)
    with pytest.raises(InputError, match="because every coupled layer keeps a channel: keep 2 instead"):
        cut_by_counts([JOINED], importances, {"a": 1})
    with pytest.raises(InputError, match="keep at least one of the filters 3, 4"):
        cut_by_counts([JOINED], {}, {"a": [0, 5, 6]})


@pytest.mark.parametrize(("filters", "least"), [(52, 48), (20, 16), (40, 40), (8, 8), (5, 5)])
def test_a_width_that_is_no_multiple_is_cut_to_one_whatever_is_asked(filters, least):
    group = ToyGroup("a", filters, tuple((i,) for i in range(filters)))
    importances = {"a": important(*torch.rand(filters, generator=torch.Generator().manual_seed(0)).tolist())}
    limits = Limits(multiple=8)
    assert len(cut_by_ratio([group], importances, 0.0, limits=limits)["a"].kept) == least
    assert len(cut_by_threshold([group], importances, -1.0, limits=limits)["a"].kept) == least
    chain = Chain([filters], [16])
    assert len(cut_to_budget([group], importances, chain, Budget(macs=1.0), limits=limits)["a"].kept) == least
    assert rank([group], importances, limits).forced == (filters != least)


def test_counts_are_rounded_to_the_multiple_and_lists_are_not():
    group = ToyGroup("a", 52, tuple((i,) for i in range(52)))
    importances = {"a": important(*map(float, range(52)))}
    for asked, kept in ((13, 16), (11, 8), (12, 16), (1, 8), (52, 48)):
        assert len(cut_by_counts([group], importances, {"a": asked}, multiple=8)["a"].kept) == kept
    with pytest.raises(InputError, match="lists 3 filters to keep, which is no multiple of 8"):
        cut_by_counts([group], {}, {"a": [0, 1, 2]}, multiple=8)
