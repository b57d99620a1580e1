"""Label-free training towards the original."""

import dataclasses
import importlib
import itertools
import time

import pytest
import torch
from torch import nn

import infoprune
from infoprune.errors import InputError
from infoprune.repair import student
from infoprune.repair.combined import divergence
from infoprune.repair.distil import distil
from infoprune.repair.least_squares import least_squares
from nets import Residual, gap, images, pair_of, quiet

module = importlib.import_module("infoprune.repair.distil")


def cut():
    torch.manual_seed(3)
    model = Residual()
    with torch.no_grad():
        model.fc.weight.mul_(10)
    return pair_of(model, images(100, 8, 2), {"inner1.0": range(4), "inner2.0": range(5)})


def test_it_comes_nearer_on_images_it_never_saw():
    pair = cut()
    found = distil(pair, quiet, start=pair.small, epochs=40)
    # Every fifth image is not trained on.
    assert divergence(pair, found) < 0.5 * divergence(pair, pair.small)
    fresh = images(64, 8, 1)
    assert gap(pair.original, found, fresh) < 0.8 * gap(pair.original, pair.small, fresh)


def test_it_never_ends_farther_away_than_it_began():
    pair = cut()
    start = least_squares(pair, quiet)
    found = distil(pair, quiet, start=start, epochs=2, learning_rate=10.0)
    assert divergence(pair, found) <= divergence(pair, start)


def test_a_rate_that_is_too_high_is_lowered(monkeypatch):
    pair = cut()
    lowered = distil(pair, quiet, start=pair.small, epochs=20, learning_rate=1.0)
    for limit in ("_MUCH_WORSE", "_LOST"):
        monkeypatch.setattr(student, limit, float("inf"))
    kept = distil(pair, quiet, start=pair.small, epochs=20, learning_rate=1.0)
    assert divergence(pair, lowered) < 0.5 * divergence(pair, kept)


@pytest.mark.parametrize("parts", [1, 2, 7, 50])
def test_batches_have_the_size_of_the_training_whatever_the_images_come_in(parts):
    given = torch.split(torch.randn(100, 3, 8, 8, generator=torch.Generator().manual_seed(0)), -(-100 // parts))
    pair = dataclasses.replace(cut(), batches=given)
    found = list(module._batches(pair, 16))
    assert [len(batch) for batch in found] == [16] * 5
    assert torch.equal(torch.cat(found), torch.cat(given)[torch.arange(100) % 5 != 4])


def test_batches_hold_images_of_one_shape():
    given = [torch.zeros(10, 3, 8, 8), torch.zeros(10, 3, 6, 6)]
    found = module._batches(dataclasses.replace(cut(), batches=given), 16)
    assert [tuple(batch.shape) for batch in found] == [(8, 3, 8, 8), (8, 3, 6, 6)]


def test_networks_and_gradients_are_left_as_they_were():
    pair = cut()
    before = {name: tensor.clone() for name, tensor in pair.original.state_dict().items()}
    for number, parameter in enumerate(pair.small.parameters()):
        parameter.requires_grad_(number % 2 == 0)
    found = infoprune.repair(pair.small, pair.original, pair.batches, pair.plan, method="distil")
    assert all(torch.equal(before[name], tensor) for name, tensor in pair.original.state_dict().items())
    assert [p.requires_grad for p in found.parameters()] == [p.requires_grad for p in pair.small.parameters()]
    assert all(p.grad is None for p in (*found.parameters(), *pair.original.parameters()))


def test_the_same_images_give_the_same_weights():
    pair = cut()
    first, second = (distil(pair, quiet, start=pair.small, epochs=2) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_it_ends_in_the_time_it_is_given_with_the_rate_at_its_end(monkeypatch):
    pair = cut()
    # Every look at the clock finds it a second later.
    clock = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    reported = []
    distil(pair, lambda stage, done, total: reported.append((done, total)), start=pair.small, epochs=10**6, seconds=300)
    assert 200 < next(clock) < 600
    assert reported[-1][0] == reported[-1][1] > 1


def test_time_enough_changes_nothing():
    pair = cut()
    found = distil(pair, quiet, start=pair.small, epochs=3, seconds=1e9)
    whole = distil(pair, quiet, start=pair.small, epochs=3)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), whole.parameters(), strict=True))


def test_a_part_of_an_epoch_is_better_than_none(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    torch.manual_seed(3)
    pair = dataclasses.replace(cut(), batches=images(1500, 8, 2))
    told = []
    found = distil(pair, lambda stage, done, total: told.append((done, total)), start=pair.small, seconds=12)
    # 1,200 images are ten steps of 128.
    assert 5 < told[-1][0] < 10
    assert divergence(pair, found) < divergence(pair, pair.small)


def test_signals_have_one_layout_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    pair = pair_of(model, [torch.randn(100, 2, 16)], {"0": range(5)})
    found = distil(pair, quiet, start=pair.small)
    assert divergence(pair, found) < divergence(pair, pair.small)


@pytest.mark.parametrize("size", [0.01, 100])
def test_how_large_the_weights_are_does_not_matter(size):
    def left(size):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        )  # fmt: skip
        with torch.no_grad():
            model[6].weight.mul_(20)
            for tensor, by in ((model[0].weight, size), (model[0].bias, size), (model[2].weight, 1 / size)):
                tensor.mul_(by)
        pair = pair_of(model, images(100, 8, 2), {"0": range(5), "2": range(6)})
        start = divergence(pair, pair.small)
        return divergence(pair, distil(pair, quiet, start=pair.small)) / start

    assert left(1) < 0.7
    assert left(size) == pytest.approx(left(1), rel=0.2)


def test_without_time_for_a_step_it_is_what_it_began_with():
    pair = cut()
    found = distil(pair, quiet, start=pair.small, seconds=0.0)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), pair.small.parameters(), strict=True))


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_no_time_at_all_is_refused(minutes):
    pair = cut()
    with pytest.raises(InputError, match="minutes takes a number above 0"):
        infoprune.repair(pair.small, pair.original, pair.batches, pair.plan, method="distil", minutes=minutes)


def test_the_option_says_how_many_epochs_are_trained():
    pair = cut()

    def steps(epochs):
        last = {}
        infoprune.repair(pair.small, pair.original, pair.batches, pair.plan, method="distil", epochs=epochs,
                         progress=lambda stage, done, total: last.update({stage: (done, total)}))  # fmt: skip
        done, total = last["distilling"]
        assert done == total
        return total

    assert steps(3) == 3 * steps(1)
