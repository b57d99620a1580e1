"""Where every channel of a network comes from and goes to: one forward pass in which channels carry numbers.

Each filter of each convolution and linear layer gets a number, and every tensor of the forward pass is followed by a
tensor of the numbers its channels carry. Operations that move values (views, concatenation, channel shuffle, ...) are
simply run on the numbers as well, so their index arithmetic is PyTorch's own; operations that combine values note
which numbers meet: those are one and the same channel, seen at different places. Shapes are always the real ones,
nothing is inferred, and no gradients are needed, so frozen parameters, ``detach`` and ``no_grad`` make no difference.
What cannot be followed is no error but an obstacle: the channels in question stay, and it is said why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
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

from infoprune.network.layers import Routing, channel_axis, is_per_channel, is_producer

MOVES = frozenset(
    {
        *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "ravel"),
        *("transpose", "swapaxes", "swapdims", "permute", "movedim", "moveaxis", "t", "adjoint", "__get__"),
        *("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "chunk", "split", "tensor_split"),
        *("split_with_sizes", "unbind", "select", "narrow", "index_select", "__getitem__", "expand", "expand_as"),
        *("broadcast_to", "repeat", "repeat_interleave", "tile", "roll", "flip", "pixel_shuffle", "pixel_unshuffle"),
        *("channel_shuffle", "native_channel_shuffle", "contiguous", "clone", "detach"),
    }
)
JOINS = frozenset({"cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack"})
SHUFFLES = frozenset({"channel_shuffle", "native_channel_shuffle"})
CHUNKS = frozenset({"chunk", "split", "tensor_split"})
REDUCTIONS = frozenset(
    {
        *("mean", "sum", "amax", "amin", "max", "min", "prod", "norm", "std", "var", "logsumexp", "median", "nanmean"),
        *("argmax", "argmin", "all", "any", "nansum"),
    }
)
PRODUCTS = frozenset(
    {
        *("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "addbmm", "einsum", "tensordot"),
        *("linear", "bilinear", "scaled_dot_product_attention", "multi_head_attention_forward", "mv", "dot"),
    }
)
CONVOLUTIONS = frozenset(
    {
        *("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        *("unfold", "fold"),
    }
)


@dataclass(frozen=True)
class Obstacle:
    """Why some channels cannot go.

    Args:
        reason: Words that follow the name of a layer: "shares its weight with 'x'".
        layer: The layer it is about; empty where it is about whichever layer makes the channels.
    """

    reason: str
    layer: str = ""

    def seen_from(self, layer: str) -> str:
        """Return the reason as said of ``layer``."""
        return self.reason if self.layer in ("", layer) else f"goes with '{self.layer}', which {self.reason}"


@dataclass
class Channels:
    """Which channels are one and the same to the network, and which of those can only go together.

    Args:
        outputs: By layer, the class of each output channel: convolutions, linear layers, norms and the like.
            Channels of one class are the same channel, seen at different places.
        inputs: By layer, the class of each input channel, for layers whose inputs go without their outputs.
        units: ``(classes,)``: the unit of each class. The classes of one unit can only go together.
        obstacles: By unit, why it cannot go.
        passed: By unit, the less usual operations its channels pass through, for messages.
        followed: Pairs ``(norm, convolution)`` where the norm takes just what the convolution gives.
        training_only: Layers that run in train mode alone.
    """

    outputs: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    units: np.ndarray
    obstacles: dict[int, Obstacle]
    passed: dict[int, tuple[str, ...]]
    followed: tuple[tuple[str, str], ...]
    training_only: frozenset[str]


def follow(model: nn.Module, example: Tensor) -> Channels:
    """Run the network once in eval mode and return which channels belong together.

    Where layers do not run in eval mode, such as auxiliary heads, the network also runs in train mode: such layers
    keep their outputs, but their inputs go with what they read.

    Args:
        model: A network of the caller's own: its mode and its statistics change.
        example: ``(n, ...)`` one batch.
    """
    follower = _Follower(model)
    with torch.no_grad(), follower.hooks(), follower:
        follower.put(example, follower.alien("is tied to the network's inputs"), axis=1)
        for tensor in _tensors(model.eval()(example)):
            follower.obstruct(follower.ids.get(tensor), Obstacle("its outputs are the network's outputs"))
        in_eval_mode = set(follower.records.outputs)
        if any(is_producer(module) and name not in in_eval_mode for module, name in follower.names.items()):
            with suppress(Exception):  # a network that cannot run in train mode here has only the one mode
                model.train()(example)
    for name, made in follower.records.outputs.items():
        if name not in in_eval_mode:
            follower.obstruct(made, Obstacle("runs in train mode alone", name))
    return follower.channels(frozenset(set(follower.records.outputs) - in_eval_mode))


@dataclass
class _Records:
    outputs: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    met: list[Tensor] = field(default_factory=list)
    tied: list[Tensor] = field(default_factory=list)
    obstacles: list[tuple[Tensor, Obstacle]] = field(default_factory=list)
    passed: list[tuple[Tensor, str]] = field(default_factory=list)
    followed: dict[tuple[str, str], None] = field(default_factory=dict)


class _Follower(TorchFunctionMode):
    """The numbers of every tensor alive: shaped like the tensor, with length 1 along axes where they are constant."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.names = {module: name for name, module in model.named_modules()}
        self.stored: MutableMapping[Tensor, str] = WeakTensorKeyDictionary()
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self.stored[tensor] = name
        self.ids: MutableMapping[Tensor, Tensor] = WeakTensorKeyDictionary()
        self.blocked: MutableMapping[Tensor, str] = WeakTensorKeyDictionary()
        self.makers: MutableMapping[Tensor, str] = WeakTensorKeyDictionary()
        self.records = _Records()
        self.count = 0
        self.inside = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operands = [] if self.inside else _tensors((args, kwargs))
        followed = any(t in self.ids or t in self.blocked for t in operands)
        result = func(*args, **kwargs)
        if followed:
            self._note(func, args, kwargs, operands, _tensors(result))
        else:
            self._derive(operands, _tensors(result))
        return result

    @contextmanager
    def hooks(self) -> Iterator[None]:
        handles = []
        for module in self.names:
            if is_producer(module) or is_per_channel(module) or isinstance(module, Routing | nn.LayerNorm):
                handles.append(module.register_forward_pre_hook(self._enter))
                handles.append(module.register_forward_hook(self._leave, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    # Numbers and what happens to them

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
        """Note that these are the same channels."""
        self.records.met.append(_pairs(one, other))

    def tie(self, one: Tensor, other: Tensor) -> None:
        """Note that these channels are not the same but can only go together."""
        self.records.tied.append(_pairs(one, other))

    def put(self, tensor: Tensor, ids: Tensor, axis: int) -> None:
        shape = [1] * tensor.ndim
        shape[axis] = -1
        if tensor.ndim > axis:
            self.ids[tensor] = ids.expand(tensor.shape[axis]).view(shape)

    def take(self, tensor: Tensor, axis: int) -> Tensor:
        """Return one number per channel along ``axis``; numbers that share a channel meet."""
        ids = self.ids.get(tensor)
        if ids is None:
            return self.alien(self.blocked.get(tensor, "meets values that no layer makes")).expand(tensor.shape[axis])
        rows = ids.movedim(axis, 0).flatten(1)
        if rows.shape[1] > 1:
            self.meet(rows, rows[:, :1])
        return rows[:, 0].expand(tensor.shape[axis])

    def channels(self, training_only: frozenset[str]) -> Channels:
        classes = _components(self.count, self.records.met)
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
        )

    # Layers

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.inside += 1

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        source = args[0] if args else next(iter(kwargs.values()))
        try:
            if isinstance(module, nn.LayerNorm):
                self._layer_norm(module, source, output)
            elif is_per_channel(module):
                self._per_channel(module, source, output)
            else:
                self._two_sided(module, source, output)
        except Exception:
            self._block(f"enters '{self.names[module]}' in a form that cannot be followed", [source], [output])
        # Not before the end: what the hook itself computes is nothing the network does.
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
            reason = "is normalised over its channels, so that none can go without changing the others"
            self.obstruct(ids, Obstacle(f"{reason} ('{self.names[module]}')"))
        self.ids[output] = ids

    def _align(self, ids: Tensor, groups: int) -> None:
        """Tie the channels at the same place of each group of a grouped convolution."""
        rows = ids.reshape(groups, -1)
        self.tie(rows, rows[:1])

    # Everything that is not a layer

    def _note(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        operands: list[Tensor],
        outputs: list[Tensor],
    ) -> None:
        name = getattr(func, "__name__", str(func))
        for output in outputs:
            self.makers.pop(output, None)
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
        elif name in REDUCTIONS:
            self._reduce(name, args, kwargs, outputs)
        else:
            for output in outputs:
                self._combine(name, operands, output)

    def _derive(self, operands: list[Tensor], outputs: list[Tensor]) -> None:
        """Remember which parameter or buffer a value was computed from that has no channels of a layer in it."""
        name = next((self.stored[t] for t in operands if t in self.stored), "")
        if name:
            for output in outputs:
                self.stored[output] = name

    def _block(self, reason: str, operands: list[Tensor], outputs: list[Tensor]) -> None:
        """Give up on what an operation gives, and on the channels that enter it."""
        for tensor in operands:
            self.obstruct(self.ids.get(tensor), Obstacle(reason))
        for output in outputs:
            self.ids.pop(output, None)
            self.blocked[output] = reason

    def _move(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[Tensor]
    ) -> None:
        """Run the same operation on the numbers: those of its first argument; others say where to, by their values."""
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
            return self.alien(f"is joined with {source}, which no layer makes").expand(value.shape)

        rest = tree_map(lambda value: value.cpu() if isinstance(value, Tensor) else value, (args[1:], kwargs))
        moved_kwargs = {**rest[1], **{key: tree_map(numbers, kwargs[key]) for key in named if not args}}
        moved = [_compact(t) for t in _tensors(func(*tree_map(numbers, args[:1]), *rest[0], **moved_kwargs))]
        if name in CHUNKS and len({t.shape for t in moved}) == 1:
            # A chunk is a share of the channels, so that the same places must go from each.
            for part in moved[1:]:
                self.tie(part, moved[0])
        if name in SHUFFLES:
            groups: int = kwargs["groups"] if "groups" in kwargs else args[1]
            self.tie(moved[0].view(-1, groups), moved[0].view(-1, groups)[:, :1])
        for output, ids in zip(outputs, moved, strict=True):
            self.ids[output] = self._regrouped(name, tracked[0], ids)

    def _regrouped(self, name: str, source: Tensor, ids: Tensor) -> Tensor:
        axes = [axis for axis, size in enumerate(ids.shape) if size > 1]
        if name == "pixel_shuffle" and len(axes) > 1:
            # Blocks of r * r channels become one channel of r times the width and height.
            rows = ids.movedim(-3, 0).flatten(1)
            self.meet(rows, rows[:, :1])
            return ids[..., :1, :1]
        if len(axes) > 1 and 2 < source.ndim < ids.ndim:
            # A view has split the channels into blocks, as a channel shuffle does: the number of blocks stays.
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
            # What sums up many channels is a channel of no layer; the check decides whether it may lose some of them.
            return
        for dim in dims:
            self.meet(ids, ids.narrow(dim, 0, 1))
        for output in outputs:
            self.ids[output] = ids.amin(dims, keepdim=output.ndim == ids.ndim)

    def _combine(self, name: str, operands: list[Tensor], output: Tensor) -> None:
        """Take an operation for one that works at each place, and note what shows that it is not."""
        known = [(t, self.ids[t]) for t in operands if t in self.ids]
        problem = self._problem(name, known, output)
        if problem:
            self._block(problem, operands, [output])
            return
        aligned = [ids.view(*[1] * (output.ndim - ids.ndim), *ids.shape) for _, ids in known]
        widest = max(aligned, key=Tensor.numel)
        for ids in aligned:
            # A tensor of one channel that is spread over many (a mask) goes with none of them.
            if ids.shape == widest.shape:
                self.meet(ids, widest)
        for tensor in operands:
            self._meet_stored(tensor, widest, output)
        self.ids[output] = widest
        if name not in USUAL:
            self.records.passed.append((_distinct(widest), name))

    def _problem(self, name: str, known: list[tuple[Tensor, Tensor]], output: Tensor) -> str:
        if name in PRODUCTS:
            return f"enters '{name}', a matrix product outside any layer"
        if name in CONVOLUTIONS:
            return f"enters '{name}' outside any layer"
        varying = set()
        for _, ids in known:
            lead = output.ndim - ids.ndim
            axes = [lead + axis for axis, size in enumerate(ids.shape) if size > 1]
            if lead < 0 or any(output.shape[axis] != ids.shape[axis - lead] for axis in axes):
                return f"passes through '{name}', which changes the number of its channels"
            varying.add(tuple(axes))
        if len(varying - {()}) > 1:
            return f"meets channels that lie along another axis, in '{name}'"
        return ""

    def _meet_stored(self, tensor: Tensor, ids: Tensor, output: Tensor) -> None:
        """Note that a parameter or buffer outside any layer has one value for each channel."""
        name = self.stored.get(tensor)
        lead = output.ndim - tensor.ndim
        if name and any(ids.shape[lead + axis] > 1 for axis, size in enumerate(tensor.shape) if size > 1):
            self.obstruct(ids, Obstacle(f"meets '{name}', which no layer makes"))


# Operations at each place, which need no mention when something goes wrong.
USUAL = frozenset(
    {
        *("relu", "relu_", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "sigmoid", "tanh", "hardtanh"),
        *("hardtanh_", "hardswish", "hardsigmoid", "softplus", "clamp", "clamp_", "add", "add_", "__add__", "__iadd__"),
        *("__radd__", "sub", "__sub__", "__rsub__", "mul", "mul_", "__mul__", "__rmul__", "__imul__", "div"),
        *("__truediv__", "dropout", "dropout2d", "feature_dropout", "max_pool2d", "avg_pool2d", "interpolate", "pad"),
        *("adaptive_avg_pool2d", "adaptive_max_pool2d", "max_pool1d", "avg_pool1d", "boolean_dispatch", "to", "float"),
    }
)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _distinct(ids: Tensor) -> Tensor:
    distinct: Tensor = ids.unique()  # type: ignore[no-untyped-call]
    return distinct


def _pairs(one: Tensor, other: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(one.shape, other.shape)  # type: ignore[no-untyped-call]
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
