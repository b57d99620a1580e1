"""The budget is met, from below, as closely as the filters allow, and always in the same way."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from toy_costs import Chain, ToyCost, ToyGroup, drawn, groups_of, important, kept_of, singles

from infoprune.criteria.base import Importance
from infoprune.cutoff import Limits, cut_to_budget, reach
from infoprune.cutoff.ranking import rank
from infoprune.errors import InputError
from infoprune.plan import Budget

chains = st.builds(
    lambda widths, size: Chain(widths, [max(1, size >> i) ** 2 for i in range(len(widths))]),
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.sampled_from([1, 8, 32]),
)
fine = st.builds(
    lambda widths, size: Chain(widths, [max(2, size >> i) ** 2 for i in range(len(widths))]),
    st.lists(st.integers(200, 400), min_size=3, max_size=5),
    st.sampled_from([8, 32]),
)
shares = st.floats(0.05, 1)
what = st.sampled_from(["macs", "parameters"])


def within(budget, found):
    return all(found[name] <= share for name, share in budget.shares().items())


def smallest_step_back(chain, cuts):
    """The least share of MACs or parameters that comes with one more filter anywhere."""
    kept = kept_of(cuts)
    now, steps = chain.shares(kept), []
    for name, some in kept.items():
        if len(some) < chain.widths[name]:
            wider = chain.shares({**kept, name: range(len(some) + 1)})
            steps.append({key: wider[key] - now[key] for key in now})
    return steps


@settings(max_examples=150, deadline=None)
@given(chain=chains, macs=shares, parameters=st.none() | shares, seed=st.integers(0, 99))
def test_never_over_the_budget_and_no_filter_more_fits(chain, macs, parameters, seed):
    groups, budget = groups_of(chain), Budget(macs=macs, parameters=parameters)
    lowest = reach(groups, chain)
    assume(within(budget, {"macs": lowest.macs, "parameters": lowest.parameters}))
    cuts = cut_to_budget(groups, drawn(groups, seed), chain, budget)
    found = chain.shares(kept_of(cuts))
    assert within(budget, found)
    for step in smallest_step_back(chain, cuts):
        assert not within(budget, {name: found[name] + step[name] for name in found})


@settings(max_examples=30, deadline=None)
@given(chain=fine, which=what, share=st.floats(0.1, 1), seed=st.integers(0, 99))
def test_within_one_percent_of_the_original_from_below(chain, which, share, seed):
    groups = groups_of(chain)
    cuts = cut_to_budget(groups, drawn(groups, seed), chain, Budget(**{which: share}))
    found = chain.shares(kept_of(cuts))[which]
    assert share - 0.01 < found <= share


@settings(max_examples=20, deadline=None)
@given(chain=fine, macs=st.floats(0.1, 1), parameters=st.floats(0.1, 1), seed=st.integers(0, 99))
def test_of_two_budgets_both_are_met_and_one_closely(chain, macs, parameters, seed):
    groups = groups_of(chain)
    cuts = cut_to_budget(groups, drawn(groups, seed), chain, Budget(macs=macs, parameters=parameters))
    found = chain.shares(kept_of(cuts))
    assert found["macs"] <= macs
    assert found["parameters"] <= parameters
    assert found["macs"] > macs - 0.01 or found["parameters"] > parameters - 0.01


@settings(max_examples=30, deadline=None)
@given(chain=fine, which=what, share=st.floats(0.1, 0.97), more=st.floats(0.011, 0.5), seed=st.integers(0, 99))
def test_a_larger_budget_keeps_more(chain, which, share, more, seed):
    groups = groups_of(chain)
    small, large = (
        chain.shares(kept_of(cut_to_budget(groups, drawn(groups, seed), chain, Budget(**{which: some}))))[which]
        for some in (share, min(1, share + more))
    )
    assert small < large


@settings(max_examples=50, deadline=None)
@given(chain=chains, which=what, share=st.floats(0.3, 1), seed=st.integers(0, 99))
def test_in_every_layer_the_most_important_stay(chain, which, share, seed):
    groups = groups_of(chain)
    lowest = reach(groups, chain)
    assume(getattr(lowest, which) <= share)
    importances = drawn(groups, seed)
    for name, cut in cut_to_budget(groups, importances, chain, Budget(**{which: share})).items():
        assert set(cut.kept) == set(importances[name].order[: len(cut.kept)])
        assert cut.kept == tuple(sorted(cut.kept))
        assert len(cut.kept) >= 1


@settings(max_examples=30, deadline=None)
@given(chain=chains, share=st.floats(0.3, 1), seed=st.integers(0, 99))
def test_the_same_question_has_the_same_answer(chain, share, seed):
    groups, budget = groups_of(chain), Budget(macs=share)
    assume(reach(groups, chain).macs <= share)
    assert cut_to_budget(groups, drawn(groups, seed), chain, budget) == cut_to_budget(
        groups, drawn(groups, seed), chain, budget
    )


@settings(max_examples=50, deadline=None)
@given(
    chain=chains,
    share=st.floats(0.2, 1),
    multiple=st.sampled_from([1, 4, 8]),
    least=st.integers(1, 6),
    keep_share=st.sampled_from([0, 0.3]),
)
def test_limits_hold(chain, share, multiple, least, keep_share):
    groups, limits = groups_of(chain), Limits(least, keep_share, multiple)
    assume(reach(groups, chain, limits=limits).macs <= share)
    for name, cut in cut_to_budget(groups, drawn(groups), chain, Budget(macs=share), limits=limits).items():
        width, kept = chain.widths[name], len(cut.kept)
        assert kept == width or kept % multiple == 0
        assert kept >= min(width, max(least, keep_share * width))
        if width <= multiple:
            assert kept == width


def test_rounding_still_comes_close():
    chain = Chain([256, 256, 512, 512], [256, 256, 64, 64])
    groups = groups_of(chain)
    cuts = cut_to_budget(groups, drawn(groups), chain, Budget(macs=0.5), limits=Limits(multiple=2))
    assert all(len(cut.kept) % 2 == 0 for cut in cuts.values())
    assert 0.49 < chain.shares(kept_of(cuts))["macs"] <= 0.5


class Weighed:
    """Filters of a price each, by group."""

    def __init__(self, groups, prices):
        self.groups, self.prices = groups, prices
        self.base = self.cost({})

    def cost(self, kept):
        macs = sum(len(kept.get(g.name, range(g.filters))) * self.prices[g.name] for g in self.groups)
        return ToyCost(macs, macs)


def test_the_ranking_is_over_all_layers_relative_to_the_mean_of_each():
    groups = [singles("a", 3), singles("b", 3)]
    cost = Weighed(groups, {"a": 1, "b": 1})
    importances = {"a": important(1, 2, 9), "b": important(400, 100, 400)}
    assert kept_of(cut_to_budget(groups, importances, cost, Budget(macs=4 / 6))) == {"a": (1, 2), "b": (0, 2)}
    plain = cut_to_budget(groups, importances, cost, Budget(macs=4 / 6), normalise="none")
    assert kept_of(plain) == {"a": (2,), "b": (0, 1, 2)}


def test_the_most_important_that_still_fit_come_back():
    # The filter of b is dear: after it has gone, filters of a and c that went before it fit again, c's first.
    groups = [singles("a", 3), singles("b", 3), singles("c", 3)]
    cost = Weighed(groups, {"a": 1, "b": 10, "c": 1})
    importances = {"a": important(0.1, 5, 5), "b": important(0.3, 5, 5), "c": important(0.2, 5, 5)}
    cuts = cut_to_budget(groups, importances, cost, Budget(macs=27 / 36), normalise="none")
    assert kept_of(cuts) == {"a": (0, 1, 2), "b": (1, 2), "c": (0, 1, 2)}
    cuts = cut_to_budget(groups, importances, cost, Budget(macs=25.5 / 36), normalise="none")
    assert kept_of(cuts) == {"a": (1, 2), "b": (1, 2), "c": (0, 1, 2)}


def test_units_of_grouped_convolutions_go_whole():
    groups = [ToyGroup("a", 6, ((0, 3), (1, 4), (2, 5))), singles("b", 4)]
    cost = Weighed(groups, {"a": 1, "b": 1})
    importances = {"a": important(1, 5, 2, 1, 5, 2), "b": important(9, 9, 9, 9)}
    for share, kept in ((0.99, (1, 2, 4, 5)), (0.8, (1, 2, 4, 5)), (0.79, (1, 4))):
        cuts = cut_to_budget(groups, importances, cost, Budget(macs=share), normalise="none")
        assert kept_of(cuts) == {"a": kept, "b": (0, 1, 2, 3)}


def test_equal_scores_thin_all_layers_alike_the_last_filters_first():
    groups = [singles("a", 4), singles("b", 8)]
    importances = {g.name: Importance(torch.zeros(g.filters, dtype=torch.float64)) for g in groups}
    cuts = cut_to_budget(groups, importances, Weighed(groups, {"a": 1, "b": 1}), Budget(macs=0.5))
    assert kept_of(cuts) == {"a": (0, 1), "b": (0, 1, 2, 3)}


def test_the_order_decides_where_scores_are_equal():
    groups = [singles("a", 4)]
    importance = Importance(torch.tensor([1.0, 0, 0, 0]).double(), order=(0, 3, 1, 2))
    assert rank(groups, {"a": importance}).kept([2]) == {"a": (0, 3)}


def test_negative_scores_keep_their_order():
    groups = [singles("a", 3), singles("b", 3)]
    importances = {"a": important(-3, -1, -2), "b": important(1, 2, 3)}
    cuts = cut_to_budget(groups, importances, Weighed(groups, {"a": 1, "b": 1}), Budget(macs=4 / 6))
    assert kept_of(cuts) == {"a": (1,), "b": (0, 1, 2)}


def test_a_budget_of_everything_keeps_everything():
    chain = Chain([8, 8], [16, 16])
    groups = groups_of(chain)
    cuts = cut_to_budget(groups, drawn(groups), chain, Budget(macs=1, parameters=1))
    assert all(len(cut.kept) == 8 for cut in cuts.values())


def test_the_reason_says_what_is_left():
    chain = Chain([64, 64], [256, 64])
    groups = groups_of(chain)
    cut = cut_to_budget(groups, drawn(groups), chain, Budget(macs=0.5, parameters=0.9))["a"]
    found = chain.shares(kept_of(cut_to_budget(groups, drawn(groups), chain, Budget(macs=0.5, parameters=0.9))))
    assert cut.reason == (
        f"{len(cut.kept)} of 64 filters stay: one ranking over all layers leaves {100 * found['macs']:.4g} % of the "
        f"MACs (allowed 50 %) and {100 * found['parameters']:.4g} % of the parameters (allowed 90 %)"
    )


def test_few_costs_are_asked():
    chain = Chain([512] * 8, [16] * 8)
    groups = groups_of(chain)
    importances = drawn(groups)
    chain.calls = 0
    cut_to_budget(groups, importances, chain, Budget(macs=0.3))
    assert chain.calls < 60


@pytest.mark.parametrize(
    ("budget", "limits", "message"),
    [
        (
            Budget(macs=0.0005),
            Limits(),
            r"a budget of 0.05 % of the MACs cannot be met: .* % remain at least, so ask for",
        ),
        (Budget(parameters=0.001), Limits(), "of the parameters cannot be met"),
        (Budget(macs=0.9, parameters=0.001), Limits(), "0.1 % of the parameters cannot be met"),
        (Budget(macs=0.2), Limits(keep_at_least=40), "the limits of 'a', 'b' stand in the way"),
        (Budget(macs=0.01), Limits(multiple=64), "the limits of 'a', 'b' stand in the way"),
        (Budget(macs=0.5, latency=0.5), Limits(), "measured, not counted: use cut_to_latency"),
    ],
)
def test_budgets_that_cannot_be_met_are_refused(budget, limits, message):
    chain = Chain([64, 64], [64, 64])
    groups = groups_of(chain)
    with pytest.raises(InputError, match=message):
        cut_to_budget(groups, drawn(groups), chain, budget, limits=limits)


@settings(max_examples=40, deadline=None)
@given(chain=chains, which=what, limits=st.builds(Limits, st.integers(1, 3), st.just(0.0), st.sampled_from([1, 4])))
def test_the_nearest_budget_that_is_named_can_be_met(chain, which, limits):
    groups = groups_of(chain)
    assume(getattr(reach(groups, chain, limits=limits), which) > 0.001)
    with pytest.raises(InputError) as refused:
        cut_to_budget(groups, drawn(groups), chain, Budget(**{which: 0.0005}), limits=limits)
    nearest = float(str(refused.value).split("ask for ")[1].split(" ")[0])
    assert nearest - getattr(reach(groups, chain, limits=limits), which) < 1.1e-4
    cut_to_budget(groups, drawn(groups), chain, Budget(**{which: nearest}), limits=limits)


def test_where_units_differ_in_size_the_refusal_says_what_the_ranking_reaches():
    groups = [ToyGroup("a", 6, ((0,), (1, 2, 3, 4, 5)))]
    cost = Weighed(groups, {"a": 1})
    with pytest.raises(InputError, match=r"83.33 % remain at least, so ask for 0.8334 or more"):
        cut_to_budget(groups, {"a": important(1, 9, 9, 9, 9, 9)}, cost, Budget(macs=0.5))


def test_an_unknown_normalisation_is_told():
    chain = Chain([4], [4])
    with pytest.raises(InputError, match="unknown normalisation 'means': did you mean 'mean'"):
        cut_to_budget(groups_of(chain), drawn(groups_of(chain)), chain, Budget(macs=0.5), normalise="means")


def test_importances_that_compare_are_taken_as_they_are():
    groups = (ToyGroup("a", 4, ((0,), (1,), (2,), (3,))), ToyGroup("b", 4, ((0,), (1,), (2,), (3,))))
    scores = {"a": torch.tensor([8.0, 7.0, 6.0, 5.0]), "b": torch.tensor([4.0, 3.0, 2.0, 1.0])}

    def steps(comparable):
        found = {name: Importance(some.double(), comparable=comparable) for name, some in scores.items()}
        return rank(groups, found).steps

    assert steps(True) == (1, 1, 1, 0, 0, 0)
    assert steps(False) != steps(True)
