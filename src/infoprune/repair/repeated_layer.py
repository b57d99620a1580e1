"""Refits a layer that runs several times in one forward pass: a head over several maps, an encoder of several images.

One weight serves all calls, so the normal equations of all calls are added up. The inputs of a later call may depend on
the layer itself; they are those of the weights that it had before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from infoprune.data.batches import every_nth, some_batches
from infoprune.network.layer_io import Reading, Watch, is_convolution_without_window
from infoprune.regression.layer_fit import (
    HELD_OUT_EVERY,
    Site,
    add_positions,
    best_solution,
    positions_of,
    write_solution,
)
from infoprune.regression.patches import as_matrix
from infoprune.regression.portions import Portions
from infoprune.regression.products import Products
from infoprune.repair.base import Pair
from infoprune.repair.walks import are_alike, rebatched, site_of, targets_of
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
    most = positions_of(sum(sizes) * calls)
    groups, features, outputs = as_matrix(site.small).shape
    shapes = dict.fromkeys(("fit", "held out"), (groups, features, outputs))
    portions = Portions(shapes, len(images), site.outputs.device)
    for number, batch in some_batches(images, portions.share):
        originals, drawn = _readings(pair.original, layer, batch), torch.Generator().manual_seed(number)
        add = partial(_add, site, portions.products(number), iter(originals), sum(sizes[:number]), drawn, most)
        _watched(small, layer, batch, add)
    sums = portions.equations()
    write_solution(site, current().agreed(best_solution(site, sums["fit"], sums["held out"]) if sums else None))


def _add(
    site: Site,
    products: Mapping[str, Products],
    originals: Iterator[Reading],
    seen: int,
    drawn: torch.Generator,
    most: int,
    mine: Reading,
) -> None:
    """Add one call of a layer to its products; the same call of the original is the next of its readings."""
    targets = targets_of(site, mine, next(originals))
    held = every_nth(len(mine.inputs), seen, HELD_OUT_EVERY)
    for name, chosen in (("fit", ~held), ("held out", held)):
        images = chosen.nonzero().flatten().to(mine.inputs.device)
        add_positions(products[name], mine.window, mine.inputs, targets, images, drawn, most)


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
