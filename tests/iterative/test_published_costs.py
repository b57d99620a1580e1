"""The costs HRel publishes, counted on networks that are really built at the widths of its schedules (2202.10716)."""

import functools

import pytest
import torch

from infoprune import zoo
from infoprune.iterative.published_schedules import named_schedule
from infoprune.iterative.rounds import scheduled_layers
from infoprune.network import surgery
from infoprune.network.cost import count, macs_by_layer
from infoprune.network.coupled_groups import find_groups
from infoprune.plan import LayerDecision, Plan


@functools.cache
def whole(name):
    """Return a network of the zoo, small images for it, and what can be removed."""
    model = zoo.build(name).eval()
    channels, side, _ = zoo.info(name).input_shape
    # Which filters go together does not depend on the size of the images; costs do, and are counted on whole ones.
    images = torch.randn(2, channels, min(side, 64), min(side, 64))
    return model, images, find_groups(model, images, check=False)


def built(name):
    """Return the network of a schedule, whole and with the first filters of each layer down to its limit."""
    named = named_schedule(name)
    model, images, groups = whole(named.network)
    schedule = named.make()
    decisions = {
        group.name: LayerDecision(group.name, group.filters, tuple(range(pace.least(group.filters))))
        for group in groups.groups
        if (pace := schedule.pace_of(group.producers)) is not None
    }
    small = surgery.apply(Plan(decisions), model, images, groups=groups, check=False)
    return model, small, torch.randn(1, *zoo.info(named.network).input_shape)


def gone(whole, small):
    return round(100 * (1 - small / whole), 2)


def costs_gone(name):
    model, small, example = built(name)
    before, after = count(model, example), count(small, example)
    return gone(before.macs, after.macs), gone(before.parameters, after.parameters), before, small


def test_lenet5_at_2_and_3_filters():
    model, small, example = built("hrel-lenet5")
    convolutions = [
        sum(macs for layer, macs in macs_by_layer(network, example).items() if layer.startswith("conv"))
        for network in (model, small)
    ]
    assert convolutions == [288_000 + 1_600_000, 28_800 + 9_600]
    assert gone(*convolutions) == 97.97  # published: 97.98


def test_vgg16_at_the_published_widths():
    macs, parameters, before, small = costs_gone("hrel-vgg16")
    assert (macs, parameters) == (84.88, 94.97)  # published: 84.85 and 94.98, by another count of operations
    assert before.macs == 313_463_808
    widths = [layer.out_channels for layer in small.features if isinstance(layer, torch.nn.Conv2d)]
    assert widths == [20, 48, 64, 64, 95, 107, 107, 175, 71, 71, 44, 44, 56]


def test_resnet56_with_the_first_convolutions_only_and_with_the_streams():
    assert costs_gone("hrel-resnet56-inner")[0] == 51.88  # 51.9
    macs, parameters, before, small = costs_gone("hrel-resnet56")
    assert before.macs == 125_485_696
    assert (macs, parameters) == (76.89, 77.72)  # published: 76.89 and 77.7, there by masks
    assert small.layer1[0].conv2.out_channels == 8
    assert small.conv1.out_channels == 8
    assert small.linear.in_features == 30


@pytest.mark.parametrize(
    ("name", "macs", "parameters"), [("hrel-resnet50", 63.99, 57.3), ("hrel-resnet50-small", 66.42, 59.6)]
)
def test_resnet50_at_the_derived_widths(name, macs, parameters):
    found, fewer, before, small = costs_gone(name)
    assert (before.macs, before.parameters) == (4_089_184_256, 25_557_032)
    assert found == macs
    assert fewer == pytest.approx(parameters, abs=0.05)
    with torch.no_grad():
        assert torch.isfinite(small(torch.randn(1, 3, 224, 224))).all()


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("hrel-lenet5", {18}),
        ("hrel-vgg16", {36}),
        ("hrel-resnet56", {9}),
        ("hrel-resnet50", {11, 12}),
        ("hrel-resnet50-small", {11, 12}),
    ],
)
def test_the_published_schedules_take_the_published_number_of_rounds(name, published):
    named = named_schedule(name)
    _, _, groups = whole(named.network)
    layers = scheduled_layers(groups, named.make())  # what a run goes by
    assert max(layer.rounds(layer.first) for layer in layers.values()) in published
    for layer in layers.values():
        filters = layer.first
        for _ in range(max(published)):
            filters = layer.left(filters)
        assert filters == layer.pace.limit
