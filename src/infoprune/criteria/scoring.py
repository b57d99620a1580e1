"""A criterion's answer for every coupled group of a network: where feature maps meet criteria."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from infoprune.criteria.base import Criterion, CriterionInfo, Filters, Importance, Tap, create
from infoprune.criteria.feeding import PassProgress, Reading, SharedReading, States
from infoprune.data.batches import Batches, FirstImages, is_repeatable
from infoprune.entropy.ties import default_bound
from infoprune.errors import InputError
from infoprune.network.coupled_groups import CoupledGroup, in_passes
from infoprune.network.group_maps import bytes_of_maps, bytes_per_image, shapes_of, weights_of
from infoprune.progress import Progress, silent
from infoprune.runs.together import current

# Time to compare two filters as bytes of maps that are read in that time: ResNet-56, cmi, hrel and qsfm, 256 images.
_PAIR_BYTES = 8


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

    def fresh(some: Sequence[CoupledGroup]) -> States:
        return create_states(model, some, info, seed=seed, options=options)

    reading = Reading(model, read, info, tap or info.tap, device) if info.needs_maps else None
    passes, sizes = [list(groups)], dict.fromkeys([group.name for group in groups], 0)
    if reading is not None and groups and info.holds_maps:
        sizes = _sizes(reading, groups, options or {})
        images = min(reading.images.most_images(), info.held_images or sys.maxsize)
        passes = in_passes(groups, lambda group: images * sizes[group.name], memory * current().world)
    # What scoring takes, about: maps are compared with one another, then filters in pairs.
    loads = {group.name: sizes[group.name] + _PAIR_BYTES * float(group.filters**2) for group in groups}
    states, found = fresh(groups), dict[str, Importance]()
    for number, some in enumerate(passes):
        shown = PassProgress(progress, number, len(passes))
        own: dict[str, Importance] = {}
        for group, criterion in _fed(reading, some, states, fresh, loads, shown):
            own[group.name] = _importance(criterion, group)
            progress("scoring filters", len(found) + len(own), len(groups))
        for part in current().exchanged(own):
            found |= part
    return {group.name: found[group.name] for group in groups}


def _fed(
    reading: Reading | None,
    groups: Sequence[CoupledGroup],
    states: States,
    fresh: Callable[[Sequence[CoupledGroup]], States],
    loads: Mapping[str, float],
    progress: PassProgress,
) -> Iterator[tuple[CoupledGroup, Criterion]]:
    """Yield the groups of one pass that this process scores, with their criteria, which have seen all images."""
    processes = current()
    owners = processes.owners({group.name: loads[group.name] for group in groups})
    if reading is not None and groups and processes.several:
        blank = {} if reading.info.holds_maps else fresh(groups)
        SharedReading(reading, processes, groups, owners, states, blank).feed(progress)
    elif reading is not None and groups:
        reading.feed(states, groups, progress)
    for group in groups:
        criterion = states.pop(group.name)
        if owners[group.name] == processes.rank:
            yield group, criterion


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
            Reading(model, FirstImages(shard), info, tap or info.tap, device).feed(states, groups)
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


def _importance(criterion: Criterion, group: CoupledGroup) -> Importance:
    importance = criterion.compute()
    if importance.scores.shape != (group.filters,):
        raise InputError(
            f"layer '{group.name}' has {group.filters} filters, but the criterion gave scores of shape "
            f"{tuple(importance.scores.shape)}"
        )
    return importance


def _sizes(reading: Reading, groups: Sequence[CoupledGroup], options: Mapping[str, Any]) -> dict[str, int]:
    """Return by group the bytes that are held of one image."""
    if not is_repeatable(reading.images.batches):
        name = reading.info.name
        raise InputError(
            f"the criterion '{name}' reads the images several times: give a DataLoader or a list of batches"
        )
    held = reading.info.held_bytes
    of = bytes_of_maps if held is None else lambda filters, values, size: held(filters, values, size, options)
    return bytes_per_image(reading.model, reading.images.batches, groups, reading.tap, of=of, device=reading.device)
