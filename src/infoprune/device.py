"""Where a network runs."""

from __future__ import annotations

import torch
from torch import nn

from infoprune.errors import InputError


def pick_device(name: str = "auto") -> torch.device:
    """Return the device of that name; ``auto`` takes a GPU where there is one.

    Raises:
        InputError: There is no such device on this machine.

    Example:
        >>> pick_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # a device that holds no values, such as meta, cannot
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"there is no device '{name}' here: use 'cpu' or 'auto'") from error
    return device


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the network's first parameter, the CPU for a network without any.

    Example:
        >>> import torch
        >>> device_of(torch.nn.Linear(2, 2))
        device(type='cpu')
    """
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def place_of(model: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
    """Return the device and the precision that a network reads, ``None`` for one without real numbers of its own.

    Example:
        >>> place_of(nn.Linear(2, 2))
        (device(type='cpu'), torch.float32)
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return None, None


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the random numbers of the CPU and of one device.

    ``torch.manual_seed`` also seeds every kind of device that is not there, for later: a few milliseconds and a stored
    traceback for each call, too much in a loop.

    Example:
        >>> seed_generators(3, torch.device("cpu"))
        >>> int(torch.randint(1000, ()))
        986
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 natively, so that it is faster than float32.

    Example:
        >>> isinstance(multiplies_bfloat16(torch.device("cpu")), bool)
        True
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Without tile instructions bfloat16 is slower than float32 on a CPU.
    amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(device.type == "cpu" and amx and amx())
