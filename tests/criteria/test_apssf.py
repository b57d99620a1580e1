"""Filters averaged along their axes and joined by single linkage, against scipy's linkage and a plain loop."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from infoprune.criteria import Filters, create, find
from infoprune.criteria.apssf import averaged_distances, removal_by_joining


def scored(*weights):
    return create(find("apssf"), Filters(weights)).compute()


def drawn(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_the_average_over_the_inputs_cannot_tell_their_exchange():
    found = averaged_distances(torch.tensor([[1.0, 0.0], [0.0, 1.0]])[:, :, None, None])
    assert math.isclose(found[0, 1], 2 * math.sqrt(2), rel_tol=1e-12)


def test_distances_by_a_plain_loop():
    filters = drawn(0, 5, 4, 3, 2)
    w = filters.numpy()
    expected = [[sum(np.linalg.norm(a.mean(axis) - b.mean(axis)) for axis in range(3)) for b in w] for a in w]
    assert np.allclose(averaged_distances(filters), expected, atol=1e-12)
    assert np.allclose(scored(filters).evidence["distance"], expected, atol=1e-12)


def test_a_linear_layer_has_two_axes_of_length_one():
    rows = drawn(1, 4, 6)
    expected = 2 * torch.cdist(rows, rows) + (rows.mean(1)[:, None] - rows.mean(1)).abs()
    assert torch.allclose(averaged_distances(rows), expected, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), filters=st.integers(1, 12))
def test_for_every_number_one_filter_of_each_single_link_cluster_is_kept(seed, filters):
    points = drawn(seed, filters, 3)
    distance = torch.cdist(points, points)
    distance = (distance + distance.T) / 2
    removed = removal_by_joining(distance, torch.ones(filters))
    assert sorted(removed) == list(range(filters))
    if filters == 1:
        return
    tree = hierarchy.linkage(squareform(distance.numpy(), checks=False), "single")
    for left in range(1, filters + 1):
        clusters = hierarchy.fcluster(tree, left, "maxclust")
        assert len(set(clusters)) == left
        assert len({clusters[f] for f in removed[filters - left :]}) == left


def test_of_a_pair_the_filter_nearer_to_a_third_is_removed():
    points = torch.tensor([[0.0], [1.0], [2.5], [9.0]], dtype=torch.float64)
    # 1 is nearer to 2 than 0 is, then 2 is nearer to 3 than 0 is; of the last two the norms decide.
    assert removal_by_joining(torch.cdist(points, points), torch.tensor([1.0, 1.0, 1.0, 2.0])) == [1, 2, 0, 3]


def test_of_equally_near_ones_the_smaller_norm_is_removed_then_the_later():
    same = torch.zeros(2, 2, dtype=torch.float64)
    assert removal_by_joining(same, torch.tensor([1.0, 2.0])) == [0, 1]
    assert removal_by_joining(same, torch.tensor([1.0, 1.0])) == [1, 0]


def test_the_layers_of_a_group_are_added():
    one, other = drawn(2, 5, 3, 2, 2), drawn(3, 5, 7)
    together = scored(one, other).evidence["distance"]
    assert torch.allclose(together, scored(one).evidence["distance"] + scored(other).evidence["distance"])


def test_a_filter_without_weights_is_removed_first():
    weights = drawn(4, 6, 3, 3, 3)
    weights[2] = 0
    assert scored(weights).order[-1] == 2


@pytest.mark.parametrize("filters", [1, 2])
def test_few_filters(filters):
    assert sorted(scored(drawn(5, filters, 3, 3, 3)).order) == list(range(filters))
