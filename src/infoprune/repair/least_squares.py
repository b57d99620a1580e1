"""Least squares for the layers behind a cut: each, front to back, learns to return what the original returned.

Per layer, with X what the PRUNED network feeds it (im2col patches) and T what the ORIGINAL returns there, after the
batch norm that follows, in a residual block together with the other branch::

    T = original result + original shortcut - pruned shortcut
    W, b = argmin ||X W + b - T||^2 + ridge ||W - W_cut||^2

W divided by the norm's scale becomes the weight, b goes into the norm's shift or the layer's bias. The ridge is the one
that does best on every fifth image; the solution is then found from all of them. Both networks run once over the
images, however many layers there are: all batches wait at a layer until it is fitted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from infoprune.network.equivalence import duplicate
from infoprune.network.layer_io import Reading, calls, is_convolution_without_window, read_all
from infoprune.network.layers import is_producer
from infoprune.network.spill import Spill
from infoprune.network.stepwise import ForwardPasses
from infoprune.progress import Progress
from infoprune.regression.layer_fit import (
    HELD_OUT_EVERY,
    Site,
    Targets,
    add_positions,
    best_solution,
    positions_of,
    write_solution,
)
from infoprune.regression.normal_equations import NormalEquations
from infoprune.regression.patches import as_matrix, weight_of
from infoprune.regression.products import Products
from infoprune.repair.base import Pair, RepairInfo, register

MEMORY = 2 << 30
# Values of the images that are run at a time: what a layer makes of them should not leave the processor's cache, and
# what one batch needs for a while is beside the memory for what all keep.
_BATCH_VALUES = 1 << 20
# Images that every layer is fitted to at least, however large its maps.
_FEWEST_IMAGES = 64
_MOST_IMAGES = 128
_RIDGE = 1e-4


@dataclass
class Walks:
    """Both networks, run side by side over the same images, from layer to layer.

    Args:
        pair: The networks and the images.
        sites: The layers that are refitted, in the order in which their results are used.
        small: The passes of the copy that is repaired.
        original: Those of the whole network.
        sizes: Number of images of each batch.
        positions: Positions of an image that are looked at.
        spill: Keeps what waits.
        late: Whether batches whose maps do not fit into memory start at a later layer, where maps are smaller: the
            layers before are fitted to the others.
    """

    pair: Pair
    sites: list[Site]
    small: ForwardPasses
    original: ForwardPasses
    sizes: tuple[int, ...]
    positions: int
    spill: Spill
    late: bool = False
    ridge: float = _RIDGE
    _open: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def of(
        cls, pair: Pair, small: nn.Module, layers: Sequence[str], memory: int = MEMORY, *, late: bool = False
    ) -> Walks:
        """Return the walks over a pair.

        Args:
            pair: The networks and the images.
            small: The copy that is repaired.
            layers: Those to refit. A layer whose output is not used, or cannot be followed in both networks, is left
                as it is; of the latter a warning names the layer.
            memory: Bytes of feature maps that stay in memory between layers; more of them are put into files.
            late: Whether batches may start at a later layer instead.
        """
        images = _rebatched(pair)
        sites = sites_of(pair, small, layers)
        names = [site.name for site in sites]
        with ExitStack() as stack:
            spill = stack.enter_context(Spill(memory))
            mine = stack.enter_context(ForwardPasses(small, names, images, spill, refitted=True))
            theirs = stack.enter_context(ForwardPasses(pair.original, names, images, spill))
            sizes = tuple(map(len, images))
            positions = positions_of(sum(sizes))
            return cls(pair, sites, mine, theirs, sizes, positions, spill, late, _open=stack.pop_all())
        raise AssertionError("unreachable")

    def towards(self, layer: str) -> Iterator[tuple[Reading, Reading]]:
        """Yield, batch by batch, the layer in the pruned network and in the original; each layer once, in order."""
        seen = largest = 0
        for number, images in enumerate(self.sizes):
            if self.late and not self.small.started(number) and seen >= _FEWEST_IMAGES and largest > self.spill.room():
                break
            yield self.small.advance(number, layer), self.original.advance(number, layer)
            self.small.put_away(number)
            self.original.put_away(number)
            seen += images
            largest = max(largest, self.small.size_of(number) + self.original.size_of(number))
        self.positions = positions_of(seen)

    def __enter__(self) -> Walks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()


def _rebatched(pair: Pair) -> list[Tensor]:
    """Return the images in batches of the size that the passes are fastest with."""
    found: list[Tensor] = []
    for images in pair.images():
        most = max(1, min(_MOST_IMAGES, _BATCH_VALUES // max(1, images[0].numel())))
        found += [some.clone() for some in torch.split(images, most)] if len(images) > most else [images]
    return found


@torch.no_grad()
def least_squares(pair: Pair, progress: Progress, *, every: bool = True, memory: int = MEMORY) -> nn.Module:
    """Return a copy of the pruned network whose layers behind the cut are refitted.

    Args:
        pair: The networks and the images, which are read once.
        progress: Told after every layer.
        every: Whether all layers from the first cut on are refitted, or only those that lost inputs.
        memory: Bytes of feature maps that stay in memory between layers; more of them are put into files.
    """
    small = duplicate(pair.small)
    with Walks.of(pair, small, layers_to_refit(pair, small, every), memory, late=True) as walks:
        for done, site in enumerate(walks.sites, 1):
            refit(walks, site)
            progress("least squares", done, len(walks.sites))
    return small


def refit(walks: Walks, site: Site, keep: Callable[[Reading, Targets], None] | None = None) -> None:
    """Advance to a layer and refit it; the next layer's ridge is looked for near this one's."""
    found = best_solution(site, *moments_of(walks, site, keep), near=walks.ridge)
    if found is not None and found.ridge < float("inf"):
        walks.ridge = found.ridge
    write_solution(site, found)


def layers_to_refit(pair: Pair, small: nn.Module, every: bool) -> list[str]:
    """Return the layers to refit, in the order in which they run."""
    modules = dict(small.named_modules())
    ran = calls(small, [name for name, module in modules.items() if is_producer(module)], next(pair.images())[:2])
    touched = {layer for (layer, _), gone in pair.removal.items() if gone}
    lost = {layer for (layer, side), gone in pair.removal.items() if gone and side == "in"}
    behind = ran[next((i for i, layer in enumerate(ran) if layer in touched), len(ran)) :]
    chosen = []
    for layer in dict.fromkeys(behind):
        why = _obstacle(modules[layer], ran.count(layer))
        if why and layer in lost:
            warnings.warn(f"layer '{layer}' stays as it was cut: it {why}", stacklevel=2)
        elif not why and (every or layer in lost):
            chosen.append(layer)
    return chosen


def _obstacle(layer: nn.Module, times: int) -> str:
    """Return why a layer cannot be refitted, in the words of a sentence that begins with the layer, or nothing."""
    if times > 1:
        return "runs several times in one forward pass"
    if isinstance(layer, _ConvTransposeNd) or not isinstance(layer, (nn.Linear, _ConvNd)):
        return f"is a {type(layer).__name__}, and only convolutions and linear layers are refitted"
    if "weight" not in layer._parameters:
        return "has a computed weight"
    return ""


@torch.no_grad()
def sites_of(pair: Pair, small: nn.Module, layers: Sequence[str]) -> list[Site]:
    """Return layers as they are refitted, in the order in which their results are used.

    A layer whose output does not reach what the network returns is none of them; one that cannot be followed in both
    networks is none of them either, and a warning names it.
    """
    images = next(pair.images())[:2]
    mine, theirs = read_all(small, layers, images), read_all(pair.original, layers, images)
    sites = []
    for layer, reading in mine.items():
        module = small.get_submodule(layer)
        if is_convolution_without_window(module, reading):
            if pair.removal.get((layer, "in")):
                _warn(layer, "its forward does not convolve with its own weight")
        elif layer not in theirs or not _alike(reading, theirs[layer]):
            _warn(layer, "what follows it could not be followed")
        else:
            norm = small.get_submodule(reading.norm) if reading.norm else None
            assert norm is None or isinstance(norm, _BatchNorm)
            whole = len(weight_of(pair.original.get_submodule(layer)))
            outputs = torch.tensor(pair.kept(layer, "out", whole), device=images.device)
            sites.append(Site(layer, module, norm, outputs, reading.window))
    return sites


def _warn(layer: str, why: str) -> None:
    warnings.warn(f"layer '{layer}' stays as it was cut: {why}", stacklevel=3)


def _alike(mine: Reading, theirs: Reading) -> bool:
    same_sum = (mine.added is None) == (theirs.added is None)
    return mine.norm == theirs.norm and same_sum and mine.result.dim() == theirs.result.dim()


def moments_of(
    walks: Walks, site: Site, keep: Callable[[Reading, Targets], None] | None = None
) -> tuple[NormalEquations, NormalEquations]:
    """Return the normal equations of the images that fit and of those that choose the ridge.

    Args:
        walks: The networks, which advance to the layer.
        site: The layer.
        keep: Called batch by batch with what is read of the layer and what it should return.
    """
    groups, features, outputs = as_matrix(site.small).shape
    fit, held_out = (Products(groups, features, outputs, site.outputs.device) for _ in range(2))
    drawn = torch.Generator().manual_seed(0)
    seen = 0
    for mine, theirs in walks.towards(site.name):
        targets = targets_of(site, mine, theirs)
        if keep is not None:
            keep(mine, targets)
        held = (torch.arange(len(mine.inputs)) + seen) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        seen += len(mine.inputs)
        for chosen, products in ((~held, fit), (held, held_out)):
            images = chosen.nonzero().flatten().to(mine.inputs.device)
            add_positions(products, site.window, mine.inputs, targets, images, drawn, walks.positions)
    return fit.equations(), held_out.equations()


def targets_of(site: Site, mine: Reading, theirs: Reading) -> Targets:
    """Return what a layer should return: the original's result, and what the other branch of a block lacks."""
    terms: list[tuple[Tensor, int, Tensor | None]] = [(theirs.result, 1, site.outputs)]
    if theirs.added is not None and mine.added is not None:
        terms += [(theirs.added, 1, site.outputs), (mine.added, -1, None)]
    return Targets(terms, isinstance(site.small, nn.Linear))


def _repair(pair: Pair, progress: Progress) -> nn.Module:
    return least_squares(pair, progress)


register(RepairInfo("least-squares", _repair, "every layer behind the cut refitted to the original, front to back"))
