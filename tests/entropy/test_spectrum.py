"""Eigenvalues by every short cut, against the plain solver."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from infoprune.entropy import gram
from infoprune.entropy.spectrum import eigenvalues, eigenvalues_of_copies

from .strategies import SAMPLES, SEEDS, grams


@given(SEEDS, SAMPLES, st.sampled_from([1e-12, 1.0, 1e12]))
def test_are_those_of_the_plain_solver_at_any_scale(seed, n, scale):
    K = grams(seed, n, variables=3) * scale
    expected = torch.linalg.eigvalsh(K)
    assert torch.allclose(eigenvalues(K), expected, rtol=0, atol=1e-14 * n * scale)
    assert torch.allclose(eigenvalues(K[0]), expected[0], rtol=0, atol=1e-14 * n * scale)


@given(SEEDS, SAMPLES)
def test_matrices_are_written_over_only_where_that_is_allowed(seed, n):
    K = grams(seed, n, variables=2)
    before = K.clone()
    kept = eigenvalues(K)
    assert torch.equal(eigenvalues_of_copies(K), eigenvalues_of_copies(before))
    assert torch.equal(K, before)
    assert torch.equal(eigenvalues(K, overwrite=True), kept)


@given(SEEDS, st.integers(2, 40), st.lists(st.integers(0, 40), min_size=1, max_size=20))
def test_many_copies_of_one_sample_change_no_eigenvalue(seed, n, silent):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(len(silent), n, 3, generator=generator, dtype=torch.float64)
    for each, count in zip(x, silent, strict=True):
        each[torch.randperm(n, generator=generator)[:count]] = 0.0
    K = gram(x, width=1.0)
    for overwrite in (False, True):
        found = eigenvalues_of_copies(K, overwrite=overwrite)
        assert torch.allclose(found.sort(dim=-1).values, torch.linalg.eigvalsh(gram(x, width=1.0)), atol=1e-12)


def test_a_matrix_that_gradients_flow_through_is_left_alone():
    x = torch.rand(4, 12, 2, dtype=torch.float64, requires_grad=True)
    K = gram(x, width=1.0)
    eigenvalues_of_copies(K, overwrite=True).square().sum().backward()
    again = x.detach().clone().requires_grad_()
    torch.linalg.eigvalsh(gram(again, width=1.0)).square().sum().backward()
    assert torch.allclose(x.grad, again.grad, atol=1e-9)


def test_eigenvalues_are_float64_whatever_the_precision():
    K = grams(1, 30, variables=2).float()
    assert eigenvalues(K).dtype == torch.float64
    assert torch.allclose(eigenvalues(K), torch.linalg.eigvalsh(K.double()), atol=1e-13)
