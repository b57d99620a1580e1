"""Importance handed back through the weights, by hand and by automatic differentiation of a network of moduli."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from infoprune import zoo
from infoprune.criteria import find
from infoprune.criteria.propagated import transferred
from infoprune.criteria.scoring import score
from infoprune.errors import InputError
from infoprune.network.coupled_groups import find_groups
from nets import PRODUCERS, Plain, Residual, Separable


def scored(model, size=8, **options):
    first = next(model.parameters())
    images = torch.rand(2, first.shape[1], size, size)
    groups = find_groups(model, images).groups
    return groups, score(model, groups, [images], find("propagated"), options=options)


@torch.no_grad()
def of_moduli(model):
    """The network with the sums of the moduli of its taps as weights, and nothing else: linear, at one position."""
    model = copy.deepcopy(model).eval()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear | _ConvNd):
            weight = module.weight.abs()
            if isinstance(module, _ConvNd):
                together, middle = weight.flatten(2).sum(2), [size // 2 for size in module.kernel_size]
                weight = torch.zeros_like(weight)
                weight[(slice(None), slice(None), *middle)] = together
                module.stride = tuple(1 for _ in module.stride)
            module.weight.copy_(weight)
            module.bias = None
        elif isinstance(module, nn.BatchNorm2d | nn.ReLU):
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], nn.Identity())
        elif isinstance(module, zoo.shortcut.ZeroPadShortcut):
            module.stride = 1
    return model


def by_gradient(model, layer, channels):
    """The gradient of the sum of the outputs by the result of the first layer of a group."""
    model, kept = of_moduli(model), []

    def keep(module, inputs, output):
        kept.append(output.requires_grad_())

    model.get_submodule(layer).register_forward_hook(keep)
    # Positive inputs, so that no ReLU of the forward function shows.
    model(torch.ones(1, channels, 1, 1)).sum().backward(inputs=(kept[0].retain_grad() or kept[0],))
    return kept[0].grad.flatten().double()


def test_two_layers_by_hand():
    weights = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data.copy_(weights)
    assert transferred(layer, torch.tensor([1.0, 1.0]).double()).tolist() == [3, 3]
    assert transferred(layer, torch.tensor([1.0, 0.0]).double()).tolist() == [1, 0]


@pytest.mark.parametrize("module", PRODUCERS, ids=str)
def test_what_an_input_is_handed_is_over_the_weights_between(module):
    importance = torch.rand(6, generator=torch.Generator().manual_seed(0)).double()
    shape = (1, 4) if isinstance(module, nn.Linear) else (1, 4, 5, 5)
    for channel, found in enumerate(transferred(module, importance).tolist()):
        total = 0.0
        for output in range(6):
            module.weight.grad = None
            images = torch.zeros(shape)
            images[:, channel] = 1
            module(images)[:, output].sum().backward()
            total += float(importance[output] * module.weight.detach()[module.weight.grad != 0].abs().sum())
        assert found == pytest.approx(total, rel=1e-5)
    assert isinstance(module, nn.Linear | nn.Conv2d | _ConvTransposeNd)


@pytest.mark.parametrize("network", [Plain, Residual])
def test_it_is_the_gradient_of_a_network_of_moduli(network):
    model = network().eval()
    groups, found = scored(model)
    for group in groups:
        expected = by_gradient(model, group.name, 3)
        assert torch.allclose(found[group.name].evidence["propagated"], expected, rtol=1e-4)


def test_streams_and_zero_padded_shortcuts_hand_on_what_they_pass():
    torch.manual_seed(0)
    model = zoo.build("resnet20").eval()
    groups, found = scored(model, size=32)
    for group in groups:
        handed = found[group.name].evidence["propagated"]
        assert torch.allclose(handed, by_gradient(model, group.name, 3), rtol=1e-3), group.name


def test_depthwise_layers_multiply():
    model = Separable().eval()
    groups, found = scored(model)
    reader = model.project[0].weight.detach().double().abs().flatten(1)
    depthwise = model.depthwise[0].weight.detach().double().abs().flatten(1).sum(1)
    later = found["project.0"].evidence["propagated"]
    assert torch.allclose(found["expand.0"].evidence["propagated"], (later @ reader) * depthwise, rtol=1e-6)
    assert all((found[group.name].scores >= 0).all() for group in groups)


def test_the_balance_mixes_it_with_the_norm_of_the_filter():
    model = Plain().eval()
    _, direct = scored(model, balance=1.0)
    norms = model.first[0].weight.detach().double().abs().flatten(1).sum(1)
    assert torch.allclose(direct["first.0"].scores, norms / norms.mean(), rtol=1e-9)
    _, handed = scored(model, balance=0.0)
    back = handed["first.0"].evidence["propagated"]
    assert torch.allclose(handed["first.0"].scores, back / back.mean(), rtol=1e-9)
    _, both = scored(model)
    assert torch.allclose(both["first.0"].scores, (direct["first.0"].scores + handed["first.0"].scores) / 2, rtol=1e-9)


def test_wrong_options_are_refused():
    for balance in (-0.1, 1.5):
        with pytest.raises(InputError, match="the balance is the weight of the direct part, from 0 to 1"):
            scored(Plain().eval(), balance=balance)
