"""A hook of MkDocs: formulas written in LaTeX become MathML, which browsers draw without a script or a font."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Return a page with its formulas drawn; called by MkDocs for every page."""
    return _FORMULA.sub(_drawn, content)


def _drawn(found: re.Match[str]) -> str:
    tag, latex = found.groups()
    if tag == "span":
        return f"<span>{convert(html.unescape(latex).strip())}</span>"
    # A formula wider than a phone is scrolled by itself.
    drawn = convert(html.unescape(latex).strip(), display="block")
    return f'<div style="margin: 1.2em 0; padding: 0.3em 0; overflow-x: auto">{drawn}</div>'
