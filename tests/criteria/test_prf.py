"""Clusters of filters and the order in which they lose members, worked out by hand."""

import numpy as np
import pytest
import torch

from infoprune.criteria import Filters, create, find
from infoprune.criteria.prf import clusters_of
from infoprune.errors import InputError

ANGLES, NORMS = np.deg2rad([0, 10, 90, 100]), np.array([4.0, 1, 3, 2])


def rows(factors):
    # Of L1 norm 1, so that the factor is the norm.
    plane = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
    return torch.from_numpy(plane / np.abs(plane).sum(1, keepdims=True) * np.asarray(factors)[:, None])


def scored(weights, **options):
    return create(find("prf"), Filters((weights,)), options=options).compute()


def removal(found):
    return list(found.order)[::-1]


def test_the_clusters_of_four_angles():
    found = scored(rows(NORMS))
    assert found.evidence["cluster"].tolist() == [0, 0, 1, 1]
    assert removal(found) == [3, 1, 2, 0]
    assert found.scores.tolist() == [1, 0.5, 0.75, 0.25]


def test_without_sparing_a_cluster_can_vanish():
    assert removal(scored(rows(NORMS), spare=False)) == [3, 2, 1, 0]


def test_one_cluster_is_ordered_by_norm():
    found = scored(rows(NORMS), similarity=-0.2)
    assert found.evidence["cluster"].tolist() == [0] * 4
    assert removal(found) == [1, 3, 2, 0]


def test_clusters_do_not_change_with_the_scale_of_a_filter():
    weights = torch.randn(12, 6, dtype=torch.float64)
    scales = torch.rand(12, 1, dtype=torch.float64) + 0.1
    assert clusters_of(weights, 0.3) == clusters_of(weights * scales, 0.3)


def test_against_merging_by_hand():
    weights = torch.randn(10, 5, dtype=torch.float64).numpy()
    units = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    distance = 1 - units @ units.T
    clusters = [[i] for i in range(10)]
    while len(clusters) > 1:
        pairs = [(max(distance[i, j] for i in a for j in b), x, y)
                 for x, a in enumerate(clusters) for y, b in enumerate(clusters) if x < y]  # fmt: skip
        height, x, y = min(pairs)
        if height > 1 - 0.2:
            break
        clusters[x] += clusters.pop(y)
    found = clusters_of(torch.from_numpy(weights), 0.2)
    assert {frozenset(one) for one in clusters} == {
        frozenset(i for i in range(10) if found[i] == number) for number in set(found)
    }


def test_a_filter_of_zeros_goes_first():
    weights = rows([4, 0, 3, 2])
    assert removal(scored(weights))[0] == 1


def test_a_similarity_that_is_no_cosine_is_refused():
    with pytest.raises(InputError, match="the similarity is a cosine"):
        scored(rows(NORMS), similarity=1.5)
