"""What went, told by what stayed."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import infoprune
from infoprune.plan import LayerDecision, Plan
from infoprune.repair.channel_combination import ChannelMoments, gram_of_kept, nearest_kept, put_in
from nets import Plain, Residual, Separable, conv_bn, gap, images, pair_of, quiet


def moments_of(x):
    return ChannelMoments(x.mean(1), x @ x.mT / x.shape[1])


def test_the_combination_of_the_kept_is_ridge_regression():
    x = torch.randn(6, 200).double()
    kept = torch.tensor([0, 2, 3])
    found = gram_of_kept(moments_of(x), kept)
    h = x[kept].mT
    ridge = 1e-3 * (h.mT @ h).diagonal().mean()
    wanted = torch.linalg.lstsq(
        torch.cat([h, ridge.sqrt() * torch.eye(3)]), torch.cat([x.mT, torch.zeros(3, 6).double()])
    ).solution.mT
    torch.testing.assert_close(found.combination, wanted)
    assert not found.constant.any()


def test_the_nearest_kept_channel_takes_over_with_slope_and_constant():
    x = torch.randn(6, 200).double()
    x[1], x[4], x[5] = -3 * x[2] + 1, 7.0, 0.0
    found = nearest_kept(moments_of(x), torch.tensor([0, 2, 3]))
    wanted = torch.zeros(6, 3).double()
    wanted[0, 0] = wanted[2, 1] = wanted[3, 2] = 1
    wanted[1, 1] = -3
    torch.testing.assert_close(found.combination, wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.constant, torch.tensor([0, 1, 0, 0, 7, 0]).double(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["merge", "channels", "least-squares", "all"])
def test_a_duplicate_with_another_scale_costs_nothing(method):
    model = Plain(nn.Conv2d(8, 6, 3, padding=1))
    with torch.no_grad():
        model.first[0].weight[5] = model.first[0].weight[1]
        for tensor in (model.first[1].running_mean, model.first[1].running_var):
            tensor[5] = tensor[1]
        model.first[1].weight[5], model.first[1].bias[5] = 2.5 * model.first[1].weight[1], 2.5 * model.first[1].bias[1]
    pair = pair_of(model, images(), {"first.0": [0, 1, 2, 3, 4, 6, 7]})
    found = infoprune.repair(pair.small, pair.original, pair.batches, pair.plan, method=method)
    if method == "channels":
        found = put_in(pair, gram_of_kept, quiet)
        assert gap(model, found, pair.batches) < 1e-2
    else:
        assert gap(model, found, pair.batches) < 1e-5
    assert gap(model, pair.small, pair.batches) > 1e-2


@pytest.mark.parametrize("rule", [nearest_kept, gram_of_kept])
def test_a_dead_filter_costs_nothing(rule):
    model = Plain(conv_bn(8, 6))
    with torch.no_grad():
        model.first[0].weight[5] = 0
        model.first[1].running_mean[5] = 0
        model.first[1].bias[5] = -1
    pair = pair_of(model, images(), {"first.0": [0, 1, 2, 3, 4, 6, 7]})
    assert gap(model, pair.small, pair.batches) < 1e-6
    assert gap(model, put_in(pair, rule, quiet), pair.batches) < (1e-6 if rule is nearest_kept else 1e-2)


@pytest.mark.parametrize(
    ("model", "keep"),
    [
        (Residual, {"inner1.0": range(9), "inner2.0": range(3, 11)}),
        (Separable, {"expand.0": range(7), "left.0": range(4), "right.0": range(1, 5)}),
        (Separable, {"project.0": [0, 1, 2, 4, 5, 6]}),
    ],
)
def test_every_repair_comes_nearer_and_least_squares_nearest(model, keep):
    torch.manual_seed(5)
    pair = pair_of(model(), images(200, 8, 4), keep)
    fresh = images(64, 8, 1)
    gaps = {
        info.name: gap(
            pair.original,
            infoprune.repair(pair.small, pair.original, pair.batches, pair.plan, method=info.name),
            fresh,
        )
        for info in infoprune.all_repairs()
        if info.name != "distil"
    }
    cut = gap(pair.original, pair.small, fresh)
    assert gaps["merge"] < cut
    assert gaps["least-squares"] < min(cut, gaps["merge"], gaps["bn"], gaps["channels"])
    assert gaps["all"] <= 1.05 * gaps["least-squares"]


def test_linear_layers_make_up_for_constants_too():
    model = Plain(conv_bn(8, 6)).eval()
    with torch.no_grad():
        model.middle[0].weight[2] = 0
        model.middle[1].running_mean[2], model.middle[1].bias[2] = 0, 1.3
    pair = pair_of(model, images(), {"middle.0": [0, 1, 3, 4, 5]})
    assert gap(model, pair.small, pair.batches) > 1e-3
    assert gap(model, put_in(pair, nearest_kept, quiet), pair.batches) < 1e-5


def test_a_channel_goes_into_the_one_it_was_paired_with_rather_than_the_nearest():
    x = torch.randn(5, 200).double()
    x[1], x[4] = x[2] + 0.1 * x[0], x[0] + 0.5 * x[3]
    kept = torch.tensor([0, 2, 3])
    found = nearest_kept(moments_of(x), kept, torch.tensor([-1, 0, -1, -1, -1]))
    covariance = torch.cov(x, correction=0)
    wanted = torch.zeros(5, 3).double()
    wanted[0, 0] = wanted[2, 1] = wanted[3, 2] = 1
    wanted[1, 0] = covariance[1, 0] / covariance[0, 0]
    wanted[4, 0] = covariance[4, 0] / covariance[0, 0]
    torch.testing.assert_close(found.combination, wanted)
    torch.testing.assert_close(found.constant, x.mean(1) - wanted @ x[kept].mean(1))


def test_partners_are_followed_to_one_that_stayed_and_kept_in_json():
    decision = LayerDecision("a", 5, (0, 3), partner=(-1, 2, 3, 0, 2))
    assert [decision.stands_in(i) for i in range(5)] == [0, 3, 3, 3, 3]
    assert LayerDecision("a", 3, (0,), partner=(1, 2, 1)).stands_in(1) == -1
    assert LayerDecision("a", 3, (0,)).stands_in(1) == -1
    plan = Plan({"a": decision})
    assert Plan.from_dict(json.loads(plan.to_json())).decisions["a"] == decision


def test_merging_reads_the_partners_of_the_plan():
    torch.manual_seed(3)
    pair = pair_of(Separable(), images(), {"expand.0": [0, 1, 2, 3, 5, 7]})
    decision = replace(pair.plan.decisions["expand.0"], partner=(-1, -1, -1, -1, 0, -1, 7, -1, 4, 3))
    partnered = replace(pair, plan=Plan({"expand.0": decision}))
    found, free = put_in(partnered, nearest_kept, quiet), put_in(pair, nearest_kept, quiet)
    changed = found.project[0].weight != pair.small.project[0].weight
    # 4 and 8 (by way of 4) go into 0, 6 into 7, 9 into 3; the kept ones are at places 0 to 5.
    assert changed.flatten(1).any(dim=0).nonzero().flatten().tolist() == [0, 3, 5]
    assert (free.project[0].weight != found.project[0].weight).any()
