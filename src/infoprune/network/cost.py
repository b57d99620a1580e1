"""The cost of a network: multiply-adds and parameters, counted and predicted, and measured latency."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils.benchmark import Measurement, Timer

from infoprune.errors import InputError, unknown
from infoprune.network import equivalence
from infoprune.network.coupled_groups import CoupledGroup, Groups, Member, StoredMember
from infoprune.network.layers import is_depthwise, is_per_channel, is_producer, width
from infoprune.network.modes import eval_mode
from infoprune.network.stored_values import Stored


@dataclass(frozen=True)
class Cost:
    """The cost of one image.

    Args:
        macs: Multiply-adds of all convolution and linear layers in one forward pass of one image, once
            per call; additions of biases, norms, activations and poolings are not counted, as in the literature.
        parameters: All parameters of the network, each once: weights, biases, norms' scales and shifts.

    Example:
        >>> Cost(macs=1000, parameters=10).macs
        1000
    """

    macs: int
    parameters: int


def count(model: nn.Module, example: Tensor) -> Cost:
    """Count multiply-adds and parameters by running one image of the example through a copy of the network.

    Only convolutions and linear layers that are modules are counted, not calls of functions.

    Raises:
        InputError: The network does not run on the example.

    Example:
        >>> count(nn.Conv2d(1, 4, 3), torch.zeros(1, 1, 8, 8))
        Cost(macs=1296, parameters=40)
    """
    return Cost(sum(layer.macs() for layer in _run(model, example).values()), _parameters(model))


def macs_by_layer(model: nn.Module, example: Tensor) -> dict[str, int]:
    """Return the multiply-adds of every convolution and linear layer for one image, in the order of the network.

    Raises:
        InputError: The network does not run on the example.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 2))
        >>> macs_by_layer(net, torch.zeros(1, 1, 8, 8))
        {'0': 1296, '2': 288}
    """
    return {name: layer.macs() for name, layer in _run(model, example).items()}


def output_values(model: nn.Module, example: Tensor) -> dict[str, int]:
    """Return how many values every convolution and linear layer gives for one image, over all its calls.

    Raises:
        InputError: The network does not run on the example.

    Example:
        >>> output_values(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), torch.zeros(1, 3, 5, 5))
        {'0': 100}
    """
    runner = equivalence.copied(model)
    values: dict[str, int] = {}

    def noting(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            values[name] = values.get(name, 0) + output.numel()

        return note

    for name, module in runner.named_modules():
        if is_producer(module):
            module.register_forward_hook(noting(name))
    one = equivalence.placed(example, runner)[:1]
    try:
        equivalence.outputs(runner, one)
    except Exception as error:
        reason = equivalence.one_line(error)
        raise InputError(f"the network does not run on an example of shape {tuple(one.shape)}: {reason}") from error
    return values


class CostModel:
    """The exact cost of any cut of one network, without cutting it.

    Args:
        model: The whole network; it is not changed, and not needed afterwards.
        example: ``(n, ...)`` one batch of inputs.
        groups: The coupled groups of the network.

    Attributes:
        base: The cost of the whole network.

    Example:
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net, images = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3)), torch.zeros(1, 1, 8, 8)
        >>> model = CostModel(net, images, find_groups(net, images))
        >>> model.base.macs, model.cost({"0": 2}).macs
        (2448, 1224)
    """

    def __init__(self, model: nn.Module, example: Tensor, groups: Groups) -> None:
        layers = _run(model, example)
        self.base = Cost(sum(layer.macs() for layer in layers.values()), _parameters(model))
        modules = dict(model.named_modules())
        names: dict[Any, None] = dict.fromkeys(member.layer for group in groups.groups for member in group.members)
        stored = {one.place: one.place.tensor_of(model) for group in groups.groups for one in group.stored}
        names |= dict.fromkeys(place for place, tensor in stored.items() if isinstance(tensor, nn.Parameter))
        # A producer that did not run belongs to train mode only.
        self._layers = [
            _values(stored[name], name.axis)
            if isinstance(name, Stored)
            else layers.get(name)
            or (_layer(modules[name], 0) if is_producer(modules[name]) else _other_layer(modules[name]))
            for name in names
        ]
        place = {name: index for index, name in enumerate(names)}
        self._groups = {group.name: _share(group, place) for group in groups.groups}
        # A cut replaces a layer with a computed weight by a plain layer without the parameters of the computation.
        self._more = [
            _parameters(modules[name]) - layer.parameters() if name in groups.computed else 0
            for name, layer in zip(names, self._layers, strict=True)
        ]

    def cost(self, kept: Mapping[str, int | Sequence[int]]) -> Cost:
        """Return the cost of the network with only these filters kept.

        Args:
            kept: By naming layer of a group, the kept indices or their number; groups that are not named keep all.
                Filters that can only be removed together count as removed when all of them are.

        Raises:
            InputError: There is no such group, or a number is passed for a group whose units differ in size, so that
                the number does not determine the cost.
        """
        lost: dict[int, list[int]] = {}
        for name, some in kept.items():
            if name not in self._groups:
                raise unknown("layer", name, self._groups)
            for index, side, channels in self._groups[name].lost(some):
                lost.setdefault(index, [0, 0])[side] += channels
        macs, parameters = self.base.macs, self.base.parameters
        for index, (outputs, inputs) in lost.items():
            layer = self._layers[index]
            macs += layer.macs(outputs, inputs) - layer.macs()
            parameters += layer.parameters(outputs, inputs) - layer.parameters()
            parameters -= self._more[index] if outputs or inputs else 0
        return Cost(macs, parameters)


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass.

    Args:
        milliseconds: Median.
        spread: Interquartile range, milliseconds; smaller differences are noise.

    Example:
        >>> Latency(milliseconds=2.5, spread=0.1).milliseconds
        2.5
    """

    milliseconds: float
    spread: float

    @classmethod
    def of(cls, *measured: Measurement) -> Latency:
        """Return the median and the spread over several measurements of one network."""
        (joined,) = Measurement.merge(measured)
        return cls(1000 * joined.median, 1000 * joined.iqr)


def latency(model: nn.Module, example: Tensor, *, seconds: float = 0.1, threads: int | None = 1) -> Measurement:
    """Measure the time of one forward pass of the example, by ``torch.utils.benchmark``.

    Args:
        model: The network; it runs in eval mode without gradients, and is not changed.
        example: ``(n, ...)`` one batch, moved to the device of the network.
        seconds: Measuring time after the warm-up; at least one pass is measured.
        threads: Threads on the CPU; ``None`` keeps the setting of PyTorch. The setting is restored afterwards.

    Raises:
        InputError: ``seconds`` is not above 0, or ``threads`` is below 1.

    Example:
        >>> found = Latency.of(latency(nn.Linear(4, 2), torch.zeros(1, 4), seconds=0.01))
        >>> found.milliseconds > 0
        True
    """
    if not seconds > 0 or (threads is not None and threads < 1):
        raise InputError("latency is measured for more than 0 seconds on at least one thread")
    names = {"model": model, "example": equivalence.placed(example, model)}
    timer = Timer("model(example)", globals=names, num_threads=threads or torch.get_num_threads())
    with _measuring(model), torch.inference_mode():
        return timer.blocked_autorange(min_run_time=seconds)


@dataclass(frozen=True)
class _Layer:
    """One layer's cost as a function of its widths: ``positions`` products with a weight of outputs x inputs x kernel.

    A layer that computes each channel from the same one has no inputs of its own: ``inputs`` is None.
    """

    outputs: int
    inputs: int | None = None
    kernel: int = 0
    positions: int = 0
    groups: int = 1
    per_output: int = 0

    def _weight(self, fewer_outputs: int, fewer_inputs: int) -> int:
        inputs = 1 if self.inputs is None else (self.inputs - fewer_inputs) // self.groups
        return (self.outputs - fewer_outputs) * inputs * self.kernel

    def macs(self, fewer_outputs: int = 0, fewer_inputs: int = 0) -> int:
        return self.positions * self._weight(fewer_outputs, fewer_inputs)

    def parameters(self, fewer_outputs: int = 0, fewer_inputs: int = 0) -> int:
        return self._weight(fewer_outputs, fewer_inputs) + (self.outputs - fewer_outputs) * self.per_output


@dataclass(frozen=True)
class _Share:
    """The channels removed with a group: by member, ``(layer, side, channels of each unit)``; side 0 is out."""

    name: str
    filters: int
    units: tuple[tuple[int, ...], ...]
    members: tuple[tuple[int, int, tuple[int, ...]], ...]
    even: bool

    def lost(self, kept: int | Sequence[int]) -> Iterator[tuple[int, int, int]]:
        if self.even:
            gone = (self.filters - (kept if isinstance(kept, int) else len(kept))) // len(self.units[0])
            for layer, side, channels in self.members:
                yield layer, side, gone * channels[0]
            return
        if isinstance(kept, int):
            raise InputError(
                f"the filters of layer '{self.name}' are removed in units of different sizes: name the kept ones"
            )
        staying = set(kept)
        units = [index for index, unit in enumerate(self.units) if not staying & set(unit)]
        for layer, side, channels in self.members:
            yield layer, side, sum(channels[index] for index in units)


def _share(group: CoupledGroup, place: Mapping[Any, int]) -> _Share:
    members = [
        (place[member.layer], 0 if member.side == "out" else 1, _channels(member, group.units))
        for member in group.members
    ]
    members += [(place[one.place], 0, _channels(one, group.units)) for one in group.stored if one.place in place]
    even = len({len(unit) for unit in group.units}) == 1 and all(len(set(channels)) == 1 for *_, channels in members)
    return _Share(group.name, group.filters, group.units, tuple(members), even)


def _channels(member: Member | StoredMember, units: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return by unit how many channels go with it."""
    of = member.channels
    return tuple(len(of[unit[0]]) if len(unit) == 1 else len({c for f in unit for c in of[f]}) for unit in units)


def _run(model: nn.Module, example: Tensor) -> dict[str, _Layer]:
    """Return the convolution and linear layers of one forward pass of one image."""
    runner = equivalence.copied(model)
    names = {module: name for name, module in runner.named_modules()}
    positions: dict[str, int] = {}

    def note(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> None:
        source = args[0] if args else next(iter(kwargs.values()))
        # In a transposed convolution each input is multiplied with the whole kernel, in others each output.
        meeting = source if isinstance(module, _ConvTransposeNd) else output
        channels = width(module, "in" if isinstance(module, _ConvTransposeNd) else "out")
        positions[names[module]] = positions.get(names[module], 0) + meeting.numel() // channels

    for module in names:
        if is_producer(module):
            module.register_forward_hook(note, with_kwargs=True)
    one = equivalence.placed(example, runner)[:1]
    try:
        equivalence.outputs(runner, one)
    except Exception as error:
        reason = equivalence.one_line(error)
        raise InputError(f"the network does not run on an example of shape {tuple(one.shape)}: {reason}") from error
    modules = {name: module for module, name in names.items()}
    return {name: _layer(modules[name], times) for name, times in positions.items()}


def _layer(module: nn.Module, positions: int) -> _Layer:
    kernel, groups, per_output = 1, 1, int(module.bias is not None)
    if isinstance(module, _ConvNd):
        kernel, groups = prod(module.kernel_size), module.groups
    if is_depthwise(module):
        return _Layer(width(module, "out"), None, kernel, positions, 1, per_output)
    return _Layer(width(module, "out"), width(module, "in"), kernel, positions, groups, per_output)


def _other_layer(module: nn.Module) -> _Layer:
    """Return a layer that has only parameters per channel, or none."""
    per_output = sum(p.numel() for p in module._parameters.values() if p is not None) if is_per_channel(module) else 0
    channels = width(module, "out")
    return _Layer(channels, per_output=per_output // channels)


def _values(tensor: Tensor | None, axis: int | None) -> _Layer:
    """Return a parameter outside any layer, as a layer without products."""
    assert tensor is not None
    assert axis is not None
    return _Layer(tensor.shape[axis], per_output=tensor.numel() // tensor.shape[axis])


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def _measuring(model: nn.Module) -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        with eval_mode(model):
            yield
    finally:
        torch.set_num_threads(threads)
