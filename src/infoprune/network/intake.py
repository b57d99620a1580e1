"""Refuses networks that cannot be cut, and names what to pass instead."""

from __future__ import annotations

import torch
from torch import nn

from infoprune.errors import InputError

_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")
_PREPARED = ("torch.ao.quantization", "torch.ao.nn.qat", "torch.ao.nn.intrinsic.qat")
_PARALLEL = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "_FabricModule")


def check_network(model: nn.Module) -> None:
    """Refuse a network that cannot be copied and cut, and name the one to pass instead.

    Args:
        model: Any network.

    Raises:
        InputError: It is no network, or it is wrapped for parallel training, compiled, scripted, quantised, prepared
            for quantisation, lies on several devices, or has layers whose sizes are not known yet.

    Example:
        >>> check_network(nn.DataParallel(nn.Linear(2, 2)))
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: a network inside DataParallel cannot be cut: pass model.module, and wrap the result
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"the network must be a torch.nn.Module, not {type(model).__name__}")
    for name, module in model.named_modules():
        reason = _reason(module)
        if reason:
            place = f" (submodule '{name}')" if name else ""
            raise InputError(f"{reason}{place}")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "a scripted or traced network cannot be cut: pass the one it was made from, and script the result"
        )
    devices = sorted({str(tensor.device) for tensor in [*model.parameters(), *model.buffers()]})
    if len(devices) > 1:
        raise InputError(
            f"the network lies on several devices, {' and '.join(devices)}: move it to one, as by "
            f"model.to('{devices[0]}')"
        )
    if any(nn.parameter.is_lazy(tensor) for tensor in [*model.parameters(), *model.buffers()]):
        raise InputError("the network has layers whose sizes are not known yet: run one batch through it first")


def _reason(module: nn.Module) -> str:
    kind, home = type(module).__name__, type(module).__module__
    if kind in _PARALLEL:
        return f"a network inside {kind.lstrip('_')} cannot be cut: pass model.module, and wrap the result"
    if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
        return (
            "a compiled network cannot be cut: pass the one before torch.compile or compile(), and compile the result"
        )
    if home.startswith(_QUANTISED) or any(p.is_quantized for p in module._parameters.values() if p is not None):
        return "a quantised network cannot be cut: prune the one in floating point, then quantise the result"
    if home.startswith(_PREPARED):
        return "a network that is prepared for quantisation cannot be cut: prune first, then prepare the result"
    return ""
