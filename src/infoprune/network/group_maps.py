"""Feature maps and weights of coupled groups, one row per filter: those of several layers lie side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from infoprune.data.batches import Batches, FirstImages
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.network.feature_maps import Tap, capture

Channels = tuple[tuple[int, ...], ...]
GroupConsumer = Callable[[str, Tensor, "Tensor | None"], None]


def capture_groups(
    model: nn.Module,
    batches: Batches,
    groups: Sequence[CoupledGroup],
    tap: Tap,
    consume: GroupConsumer,
    *,
    device: torch.device | str | None = None,
    labelled: bool = True,
) -> int:
    """Run the network over the batches and hand the feature maps of coupled groups to a consumer, batch by batch.

    Args:
        model: The network; it is not changed.
        batches: Images, with or without labels.
        groups: The groups whose maps are read.
        tap: Where the maps are read, as in ``capture``.
        consume: Called as ``consume(group, maps, labels)`` once per group and batch. ``maps`` are those of the group's
            only layer, ``(n, C, H, W)``, or those of several side by side, ``(n, C, 1, D)``, in the order of the
            group's filters; ``labels`` are ``(n,)``, ``None`` where the batches have none.
        device: Where the batches are moved; by default to the network's.
        labelled: Whether labels are read, as in ``capture``.

    Returns:
        The number of images.

    Raises:
        InputError: As for ``capture``.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> from infoprune.network.coupled_groups import find_groups
        >>> model, images = zoo.build("digits"), torch.zeros(3, 1, 8, 8)
        >>> groups = find_groups(model, images).groups[:1]
        >>> capture_groups(model, [images], groups, "norm", lambda group, maps, labels: print(group, tuple(maps.shape)))
        features.0 (3, 16, 8, 8)
        3
    """
    readers: dict[str, list[CoupledGroup]] = {}
    for group in groups:
        for layer in group.producers:
            readers.setdefault(layer, []).append(group)
    arrived: dict[str, dict[str, Tensor]] = {group.name: {} for group in groups}

    def take(layer: str, maps: Tensor, labels: Tensor | None) -> None:
        for group in readers[layer]:
            parts = arrived[group.name]
            parts[layer] = maps
            if len(parts) == len(group.producers):
                arrived[group.name] = {}
                consume(group.name, _side_by_side(group, [parts[layer] for layer in group.producers]), labels)

    return capture(model, batches, list(readers), tap, take, device=device, labelled=labelled)


def collect_maps(
    model: nn.Module,
    batches: Batches,
    groups: Sequence[CoupledGroup],
    tap: Tap = "activation",
    *,
    device: torch.device | str | None = None,
    labelled: bool = True,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Return the feature maps of coupled groups over all images, and the labels of these images.

    Args:
        model: The network; it is not changed.
        batches: Images, with or without labels.
        groups: The groups whose maps are read.
        tap: Where the maps are read, as in ``capture``.
        device: Where the batches are moved; by default to the network's.
        labelled: Whether labels are read, as in ``capture``.

    Returns:
        By group ``(n, C, H, W)``, or ``(n, C, 1, D)`` for a group of several layers; and ``(n,)`` class indices,
        ``None`` where the batches have none.

    Raises:
        InputError: As for ``capture``.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> from infoprune.network.coupled_groups import find_groups
        >>> model, images = zoo.build("digits"), torch.zeros(3, 1, 8, 8)
        >>> groups = find_groups(model, images).groups[:1]
        >>> maps, labels = collect_maps(model, [images], groups)
        >>> {name: tuple(found.shape) for name, found in maps.items()}, labels
        ({'features.0': (3, 16, 8, 8)}, None)
    """
    found: dict[str, list[Tensor]] = {group.name: [] for group in groups}
    labels: list[Tensor] = []
    first = groups[0].name if groups else ""

    def keep(name: str, maps: Tensor, classes: Tensor | None) -> None:
        found[name].append(maps)
        if name == first and classes is not None:
            labels.append(classes)

    capture_groups(model, batches, groups, tap, keep, device=device, labelled=labelled)
    # Parts are freed group by group, so that at most one group is in memory twice.
    maps = {name: torch.cat(found.pop(name)) for name in list(found)}
    return maps, torch.cat(labels) if labels else None


def bytes_of_maps(filters: int, values: int, size: int) -> int:
    """Return the bytes of one image's maps, from their number, the values of each and the bytes of a value.

    Example:
        >>> bytes_of_maps(filters=16, values=64, size=4)
        4096
    """
    return filters * values * size


def bytes_per_image(
    model: nn.Module,
    batches: Batches,
    groups: Sequence[CoupledGroup],
    tap: Tap,
    *,
    of: Callable[[int, int, int], int] = bytes_of_maps,
    device: torch.device | str | None = None,
) -> dict[str, int]:
    """Return the bytes of one image's maps by group, from a forward pass of the first two images.

    Args:
        model: The network; left as it is.
        batches: Images.
        groups: Whose maps.
        tap: Where they are read.
        of: From the number of filters, the values of one map and the bytes of a value to the bytes of an image.
        device: Where the batches are moved; by default to the network's.

    Raises:
        InputError: As for ``capture``.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> from infoprune.network.coupled_groups import find_groups
        >>> model, images = zoo.build("digits"), torch.zeros(3, 1, 8, 8)
        >>> groups = find_groups(model, images).groups[:1]
        >>> bytes_per_image(model, [images], groups, "norm")
        {'features.0': 4096}
    """
    maps, _ = collect_maps(model, FirstImages(batches, 2), groups, tap, device=device, labelled=False)
    return {name: of(found.shape[1], found[0, 0].numel(), found.element_size()) for name, found in maps.items()}


def weights_of(model: nn.Module, group: CoupledGroup) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the weights of a coupled group, one row per filter.

    Returns:
        One ``(C, ...)`` tensor per convolution or linear layer of the group, and one ``(C,)`` tensor of absolute scales
        per batch norm that has scales.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> from infoprune.network.coupled_groups import find_groups
        >>> model, images = zoo.build("digits"), torch.zeros(3, 1, 8, 8)
        >>> groups = find_groups(model, images).groups[:1]
        >>> weights, scales = weights_of(model, groups[0])
        >>> [tuple(one.shape) for one in weights], [tuple(one.shape) for one in scales]
        ([(16, 9)], [(16,)])
    """
    weights = [
        weight_rows(module, cast(Tensor, module.weight).detach(), group, layer).flatten(1)
        for layer in group.producers
        for module in [model.get_submodule(layer)]
    ]
    scales = [
        _rows(scale.detach(), _channels(group, norm)).abs().sum(dim=1)
        for norm in group.norms
        if isinstance(scale := getattr(model.get_submodule(norm), "weight", None), Tensor)
    ]
    return tuple(weights), tuple(scales)


def shapes_of(model: nn.Module, group: CoupledGroup) -> tuple[tuple[int, ...], ...]:
    """Return by layer of a coupled group the shape of one filter's weights, inputs first, such as ``(16, 3, 3)``.

    Example:
        >>> import torch
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(8, 2))
        >>> shapes_of(net, find_groups(net, torch.rand(2, 1, 4, 4)).by_name()["0"])
        ((1, 3, 3),)
    """
    rows = [
        weight_rows(module, cast(Tensor, module.weight).detach(), group, layer)
        for layer in group.producers
        for module in [model.get_submodule(layer)]
    ]
    # The channels of one filter lie side by side with its inputs.
    return tuple(tuple(row.flatten(1, 2).shape[1:]) for row in rows)


def weight_rows(module: nn.Module, values: Tensor, group: CoupledGroup, layer: str) -> Tensor:
    """Return ``(C, k, ...)``: the rows of ``values``, of the shape of a layer's weight, of each filter of a group.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> from infoprune.network.coupled_groups import find_groups
        >>> model, images = zoo.build("digits"), torch.zeros(3, 1, 8, 8)
        >>> groups = find_groups(model, images).groups[:1]
        >>> layer = model.features[0]
        >>> tuple(weight_rows(layer, layer.weight, groups[0], "features.0").shape)
        (16, 1, 1, 3, 3)
    """
    return _rows(_by_output(module, values), _channels(group, layer))


def _side_by_side(group: CoupledGroup, parts: Sequence[Tensor]) -> Tensor:
    rows = [_gathered(maps, _channels(group, layer)) for layer, maps in zip(group.producers, parts, strict=True)]
    return rows[0] if len(rows) == 1 else torch.cat([maps.flatten(2) for maps in rows], dim=2).unsqueeze(2)


def _gathered(maps: Tensor, channels: Channels | None) -> Tensor:
    """Return ``(n, C, ...)`` maps in the order of the group's filters, those of one filter side by side."""
    if channels is None or _is_whole(maps.shape[1], channels):
        return maps
    if all(len(some) == 1 for some in channels):
        return maps[:, [some[0] for some in channels]]
    rows = _rows(maps.flatten(2).movedim(1, 0), channels)
    return rows.permute(2, 0, 1, 3).flatten(2).unsqueeze(2)


def _rows(tensor: Tensor, channels: Channels | None) -> Tensor:
    """Return ``(C, k, ...)``: the rows of a tensor that belong to each filter, zeros where a filter has fewer."""
    if channels is None or _is_whole(len(tensor), channels):
        return tensor.unsqueeze(1)
    width = max(1, *(len(some) for some in channels))
    padded = torch.cat([tensor, torch.zeros_like(tensor[:1])])
    index = [[*some, *[len(tensor)] * (width - len(some))] for some in channels]
    return padded[torch.tensor(index, device=tensor.device)]


def _channels(group: CoupledGroup, layer: str) -> Channels | None:
    """Return which outputs of the layer go with each filter, ``None`` where the layer has no such member."""
    return next((one.channels for one in group.members if one.layer == layer and one.side == "out"), None)


def _is_whole(outputs: int, channels: Channels) -> bool:
    """Return whether filter i is output i, and there are no other outputs, such as those of another group."""
    return channels == tuple((i,) for i in range(outputs))


def _by_output(layer: Any, weight: Tensor) -> Tensor:
    """Return values of the shape of a layer's weight with one row per output channel."""
    if not getattr(layer, "transposed", False):
        return weight
    # (in, out / groups, ...): every group of inputs has outputs of its own.
    per_group = weight.reshape(layer.groups, -1, *weight.shape[1:]).transpose(1, 2)
    return per_group.flatten(0, 1)
