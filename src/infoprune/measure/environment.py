"""What a figure depends on besides the network: versions and the machine."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch

from infoprune.version import __version__


def versions() -> dict[str, str]:
    """Return the versions that a run depends on."""
    packages = ("torch", "torch-pruning", "numpy", "scikit-learn", "lightning-fabric")
    return {
        "infoprune": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the latency figures depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": str(device), "processor": name, "threads": torch.get_num_threads()}
