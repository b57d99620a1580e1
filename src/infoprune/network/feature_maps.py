"""Streams the feature maps of chosen layers batch by batch. The network is not changed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from infoprune.data.batches import Batches, parsed
from infoprune.device import place_of
from infoprune.errors import InputError, unknown
from infoprune.network.execution_order import calls
from infoprune.network.taps import TAPS as TAPS
from infoprune.network.taps import Tap as Tap

Consumer = Callable[[str, Tensor, "Tensor | None"], None]

NORMS = frozenset({"batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"})
GATES = frozenset({"sigmoid", "sigmoid_", "hardsigmoid"})
ACTIVATIONS = GATES | {
    *("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "rrelu", "rrelu_", "prelu", "elu", "elu_", "celu"),
    *("celu_", "selu", "selu_", "gelu", "silu", "mish", "hardswish", "hardtanh", "hardtanh_", "tanh", "tanh_"),
    *("softplus", "softsign", "tanhshrink", "softshrink", "hardshrink", "log_sigmoid", "threshold", "threshold_"),
    *("clamp", "clamp_", "clamp_min", "clamp_min_", "clip", "clip_"),
}
PRODUCTS = frozenset({"mul", "mul_", "multiply", "multiply_", "__mul__", "__imul__", "__rmul__"})
PASSED_THROUGH = frozenset(
    {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "contiguous", "to", "float", "half"}
)
LOOKED_AT = frozenset({"detach", "clone"})


def capture(
    model: nn.Module,
    batches: Batches,
    layers: Sequence[str],
    tap: Tap,
    consume: Consumer,
    *,
    device: torch.device | str | None = None,
    labelled: bool = True,
) -> int:
    """Run the network over the batches and hand the feature maps of some layers to a consumer, batch by batch.

    The network runs in eval mode without gradients. Afterwards, also after an exception, its hooks, the train or eval
    mode of every submodule, ``requires_grad`` and the random states of Python, NumPy and PyTorch are as before.
    At most the maps of one batch are in memory: a layer's maps are passed to the consumer, as a copy it may keep, after
    the last run of the layer in the forward pass.

    Args:
        model: The network; it runs on the device and in the precision of its parameters.
        batches: ``(images, labels)`` pairs, dicts or images alone: ``(n, ...)`` tensors on any device.
        layers: Dotted names of convolution or linear layers.
        tap: Where the maps are read: ``"convolution"``, the output of the layer itself; ``"norm"``, after a norm that
            follows it directly; ``"activation"``, after the norm if one follows, then the activation if one follows.
            Modules and functions are treated alike. Without a norm or activation the maps are read at the last point
            reached: for the last convolution of a residual block the output of its batch norm, before the addition.
        consume: Called as ``consume(layer, maps, labels)`` once per layer and batch. ``maps`` is ``(n, C, H, W)``;
            ``(n, C, 1, 1)`` for linear layers; ``(n, C, 1, D)`` where the maps have another number of axes or where
            the layer runs several times in one forward pass: then the maps of all calls, side by side. ``labels``
            is ``(n,)`` on the device of the maps, ``None`` where the batches have none. Layers that do not run on
            images of some size are skipped for these.
        device: Where the batches are moved; by default to the device of the network.
        labelled: Whether labels are read, one class index per image or none. If not, labels of other form are ignored.

    Returns:
        The number of images.

    Raises:
        InputError: An unknown layer or tap, a layer that does not run, no images at all, a batch of another form,
            labels that do not match the images, or maps that are not finite.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
        >>> def consume(layer, maps, labels):
        ...     print(layer, tuple(maps.shape))
        >>> capture(net, [torch.zeros(2, 1, 8, 8)], ["0"], "activation", consume)
        0 (2, 4, 6, 6)
        2
    """
    modules = _find(model, layers)
    if tap not in TAPS:
        raise unknown("tap", tap, TAPS)
    place, dtype = place_of(model)
    place = torch.device(device) if device is not None else place
    images_seen = 0
    with _left_as_it_was(model), torch.no_grad():
        runs: dict[torch.Size, Counter[str]] = {}
        for batch in parsed(batches):
            images = batch.placed(place, dtype)
            labels = batch.classes() if labelled else batch.known_classes()
            # Which layers run, and how many times, may depend on the size of the images.
            if images.shape[1:] not in runs:
                runs[images.shape[1:]] = _calls_per_layer(model, modules, images)
            running = runs[images.shape[1:]]
            here = {layer: modules[layer] for layer in modules if running[layer]}
            _run(model, here, images, _Delivery(tap, running, labels, len(images), consume))
            images_seen += len(images)
    for layer in modules:
        if not any(counted[layer] for counted in runs.values()):
            raise InputError(f"layer '{layer}' does not run in the network's forward pass: leave it out")
    return images_seen


def _find(model: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("feature maps of a TorchScript network cannot be read: pass the network it was made from")
    known = dict(model.named_modules(remove_duplicate=False))
    for layer in layers:
        if layer not in known or not layer:
            raise unknown("layer", layer, [name for name in known if name])
    return {layer: known[layer] for layer in layers}


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    # The flags are set one by one: train() and eval() may be overridden, to freeze norms or to fold weights.
    modes = [(module, module.training) for module in model.modules()]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - a loader may draw from the global one
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices):
        try:
            for module, _ in modes:
                module.training = False
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def _calls_per_layer(model: nn.Module, modules: dict[str, nn.Module], images: Tensor) -> Counter[str]:
    return Counter(call.module for call in calls(model, images[:2], modules))


class _Delivery:
    """The maps of one forward pass on their way to the consumer."""

    def __init__(self, tap: Tap, calls: Counter[str], labels: Tensor | None, images: int, consume: Consumer) -> None:
        self.tap = tap
        self.calls = calls
        self.labels = labels
        self.images = images
        self.consume = consume
        self.waiting: dict[str, list[Tensor]] = {}
        self.done: set[str] = set()

    def hand_over(self, layer: str, output: Tensor, channels_last: bool) -> None:
        maps = _as_maps(output, channels_last)
        if len(maps) != self.images:
            raise InputError(f"layer '{layer}' returned {len(maps)} maps for {self.images} images: it cannot be scored")
        # The sum is much faster to check than all values; a sum that is not finite may have overflowed.
        if not torch.isfinite(maps.sum()) and not torch.isfinite(maps).all():
            raise InputError(f"the feature maps of layer '{layer}' are not finite: weights or images may hold NaN")
        if layer in self.done:
            raise self.uneven(layer)
        # A copy: the network may change this tensor in place later.
        parts = self.waiting.setdefault(layer, [])
        parts.append(maps.clone(memory_format=torch.contiguous_format))
        if len(parts) == self.calls[layer]:
            self.finish(layer)

    def finish(self, layer: str) -> None:
        parts = self.waiting.pop(layer)
        maps = parts[0] if len(parts) == 1 else torch.cat([part.flatten(2) for part in parts], dim=2).unsqueeze(2)
        self.done.add(layer)
        self.consume(layer, maps, None if self.labels is None else self.labels.to(maps.device))

    def end(self) -> None:
        for layer in self.calls:
            if layer not in self.done:
                raise self.uneven(layer)

    def uneven(self, layer: str) -> InputError:
        return InputError(f"layer '{layer}' runs a different number of times on different images: leave it out")


def _as_maps(output: Tensor, channels_last: bool) -> Tensor:
    if channels_last:
        return output.unsqueeze(1).flatten(1, -2).transpose(1, 2).unsqueeze(2)
    return output if output.dim() == 4 else output.flatten(2).unsqueeze(2)


def _run(model: nn.Module, modules: dict[str, nn.Module], images: Tensor, delivery: _Delivery) -> None:
    follow = _Follow(delivery)
    with ExitStack() as stack:
        for layer, module in modules.items():
            # The filters of a linear layer are its last axis.
            begin = partial(follow.start, layer, isinstance(module, nn.Linear))
            stack.callback(module.register_forward_hook(begin).remove)
        stack.enter_context(follow)
        model(images)
    follow.end()


@dataclass(eq=False)
class _Trail:
    """The current position of the maps of one call of one layer."""

    layer: str
    tensor: Tensor
    channels_last: bool
    version: int
    normed: bool = False
    gate: Tensor | None = None


class _Follow(TorchFunctionMode):
    """Follows the outputs of layers, by identity, through the norm and the activation applied to them.

    The first function that takes a followed tensor and returns another one decides: a norm or an activation is
    followed, any other function ends the trail. The maps are handed over before a function changes them in place.
    """

    def __init__(self, delivery: _Delivery) -> None:
        super().__init__()
        self.delivery = delivery
        self.trails: list[_Trail] = []

    def start(self, layer: str, channels_last: bool, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise InputError(f"layer '{layer}' returns {type(output).__name__}, not a tensor: leave it out")
        if self.delivery.tap == "convolution":
            self.delivery.hand_over(layer, output, channels_last)
        else:
            self.trails.append(_Trail(layer, output, channels_last, _version(output)))

    def end(self) -> None:
        for trail in list(self.trails):
            self._hand_over(trail)
        self.delivery.end()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.trails:
            return func(*args, **kwargs)
        taken = {id(tensor) for tensor in _tensors((*args, *kwargs.values()))}
        met = [trail for trail in self.trails if id(trail.tensor) in taken or id(trail.gate) in taken]
        if not met:
            return func(*args, **kwargs)
        name = _name(func)
        if name in LOOKED_AT:
            return func(*args, **kwargs)
        ending = [trail for trail in met if not self._goes_on(trail, name, taken)]
        if _works_in_place(name, kwargs):
            for trail in ending:
                self._hand_over(trail)
        result = func(*args, **kwargs)
        if isinstance(result, (Tensor, list, tuple)) and _makes_maps(result):
            for trail in met:
                self._step(trail, name, result, trail in ending)
        return result

    def _goes_on(self, trail: _Trail, name: str, taken: set[int]) -> bool:
        if trail.gate is not None:
            return name in PRODUCTS and {id(trail.tensor), id(trail.gate)} <= taken
        if name in NORMS:
            return not trail.normed
        return name in PASSED_THROUGH or (name in ACTIVATIONS and self.delivery.tap == "activation")

    def _step(self, trail: _Trail, name: str, result: Any, ending: bool) -> None:
        if trail not in self.trails:
            return
        if ending or not isinstance(result, Tensor):
            self._hand_over(trail)
        elif name in GATES and result is not trail.tensor:
            # x * sigmoid(x) is one activation: the next function that takes the gate decides.
            trail.gate = result
        else:
            trail.tensor, trail.gate, trail.version = result, None, _version(result)
            trail.normed = trail.normed or name in NORMS
            if name not in PASSED_THROUGH and (name not in NORMS or self.delivery.tap == "norm"):
                self._hand_over(trail)

    def _hand_over(self, trail: _Trail) -> None:
        self.trails.remove(trail)
        if _version(trail.tensor) != trail.version and trail.gate is None:
            raise InputError(
                f"the output of layer '{trail.layer}' is changed in place by an operation that cannot be followed: "
                "read its maps at the tap 'convolution'"
            )
        self.delivery.hand_over(trail.layer, trail.tensor if trail.gate is None else trail.gate, trail.channels_last)


def _name(func: Callable[..., Any]) -> str:
    # Names as in torch: torch.ops.aten.relu.default, and F.threshold, whose own name is _threshold.
    name = getattr(func, "__name__", "").split(".")[0]
    return name if name.startswith("__") else name.lstrip("_")


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (part for part in value if isinstance(part, Tensor))


def _works_in_place(name: str, kwargs: dict[str, Any]) -> bool:
    special = name.startswith("__") and name.endswith("__")
    changing = name.startswith("__i") or name in ("__setitem__", "__set__") if special else name.endswith("_")
    return changing or kwargs.get("out") is not None or bool(kwargs.get("inplace"))


def _makes_maps(result: Any) -> bool:
    return any(tensor.is_floating_point() for tensor in _tensors([result]))


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
