"""What the rows of a board say together, against numbers worked out by hand and by SciPy."""

import math
import statistics

import pytest
import torch
from scipy import stats

from infoprune.board.rows import Board, Reference, Row, Scored, from_json, to_json
from infoprune.board.summary import (
    View,
    against,
    lines,
    mean_of,
    places,
    rank_correlation,
    ranks,
    stages_of,
    verdicts,
    views_of,
)
from infoprune.criteria.base import Importance
from infoprune.errors import InputError

BASE = Reference(93.0, 0.3, 10_000, 1000, 100, 5.0, {"conv1": 1, "conv2": 3})
VIEW = View("uniform", 0.5)


def rows(**accuracies):
    """One row for every seed of every criterion, at one budget, as cut."""
    return tuple(
        Row(
            name,
            seed,
            "uniform",
            0.5,
            "none",
            accuracy=value,
            macs=500,
            parameters=50,
            latency_ms=3.0,
            dead_filters=seed,
        )
        for name, values in accuracies.items()
        for seed, value in enumerate(values)
    )


def test_the_interval_is_that_of_student():
    values = [90.0, 91.5, 93.0, 90.5]
    low, high = stats.t.interval(0.95, 3, loc=statistics.fmean(values), scale=stats.sem(values))
    found = mean_of(values)
    assert found.value == pytest.approx(statistics.fmean(values))
    assert found.interval == pytest.approx((high - low) / 2)
    assert mean_of([90.0]).interval is None
    assert mean_of([]) is None


def test_ranks_are_of_the_seeds_that_all_criteria_have_and_ties_share_them():
    board = Board(BASE, (), rows(a=[90.0, 50.0, 99.0], b=[80.0, 60.0], c=[80.0, 40.0]))
    assert ranks(board, VIEW, "none") == {"a": [1.0, 2.0], "b": [2.5, 1.0], "c": [2.5, 3.0]}


def test_lines_are_ordered_by_the_last_stage_and_failures_come_last():
    failed = Row("d", 0, "uniform", 0.5, "none", reason="needs labels")
    board = Board(BASE, (Scored("b", 0, seconds=2.0, passes=3.0),), (failed, *rows(a=[50.0, 52.0], b=[80.0, 82.0])))
    found = lines(board, VIEW)
    assert [line.criterion for line in found] == ["b", "a", "d"]
    assert found[0].accuracy["none"].value == 81.0
    assert (found[0].seconds, found[0].passes, found[0].macs, found[0].dead) == (2.0, 3.0, 500.0, 0.5)
    assert found[2].reason == "needs labels"
    assert board.failures == {"d": "needs labels"}


def test_a_criterion_is_better_only_beyond_the_noise():
    even = Board(BASE, (), rows(random=[50.0, 50.0, 50.0], good=[60.0, 60.0, 60.0], near=[51.0, 51.0, 51.0],
                                bad=[30.0, 30.0, 30.0], wild=[90.0, 20.0, 75.0]))  # fmt: skip
    found = against(even, VIEW, "none", "random")
    assert {name: one.verdict for name, one in found.items()} == {
        "good": "better", "near": "within the noise", "bad": "worse", "wild": "within the noise"}  # fmt: skip
    # Without spread over the seeds what is left is the sampling of the test images, over three seeds.
    one = 1.96 * math.sqrt((60 * 40 + 50 * 50) / 10_000)
    assert found["good"].noise == pytest.approx(one)
    assert verdicts(even, "none", "random")["good"].text() == "better in 1 of 1"
    assert "random" not in found


def test_stages_follow_the_repairs_and_the_fine_tuning():
    tuned = Row("a", 0, "global", 0.3, "bn", accuracy=70.0, tuned=80.0)
    board = Board(BASE, (), (*rows(a=[50.0]), tuned))
    assert stages_of(board) == ["none", "bn", "bn, tuned"]
    assert views_of(board) == [VIEW, View("global", 0.3)]
    assert lines(board, View("global", 0.3))[0].accuracy["bn, tuned"].value == 80.0


def test_rank_correlation_is_that_of_scipy_averaged_over_layers_and_seeds():
    torch.manual_seed(1)
    scores = {name: [[torch.rand(9) for _ in range(2)] for _ in range(2)] for name in "abc"}
    scored = [
        Scored(name, seed, {f"conv{layer}": Importance(scores[name][seed][layer]) for layer in range(2)})
        for name in "abc"
        for seed in range(2)
    ]
    names, found = rank_correlation(scored)
    assert names == ["a", "b", "c"]
    for i, one in enumerate("abc"):
        for j, other in enumerate("abc"):
            expected = statistics.fmean(
                stats.spearmanr(scores[one][seed][layer], scores[other][seed][layer]).statistic
                for seed in range(2)
                for layer in range(2)
            )
            assert found[i, j] == pytest.approx(expected)
    only, of_one = rank_correlation(scored, ["conv1"])
    assert only == names
    assert of_one[0, 1] == pytest.approx(
        statistics.fmean(stats.spearmanr(scores["a"][s][1], scores["b"][s][1]).statistic for s in range(2))
    )


def test_a_criterion_that_distinguishes_no_filters_has_no_correlation():
    level = Scored("level", 0, {"conv": Importance(torch.ones(4))})
    up = Scored("up", 0, {"conv": Importance(torch.arange(4.0))})
    down = Scored("down", 0, {"conv": Importance(-torch.arange(4.0))})
    names, found = rank_correlation([level, up, down, Scored("failed", 0, reason="no")])
    assert names == ["level", "up", "down"]
    assert math.isnan(found[0, 1])
    assert found[1, 2] == pytest.approx(-1.0)


def test_an_order_of_its_own_counts_more_than_the_scores():
    by_order = Importance(torch.tensor([3.0, 1.0, 2.0]), order=(1, 2, 0))
    assert places(by_order) == [1.0, 3.0, 2.0]


def test_records_survive_json_exactly():
    importance = Importance(torch.rand(5, dtype=torch.float64), order=(4, 3, 2, 1, 0), comparable=True)
    scored = Scored("a", 1, {"conv": importance}, 1.5, 2.5, None, "")
    again = from_json(to_json(scored))
    assert again.importances["conv"].scores.equal(importance.scores)
    assert again.importances["conv"].order == importance.order
    assert again.importances["conv"].comparable
    assert again.importances["conv"].out_by.equal(importance.out_by)
    assert from_json(to_json(BASE)) == BASE
    for wrong in ({"kind": "row", "criterion": 3}, {"kind": "scored", "layers": 1}, [], {"kind": "base"}):
        with pytest.raises(InputError):
            from_json(wrong)
