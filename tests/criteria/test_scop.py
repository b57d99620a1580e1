"""Knockoffs and what a mixture of them with real features learns: by hand, by finite differences, by moments."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from infoprune.criteria import find
from infoprune.criteria.scop import Mixing, _gaussian, gaussian_knockoffs, knockoff_moments, norm_scale_of
from infoprune.criteria.scoring import score
from infoprune.errors import InputError
from infoprune.network.coupled_groups import find_groups
from nets import Plain, Residual, Separable, helping_and_misleading

IMAGES = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(24) % 4
DATA = [(IMAGES[:10], LABELS[:10]), (IMAGES[10:], LABELS[10:])]


def scored(model, data=DATA, **options):
    groups = find_groups(model, IMAGES[:2]).groups
    return score(model, groups, data, find("scop"), options={"steps": 2, "batch": 8} | options)


def test_the_coefficients_of_two_correlated_coordinates():
    covariance = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    coefficient, spread = knockoff_moments(covariance)
    assert np.allclose(coefficient, [[-1 / 3, 2 / 3], [2 / 3, -1 / 3]])
    assert np.allclose(spread, 2 / 3)


@pytest.mark.parametrize("correlation", [0.0, 0.5, -0.8])
def test_swapping_coordinates_changes_no_moment(correlation):
    covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    root = torch.linalg.cholesky(covariance)
    x = torch.randn(200_000, 2, generator=generator, dtype=torch.float64) @ root.T + 3
    other = gaussian_knockoffs(x, torch.full((2,), 3.0).double(), covariance, generator)
    size = min(2 * (1 - abs(correlation)), 1.0)
    apart = covariance - size * torch.eye(2)
    expected = torch.cat([torch.cat([covariance, apart], 1), torch.cat([apart, covariance], 1)])
    assert np.allclose(torch.cov(torch.cat([x, other], 1).T), expected, atol=0.02)
    assert np.allclose(other.mean(0), 3, atol=0.02)


def test_gaussian_knockoffs_have_the_moments_of_the_images_and_none_with_them():
    mixed = torch.randn(6, 6, generator=torch.Generator().manual_seed(2))
    images = (torch.randn(4000, 6, generator=torch.Generator().manual_seed(3)) @ mixed + 1).reshape(4000, 1, 2, 3)
    other = _gaussian(images)(images, torch.Generator().manual_seed(4))
    x, y = images.flatten(1).double(), other.flatten(1).double()
    assert np.allclose(y.mean(0), x.mean(0), atol=0.25)
    assert np.allclose(torch.cov(y.T), torch.cov(x.T), rtol=0.15, atol=0.4)
    across = torch.corrcoef(torch.cat([x, y], 1).T)[:6, 6:]
    assert across.abs().max() < 0.08


def test_scores_by_hand():
    model = Plain().eval()
    model.first[1].weight.data[3] = -2.0
    group = find_groups(model, IMAGES[:2]).groups[0]
    assert norm_scale_of(model, group)[3] == 2
    found = scored(model)["first.0"]
    k = found.evidence["k"]
    expected = model.first[1].weight.detach().double().abs() * (2 * k - 1)
    assert torch.allclose(found.scores, expected, atol=1e-9)


def test_without_a_difference_to_its_knockoff_a_filter_stays_at_one_half():
    same = [(IMAGES[:1].expand(8, -1, -1, -1), LABELS[:8])]
    for one in scored(Plain().eval(), same, steps=5).values():
        assert (one.evidence["k"] == 0.5).all()
        assert (one.scores == 0).all()


def by_hand(model, images, control, labels, k_first, k_middle):
    """The loss of Plain with mixed features, written out in float64."""
    model = model.double()
    conv, norm = model.first[0], model.first[1]

    def normed(x):
        return F.relu(F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps))

    real, other = conv(images.double()), conv(control.double())
    mixed = k_first[:, None, None] * real + (1 - k_first[:, None, None]) * other
    real, other = model.middle(normed(mixed)), model.middle(normed(other))
    mixed = k_middle[:, None, None] * real + (1 - k_middle[:, None, None]) * other
    return F.cross_entropy(model.fc(F.relu(mixed).mean((2, 3))), labels)


def test_the_first_step_goes_down_the_slope_that_finite_differences_find():
    model = Plain().eval()
    found = scored(model, steps=1, batch=24, learning_rate=0.01)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(24, generator=generator)
    images, labels = IMAGES[order], LABELS[order]
    control = IMAGES[torch.randint(24, (24,), generator=generator)]
    half = {"first.0": torch.full((8,), 0.5).double(), "middle": torch.full((6,), 0.5).double()}
    with torch.no_grad():
        for name, k in half.items():
            for f in range(len(k)):
                sides = []
                for step in (1e-4, -1e-4):
                    moved = {**half, name: k + step * (torch.arange(len(k)) == f)}
                    sides.append(by_hand(model, images, control, labels, moved["first.0"], moved["middle"]))
                slope = float(sides[0] - sides[1]) / 2e-4
                if abs(slope) > 1e-5:
                    moved = float(found[name].evidence["k"][f]) - 0.5
                    assert moved == pytest.approx(-0.01 if slope > 0 else 0.01, rel=1e-2), (name, f)


def test_the_loss_prefers_the_filter_that_helps_and_not_the_one_that_misleads():
    model, images, labels = helping_and_misleading()
    groups = find_groups(model, images[:2]).groups
    k = score(model, groups, [(images, labels)], find("scop"), options={"steps": 50})["0"].evidence["k"]
    assert k[0] > 0.6
    assert k[1] < 0.4


@pytest.mark.parametrize("network", [Plain, Residual, Separable])
@pytest.mark.parametrize("knockoffs", ["shuffled", "gaussian"])
def test_the_network_stays_as_it_is(network, knockoffs):
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = scored(model, knockoffs=knockoffs)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.isfinite(one.scores).all() for one in found.values())
    again = scored(model, knockoffs=knockoffs)
    assert all(torch.equal(found[name].scores, again[name].scores) for name in found)


def test_one_k_serves_all_layers_of_a_group():
    model = Residual().eval()
    mixing = Mixing.of(model, find_groups(model, IMAGES[:2]).groups, IMAGES)
    assert {name for name, places in mixing.places.items() for group, _ in places if group == "stem.0"} == {
        "stem.0", "outer1", "outer2"}  # fmt: skip
    with torch.no_grad():
        mixing.k["stem.0"][2] = 1.0
    both = torch.stack([torch.full((6, 2, 2), 8.0), torch.full((6, 2, 2), 4.0)])
    mixed = mixing.mixed("outer2", both).detach()
    assert mixed[0, :, 0, 0].tolist() == [6, 6, 8, 6, 6, 6]
    assert (mixed[1] == 4).all()


def test_wrong_input_is_refused():
    for options, message in (
        ({"knockoffs": "drawn"}, "'knockoffs' of the criterion 'scop' takes one of shuffled, gaussian"),
        ({"steps": 0}, "trained in 1 or more steps, not 0"),
        ({"learning_rate": 0.0}, "learning rate of gates is above 0"),
    ):
        with pytest.raises(InputError, match=message):
            scored(Plain().eval(), **options)
    with pytest.raises(InputError, match="'scop' needs labels"):
        scored(Plain().eval(), [IMAGES])
