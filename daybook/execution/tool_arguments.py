"""Arguments of Daybook's own tools for model agents, as a model wrote them (`builtin_tools`)."""

from __future__ import annotations

from daybook.errors import InvalidInput
from daybook.json_text import JsonObject


def text(arguments: JsonObject, name: str, default: str | None = None) -> str:
    """Return the text, or the ``default`` if it is missing. Raise `InvalidInput`."""
    value = arguments.get(name, default)
    if not isinstance(value, str):
        raise InvalidInput(name, "is missing", "give it as a text")
    return value


def start(arguments: JsonObject) -> int:
    """Return the character at which a part of a text begins, 0 by default. Raise `InvalidInput`."""
    value = arguments.get("start", 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidInput("start", "is no number of a character", "use 0, or leave it out")
    return value


def is_encodable(value: str) -> bool:
    """Return whether UTF-8 can encode the text: it contains no half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
