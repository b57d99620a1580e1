"""Layers that compute their weight in every forward pass, and plain layers with the same outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from infoprune.network.layers import is_producer

_PLAIN: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
_CALLS = frozenset({"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"})


@dataclass(frozen=True)
class Computed:
    """The plain layer that stands for one with a computed weight.

    Args:
        layer: A convolution or linear layer of PyTorch, with the weight that was computed in eval mode.
        how: Name of the class that computes the weight.

    Example:
        >>> Computed(nn.Linear(2, 1), how="WeightNorm").how
        'WeightNorm'
    """

    layer: nn.Module
    how: str


def is_masked(module: nn.Module) -> bool:
    """Return whether ``torch.nn.utils.prune`` masks a parameter of a layer.

    Example:
        >>> from torch.nn.utils import prune
        >>> is_masked(prune.random_unstructured(nn.Linear(4, 4), "weight", 0.5))
        True
    """
    return any(name.endswith("_mask") and f"{name[:-5]}_orig" in module._parameters for name in module._buffers)


@torch.no_grad()
def computed_layers(model: nn.Module, example: Tensor) -> dict[str, Computed]:
    """Return, by name, the plain layers for all convolutions and linear layers that compute their weight.

    Weight norm, spectral norm and every other parametrization, weight standardisation, low-rank additions and the
    like: the weight that the layer passes to its one call of ``conv2d`` or ``linear`` becomes the weight of the plain
    layer. Layers that do more than this one call with their own input are left out.

    Args:
        model: A copy for this purpose, with the flags of eval mode; it runs once if it has such layers.
        example: ``(n, ...)`` one batch; one input of zeros of that shape is run.

    Example:
        >>> net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 1))).eval()
        >>> found = computed_layers(net, torch.zeros(1, 2))
        >>> {name: one.how for name, one in found.items()}
        {'0': 'WeightNorm'}
    """
    candidates = {name: module for name, module in model.named_modules() if _may_compute(module)}
    if not candidates:
        return {}
    notes: dict[str, list[_Call]] = {name: [] for name in candidates}
    whole: dict[str, tuple[Any, Any]] = {}
    watch = _Watch()
    with ExitStack() as hooks:
        for name, module in candidates.items():
            hooks.callback(module.register_forward_pre_hook(partial(_begin, watch, notes[name])).remove)
            hooks.callback(module.register_forward_hook(partial(_end, watch, whole, name), with_kwargs=True).remove)
        hooks.enter_context(watch)
        model(torch.zeros_like(example[:1]))
    found = {}
    for name, calls in notes.items():
        module = candidates[name]
        if name in whole and len(calls) == 1 and _is_one_call(calls[0], *whole[name]) and _computes(module, calls[0]):
            found[name] = Computed(_plain(module, calls[0]), _how(module))
    return found


def put_plain(model: nn.Module, computed: Mapping[str, Computed], names: Iterable[str]) -> None:
    """Replace layers of a network by plain ones with copies of the same values, in place.

    Example:
        >>> net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 1))).eval()
        >>> found = computed_layers(net, torch.zeros(1, 2))
        >>> put_plain(net, found, ["0"])
        >>> type(net[0]) is nn.Linear
        True
    """
    for name in names:
        if name not in computed:
            continue
        layer, plain = model.get_submodule(name), computed[name].layer
        stored = [p for p in layer.parameters() if p.is_floating_point()]
        fresh = _empty_like(plain)
        for key, value in plain._parameters.items():
            if value is not None:
                like = stored[0]
                trains = any(p.requires_grad for p in stored)
                fresh._parameters[key] = nn.Parameter(value.detach().clone().to(like.device, like.dtype), trains)
        fresh.training = layer.training
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, fresh)


def _may_compute(module: nn.Module) -> bool:
    if not is_producer(module) or is_masked(module):
        return False
    kind = type(module)
    own = set(module._parameters) - {"weight", "bias"}
    changed = all(kind.forward is not plain.forward for plain in _PLAIN)
    inner = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and all(
        getattr(kind, "_conv_forward", None) is not getattr(plain, "_conv_forward", 0) for plain in _PLAIN[:3]
    )
    return bool(own) or changed or inner or "weight" not in module._parameters or parametrize.is_parametrized(module)


@dataclass(frozen=True)
class _Call:
    source: Tensor
    weight: Tensor
    bias: Tensor | None
    output: Tensor


class _Watch(TorchFunctionMode):
    """Records the calls of convolutions and ``linear`` inside chosen layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[list[_Call]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.inside and getattr(func, "__name__", "") in _CALLS:
            named = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            self.inside[-1].append(_Call(named["input"], named["weight"], named.get("bias"), result))
        return result


def _begin(watch: _Watch, calls: list[_Call], module: nn.Module, args: tuple[Any, ...]) -> None:
    watch.inside.append(calls)


def _end(
    watch: _Watch,
    whole: dict[str, tuple[Any, Any]],
    name: str,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
) -> None:
    watch.inside.pop()
    whole[name] = (args[0] if args else next(iter(kwargs.values())), output)


def _is_one_call(call: _Call, source: Any, output: Any) -> bool:
    return call.source is source and call.output is output


def _computes(module: nn.Module, call: _Call) -> bool:
    used = {"weight": call.weight, "bias": call.bias}
    return set(module._parameters) != {"weight", "bias"} or any(
        module._parameters.get(name) is not value for name, value in used.items()
    )


def _plain(module: nn.Module, call: _Call) -> nn.Module:
    layer = _empty_like(module)
    layer._parameters["weight"] = nn.Parameter(call.weight.detach().clone())
    if call.bias is not None:
        layer._parameters["bias"] = nn.Parameter(call.bias.detach().clone())
    return layer


def _empty_like(module: Any) -> nn.Module:
    """Return a plain layer of the same sizes without values."""
    if isinstance(module, nn.Linear):
        layer: nn.Module = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
    else:
        kind: Any = next(kind for kind in _PLAIN if isinstance(module, kind))
        more = {"output_padding": module.output_padding} if module.transposed else {}
        layer = kind(
            module.in_channels,
            module.out_channels,
            module.kernel_size,
            stride=module.stride,
            padding=module.padding,
            dilation=module.dilation,
            groups=module.groups,
            bias=False,
            padding_mode=module.padding_mode,
            device="meta",
            **more,
        )
    layer.training = module.training
    return layer


def _how(module: nn.Module) -> str:
    if parametrize.is_parametrized(module):
        kinds = [type(one).__name__.lstrip("_") for some in module.parametrizations.values() for one in some]  # type: ignore[union-attr, operator]
        return ", ".join(kinds)
    hooks = [type(hook).__name__ for hook in module._forward_pre_hooks.values()]
    return next((name for name in hooks if name in ("WeightNorm", "SpectralNorm")), type(module).__name__)
