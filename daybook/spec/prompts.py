"""What a prompt may name: `{{due}}`, `{{job}}`, `{{last_output}}`, `{{payload}}` (requirement 27).

Anything else in double braces is left as it stands, and what a variable stands for is never
expanded again: it may be the answer of a model, or come from outside.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

VARIABLES = ("due", "job", "last_output", "payload")

_VARIABLE = re.compile(r"\{\{\s*(" + "|".join(VARIABLES) + r")\s*\}\}")


def render(prompt: str, values: Mapping[str, str]) -> str:
    """The prompt with each of `VARIABLES` replaced by its value; one without a value is empty."""
    return _VARIABLE.sub(lambda found: values.get(found[1], ""), prompt)


def names(prompt: str, variable: str) -> bool:
    """Whether the prompt names this variable."""
    return any(found[1] == variable for found in _VARIABLE.finditer(prompt))
