"""Particles, their moves and their comparison by hand; searches stay within the budget and never end worse."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import infoprune
from infoprune.criteria import find
from infoprune.criteria.scoring import score
from infoprune.cutoff.budget import Allowance, levels_within
from infoprune.cutoff.ranking import rank
from infoprune.errors import InputError
from infoprune.measure.accuracy import accuracy_of
from infoprune.measure.divergence import divergence_between
from infoprune.plan import Budget
from infoprune.search import Judged, Swarm, better, fly, search_filters
from infoprune.search.filters import Space
from infoprune.selection.calibration import Calibration
from nets import Plain, Residual, Separable

IMAGES = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(40) % 4
DATA = [(IMAGES[i : i + 10], LABELS[i : i + 10]) for i in range(0, 40, 10)]


def test_a_particle_at_rest_is_a_fair_coin():
    rest = torch.zeros(10_000, dtype=torch.float64)
    drawn = torch.rand(10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert Swarm(1, form="bits").moved(rest, rest, drawn).mean() == pytest.approx(0.5, abs=0.02)


def test_a_step_by_hand():
    zero, one, half = torch.zeros(1), torch.ones(1), torch.full((1,), 0.5)
    v = Swarm(1, form="bits").velocity(zero, zero, one, one, half, half)
    assert v.item() == 1.5
    assert torch.sigmoid(v).item() == pytest.approx(0.817574, abs=1e-6)
    swarm = Swarm(1, form="bits")
    assert swarm.moved(zero, v, torch.tensor([0.8175])).item() == 1
    assert swarm.moved(zero, v, torch.tensor([0.8177])).item() == 0
    assert swarm.velocity(torch.tensor([30.0]), zero, zero, zero, half, half).item() == 6
    assert Swarm(1).moved(torch.tensor([0.9]), torch.tensor([0.2]), zero).item() == 1


def test_what_keeps_to_the_limit_is_better_then_value_then_less_excess():
    assert better(Judged(0.9), Judged(0.95, excess=0.1))
    assert not better(Judged(0.95, excess=0.1), Judged(0.9))
    assert better(Judged(0.95), Judged(0.9))
    assert better(Judged(0.1, excess=0.1), Judged(0.9, excess=0.2))
    assert not better(Judged(0.9), Judged(0.9))


def test_bits_find_a_hidden_pattern():
    hidden = (torch.arange(12) % 3 == 0).double()
    start = torch.randint(2, (12, 12), generator=torch.Generator().manual_seed(0)).double()
    best, worth, history = fly(
        start, lambda x: Judged(-float((x - hidden).abs().sum())), Swarm(60, form="bits"),
        torch.Generator().manual_seed(1),
    )  # fmt: skip
    assert worth.value >= -1
    assert history == sorted(history)
    assert worth.value == -float((best - hidden).abs().sum())


def space_of(model, form, macs=0.5, criterion="l2"):
    calibration = Calibration.of(model, DATA)
    groups = calibration.groups.groups
    found = score(model, groups, DATA, find(criterion))
    allowance = Allowance(calibration.costs, {"macs": macs})
    return Space(rank(groups, found), allowance, form), calibration, groups


@pytest.mark.parametrize("network", [Plain, Residual, Separable])
@pytest.mark.parametrize("form", ["shares", "bits"])
def test_every_position_is_a_network_within_the_budget(network, form):
    space, calibration, groups = space_of(network().eval(), form)
    own = levels_within(
        space.ranking, space.allowance, Budget(macs=0.5), infoprune.PruneOptions("l1", ratio=0.5).limits()
    )
    rows = space.start(own, 12, torch.Generator().manual_seed(0))
    # The first particle is the criterion's own plan.
    assert (
        calibration.costs.cost(space.kept(rows[0])).macs >= calibration.costs.cost(space.ranking.kept(own)).macs * 0.9
    )
    if form == "bits":
        assert space.kept(rows[0]) == space.ranking.kept(own)
    for row in [*rows, torch.zeros_like(rows[0]), torch.ones_like(rows[0])]:
        kept = space.kept(row)
        assert space.allowance.met_by(kept)
        for group in groups:
            gone = set(range(group.filters)) - set(kept[group.name])
            assert all(set(unit) <= gone or not set(unit) & gone for unit in group.units)
            assert not any(set(part) <= gone for part in group.parts)
            assert kept[group.name]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_shares_use_up_the_budget_but_for_one_step_of_each_group(seed):
    space, calibration, _ = space_of(Plain().eval(), "shares")
    row = torch.rand(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).clamp_min(0.05)
    levels = [len(rungs) - int(len(space.kept(row)[group.name]) - (group.filters - len(rungs)))
              for group, rungs in zip(space.ranking.groups, space.ranking.ladders, strict=True)]  # fmt: skip
    more = [max(0, level - 1) for level in levels]
    assert not space.allowance.met_by(space.ranking.kept(more))
    assert calibration.costs.base.macs > 0


@pytest.mark.parametrize("form", ["shares", "bits"])
@pytest.mark.parametrize("value", ["divergence", "accuracy"])
def test_a_search_ends_no_worse_than_the_criterion_on_the_held_out_images(form, value):
    model = Residual().eval()
    held_out = [(IMAGES[:15], LABELS[:15])]
    found = search_filters(model, DATA[2:], macs=0.6, criterion="l2", form=form, value=value, repair=None,
                           particles=3, steps=3, held_out=held_out)  # fmt: skip
    assert found.value >= found.start
    assert list(found.history) == sorted(found.history)
    assert 1 <= found.judged <= 13
    result = infoprune.prune(model, DATA, found.plan, repair=None)
    assert result.pruned.macs <= 0.6 * result.base.macs
    if value == "accuracy":
        assert found.value == accuracy_of(result.model, held_out)
    else:
        again = divergence_between(model, result.model, [IMAGES[:15]]).value
        assert found.value == pytest.approx(-again, rel=1e-4)
    same = search_filters(model, DATA[2:], macs=0.6, criterion="l2", form=form, value=value, repair=None,
                          particles=3, steps=3, held_out=held_out)  # fmt: skip
    assert same.plan.kept == found.plan.kept


def test_held_out_images_are_every_fifth():
    model = Plain().eval()
    found = search_filters(model, DATA, macs=0.5, criterion="l2", repair=None, particles=2, steps=0)
    judges = IMAGES[4::5]
    small = infoprune.prune(model, DATA, found.plan, repair=None).model
    assert found.value == pytest.approx(-divergence_between(model, small, [judges]).value, rel=1e-4)
    assert math.isfinite(found.start)


def test_wrong_words_are_refused():
    model = Plain().eval()
    for words, message in (
        ({"form": "counts"}, "unknown form of a search 'counts'"),
        ({"value": "loss"}, "unknown value of a search 'loss'"),
        ({"particles": 1}, "2 particles or more, not 1"),
        ({"steps": -1}, "0 steps or more, not -1"),
        ({"macs": 1e-6}, "a budget of .* of the MACs cannot be met"),
        ({"criterion": "l3"}, "unknown criterion 'l3'|there is no criterion"),
    ):
        with pytest.raises(InputError, match=message):
            search_filters(model, DATA, **({"macs": 0.5, "criterion": "l2"} | words))
