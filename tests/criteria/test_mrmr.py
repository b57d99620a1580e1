"""Relevance minus redundancy, in bits worked out by hand and by the package's own entropies."""

import math

import numpy as np
import pytest
import torch

from infoprune.criteria import Filters, create, find
from infoprune.entropy import label_gram, mutual_information
from infoprune.entropy.kernels import gram
from infoprune.errors import InputError

LABELS = torch.tensor([0, 0, 1, 1])
COLUMNS = {"t1": (0, 0, 1, 1), "t2": (0, 0, 1, 1), "t3": (0, 1, 0, 1), "t4": (0, 0, 0, 1)}


def scored(values, labels, **options):
    criterion = create(find("mrmr"), Filters((), (), "conv1"), options=options)
    criterion.update(values[:, :, None, None], labels)
    return criterion.compute()


def columns(*names):
    return torch.tensor([COLUMNS[name] for name in names], dtype=torch.float64).T


def test_binary_maps_in_bits():
    found = scored(columns("t1", "t2", "t3", "t4"), LABELS, estimator="histogram", bins=2)
    assert np.allclose(found.evidence["relevance"], [1, 1, 0, 0.311278], atol=2e-6)
    redundancy = found.evidence["redundancy"]
    assert np.allclose([redundancy[0, 1], redundancy[0, 2], redundancy[0, 3], redundancy[2, 3]],
                       [1, 0, 0.311278, 0.311278], atol=2e-6)  # fmt: skip


def test_the_scores_of_three():
    found = scored(columns("t1", "t2", "t3"), LABELS, estimator="histogram")
    assert np.allclose(found.scores, [0.5, 0.5, 0], atol=1e-12)
    assert found.order == (0, 1, 2)


def test_greedily_the_copy_of_a_chosen_filter_is_worth_nothing():
    found = scored(columns("t1", "t2", "t4"), LABELS, estimator="histogram", greedy=True)
    assert found.order == (0, 1, 2)
    assert np.allclose(found.scores, [1, 0, min(0, 0.311278 - 0.311278)], atol=1e-12)


def test_the_matrix_based_information_is_the_packages_own():
    generator = torch.Generator().manual_seed(0)
    values, labels = torch.randn(20, 4, generator=generator, dtype=torch.float64), torch.arange(20) % 3
    found = scored(values, labels)
    grams = gram(values.T[:, :, None].contiguous())
    of_labels = label_gram(labels)
    for f in range(4):
        expected = mutual_information(grams[f], of_labels, alpha=2)
        assert math.isclose(found.evidence["relevance"][f], float(expected), rel_tol=1e-6)
        for g in range(f):
            expected = mutual_information(grams[f], grams[g], alpha=2)
            assert math.isclose(found.evidence["redundancy"][f, g], float(expected), rel_tol=1e-6)
    mean = (found.evidence["redundancy"].sum(1) - found.evidence["redundancy"].diagonal()) / 3
    assert torch.allclose(found.scores, found.evidence["relevance"] - mean, rtol=1e-9)


def test_beta_weighs_the_redundancy():
    values, labels = torch.randn(12, 3, dtype=torch.float64), torch.arange(12) % 2
    found = scored(values, labels, beta=0.0)
    assert torch.allclose(found.scores, found.evidence["relevance"], rtol=1e-9)


def test_what_cannot_be_is_refused():
    values = torch.randn(4, 2)
    with pytest.raises(InputError, match="at least two classes"):
        scored(values, torch.zeros(4, dtype=torch.long))
    with pytest.raises(InputError, match="beta weighs"):
        scored(values, LABELS, beta=-1)
    with pytest.raises(InputError, match="estimator"):
        scored(values, LABELS, estimator="knn")
