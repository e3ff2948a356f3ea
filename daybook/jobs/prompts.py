"""Variables of a prompt: `{{due}}`, `{{job}}` and `{{last_output}}`.

Another name in double braces is refused where a job gets its prompt (`check`), and otherwise left
as it stands, as is what is no name. What a variable stands for is never expanded again: it may be
the answer of a model, or come from outside.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from daybook.errors import InvalidInput

VARIABLES = ("due", "job", "last_output")

_NAMED = re.compile(r"\{\{\s*([\w.:-]+)\s*\}\}")


def check(prompt: str, known: Sequence[str] = VARIABLES, field: str = "prompt") -> None:
    """Raise `InvalidInput` for what looks like a variable and is none: it would be sent as it
    stands.
    """
    for found in _NAMED.finditer(prompt):
        if found[1] not in known:
            close = difflib.get_close_matches(found[1].lower(), known, n=1)
            hint = f"did you mean {{{{{close[0]}}}}}? " if close else ""
            legal = ", ".join(f"{{{{{each}}}}}" for each in known)
            raise InvalidInput(field, f"unknown variable {found[0]}", f"{hint}legal: {legal}")


def render(prompt: str, values: Mapping[str, str], known: Sequence[str] = VARIABLES) -> str:
    """The prompt with each of ``known`` replaced by its value; one without a value is empty."""
    return _NAMED.sub(
        lambda found: values.get(found[1], "") if found[1] in known else found[0], prompt
    )


def names(prompt: str, variable: str) -> bool:
    """Whether the prompt names this variable."""
    return any(found[1] == variable for found in _NAMED.finditer(prompt))
