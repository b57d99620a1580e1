"""Perceptual hashes and the graphs of them, worked out by hand and with scipy."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from infoprune.criteria import Filters, create, find
from infoprune.criteria.phash import core, core_numbers, hash_similarity, hashes, star
from infoprune.errors import InputError


def bits(values, threshold="mean"):
    return hashes(torch.as_tensor(np.asarray(values, dtype=float)), threshold).int().tolist()


def graph(size, **pairs):
    found = torch.eye(size, dtype=torch.float64)
    for pair, value in pairs.items():
        i, j = (int(digit) for digit in pair[1:])
        found[i, j] = found[j, i] = value
    return found


def test_two_by_two():
    assert bits([[1, 0], [0, 0]]) == [1, 0, 0, 0]
    assert bits([[1, -1], [1, -1]]) == [0, 1, 0, 0]
    assert bits([[2, 0], [2, 0]]) == [1, 1, 0, 0]


def test_constants_of_16_by_16():
    assert [sum(bits(np.full((16, 16), value))) for value in (5, 0, -5)] == [1, 64, 63]


@pytest.mark.parametrize("shape", [(8, 8), (16, 12), (5, 7)])
def test_against_scipy(shape):
    maps = np.random.default_rng(0).normal(size=(4, *shape))
    for one in maps:
        block = dctn(one)[:8, :8]
        assert bits(one) == (block >= block.mean()).astype(int).ravel().tolist()


def test_under_the_median_gain_and_offset_do_not_matter():
    one = np.random.default_rng(0).normal(size=(8, 8))
    assert bits(one, "median") == bits(3 * one + 7, "median")
    assert sum(a != b for a, b in zip(bits(one, "median"), bits(-one, "median"), strict=True)) >= 62
    with pytest.raises(InputError, match="threshold of the criterion 'phash'"):
        bits(one, "mode")


def test_similarity_is_the_share_of_equal_bits():
    maps = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    found = hash_similarity(maps)
    for n in range(2):
        for f in range(3):
            for g in range(3):
                same = [a == b for a, b in zip(bits(maps[n, f]), bits(maps[n, g]), strict=True)]
                assert found[n, f, g] == pytest.approx(np.mean(same))


def test_the_two_rules_on_a_star_whose_leaves_come_first():
    similarity = graph(4, p03=0.9, p13=0.9, p23=0.9)
    norms = torch.tensor([1.0, 9.0, 2.0, 3.0])
    assert star(similarity, norms, 0.8) == {3}
    assert core(similarity, norms, 0.8) == {1}


def test_the_rule_of_2023_on_a_path():
    assert star(graph(4, p01=0.9, p12=0.8, p23=0.8), torch.ones(4), 0.8) == {1}
    assert star(graph(2, p01=0.9), torch.ones(2), 0.8) == {0}
    assert star(graph(3), torch.ones(3), 0.8) == {0, 1, 2}


def test_the_innermost_core_goes_first():
    # A triangle with a tail: the triangle keeps its strongest, then the tail and what it hangs on.
    similarity = graph(4, p01=0.9, p02=0.9, p12=0.9, p03=0.9)
    assert core_numbers((similarity.numpy() > 0.5) & ~np.eye(4, dtype=bool)).tolist() == [2, 2, 2, 1]
    assert core(similarity, torch.tensor([3.0, 2.0, 1.0, 4.0]), 0.8) == {3}
    assert core(similarity, torch.tensor([1.0, 2.0, 3.0, 4.0]), 0.8) == {2, 3}


def scored(maps, weights, **options):
    criterion = create(find("phash"), Filters((weights,), (), "conv1"), options=options)
    criterion.update(maps, torch.zeros(len(maps), dtype=torch.long))
    return criterion.compute()


def test_of_two_filters_with_one_hash_the_smaller_norm_goes():
    maps = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    maps[:, 2] = 2 * maps[:, 0]
    weights = torch.tensor([[2.0], [1.0], [1.5], [1.0]])
    assert scored(maps, weights).order[-1] == 2
    for rule in ("star", "core"):
        found = scored(maps, weights, rule=rule, t=0.99)
        # Both are each other's only neighbour; 2023 keeps the first, 2024 the stronger.
        assert found.scores.tolist() == [1, 1, 0, 1]


@pytest.mark.parametrize("options", [{"rule": "x"}, {"t": 0.0}, {"t": 2.0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(InputError, match="rule|similarity"):
        scored(torch.randn(2, 3, 4, 4), torch.randn(3, 1), **options)
