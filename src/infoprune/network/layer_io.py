"""Observes the input and output of a layer, and what is added to the output, while the network's own forward runs.

A layer's attributes are not used: a convolution is read from the call in the layer's forward, with the input (padded,
if the forward pads it), stride, padding and dilation of that call.
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
from torch.utils._pytree import tree_leaves

from infoprune.errors import InputError
from infoprune.network.dispatch import Dispatch

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

    Example:
        >>> window = Window(kernel=(3, 3), stride=(2, 2), padding=(1, 1), dilation=(1, 1), groups=1)
        >>> window.outputs((8, 8))
        (4, 4)
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def outputs(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the size of the output maps for input maps of some size."""
        axes = zip(size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes)


@dataclass(frozen=True)
class Reading:
    """One layer in one forward pass.

    Args:
        inputs: ``(n, C, ...)`` the input of the convolution inside the layer's forward, padded if the forward pads; for
            any other layer the input of the module.
        result: The output of the layer, after the batch norm that follows it directly, if there is one.
        norm: Name of that batch norm, empty if there is none.
        added: The tensor of the same shape that is added to ``result`` as the next operation: the other branch of a
            residual block; ``None`` if there is none.
        window: How a convolution moves over ``inputs``; ``None`` for a linear layer, and where the layer's forward
            does not convolve with the layer's own weight.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
        >>> found = read(net, "0", torch.zeros(2, 1, 8, 8))
        >>> tuple(found.inputs.shape), tuple(found.result.shape), found.norm
        ((2, 1, 8, 8), (2, 4, 6, 6), '1')
    """

    inputs: Tensor
    result: Tensor
    norm: str
    added: Tensor | None
    window: Window | None


@torch.no_grad()
def read(model: nn.Module, layer: str, images: Tensor) -> Reading:
    """Run a network in eval mode up to the first operation on the output of a layer, after its norm.

    Raises:
        InputError: The layer does not run, or does not take and return one tensor.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
        >>> found = read(net, "0", torch.zeros(2, 1, 8, 8))
        >>> found.norm, found.window.kernel
        ('1', (3, 3))
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
        # No operation uses its output, but it can still be returned.
        found.append(watch.waiting[0].reading())
    if not found:
        raise InputError(f"layer '{layer}' does not run in the network's forward pass")
    return found[0]


@torch.no_grad()
def calls(model: nn.Module, layers: Iterable[str], images: Tensor) -> list[str]:
    """Return the layers in the order in which they run, one entry per run.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> calls(net, ["1", "0"], torch.zeros(1, 2))
        ['0', '1']
    """
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
    """Return the readings of layers whose output reaches the output of the network, in the order of their use.

    Layers that do not run are left out, and so are layers whose output is not used, such as an unused head.

    Args:
        model: In eval mode.
        layers: Dotted names; each runs at most once.
        images: ``(n, ...)`` a few images.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).eval()
        >>> {layer: tuple(one.result.shape) for layer, one in read_all(net, ["0", "1"], torch.zeros(4, 2)).items()}
        {'0': (4, 3), '1': (4, 1)}
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
    """A layer that has run and whose result no operation has used so far.

    Example:
        >>> call = LayerCall("fc", nn.Linear(2, 1), torch.ones(1, 2), result=torch.zeros(1, 1))
        >>> call.reading().norm
        ''
    """

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
        """Add a step from the result so far to another tensor."""
        self.steps.append(_Step(weakref.ref(made), compute))
        self.result = made

    def holds(self) -> Iterator[int]:
        """Yield the storages in which results of the layer lie."""
        for step in self.steps:
            made = step.made()
            if made is not None:
                yield storage_of(made)

    def recompute(self) -> None:
        """Write the output of the layer with its present weights into the tensors that the network uses next."""
        value = self.inputs
        for step in self.steps:
            value = step.compute(value)
            made = step.made()
            if made is not None and made is not value:
                made.copy_(value)
        self.blank = False

    def reading(self) -> Reading:
        """Return the reading of the layer."""
        assert self.result is not None
        return Reading(self.inputs, self.result, self.norm, self.added, self.window)


def storage_of(tensor: Tensor) -> int:
    """Return a number that identifies the memory of a tensor; 0 for tensors without plain memory.

    Example:
        >>> tensor = torch.zeros(2, 3)
        >>> storage_of(tensor) == storage_of(tensor[0])
        True
    """
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else 0


def _here(compute: Callable[[], Any]) -> Any:
    return compute()


class Watch(Dispatch):
    """Follows the outputs of chosen layers, through their norms, up to the first operation that uses them.

    Args:
        model: In eval mode.
        layers: Dotted names of the layers to follow; each runs at most once.
        found: Called before the operation that uses a result.
        blank: Do not compute the results: they are computed with the weights that the layer has after ``found``.
        where: Calls a function that computes tensors, and returns what it returns; another thread may do so.

    Example:
        >>> net, layers = nn.Sequential(nn.Linear(2, 3), nn.ReLU()).eval(), []
        >>> watch = Watch(net, ["0"], lambda layer, reading: layers.append(layer))
        >>> with torch.no_grad(), watch.hooks(), watch:
        ...     watch.finish(net(torch.zeros(1, 2)))
        >>> layers
        ['0']
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        found: Callable[[str, Reading], None],
        *,
        blank: bool = False,
        where: Callable[[Callable[[], Any]], Any] = _here,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self.layers = layers
        self.found = found
        self.blank = blank
        self.where = where
        self.waiting: list[LayerCall] = []
        self.running: LayerCall | None = None
        self.norming: LayerCall | None = None
        self.made: dict[int, weakref.ref[Tensor]] = {}
        self._fresh: set[int] = set()
        # What autocast made of weights, by storage.
        self._cast: dict[int, tuple[nn.Parameter, weakref.ref[Tensor]]] = {}
        self._caches: list[bool] = []

    def __enter__(self) -> Watch:
        # The cache of autocast belongs to all passes together, and would hold weights from before they were refitted.
        self._caches.append(torch.is_autocast_cache_enabled())
        torch.set_autocast_cache_enabled(False)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        torch.set_autocast_cache_enabled(self._caches.pop())

    def hooks(self) -> ExitStack:
        """Register the hooks, and return the stack that removes them."""
        stack = ExitStack()
        for layer in self.layers:
            module = self.model.get_submodule(layer)
            stack.callback(module.register_forward_pre_hook(self._entering(layer)).remove)
            stack.callback(module.register_forward_hook(self._leaving).remove)
        for name, module in self.model.named_modules():
            # A norm of each batch by itself is no affine map of its input.
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                stack.callback(module.register_forward_pre_hook(self._entering_norm(name)).remove)
                stack.callback(module.register_forward_hook(self._leaving_norm).remove)
        return stack

    def finish(self, output: Any) -> None:
        """Report the layers whose results are returned by the network."""
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
                # A convolution may directly follow another one and use its result.
                self._before(func, args, kwargs)
            output: Any = self._convolve(func, args)
        elif self.norming is not None:
            blank = self.norming.blank and func is _BATCH_NORM
            output = self.where(lambda: _blank_norm(args[0]) if blank else func(*args, **kwargs))
        else:
            copied = self._before(func, args, kwargs) if self.waiting else None
            # A view takes no memory.
            output = func(*args, **kwargs) if _is_view(func) else self.where(lambda: func(*args, **kwargs))
            if func is _aten._to_copy.default and isinstance(args[0], nn.Parameter):
                self._cast[storage_of(output)] = args[0], weakref.ref(output)
            if copied is not None:
                dtype = output.dtype
                copied.add(output, lambda value: value.to(dtype))
        self._note(func, output)
        return output

    def _note(self, func: Any, output: Any) -> None:
        """Record tensors made by the forward pass; weights and views of other tensors are not among them."""
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
        own, used = call.module._parameters.get("weight"), self._before_cast(args[1])
        return own is not None and used.shape == own.shape and storage_of(used) == storage_of(own)

    def _before_cast(self, tensor: Tensor) -> Tensor:
        """Return the weight that autocast made a tensor of, and any other tensor as it is."""
        weight, made = self._cast.get(storage_of(tensor), (tensor, None))
        return tensor if made is None or made() is None else weight

    def _convolve(self, func: Any, args: tuple[Any, ...]) -> Tensor:
        call = self.running
        assert call is not None
        maps, weight = args[:2]
        space = weight.dim() - 2
        stride, padding, dilation = (_as_many(numbers, space) for numbers in args[3:6])
        call.window = Window(tuple(weight.shape[2:]), stride, padding, dilation, int(args[8]))
        call.inputs, call.blank = maps, self.blank
        shape = (*maps.shape[: maps.dim() - space - 1], len(weight), *call.window.outputs(maps.shape[-space:]))
        made: Tensor = self.where(lambda: _empty(maps, shape) if self.blank else func(*args))
        stored = [None if one is None else self._before_cast(one) for one in args[1:3]]
        types, rest = [one if one is None else one.dtype for one in args[1:3]], args[3:]

        def compute(value: Tensor) -> Tensor:
            present = [one if one is None else one.to(dtype) for one, dtype in zip(stored, types, strict=True)]
            result: Tensor = func(value, *present, *rest)
            return result

        call.add(made, compute)
        self.waiting.append(call)
        return made

    def _before(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LayerCall | None:
        """Report the layers whose results an operation uses; for a copy return the call it belongs to."""
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        storages = {storage_of(one) for one in tensors}
        written = _written(func, args)
        for call in self.waiting if written else ():
            if storage_of(call.inputs) in written:
                call.inputs = self.where(call.inputs.clone)
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
                    self.where(other.recompute)
            # What is computed of a result is not the network's: its own autocast does not apply.
            with torch.autocast(call.inputs.device.type, enabled=False):
                self.found(call.layer, call.reading())
            if call.blank or self.blank:
                self.where(call.recompute)

    def _entering(self, layer: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def enter(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            if not arguments or not isinstance(arguments[0], Tensor):
                raise InputError(f"layer '{layer}' does not receive one tensor")
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


class _Reach(Dispatch):
    """Records as bits which marked tensors each tensor of a forward pass was computed from."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bits: dict[int, int] = {}
        # A freed tensor could pass its memory, and its bits, to another one.
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
    """Return the other summand of an addition to a layer's result, if it has the same shape."""
    mine = set(call.holds())
    others = [one for one in args[:2] if isinstance(one, Tensor) and storage_of(one) not in mine]
    assert call.result is not None
    same = len(others) == 1 and others[0].shape == call.result.shape
    return others[0] if same and any(one is call.result for one in args[:2]) else None


def tensors_in(output: Any) -> Iterator[Tensor]:
    """Yield the tensors in the output of a network: tensors, containers of them, objects that hold them.

    Example:
        >>> [len(one) for one in tensors_in({"logits": torch.zeros(3), "maps": [torch.zeros(2)]})]
        [3, 2]
    """
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
    """Return whether a convolution's forward does not convolve with the layer's own weight.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3)).eval()
        >>> is_convolution_without_window(net[0], read(net, "0", torch.zeros(1, 1, 8, 8)))
        False
    """
    return isinstance(module, _ConvNd) and reading.window is None
