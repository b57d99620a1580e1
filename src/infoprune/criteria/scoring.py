"""A criterion's answer for every coupled group of a network: where feature maps meet criteria."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from infoprune.criteria.base import Criterion, CriterionInfo, Filters, Importance, Tap, create
from infoprune.criteria.ties import levelled
from infoprune.errors import InputError
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.network.feature_maps import capture
from infoprune.progress import Progress, silent

Channels = tuple[tuple[int, ...], ...]


def score(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    batches: Iterable[Any] | None,
    info: CriterionInfo,
    *,
    tap: Tap | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    images: int | None = None,
    memory: int = 1 << 30,
    device: torch.device | str | None = None,
    progress: Progress = silent,
) -> dict[str, Importance]:
    """Return the importance of the filters of every coupled group.

    Every group has a criterion of its own, fed with the group's feature maps: those of its only layer as
    ``(n, C, H, W)``, those of several side by side as ``(n, C, 1, D)``, in the order of the group's filters. A
    criterion that streams sees all groups in one pass over the images; one that holds maps sees as many groups a pass
    as fit into ``memory``, at least one.

    Args:
        model: The network; left as it is.
        groups: What to score.
        batches: ``(images, labels)`` pairs, iterable more than once; labels may be missing where the criterion needs
            none, and all of it where it reads weights only.
        info: Which criterion.
        tap: Where the maps are read; by default where the criterion says.
        seed: For criteria that draw.
        options: Options of the criterion, by name.
        images: At most so many images are read; by default what the criterion says.
        memory: Bytes of feature maps that may be held at once.
        device: Where the batches are moved; by default to the network's.
        progress: Told after every batch and after every group.

    Returns:
        By the names of the groups, in their order.

    Raises:
        InputError: There are no images or no labels though the criterion needs them, the maps are not finite, or the
            criterion refuses a group or an option.
    """
    if info.score_network is not None:
        if batches is None and info.needs_maps:
            raise InputError(f"the criterion '{info.name}' reads feature maps: give images")
        batches = () if batches is None else batches
        return info.score_network(model, groups, _Images(batches, images or info.images), options or {}, progress)
    if info.needs_gradients:
        raise InputError(f"the criterion '{info.name}' needs gradients, and scoring runs without: choose another")
    scored = [_scored(model, group, info, seed, options) for group in groups]
    if info.needs_maps and scored:
        if batches is None:
            raise InputError(f"the criterion '{info.name}' reads feature maps: give images")
        if info.holds_maps and isinstance(batches, Iterator):
            raise InputError(
                f"the criterion '{info.name}' reads the images several times: give a DataLoader or a list of batches"
            )
        reading = _Reading(model, _Images(batches, images or info.images), info, tap or info.tap, device)
        passes = _passes(reading, scored, memory) if info.holds_maps else [scored]
    else:
        reading, passes = None, [scored]
    found: dict[str, Importance] = {}
    for number, some in enumerate(passes):
        if reading is not None:
            reading.feed(some, number, len(passes), progress)
        for one in some:
            found[one.group.name] = one.finish()
            progress("scoring filters", len(found), len(groups))
    return {group.name: found[group.name] for group in groups}


def filters_of(model: nn.Module, group: CoupledGroup) -> Filters:
    """Return the weights of a coupled group, one row per filter of the group."""
    rows = [
        weight_rows(model.get_submodule(layer), _weight(model.get_submodule(layer)), group, layer)
        for layer in group.producers
    ]
    scales = [
        _rows(scale.detach(), _channels(group, norm)).abs().sum(dim=1)
        for norm in group.norms
        if isinstance(scale := getattr(model.get_submodule(norm), "weight", None), Tensor)
    ]
    # The channels of one filter lie side by side with its inputs.
    shapes = tuple(tuple(row.flatten(1, 2).shape[1:]) for row in rows)
    return Filters(tuple(row.flatten(1) for row in rows), tuple(scales), group.name, shapes)


def _scored(
    model: nn.Module, group: CoupledGroup, info: CriterionInfo, seed: int, options: Mapping[str, Any] | None
) -> _Scored:
    filters = filters_of(model, group)
    if not info.by_layer or len(group.producers) == 1:
        return _Scored(group, create(info, filters, seed=seed, options=options))
    layers = {
        layer: create(info, Filters((weight,), (), layer, (shape,)), seed=seed, options=options)
        for layer, weight, shape in zip(group.producers, filters.weights, filters.shapes, strict=True)
    }
    return _Scored(group, None, layers)


@dataclass
class _Scored:
    """A group and what scores it: one criterion, or one for each of its layers."""

    group: CoupledGroup
    criterion: Criterion | None
    by_layer: dict[str, Criterion] = field(default_factory=dict)
    arrived: dict[str, Tensor] = field(default_factory=dict)

    def take(self, layer: str, maps: Tensor, labels: Tensor) -> None:
        if self.by_layer:
            self.by_layer[layer].update(_gathered(maps, _channels(self.group, layer)), labels)
            return
        self.arrived[layer] = maps
        if len(self.arrived) < len(self.group.producers):
            return
        parts = [self.arrived[layer] for layer in self.group.producers]
        self.arrived = {}
        assert self.criterion is not None
        if not self.settled:
            self.criterion.update(_side_by_side(self.group, parts), labels)

    @property
    def settled(self) -> bool:
        return bool(getattr(self.criterion, "settled", False))

    def finish(self) -> Importance:
        if self.by_layer:
            importance = _joined([one.compute() for one in self.by_layer.values()])
        else:
            assert self.criterion is not None
            importance = self.criterion.compute()
        # What they hold is not needed any more.
        self.criterion, self.by_layer = None, {}
        if importance.scores.shape != (self.group.filters,):
            raise InputError(
                f"layer '{self.group.name}' has {self.group.filters} filters, but the criterion gave scores of shape "
                f"{tuple(importance.scores.shape)}"
            )
        return importance


def _joined(parts: Sequence[Importance]) -> Importance:
    """Return the mean over layers of scores relative to the mean modulus of their layer, which units and sizes differ.

    Filters that are dead in every layer have the least score in each, so they have it in the mean.
    """
    relative = [part.scores / (float(part.scores.abs().mean()) or 1.0) for part in parts]
    return Importance(levelled(torch.stack(relative).mean(dim=0)))


@dataclass(frozen=True)
class _Images:
    """At most so many images of the batches, and how many that is."""

    batches: Iterable[Any]
    limit: int | None

    def __iter__(self) -> Iterator[Any]:
        left = self.limit
        for batch in self.batches:
            if left is None:
                yield batch
                continue
            size = _size(batch)
            yield batch if size <= left else _first(batch, left)
            left -= size
            if left <= 0:
                return


def _size(batch: Any) -> int:
    # What is no batch at all is for capture() to refuse.
    images = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    return len(images) if isinstance(images, Tensor) else 0


def _first(batch: Any, count: int) -> Any:
    return [part[:count] for part in batch] if isinstance(batch, (tuple, list)) else batch[:count]


@dataclass(frozen=True)
class _Reading:
    model: nn.Module
    images: _Images
    info: CriterionInfo
    tap: Tap
    device: torch.device | str | None

    def feed(self, scored: Sequence[_Scored], number: int, passes: int, progress: Progress) -> None:
        by_layer: dict[str, list[_Scored]] = {}
        for one in scored:
            for layer in one.group.producers:
                by_layer.setdefault(layer, []).append(one)

        def consume(layer: str, maps: Tensor, labels: Tensor | None) -> None:
            if labels is None and self.info.needs_labels:
                raise InputError(f"the criterion '{self.info.name}' needs labels: give (images, labels) pairs")
            if labels is None:
                labels = torch.full((len(maps),), -1, device=maps.device)
            for one in by_layer[layer]:
                one.take(layer, maps, labels)

        batches = self._until_settled(scored, number, passes, progress)
        capture(self.model, batches, list(by_layer), self.tap, consume, device=self.device)

    def _until_settled(self, scored: Sequence[_Scored], number: int, passes: int, progress: Progress) -> Iterator[Any]:
        batches = _length(self.images)
        for done, batch in enumerate(self.images, 1):
            yield batch
            progress("reading feature maps", number * batches + done, max(passes * batches, number * batches + done))
            if all(one.settled for one in scored):
                return

    def bytes_per_image(self, layers: Sequence[str]) -> dict[str, int]:
        """Return what the maps of one image take, by a forward pass of the first two images."""
        first = next(iter(self.images), None)
        if first is None:
            raise InputError("there are no images: the loader is empty, give at least one batch")
        found: dict[str, int] = {}

        def consume(layer: str, maps: Tensor, labels: Tensor | None) -> None:
            found[layer] = maps[0].numel() * maps.element_size()

        small = _first(first, 2) if _size(first) else first
        capture(self.model, [small], layers, self.tap, consume, device=self.device)
        return found


def _length(images: _Images) -> int:
    """Return the number of batches as far as it can be told without reading them, else 0."""
    try:
        batches = len(images.batches)  # type: ignore[arg-type]
    except TypeError:
        return 0
    if images.limit is None:
        return batches
    size = getattr(images.batches, "batch_size", None)
    if not isinstance(size, int) and isinstance(images.batches, Sequence) and batches:
        size = _size(images.batches[0])
    return min(batches, -(-images.limit // size)) if size else batches


def _passes(reading: _Reading, scored: Sequence[_Scored], memory: int) -> list[list[_Scored]]:
    """Pack the groups, in their order, into passes whose maps fit into memory."""
    layers = list(dict.fromkeys(layer for one in scored for layer in one.group.producers))
    sizes = reading.bytes_per_image(layers)
    images = min(_count(reading.images), reading.info.held_images or sys.maxsize)
    passes: list[list[_Scored]] = []
    left = 0
    for one in scored:
        needed = images * sum(sizes[layer] for layer in one.group.producers)
        if not passes or needed > left:
            passes.append([])
            left = memory
        passes[-1].append(one)
        left -= needed
    return passes


def _count(images: _Images) -> int:
    """Return the number of images, at most the limit; the images are read only where nothing else tells."""
    batches = images.batches
    if images.limit is not None:
        return images.limit
    try:
        return len(batches.dataset)  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        return sum(_size(batch) for batch in batches)


def _side_by_side(group: CoupledGroup, parts: Sequence[Tensor]) -> Tensor:
    rows = [_gathered(maps, _channels(group, layer)) for layer, maps in zip(group.producers, parts, strict=True)]
    return rows[0] if len(rows) == 1 else torch.cat([maps.flatten(2) for maps in rows], dim=2).unsqueeze(2)


def _gathered(maps: Tensor, channels: Channels | None) -> Tensor:
    """Return ``(n, C, ...)`` maps in the order of the group's filters, those of one filter side by side."""
    if channels is None:
        return maps
    if all(len(some) == 1 for some in channels):
        return maps[:, [some[0] for some in channels]]
    rows = _rows(maps.flatten(2).movedim(1, 0), channels)
    return rows.permute(2, 0, 1, 3).flatten(2).unsqueeze(2)


def _rows(tensor: Tensor, channels: Channels | None) -> Tensor:
    """Return ``(C, k, ...)``: the rows of a tensor that belong to each filter, zeros where a filter has fewer."""
    if channels is None:
        return tensor.unsqueeze(1)
    width = max(1, *(len(some) for some in channels))
    padded = torch.cat([tensor, torch.zeros_like(tensor[:1])])
    index = [[*some, *[len(tensor)] * (width - len(some))] for some in channels]
    return padded[torch.tensor(index, device=tensor.device)]


def _channels(group: CoupledGroup, layer: str) -> Channels | None:
    """Return which outputs of the layer go with each filter, ``None`` where filter i is output i."""
    for member in group.members:
        if member.layer == layer and member.side == "out":
            return None if member.channels == tuple((i,) for i in range(group.filters)) else member.channels
    return None


def weight_rows(module: nn.Module, values: Tensor, group: CoupledGroup, layer: str) -> Tensor:
    """Return ``(C, k, ...)``: the values of the shape of a layer's weight that belong to each filter of a group."""
    return _rows(_by_output(module, values), _channels(group, layer))


def _weight(layer: Any) -> Tensor:
    weight: Tensor = layer.weight.detach()
    return weight


def _by_output(layer: Any, weight: Tensor) -> Tensor:
    """Return values of the shape of the weight with one row per output channel."""
    if not getattr(layer, "transposed", False):
        return weight
    # (in, out / groups, ...): every group of inputs has outputs of its own.
    per_group = weight.reshape(layer.groups, -1, *weight.shape[1:]).transpose(1, 2)
    return per_group.flatten(0, 1)
