"""A schedule says in numbers what a paper says in words."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infoprune import zoo
from infoprune.errors import InputError
from infoprune.iterative.published_schedules import in_rounds, named_schedule, named_schedules
from infoprune.iterative.schedule import LayerPace, Pace, PruningSchedule
from infoprune.training.recipe import Recipe
from infoprune.training.schedules import learning_rates

PLAIN = PruningSchedule((LayerPace("conv1", Pace(plus=1)),), Recipe())


def rounds(pace, first):
    widths = [first]
    while (fewer := pace.left(widths[-1], first)) < widths[-1]:
        widths.append(fewer)
    return widths


@pytest.mark.parametrize(
    ("text", "left", "goes"),
    [("2", 20, 2), ("5%", 100, 5), ("5%", 10, 1), ("7%", 100, 7), ("12%+1", 50, 7), ("4%+1", 20, 1), ("0.5%+3", 3, 3)],
)
def test_a_pace_is_a_count_a_share_or_the_papers_share_and_one(text, left, goes):
    pace = Pace.parse(text)
    assert pace.filters(left) == goes
    assert Pace.parse(str(pace)) == pace


@given(share=st.integers(0, 999), plus=st.integers(0, 50))
def test_a_pace_is_read_as_it_is_written(share, plus):
    if share or plus:
        pace = Pace(share / 1000, plus)
        assert Pace.parse(str(pace)) == pace


@given(
    first=st.integers(2, 300),
    share=st.floats(0, 0.9),
    plus=st.integers(0, 9),
    limit=st.one_of(st.integers(1, 300), st.floats(0.01, 0.99)),
)
def test_a_layer_comes_down_to_its_limit_and_stops_there(first, share, plus, limit):
    if not share and not plus:
        return
    pace = LayerPace("x", Pace(share, plus), limit)
    widths = rounds(pace, first)
    assert widths[-1] == min(first, limit if isinstance(limit, int) else max(1, round(limit * first)))
    assert all(a - b <= pace.pace.filters(a) for a, b in itertools.pairwise(widths))


@given(
    first=st.integers(1, 60), together=st.integers(1, 8), share=st.floats(0, 0.9), plus=st.integers(1, 9),
    limit=st.integers(1, 300),
)  # fmt: skip
def test_filters_that_can_only_be_removed_together_are(first, together, share, plus, limit):
    pace, filters = LayerPace("x", Pace(share, plus), limit), first * together
    widths = [filters]
    while (fewer := pace.left(widths[-1], filters, together)) < widths[-1]:
        assert (widths[-1] - fewer) % together == 0
        widths.append(fewer)
    assert pace.rounds(filters, filters, together) == len(widths) - 1
    assert pace.least(filters) <= widths[-1] < pace.least(filters) + together


@pytest.mark.parametrize("name", named_schedules())
def test_a_named_schedule_survives_json_and_names_a_network_that_is_there(name):
    schedule = named_schedule(name).make()
    assert PruningSchedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule
    assert named_schedule(name).network in zoo.names()


def test_the_published_learning_rates_fall_where_the_paper_says():
    def rates(recipe, *epochs):
        whole = learning_rates(recipe, recipe.epochs * 10)
        return [whole[10 * epoch] for epoch in epochs]

    lenet5 = named_schedule("hrel-lenet5").make().retraining
    assert rates(lenet5, 0, 9, 10, 19, 20, 39) == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    vgg16 = named_schedule("hrel-vgg16").make()
    assert rates(vgg16.initial, 79, 80, 140, 230) == pytest.approx([0.1, 0.01, 1e-3, 1e-4])
    assert rates(vgg16.retraining, 39, 40, 70) == pytest.approx([0.01, 1e-3, 1e-4])
    resnet50 = named_schedule("hrel-resnet50").make()
    assert rates(resnet50.retraining, 9, 10, 25) == pytest.approx([1e-3, 1e-4, 1e-5])


def test_every_round_draws_anew_and_the_last_has_a_recipe_of_its_own():
    schedule = PruningSchedule((), Recipe(epochs=1), last=Recipe(epochs=7)).seeded(5)
    recipes = [schedule.recipe(number, is_last=number == 3) for number in (1, 2, 3)]
    assert [recipe.epochs for recipe in recipes] == [1, 1, 7]
    assert len({recipe.seed for recipe in recipes}) == 3


def test_the_first_pace_that_fits_counts_and_a_group_fits_by_any_of_its_layers():
    schedule = PruningSchedule((LayerPace("a.*", Pace(plus=1)), LayerPace("*", Pace(plus=2))), Recipe())
    assert schedule.pace_of(("b", "a.conv")).pace.plus == 1
    assert schedule.pace_of(("b",)).pace.plus == 2
    assert PLAIN.pace_of(("b",)) is None


def test_in_rounds_reaches_the_limit_in_about_so_many():
    for filters, limit, count in ((512, 44, 6), (64, 20, 6), (50, 3, 5)):
        assert len(rounds(LayerPace("x", in_rounds(filters, limit, count), limit), filters)) - 1 in (count - 1, count)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Pace.parse("5 percent"), "'2', '5%' or '5%\\+1', not '5 percent'"),
        (lambda: Pace.parse(""), "not ''"),
        (lambda: Pace.parse("0"), "more than nothing"),
        (lambda: Pace.parse("100%"), "below 1"),
        (lambda: LayerPace("x", Pace(plus=1), 0), "at least one filter stays in 'x'"),
        (lambda: LayerPace("x", Pace(plus=1), 1.5), "a share above 0 and below 1"),
        (lambda: PruningSchedule((), Recipe(), rounds=0), "rounds takes a whole number of 1 or more, not 0"),
        (lambda: PruningSchedule((), Recipe(), floor=101), "floor takes a number from 0 to 100, not 101"),
        (
            lambda: PruningSchedule.from_dict({"layer": []}),
            "unknown entry of the schedule 'layer': did you mean 'layers'",
        ),
        (lambda: PruningSchedule.from_dict({"layers": []}), "the schedule cannot be used: it has no 'retraining'"),
        (lambda: PruningSchedule.from_dict({"layers": [], "retraining": {"epoch": 3}}), "did you mean 'epochs'"),
        (lambda: named_schedule("hrel-vgg"), "unknown schedule 'hrel-vgg': did you mean 'hrel-vgg16'"),
        (lambda: in_rounds(8, 8, 2), "8 filters cannot come down to 8"),
    ],
)
def test_what_is_no_schedule_is_refused_in_one_sentence(make, words):
    with pytest.raises(InputError, match=words):
        make()
