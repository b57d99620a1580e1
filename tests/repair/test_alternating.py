"""Couples of layers fitted in turns."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import infoprune
from infoprune.network.layer_io import Reading
from infoprune.regression.layer_fit import Targets
from infoprune.repair import alternating as alternating_module
from infoprune.repair.alternating import alternating
from infoprune.repair.combined import divergence
from infoprune.repair.least_squares import least_squares
from nets import Plain, Residual, Separable, conv_bn, gap, images, pair_of, quiet


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


def test_networks_without_couples_are_repaired_by_least_squares():
    torch.manual_seed(4)
    pair = pair_of(Separable(), images(), {"expand.0": range(6)})
    found, plain = alternating(pair, quiet), least_squares(pair, quiet)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), plain.parameters(), strict=True))


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
    improve = alternating_module._alternate

    def watched(first, second, inputs, targets, rounds):
        fed.append((first.name, inputs))
        improve(first, second, inputs, targets, rounds)

    monkeypatch.setattr(alternating_module, "_alternate", watched)
    found = alternating(pair, quiet)
    assert [name for name, _ in fed] == ["convs.0.0", "convs.1.0", "convs.2.0"]
    whole = torch.cat(list(pair.batches))
    plain = least_squares(pair, quiet)
    # The first layer goes on changing while the next is read, the first two have settled once the third is.
    with torch.no_grad():
        assert torch.equal(fed[0][1], whole)
        assert torch.allclose(fed[1][1], found.convs[0](whole), atol=1e-5)
        fresh = torch.cat(images(900, 8, 3)[2:])
        wanted = pair.original.last(pair.original.convs(fresh))
        errors = [float((net.last(net.convs(fresh)) - wanted).square().mean()) for net in (found, plain)]
    assert errors[0] < errors[1]


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
