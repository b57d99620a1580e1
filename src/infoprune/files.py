"""Files that are written whole or not at all, and that one run at a time writes."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from infoprune.errors import InputError

# File systems take 255 bytes, and the name of a temporary folder is longer than that of the file beside it.
LONGEST_NAME = 215


def check_writable(path: Path, *, force: bool = False, longest: int = LONGEST_NAME) -> None:
    """Refuse a path that cannot become a file, before any work is done for it.

    Args:
        path: The file to write. A link to a file stands for that file.
        force: Whether a file that exists may be replaced. Nothing but a file ever is.
        longest: Bytes that its name may have.

    Raises:
        InputError: The path exists and ``force`` is not set; it is a folder, a device, a pipe or a link to nothing; its
            name is too long; or it lies where nothing can be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = Path(tempfile.mkdtemp())
        >>> check_writable(folder / "small.safetensors")
        >>> check_writable(folder)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        infoprune.errors.InputError: '...' is a folder: name a file
    """
    if (size := len(os.fsencode(path.name))) > longest:
        raise InputError(f"the name '{path.name}' has {size} bytes: use at most {longest}")
    try:
        if path.is_dir():
            raise InputError(f"'{path}' is a folder: name a file")
        if path.is_symlink() and not path.exists():
            raise InputError(f"'{path}' is a link to '{path.readlink()}', which does not exist: name the file itself")
        if path.exists() and not path.is_file():
            raise InputError(f"'{path}' is a device, a pipe or a socket: name a file")
        if path.exists() and not force:
            raise InputError(f"'{path}' exists already: use --force to replace it")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.resolve().parent):
            pass
    except OSError as error:
        raise InputError(f"'{path}' cannot be written: {error.strerror or error}") from error


@contextmanager
def written_whole(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to; when the block ends, the file is on the disk and takes its place.

    After a crash of the machine or a kill there is either the old file or the new one. What a process of this machine
    that was killed had begun to write is removed.

    Args:
        path: The file to write. Where it is itself a temporary path of this process, it is written directly.
        force: Whether a file that exists is replaced.

    Raises:
        InputError: The path cannot be written, or the disk is full; no partial file is left.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> file = Path(tempfile.mkdtemp()) / "record.json"
        >>> with written_whole(file) as temporary:
        ...     _ = temporary.write_text("{}")
        >>> file.read_text(), len(list(file.parent.iterdir()))
        ('{}', 1)
    """
    if _is_temporary(path):
        with as_one_sentence(path), _as_the_umask_says(path):
            yield path
        return
    check_writable(path, force=force)
    path = path.resolve()
    remove_abandoned(path)
    with as_one_sentence(path):
        temporary = temporary_of(path)
    try:
        with as_one_sentence(path):
            with _as_the_umask_says(temporary):
                yield temporary
            put_in_place(temporary, path)
    finally:
        discard(temporary)


def write_text(path: Path, text: str, *, force: bool = False) -> None:
    """Write a text file, whole or not at all.

    Raises:
        InputError: As in ``written_whole``.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "record.json"
        >>> write_text(file, "{}")
        >>> file.read_text()
        '{}'
    """
    with written_whole(path, force=force) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the right to write a file for as long as the block runs. The lock ends with the process, however it ends.

    Args:
        path: The file; the lock is a hidden file beside it, removed at the end.

    Raises:
        InputError: Another run holds it, or no file can be made beside ``path``.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> file = Path(tempfile.mkdtemp()) / "small.safetensors"
        >>> with locked(file), locked(file):  # doctest: +ELLIPSIS
        ...     pass
        Traceback (most recent call last):
        infoprune.errors.InputError: '...' is being written by another run: wait for its end, or name another output
    """
    beside = path.resolve().with_name(f".{path.name}.lock")
    lock = FileLock(beside, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"'{path}' is being written by another run: wait for its end, or name another output"
        ) from error
    except OSError as error:
        raise InputError(f"'{path}' cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        # Removed while it is held: who opens it from now on makes a file of its own.
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        lock.release()


def temporary_of(path: Path) -> Path:
    """Make a folder beside a file, and return the path in it that this process writes to first, named like the file.

    A folder, because some writers make temporary files of their own beside what they write.

    Example:
        >>> import tempfile
        >>> temporary_of(Path(tempfile.mkdtemp()) / "small.safetensors").name
        'small.safetensors'
    """
    folder = path.with_name(f".{path.name}.{_machine()}-{os.getpid()}.part")
    folder.mkdir(exist_ok=True)
    return folder / path.name


def put_in_place(temporary: Path, path: Path) -> None:
    """Make sure that a temporary file is on the disk, and move it to its place.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "record.json"
        >>> temporary = temporary_of(file)
        >>> _ = temporary.write_text("{}")
        >>> put_in_place(temporary, file)
        >>> file.read_text(), len(list(file.parent.iterdir()))
        ('{}', 1)
    """
    _sync(temporary)
    temporary.replace(path)
    discard(temporary)
    with suppress(OSError):  # not every file system can do this for a folder
        _sync(path.parent)


def discard(temporary: Path) -> None:
    """Remove a temporary path and the folder it is in.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "record.json"
        >>> discard(temporary_of(file))
        >>> list(file.parent.iterdir())
        []
    """
    shutil.rmtree(temporary.parent, ignore_errors=True)


def remove_abandoned(path: Path) -> None:
    """Remove what processes of this machine that have ended had begun to write for a path.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "record.json"
        >>> remove_abandoned(file)  # nothing was abandoned
    """
    for beside in path.parent.iterdir() if os.name == "posix" else ():
        found = _TEMPORARY.fullmatch(beside.name)
        if found is None or (found["name"], found["machine"]) != (path.name, _machine()):
            continue
        if not _runs(int(found["process"])):
            shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def as_one_sentence(path: Path) -> Iterator[None]:
    """Turn an error of writing a file into one sentence that names it.

    Raises:
        InputError: There was such an error.

    Example:
        >>> with as_one_sentence(Path("record.json")):
        ...     raise OSError(28, "No space left on device")
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: 'record.json' cannot be written
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        named = path.parent.with_name(path.name) if _is_temporary(path) else path
        raise InputError(f"'{named}' cannot be written: {_why(error)}") from error


_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<machine>[0-9a-f]{8})-(?P<process>\d+)\.part")


@contextmanager
def _as_the_umask_says(file: Path) -> Iterator[None]:
    """Some writers make files that only their owner can read."""
    file.touch()
    mode = file.stat().st_mode
    yield
    file.chmod(mode)


def _is_temporary(path: Path) -> bool:
    found = _TEMPORARY.fullmatch(path.parent.name)
    return found is not None and found["machine"] == _machine() and int(found["process"]) == os.getpid()


def _machine() -> str:
    # Process numbers mean nothing on another machine that writes to the same disk.
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _sync(path: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _why(error: Exception) -> str:
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    return "no space is left on the disk" if full else (getattr(error, "strerror", None) or str(error))


def check_apart(files: Sequence[Path]) -> None:
    """Refuse one file for two purposes: the second would replace the first.

    Raises:
        InputError: Two of the names are of one file.

    Example:
        >>> check_apart([Path("a"), Path("b"), Path("./a")])
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: 'a' is named twice: name two different files
    """
    resolved = [path.resolve() for path in files]
    for path, place in zip(files, resolved, strict=True):
        if resolved.count(place) > 1:
            raise InputError(f"'{path}' is named twice: name two different files")
