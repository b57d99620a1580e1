"""JSON files read: what a user gave, and what was written before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from infoprune.errors import InputError


def read_given(path: Path) -> Any:
    """Return what a JSON file that a user gave holds.

    Raises:
        InputError: The file cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"the file '{path}' cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"'{path}' is not JSON: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object that a file written before holds.

    Raises:
        InputError: The file cannot be read, or holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"'{path}' must hold a JSON object")
    return values
