"""What counts as equal, and what comes first among equals."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infoprune.entropy import gram, greedy_order, pairwise_redundancy, relevance, squared_distances
from infoprune.entropy.copies import Copies, copies, distinct
from infoprune.entropy.ties import first_least, ranking, rounding, snapped

from .strategies import SEEDS, class_labels

scores = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.0 + 1e-14, 1.0 - 1e-14, 1 + 2e-14, 3.0]), min_size=1, max_size=12)


@given(scores, st.randoms())
def test_near_ties_are_found_in_whatever_order_scores_come(values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    plain = snapped(torch.tensor(values, dtype=torch.float64))
    shuffled = snapped(torch.tensor([values[i] for i in order], dtype=torch.float64))
    assert torch.equal(shuffled, plain[order])


@given(scores, st.integers(0, 2**31 - 1))
def test_rounding_within_the_bound_changes_no_order(values, seed):
    values = torch.tensor(values, dtype=torch.float64)
    noise = torch.rand(len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5
    assert ranking(values * (1 + 1e-15 * noise)) == ranking(values)


@given(scores)
def test_a_ranking_is_that_of_the_scores_but_for_ties(values):
    found = ranking(torch.tensor(values, dtype=torch.float64))
    assert sorted(found) == list(range(len(values)))
    assert [round(values[i], 6) for i in found] == sorted((round(value, 6) for value in values), reverse=True)
    for one, other in itertools.pairwise(found):
        assert one < other or round(values[one], 6) > round(values[other], 6)
    rising = ranking(torch.tensor(values, dtype=torch.float64), descending=False)
    assert [round(values[i], 6) for i in rising] == sorted(round(value, 6) for value in values)


def test_scores_that_are_linked_are_one_and_others_stay():
    values = torch.tensor([1.0, 1.5, 1.9, 5.0], dtype=torch.float64)
    assert snapped(values, 0.25).tolist() == [1.9, 1.9, 1.9, 5.0]
    assert snapped(values, 0.22).tolist() == [1.0, 1.9, 1.9, 5.0]
    assert snapped(values, torch.tensor([0.5, 0.0, 0.0, 0.0])).tolist() == [1.5, 1.5, 1.9, 5.0]
    assert snapped(values, 0.0).tolist() == values.tolist()


def test_the_least_of_near_ties_is_the_first():
    values = torch.tensor([math.inf, 2.0, 1.0 + 1e-9, 1.0], dtype=torch.float64)
    assert first_least(values, 1e-8) == 2
    assert first_least(values, 1e-10) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_stay_within_the_bound(dtype):
    generator = torch.Generator().manual_seed(0)
    for terms in (1, 10, 1000, 100_000):
        x = torch.randn(terms, generator=generator, dtype=torch.float64).to(dtype)
        one_by_one = x.cumsum(0)[-1] if terms < 100_000 else x.sum()
        exact = math.fsum(x.double().tolist())
        assert abs(float(one_by_one) - exact) <= rounding(dtype, terms) * float(x.double().abs().sum())


def test_precisions_below_single_are_summed_in_single():
    assert rounding(torch.bfloat16, 7) == rounding(torch.float16, 7) == rounding(torch.float32, 7)


@given(SEEDS, st.integers(1, 20), st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]))
def test_copies_are_found_to_the_bit(seed, filters, dtype):
    generator = torch.Generator().manual_seed(seed)
    leaders = [int(torch.randint(0, i + 1, (), generator=generator)) for i in range(filters)]
    maps = torch.randn(filters, 5, 3, generator=generator).to(dtype)
    expected = []
    for i, leader in enumerate(leaders):
        maps[i] = maps[leader] if leader < i else maps[i]
        expected.append(expected[leader] if leader < i else i)
    assert copies(maps).tolist() == expected
    first, places = distinct(maps)
    assert torch.equal(maps[first][places], maps)
    streamed = Copies()
    for part in maps.split([1, 3, 1], dim=1):
        streamed.update(part)
    assert streamed.leaders.tolist() == expected


def test_what_differs_in_one_value_is_no_copy():
    maps = torch.zeros(4, 400, 9)
    maps[1, 200, 3] = 1e-30
    maps[2, 7, 8], maps[3, 8, 7] = 1.0, 1.0  # The same bits in other places.
    assert copies(maps).tolist() == [0, 1, 2, 3]


def test_zeros_of_either_sign_are_the_same_and_nan_is_like_nothing():
    assert copies(torch.tensor([[[0.0]], [[-0.0]], [[math.nan]], [[math.nan]]])).tolist() == [0, 0, 2, 3]


def test_copies_in_one_half_only_are_none():
    halves = Copies(), Copies()
    halves[0].update(torch.tensor([[[1.0]], [[1.0]], [[1.0]]]))
    halves[1].update(torch.tensor([[[1.0]], [[2.0]], [[1.0]]]))
    halves[0].merge(halves[1])
    assert halves[0].leaders.tolist() == [0, 1, 0]
    empty = Copies()
    empty.merge(halves[0])
    assert empty.leaders.tolist() == [0, 1, 0]


def with_copies(seed, n=37, filters=29, d=5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(filters, n, d, generator=generator).relu()
    of = torch.randint(0, filters, (filters,), generator=generator)
    return x[of], of, class_labels(seed, n)


@given(SEEDS, st.sampled_from([1.0, 1.01, 2.0, 3.0]), st.sampled_from(["gaussian", "cosine"]))
def test_copies_have_the_same_relevance_and_redundancy_to_the_bit(seed, alpha, kernel):
    x, of, labels = with_copies(seed)
    found, redundancy = relevance(x, labels, alpha, kernel=kernel), pairwise_redundancy(x, kernel=kernel)
    assert torch.equal(redundancy, redundancy.T)
    for filter_ in of.unique():
        members = (of == filter_).nonzero().flatten()
        assert len(found[members].unique()) == 1
        assert torch.equal(redundancy[members], redundancy[members[:1]].expand(len(members), -1))
    _, places = distinct(x)
    assert torch.allclose(found, torch.stack([relevance(each[None], labels, alpha, kernel=kernel)[0] for each in x]))
    assert len(found.unique()) <= int(places.max()) + 1


@given(SEEDS, st.sampled_from([torch.float32, torch.float64]), st.integers(2, 40), st.sampled_from([3, 60]))
def test_what_is_symmetric_is_so_to_the_bit(seed, dtype, n, d):
    x = torch.randn(3, n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    for matrix in (squared_distances(x), gram(x), gram(x, width=2.0, dtype=torch.float32), gram(x, "cosine")):
        assert torch.equal(matrix, matrix.mT)


@pytest.mark.parametrize("method", ["exact", "hybrid", "pairs", "quadratic"])
@pytest.mark.parametrize("seed", range(3))
def test_of_copies_the_lowest_index_is_chosen_first(method, seed):
    x, of, labels = with_copies(seed)
    order = greedy_order(x, labels, method=method).order
    for filter_ in of.unique():
        places = [order.index(i) for i in (of == filter_).nonzero().flatten().tolist()]
        assert places == sorted(places)


@pytest.mark.parametrize("method", ["exact", "hybrid", "pairs", "quadratic"])
@pytest.mark.parametrize("seed", range(3))
def test_wherever_copies_lie_the_same_maps_are_chosen(method, seed):
    x, of, labels = with_copies(seed)
    permutation = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    plain, permuted = greedy_order(x, labels, method=method), greedy_order(x[permutation], labels, method=method)
    resolved = min(plain.saturated_at, permuted.saturated_at)
    assert resolved > 3
    assert of[list(plain.order[:resolved])].tolist() == of[permutation][list(permuted.order[:resolved])].tolist()
