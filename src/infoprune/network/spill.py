"""Feature maps of paused forward passes: in memory up to a limit, beyond it in temporary files, exactly as they are."""

from __future__ import annotations

import ctypes
import mmap
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor, UntypedStorage

# Smaller tensors are not worth a file.
_SMALLEST = 1 << 16
# Bytes by which a process may grow before freed memory is returned.
_GROWTH = 1 << 30
_STATM = Path("/proc/self/statm")


class Spill:
    """Moves the memory of tensors into files and back, under tensors that stay the same objects.

    Owners are used in a fixed cyclic order, so the one that is put away now is needed last. The first owners stay in
    memory up to the limit and the others are written to files. This moves the fewest bytes.

    Args:
        limit: Bytes that are kept in memory.
        directory: Parent of the temporary directory for the files, which is removed at the end.

    Example:
        >>> import torch
        >>> from infoprune.network.spill import Spill
        >>> maps = torch.ones(64, 1024)
        >>> with Spill(limit=0) as spill:
        ...     spill.put_away("first", [maps])
        ...     in_memory = maps.untyped_storage().nbytes()
        ...     spill.bring_back("first")
        >>> in_memory, float(maps.sum())
        (0, 65536.0)
    """

    def __init__(self, limit: int, directory: Path | None = None) -> None:
        self.limit = limit
        self._directory = tempfile.TemporaryDirectory(prefix="infoprune-", dir=directory, ignore_cleanup_errors=True)
        self._in_memory: dict[str, int] = {}
        self._in_files: dict[str, list[tuple[UntypedStorage, int]]] = {}
        # At the beginning, and when freed memory was returned the last time.
        self._start = self._resident = resident()

    def put_away(self, owner: str, tensors: Iterable[Tensor]) -> None:
        """Store tensors until their owner needs them again: in memory if they fit, else in a file.

        Args:
            owner: Name of the owner, also used as file name.
            tensors: All tensors of the owner; those that share memory are moved together.
        """
        storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}
        size = sum(storage.nbytes() for storage in storages.values())
        self._in_memory.pop(owner, None)
        self.return_if_grown()
        if sum(self._in_memory.values()) + size <= self.limit:
            self._in_memory[owner] = size
            return
        moved = [(one, one.nbytes()) for one in storages.values() if one.nbytes() >= _SMALLEST and one.resizable()]
        if moved:
            self._write(owner, moved)

    def return_if_grown(self) -> None:
        """Return freed memory to the system, where the process holds much more than at first and after the last time.

        To clear it again takes the system as long as many a product, so that it is not done for less.
        """
        held = resident()
        if held - self._start > _GROWTH and held - self._resident > self.limit // 3:
            return_freed()
            self._resident = resident()

    def room(self) -> int:
        """Return how many more bytes stay in memory."""
        return self.limit - sum(self._in_memory.values())

    def size_of(self, owner: str) -> int:
        """Return the bytes of an owner that are in memory; 0 of one that is not put away or is in a file."""
        return self._in_memory.get(owner, 0)

    def bring_back(self, owner: str) -> None:
        """Restore the tensors of an owner."""
        moved = self._in_files.pop(owner, [])
        if not moved:
            return
        file = self._bytes_of(owner, sum(size for _, size in moved))
        first = 0
        for storage, size in moved:
            storage.resize_(size)
            _bytes_in(storage).copy_(file[first : first + size])
            first += size

    def close(self) -> None:
        """Remove the files; tensors that are still in them remain empty."""
        self._directory.cleanup()

    def __enter__(self) -> Spill:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _write(self, owner: str, moved: list[tuple[UntypedStorage, int]]) -> None:
        file = self._bytes_of(owner, sum(size for _, size in moved))
        first = 0
        for storage, size in moved:
            file[first : first + size].copy_(_bytes_in(storage))
            storage.resize_(0)
            first += size
        self._in_files[owner] = moved

    def _bytes_of(self, owner: str, size: int) -> Tensor:
        path = Path(self._directory.name) / owner
        return torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)


def resident() -> int:
    """Return the bytes of memory that this process holds; 0 where the system does not say.

    Example:
        >>> resident() >= 0
        True
    """
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * mmap.PAGESIZE


def return_freed() -> None:
    """Let the C library return the memory that was freed to the system.

    The C library keeps what is freed for smaller tensors, and asks the system again for large ones.

    Example:
        >>> return_freed()
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _bytes_in(storage: UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
