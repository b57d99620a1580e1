"""Traces every channel of a network from its layer to the layers that read it, in one forward pass.

Each filter of each convolution and linear layer gets a number, and every tensor of the forward pass is followed by a
tensor of the numbers its channels carry. Operations that move values (views, concatenation, channel shuffle, ...) are
simply run on the numbers as well, so their index arithmetic is PyTorch's own; operations that combine values record
which numbers they combine: these belong to the same channel at different places. Shapes are those of the real tensors,
and no gradients are needed, so frozen parameters, ``detach`` and ``no_grad`` make no difference. A channel that cannot
be followed is not an error but an obstacle: it is kept, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from infoprune.errors import InputError
from infoprune.network.dispatch import Dispatch
from infoprune.network.layers import Routing, channel_axis, is_per_channel, is_producer
from infoprune.network.modes import set_training
from infoprune.network.operations import (
    CHUNKS,
    CONVOLUTION_CALLS,
    CONVOLUTIONS,
    FRESH,
    MOVES,
    NORM_CALLS,
    PRODUCTS,
    READS,
    REDUCTIONS,
    SHUFFLES,
    USUAL,
)
from infoprune.network.stored_values import Stored, holders, taken_sizes
from infoprune.network.tensors import tensors_in

# Why the last layer is left alone, which is rarely what a user wants to know.
IS_OUTPUT = "its outputs are the network's outputs"
# Larger parameters outside any layer are matrices of products, whose channels cannot be followed.
_LARGEST_STORED = 1 << 20


@dataclass(frozen=True)
class Obstacle:
    """Why some channels cannot be removed.

    Args:
        reason: Words that follow the name of a layer: "shares its weight with 'x'".
        layer: The layer that the reason is about; empty for the layer that makes the channels.

    Example:
        >>> Obstacle("has a single filter", "conv1").seen_from("conv2")
        "is coupled to 'conv1', which has a single filter"
    """

    reason: str
    layer: str = ""

    def seen_from(self, layer: str) -> str:
        """Return the reason, in words that follow the name of ``layer``."""
        return self.reason if self.layer in ("", layer) else f"is coupled to '{self.layer}', which {self.reason}"


@dataclass
class Channels:
    """Which channels are the same to the network, and which can only be removed together.

    Args:
        outputs: By layer, the class of each output channel: convolutions, linear layers, norms and the like.
            Channels of one class are the same channel, seen at different places.
        inputs: By layer, the class of each input channel, for layers that can lose inputs without outputs.
        units: ``(classes,)``: the unit of each class. The classes of one unit can only be removed together.
        obstacles: By unit, why it cannot be removed.
        passed: By unit, the unusual operations its channels pass through, for messages.
        followed: Pairs ``(norm, convolution)`` where the norm directly follows the convolution.
        training_only: Layers that run in train mode only.
        stored: Values outside any layer that shrink with channels: the class of each channel.
        pointwise: Linear layers that run at every position of a map, as convolutions of size 1 do.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 1, 3))
        >>> found = follow(net, [torch.zeros(1, 1, 8, 8)])
        >>> found.outputs["0"].tolist() == found.inputs["1"].tolist()
        True
    """

    outputs: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    units: np.ndarray
    obstacles: dict[int, Obstacle]
    passed: dict[int, tuple[str, ...]]
    followed: tuple[tuple[str, str], ...]
    training_only: frozenset[str]
    stored: dict[Stored, np.ndarray] = field(default_factory=dict)
    pointwise: frozenset[str] = frozenset()


def follow(model: nn.Module, examples: Sequence[Tensor]) -> Channels:
    """Run the network in eval mode and return which channels belong together.

    Where layers do not run in eval mode, such as auxiliary heads, the network also runs in train mode: such layers
    keep their outputs, but lose inputs together with the layers they read.

    Args:
        model: A copy for this purpose: its mode and its statistics change.
        examples: Batches ``(n, ...)``, one of each shape that the network reads.

    Raises:
        InputError: The network returns no tensor.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 3))
        >>> follow(net, [torch.zeros(1, 1, 8, 8)]).followed
        (('1', '0'),)
    """
    follower = _Follower(model)
    alien = follower.alien("is tied to the network's inputs")
    set_training(model, False)
    with torch.no_grad(), follower.hooks(), follower, _Calls(follower):
        for example in examples:
            follower.put(example, alien, axis=1)
            returned = tensors_in(model(example))
            if not returned:
                raise InputError("the network returns no tensor: wrap it so that it returns its outputs")
            for tensor in returned:
                follower.reached |= follower.sources.get(tensor, 0)
                follower.obstruct(follower.ids.get(tensor), Obstacle(IS_OUTPUT))
        in_eval_mode = set(follower.records.outputs)
        missing = {name for module, name in follower.names.items() if is_producer(module)} - in_eval_mode
        # Layers that are dropped at random may run in another try.
        for _ in range(_TRIES if missing else 0):
            with suppress(Exception):  # a network that cannot run in train mode here has only the one mode
                set_training(model, True)
                model(examples[0])
            if missing <= set(follower.records.outputs):
                break
    for name, made in follower.records.outputs.items():
        if name not in in_eval_mode:
            follower.obstruct(made, Obstacle("runs in train mode only", name))
        elif name in follower.bits and not follower.reached & follower.bits[name]:
            follower.obstruct(made, Obstacle("its outputs reach no output of the network", name))
    return follower.channels(frozenset(set(follower.records.outputs) - in_eval_mode))


_TRIES = 3


@dataclass
class _Records:
    outputs: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    met: list[Tensor] = field(default_factory=list)
    tied: list[Tensor] = field(default_factory=list)
    obstacles: list[tuple[Tensor, Obstacle]] = field(default_factory=list)
    passed: list[tuple[Tensor, str]] = field(default_factory=list)
    followed: dict[tuple[str, str], None] = field(default_factory=dict)
    stored: dict[str, Tensor] = field(default_factory=dict)
    sizes: dict[Stored, Tensor] = field(default_factory=dict)
    pointwise: set[str] = field(default_factory=set)


class _Follower(TorchFunctionMode):
    """The numbers of all live tensors: of the shape of the tensor, with length 1 along axes where they are constant."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.names = {module: name for name, module in model.named_modules()}
        self.stored: MutableMapping[Tensor, str] = WeakTensorKeyDictionary()
        self.loose: MutableMapping[Tensor, str] = WeakTensorKeyDictionary()
        self.own: MutableMapping[Tensor, bool] = WeakTensorKeyDictionary()
        modules = dict(model.named_modules())
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self.stored[tensor] = name
            outside = not _is_followed(modules[name.rpartition(".")[0]])
            if outside and tensor.is_floating_point() and 1 < tensor.numel() <= _LARGEST_STORED:
                self.loose[tensor] = name
        self.ids: MutableMapping[Tensor, Tensor] = WeakTensorKeyDictionary()
        self.blocked: MutableMapping[Tensor, str] = WeakTensorKeyDictionary()
        self.makers: MutableMapping[Tensor, str] = WeakTensorKeyDictionary()
        self.records = _Records()
        self.count = 0
        self.inside = 0
        self.depth = 0
        self.sources: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()
        producers = [name for module, name in self.names.items() if is_producer(module)]
        self.bits = {name: 1 << place for place, name in enumerate(producers)}
        self.reached = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.depth += 1
        try:
            result = func(*args, **kwargs)
        finally:
            self.depth -= 1
        if not self.inside:
            self.see(func, getattr(func, "__name__", str(func)), args, kwargs, result)
        return result

    def see(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """Follow the channels through one operation that has run."""
        operands, outputs = _tensors((args, kwargs)), _tensors(result)
        self._pass_sources(name, operands, outputs)
        for tensor in operands:
            self._number(tensor)
        if any(t in self.ids or t in self.blocked for t in operands):
            # Operations of the rules themselves are not part of the network.
            self.depth += 1
            try:
                self._note(func, name, args, kwargs, operands, outputs)
            finally:
                self.depth -= 1
        else:
            self._derive(operands, outputs)

    def _pass_sources(self, name: str, operands: list[Tensor], outputs: list[Tensor], own: int = 0) -> None:
        """Note which layers the outputs depend on."""
        sources = own
        for tensor in operands:
            sources |= self.sources.get(tensor, 0)
        if not sources:
            return
        if name in READS:
            self.reached |= sources
        # An operation that writes into its first operand may return nothing.
        for tensor in outputs or operands[:1]:
            self.sources[tensor] = sources | self.sources.get(tensor, 0)

    def _number(self, tensor: Tensor) -> None:
        """Number every element of a parameter or buffer outside any layer, when it is first used."""
        name = self.loose.get(tensor)
        if name is not None and name not in self.records.stored:
            self.records.stored[name] = self.ids[tensor] = self.fresh(tensor.numel()).view(tensor.shape)
            self.own[tensor] = True

    @contextmanager
    def hooks(self) -> Iterator[None]:
        handles = []
        for module in self.names:
            if _is_followed(module):
                handles.append(module.register_forward_pre_hook(self._enter))
                handles.append(module.register_forward_hook(self._leave, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    # Numbers

    def fresh(self, count: int) -> Tensor:
        self.count += count
        return torch.arange(self.count - count, self.count)

    def alien(self, reason: str) -> Tensor:
        """Return one new number for channels that no layer of the network makes."""
        number = self.fresh(1)
        self.obstruct(number, Obstacle(reason))
        return number

    def obstruct(self, ids: Tensor | None, obstacle: Obstacle) -> None:
        if ids is not None:
            self.records.obstacles.append((_distinct(ids), obstacle))

    def meet(self, one: Tensor, other: Tensor) -> None:
        """Record that these are the same channels."""
        self.records.met.append(_pairs(one, other))

    def tie(self, one: Tensor, other: Tensor) -> None:
        """Record that these are different channels that can only be removed together."""
        self.records.tied.append(_pairs(one, other))

    def put(self, tensor: Tensor, ids: Tensor, axis: int) -> None:
        shape = [1] * tensor.ndim
        shape[axis] = -1
        if tensor.ndim > axis:
            self.ids[tensor] = ids.expand(tensor.shape[axis]).view(shape)

    def take(self, tensor: Tensor, axis: int) -> Tensor:
        """Return one number per channel along ``axis``; numbers of one channel become the same class."""
        ids = self.ids.get(tensor)
        if ids is None:
            return self.alien(self.blocked.get(tensor, "is combined with values from outside any layer")).expand(
                tensor.shape[axis]
            )
        rows = ids.movedim(axis, 0).flatten(1)
        if rows.shape[1] > 1:
            self.meet(rows, rows[:, :1])
        return rows[:, 0].expand(tensor.shape[axis])

    def channels(self, training_only: frozenset[str]) -> Channels:
        classes = _components(self.count, self.records.met)
        stored = self._stored_channels(classes)
        tied = [torch.from_numpy(classes[pairs.numpy()]) for pairs in self.records.tied]
        units = _components(int(classes.max(initial=0)) + 1, tied)
        obstacles: dict[int, Obstacle] = {}
        for ids, obstacle in self.records.obstacles:
            for unit in np.unique(units[classes[ids.numpy()]]).tolist():
                obstacles.setdefault(unit, obstacle)
        passed: dict[int, dict[str, None]] = {}
        for ids, operation in self.records.passed:
            for unit in np.unique(units[classes[ids.numpy()]]).tolist():
                passed.setdefault(unit, {})[operation] = None
        return Channels(
            outputs={layer: classes[ids.numpy()] for layer, ids in self.records.outputs.items()},
            inputs={layer: classes[ids.numpy()] for layer, ids in self.records.inputs.items()},
            units=units,
            obstacles=obstacles,
            passed={unit: tuple(operations) for unit, operations in passed.items()},
            followed=tuple(self.records.followed),
            training_only=training_only,
            stored=stored,
            pointwise=frozenset(self.records.pointwise),
        )

    def _stored_channels(self, classes: np.ndarray) -> dict[Stored, np.ndarray]:
        """Return the stored values that shrink with channels of layers; others become obstacles."""
        made = {label for ids in self.records.outputs.values() for label in classes[ids.numpy()].tolist()}
        found = {place: classes[ids.numpy()] for place, ids in self.records.sizes.items()}
        for name, ids in self.records.stored.items():
            labels = classes[ids.numpy()]
            if made.isdisjoint(labels.ravel().tolist()):
                continue
            axis = _channel_axis_of(labels)
            if axis is None:
                self.obstruct(ids, Obstacle(f"is combined with '{name}' from outside any layer"))
                continue
            module, _, attribute = name.rpartition(".")
            found[Stored(module, attribute, axis)] = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)[:, 0]
        return found

    # Layers

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.inside += 1

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        source = args[0] if args else next(iter(kwargs.values()))
        self.depth += 1
        self._pass_sources("", _tensors((args, kwargs)), _tensors(output), self.bits.get(self.names[module], 0))
        try:
            for tensor in _tensors((args, kwargs)):
                self._number(tensor)
            if isinstance(module, nn.LayerNorm):
                self._layer_norm(module, source, output)
            elif is_per_channel(module):
                self._per_channel(module, source, output)
            else:
                self._two_sided(module, source, output)
        except Exception:
            self._block(f"enters '{self.names[module]}' in a form that cannot be followed", [source], [output])
        # Only now: operations of the hook itself are not part of the network.
        self.depth -= 1
        self.inside -= 1

    def _two_sided(self, module: nn.Module, source: Tensor, output: Tensor) -> None:
        name, axis = self.names[module], channel_axis(module)
        if isinstance(module, _ConvNd) and source.ndim != module.weight.ndim:
            raise ValueError("one image without its batch has its channels along another axis")
        taken = self.take(source, axis)
        if name in self.records.inputs:
            self.meet(self.records.inputs[name], taken)
        else:
            self.records.inputs[name] = taken
            self.records.outputs[name] = self.fresh(output.shape[axis])
        made = self.records.outputs[name]
        if isinstance(module, _ConvNd) and module.groups > 1:
            self._align(taken, module.groups)
            self._align(made, module.groups)
            if isinstance(module, _ConvTransposeNd):
                for ids in (taken, made):
                    self.obstruct(ids, Obstacle("is a transposed convolution in groups, which cannot be cut", name))
        self.put(output, made, axis if axis > 0 else output.ndim - 1)
        self.makers[output] = name
        if isinstance(module, nn.Linear) and output.ndim > 2:
            self.records.pointwise.add(name)

    def _per_channel(self, module: nn.Module, source: Tensor, output: Tensor) -> None:
        name = self.names[module]
        taken = self.take(source, 1)
        made = self.records.outputs.get(name)
        if made is None:
            made = self.records.outputs[name] = self.fresh(len(taken)) if is_producer(module) else taken
        self.meet(made, taken)
        if isinstance(module, nn.GroupNorm):
            rows = made.reshape(module.num_groups, -1)
            self.tie(rows, rows[:, :1])
        if isinstance(module, _BatchNorm) and source in self.makers:
            self.records.followed[name, self.makers[source]] = None
        self.put(output, made, 1)
        if is_producer(module):
            self.makers[output] = name

    def _layer_norm(self, module: nn.LayerNorm, source: Tensor, output: Tensor) -> None:
        ids = self.ids.get(source)
        if ids is None:
            return
        # Subclasses move the channels to the end first.
        if type(module) is not nn.LayerNorm or any(size > 1 for size in ids.shape[-len(module.normalized_shape) :]):
            reason = "is normalised over its channels, so that removing one changes the others"
            self.obstruct(ids, Obstacle(f"{reason} ('{self.names[module]}')"))
        self.ids[output] = ids

    def _align(self, ids: Tensor, groups: int) -> None:
        """Tie the channels at the same place of each group of a grouped convolution."""
        rows = ids.reshape(groups, -1)
        self.tie(rows, rows[:1])

    # Operations outside layers

    def _note(
        self,
        func: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        operands: list[Tensor],
        outputs: list[Tensor],
    ) -> None:
        for output in outputs:
            self.makers.pop(output, None)
        if name in FRESH:
            return
        reason = next((self.blocked[t] for t in operands if t in self.blocked), "")
        if reason:
            self._block(reason, operands, outputs)
            return
        try:
            self._follow(func, name, args, kwargs, operands, outputs)
        except Exception:
            self._block(f"passes through '{name}', which cannot be followed", operands, outputs)

    def _follow(
        self,
        func: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        operands: list[Tensor],
        outputs: list[Tensor],
    ) -> None:
        if name == "__setitem__":
            self._block("is written into by index", operands, operands[:1])
        elif name in MOVES:
            self._move(func, name, args, kwargs, outputs)
        elif name in NORM_CALLS or (name in CONVOLUTION_CALLS and _is_depthwise_call(args, kwargs)):
            self._per_channel_call(name, args, kwargs, operands, outputs[0])
        elif name in REDUCTIONS:
            self._reduce(name, args, kwargs, outputs)
        elif name == "glu":
            self._halve(args, kwargs, outputs[0])
        else:
            for output in outputs:
                self._combine(name, operands, output)

    def _derive(self, operands: list[Tensor], outputs: list[Tensor]) -> None:
        """Record the parameter or buffer that a value without channels of a layer was computed from."""
        name = next((self.stored[t] for t in operands if t in self.stored), "")
        if name:
            for output in outputs:
                self.stored[output] = name

    def _per_channel_call(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], operands: list[Tensor], output: Tensor
    ) -> None:
        """Follow a function that computes channel i from channel i, with parameters per channel along their axis 0."""
        source = args[0] if args else kwargs["input"]
        taken = self.take(source, 1)
        for tensor in operands:
            if tensor is source or tensor.numel() == 1:
                continue
            if tensor in self.ids and tensor.shape[0] == len(taken):
                if self.ids[tensor].shape[0] > 1:
                    self.meet(self.ids[tensor].movedim(0, -1), taken)
            elif tensor in self.stored:
                self.obstruct(taken, Obstacle(f"is combined with '{self.stored[tensor]}' from outside any layer"))
        if name in CONVOLUTION_CALLS:
            groups: int = kwargs["groups"] if "groups" in kwargs else args[6] if len(args) > 6 else 1
            self._hold_sizes(groups, [taken])
        self.put(output, taken, 1)

    def _halve(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        """Follow a gated linear unit: the first half of an axis times the sigmoid of the second half."""
        source: Tensor = args[0] if args else kwargs["input"]
        axis = kwargs.get("dim", args[1] if len(args) > 1 else -1)
        ids = self.ids[source]
        if ids.shape[axis] > 1:
            ids, gates = ids.chunk(2, axis)
            self.meet(ids, gates)
        self.ids[output] = ids

    def _hold_sizes(self, sizes: int | Sequence[int], segments: Sequence[Tensor]) -> None:
        """Record which attributes of the running module may hold the number of channels of these segments."""
        for places, ids in zip(holders(self.names, sizes), segments, strict=True):
            for place in places:
                known = self.records.sizes.setdefault(place, ids)
                if known.shape == ids.shape:
                    # One attribute for both: the same indices are removed from each.
                    self.tie(known, ids)
                else:
                    for one in (known, ids):
                        self.obstruct(one, Obstacle(f"shares the size '{place}' with other channels"))

    def _block(self, reason: str, operands: list[Tensor], outputs: list[Tensor]) -> None:
        """Stop following the outputs of an operation, and keep the channels that enter it."""
        for tensor in operands:
            self.obstruct(self.ids.get(tensor), Obstacle(reason))
        for output in outputs:
            self.ids.pop(output, None)
            self.blocked[output] = reason

    def _move(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[Tensor]
    ) -> None:
        """Run the same operation on the numbers of its first argument; other arguments keep their values."""
        named = [key for key in ("input", "tensors") if key in kwargs]
        sources = _tensors(args[:1] or [kwargs[key] for key in named])
        tracked = [t for t in sources if t in self.ids]
        if not tracked:
            return

        def numbers(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if value in self.ids:
                return self.ids[value].expand(value.shape).contiguous()
            source = f"'{self.stored[value]}'" if value in self.stored else "values"
            return self.alien(f"is joined with {source} from outside any layer").expand(value.shape)

        rest = tree_map(lambda value: value.cpu() if isinstance(value, Tensor) else value, (args[1:], kwargs))
        moved_kwargs = {**rest[1], **{key: tree_map(numbers, kwargs[key]) for key in named if not args}}
        moved = [_compact(t) for t in _tensors(func(*tree_map(numbers, args[:1]), *rest[0], **moved_kwargs))]
        self._tie_shares(name, args, kwargs, moved)
        own = all(tensor in self.own for tensor in tracked) and len(tracked) == len(sources)
        for output, ids in zip(outputs, moved, strict=True):
            self.ids[output] = self._regrouped(name, tracked[0], ids)
            if own:
                self.own[output] = True
        if not own:
            for sizes, segments in taken_sizes(name, args, kwargs, self.ids[tracked[0]], moved):
                self._hold_sizes(sizes, segments)

    def _tie_shares(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], moved: list[Tensor]) -> None:
        """Tie channels that can only be removed together because an operation divides them evenly."""
        if name in CHUNKS and len({t.shape for t in moved}) == 1:
            # A chunk is a share of the channels, so the same indices must be removed from each.
            for part in moved[1:]:
                self.tie(part, moved[0])
        if name in SHUFFLES:
            groups: int = kwargs["groups"] if "groups" in kwargs else args[1]
            self.tie(moved[0].view(-1, groups), moved[0].view(-1, groups)[:, :1])

    def _regrouped(self, name: str, source: Tensor, ids: Tensor) -> Tensor:
        axes = [axis for axis, size in enumerate(ids.shape) if size > 1]
        if name == "pixel_shuffle" and len(axes) > 1:
            # Blocks of r * r channels become one channel of r times the width and height.
            rows = ids.movedim(-3, 0).flatten(1)
            self.meet(rows, rows[:, :1])
            return ids[..., :1, :1]
        if len(axes) > 1 and 2 < source.ndim < ids.ndim:
            # A view has split the channels into blocks, as a channel shuffle does: the number of blocks is fixed.
            self.tie(ids, ids.narrow(axes[0], 0, 1))
        return ids

    def _reduce(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[Tensor]) -> None:
        ids = self.ids.get(args[0]) if args and isinstance(args[0], Tensor) else None
        if ids is None:
            return
        place = 2 if name == "norm" else 1
        axes = kwargs.get("dim", kwargs.get("axis", args[place] if len(args) > place else None))
        if isinstance(axes, Tensor):  # the larger of two tensors, not of one
            self._combine("maximum", list(args), outputs[0])
            return
        if axes is None or isinstance(axes, bool):
            axes = range(ids.ndim)
        dims = (axes,) if isinstance(axes, int) else tuple(axes)
        if all(size == 1 for axis, size in enumerate(ids.shape) if axis not in {dim % ids.ndim for dim in dims}):
            # A sum over channels belongs to no layer; the check decides whether some of them can be removed.
            return
        for dim in dims:
            self.meet(ids, ids.narrow(dim, 0, 1))
        for output in outputs:
            self.ids[output] = ids.amin(dims, keepdim=output.ndim == ids.ndim)

    def _combine(self, name: str, operands: list[Tensor], output: Tensor) -> None:
        """Treat an operation as elementwise, and record an obstacle where it is not."""
        made = [t for t in operands if t in self.ids and t not in self.own]
        stored = [t for t in operands if t in self.own]
        problem = self._problem(name, [self.ids[t] for t in made or stored], output)
        if problem:
            self._block(problem, operands, [output])
            return
        aligned = {t: self.ids[t].view(*[1] * (output.ndim - t.ndim), *self.ids[t].shape) for t in (*made, *stored)}
        widest = max((aligned[t] for t in made or stored), key=Tensor.numel)
        for tensor in made:
            # A tensor of one channel that is broadcast over many (a mask) is coupled with none of them.
            if aligned[tensor].shape == widest.shape:
                self.meet(aligned[tensor], widest)
        for tensor in stored:
            self._meet_own(tensor, aligned[tensor], widest)
        for tensor in operands:
            if tensor not in self.own:
                self._meet_stored(tensor, widest, output)
        self.ids[output] = widest
        if not made:
            self.own[output] = True
        elif name not in USUAL:
            self.records.passed.append((_distinct(widest), name))

    def _meet_own(self, tensor: Tensor, ids: Tensor, widest: Tensor) -> None:
        """Record that the elements of a parameter or buffer belong to the channels that they are combined with."""
        axes = [axis for axis, size in enumerate(widest.shape) if size > 1]
        if all(ids.shape[axis] == widest.shape[axis] for axis in axes):
            self.meet(ids, widest)
        elif any(ids.shape[axis] > 1 for axis in axes):
            reason = Obstacle(f"is combined with '{self.stored.get(tensor, 'values')}' from outside any layer")
            self.obstruct(ids, reason)
            self.obstruct(widest, reason)

    def _problem(self, name: str, known: list[Tensor], output: Tensor) -> str:
        if name in PRODUCTS:
            return f"enters '{name}', a matrix product outside any layer"
        if name in CONVOLUTIONS:
            return f"enters '{name}' outside any layer"
        varying = set()
        for ids in known:
            lead = output.ndim - ids.ndim
            axes = [lead + axis for axis, size in enumerate(ids.shape) if size > 1]
            if lead < 0 or any(output.shape[axis] != ids.shape[axis - lead] for axis in axes):
                return f"passes through '{name}', which changes the number of its channels"
            varying.add(tuple(axes))
        if len(varying - {()}) > 1:
            return f"is combined with channels along another axis, in '{name}'"
        return ""

    def _meet_stored(self, tensor: Tensor, ids: Tensor, output: Tensor) -> None:
        """Record an obstacle where a parameter or buffer outside any layer has one value per channel."""
        name = self.stored.get(tensor)
        lead = output.ndim - tensor.ndim
        if name and any(ids.shape[lead + axis] > 1 for axis, size in enumerate(tensor.shape) if size > 1):
            self.obstruct(ids, Obstacle(f"is combined with '{name}' from outside any layer"))


class _Calls(Dispatch):
    """Follows operations that do not pass through PyTorch's Python functions: scripts and operators of extensions."""

    def __init__(self, follower: _Follower) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.follower = follower

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.follower.depth and not self.follower.inside:
            self.follower.see(func, func.__name__.split(".")[0], args, kwargs or {}, result)
        return result


def _channel_axis_of(labels: np.ndarray) -> int | None:
    """Return the axis along which the classes of a parameter differ, if it is exactly one."""
    for axis, size in enumerate(labels.shape):
        rows = np.moveaxis(labels, axis, 0).reshape(size, -1)
        if size > 1 and bool((rows == rows[:, :1]).all()):
            return axis
    return None


def _is_followed(module: nn.Module) -> bool:
    return is_producer(module) or is_per_channel(module) or isinstance(module, Routing | nn.LayerNorm)


def _is_depthwise_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a convolution by function has one filter for each channel of its input."""
    named = dict(zip(("input", "weight"), args, strict=False)) | kwargs
    groups = kwargs.get("groups", args[6] if len(args) > 6 else 1)
    source, weight = named.get("input"), named.get("weight")
    return (
        isinstance(source, Tensor)
        and isinstance(weight, Tensor)
        and source.ndim == weight.ndim
        and groups == source.shape[1] == weight.shape[0]
        and weight.shape[1] == 1
    )


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _distinct(ids: Tensor) -> Tensor:
    distinct: Tensor = ids.unique()  # type: ignore[no-untyped-call]
    return distinct


def _pairs(one: Tensor, other: Tensor) -> Tensor:
    shape = np.broadcast_shapes(one.shape, other.shape)  # that of torch imports its symbolic shapes, half a second
    pairs = torch.stack([one.expand(shape).flatten(), other.expand(shape).flatten()])
    return pairs[:, pairs[0] != pairs[1]]


def _components(count: int, pairs: list[Tensor]) -> np.ndarray:
    one, other = torch.cat([torch.zeros(2, 0, dtype=torch.long), *pairs], dim=1).numpy()
    labels: np.ndarray = connected_components(coo_array((np.ones(len(one)), (one, other)), (count, count)))[1]
    return labels


def _compact(ids: Tensor) -> Tensor:
    for axis in range(ids.ndim):
        first = ids.narrow(axis, 0, 1)
        if ids.shape[axis] > 1 and bool((ids == first).all()):
            ids = first
    return ids
