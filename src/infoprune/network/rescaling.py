"""Rescales the layers of a network to an input, so that no ReLU after them has channels that are always zero.

A check that compares outputs cannot see a channel that is zero whatever the input. After rescaling, every channel has
a positive mean and the layers have outputs of about the same size, so that every channel reaches the outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from infoprune.network.layers import channel_axis, is_producer

_MEANS = (0.5, 1.0)


@torch.no_grad()
def rescale_layers(model: nn.Module, examples: Sequence[Any], seed: int = 0) -> None:
    """Rescale convolutions, linear layers and batch norms in place, in one forward pass for each example.

    Each is rescaled where it first runs: the outputs of a layer with biases get a mean between 0.5 and 1 in every
    channel, and the filters of a layer without biases the sign that makes their mean positive; batch norms get the
    statistics of their input. Layers whose weight is computed stay as they are.

    Args:
        model: The network, with the flags of eval mode; its weights and statistics are changed.
        examples: Inputs ``(n, ...)``, one of each shape.
        seed: Of the random means.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU())
        >>> with torch.no_grad():
        ...     _ = net[0].bias.fill_(-10)
        >>> images = torch.rand(1, 1, 8, 8)
        >>> rescale_layers(net, [images])
        >>> bool((net(images).amax((0, 2, 3)) > 0).all())
        True
    """
    random = torch.Generator().manual_seed(seed)
    seen: set[int] = set()
    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # it takes no hooks
            if isinstance(getattr(module, "running_mean", None), Tensor):
                hooks.callback(module.register_forward_pre_hook(partial(_fit_statistics, seen)).remove)
            elif is_producer(module) and "weight" in module._parameters:
                fit = partial(_fit_filters, seen, random)
                hooks.callback(module.register_forward_hook(fit, with_kwargs=True).remove)
        for example in examples:
            # A network that does not run is reported where it is compared.
            with suppress(Exception):
                model(example)


def _fit_statistics(seen: set[int], module: Any, args: tuple[Any, ...]) -> None:
    source = args[0] if args else None
    if not isinstance(source, Tensor) or not _is_new(seen, module.running_mean) or source.ndim < 2:
        return
    mean, variance = _moments(source, axis=1)
    common = variance.mean() if _varies(variance, mean) else (mean**2).mean()
    if not common > 0 or mean.shape != module.running_mean.shape:
        return
    plain = getattr(module, "weight", None) is None
    # Variances keep random differences: where all channels are alike, a wrong one would not be noticed.
    spread = module.running_var / module.running_var.mean().clamp(min=1e-12)
    module.running_var.copy_((variance + common * spread) / 2)
    module.running_mean.copy_(mean - common.sqrt() / 2 if plain else mean)


def _fit_filters(
    seen: set[int], random: torch.Generator, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> Any:
    bias = module._parameters.get("bias")
    if not isinstance(output, Tensor) or not _is_new(seen, module.weight) or output.is_complex():
        return None
    axis = channel_axis(module)
    mean, variance = _moments(output, axis)
    scale = variance.mean().sqrt() if _varies(variance, mean) else (mean**2).mean().sqrt()
    if not (torch.isfinite(scale) and scale > 1e-12):
        return None
    rows = _rows(module)
    if bias is None:
        signs = torch.where(mean < 0, -1.0, 1.0).to(rows)
        rows.mul_(signs.view(*rows.shape[:2], *[1] * (rows.ndim - 2)) / scale)
    else:
        low, high = _MEANS
        means = low + (high - low) * torch.rand(len(mean), generator=random).to(mean)
        rows.div_(scale)
        bias.copy_((bias - mean) / scale + means)
    return module.forward(*args, **kwargs)


def _is_new(seen: set[int], tensor: Tensor) -> bool:
    if id(tensor) in seen or not tensor.is_floating_point():
        return False
    seen.add(id(tensor))
    return True


def _moments(tensor: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    rows = tensor.movedim(axis, 0).flatten(1)
    return rows.mean(1), rows.var(1, correction=0)


def _varies(variance: Tensor, mean: Tensor) -> bool:
    """Return whether a layer's outputs differ from place to place: they do not where there is only one place."""
    return bool(variance.mean() > 1e-6 * (mean**2).mean())


def _rows(module: Any) -> Tensor:
    """Return the weight as a view ``(groups, out / groups, ...)``."""
    groups = getattr(module, "groups", 1)
    parts: Tensor = module.weight.unflatten(0, (groups, -1))
    return parts.transpose(1, 2) if getattr(module, "transposed", False) else parts
