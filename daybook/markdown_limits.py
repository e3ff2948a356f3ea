"""Limits of the Markdown of models: how much of it Daybook parses, and which links it keeps."""

from __future__ import annotations

MAX_PARSED_CHARACTERS = 40_000
"""Maximum length of a text that Daybook parses. For some texts, the parser takes quadratic time."""
MAX_TABLE_CELLS = 20_000
"""Maximum number of cells in the tables of a parsed text. The parser adds the missing cells."""

LINK_SCHEMES = ("http://", "https://", "mailto:")
"""Beginnings of the links that Daybook keeps, in lower case."""


def is_parsable(text: str) -> bool:
    """Return whether Daybook parses the text, by an upper bound for the cells of its tables."""
    if len(text) > MAX_PARSED_CHARACTERS:
        return False
    lines = text.splitlines()
    columns = 1 + max((line.count("|") for line in lines), default=0)
    return columns * len(lines) <= MAX_TABLE_CELLS


def is_allowed_link(url: str) -> bool:
    """Return whether Daybook keeps a link to ``url``."""
    return url.lower().startswith(LINK_SCHEMES)
