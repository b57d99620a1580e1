"""Pruning in rounds really removes filters, ends where it should, and ends the same however often it is killed."""

import dataclasses
import itertools

import pytest
import torch

from infoprune import zoo
from infoprune.data import Preprocessing, balanced_sample, held_out_split, loader, open_source, shift
from infoprune.evaluation import evaluate
from infoprune.iterative import Images, iterate
from infoprune.network.cost import count
from infoprune.plane import InformationPlane
from infoprune.schedule import LayerPace, Pace, PruningSchedule
from infoprune.tune import Recipe, train

PLAIN = Preprocessing((0.0,), (1.0,))
RECIPE = Recipe(epochs=2, learning_rate=0.05, precision="32-true")
SCHEDULE = PruningSchedule(
    layers=(LayerPace("features.0", Pace(plus=5), 4), LayerPace("features.3", Pace(0.5), 0.25)),
    retraining=RECIPE,
    images=100,
    options={"batch": 50},
)


@pytest.fixture(scope="module")
def images():
    source = open_source("digits")
    training, held_out = held_out_split(source.train)
    return Images(
        loader(training, PLAIN, batch_size=64, shuffle=True),
        loader(balanced_sample(training, 100), PLAIN, batch_size=100),
        loader(held_out, PLAIN),
        loader(source.test, PLAIN),
        lambda x: shift(x, 1),
    )


@pytest.fixture(scope="module")
def network(images):
    torch.manual_seed(0)
    recipe = Recipe(epochs=4, learning_rate=0.1, precision="32-true")
    return train(zoo.build("digits"), images.train, images.held_out, recipe).model


@pytest.fixture(scope="module")
def whole(network, images):
    """The run that nothing interrupts."""
    return iterate(network, images, SCHEDULE, plane=InformationPlane(["features.3"], every=10, images=32))


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def changed(**words):
    return dataclasses.replace(SCHEDULE, **words)


def test_filters_go_at_the_pace_of_each_layer_until_its_limit(whole, network, images):
    firsts = [network.features[place].out_channels for place in (0, 3)]
    widths = [tuple(one.filters.values()) for one in whole.rounds]
    assert widths[0] == tuple(firsts)
    for before, after in itertools.pairwise(widths):
        assert after[0] == max(4, before[0] - 5)
        assert after[1] == max(round(firsts[1] / 4), before[1] - before[1] // 2)
    assert widths[-1] == (4, round(firsts[1] / 4))
    assert whole.ended == "every layer is at its limit"
    assert whole.model.features[0].weight.shape[0] == 4
    assert whole.model.features[3].weight.shape[:2] == (round(firsts[1] / 4), 4)


def test_every_round_is_cheaper_and_its_figures_are_of_the_network_that_is_there(whole, network, images):
    costs = [(one.macs, one.convolution_macs, one.parameters) for one in whole.rounds]
    assert all(b < a for before, after in itertools.pairwise(costs) for a, b in zip(before, after, strict=True))
    last, counted = whole.rounds[-1], count(whole.model, torch.zeros(1, 1, 8, 8))
    assert (last.macs, last.parameters) == (counted.macs, counted.parameters)
    assert last.test == evaluate(whole.model, images.test).accuracy
    assert last.held_out == evaluate(whole.model, images.held_out).accuracy
    assert whole.rounds[0].test == evaluate(network, images.test).accuracy
    assert last.test > 60


def test_the_plan_is_in_the_filters_of_the_first_network(whole, network):
    assert same(whole.original, network)
    for layer, kept in whole.plan.kept.items():
        assert len(kept) == whole.rounds[-1].filters[layer]
        assert max(kept) < network.get_submodule(layer).out_channels


class KilledError(Exception):
    """As good as a kill: nothing is tidied up by the code under test."""


def killer(calls):
    left = [calls]

    def kill(stage, done, total):
        left[0] -= 1
        if left[0] < 0:
            raise KilledError

    return kill


@pytest.mark.parametrize("calls", [1, 4, 30, 47, 70, 120])
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_network(network, images, whole, tmp_path, calls):
    kills, plane = 0, None
    for _ in range(200):
        plane = InformationPlane(["features.3"], every=10, images=32)
        try:
            done = iterate(network, images, SCHEDULE, folder=tmp_path, plane=plane, progress=killer(calls + 10 * kills))
            break
        except KilledError:
            kills += 1
    assert kills > 0
    assert same(done.model, whole.model)
    assert done.plan.kept == whole.plan.kept
    assert [dataclasses.replace(one, seconds={}) for one in done.rounds] == [
        dataclasses.replace(one, seconds={}) for one in whole.rounds
    ]
    again = iterate(network, images, SCHEDULE, folder=tmp_path, progress=killer(0))
    assert same(again.model, whole.model)
