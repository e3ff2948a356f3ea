"""Texts of a run's steps as its page shows them: arguments of a call, JSON, patches, Markdown.

A patch has only colours here. The page of a change, which a person reviews, has tables with the
syntax of the lines (`features.repositories.diff_view`).
"""

from __future__ import annotations

import json
import re
from typing import Any

from markupsafe import Markup, escape

from daybook.short_text import one_line

MAX_PREVIEW_CHARACTERS = 200
_CUT = re.compile(r"\n(… \([\d,]+ more characters\))\Z")
"""The note of `short_text.shorten` at the end of a text that the journal has cut."""
_ARGUMENT = re.compile(r"(?:, )?([^=]{1,100})=")
_CUTTABLE = ('"', "[", "{")
"""Beginnings of the JSON values that are long enough to be cut."""
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a pair, which JSON may have as an escape, and which no page can contain."""
_MAX_ESCAPE = 12
"""Maximum length of an escape of JSON, which the cut may have split: two halves of a pair."""
_HUNK = re.compile(r"^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@", re.MULTILINE)
_FILE = re.compile(r"^\+\+\+ \S", re.MULTILINE)
_BLOCK = re.compile(r"^ {0,3}(?:#{1,6} |[-*+] |\d{1,3}[.)] |> )\S", re.MULTILINE)
_INLINE = re.compile(r"\*\*\S[^*\n]{0,2000}\*\*|\]\(https?://[^\s)]{1,2000}\)")
_TABLE = re.compile(r"^ {0,3}\|?(?: ?:?-{3,}:? ?\|)+", re.MULTILINE)


def preview(given: str | None, kind: str, output: str | None) -> str:
    """Return one line that says what a step with the input ``given`` did.

    It has the arguments of a call, or the model's response to a request.
    """
    text = given if kind == "tool" else output or given
    return one_line(text or "", MAX_PREVIEW_CHARACTERS)


def inputs(given: str | None, kind: str) -> list[tuple[str, str]]:
    """Return the names and the values of a call's arguments, or the text of a request, unnamed."""
    text = given or ""
    if kind == "tool" and (found := arguments(text)):
        return found
    return [("", text)] if text else []


def arguments(text: str) -> list[tuple[str, str]]:
    """Return the arguments in a text that `agents.journal.arguments_text` has written.

    Return a part that cannot be read as one value without a name.
    """
    if (whole := _json(text)) is not None:
        named = whole.items() if isinstance(whole, dict) else ()
        return [(_encodable(name), _shown(value)) for name, value in named]
    note = _CUT.search(text)
    body, mark = (text[: note.start()], f"\n{note[1]}") if note else (text, "")
    found, at = list[tuple[str, str]](), 0
    while at < len(body):
        name = _ARGUMENT.match(body, at)
        if name is None:
            break
        try:
            value, end = json.JSONDecoder().raw_decode(body, name.end())
        except (ValueError, RecursionError):
            if note and body[name.end() : name.end() + 1] in _CUTTABLE:
                return [*found, (name[1], _cut_string(body[name.end() :]) + mark)]
            break
        found.append((name[1], _shown(value)))
        at = end
    rest = body[at:] + mark
    return [*found, ("", rest)] if rest.strip() else found


def readable(text: str) -> str:
    """Return a text; if it is a JSON object or list, with indentation."""
    value = _json(text)
    return text if value is None else _indented(value)


def form(text: str) -> str:
    """Return the form of a text: `patch`, `markdown`, or "" for any other text.

    A program's output may look like Markdown by chance, such as YAML with comments. So Markdown
    needs a table, or a heading or list and also a link or bold words.
    """
    if _HUNK.search(text) and _FILE.search(text):
        return "patch"
    if _json(text) is None and (
        _TABLE.search(text) or (_BLOCK.search(text) and _INLINE.search(text))
    ):
        return "markdown"
    return ""


def patch(text: str) -> Markup:
    """Return a text with a patch as HTML, with marks for the lines that it removes and adds."""
    html, removed, added = list[str](), 0, 0
    for line in text.split("\n"):
        tag = ""
        if header := _HUNK.match(line):
            removed, added = (int(each or 1) for each in header.groups())
        elif removed > 0 or added > 0:
            tag = {"-": "del", "+": "ins"}.get(line[:1], "")
            removed -= line[:1] in ("-", " ", "")
            added -= line[:1] in ("+", " ", "")
        if tag:
            html.append(f"<{tag}>{escape(line[1:])}</{tag}>")
        else:
            html.append(f"<span>{escape(line)}</span>")
    return Markup("".join(html))


def _json(text: str) -> Any:
    """Return the JSON object or list in ``text``; None if it is something else."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _cut_string(text: str) -> str:
    """Return the readable part of a JSON text whose end is missing."""
    for left_out in range(_MAX_ESCAPE if text.startswith('"') else 0):
        try:
            return _encodable(str(json.loads(text[: len(text) - left_out] + '"')))
        except ValueError:
            continue
    return text


def _shown(value: Any) -> str:
    return _encodable(value) if isinstance(value, str) else _indented(value)


def _indented(value: Any) -> str:
    return _encodable(json.dumps(value, indent=2, ensure_ascii=False))


def _encodable(text: str) -> str:
    return _LONE_SURROGATE.sub("\ufffd", text)


FILTERS = {
    "preview": preview,
    "inputs": inputs,
    "readable": readable,
    "text_form": form,
    "patch": patch,
}
