"""The one place that imports a module by a name from outside the source: only ever a name that the caller typed.

A name that was read from a file must not come here. ``experiment.network`` calls it with ``--model`` and ``criteria``
with ``--criterion`` (or what a Python caller wrote there); readers of files look names up in registries.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infoprune.errors import InputError, unknown


def imported(spec: str, kind: str) -> Any:
    """Import what ``package.module:name`` names; modules are looked for in the working directory too.

    Args:
        spec: Typed by the user, never read from a file.
        kind: What it should be, such as ``"network"``, for the message.

    Raises:
        InputError: The module cannot be imported, or has nothing of that name.

    Example:
        >>> imported("statistics:mean", "criterion")([1, 3])
        2
    """
    path, _, name = spec.partition(":")
    with working_directory_importable():
        try:
            module = importlib.import_module(path)
        except Exception as error:  # a user's module can raise anything
            raise InputError(f"the {kind} '{spec}' cannot be imported: {_why(path, name, error)}") from error
    if not hasattr(module, name):
        public = [word for word, value in vars(module).items() if callable(value) and not word.startswith("_")]
        raise unknown(f"{kind} of module '{path}'", name, public)
    return getattr(module, name)


def _why(path: str, name: str, error: Exception) -> str:
    if path.endswith(".py"):
        module = path.removesuffix(".py").replace("/", ".")
        return f"name the module, not the file: '{module}:{name}'"
    if isinstance(error, ModuleNotFoundError) and error.name in (path, path.partition(".")[0]):
        return f"there is no module '{error.name}' in the working directory '{Path.cwd()}', nor is it installed"
    return reason(error)


@contextmanager
def working_directory_importable() -> Iterator[None]:
    """Let modules be found in the working directory, where an installed command does not look by itself.

    Example:
        >>> with working_directory_importable():
        ...     imported("statistics:mean", "criterion")([1, 3])
        2
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)


def reason(error: Exception) -> str:
    """Return an error as one line, with its type.

    Example:
        >>> reason(ValueError("no such layer"))
        'ValueError: no such layer'
    """
    first = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
