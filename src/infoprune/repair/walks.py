"""Both networks, run side by side over the same images, from layer to layer; each layer is refitted on the way.

All batches wait at a layer until it is fitted, so both networks run once over the images, for any number of layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from infoprune.data.batches import at_a_time, every_nth, regrouped, some_batches
from infoprune.network.layer_io import Reading, calls, is_convolution_without_window, read_all
from infoprune.network.layers import is_producer
from infoprune.network.spill import Spill
from infoprune.network.stepwise import ForwardPasses
from infoprune.regression.few_samples import are_few
from infoprune.regression.layer_fit import (
    HELD_OUT_EVERY,
    Site,
    Targets,
    add_positions,
    best_solution,
    positions_of,
    write_solution,
)
from infoprune.regression.normal_equations import Equations
from infoprune.regression.patches import as_matrix, weight_of
from infoprune.regression.portions import Portions
from infoprune.repair.base import Pair
from infoprune.runs.together import current

MEMORY = 5 << 28
# Images that every layer is fitted to at least, however large its maps.
_FEWEST_IMAGES = 64
# Images of one batch at most: its temporary memory is needed in addition to the memory for the maps of all batches.
_MOST_IMAGES = 128
# Smaller batches are put together: one image at a time takes six times as long, 50 of 32 x 32 a tenth longer than 125.
_SMALL_BATCH = 64
_RIDGE = 1e-4


@dataclass
class Walks:
    """Both networks, run side by side over the same images, from layer to layer.

    Args:
        pair: The networks and the images.
        sites: The layers that are refitted, in the order in which their results are used.
        small: The passes of the copy that is repaired.
        original: The passes of the original network.
        sizes: Number of images of each batch, those of other processes included.
        mine: Numbers of the batches of this process.
        images: Number of images that the next layer is fitted to.
        spill: Keeps the maps of waiting passes.
        late: Whether batches whose maps do not fit into memory start at a later layer, where maps are smaller: the
            layers before are fitted to the other batches.

    Example:
        >>> import infoprune
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> pair = Pair.of(whole, plan, [images])
        >>> with Walks.of(pair, pair.small, ["features.3"]) as walks:
        ...     [site.name for site in walks.sites], walks.sizes
        (['features.3'], (20,))
    """

    pair: Pair
    sites: list[Site]
    small: ForwardPasses
    original: ForwardPasses
    sizes: tuple[int, ...]
    mine: tuple[int, ...]
    images: int
    spill: Spill
    late: bool = False
    ridge: float = _RIDGE
    seen: int = 0
    _open: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def of(
        cls, pair: Pair, small: nn.Module, layers: Sequence[str], memory: int = MEMORY, *, late: bool = False
    ) -> Walks:
        """Return the walks over a pair.

        Args:
            pair: The networks and the images.
            small: The copy that is repaired.
            layers: The layers to refit. A layer whose output is not used, or cannot be followed in both networks, is
                not refitted; in the second case a warning names the layer.
            memory: Bytes of feature maps that are kept in memory between layers; the rest is written to files.
            late: Whether batches may start at a later layer instead.
        """
        images = rebatched(pair)
        sites = sites_of(pair, small, layers)
        names = [site.name for site in sites]
        with ExitStack() as stack:
            spill = stack.enter_context(Spill(memory))
            sizes = tuple(map(len, images))
            share = dict(some_batches(images, Portions({}, len(sizes)).share))
            numbers, some = tuple(share), list(share.values())
            mine = stack.enter_context(ForwardPasses(small, names, some, spill, refitted=True))
            theirs = stack.enter_context(ForwardPasses(pair.original, names, some, spill))
            return cls(pair, sites, mine, theirs, sizes, numbers, sum(sizes), spill, late, _open=stack.pop_all())
        raise AssertionError("unreachable")

    def towards(self, layer: str) -> Iterator[tuple[int, Reading, Reading]]:
        """Yield the layer in the pruned network and in the original; each layer once, in order.

        Yields:
            For each batch of this process, in order: its number, the reading in the pruned network and the reading in
            the original.
        """
        seen = largest = 0
        for place, number in enumerate(self.mine):
            if self.late and not self.small.started(place) and seen >= _FEWEST_IMAGES and largest > self.spill.room():
                break
            yield number, self.small.advance(place, layer), self.original.advance(place, layer)
            self.small.put_away(place)
            self.original.put_away(place)
            seen += self.sizes[number]
            largest = max(largest, self.small.size_of(place) + self.original.size_of(place))
        self.seen = seen

    def __enter__(self) -> Walks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()


def rebatched(pair: Pair) -> list[Tensor]:
    """Return the images in batches of the size with the fastest passes.

    Example:
        >>> import infoprune
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(300, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> [len(batch) for batch in rebatched(Pair.of(whole, plan, [images]))]
        [128, 128, 44]
    """
    return list(regrouped(pair.images(), lambda images: min(_MOST_IMAGES, at_a_time(images)), _SMALL_BATCH))


def refit(walks: Walks, site: Site, keep: Callable[[int, Reading, Targets], None] | None = None) -> Equations | None:
    """Advance to a layer, refit it and return its equations of the fitted images, in the first process.

    The search for the next layer's ridge starts at this one's.

    Example:
        >>> import infoprune
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> pair = Pair.of(whole, plan, [images])
        >>> before = pair.small.features[3].weight.clone()
        >>> with torch.no_grad(), Walks.of(pair, pair.small, ["features.3"]) as walks:
        ...     equations = refit(walks, walks.sites[0])
        >>> torch.equal(before, pair.small.features[3].weight)
        False
    """
    moments = moments_of(walks, site, keep)
    found = current().agreed(None if moments is None else best_solution(site, *moments, near=walks.ridge))
    if found is not None and found.ridge < float("inf"):
        walks.ridge = found.ridge
    write_solution(site, found)
    return None if moments is None else moments[0]


def layers_to_refit(pair: Pair, small: nn.Module, every: bool) -> list[str]:
    """Return the layers to refit that run once, in order; a warning names others that lost inputs.

    Args:
        pair: The networks and the images.
        small: The copy that is repaired.
        every: Whether all layers from the first cut on are refitted, or only those that lost inputs.

    Example:
        >>> import infoprune
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> pair = Pair.of(whole, plan, [images])
        >>> layers_to_refit(pair, pair.small, every=False)
        ['features.3', 'features.7', 'features.10', 'classifier']
    """
    return _refittable(pair, small, runs_from_first_cut(pair, small), every, several=False)


def stretches(pair: Pair, small: nn.Module, every: bool) -> list[tuple[bool, list[str]]]:
    """Return the layers to refit in stretches: ``(False, layers)`` run once, ``(True, layers)`` several times.

    The arguments are those of ``layers_to_refit``.

    Example:
        >>> import infoprune
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> stretches(pair := Pair.of(whole, plan, [images]), pair.small, every=False)
        [(False, ['features.3', 'features.7', 'features.10', 'classifier'])]
    """
    runs = runs_from_first_cut(pair, small)
    layers = _refittable(pair, small, runs, every, several=True)
    return [(several, list(some)) for several, some in groupby(layers, key=lambda layer: runs[layer] > 1)]


def _refittable(pair: Pair, small: nn.Module, runs: Mapping[str, int], every: bool, *, several: bool) -> list[str]:
    lost = {layer for (layer, side), gone in pair.removal.items() if gone and side == "in"}
    chosen = []
    for layer, times in runs.items():
        repeated = "runs several times in one forward pass" if times > 1 and not several else ""
        why = repeated or _obstacle(small.get_submodule(layer))
        if why and layer in lost:
            warnings.warn(f"layer '{layer}' is not repaired: it {why}", stacklevel=3)
        elif not why and (every or layer in lost):
            chosen.append(layer)
    return chosen


def runs_from_first_cut(pair: Pair, small: nn.Module) -> dict[str, int]:
    """Return how often each layer runs in one forward pass, in order, from the first layer on that lost channels.

    Example:
        >>> import infoprune
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> runs_from_first_cut(pair := Pair.of(whole, plan, [images]), pair.small)
        {'features.0': 1, 'features.3': 1, 'features.7': 1, 'features.10': 1, 'classifier': 1}
    """
    producers = [name for name, module in small.named_modules() if is_producer(module)]
    ran = calls(small, producers, next(pair.images())[:2])
    touched = {layer for (layer, _), gone in pair.removal.items() if gone}
    first = next((i for i, layer in enumerate(ran) if layer in touched), len(ran))
    return {layer: ran.count(layer) for layer in ran[first:]}


def _obstacle(layer: nn.Module) -> str:
    """Return why a layer cannot be refitted, as the end of a sentence that begins with the layer; empty if it can."""
    if isinstance(layer, _ConvTransposeNd) or not isinstance(layer, (nn.Linear, _ConvNd)):
        return f"is a {type(layer).__name__}, and only convolutions and linear layers are refitted"
    if "weight" not in layer._parameters:
        return "has a computed weight"
    return ""


@torch.no_grad()
def sites_of(pair: Pair, small: nn.Module, layers: Sequence[str]) -> list[Site]:
    """Return the sites of the layers to refit, in the order in which their results are used.

    Layers whose output does not reach the output of the network are left out. So are layers that cannot be followed in
    both networks; a warning names these.

    Example:
        >>> import infoprune
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> pair = Pair.of(whole, plan, [images])
        >>> [(site.name, site.window.kernel) for site in sites_of(pair, pair.small, ["features.3"])]
        [('features.3', (3, 3))]
    """
    images = next(pair.images())[:2]
    mine, theirs = read_all(small, layers, images), read_all(pair.original, layers, images)
    sites = []
    for layer, reading in mine.items():
        if is_convolution_without_window(small.get_submodule(layer), reading):
            if pair.removal.get((layer, "in")):
                _warn(layer, "its forward does not convolve with its own weight")
        elif layer not in theirs or not are_alike(reading, theirs[layer]):
            _warn(layer, "the operations after it could not be followed")
        else:
            sites.append(site_of(pair, small, layer, reading))
    return sites


def site_of(pair: Pair, small: nn.Module, layer: str, reading: Reading) -> Site:
    """Return the site of a layer from its reading in the pruned network.

    Example:
        >>> import infoprune
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> pair = Pair.of(whole, plan, [images])
        >>> site_of(pair, pair.small, "features.3", read_all(pair.small, ["features.3"], images)["features.3"]).name
        'features.3'
    """
    norm = small.get_submodule(reading.norm) if reading.norm else None
    assert norm is None or isinstance(norm, _BatchNorm)
    whole = len(weight_of(pair.original.get_submodule(layer)))
    outputs = torch.tensor(pair.kept(layer, "out", whole), device=reading.result.device)
    flat = reading.window is None and reading.inputs.dim() == 2
    return Site(layer, small.get_submodule(layer), norm, outputs, reading.window, flat)


def _warn(layer: str, why: str) -> None:
    warnings.warn(f"layer '{layer}' is not repaired: {why}", stacklevel=3)


def are_alike(mine: Reading, theirs: Reading) -> bool:
    """Return whether the same operations follow a layer in both networks.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).eval()
        >>> reading = read_all(net, ["0"], torch.zeros(2, 1, 8, 8))["0"]
        >>> are_alike(reading, reading)
        True
    """
    same_sum = (mine.added is None) == (theirs.added is None)
    return mine.norm == theirs.norm and same_sum and mine.result.dim() == theirs.result.dim()


@dataclass(frozen=True)
class Moments:
    """Normal equations of a layer while batches are added: of the images it is fitted to, and of every fifth image.

    Args:
        site: The layer.
        portions: The sums, in portions of the batches.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> moments = Moments.of(Site("fc", layer, None, torch.arange(1), window=None), batches=1, images=10)
        >>> reading = Reading(torch.rand(10, 2), torch.rand(10, 1), norm="", added=None, window=None)
        >>> moments.add(0, 0, reading, Targets([(reading.result, 1, None)], linear=True), torch.Generator(), 64)
        >>> [equations.count for equations in moments.equations()]
        [8, 2]
    """

    site: Site
    portions: Portions

    @classmethod
    def of(cls, site: Site, batches: int, images: int) -> Moments:
        """Return those of no images yet, for a number of batches and of readings of one image."""
        groups, features, outputs = as_matrix(site.small).shape
        shapes = dict.fromkeys(("fit", "held out"), (groups, features, outputs))
        few = shapes if site.flat and are_few(images, features) else ()
        return cls(site, Portions(shapes, batches, site.outputs.device, few=few))

    def add(
        self, number: int, seen: int, mine: Reading, targets: Targets, drawn: torch.Generator, positions: int
    ) -> None:
        """Add what the layer reads in one call.

        Args:
            number: Of the batch.
            seen: Images in the batches before it.
            mine: The call in the pruned network.
            targets: Its targets.
            drawn: Generator that draws the positions.
            positions: Number of positions sampled from an image.
        """
        products = self.portions.products(number)
        held = every_nth(len(mine.inputs), seen, HELD_OUT_EVERY)
        for name, chosen in (("fit", ~held), ("held out", held)):
            images = chosen.nonzero().flatten().to(mine.inputs.device)
            add_positions(products[name], mine.window, mine.inputs, targets, images, drawn, positions)

    def equations(self) -> tuple[Equations, Equations] | None:
        """Return the sums over the images of all processes, in the first one; ``None`` in the others."""
        found = self.portions.equations()
        return (found["fit"], found["held out"]) if found else None


def moments_of(
    walks: Walks, site: Site, keep: Callable[[int, Reading, Targets], None] | None = None
) -> tuple[Equations, Equations] | None:
    """Return the normal equations of the fitted images and of the held-out images, which choose the ridge.

    They are sums over the images of all processes; the first process alone receives them.

    Args:
        walks: The networks, which advance to the layer.
        site: The layer.
        keep: Called with the number of each batch of this process, the reading of the layer and its targets.

    Example:
        >>> import infoprune
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> pair = Pair.of(whole, plan, [images])
        >>> with torch.no_grad(), Walks.of(pair, pair.small, ["classifier"]) as walks:
        ...     fit, held_out = moments_of(walks, walks.sites[0])
        >>> fit.count, held_out.count
        (16, 4)
    """
    moments = Moments.of(site, len(walks.sizes), sum(walks.sizes))
    positions = positions_of(walks.images, site.features)
    for number, mine, theirs in walks.towards(site.name):
        targets = targets_of(site, mine, theirs)
        if keep is not None:
            keep(number, mine, targets)
        drawn = torch.Generator().manual_seed(number)
        moments.add(number, sum(walks.sizes[:number]), mine, targets, drawn, positions)
    found = moments.equations()
    walks.images = sum(current().exchanged(walks.seen))
    return found


def targets_of(site: Site, mine: Reading, theirs: Reading) -> Targets:
    """Return the targets of a layer: the original's result plus the error of the other branch of its block.

    Example:
        >>> import infoprune
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> pair = Pair.of(whole, plan, [images])
        >>> with torch.no_grad(), Walks.of(pair, pair.small, ["classifier"]) as walks:
        ...     _, mine, theirs = next(walks.towards("classifier"))
        ...     tuple(targets_of(walks.sites[0], mine, theirs).whole().shape)
        (20, 10)
    """
    terms: list[tuple[Tensor, int, Tensor | None]] = [(theirs.result, 1, site.outputs)]
    if theirs.added is not None and mine.added is not None:
        terms += [(theirs.added, 1, site.outputs), (mine.added, -1, None)]
    return Targets(terms, isinstance(site.small, nn.Linear))
