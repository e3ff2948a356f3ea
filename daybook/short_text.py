"""Shorter forms of a text that is too long for its place, and of a list of names.

::

    prefix         the beginning                                  Write the morning
    clip           the beginning and an ellipsis                  Write the morn…
    one_line       the same, on one line                          Write the morn…
    shorten        the beginning and the number of the others     Write … (38,104 more characters)
    first_names    the first names and the number of the others   a, b and 7 more

A limit in other units has its own function: `delivery.channels.text` counts UTF-16 code units,
`delivery.outbox.bounded_name` and `tools.answers.BoundedText` count bytes. Hide the secrets of a
text before you shorten it, because no pattern finds a part of a secret.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_LINE_CHARACTERS = 2_000
"""Maximum number of characters of an error on one line."""

MAX_NAMES = 5


def prefix(text: str, longest: int) -> str:
    """Return the longest prefix of at most ``longest`` code points that splits no character.

    If the first character alone is longer than ``longest``, it is split. A shortened text has no
    trailing whitespace.
    """
    if len(text) <= longest:
        return text
    import regex  # type: ignore[import-untyped]  # few texts are too long

    end = 0
    for each in regex.finditer(r"\X", text, endpos=longest + 1):  # Unicode's grapheme clusters
        if each.end() > longest:
            break
        end = each.end()
    return text[: end or longest].rstrip()


def clip(text: str, longest: int, mark: str = "…") -> str:
    """Return ``text``, or a prefix of it with ``mark``, in at most ``longest`` characters."""
    return text if len(text) <= longest else prefix(text, max(longest - len(mark), 0)) + mark


def one_line(text: object, longest: int = MAX_LINE_CHARACTERS, mark: str = "…") -> str:
    """Return text from an untrusted source as one clipped line, so it cannot forge log lines."""
    return clip(" ".join(str(text).split()), longest, mark)


def shorten(text: str, longest: int, *, inline: bool = False, where: str = "") -> str:
    """Return ``text``; if it is longer than ``longest``, that much and the number of the rest.

    The number is on a line of its own unless ``inline``. ``where``, the place of the whole text,
    follows it.
    """
    left_out = len(text) - longest
    if left_out <= 0:
        return text
    note = f"… ({left_out:,} more characters{where})"
    return text[:longest] + ("" if inline else "\n") + note


def first_names(names: Sequence[str], most: int = MAX_NAMES) -> str:
    """Return the first ``most`` names, and the number of the others: `a, b and 7 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")
