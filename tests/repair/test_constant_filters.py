"""Filters that say nothing go at no loss."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import infoprune
from infoprune.errors import InputError
from infoprune.repair.constant_filters import remove_constant_filters
from nets import Plain, Residual, gap, images


def silence(norm, filter_, value):
    with torch.no_grad():
        norm.weight[filter_], norm.bias[filter_] = 0, value


def test_dead_filters_go_and_nothing_changes():
    model = Residual().eval()
    for filter_ in (1, 4, 7):
        silence(model.inner1[1], filter_, -0.5)
    silence(model.inner2[1], 0, 0.0)
    found = infoprune.remove_constant_filters(model, images())
    assert found.filters == 4
    assert found.plan.kept == {"inner1.0": (0, 2, 3, 5, 6, 8, 9, 10, 11), "inner2.0": tuple(range(1, 12))}
    assert found.model.inner1[0].out_channels == 9
    assert gap(model, found.model, images(16, 8, 1)) < 1e-6


class Valid(nn.Module):
    """Convolutions that pad nothing, and flattened maps."""

    def __init__(self, padding=0, bias=True):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.second, self.fc = nn.Conv2d(8, 5, 3, padding=padding, bias=bias), nn.Linear(5 * (4 + 2 * padding) ** 2, 4)

    def forward(self, x):
        return self.fc(F.relu(self.second(F.relu(self.norm(self.first(x))))).flatten(1))


def test_a_constant_goes_into_the_bias_where_nothing_is_padded():
    model = Valid().eval()
    silence(model.norm, 3, 1.7)
    with torch.no_grad():
        model.second.weight[2], model.second.bias[2] = 0, 0.8
    found = remove_constant_filters(model, images())
    assert found.plan.kept == {"first": (0, 1, 2, 4, 5, 6, 7), "second": (0, 1, 3, 4)}
    assert gap(model, found.model, images(16, 8, 1)) < 1e-5


def test_a_constant_stays_where_it_could_not_be_put():
    for model in (Valid(padding=1).eval(), Valid(bias=False).eval()):
        silence(model.norm, 3, 1.7)
        found = remove_constant_filters(model, images())
        assert found.filters == 0
        assert found.model is model


def test_one_filter_stays_even_where_all_are_dead():
    model = Plain().eval()
    for filter_ in range(8):
        silence(model.first[1], filter_, -1.0)
    found = remove_constant_filters(model, images())
    assert len(found.plan.kept["first.0"]) == 1
    assert gap(model, found.model, images(16, 8, 1)) < 1e-6


def test_what_went_for_free_can_be_cut_further():
    model = Residual().eval()
    silence(model.inner1[1], 4, -0.5)
    batches = [(x, torch.zeros(len(x), dtype=torch.long)) for x in images()]
    freed = remove_constant_filters(model, batches)
    later = infoprune.plan(freed.model, batches, criterion="l1", keep={"inner1.0": 6})
    whole = freed.plan.then(later)
    assert len(whole.kept["inner1.0"]) == 6
    assert 4 not in whole.kept["inner1.0"]


def test_images_that_can_be_read_once_are_refused():
    with pytest.raises(InputError, match="more than once"):
        remove_constant_filters(Plain().eval(), iter(images()))


def labelled_images():
    return [(x, torch.zeros(len(x), dtype=torch.long)) for x in images()]


def half_dead():
    model = Residual().eval()
    for filter_ in (1, 4, 7):
        silence(model.inner1[1], filter_, -0.5)
    return model


def test_prune_counts_free_filters_apart_and_keeps_to_the_budget_of_the_whole_network():
    model = half_dead()
    found = infoprune.prune(
        model, labelled_images(), criterion="l1", budget=infoprune.Budget(macs=0.7), remove_constant=True, repair=None
    )
    whole = infoprune.prune(model, labelled_images(), criterion="l1", budget=infoprune.Budget(macs=0.7), repair=None)
    assert found.free["filters"] == 3
    # A hidden filter of a block is read and written by a 3x3 convolution of 6 channels, on 8 x 8 positions.
    assert found.free["macs"] == 3 * 2 * 6 * 9 * 64
    assert found.record()["free"] == found.free
    assert "free" not in whole.record()
    assert 0.6 < found.pruned.macs / found.base.macs <= 0.7
    assert not {1, 4, 7} & set(found.plan.kept["inner1.0"])
    again = infoprune.apply(found.plan, model)
    assert [tuple(p.shape) for p in again.parameters()] == [tuple(p.shape) for p in found.model.parameters()]


def test_the_joint_plan_tells_of_all_filters():
    model = half_dead()
    found = infoprune.prune(
        model, labelled_images(), criterion="qsfm", ratio=0.34, remove_constant=True, repair=None
    ).plan
    decision = found.decisions["inner1.0"]
    assert len(decision.scores) == len(decision.partner) == decision.filters == 12
    assert decision.order[-3:] == (1, 4, 7)
    assert sorted(decision.order) == list(range(12))
    assert decision.kept == tuple(sorted(decision.order[:6]))
    assert all(decision.scores[gone] == 0 == decision.partner[gone] + 1 for gone in (1, 4, 7))
    assert all(decision.stands_in(gone) in decision.kept for gone in decision.removed if gone not in (1, 4, 7))


def test_counts_are_of_the_whole_layer():
    model = half_dead()
    found = infoprune.prune(
        model, labelled_images(), criterion="l1", keep={"inner1.0": 11}, remove_constant=True, repair=None
    )
    assert found.plan.kept == {"inner1.0": (0, 2, 3, 5, 6, 8, 9, 10, 11)}
    assert found.free["filters"] == 3


def test_with_a_ratio_nothing_is_lost_by_what_went_for_free():
    model = half_dead()
    found = infoprune.prune(model, labelled_images(), criterion="l1", ratio=0.0, remove_constant=True, repair=None)
    assert gap(model, found.model, images()) < 1e-6
    assert found.pruned.macs < found.base.macs


@pytest.mark.parametrize("keep", [None, {"inner1.0": [0, 1]}])
def test_free_filters_do_not_go_with_a_plan(keep):
    model = half_dead()
    choice = {"plan": infoprune.Plan({})} if keep is None else {"keep": keep}
    with pytest.raises(InputError, match="already names the kept filters"):
        infoprune.prune(model, labelled_images(), remove_constant=True, **choice, repair=None)
