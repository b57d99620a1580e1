"""What a run that goes on after an interruption must share with the one that was interrupted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infoprune.errors import InputError

_DIGEST = 64


def as_noted(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Return conditions as they come back from a JSON file, so that they compare with those that were written.

    Example:
        >>> as_noted({"batch size": 64, "sizes": (8, 16)})
        {'batch size': 64, 'sizes': [8, 16]}
    """
    found: dict[str, Any] = json.loads(json.dumps(dict(conditions), default=str))
    return found


def check_same_run(path: Path, theirs: Any, ours: Mapping[str, Any]) -> None:
    """Refuse to go on from a state that was written under other conditions.

    Args:
        path: The state.
        theirs: The conditions that lie in it.
        ours: The conditions of this run: by name, in words that complete "with another ...", a JSON value.

    Raises:
        InputError: They differ; the first difference is named.

    Example:
        >>> check_same_run(Path("small"), {"batch size": 64}, {"batch size": 32})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        infoprune.errors.InputError: 'small' is the state of a run with another batch size (64, now 32): ...
    """
    ours = as_noted(ours)
    if theirs == ours:
        return
    theirs = theirs if isinstance(theirs, Mapping) else {}
    name = next(name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name))
    old, new = theirs.get(name), ours.get(name)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        part = next(one for one in {**old, **new} if old.get(one) != new.get(one))
        name, old, new = f"{part} ({name})", old.get(part), new.get(part)
    raise InputError(
        f"'{path}' is the state of a run with another {name}{_shown(old, new)}: give the same again, or delete "
        f"'{path.name}' to start from the beginning"
    )


def _shown(theirs: Any, ours: Any) -> str:
    """Return both values where they say something: a digest does not."""
    texts = [json.dumps(value) if isinstance(value, (list, Mapping)) else str(value) for value in (theirs, ours)]
    short = all(len(text) < _DIGEST for text in texts) and None not in (theirs, ours)
    return f" ({texts[0]}, now {texts[1]})" if short else ""
