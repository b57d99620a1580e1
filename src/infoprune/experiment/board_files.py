"""The folder of a board: its settings, and one line of JSON for every record, appended when it is there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from infoprune.board.rows import Board, Cell, Reference, Row, Scored, from_json, to_json
from infoprune.declarations.validation import read_json
from infoprune.errors import InputError
from infoprune.files import as_one_sentence, write_text
from infoprune.runs.resuming import as_noted, check_same_run

ROWS, SETTINGS, PAGE = "rows.jsonl", "settings.json", "board.html"


@dataclass
class Found:
    """What the folder of a board holds: of several records of one cell the last one.

    Example:
        >>> found = Found()
        >>> found.add(Row("l1", 0, "uniform", 0.5, "bn", accuracy=91.0))
        >>> len(found.rows)
        1
    """

    base: Reference | None = None
    scored: dict[tuple[str, int], Scored] = field(default_factory=dict)
    by_cell: dict[Cell, Row] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[Row, ...]:
        """Return the rows, in the order in which they were measured."""
        return tuple(self.by_cell.values())

    def add(self, one: Row | Scored | Reference) -> None:
        """Take in a record."""
        if isinstance(one, Row):
            self.by_cell[one.cell] = one
        elif isinstance(one, Scored):
            self.scored[one.criterion, one.seed] = one
        else:
            self.base = one

    def board(self, folder: Path) -> Board:
        """Return it as a board.

        Raises:
            InputError: The network before pruning was not measured.
        """
        if self.base is None:
            raise InputError(f"'{folder}' holds no board: run infoprune bench --out {folder}")
        return Board(self.base, tuple(self.scored.values()), self.rows)


def check_folder(folder: Path, conditions: Mapping[str, Any]) -> None:
    """Make the folder of a board, or check that the board in it was measured under the same conditions.

    Raises:
        InputError: It was not, the folder holds other files, or it cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "board"
        >>> check_folder(folder, {"seed": 0})
        >>> folder.is_dir()
        True
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"'{folder}' is a file: name a folder")
    with as_one_sentence(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _whole_lines(folder / ROWS)
        others = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    if (folder / SETTINGS).exists():
        written = read_json(folder / SETTINGS, "the settings of a board")
        theirs = written.get("conditions") if isinstance(written, dict) else None
        check_same_run(folder, theirs, as_noted(conditions))
    elif others:
        raise InputError(f"'{folder}' holds '{others[0]}' and no board: name an empty or a new folder")


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a board beside its rows.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_settings(folder, {"seeds": 3})
        >>> (folder / SETTINGS).exists()
        True
    """
    write_text(folder / SETTINGS, json.dumps(settings, indent=1, default=str) + "\n", force=True)


def remove(folder: Path) -> None:
    """Remove the files of a board from its folder; no other file is touched.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_settings(folder, {"seeds": 3})
        >>> remove(folder)
        >>> list(folder.iterdir())
        []
    """
    for name in (ROWS, SETTINGS, PAGE):
        (folder / name).unlink(missing_ok=True)


def append(folder: Path, one: Row | Scored | Reference) -> None:
    """Append a record as one line; it is on the disk when this returns. Several processes may do so at once.

    Raises:
        InputError: The disk is full, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> append(folder, Row("l1", 0, "uniform", 0.5, "bn", accuracy=91.0))
        >>> read(folder).rows[0].accuracy
        91.0
    """
    path = folder / ROWS
    line = (json.dumps(to_json(one), separators=(",", ":")) + "\n").encode()
    with as_one_sentence(path), FileLock(folder / f".{ROWS}.lock"), path.open("ab") as file:
        start = file.tell()
        try:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            file.truncate(start)
            raise


def read(folder: Path) -> Found:
    """Return what a folder holds, nothing where there is no board yet.

    Raises:
        InputError: A line is no record of a board.

    Example:
        >>> read(Path("no_such_folder")).rows
        ()
    """
    found = Found()
    path = folder / ROWS
    if not path.exists():
        return found
    with as_one_sentence(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    # A line without an end was being written when the run was killed.
    for number, line in enumerate(text.split("\n")[:-1], 1):
        found.add(_record(line, f"line {number} of '{path}'"))
    return found


def _record(line: str, where: str) -> Row | Scored | Reference:
    try:
        return from_json(json.loads(line))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is damaged: remove it to measure its cell again") from error


def _whole_lines(path: Path) -> None:
    """Remove the line that was being written when a run was killed."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
