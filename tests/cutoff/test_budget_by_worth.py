"""How many filters by one criterion, which by another."""

import itertools

import pytest
import torch
from toy_costs import Chain, drawn, groups_of, important, kept_of, singles

import infoprune
from infoprune.cutoff import cut_by_worth
from infoprune.errors import InputError
from infoprune.plan import Budget


@pytest.mark.parametrize("share", [0.9, 0.8, 0.7])
def test_counts_come_from_the_worth_and_filters_from_the_importance(share):
    cost = Chain([4, 4], [10, 10])
    groups = groups_of(cost)
    importance = {"a": important(1, 2, 3, 4), "b": important(4, 3, 2, 1)}
    worth = {"a": important(1e-6, 2e-6, 3e-6, 5), "b": important(1, 1, 1, 1)}
    kept = kept_of(cut_by_worth(groups, importance, worth, cost, Budget(macs=share)))
    assert cost.shares(kept)["macs"] <= share
    assert len(kept["b"]) == 4 or len(kept["a"]) == 1
    assert kept["a"] == tuple(range(4 - len(kept["a"]), 4))
    assert kept["b"] == tuple(range(len(kept["b"])))


def test_of_equal_worth_goes_what_saves_more():
    cost = Chain([8, 8], [100, 10])
    alike = {"a": important(*[1.0] * 8), "b": important(*[1.0] * 8)}
    kept = kept_of(cut_by_worth(groups_of(cost), alike, alike, cost, Budget(macs=0.9)))
    assert len(kept["a"]) < 8
    assert len(kept["b"]) == 8
    by_parameters = kept_of(cut_by_worth(groups_of(cost), alike, alike, cost, Budget(parameters=0.9)))
    assert len(by_parameters["b"]) < 8
    assert len(by_parameters["a"]) == 8


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("macs", "parameters"), [(0.5, 0.7), (0.6, 0.6), (0.7, 0.5)])
def test_two_limits_cost_little_more_than_the_best_of_all_counts(seed, macs, parameters):
    cost = Chain([16, 16, 16], [100, 30, 1])
    groups = groups_of(cost)
    worth = drawn(groups, seed)
    budget = Budget(macs=macs, parameters=parameters)
    kept = kept_of(cut_by_worth(groups, worth, worth, cost, budget))
    assert meets(cost, kept, budget)
    ranked = {name: one.scores.argsort(descending=True).tolist() for name, one in worth.items()}
    counts = itertools.product(range(1, 17), repeat=3)
    every = ({name: ranked[name][:count] for name, count in zip("abc", some, strict=True)} for some in counts)
    best = min(lost(worth, some) for some in every if meets(cost, some, budget))
    assert lost(worth, kept) <= best + 0.15


def meets(cost, kept, budget):
    return all(share <= budget.shares()[what] for what, share in cost.shares(kept).items())


def lost(worth, kept):
    return sum(float(one.scores.sum() - one.scores[list(kept[name])].sum()) for name, one in worth.items())


def test_filters_that_go_together_are_counted_together():
    cost = Chain([4, 4], [10, 10])
    groups = [type(one)(one.name, 4, ((0, 1), (2, 3))) for one in groups_of(cost)]
    kept = kept_of(cut_by_worth(groups, drawn(groups, 1), drawn(groups, 2), cost, Budget(macs=0.7)))
    assert all(some in ((0, 1), (2, 3), (0, 1, 2, 3)) for some in kept.values())


def test_latency_is_refused():
    with pytest.raises(InputError, match="by measuring"):
        cut_by_worth([singles("a", 4)], {}, {}, Chain([4], [10]), Budget(latency=0.5))


def test_budget_by_needs_a_budget():
    with pytest.raises(InputError, match="pass a budget with it"):
        infoprune.PruneOptions(ratio=0.5, budget_by="reconstruction")


def test_the_pipeline_meets_the_budget_with_both_criteria_named():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3), torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 4),
    ).eval()  # fmt: skip
    batches = [(torch.randn(20, 3, 12, 12), torch.randint(4, (20,)))]
    budget = infoprune.Budget(macs=0.5)
    result = infoprune.prune(model, batches, criterion="l1", budget=budget, budget_by="reconstruction", repair=None)
    assert 0.4 < result.pruned.macs / result.base.macs <= 0.5
    assert result.plan.settings["budget_by"] == "reconstruction"
    alone = infoprune.plan(model, batches, criterion="reconstruction", budget=budget, budget_by="reconstruction")
    assert {n: len(k) for n, k in alone.kept.items()} == {n: len(k) for n, k in result.plan.kept.items()}
