"""JSON that was written before, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from infoprune.errors import InputError


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object that a file holds.

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
