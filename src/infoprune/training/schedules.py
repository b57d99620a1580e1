"""The learning rate of every step, by the schedulers of ``torch.optim.lr_scheduler``."""

from __future__ import annotations

import math

import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR, SequentialLR

from infoprune.training.recipe import Recipe

# Share of the largest rate at which one-cycle starts.
_START = 0.04


def learning_rates(recipe: Recipe, steps: int) -> tuple[float, ...]:
    """Return the learning rate of every step of a training.

    The rates depend on the recipe and the number of steps only. A training that resumes at a step continues with the
    same rates, to the bit, without a saved state of the scheduler.

    Args:
        recipe: The schedule and its numbers.
        steps: Steps of the whole training.

    Example:
        >>> learning_rates(Recipe(schedule="steps", learning_rate=1.0, step_at=(0.5,)), 4)
        (1.0, 1.0, 0.1, 0.1)
        >>> [round(rate, 3) for rate in learning_rates(Recipe(schedule="cosine", learning_rate=1.0), 4)]
        [1.0, 0.854, 0.5, 0.146]
    """
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=recipe.learning_rate)
    scheduler = make_scheduler(optimizer, recipe, steps)
    optimizer.step()  # schedulers warn where no step of the optimizer came before theirs
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        scheduler.step()
    return tuple(rates)


def make_scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> LRScheduler:
    """Return the scheduler of a recipe, which is stepped after every step of the optimizer.

    Shares of the training that are no whole number of steps end at the next whole step.

    Args:
        optimizer: Its learning rate is that of the recipe.
        recipe: The schedule and its numbers.
        steps: Steps of the whole training.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> make_scheduler(optimizer, Recipe(learning_rate=0.1, warmup=0.5), 10).get_last_lr()
        [0.004]
    """
    if recipe.schedule == "constant":
        return ConstantLR(optimizer, factor=1.0)
    if recipe.schedule == "steps":
        return MultiStepLR(optimizer, [_whole(at * steps) for at in sorted(recipe.step_at)], recipe.step_factor)
    warm = _whole(recipe.warmup * steps) if recipe.schedule == "one-cycle" else 0
    if not warm:
        return CosineAnnealingLR(optimizer, T_max=max(1, steps))
    rising = LinearLR(optimizer, start_factor=_START, total_iters=warm)
    falling = CosineAnnealingLR(optimizer, T_max=max(1, steps - warm))
    return SequentialLR(optimizer, [rising, falling], milestones=[warm])


def _whole(steps: float) -> int:
    # A product such as 0.07 * 100 is a rounding above the whole number.
    return math.ceil(steps - 1e-6)
