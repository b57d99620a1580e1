"""Which weights of a training are kept: the nearest that lose no class, also between the start and the nearest."""

import copy

import pytest
import torch
from torch import nn

from infoprune.measure.divergence import Divergence
from infoprune.repair.student import MAPS, MAPS_AND_LOGITS, Student

FAR = 1.0


def student(agreement=90.0):
    network = nn.Linear(3, 2)
    return Student.of(network, Divergence(FAR, agreement, 50), rate=0.01)


def moved(training, away, agreement):
    """Give the network other weights, and say what was found of them."""
    with torch.no_grad():
        training.network.weight.add_(1.0)
    training.judge(Divergence(away, agreement, 50))
    return copy.deepcopy(training.network.state_dict())


def share_of(training, weights):
    start, end = training.start["weight"], training.nearest["weight"]
    return float((weights["weight"] - start).sum() / (end - start).sum())


def test_nearest_weights_that_lose_no_class_are_kept():
    training = student()
    first, _ = moved(training, 0.5, 90.0), moved(training, 0.7, 95.0)
    training.look_between(lambda network: pytest.fail("nothing lies between"))
    assert training.least == 0.5
    assert torch.equal(training.best["weight"], first["weight"])


@pytest.mark.parametrize("most", [0.75, 0.5, 0.25])
def test_of_weights_that_lose_classes_as_much_is_taken_as_loses_none(most):
    training = student()
    moved(training, 0.4, 88.0)
    assert training.least == FAR

    def judged(network):
        share = share_of(training, network.state_dict())
        return Divergence(FAR - 0.6 * share, 91.0 if share <= most + 0.01 else 89.0, 50)

    training.look_between(judged)
    assert share_of(training, training.best) == pytest.approx(most)
    assert training.least == pytest.approx(FAR - 0.6 * most)


def test_where_all_between_lose_classes_the_start_is_kept():
    training = student()
    moved(training, 0.4, 88.0)
    training.look_between(lambda network: Divergence(0.6, 89.0, 50))
    assert training.least == FAR
    assert torch.equal(training.best["weight"], training.start["weight"])


def test_outputs_without_classes_are_judged_by_their_divergence():
    training = student(agreement=None)
    last = moved(training, 0.4, None)
    training.look_between(lambda network: pytest.fail("the nearest are the best"))
    assert torch.equal(training.best["weight"], last["weight"])


def test_numbers_that_count_are_those_of_the_start():
    network = nn.BatchNorm1d(2)
    training = Student.of(network, Divergence(FAR, 90.0, 50), rate=0.01)
    network.num_batches_tracked += 7
    moved_to = Divergence(0.4, 88.0, 50)
    with torch.no_grad():
        network.weight.add_(1.0)
    training.judge(moved_to)
    training.look_between(lambda one: Divergence(0.6, 95.0, 50))
    assert training.best["num_batches_tracked"] == 0
    assert training.best["weight"].tolist() == [1.75, 1.75]


def test_a_batch_much_worse_than_the_first_sends_the_training_back_with_a_lower_rate():
    training = student()
    assert not training.is_lost(0.5, MAPS)
    assert not training.is_lost(2.4, MAPS)
    assert not training.is_lost(3.0, MAPS_AND_LOGITS)
    assert training.is_lost(2.6, MAPS)
    assert training.is_lost(float("nan"), MAPS)
    with torch.no_grad():
        training.network.weight.add_(1.0)
    training.go_back()
    assert torch.equal(training.network.weight, training.start["weight"])
    assert training.rate < 0.01
    assert not training.is_lost(2.6, MAPS)
