"""The files that one run writes: all of them or none, and again by the same command after a kill."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from infoprune.files import (
    as_one_sentence,
    check_apart,
    check_writable,
    discard,
    locked,
    put_in_place,
    remove_abandoned,
    temporary_of,
    write_text,
)
from infoprune.runs.together import is_first_process

# States of the run lie beside the first file, under its name and a suffix.
LONGEST_NAME = 180


@dataclass
class Outputs:
    """The files of a run, written beside their places first.

    Args:
        files: Where they will be.
        run: What kind of run writes them.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "record.json"
        >>> written = Outputs((file,), run="example")
        >>> _ = written.staged(file).write_text("{}")
        >>> written.discard()
        >>> file.exists()
        False
    """

    files: tuple[Path, ...]
    run: str
    _staged: dict[Path, Path] = field(init=False, default_factory=dict, kw_only=True)

    def staged(self, path: Path) -> Path:
        """Return the temporary path at which to write one of the files.

        Raises:
            InputError: There is no room beside the file.
        """
        assert path in self.files  # it was checked at the start
        with as_one_sentence(path):
            self._staged[path] = temporary_of(path.resolve())
        return self._staged[path]

    def commit(self) -> None:
        """Put all files that were staged in their places.

        What is about to be put there is noted on the disk first, so that the same command may replace it after a kill
        in between. Of several files, an old version of the last one is removed first and the new one is put in place
        last: while it is there, all others belong to it. Files that an earlier run left and this one did not stage are
        removed.

        Raises:
            InputError: The disk is full, or a place cannot be written any more.
        """
        with as_one_sentence(self.files[0]):
            noted = {str(path.resolve()): _identity(temporary) for path, temporary in self._staged.items()}
            write_text(_note(self.files), json.dumps({"run": self.run, "files": noted}), force=True)
            if len(self._staged) > 1:
                next(reversed(self._staged)).resolve().unlink(missing_ok=True)
            for path in self.files:
                if path not in self._staged:
                    path.resolve().unlink(missing_ok=True)
            for path, temporary in self._staged.items():
                put_in_place(temporary, path.resolve())

    def discard(self) -> None:
        """Remove what was staged and not put in place."""
        for temporary in self._staged.values():
            discard(temporary)


@dataclass
class _Dropped(Outputs):
    """The files of a process other than the first, which runs the same program: they are written and dropped."""

    folder: Path

    def staged(self, path: Path) -> Path:
        """Return a temporary path, with the same suffix."""
        return self.folder / f"{self.files.index(path)}-{path.name}"

    def commit(self) -> None:
        """Do nothing: the first process puts its files in place."""


@contextmanager
def outputs(
    *files: Path | None, run: str, inputs: Sequence[Path | None] = (), force: bool = False
) -> Iterator[Outputs]:
    """Check at the start that a run can write its files, and hold the right to write them while the block runs.

    Inside the block the run writes each file at ``staged(file)``, calls ``commit()``, and removes its own state last.
    Where an earlier run of this kind was killed after ``commit()`` began, the files that it put in place, if they are
    unchanged since, count as its own and are replaced.

    Of several processes that run one command, the first one alone writes.

    Args:
        files: The files, the first of which names the run; ``None`` for those that are not asked for.
        run: What kind of run it is: only the same kind, with the same files, may replace files without ``force``.
        inputs: Files that the run reads: only the first of the files may replace one of them.
        force: Whether files that exist are replaced.

    Raises:
        InputError: Two of the files are the same, one cannot be written, or another run writes one of them.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = Path(tempfile.mkdtemp())
        >>> with outputs(folder / "a.json", folder / "b.json", run="example") as written:
        ...     for file in written.files:
        ...         _ = written.staged(file).write_text("{}")
        ...     written.commit()
        >>> sorted(path.name for path in folder.iterdir())
        ['a.json', 'b.json']
    """
    wanted = tuple(path for path in files if path is not None)
    if not is_first_process():
        with tempfile.TemporaryDirectory(prefix="infoprune-") as folder:
            yield _Dropped(wanted, run, Path(folder))
        return
    for path in wanted:
        check_writable(path, force=True, longest=LONGEST_NAME)
    check_apart(wanted)
    check_apart([*wanted[1:], *{path.resolve() for path in inputs if path is not None}])
    with ExitStack() as held:
        for path in sorted(wanted, key=Path.resolve):
            held.enter_context(locked(path))
        mine = _own(wanted, run)
        for path in wanted:
            check_writable(path, force=force or str(path.resolve()) in mine)
            remove_abandoned(path.resolve())
        found = Outputs(wanted, run)
        try:
            yield found
        finally:
            found.discard()
        _note(wanted).unlink(missing_ok=True)


def _note(files: tuple[Path, ...]) -> Path:
    first = files[0].resolve()
    return first.with_name(f".{first.name}.written")


def _own(files: tuple[Path, ...], run: str) -> set[str]:
    """Return the files that an earlier run of the same kind put in place before it was killed."""
    note = _note(files)
    try:
        values = json.loads(note.read_text(encoding="utf-8"))
        noted: dict[str, list[int]] = values["files"]
        if values["run"] != run or not noted.keys() <= {str(path.resolve()) for path in files}:
            return set()
        return {path for path, identity in noted.items() if Path(path).is_file() and _identity(Path(path)) == identity}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _identity(path: Path) -> list[int]:
    # A rename keeps all three.
    found = path.stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns]
