"""The expected effect on the next layers, worked out by hand and by drawing inputs."""

import pytest
import torch
from torch import nn

from infoprune.criteria import find
from infoprune.criteria.next_layer import input_energy
from infoprune.criteria.scoring import score
from infoprune.errors import InputError
from infoprune.network.coupled_groups import find_groups
from nets import PRODUCERS, Plain, Residual, Separable


def scored(model, size=8):
    groups = find_groups(model, torch.zeros(2, next(model.parameters()).shape[1], size, size)).groups
    return score(model, groups, None, find("next-layer"))


def test_a_strong_filter_that_is_hardly_read_ties_with_a_weak_one_that_is():
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 4], [1, 0]])[:, :, None, None])
        model[1].weight.copy_(torch.tensor([[1.0, 5], [1, 5]])[:, :, None, None])
    assert scored(model)["0"].scores.tolist() == [50, 50]


@pytest.mark.parametrize("module", PRODUCERS, ids=str)
def test_the_energy_of_an_input_is_over_the_weights_it_meets(module):
    shape = (1, 4) if isinstance(module, nn.Linear) else (1, 4, 5, 5)
    for channel, energy in enumerate(input_energy(module).tolist()):
        images = torch.zeros(shape)
        images[:, channel] = 1
        module.weight.grad = None
        module(images).sum().backward()
        assert energy == pytest.approx(module.weight[module.weight.grad != 0].square().sum().item(), rel=1e-5)


def test_a_norm_stands_for_the_weights_before_it():
    model = Residual()
    found = scored(model)
    norm, reader = model.inner1[1], model.outer1.weight.square().sum((0, 2, 3))
    assert torch.allclose(found["inner1.0"].scores, ((norm.weight**2 + norm.bias**2) * reader).double(), rtol=1e-5)
    heard = sum(layer.weight.square().sum((0, 2, 3)) for layer in (model.inner1[0], model.inner2[0]))
    heard = heard + model.fc.weight.square().sum(0)
    spoken = sum(norm.weight**2 + norm.bias**2 for norm in (model.stem[1], model.norm1, model.norm2))
    assert torch.allclose(found["stem.0"].scores, (spoken * heard).double(), rtol=1e-5)


def test_it_is_the_squared_change_of_the_next_result_for_independent_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 5, 1, bias=False))
    images = torch.randn(2000, 3, 5, 5)
    with torch.no_grad():
        maps = model[0](images)
        drawn = torch.stack([(model[1].weight[:, f, 0, 0, None] * maps[:, f].flatten()).square().sum(0).mean()
                             for f in range(4)])  # fmt: skip
    assert torch.allclose(scored(model)["0"].scores.float(), drawn, rtol=0.05)


@pytest.mark.parametrize("network", [Plain, Separable])
def test_any_network_is_scored_without_images(network):
    for one in scored(network()).values():
        assert (one.scores >= 0).all()


def test_it_has_no_options():
    model = Plain()
    groups = find_groups(model, torch.zeros(2, 3, 8, 8)).groups
    with pytest.raises(InputError, match="unknown option of the criterion 'next-layer' 'share'"):
        score(model, groups, None, find("next-layer"), options={"share": 1})
