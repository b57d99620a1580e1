"""Filters that are held at zero during a training and come back: by counts, by hand, and as a really cut network."""

import pytest
import torch
from torch import nn

from infoprune import zoo
from infoprune.criteria import find
from infoprune.criteria.base import Importance
from infoprune.criteria.scoring import score
from infoprune.cutoff import cut_by_ratio
from infoprune.data import Preprocessing
from infoprune.errors import InputError
from infoprune.iterative.soft import Masks, _last, soft_prune
from infoprune.measure.accuracy import accuracy_of
from infoprune.network import surgery
from infoprune.network.cost import count
from infoprune.network.coupled_groups import find_groups
from infoprune.network.equivalence import duplicate
from infoprune.plan import LayerDecision, Plan
from infoprune.training.recipe import Recipe
from infoprune.training.train import train
from nets import Plain, Residual, Separable

PLAIN = Preprocessing((0.0,), (1.0,))
EXAMPLE = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def network(images):
    torch.manual_seed(0)
    recipe = Recipe(epochs=4, learning_rate=0.1, precision="32-true")
    return train(zoo.build("digits"), images.train, images.held_out, recipe).model


def masks_of(model, ratio=0.5, example=EXAMPLE, **words):
    groups = find_groups(model, example)

    def scored(network):
        return score(network, groups.groups, None, find("l2"))

    def cut(found):
        return {name: one.kept for name, one in cut_by_ratio(groups.groups, found, ratio).items()}

    return Masks(groups, scored, cut, **{"steps": 2, "epochs": 8} | words), groups


def cut_by(masks, model, groups, example=EXAMPLE):
    plan = Plan({group.name: LayerDecision(group.name, group.filters, masks.kept[group.name])
                 for group in groups.groups})  # fmt: skip
    return surgery.apply(plan, model, example, groups=groups)


def test_the_share_that_has_come_back():
    model = nn.Sequential(nn.Linear(3, 4000), nn.Linear(4000, 2))
    masks, _ = masks_of(model, example=torch.rand(2, 3), restore=0.5, falling=False)
    masks(model, None, None, 1)
    assert masks.chosen == [2000]
    for epoch in (1, 2, 3):
        masks(model, None, None, 2 * epoch)
        assert sum(masks.back) / 2000 == pytest.approx(1 - 0.5**epoch, abs=0.03)
    masks.lift()


def test_the_probability_falls_linearly_or_not():
    masks, _ = masks_of(Plain(), restore=0.8, epochs=4)
    assert [masks.probability(epoch) for epoch in range(5)] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])
    masks, _ = masks_of(Plain(), restore=0.8, epochs=4, falling=False)
    assert masks.probability(3) == 0.8


@pytest.mark.parametrize("network", [Plain, Residual, Separable])
def test_a_masked_network_is_the_cut_network(network):
    model = network().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks, groups = masks_of(model, restore=0.5)
    masks(model, None, None, 1)
    assert torch.allclose(
        model(EXAMPLE), cut_by(masks, network_without_hooks(model, masks), groups)(EXAMPLE), atol=1e-5
    )
    masks.lift()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def network_without_hooks(model, masks):
    hooks = [(module, module._forward_hooks, module._forward_pre_hooks) for module in model.modules()]
    for module, _, _ in hooks:
        module._forward_hooks, module._forward_pre_hooks = type(module._forward_hooks)(), type(module._forward_hooks)()
    found = duplicate(model)
    for module, forward, before in hooks:
        module._forward_hooks, module._forward_pre_hooks = forward, before
    return found


def test_what_comes_back_has_the_values_it_had():
    model = Residual().train()
    masks, groups = masks_of(model, restore=1.0, falling=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks(model, None, None, 1)
    for _ in range(3):  # batch statistics of masked channels, and weights that decay
        model(EXAMPLE)
    gone = sorted(set(range(12)) - set(masks.kept["inner1.0"]))
    with torch.no_grad():
        model.inner1[0].weight[gone] *= 0.5
    assert not torch.equal(model.inner1[1].running_mean[gone], before["inner1.1.running_mean"][gone])
    masks(model, None, None, 2)
    assert masks.back == [masks.chosen[0]]
    after = model.state_dict()
    for name in ("inner1.0.weight", "inner1.1.running_mean", "inner1.1.running_var", "inner1.1.weight"):
        assert torch.equal(after[name][gone], before[name][gone])
    assert not any(module._forward_hooks for module in model.modules())
    assert groups


def test_without_coming_back_the_first_choice_stays():
    model = Plain().train()
    masks, _ = masks_of(model, restore=0.0)
    masks(model, None, None, 1)
    first = dict(masks.kept)
    for epoch in range(1, 4):
        masks(model, None, None, 2 * epoch)
        with torch.no_grad():  # what was kept becomes the smallest
            model.first[0].weight[list(first["first.0"])] *= 1e-3
        masks(model, None, None, 2 * epoch + 1)
        assert masks.kept == first
    assert masks.back == [0, 0, 0]
    masks.lift()


def test_where_all_come_back_only_the_last_choice_matters(network, images):
    recipe = Recipe(epochs=2, learning_rate=1e-12, weight_decay=0.0, precision="32-true")
    found = soft_prune(network, images, recipe, ratio=0.5, criterion="l2", restore=1.0, falling=False)
    groups = find_groups(network, torch.zeros(2, 1, 8, 8)).groups
    alone = cut_by_ratio(groups, score(network, groups, None, find("l2")), 0.5)
    assert found.plan.kept == {name: alone[name].kept for name in found.plan.kept}
    assert found.back == (found.chosen[0],)


@pytest.mark.parametrize("words", [{"restore": 0.5}, {"restore": 0.0}, {"macs": 0.4, "ratio": None}])
def test_a_network_is_pruned_softly(network, images, words):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    recipe = Recipe(epochs=6, learning_rate=0.05, precision="32-true")
    found = soft_prune(network, images, recipe, **{"ratio": 0.5, "options": {"mix": 0.1}} | words)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
    example = torch.zeros(2, 1, 8, 8)
    share = count(found.model, example).macs / count(network, example).macs
    assert share <= 0.4 if "macs" in words else share < 0.5
    assert len(found.chosen) == 6
    assert len(found.back) == 5
    assert accuracy_of(found.model.eval(), images.test) > 75


def test_wrong_words_are_refused(images):
    model, recipe = zoo.build("digits"), Recipe(epochs=1, precision="32-true")
    for words, message in (
        ({}, "by one of ratio and macs"),
        ({"ratio": 0.5, "macs": 0.5}, "by one of ratio and macs"),
        ({"ratio": 0.5, "restore": 1.5}, "a probability from 0 to 1, not 1.5"),
        ({"ratio": 0.5, "layers": ("conv9",)}, "unknown layer 'conv9'"),
        ({"ratio": 0.5, "options": {"mixed": 0.1}}, "unknown option of the criterion 'fpgm' 'mixed'"),
    ):
        with pytest.raises(InputError, match=message):
            soft_prune(model, images, recipe, **words)
    with pytest.raises(InputError, match="a recipe of 1 epoch or more"):
        soft_prune(model, images, Recipe(epochs=0), ratio=0.5)


def test_masked_filters_are_behind_all_others():
    found = _last(Importance(torch.tensor([1.0, 5.0, 3.0, 0.0], dtype=torch.float64)), [1])
    assert found.order == (2, 0, 3, 1)
    assert found.scores.argmin() == 1
