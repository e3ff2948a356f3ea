"""Names and ids: validation, the default name from a prompt, and the next free name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable

from daybook.errors import InvalidInput
from daybook.short_text import prefix


class Id(str):
    """A whole id, or an approval's whole id: a run's whole id, a dot and a number.

    `ledger.references` looks for no name like it.
    """

    __slots__ = ()


MAX_NAME_LENGTH = 100
MAX_DEFAULT_NAME_LENGTH = 40
MIN_ID_LENGTH = 4
"""Minimum number of digits of a short id. A shorter word is a name."""

_ID_FORM = re.compile(rf"[0-9a-f]{{{MIN_ID_LENGTH},32}}(\.[0-9]+)?", re.IGNORECASE)
_JOINERS = ("\u200c", "\u200d")
"""Invisible characters that some scripts, and emoji, need between two letters."""
_CONTROLS = ("Cc", "Cs", "Zl", "Zp")
_INVISIBLE = (*_CONTROLS, "Cf", "Cn", "Zs", "Mn", "Me")
"""Unicode categories whose characters are not visible on their own."""
_BLANK_LOOKING = "\u115f\u1160\u2800\u3164\uffa0"
"""Fillers: letters and symbols that look like spaces."""
_FIRST_EMOJI, _LAST_EMOJI = "\U0001f300", "\U0001faff"
"""Range of the emoji, including those that this version of Python does not know."""
_BIDI_CONTROLS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Unicode's `Bidi_Control`: with such a character, two different names can look the same."""


def validate_name(name: str, *, stored: bool = False) -> str:
    """Return the name without leading or trailing whitespace.

    Raise `InvalidInput` if the name

    - is blank, or longer than `MAX_NAME_LENGTH` characters,
    - has a control character,
    - has a character that changes the direction of text,
    - has a character that `hidden_character` finds, or
    - has no visible character.

    The last three rules are against names that look like another name. They do not apply to a
    ``stored`` name, because a ledger may contain names that are older than the rules.
    """
    stripped = name.strip()
    if not stripped:
        raise InvalidInput("name", "is blank", f"use 1 to {MAX_NAME_LENGTH} characters")
    if len(stripped) > MAX_NAME_LENGTH:
        raise InvalidInput("name", f"has {len(stripped)} characters", f"use 1 to {MAX_NAME_LENGTH}")
    # No printable character is a control; the first test is the faster one.
    if not stripped.isprintable() and any(
        unicodedata.category(each) in _CONTROLS for each in stripped
    ):
        raise InvalidInput("name", "has a line break or control character", "write it on one line")
    if stored:
        return stripped
    if any(letter in _BIDI_CONTROLS for letter in stripped):
        raise InvalidInput(
            "name", "contains a character that changes the text direction", "remove it"
        )
    if hidden := hidden_character(stripped):
        problem = f"contains an invisible or unknown character, U+{ord(hidden):04X}"
        raise InvalidInput("name", problem, "remove it")
    if not any(_is_visible(letter) for letter in stripped):
        raise InvalidInput("name", "has no visible character", "write at least one letter or digit")
    return stripped


def hidden_character(text: str) -> str:
    """Return the first character of a name that could make it look like another name; "" if none.

    It is invisible, a filler that looks like a space, private (each font shows another sign), or
    unassigned in this Python's Unicode, as new emoji may be.
    """
    if text.isascii():
        return ""
    pairs = zip(" " + text, text, strict=False)
    return next((letter for before, letter in pairs if _is_hidden(letter, before)), "")


def has_id_form(name: str) -> bool:
    """Return whether the name looks like an id or the reference of an approval.

    `cafe` and `3f2a9c1b4d5e.1` do, `dad` and `cafe-menu` do not.
    """
    return _ID_FORM.fullmatch(name) is not None


def validate_new_name(name: str, current: str | None = None) -> str:
    """Return a name as `validate_name` does. Raise `InvalidInput` also if it has the form of an id.

    An object may keep its ``current`` name, because a ledger may be older than this rule.
    """
    name = validate_name(name)
    return name if name == current else check_id_form(name, "name")


def check_id_form(name: str, field: str) -> str:
    """Return the name. Raise `InvalidInput` if it could stand for another object's id."""
    if has_id_form(name):
        raise InvalidInput(field, f'"{name}" has the form of an id', f'write "{name}-job"')
    return name


def _is_hidden(letter: str, before: str) -> bool:
    """Return whether the letter is hidden after ``before``, and no script or emoji needs it."""
    category = unicodedata.category(letter)
    if category == "Cf":
        return letter not in _JOINERS
    if category in ("Co", "Cn"):
        return not _FIRST_EMOJI <= letter <= _LAST_EMOJI
    if letter in _BLANK_LOOKING:
        return True
    is_selector = "VARIATION SELECTOR" in unicodedata.name(letter, "")
    return is_selector and unicodedata.category(before) != "So"  # ☀ and ☀️ do not look the same


def _is_visible(letter: str) -> bool:
    if _FIRST_EMOJI <= letter <= _LAST_EMOJI:
        return True
    return unicodedata.category(letter) not in _INVISIBLE and letter not in _BLANK_LOOKING


def default_name(prompt: str) -> str:
    """Return a name from the first words of the prompt: `summarise-open-pull-requests`.

    The name has at most 40 characters: the letters, digits and marks of any script in lower case,
    dots and underscores inside words (`api.example.org`), and hyphens between words. A longer first
    word is cut, but never inside a sequence that a reader sees as one character, such as a letter
    with its accents. If the prompt has no letter and no digit, the name is `job`. A name that would
    have the form of an id ends with `-job`.
    """
    letters = (
        letter if unicodedata.category(letter)[0] in "LNM" or letter in "._" else " "
        for letter in prompt.replace("'", "").replace("\N{RIGHT SINGLE QUOTATION MARK}", "")
        if letter not in _BIDI_CONTROLS and letter not in _BLANK_LOOKING
    )
    words = [word.strip("._") for word in "".join(letters).lower().split()]
    words = [word for word in words if any(map(str.isalnum, word))]
    if not words:
        return "job"
    name = prefix(words[0], MAX_DEFAULT_NAME_LENGTH)
    for word in words[1:]:
        if len(name) + 1 + len(word) > MAX_DEFAULT_NAME_LENGTH:
            break
        name += f"-{word}"
    return f"{name}-job" if has_id_form(name) else name


def free_name(wanted: str, taken: Collection[str]) -> str:
    """Return ``wanted`` or, if it is taken, the first free name with `-2`, `-3`, … added.

    ``wanted`` is shortened, if necessary, so that the new name has at most 100 characters.
    """
    if wanted not in taken:
        return wanted
    number = 2
    while True:
        suffix = f"-{number}"
        name = prefix(wanted, MAX_NAME_LENGTH - len(suffix)) + suffix
        if name not in taken:
            return name
        number += 1


MAX_LINE_LENGTH = 200
"""Maximum length in characters of a one-line string, such as the reason why a job is disabled."""


def validate_line(text: str, field: str, longest: int = MAX_LINE_LENGTH) -> str:
    """Return ``text`` without leading or trailing whitespace.

    Raise `InvalidInput` for more than ``longest`` characters, a line break, or another unprintable
    character.
    """
    text = text.strip()
    if len(text) > longest or not text.isprintable():
        raise InvalidInput(field, "is not valid", f"use one line of at most {longest} characters")
    return text


MAX_CAPABILITIES = 50
_CAPABILITY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,63}\Z")


def validate_capabilities(given: Iterable[str], field: str = "capabilities") -> list[str]:
    """Return the capabilities of an agent, sorted and without duplicates. Raise `InvalidInput`."""
    unique = sorted({each.strip() for each in given})
    for each in unique:
        if not _CAPABILITY.match(each):
            hint = "use up to 64 letters, digits and . _ : / + -, starting with a letter or digit"
            raise InvalidInput(field, f'"{each}" is not a capability', hint)
    if len(unique) > MAX_CAPABILITIES:
        raise InvalidInput(field, f"has {len(unique)} values", f"use at most {MAX_CAPABILITIES}")
    return unique
