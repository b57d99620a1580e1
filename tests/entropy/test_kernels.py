"""Gram matrices, against the definition written out, and where it has no answer."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infoprune.entropy import alignment_width, entropy, gram, label_gram, median_width, squared_distances, variables
from infoprune.errors import InputError

from .strategies import SAMPLES, SEEDS, points


def broadcast_distances(x):
    return (x[:, :, None] - x[:, None, :]).square().sum(dim=-1)


@given(SEEDS, SAMPLES, st.integers(1, 20), st.floats(0.2, 5), st.sampled_from(["2s2", "s2"]))
def test_gaussian_is_the_definition_in_both_conventions(seed, n, d, width, convention):
    x = points(seed, n, d, variables=3)
    factor = 2 if convention == "2s2" else 1
    expected = torch.exp(-broadcast_distances(x) / (factor * width**2))
    assert torch.allclose(gram(x, width=width, convention=convention), expected, atol=1e-12)


@given(SEEDS, SAMPLES, st.floats(-1e4, 1e4))
def test_distances_do_not_lose_digits_to_an_offset(seed, n, offset):
    x = points(seed, n, 5, variables=2)
    expected = broadcast_distances(x)
    assert torch.allclose(squared_distances(x + offset), expected, atol=1e-9 * max(1.0, abs(offset)))


def test_single_precision_survives_an_offset_that_ruins_the_textbook_expansion():
    x = torch.randn(1, 100, 64, generator=torch.Generator().manual_seed(0)) + 100
    exact = broadcast_distances(x.double())
    assert ((squared_distances(x).double() - exact).abs().max() / exact.max()).item() < 1e-5


@given(SEEDS, SAMPLES, st.sampled_from(["gaussian", "cosine"]))
def test_the_diagonal_is_one_and_nothing_is_larger(seed, n, kernel):
    K = gram(torch.relu(points(seed, n, variables=2)), kernel)
    assert torch.equal(K.diagonal(dim1=1, dim2=2), torch.ones(2, n, dtype=torch.float64))
    assert K.max() <= 1 + 1e-12
    assert torch.linalg.eigvalsh(K).min() > -1e-12


@given(SEEDS, SAMPLES, st.floats(1e-3, 1e3), st.sampled_from(["median", "mean", "layer", "cosine"]))
def test_scale_free_rules_do_not_see_the_scale(seed, n, scale, rule):
    x = points(seed, n, variables=2)
    rules = {"kernel": "cosine"} if rule == "cosine" else {"width": rule}
    assert torch.allclose(gram(scale * x, **rules), gram(x, **rules), atol=1e-9)


@given(SEEDS, SAMPLES)
def test_a_product_of_gaussians_is_the_gaussian_of_the_concatenation(seed, n):
    x, z = points(seed, n, 3), points(seed + 1, n, 2)
    joined = torch.cat([x / 0.7, z / 1.9], dim=-1)
    assert torch.allclose(gram(x, width=0.7) * gram(z, width=1.9), gram(joined, width=1.0), atol=1e-12)


@pytest.mark.parametrize("rule", ["median", "mean", "silverman", "layer", 2.0])
@pytest.mark.parametrize("constant", [0.0, 0.3, -1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_dead_map_knows_nothing(rule, constant, dtype):
    K = gram(torch.full((1, 12, 7), constant), width=rule, dtype=dtype)
    assert torch.equal(K, torch.ones(1, 12, 12, dtype=dtype))
    assert entropy(K).abs().item() < (1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("rule", ["median", "mean"])
def test_a_map_that_fires_on_two_samples_has_a_width(rule):
    x = torch.zeros(1, 20, 4)
    x[0, 3], x[0, 8] = 1.0, 2.0
    K = gram(x, width=rule)[0]
    assert 0.05 < K[0, 3] < 0.95
    assert K[0, 1] == 1.0


def test_the_median_counts_the_distances_that_are_not_zero():
    x = torch.tensor([[[0.0], [0.0], [0.0], [1.0], [4.0]]])
    # Three pairs at 0, then 1, 1, 1, 3, 4, 4, 4: the lower median of those seven is 3.
    assert median_width(x).item() == pytest.approx(3.0)


@given(SEEDS, st.integers(2, 30))
def test_the_median_is_that_of_sorting(seed, n):
    x = points(seed, n, variables=3)
    distances = squared_distances(x)
    for width, each in zip(median_width(x), distances, strict=True):
        above = each[torch.triu(torch.ones(n, n, dtype=torch.bool), 1) & (each > 0)].sort().values
        expected = above[(len(above) - 1) // 2].sqrt() if len(above) else 0.0
        assert width.item() == pytest.approx(float(expected), rel=1e-12)


def test_silent_samples_are_alike_and_unlike_others_under_the_cosine():
    x = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]])
    expected = torch.tensor(
        [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]], dtype=torch.float64
    )
    assert torch.allclose(gram(x, "cosine")[0], expected, atol=1e-15)


def test_silverman_is_the_published_rule():
    x = points(1, 30, 6)
    width = 5 * 30 ** (-1 / 10)
    assert torch.allclose(gram(x, width="silverman"), gram(x, width=width), atol=1e-14)


def test_the_layer_rule_keeps_the_joint_of_a_layer_from_saturating():
    x = points(2, 40, 8, variables=50)
    joints = {rule: gram(x, width=rule).prod(dim=0) for rule in ("median", "layer")}
    away = ~torch.eye(40, dtype=torch.bool)
    assert joints["median"][away].median() < 1e-4
    assert 0.1 < joints["layer"][away].median() < 0.9


def test_alignment_finds_the_width_of_a_plain_search():
    labels = torch.arange(24) % 3
    x = torch.randn(4, 24, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + labels[:, None]
    whole = x.movedim(0, 1).reshape(24, -1)
    distances = torch.cdist(whole, whole)
    best, expected = -1.0, 0.0
    for width in torch.linspace(0.3, 10 * float(distances.mean()), 300, dtype=torch.float64):
        K, L = torch.exp(-distances.square() / width**2), label_gram(labels)
        aligned = float((K * L).sum() / K.norm() / L.norm())
        if aligned > best + 1e-13:
            best, expected = aligned, float(width)
    assert alignment_width(x, labels) == pytest.approx(expected, rel=1e-9)
    assert alignment_width(whole, labels) == pytest.approx(expected, rel=1e-9)
    assert alignment_width(x, labels, previous=8.0) == pytest.approx(0.9 * 8 + 0.1 * expected, rel=1e-9)
    assert torch.allclose(
        gram(x, width="alignment", convention="s2", labels=labels), gram(x, width=expected, convention="s2"), atol=1e-12
    )


def test_widths_may_differ_by_variable():
    x = points(3, 10, variables=2)
    both = gram(x, width=torch.tensor([0.5, 2.0]))
    assert torch.allclose(both[0], gram(x[0], width=0.5), atol=1e-14)
    assert torch.allclose(both[1], gram(x[1], width=2.0), atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_maps_of_many_features_are_the_definition_in_pieces_too(dtype):
    # Forty variables of 8,000 numbers: three pieces.
    x = 3 + torch.relu(torch.randn(40, 40, 200, generator=torch.Generator().manual_seed(4)))
    x[7, 5:9] = x[7, 4]
    expected = torch.exp(-broadcast_distances(x.double()) / (2 * 12.0**2))
    found = gram(x, width=12.0, dtype=dtype)
    assert torch.allclose(found.double(), expected, atol=1e-5 if dtype == torch.float32 else 1e-12)
    assert torch.equal(gram(x[7:8], width="median"), gram(x, width="median")[7:8])
    assert gram(x, width="median")[7, 4:9, 4:9].eq(1).all()


def test_far_samples_do_not_reach_the_numbers_that_processors_are_slow_with():
    x = torch.linspace(0, 1e4, 20)[None, :, None]
    for dtype in (torch.float32, torch.float64):
        K = gram(x, width=1.0, dtype=dtype)
        assert K.min() >= torch.finfo(dtype).tiny
        assert torch.allclose(K, torch.eye(20, dtype=dtype), atol=1e-30)


def test_one_sample_has_the_gram_matrix_one():
    assert gram(torch.ones(3, 1, 4)).tolist() == [[[1.0]]] * 3


def test_feature_maps_become_variables():
    maps = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    x = variables(maps)
    assert x.shape == (3, 2, 20)
    assert torch.equal(x[1, 0], maps[0, 1].flatten())
    assert variables(torch.ones(7, 3)).shape == (3, 7, 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("kernel", ["gaussian", "cosine"])
def test_numbers_that_are_not_finite_are_refused(bad, kernel):
    x = torch.ones(2, 5, 3)
    x[1, 2, 0] = bad
    x[1, 3, 0] = 7.0
    if bad == 1e30:
        assert torch.isfinite(gram(x, kernel)).all()  # Double precision has room for it.
    with pytest.raises(InputError, match="NaN, infinity"):
        gram(x, kernel, "silverman", dtype=torch.float32 if bad == 1e30 else torch.float64)


def test_words_and_shapes_that_do_not_fit_are_refused():
    x = torch.randn(2, 5, 3)
    with pytest.raises(InputError, match="did you mean 'gaussian'"):
        gram(x, "gausian")
    with pytest.raises(InputError, match="did you mean 'median'"):
        gram(x, width="medium")
    with pytest.raises(InputError, match="convention"):
        gram(x, width=1.0, convention="s3")
    with pytest.raises(InputError, match="labels"):
        gram(x, width="alignment")
    with pytest.raises(InputError, match="positive"):
        gram(x, width=-1.0)
    with pytest.raises(InputError, match="for each of the 2"):
        gram(x, width=torch.ones(3))
    with pytest.raises(InputError, match="shape"):
        gram(torch.ones(2, 2, 2, 2))
    with pytest.raises(InputError, match="floating"):
        gram(torch.ones(2, 2, 2, dtype=torch.int64))
    with pytest.raises(InputError, match="labels for 5 samples"):
        alignment_width(x, torch.zeros(4, dtype=torch.int64))
