"""Filters selected again in the pruned network."""

import pytest
import torch
from torch import nn

import infoprune
from infoprune.errors import InputError
from infoprune.network.coupled_groups import find_groups
from infoprune.plan import LayerDecision, Plan
from infoprune.selection.reselection import reselect
from nets import Plain, Residual, Separable, conv_bn, gap, images, quiet


def plan_of(model, keep):
    groups = find_groups(model.eval(), images()[0][:2]).groups
    filters = {group.name: group.filters for group in groups}
    return Plan({name: LayerDecision(name, filters[name], tuple(kept)) for name, kept in keep.items()})


def repaired(model, plan, batches):
    small = infoprune.apply(plan, model, batches[0][:2])
    return infoprune.repair(small, model, batches, plan, method="least-squares")


def test_what_was_chosen_badly_is_chosen_well():
    model = Plain(conv_bn(8, 6)).eval()
    with torch.no_grad():
        for dead in (1, 4, 6):
            model.first[0].weight[dead] = 0
            model.first[1].running_mean[dead], model.first[1].bias[dead] = 0, -1
    plan = plan_of(model, {"first.0": [0, 1, 3, 4, 6]})
    found = reselect(plan, model, images())
    assert found.kept == {"first.0": (0, 2, 3, 5, 7)}
    assert "selected again" in found.decisions["first.0"].reason
    assert gap(model, infoprune.apply(found, model, images()[0][:2]), images()) < 1e-5


def test_a_choice_in_sequence_comes_nearer_than_the_first_filters():
    torch.manual_seed(2)
    batches, model = images(160), Residual().eval()
    plan = plan_of(model, {"inner1.0": range(5), "inner2.0": range(5)})
    found = reselect(plan, model, batches)
    assert {name: len(kept) for name, kept in found.kept.items()} == {"inner1.0": 5, "inner2.0": 5}
    fresh = images(64, 8, 1)
    assert gap(model, repaired(model, found, batches), fresh) < 0.8 * gap(model, repaired(model, plan, batches), fresh)


def exhaustive(model, batches, count, plan):
    """The best choice of one layer, by trying all of them."""
    from itertools import combinations

    tried = {}
    for kept in combinations(range(8), count):
        trial = plan_of(model, {"first.0": kept})
        small = infoprune.apply(trial, model, batches[0][:2])
        small = infoprune.repair(small, model, batches, trial, method="least-squares")
        x = torch.cat(list(batches))
        with torch.no_grad():
            tried[kept] = float((small.middle(small.first(x)) - model.middle(model.first(x))).square().sum())
    return tried


def test_of_one_layer_it_is_among_the_best_of_all_choices():
    torch.manual_seed(5)
    batches, model = images(60, 6), Plain().eval()
    plan = plan_of(model, {"first.0": range(4)})
    tried = exhaustive(model, batches, 4, plan)
    found = tried[reselect(plan, model, batches).kept["first.0"]]
    assert sorted(tried.values()).index(found) < 5


def test_groups_of_several_readers_and_of_grouped_convolutions_stay_as_planned():
    torch.manual_seed(4)
    model = Separable().eval()
    groups = {group.name for group in find_groups(model, images()[0][:2]).groups}
    keep = {"expand.0": [0, 1, 2, 3, 5, 7], "project.0": [0, 1, 2, 4, 5, 6], "left.0": [0, 1, 2], "right.0": [2, 3, 4]}
    assert set(keep) <= groups
    plan = plan_of(model, keep)
    found = reselect(plan, model, images())
    assert found.kept["project.0"] == plan.kept["project.0"]
    assert {name: len(kept) for name, kept in found.kept.items()} == {name: len(kept) for name, kept in keep.items()}
    # One of two branches that are read by the same layer is selected again, the other is not.
    assert found.kept["right.0"] == plan.kept["right.0"]
    infoprune.verify(found, model, images()[0][:2])


def test_the_stream_of_a_residual_network_stays_and_its_blocks_are_chosen_behind_it():
    torch.manual_seed(6)
    model = Residual().eval()
    stem = next(group.name for group in find_groups(model, images()[0][:2]).groups if len(group.producers) > 1)
    plan = plan_of(model, {stem: [0, 2, 3, 5], "inner1.0": range(6)})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = reselect(plan, model, images())
    assert found.kept[stem] == (0, 2, 3, 5)
    assert len(found.kept["inner1.0"]) == 6
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert reselect(plan, model, images()).kept == found.kept


def test_linear_layers_after_flattened_maps_are_chosen_by_filter():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = conv_bn(3, 6, stride=4), nn.Linear(6 * 4, 5)

        def forward(self, x):
            return self.fc(self.conv(x).flatten(1))

    model = Flat().eval()
    with torch.no_grad():
        model.fc.weight[:, 8:16] = 0
    found = reselect(plan_of(model, {"conv.0": [0, 1, 2, 3]}), model, images())
    assert found.kept["conv.0"] == (0, 1, 4, 5)


def test_prune_chooses_anew_on_request():
    batches = [(x, torch.zeros(len(x), dtype=torch.long)) for x in images(160)]
    model = Residual().eval()
    plain = infoprune.plan(model, batches, criterion="random", ratio=0.5)
    found = infoprune.plan(model, batches, criterion="random", ratio=0.5, reselect=True)
    assert plain.kept != found.kept
    assert {name: len(kept) for name, kept in plain.kept.items()} == {n: len(kept) for n, kept in found.kept.items()}


def test_images_that_can_be_read_once_are_refused():
    model = Plain().eval()
    with pytest.raises(InputError, match="more than once"):
        reselect(plan_of(model, {"first.0": [0]}), model, iter(images()))


def test_layer_by_layer_it_has_no_meaning():
    with pytest.raises(InputError, match="chosen anew"):
        infoprune.plan(Plain().eval(), [], criterion="cmi", cutoff="scree", reselect=True)
    assert quiet("", 0, 0) is None
