"""The options of a criterion that is made of functions: their keyword-only parameters, with the types they declare."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def options_of(function: Callable[..., Any], *, but: tuple[str, ...] = ()) -> dict[str, inspect.Parameter]:
    """Return the keyword-only parameters of a function by name, each annotated by the type itself, not by its name.

    Args:
        function: Any function; what its annotations name is known where it is written.
        but: Parameters that are not options.

    Example:
        >>> def share(maps, *, bins: "int" = 3): ...
        >>> options_of(share)["bins"].annotation
        <class 'int'>
    """
    types = get_type_hints(function, include_extras=True)
    return {
        one.name: one.replace(annotation=types.get(one.name, Any))
        for one in inspect.signature(function).parameters.values()
        if one.kind is one.KEYWORD_ONLY and one.name not in but
    }
