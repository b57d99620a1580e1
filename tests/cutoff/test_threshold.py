"""Filters below a score go."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_costs import ToyGroup, important, kept_of, singles

from infoprune.criteria import Filters, create, find
from infoprune.cutoff import Limits, cut_by_threshold
from infoprune.errors import InputError


def test_each_layer_loses_what_is_below():
    groups = [singles("a", 4), singles("b", 3), singles("c", 2)]
    scores = {"a": important(3, 1, 4, 2), "b": important(5, 5, 5), "c": important(0.5, 0.1)}
    cuts = cut_by_threshold(groups, scores, 2)
    assert kept_of(cuts) == {"a": (0, 2, 3), "b": (0, 1, 2), "c": (0,)}
    assert cuts["a"].reason == "3 of 4 filters stay: the others score below 2"


@given(scores=st.lists(st.floats(-5, 5), min_size=1, max_size=30), threshold=st.floats(-6, 6))
def test_no_more_and_no_fewer_go_than_score_below(scores, threshold):
    kept = cut_by_threshold([singles("a", len(scores))], {"a": important(*scores)}, threshold)["a"].kept
    above = [i for i, score in enumerate(scores) if score >= threshold]
    assert list(kept) == above or (not above and len(kept) == 1)


def test_limits_and_units_hold():
    pairs = ToyGroup("a", 6, ((0, 3), (1, 4), (2, 5)))
    scores = {"a": important(0, 5, 2, 6, 1, 2)}
    assert cut_by_threshold([pairs], scores, 2.5)["a"].kept == (0, 1, 3, 4)
    assert cut_by_threshold([pairs], scores, 9, limits=Limits(keep_at_least=4))["a"].kept == (0, 1, 3, 4)


def test_by_ssim_it_stops_when_no_two_filters_left_are_more_alike():
    maps = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(0)).repeat(1, 3, 1, 1)
    maps += 0.3 * torch.randn(maps.shape, generator=torch.Generator().manual_seed(1))
    criterion = create(find("qsfm-ssim"), Filters(()))
    criterion.update(maps, torch.zeros(6))
    found = criterion.compute()
    kept = list(cut_by_threshold([singles("a", 9)], {"a": found}, 0.4)["a"].kept)
    alike = found.evidence["similarity"][kept][:, kept].fill_diagonal_(-1)
    assert 1 < len(kept) < 9
    assert alike.max() <= 0.6


@pytest.mark.parametrize("threshold", [float("nan"), float("inf")])
def test_a_threshold_that_is_no_number_is_refused(threshold):
    with pytest.raises(InputError, match="score below which filters go"):
        cut_by_threshold([singles("a", 2)], {"a": important(1, 2)}, threshold)
