"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from infoprune.errors import InputError


def check_writable(path: Path, *, force: bool = False) -> None:
    """Refuse a path that cannot become a file, before any work is done for it.

    Raises:
        InputError: The path exists and ``force`` is not set, is a folder, or lies where nothing can be written.
    """
    if path.is_dir():
        raise InputError(f"'{path}' is a folder: name a file")
    if path.exists() and not force:
        raise InputError(f"'{path}' exists already: use --force to replace it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"'{path}' cannot be written: {error.strerror or error}") from error


@contextmanager
def written_whole(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Give a temporary path to write to, and rename it to ``path`` once everything is written.

    Raises:
        InputError: The path cannot be written, or the disk is full; nothing is left behind.
    """
    check_writable(path, force=force)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # Some writers make files that only their owner can read; the user's umask decides here.
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"'{path}' cannot be written: {_why(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, force: bool = False) -> None:
    """Write a text file, whole or not at all.

    Raises:
        InputError: As in ``written_whole``.
    """
    with written_whole(path, force=force) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _why(error: Exception) -> str:
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    return "no space is left on the disk" if full else (getattr(error, "strerror", None) or str(error))
