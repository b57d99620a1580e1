"""Channels merged at run time: codes by hand, patches by plain loops, and what is saved by counting."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from infoprune import zoo
from infoprune.errors import InputError
from infoprune.hashing import HashedConv2d, codes, hash_convolutions, hyperplanes, merged_channels
from infoprune.network.cost import macs_by_layer
from nets import Plain, Separable


def test_the_chance_of_one_bit_is_that_of_the_angle():
    size = 400
    planes = hyperplanes(size, 62, seed=1)
    generator = torch.Generator().manual_seed(0)
    same = []
    for seed in range(60):
        x, y = torch.linalg.qr(torch.randn(size, 2, generator=generator))[0].T
        other = 0.5 * x + math.sqrt(0.75) * y  # 60 degrees
        both = torch.stack([codes(v, hyperplanes(size, 62, seed)) for v in (x, other)])
        same.append(62 - bin(int(both[0] ^ both[1])).count("1"))
    assert sum(same) / (60 * 62) == pytest.approx(2 / 3, abs=0.02)
    assert planes.shape == (400, 62)


def test_scaling_keeps_the_code_and_the_sign_turns_every_bit():
    planes = hyperplanes(50, 20)
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert codes(x, planes) == codes(2 * x, planes)
    assert codes(x, planes) + codes(-x, planes) == 2**20 - 1


LAYERS = [
    nn.Conv2d(6, 5, 3, padding=1),
    nn.Conv2d(6, 5, 3, padding=1, stride=2, bias=False),
    nn.Conv2d(6, 5, (3, 1), padding="same"),
    nn.Conv2d(6, 5, 3, padding=2, dilation=2),
    nn.Conv2d(6, 5, 5),
    nn.Conv2d(6, 5, 1, stride=2),
    nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect"),
]


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_where_no_channels_are_alike_it_is_the_convolution(layer, merge):
    x = torch.randn(3, 6, 13, 10, generator=torch.Generator().manual_seed(0))
    hashed = HashedConv2d(layer, planes=40, patch=4, merge=merge)
    assert torch.allclose(hashed(x), layer(x), atol=1e-5)
    assert hashed.channels == 6 * hashed.patches
    assert hashed.buckets > 0.98 * hashed.channels


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_equal_channels_are_merged_without_an_error(layer, merge):
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).repeat(1, 2, 1, 1)
    hashed = HashedConv2d(layer, planes=40, patch=4, merge=merge)
    assert torch.allclose(hashed(x), layer(x), atol=1e-5)
    assert hashed.buckets <= hashed.channels // 2


def slow(x, layer, planes, patch):
    """Each patch of the output by itself: hash the channels, average those of one code, convolve."""
    pad = layer.padding[0]
    padded = F.pad(x, (pad, pad, pad, pad))
    whole = layer(x)
    found, buckets = torch.zeros_like(whole), 0
    stride, kernel = layer.stride[0], layer.kernel_size[0]
    reads = (patch - 1) * stride + kernel
    for image in range(len(x)):
        for top in range(0, whole.shape[2], patch):
            for left in range(0, whole.shape[3], patch):
                part = padded[image, :, top * stride : top * stride + reads, left * stride : left * stride + reads]
                part = F.pad(part, (0, reads - part.shape[2], 0, reads - part.shape[1]))
                vectors = part.flatten(1)
                of = codes(vectors - vectors.mean(0), planes).tolist()
                merged = torch.stack([part[[i for i, code in enumerate(of) if code == own]].mean(0) for own in of])
                result = F.conv2d(merged[None], layer.weight, layer.bias, stride)[0]
                height, width = (min(patch, whole.shape[axis] - at) for axis, at in ((2, top), (3, left)))
                found[image, :, top : top + height, left : left + width] = result[:, :height, :width]
                buckets += len(set(of))
    return found, buckets


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_against_each_patch_alone(stride, merge):
    layer = nn.Conv2d(6, 4, 3, padding=1, stride=stride)
    x = torch.randn(2, 6, 11, 9, generator=torch.Generator().manual_seed(0))
    hashed = HashedConv2d(layer, planes=2, patch=4, seed=5, merge=merge)
    with torch.no_grad():
        expected, buckets = slow(x, layer, hashed.normals, 4)
        assert torch.allclose(hashed(x), expected, atol=1e-5)
    assert hashed.buckets == buckets < hashed.channels
    assert not torch.allclose(expected, layer(x), atol=1e-2)


def test_the_error_of_two_channels_in_one_bucket():
    layer = nn.Conv2d(2, 3, 3, padding=1, bias=False)
    x, d = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    hashed = HashedConv2d(layer, patch=6)
    parts = F.pad(torch.stack([x, x + d], 1), (1, 1, 1, 1))
    bucket = torch.zeros(1, 2, dtype=torch.int64)
    found = hashed._dense(bucket, parts.mean(1), parts.shape)
    u, v = layer.weight[:, :1], layer.weight[:, 1:]
    expected = F.conv2d(d[None], (v - u) / 2, padding=1)
    assert torch.allclose(layer(torch.stack([x, x + d], 1)) - found, expected, atol=1e-5)
    assert torch.allclose(hashed._merged(bucket, parts.mean(1)), found, atol=1e-5)
    with torch.no_grad():
        layer.weight[:, 1] = layer.weight[:, 0]
    assert torch.allclose(
        layer(torch.stack([x, x + d], 1)), hashed._dense(bucket, parts.mean(1), parts.shape), atol=1e-5
    )


def test_more_hyperplanes_merge_less_and_err_less():
    torch.manual_seed(0)
    layer = nn.Conv2d(32, 8, 3, padding=1)
    x = torch.randn(4, 4, 16, 16).repeat(1, 8, 1, 1) + 0.3 * torch.randn(4, 32, 16, 16)
    saved, errors = [], []
    for planes in (2, 6, 14, 40):
        hashed = HashedConv2d(layer, planes=planes)
        errors.append((hashed(x) - layer(x)).norm().item())
        saved.append(1 - hashed.buckets / hashed.channels)
    assert saved == sorted(saved, reverse=True)
    assert errors == sorted(errors, reverse=True)
    assert saved[0] > 0.8


def test_a_network_of_hashed_convolutions():
    model = zoo.build("resnet20").eval()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    hashed = hash_convolutions(model, planes=50, skip=("layer3.*",))
    kinds = {name: type(module).__name__ for name, module in hashed.named_modules() if isinstance(module, nn.Conv2d)}
    assert kinds["conv1"] == kinds["layer3.0.conv1"] == "Conv2d"
    assert kinds["layer1.0.conv1"] == kinds["layer2.2.conv2"] == "HashedConv2d"
    assert hashed.state_dict().keys() == model.state_dict().keys()
    assert type(model.layer1[0].conv1) is nn.Conv2d
    whole, layers = merged_channels(hashed, images.split(2))
    assert set(layers) == {name for name, kind in kinds.items() if kind == "HashedConv2d"}
    macs = macs_by_layer(model, images[:1])
    expected = sum(layers[name].macs * macs[name] for name in layers) / sum(macs.values())
    assert whole.macs == pytest.approx(expected)
    layer = hashed.layer1[0].conv1
    assert layers["layer1.0.conv1"].channels == 1 - layer.buckets / layer.channels
    # 16 patches of 8 x 8 an image; 10 x 10 values of 16 channels each.
    added = 16 * (16 * 100 * (50 / 3 + 1) + 16 * 16 * 9)
    assert layers["layer1.0.conv1"].overhead == pytest.approx(added / macs["layer1.0.conv1"])


def test_it_can_be_trained():
    model = hash_convolutions(Plain(), planes=6).train()
    assert isinstance(model.middle, HashedConv2d)
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    assert model.middle.weight.grad.abs().sum() > 0
    assert model.first[0].weight.grad.abs().sum() > 0


def test_grouped_and_small_convolutions_stay():
    kinds = {name: type(module).__name__ for name, module in hash_convolutions(Separable()).named_modules()}
    assert kinds["depthwise.0"] == kinds["grouped.0"] == kinds["project.0"] == "Conv2d"
    assert kinds["left.0"] == "HashedConv2d"
    every = {
        name: type(module).__name__ for name, module in hash_convolutions(Separable(), one_by_one=True).named_modules()
    }
    assert every["project.0"] == "HashedConv2d"


def test_wrong_input_is_refused():
    with pytest.raises(InputError, match="convolutions of one group, not of 2"):
        HashedConv2d(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(InputError, match="1 to 62 hyperplanes, not 63"):
        HashedConv2d(nn.Conv2d(4, 4, 3), planes=63)
    with pytest.raises(InputError, match="a side of 1 or more, not 0"):
        HashedConv2d(nn.Conv2d(4, 4, 3), patch=0)
    with pytest.raises(InputError, match="no convolution merges channels"):
        hash_convolutions(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)))
    with pytest.raises(InputError, match="no layers that merge channels"):
        merged_channels(Plain(), [torch.rand(2, 3, 8, 8)])
