"""Docstrings have an ``Example:``; Griffe reads doctest lines as code in a section named ``Examples:`` only."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the section while the site is built."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section of one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?m)^(\s*)Example:$", r"\1Examples:", obj.docstring.value)
