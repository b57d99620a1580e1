"""Batch norm statistics counted anew."""

import copy

import pytest
import torch
from torch import nn

import infoprune
from infoprune.errors import InputError
from infoprune.repair.batch_norm import Moments, reestimate


def net():
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4),
    )  # fmt: skip
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def test_one_batch_is_normalised_with_its_own_statistics():
    model, images = net().double(), torch.randn(16, 3, 9, 9).double()
    found = reestimate(model, [images])
    maps = images
    for before, after in zip(model, found, strict=True):
        if isinstance(before, nn.BatchNorm2d):
            torch.testing.assert_close(after.running_mean, maps.mean((0, 2, 3)))
            torch.testing.assert_close(after.running_var, maps.var((0, 2, 3), unbiased=False))
            maps = nn.functional.batch_norm(maps, None, None, before.weight, before.bias, training=True)
        else:
            maps = before(maps)
    torch.testing.assert_close(found(images), maps)


def test_the_first_norm_has_exact_moments_however_the_images_are_split():
    model, images = net(), torch.randn(30, 3, 9, 9) * 50 + 1000
    values = model[0](images).double()
    for sizes in ([30], [1, 29], [7, 7, 7, 9]):
        norm = reestimate(model, list(images.split(sizes)))[1]
        torch.testing.assert_close(norm.running_mean.double(), values.mean((0, 2, 3)), rtol=1e-6, atol=1e-4)
        torch.testing.assert_close(
            norm.running_var.double(), values.var((0, 2, 3), unbiased=False), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("shape", [(40, 6), (40, 6, 5), (40, 6, 1, 1), (40, 6, 8, 8), (20, 6, 3, 4, 5)])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("mean", [0.0, 3.0, 2000.0])
def test_moments_hold_to_the_precision_of_the_maps(shape, kind, mean):
    maps = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) + mean).to(kind)
    maps = maps.to(memory_format=torch.channels_last) if len(shape) == 4 else maps
    found = Moments.of(maps)
    exact = maps.double().transpose(0, 1).flatten(1)
    assert found.count == exact.shape[1]
    torch.testing.assert_close(found.mean, exact.mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.squares / found.count, exact.var(1, correction=0), rtol=1e-5, atol=1e-9)


def test_the_given_network_is_left_alone_and_modes_are_kept():
    model = net().train()
    model[3].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = reestimate(model, [(torch.randn(4, 3, 9, 9), torch.zeros(4))])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [m.training for m in found] == [m.training for m in model]
    assert all(not m._forward_pre_hooks for m in found)


def test_repair_by_name_through_the_pipeline_beats_the_cut():
    torch.manual_seed(0)
    model = net()
    batches = [(torch.randn(32, 3, 9, 9), torch.randint(4, (32,))) for _ in range(3)]
    result = infoprune.prune(model, batches, test=batches, criterion="l1", keep={"0": 3}, repair="bn")
    assert result.record()["repair"] == "bn"
    assert result.record()["as_cut"]["loss"] != result.record()["pruned"]["loss"]
    assert result.seconds["repair"] > 0
    cut = infoprune.apply(result.plan, model, batches[0][0])
    again = infoprune.repair(cut, model, batches, result.plan, method="bn")
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, result.model.state_dict()[name])


def test_wrong_input_is_said_in_one_sentence():
    model = net()
    batches = [torch.randn(4, 3, 9, 9)]
    plan = infoprune.plan(model, [(batches[0], torch.zeros(4).long())], criterion="l1", keep={"0": 3})
    small = infoprune.apply(plan, model, batches[0])
    with pytest.raises(InputError, match="did you mean"):
        infoprune.repair(small, model, batches, plan, method="bnn")
    nothing_noted = copy.deepcopy(net())
    with pytest.raises(InputError, match="pass the plan"):
        infoprune.repair(nothing_noted, model, batches)
    with pytest.raises(InputError, match="no images"):
        reestimate(model, [])
    with pytest.raises(InputError, match="more than once"):
        infoprune.repair(small, model, iter(batches), plan)
    with pytest.raises(InputError, match="not finite"):
        reestimate(model, [torch.full((2, 3, 9, 9), torch.nan)])
