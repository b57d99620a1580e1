"""What a layer is fed, what comes of it, and what is added to that: read from one forward pass that stops there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from infoprune.errors import InputError
from infoprune.network.feature_maps import LOOKED_AT, NORMS, PASSED_THROUGH

ADDITIONS = frozenset({"add", "add_", "__add__", "__iadd__", "__radd__"})


@dataclass(frozen=True)
class Reading:
    """One layer in one forward pass.

    Args:
        inputs: What the layer is fed.
        result: What it gives, after the batch norm that follows it directly, if one does.
        norm: Name of that batch norm, empty where there is none.
        added: What is added to ``result`` before anything else happens to it, of its shape: the other branch of a
            residual block; ``None`` where nothing is.
    """

    inputs: Tensor
    result: Tensor
    norm: str
    added: Tensor | None


@torch.no_grad()
def read(model: nn.Module, layer: str, images: Tensor) -> Reading:
    """Run a network in eval mode until the output of a layer has gone through its norm and its addition.

    Raises:
        InputError: The layer does not run, or does not take and give one tensor.
    """
    watch = _Watch(model, layer)
    try:
        with watch.hooks(), watch:
            model(images)
    except _ReadEnoughError:
        pass
    return watch.reading()


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


class _ReadEnoughError(Exception):
    """The rest of the forward pass is not needed."""


class _Watch(TorchFunctionMode):
    """Follows the output of one layer, by identity, through its norm to an addition."""

    def __init__(self, model: nn.Module, layer: str) -> None:
        super().__init__()
        self.model = model
        self.layer = layer
        self.inputs: Tensor | None = None
        self.tensor: Tensor | None = None
        self.result: Tensor | None = None
        self.entered = ""
        self.norm = ""
        self.added: Tensor | None = None

    def hooks(self) -> ExitStack:
        stack = ExitStack()
        layer = self.model.get_submodule(self.layer)
        stack.callback(layer.register_forward_pre_hook(self._before).remove)
        stack.callback(layer.register_forward_hook(self._after).remove)
        for name, module in self.model.named_modules():
            if isinstance(module, _BatchNorm):
                stack.callback(module.register_forward_pre_hook(self._entering(name)).remove)
        return stack

    def reading(self) -> Reading:
        if self.inputs is None or self.result is None:
            raise InputError(f"layer '{self.layer}' does not run in the network's forward pass")
        return Reading(self.inputs, self.result, self.norm, self.added)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.tensor is None or not any(one is self.tensor for one in (*_flat(args), *kwargs.values())):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "").split(".")[0]
        if name in ADDITIONS:
            others = [one for one in args if isinstance(one, Tensor) and one is not self.tensor]
            if len(others) == 1 and others[0].shape == self.tensor.shape:
                self.added = others[0].clone()
            raise _ReadEnoughError
        given = func(*args, **kwargs)
        if name in NORMS and self.entered and not self.norm:
            self.norm, self.tensor, self.result = self.entered, given, given.clone()
        elif name in PASSED_THROUGH | LOOKED_AT and isinstance(given, Tensor):
            self.tensor = given
        elif isinstance(given, Tensor):
            raise _ReadEnoughError
        return given

    def _before(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if not arguments or not isinstance(arguments[0], Tensor):
            raise InputError(f"layer '{self.layer}' is not fed one tensor")
        self.inputs = arguments[0].clone()

    def _after(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, Tensor):
            raise InputError(f"layer '{self.layer}' does not give one tensor")
        self.tensor, self.result = output, output.clone()

    def _entering(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def enter(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            self.entered = name if self.tensor is not None and arguments and arguments[0] is self.tensor else ""

        return enter


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value
