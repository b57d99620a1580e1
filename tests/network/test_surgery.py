import copy
import gc
import io
import weakref

import plans
import pytest
import torch
import toys
from torch import nn

from infoprune.errors import InputError
from infoprune.network.coupled_groups import find_groups
from infoprune.network.surgery import apply
from infoprune.plan import LayerDecision, Plan

EXAMPLE = torch.randn(2, *toys.IMAGE, generator=torch.Generator().manual_seed(1))


def test_what_comes_out_is_smaller_in_weights_and_in_attributes():
    model = toys.Grouped()
    groups = find_groups(model, EXAMPLE)
    plan = plans.keeping(groups, stem__0=(0, 2, 7), block__0__0=(1, 3, 5, 7, 9, 11), block__1__0=(0, 4, 8))
    small = apply(plan, model, EXAMPLE)
    stem, wide, grouped, narrow = small.stem[0], small.block[0][0], small.block[1][0], small.block[2][0]
    assert (stem.out_channels, stem.weight.shape) == (3, (3, 3, 3, 3))
    assert (wide.in_channels, wide.out_channels, wide.weight.shape) == (3, 6, (6, 3, 1, 1))
    assert (grouped.in_channels, grouped.out_channels, grouped.groups) == (6, 3, 3)
    assert grouped.weight.shape == (3, 2, 3, 3)
    assert (narrow.in_channels, narrow.out_channels) == (3, 3)
    assert small.block[0][1].num_features == 6
    assert small.block[0][1].running_var.shape == (6,)
    assert small.fc.in_features == 3
    assert torch.equal(stem.weight, model.stem[0].weight[[0, 2, 7]])
    assert torch.equal(grouped.weight, model.block[1][0].weight[[0, 4, 8]][:, [1, 3]])


def test_depthwise_convolutions_keep_one_filter_per_channel():
    model = toys.Inverted()
    plan = plans.keeping(find_groups(model, EXAMPLE), blocks__0__layers__0__0=(0, 5, 17))
    depthwise = apply(plan, model, EXAMPLE).blocks[0].layers[1][0]
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (3, 3, 3)
    assert torch.equal(depthwise.weight, model.blocks[0].layers[1][0].weight[[0, 5, 17]])


def test_one_filter_may_be_all_that_is_left():
    model = toys.Inverted().eval()
    groups = find_groups(model, EXAMPLE)
    plan = Plan({g.name: LayerDecision(g.name, g.filters, g.units[0]) for g in groups.groups})
    small = apply(plan, model, EXAMPLE)
    assert small.blocks[1].layers[1][0].groups == 1
    assert small(EXAMPLE).shape == (2, 5)
    again = find_groups(small, EXAMPLE)
    assert not again.groups
    assert again.left_alone["stem.0"] == "has a single filter"


def test_group_norms_lose_whole_groups():
    model = toys.GroupNormed()
    small = apply(plans.keeping(find_groups(model, EXAMPLE), conv1=(0, 1, 2, 9, 10, 11)), model, EXAMPLE)
    assert (small.norm1.num_groups, small.norm1.num_channels) == (2, 6)


def test_a_plan_that_keeps_everything_gives_an_equal_network():
    model = toys.Dense().eval()
    groups = find_groups(model, EXAMPLE)
    plan = Plan({g.name: LayerDecision(g.name, g.filters, tuple(range(g.filters))) for g in groups.groups})
    for same in (apply(plan, model, EXAMPLE), apply(Plan({}), model, EXAMPLE)):
        assert torch.equal(same(EXAMPLE), model(EXAMPLE))
        assert same is not model
        assert all(torch.equal(a, b) for a, b in zip(same.parameters(), model.parameters(), strict=True))


def test_cutting_twice_equals_cutting_once():
    model = toys.Dense().eval()
    first_groups = find_groups(model, EXAMPLE)
    first = plans.random_plan(first_groups, seed=3)
    middle = apply(first, model, EXAMPLE)
    second = plans.random_plan(find_groups(middle, EXAMPLE), seed=4)
    assert torch.equal(apply(second, middle, EXAMPLE)(EXAMPLE), apply(first.then(second), model, EXAMPLE)(EXAMPLE))


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_trainability_are_those_of_the_given_network(training):
    model = toys.Residual("A").train(training)
    model.blocks[1].eval()
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 3 != 0)
    small = apply(plans.random_plan(find_groups(model, EXAMPLE), seed=1), model, EXAMPLE)
    assert {n: m.training for n, m in small.named_modules()} == {n: m.training for n, m in model.named_modules()}
    assert {n: p.requires_grad for n, p in small.named_parameters()} == {
        n: p.requires_grad for n, p in model.named_parameters()
    }
    assert all(parameter.is_leaf for parameter in small.parameters())


def test_the_given_network_is_untouched_and_no_hooks_remain():
    model = toys.Residual("A")
    before = copy.deepcopy(model.state_dict())
    source = model.blocks[1].shortcut.source.clone()
    small = apply(plans.random_plan(find_groups(model, EXAMPLE), seed=1), model, EXAMPLE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.blocks[1].shortcut.source, source)
    for module in [*model.modules(), *small.modules()]:
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert {type(m) for m in small.modules()} == {type(m) for m in model.modules()}
    assert not {p.data_ptr() for p in small.parameters()} & {p.data_ptr() for p in model.parameters()}


def test_training_goes_on_after_the_cut():
    model = toys.SqueezeExcite()
    small = apply(plans.random_plan(find_groups(model, EXAMPLE), seed=2), model, EXAMPLE).train()
    small(EXAMPLE).sum().backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in small.parameters())
    torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9).step()


def test_weights_load_without_pickle_into_the_same_cut_of_a_fresh_network():
    model = toys.Dense().eval()
    plan = plans.random_plan(find_groups(model, EXAMPLE), seed=1)
    small = apply(plan, model, EXAMPLE)
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    fresh = apply(Plan.from_dict(plan.to_dict()), toys.Dense().eval(), EXAMPLE)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh(EXAMPLE), small(EXAMPLE))


def test_the_result_exports():
    model = toys.Residual("A").eval()
    small = apply(plans.random_plan(find_groups(model, EXAMPLE), seed=1), model, EXAMPLE)
    exported = torch.export.export(small, (EXAMPLE,)).module()
    torch.testing.assert_close(exported(EXAMPLE), small(EXAMPLE))


def test_networks_die_when_nobody_holds_them():
    model = toys.Inverted()
    small = apply(plans.random_plan(find_groups(model, EXAMPLE), seed=1), model, EXAMPLE)
    references = [weakref.ref(module) for network in (model, small) for module in network.modules()]
    del model, small
    gc.collect()
    assert not any(reference() for reference in references)


def decision(layer, filters, kept):
    return Plan({layer: LayerDecision(layer, filters, kept)})


@pytest.mark.parametrize(
    ("build", "plan", "words"),
    [
        (toys.Plain, decision("conv9.0", 8, (0,)), "unknown layer 'conv9.0': did you mean 'conv"),
        (toys.Plain, decision("conv1.0", 16, (0,)), "layer 'conv1.0' has 8 filters, but the plan was made for 16"),
        (toys.Plain, decision("conv1.1", 8, (0,)), "'conv1.1' is no convolution or linear layer"),
        (toys.Plain, decision("fc", 5, (0,)), "'fc' cannot lose filters: its outputs are the network's outputs"),
        (toys.Residual, decision("blocks.0.conv2.0", 8, (0,)), "loses the same filters as 'stem.0'"),
        (toys.Grouped, decision("block.0.0", 12, (0, 1)), "filters 0, 4, 8 can only be removed together"),
        (toys.Tied, decision("b", 6, (0, 1)), "'b' cannot lose filters: shares its weight with 'a'"),
        (
            toys.HardSplit,
            decision("first.0", 12, (0, 1, 8)),
            "'first.0' cannot lose filters: the cut network does not run",
        ),
        (toys.ResponseNormed, decision("first.0", 8, (0, 2)), "'first.0' cannot lose filters: the cut network differs"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_with_the_layer_named(build, plan, words):
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        apply(plan, build(), EXAMPLE)


def test_a_layer_left_without_inputs_or_outputs_is_refused():
    model = toys.Joined()
    groups = find_groups(model, EXAMPLE)
    shared = next(m for m in groups.by_name()["b.0"].members if (m.layer, m.side) == ("d.0", "out"))
    kept = tuple(i for i, channels in enumerate(shared.channels) if not channels)
    with pytest.raises(InputError, match=r"layer 'd.0' would be left without outputs"):
        apply(plans.keeping(groups, b__0=kept), model, EXAMPLE)


def test_a_plan_may_name_layers_that_stay_whole():
    model = toys.Plain().eval()
    assert torch.equal(apply(decision("fc", 5, (0, 1, 2, 3, 4)), model, EXAMPLE)(EXAMPLE), model(EXAMPLE))


def test_a_sequential_of_a_module_that_appears_twice_is_cut_once():
    block = toys.conv_bn(6, 6)
    model = nn.Sequential(toys.conv_bn(3, 6), block, block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    small = apply(plans.keeping(find_groups(model, EXAMPLE), **{"0__0": (0, 3, 4)}), model, EXAMPLE)
    assert small[1] is small[2]
    assert small[1][0].weight.shape == (3, 3, 3, 3)
