"""Which filters can be removed, and which channels are removed with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from infoprune.errors import InputError
from infoprune.network import equivalence
from infoprune.network.channel_tracing import Channels, Obstacle, follow
from infoprune.network.computed_weights import Computed, computed_layers, is_masked, put_plain
from infoprune.network.equivalence import outside_inference_mode
from infoprune.network.layers import is_per_channel, is_producer
from infoprune.network.removal import Place, Removal
from infoprune.network.stored_values import Stored

Examples = Tensor | Sequence[Tensor]
"""A batch of inputs, or one of each shape that the network reads."""


@dataclass(frozen=True)
class Member:
    """One side of one layer that changes with a group.

    Args:
        layer: Dotted name of the module.
        side: ``"out"`` where the layer loses outputs, ``"in"`` where it loses inputs. Layers that compute each channel
            from the same channel (norms, depthwise convolutions) are members once, by their outputs.
        channels: For each filter of the group's naming layer, the indices along that side that are removed with it.

    Example:
        >>> Member("classifier", "in", channels=((0, 1), (2, 3))).channels[1]
        (2, 3)
    """

    layer: str
    side: Literal["out", "in"]
    channels: tuple[tuple[int, ...], ...]

    def channels_of(self, filters: Iterable[int]) -> list[int]:
        """Return the channels of some filters, in increasing order, each once: filters of a unit can share channels."""
        return sorted({channel for filter_ in filters for channel in self.channels[filter_]})


@dataclass(frozen=True)
class StoredMember:
    """A value outside any layer that shrinks with a group: a parameter, a buffer, or a number that a module holds.

    Args:
        place: Where it is stored.
        channels: As for ``Member``.

    Example:
        >>> str(StoredMember(Stored("block", "scale", axis=0), channels=((0,), (1,))).place)
        'block.scale'
    """

    place: Stored
    channels: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class CoupledGroup:
    """Filters of one or several layers that can only be removed together.

    Args:
        name: Dotted name of the layer whose filter indices stand for the group.
        filters: Number of filters of that layer.
        units: The smallest sets of those filters that can be removed, by their lowest filter; single filters except
            under grouped convolutions (one at the same place of each group), group norms (a whole group of the norm),
            chunks and channel shuffles.
        members: Everything that changes, the naming layer first.
        producers: Convolution and linear layers that lose filters, the naming layer first.
        norms: Batch norms that follow the producers.
        stored: Values outside any layer that change.
        pointwise: Whether the naming layer is a linear layer that runs at every position of a map, as a convolution of
            size 1 does.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> group = find_groups(net, torch.zeros(1, 3, 8, 8)).groups[0]
        >>> group.name, group.norms, group.removal([5])
        ('0', ('1',), {('0', 'out'): {5}, ('1', 'out'): {5}, ('3', 'in'): {5}})
    """

    name: str
    filters: int
    units: tuple[tuple[int, ...], ...]
    members: tuple[Member, ...]
    producers: tuple[str, ...]
    norms: tuple[str, ...] = ()
    stored: tuple[StoredMember, ...] = ()
    pointwise: bool = False

    @cached_property
    def parts(self) -> tuple[tuple[int, ...], ...]:
        """Sets of filters of which at least one is kept, so that every member keeps a channel.

        A member that only some of the filters belong to, such as one branch of a concatenation, is such a set. Sets
        that contain another one are left out, and so is the set of all filters.
        """
        whole = frozenset(range(self.filters))
        shares = [member.channels for member in self.members] + [member.channels for member in self.stored]
        found = {frozenset(f for f in whole if channels[f]) for channels in shares}
        found -= {whole, frozenset()}
        least = [part for part in found if not any(other < part for other in found)]
        return tuple(sorted(tuple(sorted(part)) for part in least))

    def removal(self, filters: Iterable[int]) -> dict[Place, set[int]]:
        """Return the removed channels, by layer and side, for removed filters of the naming layer."""
        gone = sorted(set(filters))
        layers: dict[Place, set[int]] = {(m.layer, m.side): set(m.channels_of(gone)) for m in self.members}
        return layers | {(m.place, "stored"): {i for f in gone for i in m.channels[f]} for m in self.stored}


@dataclass(frozen=True)
class Groups:
    """The filters that can be removed from a network, and why others cannot.

    Args:
        groups: In the order of their naming layers in the network.
        left_alone: Convolution and linear layers whose filters cannot be removed, each with the reason, as the end of a
            sentence that begins with the layer: "shares its weight with 'x'".
        computed: Layers that compute their weight in every forward pass, and how. Where one of them is cut it becomes
            a plain layer with the weight that it computes in eval mode.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> find_groups(net, torch.zeros(1, 3, 8, 8)).removal({"0": [1, 5]})
        {('0', 'out'): [1, 5], ('2', 'in'): [1, 5]}
    """

    groups: tuple[CoupledGroup, ...]
    left_alone: Mapping[str, str]
    computed: Mapping[str, str] = field(default_factory=dict)

    def by_name(self) -> dict[str, CoupledGroup]:
        """Return the groups by the layer that names them."""
        return {group.name: group for group in self.groups}

    def removal(self, removed: Mapping[str, Iterable[int]]) -> Removal:
        """Return the removed channels, by layer and side, for removed filters of each naming layer."""
        gone: dict[Place, set[int]] = {}
        groups = self.by_name()
        for name, filters in removed.items():
            for place, channels in groups[name].removal(filters).items():
                gone.setdefault(place, set()).update(channels)
        return {place: sorted(channels) for place, channels in gone.items()}


def in_passes(
    groups: Sequence[CoupledGroup], needed: Callable[[CoupledGroup], int], memory: int
) -> list[list[CoupledGroup]]:
    """Divide groups, in their order, into passes over the images that fit into memory.

    Args:
        groups: The groups to divide.
        needed: Bytes that a group needs during its pass.
        memory: Available bytes; a group that needs more has a pass of its own.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 4), nn.Linear(4, 2), nn.Linear(2, 1))
        >>> groups = find_groups(net, torch.zeros(1, 3)).groups
        >>> [[group.name for group in some] for some in in_passes(groups, lambda group: group.filters, memory=10)]
        [['0'], ['1', '2']]
    """
    passes: list[list[CoupledGroup]] = []
    free = 0
    for group in groups:
        if not passes or needed(group) > free:
            passes.append([])
            free = memory
        passes[-1].append(group)
        free -= needed(group)
    return passes


@outside_inference_mode
def find_groups(model: nn.Module, example: Examples, *, check: bool = True) -> Groups:
    """Find every coupled group of a network, by following its channels through a forward pass in eval mode.

    The network is not changed: all work is done on copies.

    Args:
        model: Any network that takes one tensor.
        example: ``(n, ...)`` one batch of its inputs, on any device, or several batches, one of each shape that the
            network reads; the values do not matter.
        check: Cut random filters from a copy with randomised norms, and leave out every group whose cut network
            differs from the network with those channels at zero.

    Raises:
        InputError: The network does not run on the example, cannot be copied, or returns no tensor.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> found = find_groups(net, torch.zeros(1, 3, 8, 8))
        >>> [(group.name, group.filters) for group in found.groups], dict(found.left_alone)
        ([('0', 8)], {'2': "its outputs are the network's outputs"})
    """
    traced = equivalence.copied(model)
    examples = [equivalence.placed(one, traced)[:2] for one in equivalence.batches_of(example)]
    equivalence.check_hooks(model, traced, examples[0])
    with equivalence.exactly(examples[0].device), _forward_of(model) as ran:
        try:
            computed = computed_layers(traced, examples[0])
            put_plain(traced, computed, list(computed))
            channels = follow(traced, examples)
        except InputError:
            raise
        except Exception as error:
            shape, reason = tuple(examples[0].shape), equivalence.one_line(error)
            raise InputError(f"the network does not run on an example of shape {shape}: {reason}") from error
    if ran:
        raise InputError(
            f"the network's forward runs layer '{ran[0]}' of the original where a copy is called (a closure, or a "
            "method stored on it), so that no copy can be cut: define forward in the class, with self"
        )
    # Searched in the network itself, since a copy does not share memory between different parameters.
    _add_obstacles(model, channels, computed)
    producers = [name for name, module in traced.named_modules() if is_producer(module)]
    groups = _assemble(traced, channels, [name for name in producers if name in channels.outputs])
    refused: dict[str, str] = {}
    if check:
        groups, refused = _checked(model, examples, groups, channels)
    removable = {layer for group in groups for layer in group.producers}
    left_alone = {name: refused.get(name) or _reason(name, channels) for name in producers if name not in removable}
    return Groups(tuple(groups), left_alone, {name: one.how for name, one in computed.items()})


@contextmanager
def _forward_of(model: nn.Module) -> Iterator[list[str]]:
    """Yield the layers of the network that run while only a copy is called: then the copy refers to the network."""
    ran: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: ran.append(name)

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if is_producer(module):
                hooks.callback(module.register_forward_pre_hook(note(name)).remove)
        yield ran


def _add_obstacles(model: nn.Module, channels: Channels, computed: Mapping[str, Computed]) -> None:
    owners: dict[tuple[int, torch.Size], str] = {}
    for name, module in model.named_modules():
        if not (is_producer(module) or is_per_channel(module)) or name not in channels.outputs:
            continue
        reason = "" if "weight" in module._parameters or name in computed else "has a computed weight"
        if is_masked(module):
            reason = "has a mask of torch.nn.utils.prune: call torch.nn.utils.prune.remove(layer, 'weight') first"
        for parameter in (p for p in module._parameters.values() if p is not None):
            # Views of the same values count as shared; without values, at address 0, only the parameter itself does.
            owner = owners.setdefault((parameter.data_ptr() or id(parameter), parameter.shape), name)
            if owner != name and not reason:
                reason = f"shares its weight with '{owner}'"
                _obstruct(channels, owner, f"shares its weight with '{name}'")
        if reason:
            _obstruct(channels, name, reason)


def _obstruct(channels: Channels, layer: str, reason: str) -> None:
    for classes in (channels.outputs.get(layer), channels.inputs.get(layer)):
        for unit in np.unique(channels.units[classes]).tolist() if classes is not None else ():
            channels.obstacles.setdefault(unit, Obstacle(reason, layer))


def _assemble(model: nn.Module, channels: Channels, producers: Sequence[str]) -> list[CoupledGroup]:
    """Return disjoint groups; of layers that share channels, the first that has all of them names the group."""
    chosen: dict[str, set[int]] = {}
    for name in producers:
        units = set(channels.units[channels.outputs[name]].tolist())
        if len(units) < 2 or any(unit in channels.obstacles for unit in units):
            continue
        overlapping = {other for other, theirs in chosen.items() if theirs & units}
        if all(chosen[other] < units for other in overlapping):
            chosen = {other: theirs for other, theirs in chosen.items() if other not in overlapping}
            chosen[name] = units
    places = _places(model, channels)
    named = [name for name in producers if name in chosen]
    group_of = np.full(len(channels.units) + 1, -1)
    for number, name in enumerate(named):
        group_of[list(chosen[name])] = number
    parts: list[list[Part]] = [[] for _ in named]
    for place, labels in places:
        groups = group_of[channels.units[labels]]
        for number in np.unique(groups[groups >= 0]).tolist():
            indices = np.flatnonzero(groups == number)
            parts[number].append((place, indices, labels[indices]))
    return [_group(name, channels, some, producers) for name, some in zip(named, parts, strict=True)]


Part = tuple[Place, np.ndarray, np.ndarray]
"""A place, the channels there that belong to a group, and the class of each."""


def _places(model: nn.Module, channels: Channels) -> list[tuple[Place, np.ndarray]]:
    """Return every place, in the order of the layers, with the class of each channel there."""
    found: list[tuple[Place, np.ndarray]] = []
    for layer, _ in model.named_modules():
        if layer in channels.outputs:
            found.append(((layer, "out"), channels.outputs[layer]))
        if layer in channels.inputs:
            found.append(((layer, "in"), channels.inputs[layer]))
    return [*found, *(((stored, "stored"), labels) for stored, labels in channels.stored.items())]


def _group(name: str, channels: Channels, parts: Sequence[Part], producers: Sequence[str]) -> CoupledGroup:
    labels = channels.outputs[name]
    units: dict[int, list[int]] = {}
    for index, unit in enumerate(channels.units[labels].tolist()):
        units.setdefault(unit, []).append(index)
    own: Place = (name, "out")
    identity = tuple((index,) for index in range(len(labels)))
    rows: dict[Place, tuple[tuple[int, ...], ...]] = {own: identity}
    for place, indices, found in _in_order_of_filters(parts, list(units), channels.units):
        if place == own:
            continue
        # The usual case: channel i belongs to filter i.
        same = np.array_equal(found, labels) and np.array_equal(indices, np.arange(len(labels)))
        rows[place] = identity if same and len(units) == len(labels) else _by_filter(
            indices.tolist(), found.tolist(), labels.tolist(), units, channels.units
        )  # fmt: skip
    makers = [layer for layer in producers if (layer, "out") in rows and layer != name]
    followed = {norm for norm, maker in channels.followed if maker in (name, *makers)}
    members, stored = [], []
    for (where, side), of_filter in rows.items():
        if isinstance(where, Stored):
            stored.append(StoredMember(where, of_filter))
        elif side != "stored":
            members.append(Member(where, side, of_filter))
    return CoupledGroup(
        name=name,
        filters=len(labels),
        units=tuple(tuple(unit) for unit in units.values()),
        members=tuple(members),
        producers=(name, *makers),
        norms=tuple(member.layer for member in members if member.side == "out" and member.layer in followed),
        stored=tuple(stored),
        pointwise=name in channels.pointwise,
    )


def _in_order_of_filters(parts: Sequence[Part], units: Sequence[int], unit_of: np.ndarray) -> list[Part]:
    """Return places by the first filter that has a channel there; those with the same first filter keep their order."""
    position = {unit: place for place, unit in enumerate(units)}
    first = [min(position[unit] for unit in np.unique(unit_of[found]).tolist()) for _, _, found in parts]
    return [parts[number] for number in sorted(range(len(parts)), key=first.__getitem__)]


def _by_filter(
    indices: Sequence[int],
    found: Sequence[int],
    labels: Sequence[int],
    units: Mapping[int, Sequence[int]],
    unit_of: np.ndarray,
) -> tuple[tuple[int, ...], ...]:
    """Return, for each filter, the channels of a place that are removed with it."""
    alike: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        alike.setdefault(label, []).append(index)
    rows: list[list[int]] = [[] for _ in labels]
    for channel, label in zip(indices, found, strict=True):
        # A channel of the unit that is the same as none of its filters is removed with the first one.
        for index in alike.get(label) or units[int(unit_of[label])][:1]:
            rows[index].append(channel)
    return tuple(map(tuple, rows))


def _checked(
    model: nn.Module, examples: Sequence[Tensor], groups: list[CoupledGroup], channels: Channels
) -> tuple[list[CoupledGroup], dict[str, str]]:
    """Return the groups whose cut is correct, alone and together, and by layer why others are not.

    All groups are cut at once. If this fails, halves are tried, each together with all groups found correct so far,
    until every wrong group is found.
    """
    test = equivalence.Trial(model, examples, trains=bool(channels.training_only))
    right: list[CoupledGroup] = []
    refused: dict[str, str] = {}
    waiting = [groups] if groups else []
    while waiting:
        some = waiting.pop()
        problem = test.problem(*_draws([*right, *some]), quickly=some is not groups)
        if not problem:
            right += some
        elif len(some) > 1:
            waiting += [some[len(some) // 2 :], some[: len(some) // 2]]
        else:
            problem = test.randomness() or problem + _on_the_way(some[0], channels)
            refused |= dict.fromkeys(some[0].producers, problem)
    return sorted(right, key=groups.index), refused


def _draws(groups: Sequence[CoupledGroup]) -> Iterator[Removal]:
    """Remove one unit of each group, then about half of them, at random; each part of a group keeps a filter."""
    random = np.random.default_rng(0)
    for share in (0.0, 0.5):
        removed = {}
        for group in groups:
            count = min(max(1, round(share * len(group.units))), len(group.units) - 1)
            gone: set[int] = set()
            for unit in random.permutation(len(group.units)):
                more = gone | set(group.units[unit])
                if not any(set(part) <= more for part in group.parts):
                    gone, count = more, count - 1
                if not count:
                    break
            removed[group.name] = sorted(gone)
        yield Groups(tuple(groups), {}).removal(removed)


def _on_the_way(group: CoupledGroup, channels: Channels) -> str:
    units = np.unique(channels.units[channels.outputs[group.name]]).tolist()
    operations = dict.fromkeys(operation for unit in units for operation in channels.passed.get(unit, ()))
    return f" (on the way: {', '.join(operations)})" if operations else ""


def _reason(layer: str, channels: Channels) -> str:
    if layer not in channels.outputs:
        return "takes no part in the forward pass"
    labels = channels.outputs[layer]
    units = np.unique(channels.units[labels]).tolist()
    for unit in units:
        if unit in channels.obstacles:
            return channels.obstacles[unit].seen_from(layer)
    if len(labels) == 1:
        return "has a single filter"
    if len(units) == 1:
        return "has filters that can only be removed all together"
    return "shares only some of its filters with other layers, in a way that cannot be cut"
