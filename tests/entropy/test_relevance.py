"""Every short cut to what a map knows about the labels, against the definition written out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infoprune.entropy import (
    alignment_width,
    entropy,
    gram,
    joint_entropy,
    label_gram,
    median_width,
    mutual_information,
    pairwise_redundancy,
    relevance,
)
from infoprune.entropy.distances import Distances
from infoprune.errors import InputError

from .strategies import SEEDS, class_labels, points


def written_out(x, y, alpha, label_kernel="indicator", convention="2s2", **kernel):
    """The papers' way: the full matrices, their eigenvalues, the bare formula."""
    K = gram(x, convention=convention, **kernel)
    L = label_gram(y, label_kernel, convention).expand_as(K)

    def renyi(matrix):
        shares = torch.linalg.eigvalsh(matrix / matrix.shape[-1]).clamp(min=0)
        if alpha == 1:
            return -torch.xlogy(shares, shares).sum(dim=-1) / math.log(2)
        if math.isinf(alpha):
            return -shares.amax(dim=-1).log2()
        return shares.pow(alpha).sum(dim=-1).log2() / (1 - alpha)

    return renyi(K) + renyi(L) - renyi(K * L)


@given(
    SEEDS,
    st.integers(3, 30),
    st.sampled_from([1.0, 1.01, 2.0, 3.0, 5.0, 0.95, math.inf]),
    st.sampled_from(["indicator", "silverman", 0.1, 1.0]),
    st.sampled_from([{"kernel": "cosine"}, {"width": 0.8}, {"width": "median"}, {"width": 2.0, "convention": "s2"}]),
)
def test_is_the_definition(seed, n, alpha, label_kernel, kernel):
    x = torch.relu(points(seed, n, d=2, variables=5))
    labels = class_labels(seed, n)
    found = relevance(x, labels, alpha, label_kernel=label_kernel, **kernel)
    expected = written_out(x, labels, alpha, label_kernel, **kernel)
    assert torch.allclose(found, expected, atol=5e-6 if alpha == 2 else 1e-7)


@pytest.mark.parametrize("alpha", [1.0, 1.01, 2.0])
def test_silent_samples_counted_as_one_change_nothing(alpha):
    generator = torch.Generator().manual_seed(0)
    x = torch.relu(torch.randn(6, 60, 4, generator=generator, dtype=torch.float64) - 1)
    x[2] = 0.0
    x[3, :50] = 0.0
    labels = class_labels(0, 60, classes=4)
    expected = written_out(x, labels, alpha, width=1.0)
    assert torch.allclose(relevance(x, labels, alpha, width=1.0), expected, atol=1e-6 if alpha == 2 else 1e-10)


@given(SEEDS, st.sampled_from([1.0, 1.01, 2.0, 3.0]), st.sampled_from(["median", 9.0]))
def test_maps_of_many_features_in_any_order_of_samples(seed, alpha, width):
    x = torch.relu(points(seed, 20, d=90, variables=4)).float()
    labels = class_labels(seed, 20)
    expected = written_out(x, labels, alpha, width=width)
    assert torch.allclose(relevance(x, labels, alpha, width), expected, atol=2e-6 if alpha == 2 else 1e-9)


@given(SEEDS, st.integers(1, 6), st.floats(1, 6))
def test_samples_far_away_and_near_each_other_cost_order_two_no_digits(seed, far, power):
    # Expanded distances between them drown in the rounding of their norms.
    x = points(seed, 40, d=8, variables=3).float()
    x[1, :far] += 10**power
    labels = class_labels(seed, 40)
    found = relevance(x, labels, 2.0, width=2.0)
    assert torch.allclose(found, written_out(x, labels, 2.0, width=2.0), atol=1e-6)
    assert torch.allclose(found[[0, 2]], relevance(x[[0, 2]], labels, 2.0, width=2.0), atol=1e-6)


def test_few_features_under_the_cosine_go_by_their_covariance():
    x = torch.relu(torch.randn(5, 80, 3, generator=torch.Generator().manual_seed(3)))
    x[0, 7] = 0.0
    labels = class_labels(1, 80)
    expected = written_out(x, labels, 1.01, kernel="cosine")
    assert torch.allclose(relevance(x, labels, kernel="cosine"), expected, atol=1e-9)


def test_the_widths_of_the_information_bottleneck_papers():
    x = torch.rand(3, 20, 6, generator=torch.Generator().manual_seed(3))
    labels = class_labels(1, 20)
    cmi = relevance(x, labels, 1.01, "silverman", label_kernel="silverman", unit="nats")
    assert torch.allclose(cmi, written_out(x, labels, 1.01, "silverman", width="silverman") * math.log(2), atol=1e-9)
    hrel = relevance(x, labels, 1.0, "alignment", convention="s2", label_kernel=0.1)
    expected = written_out(x, labels, 1.0, 0.1, "s2", width="alignment", labels=labels)
    assert torch.allclose(hrel, expected, atol=1e-9)


def test_a_dead_map_has_none_and_a_map_that_is_the_label_all():
    labels = torch.arange(30) % 3
    maps = torch.stack([torch.zeros(30, 2), torch.nn.functional.one_hot(labels).float()[:, :2]])
    values = relevance(maps, labels, 1.0, width=0.01)
    assert values.tolist() == pytest.approx([0.0, math.log2(3)], abs=1e-12)


def test_is_not_clipped_where_it_is_negative():
    # Exact counts make the delta kernel of two discrete variables, whose information is negative at order 2.
    counts = {(0, 1): 3, (1, 0): 3, (1, 1): 8}
    pairs = torch.tensor([pair for pair, count in counts.items() for _ in range(count)])
    maps = 1e3 * torch.nn.functional.one_hot(pairs[:, 0]).double()[None]
    assert relevance(maps, pairs[:, 1], 2.0, width=1.0).item() == pytest.approx(-0.0725, abs=5e-4)


@pytest.mark.parametrize("counts", [(1, 1, 1), (10, 1, 3), (7, 7, 7, 7)])
def test_classes_of_any_sizes(counts):
    labels = torch.cat([torch.full((count,), 2 * index) for index, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    x = points(2, len(labels), variables=3)
    for alpha in (1.01, 2.0, 3.0):
        assert torch.allclose(relevance(x, labels, alpha), written_out(x, labels, alpha), atol=1e-6)


def test_one_class_leaves_nothing_to_know():
    x = points(2, 9, variables=3)
    assert relevance(x, torch.zeros(9, dtype=torch.int64)).abs().max() < 1e-12


def test_does_not_depend_on_the_order_of_samples_or_maps():
    x, labels = points(5, 25, variables=4), class_labels(5, 25)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(relevance(x[:, order], labels[order]), relevance(x, labels), atol=1e-10)
    assert torch.allclose(relevance(x.flip(0), labels), relevance(x, labels).flip(0), atol=1e-12)


def test_redundancy_is_the_information_of_order_two():
    x = points(6, 30, variables=5)
    K = gram(x)
    expected = mutual_information(K[:, None], K[None, :], 2.0)
    found = pairwise_redundancy(x)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(found, found.T)
    twice = 2 * entropy(K[0], 2.0) - joint_entropy(K[0], K[0], alpha=2.0)
    assert found[0, 0].item() == pytest.approx(twice.item(), abs=1e-5)
    assert torch.allclose(pairwise_redundancy(x, width=median_width(x)), found, atol=1e-5)


def test_labels_that_do_not_fit_are_refused():
    x = torch.randn(2, 5, 3)
    with pytest.raises(InputError, match="4 labels for 5 samples"):
        relevance(x, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(InputError, match="integers"):
        relevance(x, torch.zeros(5))
    with pytest.raises(InputError, match="start at 0"):
        relevance(x, torch.tensor([0, 1, -1, 0, 0]))
    with pytest.raises(InputError, match="class indices"):
        relevance(x, torch.zeros(5, 2, dtype=torch.int64))
    with pytest.raises(InputError, match="label kernel"):
        relevance(x, torch.zeros(5, dtype=torch.int64), label_kernel="delta")
    with pytest.raises(InputError, match="positive"):
        relevance(x, torch.zeros(5, dtype=torch.int64), label_kernel=0.0)
    with pytest.raises(InputError, match="shape"):
        relevance(torch.randn(2, 5), torch.zeros(5, dtype=torch.int64))


@given(
    SEEDS,
    st.integers(3, 30),
    st.sampled_from([1.0, 2.0, 1.5, math.inf]),
    st.sampled_from([0.8, "median", "mean", "layer", "output", "alignment"]),
)
def test_distances_do_in_place_of_the_maps(seed, n, alpha, width):
    x, labels = points(seed, n, d=40, variables=4), class_labels(seed, n)
    x[2] = x[1]
    wanted = relevance(x, labels, alpha, width=width)
    found = relevance(Distances.of(x), labels, alpha, width=width)
    assert torch.allclose(found, wanted, atol=5e-6 if alpha == 2 else 1e-7)
    assert found[1] == found[2]
    assert alignment_width(Distances.of(x), labels) == pytest.approx(alignment_width(x, labels))


def test_distances_are_refused_where_the_maps_are_needed():
    x, labels = torch.rand(2, 6, 3), torch.arange(6) % 2
    with pytest.raises(InputError, match="distances between samples make no kernel 'cosine': give the variables"):
        relevance(Distances.of(x), labels, kernel="cosine")
    with pytest.raises(InputError, match="'silverman' needs the number of features: give the variables"):
        relevance(Distances.of(x), labels, width="silverman")
