"""Changes of fields as the pages show them: removed and added lines."""

from __future__ import annotations

import difflib
import json
from typing import Any

from markupsafe import Markup, escape

MAX_COMPARED_LINES = 400


def markup(old: Any, new: Any) -> Markup:
    """Return a change of a field: removed and added lines of a text, or the two values."""
    before, after = _lines(old), _lines(new)
    parts = list[str]()
    for line in difflib.ndiff(before, after):
        if line.startswith("- "):
            parts.append(f"<del>{escape(line[2:])}</del>")
        elif line.startswith("+ "):
            parts.append(f"<ins>{escape(line[2:])}</ins>")
    return Markup(f'<div class="diff">{"".join(parts)}</div>')


def _lines(value: Any) -> list[str]:
    if value is None or value in ("", [], {}):
        return []
    if not isinstance(value, str):
        value = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    lines = value.splitlines()
    more = len(lines) - MAX_COMPARED_LINES
    return [*lines[:MAX_COMPARED_LINES], f"… {more} more lines"] if more > 0 else lines
