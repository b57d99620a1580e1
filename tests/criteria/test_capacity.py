"""Capacity and independence of weights, against numbers worked out by hand and numpy."""

import math

import numpy as np
import pytest
import torch

from infoprune.criteria import Filters, create, find
from infoprune.criteria.capacity import magnitude_capacity
from infoprune.errors import InputError


def scored(weights, **options):
    filters = Filters((torch.as_tensor(weights, dtype=torch.float64),))
    return create(find("capacity"), filters, options=options).compute()


def test_the_entropy_of_shares():
    two = magnitude_capacity(torch.tensor([[3.0, 1.0]]), scaled=False).item() * math.log(2)
    assert math.isclose(two, 0.562335, abs_tol=2e-6)
    assert magnitude_capacity(torch.tensor([[1.0, 1, 1, 1], [5, 0, 0, 0]]), scaled=False).tolist() == [1, 0]


def test_a_filter_of_zeros_is_last():
    found = scored([[0.0, 0, 0], [1, 2, 3], [0, 1, 0]])
    assert found.order[-1] == 0
    assert found.scores[0] == 0


def test_the_one_without_correlation_is_independent():
    found = scored([[1.0, 2, 3], [2, 4, 6], [1, -2, 1]])
    assert np.allclose(found.evidence["independence"], [0.5, 0.5, 1])


@pytest.mark.parametrize("scaled", [True, False])
def test_against_numpy(scaled):
    weights = np.random.default_rng(0).normal(size=(6, 10))
    rich, alone = [], []
    for f in range(6):
        p = np.abs(weights[f]) / np.abs(weights[f]).sum()
        rich.append(-(p * np.log(p)).sum() / np.log(10))
        alone.append(1 - np.mean([abs(np.corrcoef(weights[f], weights[g])[0, 1]) for g in range(6) if g != f]))
    if scaled:
        rich = np.array(rich) * np.abs(weights).sum(1) / np.abs(weights).sum(1).max()
    slow = [(np.array(v) - min(v)) / (max(v) - min(v)) for v in (rich, alone)]
    assert np.allclose(scored(weights, scaled=scaled, balance=0.7).scores, slow[0] + 0.7 * slow[1])


def test_the_histogram_has_one_grid_for_the_layer():
    weights = np.random.default_rng(1).normal(size=(5, 30)) * np.array([[1], [0.01], [1], [2], [0.5]])
    rich = scored(weights, capacity="histogram").evidence["capacity"]
    for f in range(5):
        p = np.histogram(weights[f], bins=10, range=(weights.min(), weights.max()))[0] / 30
        assert math.isclose(rich[f], -sum(q * math.log(q) for q in p if q) / math.log(10), rel_tol=1e-12)
    assert rich.argmin() == 1


def test_filters_that_are_equal_but_for_rounding_have_one_score():
    row = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    found = scored(torch.stack([row, row[[1, 2, 0]], row[[2, 0, 1]]]))
    assert len(set(found.scores.tolist())) == 1


@pytest.mark.parametrize("options", [{"capacity": "x"}, {"independence": "x"}, {"balance": -1},
                                     {"capacity": "histogram", "bins": 1}])  # fmt: skip
def test_wrong_options_are_refused(options):
    with pytest.raises(InputError, match="capacity|independence|balance|bins"):
        scored([[1.0, 2], [2, 1]], **options)
