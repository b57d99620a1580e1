"""Approximations, each within what it says it may be wrong by."""

import math

import pytest
import torch

from infoprune.entropy import entropy, gram, low_rank_entropy, random_trace_entropy
from infoprune.errors import InputError


@pytest.fixture(scope="module")
def gram_matrix():
    x = torch.relu(torch.randn(1, 500, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    return gram(x, width=2.0)[0]


@pytest.mark.parametrize("alpha", [0.6, 1.0, 1.01, 2.0, 3.0])
@pytest.mark.parametrize("rank", [20, 100, 400])
def test_low_rank_bounds_hold_and_close(gram_matrix, alpha, rank):
    exact = entropy(gram_matrix, alpha).item()
    found = low_rank_entropy(gram_matrix, alpha, rank)
    assert found.low - 1e-3 <= exact <= found.high + 1e-6
    assert found.value == pytest.approx(found.high)
    wider = low_rank_entropy(gram_matrix, alpha, rank // 2)
    assert found.high - found.low < wider.high - wider.low


def test_low_rank_of_all_eigenvalues_is_exact(gram_matrix):
    small = gram_matrix[:60, :60]
    assert low_rank_entropy(small, 1.01, 60).value == pytest.approx(entropy(small, 1.01).item(), abs=1e-9)


@pytest.mark.parametrize("alpha", [0.9, 1.0, 1.01, 3.0])
@pytest.mark.parametrize("rank", [0, 32])
def test_random_trace_is_within_a_few_of_its_errors(gram_matrix, alpha, rank):
    exact = entropy(gram_matrix, alpha).item()
    found = [random_trace_entropy(gram_matrix, alpha, rank, seed=seed) for seed in range(8)]
    errors = [abs(each.value - exact) / ((each.high - each.low) / 4) for each in found]
    assert sum(error < 3 for error in errors) >= 7
    assert max(abs(each.value - exact) for each in found) < 0.08


def test_random_trace_is_exact_at_order_two_whose_moments_are_known(gram_matrix):
    assert random_trace_entropy(gram_matrix, 2.0, probes=4).value == pytest.approx(
        entropy(gram_matrix, 2.0).item(), abs=1e-9
    )


def test_the_leading_eigenvalues_make_the_random_trace_better(gram_matrix):
    exact = entropy(gram_matrix, 1.01).item()
    without, deflated = (
        sum(abs(random_trace_entropy(gram_matrix, 1.01, rank, seed=seed).value - exact) for seed in range(6))
        for rank in (0, 64)
    )
    assert deflated < without / 3


def test_estimates_repeat_under_a_seed_and_come_in_nats(gram_matrix):
    assert random_trace_entropy(gram_matrix, seed=3) == random_trace_entropy(gram_matrix, seed=3)
    assert random_trace_entropy(gram_matrix, seed=3) != random_trace_entropy(gram_matrix, seed=4)
    assert low_rank_entropy(gram_matrix, unit="nats").value == pytest.approx(
        low_rank_entropy(gram_matrix).value * math.log(2)
    )


def test_what_makes_no_sense_is_refused(gram_matrix):
    with pytest.raises(InputError, match="rank"):
        low_rank_entropy(gram_matrix, rank=501)
    with pytest.raises(InputError, match="rank"):
        random_trace_entropy(gram_matrix, rank=500)
    with pytest.raises(InputError, match="probes"):
        random_trace_entropy(gram_matrix, probes=2)
    with pytest.raises(InputError, match="infinity"):
        low_rank_entropy(gram_matrix, math.inf)
    with pytest.raises(InputError, match="shape"):
        low_rank_entropy(gram_matrix[None])
