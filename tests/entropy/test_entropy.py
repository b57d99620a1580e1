"""What is true of the entropy of every Gram matrix."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infoprune.entropy import (
    conditional_mutual_information,
    entropy,
    entropy_of_spectrum,
    gram,
    joint_entropy,
    label_gram,
    mutual_information,
)
from infoprune.errors import InputError

from .strategies import ORDERS, SAMPLES, SEEDS, class_labels, grams

NEAR = 1e-9


@given(SEEDS, SAMPLES, ORDERS)
def test_lies_between_zero_and_the_logarithm_of_the_rank(seed, n, alpha):
    K = grams(seed, n)[0]
    value = float(entropy(K, alpha))
    assert -NEAR <= value <= math.log2(torch.linalg.matrix_rank(K).item()) + 1e-6
    assert value <= math.log2(n) + NEAR


@given(SAMPLES, ORDERS)
def test_of_one_sample_seen_n_times_is_zero_and_of_n_unlike_samples_log_n(n, alpha):
    assert entropy(torch.ones(n, n, dtype=torch.float64), alpha).item() == pytest.approx(0, abs=NEAR)
    assert entropy(torch.eye(n, dtype=torch.float64), alpha).item() == pytest.approx(math.log2(n), abs=NEAR)


@given(SEEDS, SAMPLES, ORDERS)
def test_does_not_depend_on_the_order_of_the_samples(seed, n, alpha):
    K, L = grams(seed, n, variables=2)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    shuffled = (K[order][:, order], L[order][:, order])
    assert entropy(shuffled[0], alpha).item() == pytest.approx(entropy(K, alpha).item(), abs=NEAR)
    assert joint_entropy(*shuffled, alpha=alpha).item() == pytest.approx(
        joint_entropy(K, L, alpha=alpha).item(), abs=NEAR
    )


@given(SEEDS, SAMPLES, st.sampled_from([1.0, 1.01, 2.0, 3.0]), st.integers(2, 3))
def test_is_unchanged_when_every_sample_is_seen_m_times(seed, n, alpha, m):
    K = grams(seed, n)[0]
    assert entropy(K.repeat(m, m), alpha).item() == pytest.approx(entropy(K, alpha).item(), abs=1e-8)


@given(SEEDS, st.integers(2, 6), st.integers(2, 5), ORDERS)
def test_of_independent_variables_on_a_grid_adds_up(seed, n, m, alpha):
    K, L = grams(seed, n)[0], grams(seed + 1, m)[0]
    together = entropy(torch.kron(K, L), alpha).item()
    assert together == pytest.approx(entropy(K, alpha).item() + entropy(L, alpha).item(), abs=1e-8)


@given(SEEDS, SAMPLES)
def test_falls_as_alpha_grows_and_order_two_is_at_most_twice_the_smallest(seed, n):
    K = grams(seed, n)[0]
    values = [float(entropy(K, alpha)) for alpha in (0.9, 1.0, 1.01, 1.5, 2.0, 3.0, 8.0, 20.0, math.inf)]
    assert all(later <= earlier + NEAR for earlier, later in itertools.pairwise(values))
    assert values[4] <= 2 * values[-1] + NEAR


@given(SEEDS, SAMPLES, st.sampled_from([-1.0, 1.0]))
def test_is_continuous_at_one(seed, n, side):
    K = grams(seed, n)[0]
    assert entropy(K, 1 + side * 1e-6).item() == pytest.approx(entropy(K, 1.0).item(), abs=1e-4)
    assert entropy(K, 1 + side * 1e-12).item() == pytest.approx(entropy(K, 1.0).item(), abs=1e-9)


@given(SEEDS, SAMPLES, st.integers(2, 9))
def test_of_whole_orders_is_that_of_the_eigenvalues(seed, n, alpha):
    K = grams(seed, n)[0]
    expected = entropy_of_spectrum(torch.linalg.eigvalsh(K), float(alpha)).item()
    assert entropy(K, alpha).item() == pytest.approx(expected, abs=1e-9)
    assert entropy(K, alpha + 1e-9).item() == pytest.approx(expected, abs=1e-6)


@given(SEEDS, SAMPLES, st.floats(0.3, 8))
def test_of_labels_is_the_classical_entropy_of_the_class_shares(seed, n, alpha):
    labels = class_labels(seed, n)
    shares = torch.bincount(labels).double() / n
    shares = shares[shares > 0]
    if abs(alpha - 1) < 1e-3:
        expected = -(shares * shares.log2()).sum()
    else:
        expected = shares.pow(alpha).sum().log2() / (1 - alpha)
    K = label_gram(labels)
    assert entropy(K, alpha).item() == pytest.approx(expected.item(), abs=2e-3 if abs(alpha - 1) < 1e-3 else 1e-7)
    assert joint_entropy(K, K, alpha=alpha).item() == pytest.approx(entropy(K, alpha).item(), abs=1e-12)


@given(SEEDS, SAMPLES, ORDERS)
def test_a_joint_with_what_never_varies_is_the_other_and_with_what_always_does_log_n(seed, n, alpha):
    K = grams(seed, n)[0]
    ones, unlike = torch.ones_like(K), torch.eye(n, dtype=torch.float64)
    assert joint_entropy(K, ones, alpha=alpha).item() == pytest.approx(entropy(K, alpha).item(), abs=NEAR)
    assert joint_entropy(K, unlike, alpha=alpha).item() == pytest.approx(math.log2(n), abs=NEAR)


@given(SEEDS, SAMPLES, ORDERS)
def test_information_is_symmetric_and_obeys_the_chain_rule(seed, n, alpha):
    X, Y, Z = grams(seed, n, variables=3)
    assert mutual_information(X, Y, alpha).item() == pytest.approx(mutual_information(Y, X, alpha).item(), abs=1e-12)
    chain = mutual_information(Z, Y, alpha) + conditional_mutual_information(X, Y, Z, alpha)
    assert mutual_information(X * Z, Y, alpha).item() == pytest.approx(chain.item(), abs=1e-9)


def test_bits_and_nats_are_a_factor_apart():
    K = grams(3, 10)[0]
    assert entropy(K, 1.01, "bits").item() * math.log(2) == pytest.approx(entropy(K, 1.01, "nats").item(), rel=1e-14)


def test_batches_of_any_shape_are_those_of_each_matrix():
    K = grams(4, 9, variables=6)
    batched = entropy(K.reshape(2, 3, 9, 9), 1.01)
    assert batched.shape == (2, 3)
    assert torch.allclose(batched.flatten(), torch.stack([entropy(each, 1.01) for each in K]), atol=1e-13)


@pytest.mark.parametrize("alpha", [1.0, 1.01, 1.1, 1.0001, 2.0])
def test_single_precision_keeps_six_digits_at_every_order(alpha):
    K = grams(5, 200)[0]
    assert entropy(K.float(), alpha).item() == pytest.approx(entropy(K, alpha).item(), abs=5e-6)


def test_an_order_that_is_huge_is_that_of_the_largest_eigenvalue():
    K = grams(6, 12)[0]
    assert entropy(K, 1e4).item() == pytest.approx(entropy(K, math.inf).item(), rel=1e-3)
    assert math.isfinite(entropy(K, 1e300).item())


@settings(max_examples=10)
@given(SEEDS, st.sampled_from([1.0, 1.01, 2.0, 3.0]))
def test_gradients_are_those_of_finite_differences(seed, alpha):
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)
    labels = label_gram(torch.arange(6) % 2)

    def information(x):
        return mutual_information(gram(x, width=1.3), labels, alpha)

    assert torch.autograd.gradcheck(information, (x,), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("alpha", [0, -1, math.nan])
def test_orders_outside_are_refused(alpha):
    with pytest.raises(InputError, match="alpha"):
        entropy(torch.eye(3), alpha)


def test_unknown_units_and_shapes_are_refused():
    with pytest.raises(InputError, match="did you mean 'bits'"):
        entropy(torch.eye(3), unit="bit")
    with pytest.raises(InputError, match="shape"):
        entropy(torch.ones(3, 4))
    with pytest.raises(InputError, match="at least one"):
        joint_entropy()
