"""Entropic sparsification: the facts, an optimiser that knows nothing of the updates, and patches laid out by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn
from torch.nn import functional as F

from infoprune.criteria import find
from infoprune.criteria.entropic import Regression, entropic, multiplied, sparsified
from infoprune.criteria.reader_moments import ReaderPart
from infoprune.criteria.scoring import score
from infoprune.errors import InputError
from infoprune.network.coupled_groups import find_groups
from nets import Plain, Residual, Separable, conv_bn, images


def part(gram, weights, per_unit=1, units=None):
    features = len(gram)
    units = features // per_unit if units is None else units
    rows = tuple(torch.arange(per_unit * unit, per_unit * (unit + 1)) for unit in range(units))
    worth = float((weights * (gram @ weights)).sum())
    return ReaderPart(gram.double(), 1, weights.double(), rows, worth)


def drawn(seed, features=6, outputs=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(features, 4 * features, generator=generator).double()
    return x @ x.mT / x.shape[1], torch.randn(features, outputs, generator=generator).double()


def settled(falls, weight):
    shares = torch.full((len(falls),), 1 / len(falls), dtype=torch.float64)
    for _ in range(500):
        shares = multiplied(shares, falls, weight, 1 / 3)
    return shares


def test_a_linear_cost_has_the_probabilities_of_boltzmann():
    # minus the costs 0 and ln 2, and a constant that keeps both positive.
    found = settled(torch.tensor([1.0, 1 - math.log(2)], dtype=torch.float64), weight=1.0)
    assert np.allclose(found, [2 / 3, 1 / 3], atol=1e-9)


def test_a_large_weight_of_the_entropy_makes_all_alike():
    gram, weights = drawn(0)
    found, _ = sparsified([Regression.of(part(gram, weights), 0.1)], 6, weight=1e6, rounds=20)
    assert np.allclose(found, 1 / 6, atol=1e-5)


def test_uncorrelated_features_share_by_the_power_of_two_thirds():
    weights = torch.tensor([[8.0], [1.0], [0.0]])
    found, _ = sparsified([Regression.of(part(torch.eye(3), weights), 1e-9)], 3, weight=0.0, rounds=20)
    assert np.allclose(found, [0.8, 0.2, 0.0], atol=1e-6)
    assert found[2] == 0


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6), ridge=st.sampled_from([1e-4, 0.1, 3.0]), weight=st.sampled_from([-0.1, 0.0, 1e-3, 0.5])
)
def test_the_objective_never_rises_and_probabilities_stay_probabilities(seed, ridge, weight):
    regressions = [Regression.of(part(*drawn(seed + number)), ridge) for number in range(2)]
    shares, objective = sparsified(regressions, 6, weight=weight, rounds=20)
    assert all(later <= earlier for earlier, later in pairwise(objective))
    assert shares.min() >= 0
    assert math.isclose(shares.sum().item(), 1, rel_tol=1e-12)


def slow_objective(w, gram, weights, ridge, weight, per_unit):
    """J with the best L, for relative squared error, by plain inversion."""
    units = len(w)
    factors = np.repeat(units * w, per_unit)
    d, g, z = np.diag(factors), gram.numpy(), weights.numpy()
    e = ridge * g.diagonal().mean()
    fitted = np.linalg.inv(d @ g @ d + e * np.eye(len(g))) @ d @ g @ z
    rest = z - d @ fitted
    error = np.trace(rest.T @ g @ rest) + e * (fitted**2).sum()
    return error / np.trace(z.T @ g @ z) + weight * np.sum(w * np.log(np.maximum(w, 1e-300)))


@pytest.mark.parametrize(("ridge", "weight"), [(0.1, 0.0), (0.1, 0.01), (1.0, 0.0)])
def test_an_optimiser_that_knows_no_derivative_finds_no_less(ridge, weight):
    gram, weights = drawn(3, features=8)
    found, objective = sparsified([Regression.of(part(gram, weights, 2), ridge)], 4, weight=weight, rounds=200)
    own = slow_objective(found.numpy(), gram, weights, ridge, weight, 2)
    assert math.isclose(objective[-1], own, rel_tol=1e-9)
    best = minimize(
        slow_objective, np.full(4, 0.25), (gram, weights, ridge, weight, 2), method="SLSQP", bounds=[(1e-9, 1)] * 4,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, options={"ftol": 1e-12, "maxiter": 500},
    )  # fmt: skip
    assert own <= best.fun + 1e-5
    assert np.allclose(found, best.x, atol=0.02)


def test_against_patches_laid_out_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Linear(5, 2)).eval()
    inputs = torch.randn(200, 3, 8, 8)
    with torch.no_grad():
        maps = model[1](model[0](inputs))
        x = F.unfold(maps, 3).transpose(0, 1).flatten(1).double()
        result = model[2](maps[:16]).double().transpose(0, 1).flatten(1)
    x = x - x.mean(1, keepdim=True)
    gram, weights = x @ x.mT / x.shape[1], model[2].weight.detach().double().flatten(1).T
    rows = tuple(torch.arange(9 * unit, 9 * (unit + 1)) for unit in range(4))
    by_hand = ReaderPart(gram, x.shape[1], weights, rows, float(result.var(dim=1, unbiased=False).sum()))
    wanted, objective = sparsified([Regression.of(by_hand, 0.1)], 4, weight=1e-3, rounds=20)
    found = entropic(model, find_groups(model, inputs[:2]).groups, inputs.split(50))["0"]
    assert torch.allclose(found.scores, 4 * wanted, rtol=1e-4)
    assert np.allclose(found.evidence["objective"], objective, rtol=1e-4)
    assert found.comparable


@pytest.mark.parametrize("network", [Plain, Residual, Separable])
def test_every_group_is_scored_whatever_reads_it(network):
    model, batches = network().eval(), images()
    groups = find_groups(model, batches[0][:2]).groups
    found = score(model, groups, batches, find("entropic"))
    apart = score(model, groups, batches, find("entropic"), options={"memory": 1})
    for group in groups:
        assert math.isclose(found[group.name].scores.mean().item(), 1, rel_tol=1e-5)
        torch.testing.assert_close(found[group.name].scores, apart[group.name].scores)


def test_a_dead_filter_scores_least_and_copies_tie():
    model = Plain(conv_bn(8, 6)).eval()
    with torch.no_grad():
        norm = model.first[1]
        model.first[0].weight[5] = 0
        norm.running_mean[5], norm.bias[5] = 0, -1
        model.first[0].weight[3] = model.first[0].weight[6]
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            tensor[3] = tensor[6]
    groups = find_groups(model, images()[0][:2]).groups
    found = score(model, groups, images(), find("entropic"))["first.0"]
    assert found.order[-1] == 5
    assert found.scores[3] == found.scores[6]
    assert score(model, groups, images(), find("entropic"), options={"weight": 0.0})["first.0"].scores[5] == 0


def test_wrong_options_are_refused():
    model = Plain().eval()
    groups = find_groups(model, images()[0][:2]).groups
    for options, message in (
        ({"ridge": 0.0}, "the ridge of the criterion 'entropic' is above 0, not 0.0"),
        ({"weight": -1.0}, "the weight of the entropy is 0 or more, not -1.0"),
        ({"entropy": "least"}, "'entropy' of the criterion 'entropic' takes one of maximise, minimise"),
        ({"rounds": 0}, "takes 1 round or more, not 0"),
        ({"ridg": 1.0}, "unknown option of the criterion 'entropic' 'ridg'"),
    ):
        with pytest.raises(InputError, match=message):
            score(model, groups, images(), find("entropic"), options=options)
