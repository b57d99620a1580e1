"""What a layer is fed, what it returns and what is added to that, observed while the network's own forward runs.

Nothing is read from a layer's attributes: a convolution is taken from the call that the layer's forward really makes,
with the input (padded, where the forward pads it), stride, padding and dilation of that call.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from infoprune.errors import InputError

_aten = torch.ops.aten
_CONVOLUTION = _aten.convolution.default
_BATCH_NORM = _aten.native_batch_norm.default
_ADDITIONS = (_aten.add.Tensor, _aten.add_.Tensor)
_COPIES = (_aten.clone.default, _aten._to_copy.default)


@dataclass(frozen=True)
class Window:
    """How a convolution moves over the input that it is called with; one number per axis of the maps.

    Args:
        kernel: Taps.
        stride: Positions of the input from one output to the next.
        padding: Zeros before and after the input.
        dilation: Positions of the input from one tap to the next.
        groups: Groups of channels.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def outputs(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the size of the maps that come of maps of some size."""
        axes = zip(size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes)


@dataclass(frozen=True)
class Reading:
    """One layer in one forward pass.

    Args:
        inputs: ``(n, C, ...)`` of a convolution what it is called with inside the layer's forward, padded where the
            forward pads; of any other layer what the module takes.
        result: What the layer returns, after the batch norm that follows it directly, if one does.
        norm: Name of that batch norm, empty where there is none.
        added: What is added to ``result`` before anything else happens to it, of its shape: the other branch of a
            residual block; ``None`` where nothing is.
        window: How a convolution moves over ``inputs``; ``None`` for a linear layer, and where the layer's forward
            does not convolve with the layer's own weight.
    """

    inputs: Tensor
    result: Tensor
    norm: str
    added: Tensor | None
    window: Window | None


@torch.no_grad()
def read(model: nn.Module, layer: str, images: Tensor) -> Reading:
    """Run a network in eval mode until something happens to the output of a layer, after its norm.

    Raises:
        InputError: The layer does not run, or does not take and return one tensor.
    """
    found: list[Reading] = []

    def stop(layer: str, reading: Reading) -> None:
        found.append(reading)
        raise _ReadEnoughError

    watch = Watch(model, [layer], stop)
    try:
        with watch.hooks(), watch:
            watch.finish(model(images))
    except _ReadEnoughError:
        pass
    if not found and watch.waiting:
        # Its output is used by nothing: what it is can still be reported.
        found.append(watch.waiting[0].reading())
    if not found:
        raise InputError(f"layer '{layer}' does not run in the network's forward pass")
    return found[0]


@torch.no_grad()
def calls(model: nn.Module, layers: Iterable[str], images: Tensor) -> list[str]:
    """Return the layers in the order in which they run, each as often as it does."""
    ran: list[str] = []

    def noting(layer: str) -> Callable[..., None]:
        return lambda *_: ran.append(layer)

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(model.get_submodule(layer).register_forward_hook(noting(layer)).remove)
        model(images)
    return ran


@torch.no_grad()
def read_all(model: nn.Module, layers: Sequence[str], images: Tensor) -> dict[str, Reading]:
    """Return, in the order in which they are used, the layers whose output reaches what the network returns.

    A layer that runs but does not reach it, such as a head that is computed and not returned, is not among them, nor
    is one that does not run.

    Args:
        model: In eval mode.
        layers: Dotted names; each runs at most once.
        images: ``(n, ...)`` a few.
    """
    reach = _Reach()
    found: dict[str, Reading] = {}

    def note(layer: str, reading: Reading) -> None:
        found[layer] = reading
        reach.mark(reading.result, len(found) - 1)

    watch = Watch(model, layers, note)
    with reach, watch.hooks(), watch:
        output = model(images)
        watch.finish(output)
    reached = reach.of(tensors_in(output))
    return {layer: reading for number, (layer, reading) in enumerate(found.items()) if reached >> number & 1}


class _ReadEnoughError(Exception):
    """The rest of the forward pass is not needed."""


@dataclass
class _Step:
    """One tensor between a layer's call and its result: how it is computed from the one before."""

    made: weakref.ref[Tensor]
    compute: Callable[[Tensor], Tensor]


@dataclass
class LayerCall:
    """A layer that has run and whose result nothing has used so far."""

    layer: str
    module: nn.Module
    inputs: Tensor
    window: Window | None = None
    norm: str = ""
    added: Tensor | None = None
    result: Tensor | None = None
    steps: list[_Step] = field(default_factory=list)
    blank: bool = False

    def add(self, made: Tensor, compute: Callable[[Tensor], Tensor]) -> None:
        """Note that the result so far went on to be another tensor."""
        self.steps.append(_Step(weakref.ref(made), compute))
        self.result = made

    def holds(self) -> Iterator[int]:
        """Yield the storages in which results of the layer lie."""
        for step in self.steps:
            made = step.made()
            if made is not None:
                yield storage_of(made)

    def recompute(self) -> None:
        """Write what the layer returns with its present weights into the tensors that the network goes on with."""
        value = self.inputs
        for step in self.steps:
            value = step.compute(value)
            made = step.made()
            if made is not None and made is not value:
                made.copy_(value)
        self.blank = False

    def reading(self) -> Reading:
        """Return what is known of the layer."""
        assert self.result is not None
        return Reading(self.inputs, self.result, self.norm, self.added, self.window)


def storage_of(tensor: Tensor) -> int:
    """Return a number that tensors share which lie in the same memory; 0 for those without plain memory."""
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else 0


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows what chosen layers return, through their norms, until something uses it.

    Args:
        model: In eval mode.
        layers: Dotted names of the layers to follow; each runs at most once.
        found: Called before the operation that uses a result.
        blank: Do not compute the results: they are computed with the weights that the layer has after ``found``.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        found: Callable[[str, Reading], None],
        *,
        blank: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self.layers = layers
        self.found = found
        self.blank = blank
        self.waiting: list[LayerCall] = []
        self.running: LayerCall | None = None
        self.norming: LayerCall | None = None
        self.made: dict[int, weakref.ref[Tensor]] = {}
        self._fresh: set[int] = set()

    def hooks(self) -> ExitStack:
        """Return what removes the hooks that are registered here."""
        stack = ExitStack()
        for layer in self.layers:
            module = self.model.get_submodule(layer)
            stack.callback(module.register_forward_pre_hook(self._entering(layer)).remove)
            stack.callback(module.register_forward_hook(self._leaving).remove)
        for name, module in self.model.named_modules():
            if isinstance(module, _BatchNorm):
                stack.callback(module.register_forward_pre_hook(self._entering_norm(name)).remove)
                stack.callback(module.register_forward_hook(self._leaving_norm).remove)
        return stack

    def finish(self, output: Any) -> None:
        """Report the layers whose results the network itself returns."""
        returned = {storage_of(one) for one in tensors_in(output)}
        self._report([call for call in self.waiting if returned & set(call.holds())])

    def alive(self) -> list[Tensor]:
        """Return the tensors that the forward pass has made and still holds."""
        found = {key: tensor for key, one in self.made.items() if (tensor := one()) is not None}
        self.made = {key: self.made[key] for key in found}
        self._fresh = {storage_of(tensor) for tensor in found.values()}
        return list(found.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._is_own_convolution(func, args):
            if self.waiting:
                # Nothing need stand between two convolutions: the first is used by the second.
                self._before(func, args, kwargs)
            output: Any = self._convolve(func, args)
        elif self.norming is not None:
            blank = self.norming.blank and func is _BATCH_NORM
            output = _blank_norm(args[0]) if blank else func(*args, **kwargs)
        else:
            copied = self._before(func, args, kwargs) if self.waiting else None
            output = func(*args, **kwargs)
            if copied is not None:
                copied.add(output, lambda value: value)
        self._note(func, output)
        return output

    def _note(self, func: Any, output: Any) -> None:
        """Remember what the forward pass has made itself; weights and what else a view may be of are not its own."""
        borrowed = func._schema.is_mutable or _is_view(func)
        for tensor in output if isinstance(output, (tuple, list)) else (output,):
            if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
                continue
            if not borrowed or storage_of(tensor) in self._fresh:
                self._fresh.add(storage_of(tensor))
                self.made[id(tensor)] = weakref.ref(tensor)

    def _is_own_convolution(self, func: Any, args: tuple[Any, ...]) -> bool:
        call = self.running
        if call is None or call.window is not None or func is not _CONVOLUTION or args[6]:
            return False
        weight = call.module._parameters.get("weight")
        return weight is not None and args[1].shape == weight.shape and storage_of(args[1]) == storage_of(weight)

    def _convolve(self, func: Any, args: tuple[Any, ...]) -> Tensor:
        call = self.running
        assert call is not None
        maps, weight = args[:2]
        space = weight.dim() - 2
        stride, padding, dilation = (_as_many(numbers, space) for numbers in args[3:6])
        call.window = Window(tuple(weight.shape[2:]), stride, padding, dilation, int(args[8]))
        call.inputs, call.blank = maps, self.blank
        shape = (*maps.shape[: maps.dim() - space - 1], len(weight), *call.window.outputs(maps.shape[-space:]))
        made: Tensor = _empty(maps, shape) if self.blank else func(*args)
        call.add(made, lambda value: func(value, *args[1:]))
        self.waiting.append(call)
        return made

    def _before(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LayerCall | None:
        """Report the layers whose results an operation uses; of a mere copy return whose it is."""
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        storages = {storage_of(one) for one in tensors}
        written = _written(func, args)
        for call in self.waiting if written else ():
            if storage_of(call.inputs) in written:
                call.inputs = call.inputs.clone()
        used = [call for call in self.waiting if not storages.isdisjoint(call.holds())]
        if not used or _is_view(func):
            return None
        if func in _COPIES and len(used) == 1 and args[0] is used[0].result:
            return used[0]
        if func in _ADDITIONS and kwargs.get("alpha", 1) == 1:
            for call in used:
                call.added = _other(call, args)
        self._report(used)
        return None

    def _report(self, used: list[LayerCall]) -> None:
        for call in used:
            self.waiting.remove(call)
        for call in used:
            for other in used:
                if other is not call and other.blank and call.added is not None:
                    other.recompute()
            self.found(call.layer, call.reading())
            if call.blank or self.blank:
                call.recompute()

    def _entering(self, layer: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def enter(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            if not arguments or not isinstance(arguments[0], Tensor):
                raise InputError(f"layer '{layer}' is not fed one tensor")
            self.running = LayerCall(layer, module, arguments[0])

        return enter

    def _leaving(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        call, self.running = self.running, None
        assert call is not None
        if not isinstance(output, Tensor):
            raise InputError(f"layer '{call.layer}' does not return one tensor")
        if call.window is None:
            call.add(output, lambda value: module.forward(value))
            self.waiting.append(call)

    def _entering_norm(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def enter(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            for call in self.waiting:
                if not call.norm and arguments and arguments[0] is call.result:
                    call.norm, self.norming = name, call

        return enter

    def _leaving_norm(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        call, self.norming = self.norming, None
        if call is not None and isinstance(output, Tensor):
            call.add(output, lambda value: module.forward(value))


class _Reach(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Which marked tensors each tensor of a forward pass was computed from, as bits."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bits: dict[int, int] = {}
        # What was freed could lend its memory, and its bits, to something else.
        self.held: list[Tensor] = []

    def mark(self, tensor: Tensor, number: int) -> None:
        self.bits[storage_of(tensor)] = self.bits.get(storage_of(tensor), 0) | 1 << number

    def of(self, tensors: Iterable[Any]) -> int:
        bits = 0
        for one in tensors:
            bits |= self.bits.get(storage_of(one), 0) if isinstance(one, Tensor) else 0
        return bits

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        bits = self.of(tree_leaves((args, kwargs)))
        for one in tree_leaves(output):
            if isinstance(one, Tensor):
                self.held.append(one)
                self.bits[storage_of(one)] = self.bits.get(storage_of(one), 0) | bits
        for storage in _written(func, args):
            self.bits[storage] = self.bits.get(storage, 0) | bits
        return output


def _other(call: LayerCall, args: tuple[Any, ...]) -> Tensor | None:
    """Return the other summand of an addition to a layer's result, where it is of the same shape."""
    mine = set(call.holds())
    others = [one for one in args[:2] if isinstance(one, Tensor) and storage_of(one) not in mine]
    assert call.result is not None
    same = len(others) == 1 and others[0].shape == call.result.shape
    return others[0] if same and any(one is call.result for one in args[:2]) else None


def tensors_in(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of whatever a network returns: tensors, containers of them, objects that hold them."""
    if isinstance(output, Tensor):
        yield output
        return
    inside = output.values() if isinstance(output, Mapping) else output if isinstance(output, (list, tuple)) else ()
    for one in (*inside, *getattr(output, "__dict__", {}).values()):
        yield from tensors_in(one)


def _written(func: Any, args: tuple[Any, ...]) -> set[int]:
    """Return the storages that an operation writes into."""
    if not func._schema.is_mutable:
        return set()
    pairs = zip(func._schema.arguments, args, strict=False)
    return {
        storage_of(one)
        for about, one in pairs
        if about.alias_info is not None and about.alias_info.is_write and isinstance(one, Tensor)
    }


def _is_view(func: Any) -> bool:
    return any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.arguments)


def _as_many(numbers: Sequence[int], count: int) -> tuple[int, ...]:
    return tuple(numbers) * count if len(numbers) == 1 else tuple(numbers)


def _empty(like: Tensor, shape: Sequence[int]) -> Tensor:
    last = like.dim() == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


def _blank_norm(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(maps), maps.new_empty(0), maps.new_empty(0)


def is_convolution_without_window(module: nn.Module, reading: Reading) -> bool:
    """Return whether a convolution's forward does something else than to convolve with the layer's own weight."""
    return isinstance(module, _ConvNd) and reading.window is None
