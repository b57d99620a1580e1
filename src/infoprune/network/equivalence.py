"""Whether a cut network computes what the whole one does with those channels at zero."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from infoprune.errors import InputError
from infoprune.network.removal import Removal, cut, hold_at_zero

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Largest difference, relative to the largest output, that rounding explains."""


def placed(example: Tensor, model: nn.Module) -> Tensor:
    """Return the example where the network is and in its precision.

    Raises:
        InputError: The example is not a batch.
    """
    if not isinstance(example, Tensor) or example.ndim < 2 or len(example) == 0:
        shape = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise InputError(f"the example must be one batch of inputs, such as a (2, 3, 32, 32) tensor, not {shape}")
    stored = next((p for p in model.parameters() if p.is_floating_point()), None)
    if stored is None:
        return example.detach()
    return example.detach().to(stored.device, stored.dtype if example.is_floating_point() else None)


def duplicate(model: nn.Module) -> nn.Module:
    """Return an independent copy.

    Raises:
        InputError: The network cannot be copied.
    """
    if hasattr(model, "_orig_mod") or isinstance(model, torch.jit.ScriptModule):
        raise InputError("a compiled network cannot be cut: give the one it was compiled from, and compile the result")
    if any(nn.parameter.is_lazy(tensor) for tensor in [*model.parameters(), *model.buffers()]):
        raise InputError("the network has layers whose sizes are not known yet: run one batch through it first")
    # Values that a layer computed and kept, as the older weight norm does, cannot be copied with their history.
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    known: dict[int, Any] = {id(value): value.detach().clone() for value in kept if not value.is_leaf}
    try:
        return copy.deepcopy(model, known)
    except Exception as error:
        raise InputError(f"the network cannot be copied: {one_line(error)}") from error


def copied(model: nn.Module) -> nn.Module:
    """Return an independent copy in eval mode and in full precision.

    Raises:
        InputError: The network cannot be copied.
    """
    double = duplicate(model).eval()
    halves = any(p.dtype in (torch.float16, torch.bfloat16) for p in double.parameters())
    return double.float() if halves else double


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy in which no weight, bias or statistic is at a value that would hide an error, such as zero.

    Norms get random scales, shifts and statistics; all other parameters get a little noise on top of what they are,
    so that the copy passes signals as the network does.
    """
    model = copied(model)
    with torch.no_grad():
        for module in model.modules():
            norm = hasattr(module, "running_mean") or isinstance(module, nn.GroupNorm | nn.LayerNorm)
            for index, (name, tensor) in enumerate([*module._parameters.items(), *module._buffers.items()]):
                if tensor is None or not tensor.is_floating_point():
                    continue
                noise = _uniform(tensor, seed + index)
                if norm and name == "weight":
                    tensor.copy_(1 + noise / 2)
                elif norm and name == "running_var":
                    tensor.mul_(1 + noise / 2).add_(tensor.mean() / 10)
                elif norm:
                    tensor.add_(noise * (tensor.std() if name == "running_mean" and tensor.numel() > 1 else 0.5))
                elif isinstance(tensor, nn.Parameter):
                    tensor.add_(noise * (0.1 if tensor.ndim < 2 else 0.2 * tensor[0].numel() ** -0.5))
            seed += 101
    return model


def test_of(model: nn.Module, example: Tensor) -> tuple[nn.Module, Tensor]:
    """Return a randomised copy and one input of the example, to try cuts on.

    Both are in double precision, where an error however small is far above rounding, unless the network cannot run
    in it.
    """
    test = randomised(model, seed=0)
    example = placed(example, test)[:1]
    try:
        outputs(test.double(), example.double())
    except Exception:  # a device without it, or numbers of fixed precision in the network's code
        return test.float(), example
    return test, example.double()


def gap(test: nn.Module, removal: Removal, example: Tensor, *, trains: bool = False) -> float:
    """Cut a copy, hold the same channels of the whole at zero, and return how far their outputs are apart.

    Args:
        test: The whole network, in eval mode; it is not changed.
        removal: What goes.
        example: ``(n, ...)`` a batch.
        trains: Whether the cut network must run in train mode as well.

    Returns:
        The largest absolute difference over the example, relative to the largest absolute output.

    Raises:
        Exception: Whatever the cut network raises when it cannot run.
    """
    small = duplicate(test)
    cut(small, removal)
    found = outputs(small, example)
    handles = hold_at_zero(test, removal)
    try:
        difference, scale = compare(outputs(test, example), found)
    finally:
        for handle in handles:
            handle.remove()
    if trains:
        outputs(small.train(), example.repeat(2, *[1] * (example.ndim - 1)))
    return difference / scale


def masked(model: nn.Module, removal: Removal) -> nn.Module:
    """Return a copy in eval mode whose channels in ``removal`` are held at zero in every forward pass."""
    model = copied(model)
    hold_at_zero(model, removal)
    return model


def outputs(model: nn.Module, example: Tensor) -> list[Tensor]:
    """Return every tensor a network gives for a batch."""
    with exactly(example.device), torch.no_grad():
        torch.manual_seed(0)
        return [leaf for leaf in tree_leaves(model(example)) if isinstance(leaf, Tensor)]


def compare(whole: list[Tensor], small: list[Tensor]) -> tuple[float, float]:
    """Return the largest absolute difference, and the largest absolute value of ``whole`` (1 if it is zero).

    The difference is infinite where shapes differ or values are not finite.
    """
    if [t.shape for t in whole] != [t.shape for t in small]:
        return float("inf"), 1.0
    pairs = [(a.double(), b.double()) for a, b in zip(whole, small, strict=True) if a.numel()]
    difference = max(((a - b).abs().max().item() for a, b in pairs), default=0.0)
    scale = max((a.abs().max().item() for a, _ in pairs), default=0.0)
    finite = all(bool(torch.isfinite(t).all()) for pair in pairs for t in pair)
    return (difference if finite else float("inf")), (scale if finite and scale > 0 else 1.0)


@contextmanager
def exactly(device: torch.device) -> Iterator[None]:
    """Compute in plain float32, and leave the random state and every setting as they were."""
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(torch.autocast("cpu", enabled=False))
        stack.enter_context(torch.autocast("cuda", enabled=False))
        for place, name, exact in _shortcuts():
            stack.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, exact)
        yield


def _shortcuts() -> list[tuple[Any, str, Any]]:
    """Return the settings that let PyTorch compute float32 less precisely, and the values that forbid it."""
    backends: Any = torch.backends
    if hasattr(backends.cudnn, "conv"):
        # Setting by setting: PyTorch refuses to read the older, common ones where they do not agree.
        places = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)
        return [(place, "fp32_precision", "ieee") for place in places]
    return [(backends.cudnn, "allow_tf32", False), (backends.cuda.matmul, "allow_tf32", False)]


def one_line(error: BaseException) -> str:
    """Return the first line of an exception, with its type where that says more."""
    text = str(error).strip().split("\n")[0]
    return text if text and not isinstance(error, KeyError | IndexError) else f"{type(error).__name__}: {text}"


def _uniform(tensor: Tensor, seed: int) -> Tensor:
    """Return values in [-1, 1], the same for the same seed on any device."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(tensor.shape, generator=generator) * 2 - 1).to(tensor)
