"""How long work tells how far it is. The library calls a function; who draws a bar is the caller's choice."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told at every step of a stage how much of it is done."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note that ``done`` of ``total`` steps of ``stage`` are done."""


def silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""
