"""A budget of measured time."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toy_costs import Chain, drawn, groups_of, kept_of

from infoprune.cutoff import Limits, cut_to_budget, cut_to_latency
from infoprune.errors import InputError
from infoprune.plan import Budget


class Clock:
    """Milliseconds that grow with the MACs over a fixed part, in steps, as those of real kernels do."""

    def __init__(self, chain, fixed=0.1, step=1e-9):
        self.chain, self.fixed, self.step = chain, fixed, step
        self.asked = []

    def __call__(self, kept):
        self.asked.append(kept)
        share = self.fixed + (1 - self.fixed) * self.chain.shares(kept)["macs"]
        return 20 * (-(-share // self.step) * self.step)


def chain():
    return Chain([256, 256, 256], [64, 64, 64])


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.15, 1), step=st.sampled_from([1e-9, 0.001]), seed=st.integers(0, 99))
@example(share=0.92, step=0.001, seed=26)  # 0.92 * 20 is above 18.4
def test_the_time_is_met_closely_with_few_measurements(share, step, seed):
    toy = chain()
    groups, clock = groups_of(toy), Clock(toy, step=step)
    cuts = cut_to_latency(groups, drawn(groups, seed), clock, Budget(latency=share))
    assert 0.97 * share < clock(kept_of(cuts)) / clock({}) <= share
    assert len(clock.asked) <= 2 + 2 + 10 + 2


def test_the_result_was_measured_and_the_reason_says_so():
    toy = chain()
    groups, clock = groups_of(toy), Clock(toy)
    cuts = cut_to_latency(groups, drawn(groups), clock, Budget(latency=0.5))
    assert kept_of(cuts) in clock.asked
    share = clock(kept_of(cuts)) / clock({})
    assert cuts["a"].reason.endswith(
        f"one ranking over all layers, measured at {100 * share:.4g} % of 20 ms (allowed 50 %)"
    )


def test_the_ranking_is_that_of_the_counted_budget():
    toy = chain()
    groups, importances = groups_of(toy), drawn(groups_of(toy))
    for name, cut in cut_to_latency(groups, importances, Clock(toy), Budget(latency=0.5)).items():
        assert set(cut.kept) == set(importances[name].order[: len(cut.kept)])


def test_counted_shares_beside_it_are_met_too():
    toy = chain()
    groups = groups_of(toy)
    loose = cut_to_latency(groups, drawn(groups), Clock(toy), Budget(latency=0.9, macs=0.3), cost=toy)
    assert kept_of(loose) == kept_of(cut_to_budget(groups, drawn(groups), toy, Budget(macs=0.3)))
    tight = kept_of(cut_to_latency(groups, drawn(groups), Clock(toy), Budget(latency=0.3, parameters=0.9), cost=toy))
    assert Clock(toy)(tight) <= 0.3 * 20
    assert toy.shares(tight)["parameters"] <= 0.9


def test_the_whole_time_needs_no_cut():
    toy = chain()
    groups, clock = groups_of(toy), Clock(toy)
    assert all(len(cut.kept) == 256 for cut in cut_to_latency(groups, drawn(groups), clock, Budget(latency=1)).values())
    assert clock.asked == [{}]


def test_limits_hold():
    toy = chain()
    groups = groups_of(toy)
    cuts = cut_to_latency(groups, drawn(groups), Clock(toy), Budget(latency=0.5), limits=Limits(multiple=32))
    assert all(len(cut.kept) % 32 == 0 for cut in cuts.values())


def test_times_that_cannot_be_met_are_refused_with_the_nearest():
    toy = chain()
    groups = groups_of(toy)
    with pytest.raises(
        InputError, match=r"a budget of 5 % of the time cannot be met: 2.* of 20 ms remain .* ask for 0.11"
    ):
        cut_to_latency(groups, drawn(groups), Clock(toy), Budget(latency=0.05))
    cut_to_latency(groups, drawn(groups), Clock(toy), Budget(latency=0.11))


def test_what_is_missing_is_told():
    toy = chain()
    groups = groups_of(toy)
    with pytest.raises(InputError, match="names no latency"):
        cut_to_latency(groups, drawn(groups), Clock(toy), Budget(macs=0.5))
    with pytest.raises(InputError, match="needs a cost model"):
        cut_to_latency(groups, drawn(groups), Clock(toy), Budget(latency=0.5, macs=0.5))
