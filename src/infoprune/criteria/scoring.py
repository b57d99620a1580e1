"""A criterion's answer for every coupled group of a network: where feature maps meet criteria."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from infoprune.criteria.base import Criterion, CriterionInfo, Filters, Importance, Tap, create
from infoprune.data.batches import Batch, Batches, FirstImages, is_repeatable
from infoprune.entropy.ties import default_bound
from infoprune.errors import InputError
from infoprune.network.coupled_groups import CoupledGroup, in_passes
from infoprune.network.group_maps import bytes_per_image, capture_groups, shapes_of, weights_of
from infoprune.progress import Progress, silent

States = dict[str, Criterion]
"""By group, the criterion that scores it and what it has seen so far."""


def score(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    batches: Batches | None,
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
    as fit into ``memory``, at least one. A criterion that sees the network is passed everything at once.

    Args:
        model: The network; left as it is.
        groups: What to score.
        batches: ``(images, labels)`` pairs, iterable more than once; labels may be missing where the criterion needs
            none, and all of it where it reads weights only.
        info: Which criterion.
        tap: Where the maps are read; by default where the criterion says.
        seed: For criteria that draw.
        options: Options of the criterion, by name.
        images: At most this many images are read; by default what the criterion says.
        memory: Bytes of feature maps that may be held at once.
        device: Where the batches are moved; by default to the network's.
        progress: Called after every batch and after every group.

    Returns:
        By the names of the groups, in their order.

    Raises:
        InputError: There are no images or no labels though the criterion needs them, the maps are not finite, or the
            criterion refuses a group or an option.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.criteria.base import find
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net, images = infoprune.zoo.build("digits").eval(), torch.rand(16, 1, 8, 8)
        >>> sorted(score(net, find_groups(net, images).groups, [images], find("variance")))[:2]
        ['features.0', 'features.10']
    """
    if info.by_layer:
        parts = _by_layer(groups)
        apart = [part for some in parts.values() for part in some]
        each = score(
            model, apart, batches, replace(info, by_layer=False), tap=tap, seed=seed, options=options, images=images,
            memory=memory, device=device, progress=progress,
        )  # fmt: skip
        return _joined(parts, each)
    if batches is None and info.needs_maps:
        raise InputError(f"the criterion '{info.name}' reads feature maps: give images")
    read = FirstImages(() if batches is None else batches, images or info.images)
    if info.score_network is not None:
        return info.score_network(model, groups, read, options or {}, progress)
    reading = _Reading(model, read, info, tap or info.tap, device) if info.needs_maps else None
    states = create_states(model, groups, info, seed=seed, options=options)
    passes = [list(groups)]
    if reading is not None and groups and info.holds_maps:
        passes = _passes(reading, groups, memory)
    found: dict[str, Importance] = {}
    for number, some in enumerate(passes):
        if reading is not None and some:
            reading.feed(states, some, _PassProgress(progress, number, len(passes)))
        for group in some:
            found[group.name] = _importance(states.pop(group.name), group)
            progress("scoring filters", len(found), len(groups))
    return {group.name: found[group.name] for group in groups}


def score_shards(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    shards: Sequence[Batches],
    info: CriterionInfo,
    *,
    tap: Tap | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Importance]:
    """Score from images that lie in several parts: each part is read by criteria of its own, which are then merged.

    What each of several processes would do with its part of the images, in one process. The result is that of ``score``
    over all parts one after the other.

    Args:
        model: The network; left as it is.
        groups: What to score.
        shards: The parts, at least one, each as ``batches`` of ``score``.
        info: Which criterion; one that sees feature maps.
        tap: Where the maps are read; by default where the criterion says.
        seed: For criteria that draw.
        options: Options of the criterion, by name.
        device: Where the batches are moved; by default to the network's.

    Raises:
        InputError: There are no parts, the criterion sees the network, or as for ``score``.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.criteria.base import find
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net, images = infoprune.zoo.build("digits").eval(), torch.rand(16, 1, 8, 8)
        >>> groups = find_groups(net, images).groups[:1]
        >>> parts = score_shards(net, groups, [[images[:8]], [images[8:]]], find("variance"))
        >>> whole = score(net, groups, [images], find("variance"))
        >>> parts["features.0"].order == whole["features.0"].order
        True
    """
    if not shards or info.score_network is not None:
        raise InputError(
            f"the criterion '{info.name}' is merged from the feature maps of one part of the images or more"
        )
    if info.by_layer:
        layers = _by_layer(groups)
        apart = [part for some in layers.values() for part in some]
        plain = replace(info, by_layer=False)
        return _joined(
            layers, score_shards(model, apart, shards, plain, tap=tap, seed=seed, options=options, device=device)
        )
    parts = []
    for shard in shards:
        states = create_states(model, groups, info, seed=seed, options=options)
        if info.needs_maps and groups:
            _Reading(model, FirstImages(shard), info, tap or info.tap, device).feed(states, groups)
        parts.append(states)
    merged = merge_states(*parts)
    return {group.name: _importance(merged[group.name], group) for group in groups}


def create_states(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    info: CriterionInfo,
    *,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> States:
    """Return by group a criterion that has seen nothing yet.

    Raises:
        InputError: The criterion refuses a group or an option.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.criteria.base import find
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = infoprune.zoo.build("digits").eval()
        >>> states = create_states(net, find_groups(net, torch.rand(2, 1, 8, 8)).groups, find("variance"))
        >>> type(states["features.0"]).__name__
        'Variance'
    """
    return {group.name: create(info, filters_of(model, group), seed=seed, options=options) for group in groups}


def merge_states(first: States, *others: States) -> States:
    """Return by group one criterion that has seen what all of them have, in their order.

    Args:
        first: Taken as the result: these criteria change.
        others: Of the same groups; left as they are, but for what their criteria hand over.

    Example:
        >>> import torch
        >>> from infoprune.criteria.base import Filters, create, find
        >>> states = [{"conv1": create(find("variance"), Filters((torch.rand(2, 1),)))} for _ in range(2)]
        >>> for state in states:
        ...     state["conv1"].update(torch.rand(4, 2, 3, 3), torch.zeros(4).long())
        >>> merge_states(*states)["conv1"].compute().scores.shape
        torch.Size([2])
    """
    for states in others:
        for name, criterion in first.items():
            criterion.merge(states[name])
    return first


def filters_of(model: nn.Module, group: CoupledGroup) -> Filters:
    """Return the weights of a coupled group, one row per filter of the group.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = infoprune.zoo.build("digits").eval()
        >>> filters_of(net, find_groups(net, torch.rand(2, 1, 8, 8)).by_name()["features.3"]).weights[0].shape
        torch.Size([32, 144])
    """
    return Filters(*weights_of(model, group), group.name, shapes_of(model, group))


def _by_layer(groups: Sequence[CoupledGroup]) -> dict[str, list[CoupledGroup]]:
    """Return by group one group for each of its layers, all of other names."""
    taken: set[str] = set()
    found: dict[str, list[CoupledGroup]] = {}
    for group in groups:
        parts = []
        for layer in group.producers:
            name = layer if layer not in taken else f"{layer} in {group.name}"
            taken.add(name)
            norms = group.norms if len(group.producers) == 1 else ()
            parts.append(replace(group, name=name, producers=(layer,), norms=norms))
        found[group.name] = parts
    return found


def _joined(parts: Mapping[str, Sequence[CoupledGroup]], each: Mapping[str, Importance]) -> dict[str, Importance]:
    """Return by group the mean over its layers of scores relative to the mean modulus of their layer.

    Units and sizes differ between layers. Filters that are dead in every layer have the least score in each, so they
    have it in the mean.
    """
    found: dict[str, Importance] = {}
    for name, layers in parts.items():
        answers = [each[layer.name] for layer in layers]
        if len(answers) == 1:
            found[name] = answers[0]
            continue
        sizes = [float(one.scores.abs().mean()) or 1.0 for one in answers]
        scores = torch.stack([one.scores / size for one, size in zip(answers, sizes, strict=True)]).mean(dim=0)
        out_by = torch.stack([one.out_by / size for one, size in zip(answers, sizes, strict=True)]).mean(dim=0)
        found[name] = Importance(scores, rounding=out_by + default_bound(scores))
    return found


@dataclass(frozen=True)
class _PassProgress:
    """How far one of several passes over the images is."""

    progress: Progress
    number: int = 0
    passes: int = 1

    def __call__(self, done: int, batches: int) -> None:
        done += self.number * batches
        self.progress("reading feature maps", done, max(self.passes * batches, done))


@dataclass(frozen=True)
class _Reading:
    model: nn.Module
    images: FirstImages
    info: CriterionInfo
    tap: Tap
    device: torch.device | str | None

    def feed(
        self, states: States, groups: Sequence[CoupledGroup], progress: _PassProgress = _PassProgress(silent)
    ) -> None:
        """Update the criteria of some groups in one pass, until all of them have seen enough."""

        def consume(name: str, maps: Tensor, labels: Tensor | None) -> None:
            if labels is None and self.info.needs_labels:
                raise InputError(f"the criterion '{self.info.name}' needs labels: give (images, labels) pairs")
            if labels is None:
                labels = torch.full((len(maps),), -1, device=maps.device)
            if not _has_settled(states[name]):
                states[name].update(maps, labels)

        def until_settled() -> Iterator[Batch]:
            batches = self.images.number_of_batches()
            for done, batch in enumerate(self.images, 1):
                yield batch
                progress(done, batches)
                if all(_has_settled(states[group.name]) for group in groups):
                    return

        labelled = self.info.needs_labels
        capture_groups(self.model, until_settled(), groups, self.tap, consume, device=self.device, labelled=labelled)


def _has_settled(criterion: Criterion) -> bool:
    return bool(getattr(criterion, "settled", False))


def _importance(criterion: Criterion, group: CoupledGroup) -> Importance:
    importance = criterion.compute()
    if importance.scores.shape != (group.filters,):
        raise InputError(
            f"layer '{group.name}' has {group.filters} filters, but the criterion gave scores of shape "
            f"{tuple(importance.scores.shape)}"
        )
    return importance


def _passes(reading: _Reading, groups: Sequence[CoupledGroup], memory: int) -> list[list[CoupledGroup]]:
    """Pack the groups, in their order, into passes whose maps fit into memory."""
    if not is_repeatable(reading.images.batches):
        name = reading.info.name
        raise InputError(
            f"the criterion '{name}' reads the images several times: give a DataLoader or a list of batches"
        )
    sizes = bytes_per_image(reading.model, reading.images.batches, groups, reading.tap, device=reading.device)
    images = min(reading.images.most_images(), reading.info.held_images or sys.maxsize)
    return in_passes(groups, lambda group: images * sizes[group.name], memory)
