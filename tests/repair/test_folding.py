"""Clusters of filters become their mean."""

import torch
from torch import nn

from infoprune.repair.folding import fold
from nets import Plain, Residual, Separable, conv_bn, gap, images, pair_of, quiet


def test_copies_are_folded_at_no_loss_wherever_they_are():
    for last in (nn.Conv2d(8, 6, 3, padding=1), conv_bn(8, 6)):
        model = Plain(last)
        with torch.no_grad():
            for copy, of in ((5, 1), (6, 1), (7, 2)):
                model.first[0].weight[copy] = model.first[0].weight[of]
                for tensor in (*model.first[1].parameters(), model.first[1].running_mean, model.first[1].running_var):
                    tensor[copy] = tensor[of]
        pair = pair_of(model, images(), {"first.0": [0, 1, 2, 3, 4]})
        assert gap(model, pair.small, pair.batches) > 1e-3
        assert gap(model, fold(pair, quiet), pair.batches) < 1e-5


def test_a_kept_filter_becomes_the_mean_of_those_near_it():
    model = Plain()
    with torch.no_grad():
        model.first[1].weight.fill_(1)
        model.first[1].running_var.fill_(1)
        model.first[0].weight.zero_()
        for filter_ in range(8):
            model.first[0].weight[filter_, 0, 1, 1] = 10 * (filter_ % 4) + filter_ // 4
    before = model.middle.weight.detach().clone()
    found = fold(pair_of(model, images(), {"first.0": [0, 1, 2, 3]}), quiet)
    torch.testing.assert_close(found.first[0].weight[:, 0, 1, 1].detach(), torch.tensor([0.5, 10.5, 20.5, 30.5]))
    torch.testing.assert_close(found.middle.weight.detach(), before[:, :4] + before[:, 4:])


def test_chains_shortcuts_and_depthwise_layers_keep_their_shapes():
    for network, keep in (
        (Residual, {"stem.0": range(4), "inner1.0": range(7)}),
        (Separable, {"expand.0": range(6), "left.0": range(3)}),
    ):
        pair = pair_of(network(), images(), keep)
        found = fold(pair, quiet)
        assert [t.shape for t in found.state_dict().values()] == [t.shape for t in pair.small.state_dict().values()]
        assert gap(pair.original, found, pair.batches) < 2
        assert gap(pair.small, found, pair.batches) > 1e-3
