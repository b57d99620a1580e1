"""The check of a cut sees every channel: no wrong cut of a single channel agrees because a ReLU has zeroed it."""

import itertools

import pytest
import torch
from torch import nn

from infoprune.network.equivalence import Trial, randomised
from infoprune.network.rescaling import rescale_layers


def biased():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1))


def without_biases():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 6, 6, bias=False), nn.ReLU(), nn.Conv2d(6, 2, 1)
    )


def normed():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 6, 6, bias=False), nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.Conv2d(6, 2, 1)),
    )


def transposed():
    return nn.Sequential(
        nn.ConvTranspose2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 2, 1)
    )


# The same images in every run: one image in some thousands hides one wrong channel from a single trial.
IMAGES = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
NETWORKS = [biased, without_biases, normed, transposed]


def layers(net):
    return [name for name, module in net.named_children() if hasattr(module, "kernel_size")]


@pytest.mark.parametrize("build", NETWORKS)
@pytest.mark.parametrize("example", [torch.zeros(1, 3, 8, 8), IMAGES], ids=["zeros", "images"])
def test_no_wrong_cut_of_one_channel_is_missed(build, example):
    for seed in range(10):
        torch.manual_seed(seed)
        net = build().eval()
        trial = Trial(net, [example])
        for (first, second), channels in zip(itertools.pairwise(layers(net)), (8, 6), strict=True):
            for gone in range(channels):
                after = (gone + 1 + seed % (channels - 1)) % channels
                follows = {} if not isinstance(net[int(first) + 1], nn.BatchNorm2d) else {
                    (str(int(first) + 1), "out"): [gone]
                }  # fmt: skip
                right = {(first, "out"): [gone], **follows, (second, "in"): [gone]}
                assert trial.problem(right) == ""
                assert "differs" in trial.problem({**right, (second, "in"): [after]})


@pytest.mark.parametrize("build", [*NETWORKS, lambda: nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.ReLU())])
def test_every_channel_is_positive_somewhere(build):
    torch.manual_seed(3)
    net, images = randomised(build(), seed=0), torch.rand(1, 3, 8, 8)
    rescale_layers(net, [images])
    maps = images
    for module in net:
        maps = module(maps)
        if isinstance(module, nn.ReLU):
            assert bool((maps.amax((0, 2, 3)) > 0.01).all())


def test_grouped_convolutions_keep_the_factors_of_their_filters():
    torch.manual_seed(0)
    images = torch.rand(1, 4, 8, 8)
    for layer in (
        nn.Conv2d(4, 6, 3, groups=2, bias=False),
        nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False),
        nn.ConvTranspose2d(4, 6, 3, groups=2),
    ):
        before = layer(images)
        rescale_layers(layer, [images])
        after = layer(images)
        assert bool((after.mean((0, 2, 3)) > 0).all())
        # Each channel is the old one times one factor, plus one constant.
        centred = [maps.flatten(2)[0] - maps.flatten(2)[0].mean(1, keepdim=True) for maps in (before, after)]
        directions = [rows / rows.norm(dim=1, keepdim=True) for rows in centred]
        torch.testing.assert_close((directions[0] * directions[1]).sum(1).abs(), torch.ones(6))


def test_a_network_that_does_not_run_is_left_to_the_comparison():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(4, 2, 3))
    rescale_layers(net, [torch.rand(1, 3, 8, 8)])
