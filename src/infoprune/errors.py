"""What a user did wrong, in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Input that cannot be used: one sentence with what was wrong and what would be right.

    The command line prints the sentence and exits with code 2; in Python it is an ordinary exception.

    Example:
        >>> raise InputError("ratio takes a number from 0 to below 1, not 1.5")
        Traceback (most recent call last):
        infoprune.errors.InputError: ratio takes a number from 0 to below 1, not 1.5
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that does not exist, with the nearest one that does.

    Args:
        kind: What was named, such as ``"criterion"``.
        name: The word the user gave.
        known: Every word that would be right.

    Example:
        >>> str(unknown("criterion", "hrell", ["hrel", "l1"]))
        "unknown criterion 'hrell': did you mean 'hrel'?"
    """
    choices = sorted(known)
    name = " ".join(name.split())[:60]
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.4)
    if near:
        return InputError(f"unknown {kind} '{name}': did you mean '{near[0]}'?")
    shown = ", ".join(choices[:20]) + (", ..." if len(choices) > 20 else "")
    return InputError(f"unknown {kind} '{name}': choose one of {shown or 'none (there are no choices here)'}")
