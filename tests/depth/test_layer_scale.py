"""Scales of branches, trained towards zero, and shortcuts fused into a convolution."""

import pytest
import torch
from deep_networks import Plain, Scaled, Tower, images, lively
from torch import nn

from infoprune.depth import find_blocks, folded, fused, remove_blocks, score_blocks
from infoprune.depth.layer_scale import layer_scale, scaled, shrunk
from infoprune.errors import InputError

LABELS = torch.arange(24) % 4
DATA = [(images()[:10], LABELS[:10]), (images()[10:], LABELS[10:])]


def test_a_proximal_step_makes_exact_zeros():
    found = shrunk(torch.tensor([0.3, 0.05, -0.05, -0.3], dtype=torch.float64), 0.1)
    assert found.tolist() == pytest.approx([0.2, 0, 0, -0.2])
    assert found[1] == found[2] == 0


def test_a_kernel_of_ones_by_hand():
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.ones_(layer.weight)
    found = fused(layer, 2.0, 0.5)
    assert found.weight[0, 0].tolist() == [[2, 2, 2], [2, 2.5, 2], [2, 2, 2]]
    assert found(torch.arange(1.0, 10).reshape(1, 1, 3, 3))[0, 0, 1, 1].item() == pytest.approx(92.5)
    nn.init.zeros_(layer.weight)
    x = torch.randn(1, 1, 5, 5)
    assert torch.equal(fused(layer, 7.0, 1.0)(x), x)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 6, 3, padding=1),
        nn.Conv2d(6, 6, 5, padding=4, dilation=2, groups=3),
        nn.Conv2d(6, 6, (3, 1), padding="same", groups=6, bias=False),
        nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect").to(memory_format=torch.channels_last),
        nn.Conv1d(6, 6, 3, padding=1),
    ],
    ids=str,
)
def test_the_fused_layer_computes_the_same(layer):
    x = torch.randn(2, 6, 9) if isinstance(layer, nn.Conv1d) else torch.randn(2, 6, 9, 9)
    before = layer.weight.clone()
    assert torch.allclose(fused(layer, -0.7, 0.4)(x), -0.7 * layer(x) + 0.4 * x, atol=1e-5)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(6, 6, 3, padding=1, stride=2), "stride 1 with an odd kernel"),
        (nn.Conv2d(6, 8, 3, padding=1), "as many outputs as inputs"),
        (nn.Conv2d(6, 6, 3), "padding that keeps the size"),
        (nn.Conv2d(6, 6, 2, padding=1), "odd kernel"),
        (nn.ConvTranspose2d(6, 6, 3, padding=1), "not into ConvTranspose2d"),
    ],
    ids=str,
)
def test_what_cannot_be_fused_is_refused(layer, message):
    with pytest.raises(InputError, match=message):
        fused(layer, 1.0, 1.0)


def test_a_layer_of_which_nothing_is_left_is_refused():
    with pytest.raises(InputError, match="both zero"):
        fused(nn.Conv2d(2, 2, 1), 0.0, 0.0)


def test_a_scale_of_zero_removes_the_block_and_of_one_changes_nothing():
    model = lively(Tower(Plain(6), Plain(6, "before"), Scaled(6)))
    blocks = find_blocks(model, images(2))
    assert [bool(block.end) for block in blocks] == [True, True, False]
    with torch.no_grad():
        whole = model(images())
        with scaled(model, blocks, torch.ones(3)):
            assert torch.equal(model(images()), whole)
        with scaled(model, blocks, torch.tensor([0.0, 1.0, 0.0])):
            found = model(images())
        assert torch.allclose(found, remove_blocks(model, [blocks[0], blocks[2]], images(2))(images()), atol=1e-6)
        assert torch.equal(model(images()), whole)


def test_scales_are_folded_into_the_last_layer_of_the_branch():
    model = lively(Tower(Plain(6), Plain(6), Scaled(6)))
    blocks = find_blocks(model, images(2))
    with torch.no_grad():
        with scaled(model, blocks[:2], torch.tensor([0.3, -1.5])):
            wanted = model(images())
        found = folded(model, blocks[:2], {"stage.0": 0.3, "stage.1": -1.5})(images())
    assert torch.allclose(found, wanted, atol=1e-5)
    with pytest.raises(InputError, match="'stage.2' has no last layer"):
        folded(model, blocks[2:], {"stage.2": 0.5})


def test_a_step_by_hand():
    model = lively(Tower(Plain(6), Plain(6)))
    blocks = find_blocks(model, images(2))
    scales = torch.ones(2, requires_grad=True)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    with scaled(model, blocks, scales):
        loss = nn.functional.cross_entropy(model(images()[order]), LABELS[order])
    slope = torch.autograd.grad(loss, scales)[0]
    found = score_blocks(
        model, blocks, DATA, "layer-scale", {"steps": 1, "batch": 24, "learning_rate": 0.05, "penalty": 0.5}
    )
    expected = (1 - 0.05 * slope - 0.05 * 0.5).abs().tolist()
    assert list(found.values()) == pytest.approx(expected, rel=1e-5)


def test_what_does_not_help_is_shrunk_to_zero_and_the_network_stays():
    model = lively(Tower(Plain(6), Plain(6)))
    with torch.no_grad():
        for parameter in (model.stage[1].norm2.weight, model.stage[1].norm2.bias):
            parameter.zero_()  # a branch that says nothing: only the penalty moves its scale
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = layer_scale(model, find_blocks(model, images(2)), DATA, steps=60, penalty=0.2, learning_rate=0.1)
    assert found["stage.1"] == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_wrong_input_is_refused():
    model = lively(Tower(Plain(6)))
    blocks = find_blocks(model, images(2))
    with pytest.raises(InputError, match="the penalty of the criterion 'layer-scale' is 0 or more, not -1"):
        layer_scale(model, blocks, DATA, penalty=-1)
    with pytest.raises(InputError, match="'layer-scale' needs labels"):
        layer_scale(model, blocks, [images()])
    assert layer_scale(model, (), DATA) == {}
