"""Squeeze-and-excitation gates: what they are before and after training, by hand."""

import pytest
import torch
from torch.nn import functional as F

from infoprune.criteria import find
from infoprune.criteria.excitation import SqueezeGate
from infoprune.criteria.scoring import score
from infoprune.errors import InputError
from infoprune.network.coupled_groups import find_groups
from nets import Plain, Residual, Separable, helping_and_misleading

IMAGES = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(24) % 4
DATA = [(IMAGES[:10], LABELS[:10]), (IMAGES[10:], LABELS[10:])]


def scored(model, data=DATA, **options):
    groups = find_groups(model, IMAGES[:2]).groups
    return score(model, groups, data, find("excitation"), options={"steps": 2, "batch": 8} | options)


def gate(channels=5, pooling="deviation"):
    found = SqueezeGate(channels, pooling, torch.Generator().manual_seed(0))
    with torch.no_grad():
        found.excite.normal_(generator=torch.Generator().manual_seed(1))
    return found


def test_without_weights_every_gate_is_one_half_whatever_the_maps():
    one = gate()
    with torch.no_grad():
        one.squeeze.zero_()
    assert (one.opened(100 * torch.randn(3, 5, 4, 4)) == 0.5).all()


@pytest.mark.parametrize("pooling", ["deviation", "mean"])
def test_a_gate_by_hand(pooling):
    one, output = gate(pooling=pooling), torch.randn(3, 5, 4, 4)
    pooled = output.std((2, 3), unbiased=False) if pooling == "deviation" else output.mean((2, 3))
    expected = torch.sigmoid(F.relu(pooled @ one.squeeze.T) @ one.excite.T)
    assert torch.allclose(one.opened(output), expected, atol=1e-6)
    assert torch.allclose(one(output), 2 * expected[:, :, None, None] * output, atol=1e-6)
    assert one.squeeze.shape == (1, 5)


def test_outputs_of_one_position_stand_for_themselves():
    one, output = gate(), torch.randn(3, 5)
    assert torch.allclose(one.opened(output), torch.sigmoid(F.relu(output @ one.squeeze.T) @ one.excite.T))


def test_a_constant_map_has_a_finite_gradient():
    one, output = gate(), torch.ones(2, 5, 3, 3, requires_grad=True)
    one(output).sum().backward()
    assert torch.isfinite(output.grad).all()
    assert torch.isfinite(one.squeeze.grad).all()


def test_the_filter_that_helps_is_opened_and_the_one_that_misleads_is_closed():
    model, images, labels = helping_and_misleading()
    groups = find_groups(model, images[:2]).groups
    found = score(model, groups, [(images, labels)], find("excitation"), options={"steps": 80})["0"].scores
    assert found[0] > 0.55
    assert found[1] < 0.45


def test_the_score_is_the_mean_gate_of_all_images_and_layers():
    model = Residual().eval()
    found = scored(model, steps=1, learning_rate=1e-9)
    for one in found.values():
        assert torch.allclose(one.scores, torch.full_like(one.scores, 0.5), atol=1e-6)


@pytest.mark.parametrize("network", [Plain, Residual, Separable])
def test_the_network_stays_as_it_is(network):
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = scored(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(((one.scores > 0) & (one.scores < 1)).all() for one in found.values())
    again = scored(model)
    assert all(torch.equal(found[name].scores, again[name].scores) for name in found)


def test_wrong_input_is_refused():
    with pytest.raises(InputError, match="'pooling' of the criterion 'excitation' takes one of deviation, mean"):
        scored(Plain().eval(), pooling="max")
    with pytest.raises(InputError, match="'excitation' needs labels"):
        scored(Plain().eval(), [IMAGES])
