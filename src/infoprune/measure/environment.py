"""What a figure depends on besides the network: versions and the machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from infoprune.version import __version__

PACKAGES = ("torch", "torch-pruning", "numpy", "scikit-learn", "lightning-fabric")
OTHER_PACKAGES = ("scipy", "safetensors", "torchmetrics", "pydantic", "typer", "rich", "pillow")
OPTIONAL_PACKAGES = ("torchvision", "timm", "onnx", "onnxruntime", "jinja2", "plotly", "matplotlib", "pyarrow")


def versions() -> dict[str, str]:
    """Return the versions that a run depends on.

    Example:
        >>> "torch" in versions()
        True
    """
    return {
        "infoprune": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the latency figures depend on.

    Example:
        >>> import torch
        >>> bool(machine(torch.device("cpu")))
        True
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": str(device), "processor": name, "threads": torch.get_num_threads()}


def report() -> dict[str, str]:
    """Return what a bug report needs, by name: versions, system, processor, threads, GPUs, optional packages.

    Example:
        >>> report()["infoprune"] == versions()["infoprune"]
        True
    """
    return {
        **versions(),
        **{name: _version(name) for name in OTHER_PACKAGES},
        "system": platform.platform(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads of torch": str(torch.get_num_threads()),
        "instruction sets": _instruction_sets(),
        "linear algebra": "MKL" if torch.backends.mkl.is_available() else "not MKL",  # type: ignore[no-untyped-call]
        "gpus": ", ".join(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))) or "none",
        **{f"optional: {name}": _version(name) for name in OPTIONAL_PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _instruction_sets() -> str:
    """Return what torch's kernels use, and what the processor has besides, where torch reports it."""
    used = torch.backends.cpu.get_cpu_capability()
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return ", ".join([used, *(name for name, there in sorted(known.items()) if there is True)])
