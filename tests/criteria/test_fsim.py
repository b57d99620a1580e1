"""Feature similarity and two-dimensional entropy, worked out by hand and with numpy."""

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve, uniform_filter

from infoprune.criteria import Filters, create, find
from infoprune.criteria.fsim import (
    gradient_similarity,
    log_gabor,
    phase_congruency,
    scharr,
    similarities,
    two_dimensional_entropy,
)

STRIPES = [[0.0, 0, 1, 1]] * 4


def scored(maps):
    criterion = create(find("fsim"), Filters((), (), "conv1"))
    criterion.update(maps, torch.zeros(len(maps), dtype=torch.long))
    return criterion.compute()


def test_entropy_of_three_maps():
    found = [
        two_dimensional_entropy(torch.tensor([one])).item() for one in ([[1.0] * 4] * 4, STRIPES, [[0.0, 1], [1, 0]])
    ]
    assert np.allclose(found, [0, 2, 1])


def test_entropy_against_numpy():
    for one in np.random.default_rng(0).normal(size=(3, 7, 9)):
        level = np.round((one - one.min()) / np.ptp(one) * 255)
        mean = np.floor(uniform_filter(level, 3, mode="nearest") + 1e-9)
        counts = np.unique(np.stack([level, mean]).reshape(2, -1), axis=1, return_counts=True)[1] / one.size
        expected = -(counts * np.log2(counts)).sum()
        assert two_dimensional_entropy(torch.from_numpy(one)[None]).item() == pytest.approx(expected)


def test_the_gradient_term():
    assert gradient_similarity(torch.tensor(0.0), torch.tensor(4.0)).item() == pytest.approx(160 / 176)


def test_the_gradient_against_scipy():
    one = np.random.default_rng(1).normal(size=(6, 8))
    kernel = np.array([[3, 0, -3], [10, 0, -10], [3, 0, -3]]) / 16
    expected = np.hypot(convolve(one, kernel, mode="nearest"), convolve(one, kernel.T, mode="nearest"))
    assert np.allclose(scharr(torch.from_numpy(one)[None])[0], expected)


def test_a_map_is_like_itself_and_similarity_is_symmetric():
    maps = torch.rand(4, 12, 10, dtype=torch.float64) * 255
    found = similarities(maps)
    assert torch.allclose(found.diagonal(), torch.ones(4).double())
    assert torch.allclose(found, found.T)
    assert found.min() > 0
    assert found.max() <= 1 + 1e-12


def test_against_a_pair_at_a_time():
    maps = torch.rand(3, 9, 8, dtype=torch.float64) * 255
    pc, g = phase_congruency(maps).numpy(), scharr(maps).numpy()
    for a in range(3):
        for b in range(3):
            s_pc = (2 * pc[a] * pc[b] + 0.85) / (pc[a] ** 2 + pc[b] ** 2 + 0.85)
            s_g = (2 * g[a] * g[b] + 160) / (g[a] ** 2 + g[b] ** 2 + 160)
            weight = np.maximum(pc[a], pc[b])
            assert similarities(maps)[a, b].item() == pytest.approx((s_pc * s_g * weight).sum() / weight.sum())


def test_small_maps_are_compared_by_gradients_alone():
    maps = torch.rand(2, 5, 5, dtype=torch.float64) * 255
    expected = gradient_similarity(*scharr(maps)).mean()
    assert similarities(maps)[0, 1].item() == pytest.approx(expected.item())


def test_phase_congruency_is_a_share_and_does_not_change_with_gain_and_offset():
    maps = torch.randn(2, 16, 16, dtype=torch.float64)
    found = phase_congruency(maps)
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-12
    assert torch.allclose(phase_congruency(5 * maps + 3), found, atol=1e-9)
    assert (log_gabor(16, 16)[..., 0, 0] == 0).all()


def test_phase_congruency_is_highest_at_an_edge_and_low_in_noise():
    step = torch.zeros(1, 32, 128, dtype=torch.float64)
    step[..., 64:] = 1
    found = phase_congruency(step)[0, 16]
    assert found[63:65].min() > 2 * found[68:124].max()
    assert phase_congruency(torch.randn(1, 64, 64, dtype=torch.float64)).mean() < 0.1


def test_of_a_copy_the_later_goes_first():
    maps = torch.randn(3, 4, 9, 9)
    maps[:, 3] = maps[:, 1]
    found = scored(maps)
    assert found.order[-1] == 3
    assert found.evidence["partner"][3] == 1
