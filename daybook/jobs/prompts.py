"""Variables of a prompt: `{{due}}`, `{{job}}` and `{{last_output}}`.

When a job gets its prompt, `check` refuses any other name in double braces. `render` leaves such a
name in the text, as it does anything that is not a name. A variable's value is never expanded
again: it may be a model's answer, or an external text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from daybook.errors import InvalidInput

VARIABLES = ("due", "job", "last_output")

_NAMED = re.compile(r"\{\{\s*([\w.:-]+)\s*\}\}")


def check(prompt: str, known: Sequence[str] = VARIABLES, field: str = "prompt") -> None:
    """Raise `InvalidInput` for an unknown variable, which would be sent as written."""
    for found in _NAMED.finditer(prompt):
        if found[1] not in known:
            matches = difflib.get_close_matches(found[1].lower(), known, n=1)
            hint = f"did you mean {{{{{matches[0]}}}}}? " if matches else ""
            names = ", ".join(f"{{{{{each}}}}}" for each in known)
            raise InvalidInput(field, f"unknown variable {found[0]}", f"{hint}known: {names}")


def render(prompt: str, values: Mapping[str, str], known: Sequence[str] = VARIABLES) -> str:
    """Replace each of ``known`` by its value; a variable without a value becomes empty."""
    return _NAMED.sub(
        lambda found: values.get(found[1], "") if found[1] in known else found[0], prompt
    )


def uses_variable(prompt: str, variable: str) -> bool:
    """Return whether the prompt uses this variable."""
    return any(found[1] == variable for found in _NAMED.finditer(prompt))
