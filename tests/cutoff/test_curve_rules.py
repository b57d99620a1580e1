"""Each rule on curves whose elbow is known, and what holds for every curve."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import infoprune
from infoprune.cutoff import Curve, all_rules, candidates, find_rule
from infoprune.cutoff.rules import curve as curve_module
from infoprune.cutoff.rules.curve import RuleInfo, register
from infoprune.cutoff.rules.permutation import permutation
from infoprune.errors import InputError

FREE = [info.name for info in all_rules() if not info.tests]


def elbow(at, filters, steep=1.0, flat=0.01):
    """A curve that falls steeply up to ``at`` filters, then hardly."""
    steps = [steep] * at + [flat] * (filters - at)
    left = [sum(steps[m:]) for m in range(1, filters + 1)]
    return Curve(tuple(left), sum(steps))


@st.composite
def falling(draw):
    steps = draw(st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=40))
    whole = sum(steps)
    left = [max(0.0, sum(steps[m:])) for m in range(1, len(steps) + 1)]
    return Curve(tuple(left), whole, draw(st.none() | st.integers(1, len(steps))))


@pytest.mark.parametrize("at", [2, 5, 9])
def test_the_elbow_is_found_and_its_filters_are_kept(at):
    assert at in candidates("scree", elbow(at, 12))
    assert candidates("acceleration", elbow(at, 12)) == (at,)


@pytest.mark.parametrize("at", [2, 4])
def test_optimal_coordinates_keep_what_stands_above_the_line_and_the_mean(at):
    steps = [2.0 ** (at - m) for m in range(at)] + [0.5] * (12 - at)
    left = tuple(sum(steps[m:]) for m in range(1, 13))
    (found,) = candidates("coordinates", Curve(left, sum(steps)))
    mean = sum(steps) / 12
    # The line through the next gain and the last one is flat or falls less steeply than powers of two do.
    assert found == sum(step >= mean for step in steps[:at])


def test_scree_is_the_quotient_of_differences_written_out():
    left = (8.0, 5.0, 4.5, 2.5, 2.4, 0.4, 0.0)
    whole = 10.0
    points = [whole, *left]
    quotients = {m: (points[m - 1] - points[m]) / (points[m] - points[m + 1]) for m in range(1, 7)}
    best = sorted(sorted(quotients, key=quotients.get, reverse=True)[:3])
    assert candidates("scree", Curve(left, whole)) == tuple(best)
    assert candidates("scree", Curve(left, whole), {"count": 1}) == (max(quotients, key=quotients.get),)


def test_scree_does_not_look_at_the_round_off_behind_the_floor():
    # Behind five filters the differences are rounding, and one of them makes the largest quotient of all.
    left = (4.0, 3.0, 2.5, 1.0, 1e-9, 1e-9 - 1e-13, 1e-9 - 1e-13 - 1e-15, 1e-9 - 2e-13)
    assert all(m <= 4 for m in candidates("scree", Curve(left, 5.0)))
    assert 5 not in candidates("scree", Curve((4.0, 3.0, 2.5, 1.0, 1.0 - 1e-11, 1.0 - 2e-11), 5.0))


def test_what_is_not_resolved_is_not_looked_at():
    curve = elbow(4, 12)
    blurred = Curve((*curve.left[:6], *(9.0, 0.0, 7.0, 0.0, 5.0, 0.0)), curve.whole, resolved=6)
    short = Curve(curve.left[:6], curve.whole)
    for rule in ("scree", "acceleration", "coordinates", "xmeans"):
        assert candidates(rule, blurred) == candidates(rule, short)


def test_xmeans_finds_three_regimes_whatever_the_scale_of_the_bits():
    left = [10 - 0.01 * m for m in range(10)] + [5 - 0.01 * m for m in range(10)] + [1 - 0.01 * m for m in range(10)]
    found = candidates("xmeans", Curve(tuple(left)))
    assert {11, 21} <= set(found)
    assert candidates("xmeans", Curve(tuple(1e-6 * x for x in left))) == found


def test_xmeans_is_no_regular_grid():
    assert candidates("xmeans", elbow(20, 200)) != candidates("xmeans", elbow(150, 200))


def test_xmeans_keeps_to_its_number_of_clusters():
    curve = Curve(tuple(math.exp(-m / 9) for m in range(200)))
    assert len(candidates("xmeans", curve, {"most": 5})) <= 4
    assert len(candidates("xmeans", curve)) <= 19
    assert candidates("xmeans", Curve((1.0, 1.0, 1.0, 1.0))) == ()


@given(falling(), st.floats(0.01, 0.9))
def test_tolerance_is_the_smallest_count_that_tells_enough(curve, epsilon):
    (m,) = candidates("tolerance", curve, {"epsilon": epsilon})
    told = [curve.whole - left for left in curve.left]
    # I(Y; sel) >= (1 - eps) I(Y; F), where the last is all that the layer tells.
    enough = (1 - epsilon) * curve.whole
    assert told[m - 1] >= enough - 1e-12
    assert all(told[k - 1] <= enough + 1e-12 for k in range(1, m))


@given(falling())
def test_candidates_are_counts_in_order_without_repeats(curve):
    for rule in FREE:
        found = candidates(rule, curve)
        assert list(found) == sorted(set(found))
        assert all(1 <= m <= curve.filters for m in found)


@given(falling(), st.floats(0.5, 100))
def test_no_rule_depends_on_the_unit(curve, factor):
    scaled = Curve(tuple(factor * x for x in curve.left), factor * curve.whole, curve.resolved)
    for rule in ("tolerance", "grid"):
        assert candidates(rule, scaled) == candidates(rule, curve)


@given(st.integers(1, 60), st.integers(0, 60))
def test_halving_finds_what_testing_every_filter_finds(filters, good):
    asked = []

    def p_value(m):
        asked.append(m)
        return 0.01 if m <= good else 0.4

    curve = Curve((0.0,) * filters, p_value=p_value)
    assert permutation(curve, exhaustive=True) == (max(1, min(good, filters)),)
    asked.clear()
    assert permutation(curve) == (max(1, min(good, filters)),)
    assert len(asked) <= 2 * math.ceil(math.log2(filters + 1)) + 2


def test_the_permutation_rule_stops_at_the_significance():
    curve = Curve((0.0,) * 9, p_value=lambda m: [0.0, 0.0, 0.04, 0.05, 0, 0, 0, 0, 0][m - 1])
    assert candidates("permutation", curve, {"exhaustive": True}) == (3,)
    assert candidates("permutation", curve, {"exhaustive": True, "significance": 0.04}) == (2,)


def test_bad_input_is_refused():
    curve = elbow(3, 8)
    for name, options, words in (
        ("scre", {}, "did you mean 'scree'"),
        ("scree", {"cout": 2}, "did you mean 'count'"),
        ("scree", {"count": 0}, "at least one candidate"),
        ("acceleration", {"count": 0}, "at least one candidate"),
        ("tolerance", {"epsilon": 1.0}, "between 0 and 1"),
        ("grid", {"steps": 1}, "at least 2 parts"),
        ("xmeans", {"most": 1}, "two clusters"),
        ("permutation", {}, "goes with the criterion 'cmi'"),
    ):
        with pytest.raises(InputError, match=words):
            candidates(name, curve, options)
    with pytest.raises(InputError, match="significance"):
        permutation(Curve((0.0,), p_value=lambda m: 0.0), significance=1.5)
    with pytest.raises(InputError, match="at least one number"):
        Curve(())
    with pytest.raises(InputError, match="all finite"):
        Curve((1.0, float("nan")))


def test_names_are_taken_once():
    assert find_rule("grid").name == "grid"
    with pytest.raises(InputError, match="exists already"):
        register(RuleInfo("grid", lambda curve: (), ""))


@pytest.fixture
def registered(monkeypatch):
    """Register a rule for one test."""
    monkeypatch.setattr(curve_module, "_REGISTRY", dict(curve_module._REGISTRY))
    return infoprune.register_rule


def test_a_function_becomes_a_rule(registered):
    def middle(curve, *, times: int = 1):
        """Keep half of the filters."""
        return [curve.filters // 2 * times]

    info = registered("middle", middle)
    assert (info.name, info.description) == ("middle", "Keep half of the filters.")
    assert info in infoprune.all_rules()
    assert candidates("middle", Curve((3.0, 2.0, 1.0, 0.5))) == (2,)
    assert candidates("middle", Curve((3.0, 2.0, 1.0, 0.5)), {"times": 2}) == (4,)
    assert infoprune.PruneOptions(layerwise=infoprune.LayerwiseOptions(cutoff="middle")).layerwise.cutoff == "middle"
    with pytest.raises(InputError, match="option 'times' of the cut-off 'middle' takes a whole number, not 'two'"):
        infoprune.LayerwiseOptions(cutoff="middle", cutoff_options={"times": "two"})
    with pytest.raises(InputError, match="exists already"):
        registered("middle", middle)


@pytest.mark.parametrize("function", [3, lambda: (), lambda a, b: (), lambda *, curve: (), lambda curve, *, needed: ()])
def test_what_is_no_rule_is_refused(registered, function):
    with pytest.raises(InputError, match="the cut-off 'mine' must"):
        registered("mine", function)


@pytest.mark.parametrize("answer", [None, 3, [1.5], "12"])
def test_a_rule_that_returns_no_counts_is_named(registered, answer):
    registered("mine", lambda curve: answer)
    with pytest.raises(InputError, match="the cut-off 'mine' must return numbers of filters to keep, not"):
        candidates("mine", Curve((2.0, 1.0)))
