"""Compares a pruned network with the masked one, from their weights alone: no code of a pruning tool is used.

Every weight tensor of the whole network has distinct values, so the kept filters and inputs of each layer are found by
looking the values of the pruned network up in it. The masked network is the whole one with zeros at all other channels,
where they leave a layer and where they enter one. Both run in double precision, where the network does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

TOLERANCE = 1e-8
# Where a weight is computed, the pruned network holds it in single precision; and some networks run in no other.
SINGLE_TOLERANCE = 1e-4
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Verdict:
    """What the comparison found.

    Args:
        status: ``right`` or ``wrong``.
        difference: Largest difference of any output, relative to the largest output.
        reason: Why it is wrong; empty otherwise.
        tensors: Number of output tensors that were compared.
    """

    status: str
    difference: float | None = None
    reason: str = ""
    tensors: int = 0


@torch.no_grad()
def randomise(model: nn.Module, example: Tensor) -> None:
    """Give every layer values that hide no error: distinct, none zero, and activations that pass each ReLU."""
    random = torch.Generator().manual_seed(1)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or not parameter.is_floating_point():
                continue
            if parameter.ndim == 1 and name in ("weight", "bias"):
                is_norm = not isinstance(module, (*CONVOLUTIONS, nn.Linear))
                low, high = (0.5, 1.0) if is_norm else (0.02, 0.1)
                parameter.copy_(_distinct(parameter, low, high, random))
            elif parameter.ndim == 1 or name not in ("weight", "bias"):
                # Layer scales begin near zero.
                parameter.add_(_distinct(parameter, 0.05, 0.15, random))
    # Statistics of this input, changed a little in every channel.
    norms = [module for module in model.modules() if isinstance(getattr(module, "running_mean", None), Tensor)]
    _own_statistics(model, example, norms)
    for norm in norms:
        deviation = norm.running_var.clamp(min=1e-4).sqrt()
        norm.running_mean.add_(deviation * _distinct(deviation, -0.2, 0.2, random))
        norm.running_var.clamp_(min=1e-4).mul_(_distinct(deviation, 0.8, 1.2, random))
        for name in ("weight", "bias"):  # a frozen norm holds buffers
            if isinstance(norm._buffers.get(name), Tensor):
                norm._buffers[name].copy_(_distinct(deviation, 0.5, 1.0, random))


def judged(whole: nn.Module, small: nn.Module, example: Tensor) -> Verdict:
    """Compare the pruned network with the masked one.

    Args:
        whole: The network before pruning; it is changed here.
        small: The pruned network, with the weights of the whole one; it is changed here.
        example: ``(n, ...)`` inputs.
    """
    weights = _weights_in_use(whole, example)
    try:
        kept = list(_kept(whole, small, weights))
    except _AlteredError as error:
        return Verdict("wrong", reason=str(error))
    computed = any(whole.get_submodule(name)._parameters.get("weight") is None for name, _, _ in kept)
    single = not _runs_in_double(whole, example)
    if not single:
        whole, small, example = whole.double(), small.double(), example.double()
    whole.eval(), small.eval()
    for name, outputs, inputs in kept:
        _mask(whole.get_submodule(name), outputs, inputs)
    with torch.no_grad():
        torch.manual_seed(0)
        expected = list(tensors(whole(example)))
        try:
            torch.manual_seed(0)
            found = list(tensors(small(example)))
        except Exception as error:
            return Verdict("wrong", reason=f"does not run: {_first_line(error)}")
    return _compared(expected, found, SINGLE_TOLERANCE if computed or single else TOLERANCE)


def _runs_in_double(model: nn.Module, example: Tensor) -> bool:
    try:
        with torch.no_grad():
            model.double()(example.double())
    except RuntimeError:  # its code makes values in single precision
        return False
    finally:
        model.float()
    return True


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield every tensor of an output."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors(one)
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors(getattr(value, field.name))


def _compared(expected: list[Tensor], found: list[Tensor], tolerance: float) -> Verdict:
    shapes = [[tuple(one.shape) for one in some] for some in (expected, found)]
    if shapes[0] != shapes[1]:
        return Verdict("wrong", reason=f"returns shapes {shapes[1]} in place of {shapes[0]}")
    pairs = [(one, other) for one, other in zip(expected, found, strict=True) if one.numel()]
    if not pairs or not all(bool(torch.isfinite(one).all()) for one, _ in pairs):
        return Verdict("wrong", reason="the masked network has no finite outputs to compare")
    largest = max(float(one.abs().max()) for one, _ in pairs)
    difference = max(float((one.double() - other.double()).abs().max()) for one, other in pairs) / (largest or 1.0)
    reason = "" if difference <= tolerance else "differs from the masked network"
    return Verdict("wrong" if reason else "right", difference, reason, len(pairs))


class _AlteredError(Exception):
    """The pruned network holds a weight that is no part of the whole one."""


Kept = tuple[str, "list[int] | None", "list[list[int]] | None"]
"""Layer, its kept outputs, and the kept inputs of each of its groups; ``None`` where all are kept."""


def _kept(whole: nn.Module, small: nn.Module, weights: dict[str, Tensor]) -> Iterator[Kept]:
    modules = dict(small.named_modules())
    for name, module in whole.named_modules():
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)) and name in weights:
            yield from _kept_of_layer(name, module, weights[name], modules[name])
        elif isinstance(getattr(module, "running_mean", None), Tensor) or isinstance(module, nn.GroupNorm):
            before, after = _rows(module), _rows(modules[name])
            if before is not None and after is not None and len(after) < len(before):
                yield name, _found(name, before, after), None


def _rows(module: nn.Module) -> Tensor | None:
    """Return all values per channel of a norm, one row per channel."""
    stored = {**module._parameters, **module._buffers}
    columns = [one for one in stored.values() if isinstance(one, Tensor) and one.ndim == 1]
    return torch.stack([one.detach() for one in columns], 1) if columns else None


def _found(name: str, before: Tensor, after: Tensor) -> list[int]:
    places = {tuple(row): index for index, row in enumerate(before.tolist())}
    try:
        return [places[tuple(row)] for row in after.tolist()]
    except KeyError as error:
        raise _AlteredError(f"'{name}' holds values that the whole network does not have there") from error


def _kept_of_layer(name: str, module: Any, weight: Tensor, small: Any) -> Iterator[Kept]:
    after = small.weight.detach()
    if weight.shape == after.shape:
        if not torch.equal(weight, after):
            raise _AlteredError(f"the weight of '{name}' has other values")
        return
    groups, fewer = getattr(module, "groups", 1), getattr(small, "groups", 1)
    if getattr(module, "transposed", False):
        if groups > 1:
            raise _AlteredError(f"'{name}' is a transposed convolution in groups, which this check does not read")
        weight, after = weight.transpose(0, 1), after.transpose(0, 1)
    before, after = (one.reshape(*one.shape[:2], -1) for one in (weight, after))
    rows = _kept_rows(name, before, after)
    columns = []
    for group in range(fewer):
        first = group * (len(rows) // fewer)
        # A few rows: in one row alone, two inputs may have equal values.
        some = range(first, first + min(4, len(rows) // fewer))
        wide = torch.cat([before[rows[row]] for row in some], 1)
        inputs = _kept_columns(name, wide, torch.cat([after[row] for row in some], 1))
        same_group = rows[first : first + len(rows) // fewer]
        if not torch.equal(before[same_group][:, inputs], after[first : first + len(rows) // fewer]):
            raise _AlteredError(f"the weight of '{name}' is no part of the whole one")
        shift = rows[first] // (len(before) // groups) * before.shape[1]
        columns.append([shift + index for index in inputs])
    everything = groups == fewer and after.shape[1] == before.shape[1]
    yield name, rows if len(rows) < len(before) else None, None if everything else columns


def _kept_rows(name: str, before: Tensor, after: Tensor) -> list[int]:
    """Find each row of ``after`` in ``before``, by values that both have; large tensors have a few equal values."""
    values, order = before.flatten().sort()
    size = before.shape[1] * before.shape[2]
    probes = after.flatten(1)[:, :: max(1, after.flatten(1).shape[1] // 8)]
    low, high = (torch.searchsorted(values, probes.contiguous(), right=right) for right in (False, True))
    found = []
    for lows, highs in zip(low.tolist(), high.tolist(), strict=True):
        candidates = [set((order[a:b] // size).tolist()) for a, b in zip(lows, highs, strict=True)]
        common = set.intersection(*candidates)
        if len(common) != 1:
            raise _AlteredError(f"a filter of '{name}' is {'not' if not common else 'more than once'} in the whole one")
        found.append(common.pop())
    return found


def _kept_columns(name: str, before: Tensor, after: Tensor) -> list[int]:
    places = {tuple(row): index for index, row in enumerate(before.tolist())}
    try:
        return [places[tuple(row)] for row in after.tolist()]
    except KeyError as error:
        raise _AlteredError(f"an input of '{name}' is not in the whole one") from error


def _mask(module: Any, outputs: list[int] | None, inputs: list[list[int]] | None) -> None:
    axis = -1 if isinstance(module, nn.Linear) else 1

    def only(tensor: Tensor, kept: list[int]) -> Tensor:
        gate = torch.zeros(tensor.shape[axis], dtype=tensor.dtype)
        gate[kept] = 1
        shape = [1] * tensor.ndim
        shape[axis] = -1
        return tensor * gate.view(shape)

    if outputs is not None:
        module.register_forward_hook(lambda _module, _args, output: only(output, outputs))
    if inputs is not None:
        flat = [index for some in inputs for index in some]
        module.register_forward_pre_hook(lambda _module, args: (only(args[0], flat), *args[1:]))


class _Calls(TorchFunctionMode):
    """Notes the weight that each layer passes to a convolution or to ``linear``."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[str] = []
        self.weights: dict[str, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if self.running and (name.startswith("conv") or name == "linear"):
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            self.weights.setdefault(self.running[-1], weight.detach())
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _weights_in_use(model: nn.Module, example: Tensor) -> dict[str, Tensor]:
    calls = _Calls()
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: calls.running.append(name)))
            handles.append(module.register_forward_hook(lambda *_: calls.running.pop() and None))
    with calls:
        model(example)
    for handle in handles:
        handle.remove()
    return calls.weights


def _own_statistics(model: nn.Module, example: Tensor, norms: list[Any]) -> None:
    """Set the statistics of each batch norm to those of its input, where it first runs."""
    done: set[int] = set()

    def take(module: Any, args: tuple[Any, ...]) -> None:
        if id(module) not in done and isinstance(args[0], Tensor):
            done.add(id(module))
            rows = args[0].movedim(1, 0).flatten(1)
            module.running_mean.copy_(rows.mean(1))
            module.running_var.copy_(rows.var(1, correction=0) + 0.1 * rows.var(correction=0) + 1e-4)

    handles = [norm.register_forward_pre_hook(take) for norm in norms]
    model(example)
    for handle in handles:
        handle.remove()


def _distinct(like: Tensor, low: float, high: float, random: torch.Generator) -> Tensor:
    """Return values between two bounds, all different, in random order."""
    steps = torch.randperm(like.numel(), generator=random).view(like.shape)
    return (low + (high - low) * (steps + 0.5) / like.numel()).to(like)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().split("\n") or [""])[0][:200] or type(error).__name__


def duplicated(model: nn.Module) -> nn.Module:
    """Return an independent copy."""
    return copy.deepcopy(model)
