"""The rates of torch's schedulers are those of the closed forms, whatever the number of steps."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infoprune.training.recipe import Recipe
from infoprune.training.schedules import learning_rates, make_scheduler


def closed_form(recipe, done, warmup):
    if recipe.schedule == "constant":
        return recipe.learning_rate
    if recipe.schedule == "steps":
        return recipe.learning_rate * recipe.step_factor ** sum(done >= at for at in recipe.step_at)
    if done < warmup:
        return recipe.learning_rate * (0.04 + 0.96 * done / warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


@given(st.sampled_from(["one-cycle", "cosine", "steps", "constant"]), st.integers(1, 400), st.floats(0, 0.9), st.data())
def test_the_rates_are_those_of_the_closed_form(schedule, steps, warmup, data):
    at = data.draw(st.lists(st.floats(0.01, 1), max_size=3).map(tuple))
    recipe = Recipe(schedule=schedule, warmup=warmup, learning_rate=0.3, step_at=at)
    warm = math.ceil(warmup * steps - 1e-6) / steps if schedule == "one-cycle" else 0.0
    rates = learning_rates(recipe, steps)
    # A milestone within rounding of a whole step may fall on either side of it.
    close = [m for a in at if abs(a * steps - (m := round(a * steps))) < 1e-5]
    wanted = [closed_form(recipe, step / steps, warm) for step in range(steps)]
    near = [step for step in range(steps) if schedule != "steps" or step not in close]
    assert [rates[step] for step in near] == pytest.approx([wanted[step] for step in near], rel=1e-9, abs=1e-15)
    assert all(0 <= rate <= 0.3 * (1 + 1e-12) for rate in rates)


def test_the_rates_are_what_the_scheduler_of_a_real_optimizer_sets():
    recipe = Recipe(learning_rate=0.4, warmup=0.3)
    parameter = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.4, momentum=0.9)
    scheduler = make_scheduler(optimizer, recipe, 20)
    seen = []
    for _ in range(20):
        seen.append(optimizer.param_groups[0]["lr"])
        parameter.square().sum().backward()
        optimizer.step()
        scheduler.step()
    assert tuple(seen) == learning_rates(recipe, 20)
    assert max(seen) == pytest.approx(0.4)
    assert seen.index(max(seen)) == 6


def test_the_schedules_of_the_papers():
    steps = Recipe(epochs=40, learning_rate=0.1, schedule="steps", step_at=(0.5, 0.75))
    rates = learning_rates(steps, 40)
    assert [round(rates[epoch], 6) for epoch in (0, 19, 20, 29, 30)] == [0.1, 0.1, 0.01, 0.01, 0.001]
