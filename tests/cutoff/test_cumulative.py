"""The fewest filters that hold a share of the scores, worked out by hand, and on a network."""

import pytest
import torch

import infoprune
from infoprune.criteria import CriterionInfo, Importance, register
from infoprune.criteria.base import _REGISTRY
from infoprune.criteria.weights import of_weights
from infoprune.cutoff import Curve, candidates
from infoprune.errors import InputError
from infoprune.selection.layerwise.sequence import curve_of_scores
from nets import Plain

SCORES = torch.tensor([2.0, 4.0, 1.0, 3.0])


def kept(scores, share):
    return candidates("cumulative", curve_of_scores(Importance(scores)), {"share": share})


def test_the_sum_must_exceed_the_share():
    assert kept(SCORES, 0.6) == (2,)
    assert kept(SCORES, 0.7) == (3,)
    assert kept(SCORES, 0.39) == (1,)


def test_rounding_is_no_excess():
    assert kept(torch.full((10,), 0.1), 0.5) == (6,)
    assert kept(torch.full((10,), 1.0), 0.5) == (6,)


def test_scores_of_zero_keep_everything():
    assert kept(torch.zeros(3), 0.5) == (3,)


def test_a_curve_of_its_own_is_cut_as_it_is():
    assert candidates("cumulative", Curve((6.0, 3.0, 1.0, 0.0), whole=10.0), {"share": 0.6}) == (2,)


def test_a_share_of_everything_is_refused():
    with pytest.raises(InputError, match="keeps a share of the scores"):
        kept(SCORES, 1.0)


def test_a_network_is_cut_by_the_scores_of_any_criterion():
    model, images = Plain().eval(), [(torch.randn(8, 3, 8, 8), torch.arange(8) % 4)]
    plan = infoprune.plan(model, images, criterion="l1", cutoff="cumulative", cutoff_options={"share": 0.6})
    for decision in plan.decisions.values():
        scores = torch.tensor(decision.scores)
        held = scores[list(decision.kept)].sum()
        assert held > 0.6 * scores.sum() >= held - scores[list(decision.kept)].min() - 1e-6


def test_negative_scores_are_refused():
    name = "test-negative"
    register(CriterionInfo(name, of_weights(lambda filters: Importance(-torch.ones(len(filters.weights[0])).double())),
                           "below zero", needs_maps=False))  # fmt: skip
    try:
        with pytest.raises(InputError, match="'cumulative' adds up scores, and the criterion 'test-negative' has neg"):
            infoprune.plan(Plain().eval(), [(torch.randn(4, 3, 8, 8), torch.arange(4))], criterion=name,
                           cutoff="cumulative")  # fmt: skip
    finally:
        del _REGISTRY[name]
