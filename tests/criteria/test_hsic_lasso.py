"""Paths of HSIC-Lasso, worked out by hand and by coordinate descent."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso

from infoprune.criteria import find
from infoprune.criteria.hsic_lasso import _importance, centred_kernels, entry_points
from infoprune.criteria.scoring import score
from infoprune.errors import InputError
from infoprune.network.coupled_groups import find_groups
from nets import Residual, Separable

SQUARE = 0.0998941


def kernels(*columns):
    return centred_kernels(torch.tensor(columns)[:, :, None])


def test_the_kernel_of_two_images():
    assert np.allclose(kernels((0.0, 1.0)).flatten(), [0.316060, -0.316060, -0.316060, 0.316060], atol=2e-6)


def test_one_channel_that_is_the_output():
    some = kernels((0.0, 1.0))
    found = _importance([some], [some[0]], positive=True)
    assert np.allclose(found.scores, [SQUARE], atol=2e-6)
    assert found.comparable


def test_a_channel_that_the_output_is_independent_of_scores_zero():
    some = kernels((0.0, 0, 1, 1), (0.0, 1, 0, 1), (0.0, 0, 0, 1))
    found = _importance([some], [some[0]], positive=True)
    assert np.allclose(found.evidence["dependence"], [SQUARE, 0, 0.0249735], atol=2e-6)
    assert np.allclose(found.scores, [SQUARE, 0, 0], atol=2e-6)
    # Of those that never enter the one that depends on the output is kept longer.
    assert found.order == (0, 2, 1)


def test_the_solution_at_an_alpha():
    some = kernels((0.0, 0, 1, 1), (0.0, 1, 0, 1)).flatten(1)
    for alpha, expected in ((0.01, 0.899894), (0.05, 0.499470)):
        solver = Lasso(alpha=alpha, positive=True, fit_intercept=False, tol=1e-12).fit(some.T.numpy(), some[0].numpy())
        assert np.allclose(solver.coef_, [expected, 0], atol=2e-6)


def test_a_constant_channel_has_no_kernel():
    assert kernels((2.5, 2.5, 2.5)).abs().max() == 0


@pytest.mark.parametrize("positive", [True, False])
def test_entry_points_against_coordinate_descent(positive):
    generator = np.random.default_rng(0)
    design = generator.normal(size=(40, 6))
    target = design @ np.array([2.0, 0, -1, 0.5, 0, 0.1]) + 0.3 * generator.normal(size=40)
    gram, dependence = design.T @ design / 40, design.T @ target / 40
    points = entry_points(torch.from_numpy(gram), torch.from_numpy(dependence), positive=positive).numpy()

    def coefficients(alpha):
        return Lasso(alpha=alpha, positive=positive, fit_intercept=False, tol=1e-12, max_iter=100000).fit(
            design, target).coef_  # fmt: skip

    for channel, point in enumerate(points):
        if point > 0:
            assert coefficients(0.999 * point)[channel] != 0
            above = [coefficients(factor * point)[channel] for factor in (1.001, 1.1, 1.5)]
            assert not any(above)
        else:
            assert not any(coefficients(alpha)[channel] for alpha in (1e-3, 1e-2, 0.1))


def test_copies_enter_together_and_a_permutation_permutes():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 12, 3, generator=generator)
    rows[4] = rows[1]
    some, wanted = centred_kernels(rows), centred_kernels((rows[1] + 0.5 * rows[2])[None])[0]
    found = _importance([some], [wanted], positive=True)
    assert found.scores[1] == found.scores[4] > 0
    assert found.order.index(1) < found.order.index(4)
    order = [3, 4, 0, 5, 1, 2]
    permuted = _importance([some[order]], [wanted], positive=True)
    assert torch.allclose(permuted.scores, found.scores[order], rtol=1e-9, atol=1e-12)


def scored(model, batches, **options):
    return score(model, find_groups(model, torch.zeros(2, 3, 8, 8)).groups, batches, find("hsic-lasso"),
                 options=options)  # fmt: skip


def test_a_whole_network_by_hand():
    model, images = Residual().eval(), torch.randn(9, 3, 8, 8)
    with torch.no_grad():
        inner = model.inner1(model.stem(images))
        output = model.outer1(inner)
    found = scored(model, [images])["inner1.0"]
    x, y = inner.double().numpy(), output.double().numpy().reshape(9, -1)
    h = np.eye(9) - 1 / 9
    k = np.stack([h @ np.exp(-((x[:, None, c] - x[None, :, c]) ** 2).sum((2, 3)) / 64) @ h for c in range(12)])
    target = h @ np.exp(-((y[:, None] - y[None]) ** 2).sum(2) / y.shape[1]) @ h
    assert np.allclose(found.evidence["dependence"], (k * target).sum((1, 2)) / 81, atol=1e-7)
    assert found.scores.max() == pytest.approx(float(found.evidence["dependence"].max()), rel=1e-9)


@pytest.mark.parametrize("network", [Residual, Separable])
def test_any_split_into_batches_scores_alike(network):
    model, images = network().eval(), torch.randn(10, 3, 8, 8)
    whole, split = scored(model, [images]), scored(model, [(images[:3], None), (images[3:], None)])
    for name in whole:
        assert torch.allclose(whole[name].scores, split[name].scores, rtol=1e-6, atol=1e-12)


def test_labels_can_be_the_target():
    model, images = Residual().eval(), torch.randn(10, 3, 8, 8)
    found = scored(model, [(images, torch.arange(10) % 2)], target="labels")
    assert any(one.scores.max() > 0 for one in found.values())
    with pytest.raises(InputError, match="needs \\(images, labels\\) pairs"):
        scored(model, [images], target="labels")


def test_what_cannot_be_is_refused():
    model = Residual().eval()
    with pytest.raises(InputError, match="at least 2 images"):
        scored(model, [torch.randn(1, 3, 8, 8)])
    with pytest.raises(InputError, match="at least 2 images"):
        scored(model, [torch.randn(4, 3, 8, 8)], images=1)
    with pytest.raises(InputError, match="target"):
        scored(model, [torch.randn(4, 3, 8, 8)], target="maps")
