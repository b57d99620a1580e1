"""Couples of layers fitted in turns."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import infoprune
from infoprune.network.layer_io import Reading
from infoprune.regression.layer_fit import Targets
from infoprune.repair import alternating as alternating_module
from infoprune.repair.alternating import alternating
from infoprune.repair.chain_descent import Sample
from infoprune.repair.chains import chains_of
from infoprune.repair.combined import divergence
from infoprune.repair.least_squares import least_squares
from infoprune.repair.walks import sites_of
from nets import Plain, Residual, conv_bn, gap, images, pair_of, quiet


@pytest.fixture
def cut():
    torch.manual_seed(3)
    return pair_of(Residual(), images(300, 8, 3), {"inner1.0": range(4), "inner2.0": range(5)})


@torch.no_grad()
def block_error(pair, small):
    """Of the first block, on images nobody saw."""
    x = torch.cat(images(900, 8, 9)[3:])
    sums = [net.norm1(net.outer1(net.inner1(net.stem(x)))) + net.stem(x) for net in (pair.original, small)]
    return float((sums[0] - sums[1]).square().mean())


def test_it_comes_nearer_than_least_squares_on_images_it_never_saw(cut):
    assert block_error(cut, alternating(cut, quiet)) < 0.9 * block_error(cut, least_squares(cut, quiet))


def test_without_rounds_it_is_least_squares(cut):
    found, plain = alternating(cut, quiet, rounds=0), least_squares(cut, quiet)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), plain.parameters(), strict=True))


def test_memory_changes_nothing(cut):
    found, poor = alternating(cut, quiet), alternating(cut, quiet, memory=0)
    assert gap(found, poor, cut.batches) < 1e-4


def test_where_least_squares_is_exact_it_stays():
    torch.manual_seed(1)
    model = Plain(conv_bn(8, 6))
    with torch.no_grad():
        model.first[0].weight[3], model.first[1].bias[3], model.first[1].running_mean[3] = 0, -1, 0
    pair = pair_of(model, images(), {"first.0": [0, 1, 2, 4, 5, 6, 7]})
    assert gap(model, alternating(pair, quiet), images(16, 8, 1)) < 1e-5


class Strided(nn.Module):
    """A stride, a dilation and a bias between two ReLUs, and a pooling that parts what follows."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, dilation=2, padding=1)
        self.third, self.fc = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.second(F.relu(self.first(x)))), 2)
        return self.fc(F.relu(self.third(x)).mean((2, 3)))


def test_strides_dilations_and_biases_are_part_of_it():
    torch.manual_seed(2)
    pair = pair_of(Strided(), images(400, 16, 2), {"first": range(4), "second": range(5), "third": range(6)})
    fresh = images(900, 16, 3)[2:]
    found, plain = alternating(pair, quiet), least_squares(pair, quiet)
    assert not torch.equal(found.first.weight, plain.first.weight)
    with torch.no_grad():
        x = torch.cat(fresh)
        wanted = pair.original.second(F.relu(pair.original.first(x)))[:, :5]
        errors = [float((net.second(F.relu(net.first(x))) - wanted).square().mean()) for net in (found, plain)]
    assert errors[0] < 0.9 * errors[1]


class Bent(nn.Module):
    """Layers with functions between them that mix channels or are none that is known."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = conv_bn(3, 8)[0], nn.Conv2d(8, 6, 3), nn.Conv2d(6, 4, 3)

    def forward(self, x):
        return self.third(self.second(self.first(x).softmax(1)).sin()).mean((2, 3))


def test_networks_without_chains_are_repaired_by_least_squares():
    torch.manual_seed(4)
    pair = pair_of(Bent(), images(), {"second": range(4)})
    found, plain = alternating(pair, quiet), least_squares(pair, quiet)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), plain.parameters(), strict=True))


class Inverted(nn.Module):
    """Two inverted residual blocks, whose depthwise convolutions pad by themselves, one of them on one side more."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.stem = conv_bn(3, 6)
        for block, stride in (("one", 1), ("two", 2)):
            self.add_module(f"{block}_expand", nn.Sequential(nn.Conv2d(6, 16, 1, bias=False), nn.BatchNorm2d(16)))
            self.add_module(f"{block}_depthwise", nn.Conv2d(16, 16, 3, stride=stride, groups=16))
            self.add_module(f"{block}_project", nn.Conv2d(16, 6, 1))
            # Values on both sides of every bend.
            nn.init.constant_(self.get_submodule(f"{block}_expand")[1].weight, 4.0)
            nn.init.normal_(self.get_submodule(f"{block}_depthwise").weight)

    def block(self, name, x, padding):
        x = self.function(self.get_submodule(f"{name}_expand")(x))
        x = self.function(self.get_submodule(f"{name}_depthwise")(F.pad(x, padding)))
        return self.get_submodule(f"{name}_project")(x)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.block("one", x, (1, 1, 1, 1))
        return self.block("two", x, (0, 1, 0, 1))


@pytest.mark.parametrize("function", [F.relu6, F.silu, F.hardswish, partial(F.leaky_relu, negative_slope=0.1)])
@torch.no_grad()
def test_inverted_residual_blocks_come_nearer_too(function):
    torch.manual_seed(5)
    pair = pair_of(Inverted(function), images(300, 8, 3), {"one_expand.0": range(9), "two_expand.0": range(9)})
    found, plain = alternating(pair, quiet), least_squares(pair, quiet)
    fresh = torch.cat(images(900, 8, 9)[3:])
    wanted = pair.original(fresh)
    errors = [float((net(fresh) - wanted).square().mean()) for net in (found, plain)]
    assert errors[0] < 0.9 * errors[1]
    assert not torch.equal(found.two_depthwise.weight, plain.two_depthwise.weight)


@pytest.mark.parametrize("inplace", [False, True])
@torch.no_grad()
def test_a_chain_whose_bound_two_images_do_not_reach_is_not_taken_for_another(inplace):
    torch.manual_seed(6)
    pair = pair_of(Inverted(partial(F.relu6, inplace=inplace)), images(40, 8, 2), {"one_expand.0": range(9)})
    small = pair.small
    small.one_expand[1].weight.fill_(0.1)
    sites = sites_of(pair, small, ["one_expand.0", "one_depthwise", "one_project"])
    (chain,) = chains_of(small, sites, next(pair.images())[:2])
    assert [link.function for link in chain.links] == [F.relu6, F.relu6]
    assert [link.padding for link in chain.links] == [(1, 1, 1, 1), ()]


class Summed(nn.Module):
    """A shortcut is added in place to what the second layer returns, and the third reads the sum."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = (nn.Conv2d(3 if not n else 8, 8, 3, padding=1) for n in range(3))
        self.third = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        y = self.second(self.first(x).relu_())
        y += x
        return self.third(y.relu_()).mean((2, 3))


@torch.no_grad()
def test_a_sum_in_place_ends_a_chain():
    torch.manual_seed(10)
    pair = pair_of(Summed(), images(), {"first": range(5)})
    sites = sites_of(pair, pair.small, ["stem", "first", "second", "third"])
    chains = chains_of(pair.small, sites, next(pair.images())[:2])
    assert [(chain.first, chain.last) for chain in chains] == [("first", "second")]


class Words(nn.Module):
    """Reads numbers of words, which have no larger values."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.first, self.second, self.fc = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.second(self.first(self.words(x)[:, None]).relu()).mean((2, 3)))


@torch.no_grad()
def test_inputs_that_are_whole_numbers_are_read_as_they_are():
    torch.manual_seed(9)
    pair = pair_of(Words(), list(torch.randint(0, 20, (40, 7)).split(20)), {"first": range(5)})
    sites = sites_of(pair, pair.small, ["first", "second"])
    (chain,) = chains_of(pair.small, sites, next(pair.images())[:2])
    assert chain.first == "first"


class Branching(nn.Module):
    """What the first layer returns is also read by another, so that the pair is none."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.side = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        maps = self.first(x)
        return self.second(maps.relu()).mean((2, 3)) + self.side(maps).mean((2, 3))


@torch.no_grad()
def test_layers_whose_maps_are_read_elsewhere_are_no_chain():
    torch.manual_seed(8)
    pair = pair_of(Branching(), images(), {"first": range(5)})
    assert not chains_of(pair.small, sites_of(pair, pair.small, ["first", "second"]), next(pair.images())[:2])


def test_as_a_repair_it_leaves_both_networks_as_they_were(cut):
    before = {name: tensor.clone() for name, tensor in (*cut.small.state_dict().items(),)}
    found = infoprune.repair(cut.small, cut.original, cut.batches, cut.plan, method="alternating")
    assert all(torch.equal(before[name], tensor) for name, tensor in cut.small.state_dict().items())
    assert divergence(cut, found) < divergence(cut, cut.small)


class Chain(nn.Module):
    """Three convolutions in a row: the one in the middle is the second of a couple, then the first of the next."""

    def __init__(self):
        super().__init__()
        self.convs = nn.Sequential(conv_bn(3, 12), conv_bn(12, 12), conv_bn(12, 12))
        self.last = nn.Conv2d(12, 6, 3, padding=1)

    def forward(self, x):
        return self.last(self.convs(x)).mean((2, 3))


def test_in_a_chain_every_layer_reads_what_the_changed_ones_give(monkeypatch):
    torch.manual_seed(7)
    kept = {f"convs.{i}.0": range(6) for i in range(3)}
    pair = pair_of(Chain(), images(200, 8, 2), kept)
    fed = []
    improve = alternating_module.alternate

    def watched(chain, sample, *rest):
        fed.append((chain.first, sample.inputs))
        improve(chain, sample, *rest)

    monkeypatch.setattr(alternating_module, "alternate", watched)
    found = alternating(pair, quiet)
    assert [name for name, _ in fed] == ["convs.0.0", "convs.1.0", "convs.2.0"]
    whole = torch.cat(list(pair.batches))
    plain = least_squares(pair, quiet)
    # The first layer goes on changing while the next is read, the first two have settled once the third is.
    with torch.no_grad():
        # Held-out images come last.
        assert torch.equal(fed[0][1], torch.cat([whole[torch.arange(200) % 5 != 4], whole[4::5]]))
        assert torch.allclose(fed[1][1], found.convs[0](fed[0][1]), atol=1e-5)
        fresh = torch.cat(images(900, 8, 3)[2:])
        wanted = pair.original.last(pair.original.convs(fresh))
        errors = [float((net.last(net.convs(fresh)) - wanted).square().mean()) for net in (found, plain)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("parts", [(23,), (9, 9, 5), (3, 20, 4)])
def test_a_sample_has_the_images_of_both_and_the_held_out_ones_last(parts):
    inputs, targets = torch.rand(sum(parts), 2, 4, 4), torch.rand(23, 3, 4, 4)
    found = Sample.of(list(inputs.split(parts)), list(targets.split(10)))
    last = torch.arange(23) % 5 == 4
    assert found.fits == 19
    for made, whole in ((found.inputs, inputs[:23]), (found.targets, targets)):
        assert torch.equal(made, torch.cat([whole[~last], whole[last]]))
        assert made.is_contiguous(memory_format=torch.channels_last)


def test_small_maps_are_held_of_more_images():
    for side, wanted in ((4, 23), (8, 6)):
        batches = list(images(23, side, 3))
        maps = alternating_module._Maps(tuple(map(len, batches)), positions=6 * 64)
        for number, some in enumerate(batches):
            result = some[:, :1]
            maps(number, Reading(some, result, "", None, None), Targets([(result, 1, None)], linear=False))
        maps.bring_together()
        held = torch.cat(maps.inputs)
        assert len(held) == wanted
        assert torch.equal(held, torch.cat(images(23, side, 3))[:wanted])
        assert len(torch.cat(maps.targets)) == wanted


@pytest.mark.parametrize(("enough", "wanted"), [(16 * 64, 16), (64, 7), (1 << 19, 23)])
def test_layers_with_few_features_hold_fewer_images(monkeypatch, enough, wanted):
    monkeypatch.setattr(alternating_module, "_FEWEST_IMAGES", 7)
    batches = list(images(23, 8, 3))
    maps = alternating_module._Maps(tuple(map(len, batches)), enough=enough)
    for number, some in enumerate(batches):
        maps(number, Reading(some, some[:, :1], "", None, None), Targets([(some[:, :1], 1, None)], linear=False))
    maps.bring_together()
    assert torch.equal(torch.cat(maps.inputs), torch.cat(batches)[:wanted])


class Linear(nn.Module):
    """A ReLU that never closes between two layers of one position each."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1)
        nn.init.constant_(self.first.bias, 20)

    def forward(self, x):
        return self.second(self.first(x).relu())


@torch.no_grad()
def test_where_the_couple_is_linear_it_comes_to_the_best_map_of_that_rank():
    for seed in range(5):
        torch.manual_seed(seed)
        pair = pair_of(Linear(), images(400, 4, 2), {"first": range(2)})
        x = torch.cat(list(pair.batches)).transpose(0, 1).flatten(1).double()
        whole = (pair.original.second.weight[:, :, 0, 0] @ pair.original.first.weight[:, :, 0, 0]).double()
        least = float(torch.linalg.svdvals(whole @ torch.linalg.cholesky(torch.cov(x)))[2:].square().sum()) / 6
        errors = []
        for found in (least_squares(pair, quiet), alternating(pair, quiet)):
            missing = torch.cat([pair.original(some) - found(some) for some in pair.batches])
            errors.append(float(missing.double().square().mean()))
        assert errors[0] > 1.15 * least
        assert 0.999 * least < errors[1] < 1.01 * least
