"""The files that a command writes besides its result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from infoprune.files import check_writable, write_text
from infoprune.runs.together import is_first_process


def check_outputs(*paths: Path | None, force: bool) -> None:
    """Refuse files that cannot be written, before any work is done.

    Raises:
        InputError: A file exists and is not to be replaced, or its folder cannot be written to.

    Example:
        >>> import tempfile
        >>> check_outputs(Path(tempfile.mkdtemp()) / "small.safetensors", None, force=False)
    """
    for path in paths:
        if path is not None and is_first_process():
            check_writable(path, force=force)


def write_record(record: dict[str, Any], path: Path | None, *, force: bool) -> None:
    """Write a record as JSON where a file was asked for.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "record.json"
        >>> write_record({"accuracy": 99.2}, file, force=False)
        >>> file.exists()
        True
    """
    if path is not None and is_first_process():
        write_text(path, json.dumps(record, indent=1) + "\n", force=force)
