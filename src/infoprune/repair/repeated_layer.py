"""Refits layers in order, also those that run several times in a pass: heads over several maps, encoders of two images.

One weight serves all calls, so the normal equations of all calls are added up. The inputs of a later call may depend on
the layer itself; they are those of the weights that it had before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn

from infoprune.data.batches import some_batches
from infoprune.network.layer_io import Reading, Watch, is_convolution_without_window
from infoprune.progress import Progress
from infoprune.regression.layer_fit import Site, best_solution, positions_of, write_solution
from infoprune.repair.base import Pair
from infoprune.repair.walks import Moments, are_alike, rebatched, site_of, stretches, targets_of
from infoprune.runs.together import current


@torch.no_grad()
def refit_repeated(pair: Pair, small: nn.Module, layer: str) -> None:
    """Refit one layer to its outputs in all calls of the original; the images are read once.

    A layer whose calls cannot be followed in both networks, or are not followed by the same norm, keeps its weights; a
    warning names it.

    Args:
        pair: The networks and the images.
        small: The copy that is repaired; its layer changes.
        layer: Dotted name of the layer.

    Example:
        >>> import infoprune
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> pair = Pair.of(whole, plan, [images])
        >>> before = pair.small.features[3].weight.clone()
        >>> refit_repeated(pair, pair.small, "features.3")
        >>> torch.equal(before, pair.small.features[3].weight)
        False
    """
    images = rebatched(pair)
    found = _site(pair, small, layer, images[0][:2])
    if found is None:
        warnings.warn(f"layer '{layer}' is not repaired: its calls could not be followed", stacklevel=3)
        return
    site, calls = found
    sizes = [len(batch) for batch in images]
    most, moments = positions_of(sum(sizes) * calls, site.features), Moments.of(site, len(images), sum(sizes) * calls)
    for number, batch in some_batches(images, moments.portions.share):
        add = partial(_add, moments, number, sum(sizes[:number]), iter(_readings(pair.original, layer, batch)),
                      torch.Generator().manual_seed(number), most)  # fmt: skip
        _watched(small, layer, batch, add)
    sums = moments.equations()
    write_solution(site, current().agreed(None if sums is None else best_solution(site, *sums)))


def refit_in_order(
    pair: Pair,
    small: nn.Module,
    stage: str,
    progress: Progress,
    refit_once: Callable[[list[str], Callable[[], None]], None],
    *,
    every: bool = True,
) -> None:
    """Refit the layers of a network, front to back.

    Args:
        pair: The networks and the images.
        small: The copy that is repaired.
        stage: What it is called in the progress.
        progress: Called after every layer.
        refit_once: Refits successive layers that run once, and calls what it is given after each of them.
        every: Whether all layers from the first cut on are refitted, or only those that lost inputs.

    Example:
        >>> import infoprune
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> pair = Pair.of(whole, plan, [images])
        >>> from infoprune.progress import silent
        >>> refit_in_order(pair, pair.small, "looking", silent, lambda layers, step: print(layers), every=False)
        ['features.3', 'features.7', 'features.10', 'classifier']
    """
    parts = stretches(pair, small, every)
    done, total = count(1), sum(len(layers) for _, layers in parts)

    def step() -> None:
        progress(stage, next(done), total)

    for several, layers in parts:
        if not several:
            refit_once(layers, step)
            continue
        for layer in layers:
            refit_repeated(pair, small, layer)
            step()


def _add(
    moments: Moments,
    number: int,
    seen: int,
    originals: Iterator[Reading],
    drawn: torch.Generator,
    most: int,
    mine: Reading,
) -> None:
    """Add one call of a layer; the same call of the original is the next of its readings."""
    moments.add(number, seen, mine, targets_of(moments.site, mine, next(originals)), drawn, most)


def _site(pair: Pair, small: nn.Module, layer: str, images: Tensor) -> tuple[Site, int] | None:
    """Return the site of a layer and the number of its calls, ``None`` where its calls cannot be fitted together."""
    mine, theirs = _readings(small, layer, images), _readings(pair.original, layer, images)
    alike = len(mine) == len(theirs) and all(are_alike(a, b) for a, b in zip(mine, theirs, strict=True))
    if not mine or not alike or len({reading.norm for reading in mine}) > 1:
        return None
    if is_convolution_without_window(small.get_submodule(layer), mine[0]):
        return None
    return site_of(pair, small, layer, mine[0]), len(mine)


def _readings(model: nn.Module, layer: str, images: Tensor) -> list[Reading]:
    """Return the readings of all calls of a layer, with results that later operations do not change."""
    found: list[Reading] = []

    def keep(reading: Reading) -> None:
        added = None if reading.added is None else reading.added.clone()
        found.append(replace(reading, result=reading.result.clone(), added=added))

    _watched(model, layer, images, keep)
    return found


def _watched(model: nn.Module, layer: str, images: Tensor, use: Callable[[Reading], None]) -> None:
    watch = Watch(model, [layer], lambda _, reading: use(reading))
    with watch.hooks(), watch:
        watch.finish(model(images))
