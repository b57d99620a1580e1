"""The peak of memory of a piece of work."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from infoprune.network.spill import return_freed

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_KIB = 1024


@dataclass
class Peak:
    """The peak of memory of a block, above what was in use before it.

    Args:
        mib: Mebibytes; ``None`` before the block ends, and where the system does not report it.

    Example:
        >>> Peak(12.5).mib
        12.5
    """

    mib: float | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Yield what will hold the peak of memory of the block.

    On a GPU it is the memory that torch allocates there. Elsewhere it is the resident memory of this process, where
    the system is Linux; what other threads of the process use meanwhile counts too.

    Args:
        device: Where the work is done.

    Example:
        >>> with peak_memory(torch.device("cpu")) as peak:
        ...     _ = torch.zeros(100, 2**20 // 4)  # 100 MiB
        >>> peak.mib is None or 90 < peak.mib < 200
        True
    """
    found = Peak()
    gc.collect()
    before = _start(device)
    try:
        yield found
    finally:
        after = None if before is None else _highest(device)
        if before is not None and after is not None:
            found.mib = max(0.0, (after - before) / _KIB**2)


def _start(device: torch.device) -> float | None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return float(torch.cuda.memory_allocated(device))
    return_freed()  # what the allocator still holds would be used again unseen
    try:
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
        return _from_status("VmRSS")
    except OSError:
        return None


def _highest(device: torch.device) -> float | None:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return _from_status("VmHWM")


def _from_status(name: str) -> float | None:
    found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    return None if found is None else float(found[1]) * _KIB
