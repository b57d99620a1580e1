"""Which inequalities hold of these entropies, at which orders, and a published one that does not."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infoprune.entropy import (
    conditional_mutual_information,
    entropy,
    joint_entropy,
    label_gram,
    mutual_information,
)

from .strategies import ORDERS, SAMPLES, SEEDS, grams


@given(SEEDS, SAMPLES, ORDERS)
def test_a_joint_knows_no_less_than_each_of_its_parts_at_every_order(seed, n, alpha):
    K, L = grams(seed, n, variables=2)
    joint = joint_entropy(K, L, alpha=alpha).item()
    assert joint >= max(entropy(K, alpha).item(), entropy(L, alpha).item()) - 1e-9


@given(SEEDS, SAMPLES, ORDERS)
def test_a_second_variable_adds_at_most_the_logarithm_of_its_rank(seed, n, alpha):
    K, L = grams(seed, n, variables=2)
    rank = math.log2(torch.linalg.matrix_rank(L).item())
    assert joint_entropy(K, L, alpha=alpha).item() <= entropy(K, alpha).item() + rank + 1e-6


@given(SEEDS, SAMPLES)
def test_information_is_never_negative_at_order_one(seed, n):
    X, Y, Z = grams(seed, n, variables=3)
    assert mutual_information(X, Y, 1.0).item() >= -1e-9
    assert conditional_mutual_information(X, Y, Z, 1.0).item() >= -1e-9
    assert mutual_information(X * Z, Y, 1.0).item() >= mutual_information(X, Y, 1.0).item() - 1e-9


def of_table(table):
    """Gram matrices of two discrete variables that occur together so many times."""
    pairs = [
        (row, column) for row, counts in enumerate(table) for column, count in enumerate(counts) for _ in range(count)
    ]
    first, second = (torch.tensor(values) for values in zip(*pairs, strict=True))
    return label_gram(first), label_gram(second)


@pytest.mark.parametrize(
    ("table", "alpha", "expected"),
    [(((0, 3), (3, 8)), 2.0, -0.0725), (((0, 1), (1, 2)), 3.0, -0.146)],
)
def test_information_can_be_negative_at_other_orders_whatever_was_published(table, alpha, expected):
    X, Y = of_table(table)
    assert mutual_information(X, Y, alpha).item() == pytest.approx(expected, abs=5e-4)
    assert mutual_information(X, Y, 1.0).item() > 0


def quadratic(K):
    """1 - tr A^2, the quadratic (Tsallis-2) entropy."""
    return 1 - (K / len(K)).square().sum()


@given(SEEDS, SAMPLES)
def test_the_quadratic_information_is_a_sum_of_squares(seed, n):
    X, Y, Z = grams(seed, n, variables=3)
    conditional = quadratic(X * Z) + quadratic(Y * Z) - quadratic(X * Y * Z) - quadratic(Z)
    identity = (Z.square() * (1 - X.square()) * (1 - Y.square())).sum() / n**2
    assert conditional.item() == pytest.approx(identity.item(), abs=1e-12)
    assert conditional.item() >= -1e-12


@given(SEEDS, SAMPLES, st.sampled_from([1.0, 2.0]))
def test_what_a_variable_adds_shrinks_as_others_join_at_order_one_and_for_the_quadratic(seed, n, alpha):
    A, B, C = grams(seed, n, variables=3)
    measure = (lambda K: entropy(K, 1.0)) if alpha == 1.0 else quadratic
    alone = measure(A * C) - measure(A)
    later = measure(A * B * C) - measure(A * B)
    assert later.item() <= alone.item() + 1e-9


def test_a_copy_is_not_redundant_under_the_product_except_between_labels():
    K = grams(1, 12)[0]
    assert joint_entropy(K, K, alpha=1.01).item() > entropy(K, 1.01).item() + 0.1
