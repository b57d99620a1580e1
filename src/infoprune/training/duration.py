"""How many epochs fit into a time, by what a few steps take here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader, Subset

from infoprune.data.batches import Batches, number_of_batches
from infoprune.errors import InputError
from infoprune.runs.together import current
from infoprune.training.recipe import Recipe
from infoprune.training.train import make_fabric, train

# Steps of the two trainings that are timed. Their difference holds neither the first step nor the set-up.
_FEW, _MORE = 2, 8
# A forward pass is a third of a step: the backward pass takes two.
_FORWARD = 1 / 3


@dataclass(frozen=True)
class Duration:
    """What an epoch takes, and how many fit.

    Args:
        epoch: Seconds of an epoch, the held-out images included.
        epochs: Number of epochs, at least one.

    Example:
        >>> Duration(90.0, 6).in_words()
        'An epoch takes about 1.5 minutes: 6 epochs.'
    """

    epoch: float
    epochs: int

    def in_words(self) -> str:
        """Return both in a sentence."""
        many = "1 epoch" if self.epochs == 1 else f"{self.epochs} epochs"
        shown = f"{self.epoch / 60:.1f} minutes" if self.epoch >= 60 else f"{self.epoch:.2g} seconds"
        return f"An epoch takes about {shown}: {many}."


def epochs_within(
    minutes: float,
    model: nn.Module,
    batches: DataLoader[Any],
    held_out: Batches | None = None,
    recipe: Recipe | None = None,
    *,
    timed: Callable[[], float] = time.perf_counter,
    fabric: Fabric | None = None,
    **how: Any,
) -> Duration:
    """Return how many epochs of a training fit into a time, at least one.

    A few steps are taken by a copy of the network. Of several processes, the first one decides.

    Args:
        minutes: The time.
        model: The network; it is not changed.
        batches: Its training batches.
        held_out: What every epoch is measured on.
        recipe: How it is trained; its number of epochs is not read.
        timed: The clock, in seconds.
        fabric: Devices and precision; by default one device and the recipe's precision.
        how: Other words of ``train``.

    Raises:
        InputError: There are no images.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> loader = DataLoader([(torch.rand(1, 8, 8), label % 10) for label in range(96)], batch_size=8)
        >>> how = {"recipe": Recipe(precision="32-true"), "fabric": make_fabric(accelerator="cpu", precision="32-true")}
        >>> epochs_within(1e-9, zoo.build("digits"), loader, **how).epochs
        1
    """
    recipe = recipe or Recipe()
    fabric = fabric or make_fabric(precision=recipe.precision)
    steps = -(-len(batches) // fabric.world_size)
    if not steps:
        raise InputError("there are no images to train on: the loader is empty")
    few, more = min(_FEW, max(1, steps - 1)), min(_MORE, steps)

    def seconds(count: int) -> float:
        start = timed()
        one = replace(recipe, epochs=1)
        some = _first(batches, count * fabric.world_size)
        train(model, some, None, one, fabric=fabric, **how)
        return timed() - start

    before, after = seconds(few), seconds(more)
    step = max(0.0, after - before) / (more - few) if more > few else after / more
    epoch = current().agreed(step * (steps + _FORWARD * (0 if held_out is None else number_of_batches(held_out))))
    return Duration(epoch, max(1, int(60 * minutes / epoch)) if epoch > 0 else 1)


def _first(batches: DataLoader[Any], count: int) -> DataLoader[Any]:
    """Return a loader of the first batches of images of a data set, in their order."""
    images = min(len(batches.dataset), count * (batches.batch_size or 1))  # type: ignore[arg-type]
    return DataLoader(
        Subset(batches.dataset, range(images)),
        batch_size=batches.batch_size,
        num_workers=batches.num_workers,
        collate_fn=batches.collate_fn,
    )
