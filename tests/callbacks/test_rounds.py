"""Rounds inside a loop of one's own are those of ``iterate``, whose loop is another."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import infoprune
from infoprune.callbacks import PruningRounds, RoundImages
from infoprune.errors import InputError
from infoprune.iterative.iterate import Images, iterate
from infoprune.measure.accuracy import evaluate
from infoprune.network.origin import plan_of
from infoprune.training.recipe import Recipe

from .conftest import SCHEDULE, changed


def adam(network):
    return torch.optim.AdamW(network.parameters(), lr=0.01)


def trained(rounds, batches, optimizer, epochs, rate=0.01):
    """Train by the loop of a user."""
    for number in epochs:
        rounds.before_epoch(number, optimizer)
        rounds.network.train()
        for group in optimizer.param_groups:
            group["lr"] = rate
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(rounds.network(images), labels).backward()
            optimizer.step()
        rounds.after_epoch(number, optimizer)
        if rounds.undone:
            break
    return rounds.network


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_filters_are_removed_at_the_pace_of_iterate(network, batches, images):
    """Nothing is learnt, so that the rounds of both are about the same weights."""
    still = changed(initial=None, retraining=Recipe(epochs=0), last=None)
    wanted = iterate(network, Images(batches, images.calibration, images.held_out), still)
    epochs = replace(still, retraining=Recipe(epochs=1))
    rounds = PruningRounds(network, epochs, images)
    assert rounds.epochs == len(wanted.rounds) - 1
    for number in range(rounds.epochs):
        rounds.before_epoch(number)
        rounds.after_epoch(number)
    assert rounds.plan.kept == wanted.plan.kept
    assert same(network, wanted.model)
    assert rounds.ended == wanted.ended
    times = {"seconds": {}, "epochs": 0}
    assert [replace(one, **times) for one in rounds.rounds] == [
        replace(one, **times, best_epoch=None) for one in wanted.rounds
    ]
    assert rounds.record().keys() == wanted.record().keys()


@pytest.mark.parametrize("criterion", ["l1", "hrel"])
def test_a_network_is_pruned_while_it_learns(network, batches, images, criterion):
    original, seen = copy.deepcopy(network), []
    options = {"batch": 20} if criterion == "hrel" else {}
    schedule = changed(criterion=criterion, options=options)
    rounds = PruningRounds(network, schedule, images, on_round=lambda one, last: seen.append((one.number, last)))
    assert rounds.cuts == (1, 2, 3)
    assert rounds.epochs == 5
    optimizer = adam(network)
    trained(rounds, batches, optimizer, range(rounds.epochs))
    assert (network.features[0].out_channels, network.features[3].out_channels) == (6, 16)
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert [one.epochs for one in rounds.rounds] == [1, 1, 1, 2]
    assert rounds.rounds[-1].held_out == evaluate(network, images.held_out).accuracy > 60
    assert rounds.ended == "every layer is at its limit"
    for parameter in network.parameters():
        assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape
    # The plan is that of the network before the first cut, and is noted for a checkpoint.
    small = infoprune.apply(rounds.plan, original)
    assert [a.shape for a in small.parameters()] == [a.shape for a in network.parameters()]
    assert plan_of(network).kept == rounds.plan.kept
    assert network.training


def test_a_loop_that_is_resumed_ends_with_the_same_weights(network, batches, images):
    whole, first = copy.deepcopy(network), copy.deepcopy(network)
    rounds = PruningRounds(whole, SCHEDULE, images)
    trained(rounds, batches, adam(whole), range(rounds.epochs))
    for stop in range(1, rounds.epochs):
        begun = PruningRounds(copy.deepcopy(first), SCHEDULE, images)
        optimizer = adam(begun.network)
        trained(begun, batches, optimizer, range(stop))
        kept = copy.deepcopy((begun.state_dict(), begun.network.state_dict(), optimizer.state_dict()))
        fresh = PruningRounds(copy.deepcopy(first), SCHEDULE, images)
        fresh.load_state_dict(kept[0])
        fresh.network.load_state_dict(kept[1])
        again = adam(fresh.network)
        again.load_state_dict(kept[2])
        trained(fresh, batches, again, range(stop, rounds.epochs))
        assert same(fresh.network, whole)
        assert fresh.plan.kept == rounds.plan.kept
        assert fresh.rounds == rounds.rounds


def test_a_cut_leaves_the_random_numbers_of_the_loop_alone(network, batches, images):
    rounds = PruningRounds(network, changed(initial=None, criterion="random"), images)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    rounds.before_epoch(0)
    assert rounds.plans
    assert torch.equal(torch.get_rng_state(), before)


def test_a_repair_follows_the_cut(network, batches, images):
    network.eval()
    plain, better = copy.deepcopy(network), copy.deepcopy(network)
    wanted = network(images.calibration[0][0]).detach()
    away = []
    for one, repair in ((plain, None), (better, "least-squares")):
        parameters = set(map(id, one.parameters()))
        rounds = PruningRounds(one, changed(initial=None, rounds=1, repair=repair), images)
        rounds.before_epoch(0)
        assert set(map(id, one.parameters())) == parameters
        away.append(float((one(images.calibration[0][0]).detach() - wanted).square().mean()))
    assert away[1] < 0.5 * away[0]


@pytest.mark.parametrize("resumed", [False, True])
def test_a_round_below_the_floor_is_undone(network, batches, images, resumed):
    schedule = changed(floor=70.0)
    rounds = PruningRounds(network, schedule, images)
    optimizer = adam(network)
    trained(rounds, batches, optimizer, range(2))
    assert [one.stands for one in rounds.rounds] == [True, True]
    wanted = copy.deepcopy(network)
    rounds.before_epoch(2, optimizer)
    if resumed:
        state, weights = rounds.state_dict(), network.state_dict()
        network = infoprune.zoo.build("digits")
        rounds = PruningRounds(network, schedule, images)
        rounds.load_state_dict(state)
        network.load_state_dict(weights)
        optimizer = adam(network)
    trained(rounds, batches, optimizer, range(2, 4), rate=100.0)
    assert not rounds.rounds[-1].stands
    assert rounds.ended == "round 2 fell below 70 % on held-out images and was undone"
    assert same(network, wanted)
    assert network.features[0].out_channels == 11
    assert len(rounds.plan.kept["features.0"]) == 11
    # What follows can be trained on.
    F.cross_entropy(network(images.calibration[0][0]), images.calibration[0][1]).backward()
    optimizer.step()
    again = PruningRounds(infoprune.zoo.build("digits"), schedule, images)
    again.load_state_dict(rounds.state_dict())
    again.network.load_state_dict(network.state_dict())
    assert again.undone


def test_what_cannot_work_is_refused_before_anything_is_trained(network, images):
    refused = {
        "an accuracy floor needs held-out images": (changed(floor=50.0), RoundImages(images.calibration)),
        "a teacher belongs to the loss": (changed(retraining=Recipe(epochs=1, distillation=0.5)), images),
        "a penalty belongs to the loss": (changed(before=Recipe(epochs=1), penalty="ufkt"), images),
        "unknown criterion": (changed(criterion="l11"), images),
        "iterable more than once": (SCHEDULE, RoundImages(iter([]))),
    }
    for message, (schedule, some) in refused.items():
        with pytest.raises(InputError, match=message):
            PruningRounds(network, schedule, some)


def test_epochs_that_are_missing_and_states_of_others_are_refused(network, images):
    rounds = PruningRounds(network, SCHEDULE, images)
    with pytest.raises(InputError, match="round 1 begins with epoch 1, counted from 0, and epoch 3 begins"):
        rounds.before_epoch(3)
    other = PruningRounds(network, changed(seed=1), images)
    with pytest.raises(InputError, match="another schedule"):
        other.load_state_dict(rounds.state_dict())
    with pytest.raises(InputError, match="no state of a pruning"):
        other.load_state_dict({})
