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

import unicodedata
from collections.abc import Sequence

MAX_LINE_CHARACTERS = 2_000
"""Maximum number of characters of an error on one line."""

MAX_NAMES = 5

_ZWJ = "\u200d"


def prefix(text: str, longest: int) -> str:
    """Return the longest prefix of at most ``longest`` code points that splits no character.

    If the first character alone is longer than ``longest``, it is split. A shortened text has no
    trailing whitespace.
    """
    if len(text) <= longest:
        return text
    end = longest
    while end > 0 and not _breaks_before(text, end):
        end -= 1
    return text[: end or longest].rstrip()


def clip(text: str, longest: int, mark: str = "…") -> str:
    """Return ``text``; if it is longer than ``longest`` characters, a prefix of it with ``mark``.

    The result, with its mark, has at most ``longest`` characters.
    """
    return text if len(text) <= longest else prefix(text, max(longest - len(mark), 0)) + mark


def one_line(text: object, longest: int = MAX_LINE_CHARACTERS, mark: str = "…") -> str:
    """Return text from an untrusted source as one line, so it cannot forge log lines.

    A line of more than ``longest`` characters is clipped.
    """
    return clip(" ".join(str(text).split()), longest, mark)


def shorten(text: str, longest: int, *, inline: bool = False, where: str = "") -> str:
    """Return the first ``longest`` characters of ``text``, and the number of the others.

    A text within the limit is returned unchanged. The number is on a line of its own or, with
    ``inline``, on the line of the text. ``where`` follows the number: the place of the whole text.
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


def _breaks_before(text: str, index: int) -> bool:
    """Return whether a reader sees a new character start at ``index`` (0 < index < len).

    The rules are those of Unicode's grapheme clusters (UAX 29) that occur in prompts: marks,
    joiners, variation selectors, skin tones, keycaps, tags, flags, Hangul syllables.
    """
    before, letter = text[index - 1], text[index]
    if _extends(letter) or before == _ZWJ or _joins_hangul(before, letter):
        return False
    if _is_flag(before) and _is_flag(letter):
        run = 0
        while index - 1 - run >= 0 and _is_flag(text[index - 1 - run]):
            run += 1
        return run % 2 == 0
    return True


def _extends(letter: str) -> bool:
    return (
        letter == _ZWJ
        or unicodedata.category(letter) in ("Mn", "Me", "Mc")
        or "\U0001f3fb" <= letter <= "\U0001f3ff"  # skin tones
        or "\U000e0020" <= letter <= "\U000e007f"  # tags, in the flags of regions
        or letter in "\u200c\uff9e\uff9f"
    )


def _is_flag(letter: str) -> bool:
    return "\U0001f1e6" <= letter <= "\U0001f1ff"


def _joins_hangul(before: str, letter: str) -> bool:
    lead = "\u1100" <= before <= "\u115f"
    vowel = "\u1160" <= before <= "\u11a7"
    syllable = "\uac00" <= before <= "\ud7a3"
    if lead:
        return "\u1100" <= letter <= "\u11a7" or "\uac00" <= letter <= "\ud7a3"
    if vowel or (syllable and (ord(before) - 0xAC00) % 28 == 0):
        return "\u1160" <= letter <= "\u11ff"
    if syllable or "\u11a8" <= before <= "\u11ff":
        return "\u11a8" <= letter <= "\u11ff"
    return False
