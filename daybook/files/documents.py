"""YAML and JSON documents with the position of each value, and YAML text for people.

The reader follows YAML 1.2, as editors do: `on`, `no` and `12:30:00` are texts, and only `true` and
`false` (also `True`, `TRUE`) are booleans. Dates, and octal and hexadecimal numbers (`0o17`,
`0x1F`), are texts. JSON is read as YAML. A document may contain only plain data, so a tag such as
`!!python/object` is a mistake. A merge key (`<<`) is a mistake too.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from daybook.errors import Position
from daybook.json_text import JsonObject
from daybook.short_text import clip

if TYPE_CHECKING:
    import yaml

Path = tuple[str | int, ...]
"""Keys and indexes from the top of a document to a value.

The path of the document itself is empty.
"""

MAX_DEPTH = 150
"""Maximum number of nesting levels of a document. A field of a job may have 100 levels."""
MAX_VALUES = 1_000_000
"""Maximum number of values of a document. Each use of an alias counts its values again."""

_OCTAL = re.compile(r"0o[0-7]+\Z")
"""An octal integer of YAML 1.2; PyYAML writes it without quotes, and `read` takes it as a text."""
_OTHER_LINE_BREAKS = frozenset("\r\x85\u2028\u2029")
_SCALARS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z")),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")),
    ("int", re.compile(r"[-+]?[0-9]+\Z")),
    (
        "float",
        re.compile(
            r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
        ),
    ),
)
"""Patterns of the plain scalars that are not texts, by tag, from the core schema of YAML 1.2.

Octal and hexadecimal integers have no pattern, so they are texts.
"""
_TAG = "tag:yaml.org,2002:"
_PAIR = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")


@dataclass(frozen=True)
class Problem:
    """A mistake at a position of a document. ``field`` is the nearest key, or empty."""

    position: Position
    field: str
    problem: str
    hint: str = ""


@dataclass
class Document:
    """The plain data of a document, with the positions of its values and keys.

    A scalar or alias with a problem is None. A document has no data if it cannot be parsed, or if
    it has too many levels or values.
    """

    data: Any = None
    values: dict[Path, Position] = field(default_factory=dict)
    keys: dict[Path, Position] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def position(self, path: Path, *, of_key: bool = False) -> Position:
        """Return the position of a value or its key, of its nearest parent, or of the start."""
        known = self.keys if of_key else self.values
        while path and path not in known:
            path = path[:-1]
        return known.get(path) or self.values.get(path, Position(1, 1))


def read(text: str) -> Document:
    """Return the document in a YAML or JSON text. Its `problems` are the mistakes in the text."""
    import yaml

    document = Document()
    builder = _Builder(document)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for event in yaml.parse(_json_as_yaml(text), Loader=loader):
            if not builder.add(event):
                break
    except yaml.YAMLError as error:
        document.data = None
        document.problems.append(_syntax_problem(text, error))
    return document


def _json_as_yaml(text: str) -> str:
    """Return valid JSON in a form that YAML parsers can read. Return any other text unchanged."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text

    def joined(found: re.Match[str]) -> str:
        high, low = int(found[1], 16), int(found[2], 16)
        return f"\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08x}"

    return _PAIR.sub(joined, text.replace("\t", " "))


def _syntax_problem(text: str, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        position = Position(mark.line + 1, mark.column + 1)
    else:  # the text contains a character that YAML does not allow
        before = text[: getattr(error, "position", 0) or 0]
        position = Position(before.count("\n") + 1, len(before) - before.rfind("\n"))
    why = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be parsed"
    context = getattr(error, "context", None)
    line = [*text.splitlines(), ""][position.line - 1]
    what = f"{context} {why} {line[position.column - 1 : position.column]}"
    for words, problem, hint in _COMMON_MISTAKES:
        if words in what:
            return Problem(position, "", f"is not YAML: {problem}", hint)
    problem = f"is not YAML: {why}" + (f" ({context})" if context else "")
    hint = "check the indentation and the quotes near this position"
    return Problem(position, "", " ".join(problem.split()), hint)


_COMMON_MISTAKES = (
    ("scanning an alias", "a value begins with *", 'put it in quotes, such as "* * * * *"'),
    ("cannot start any token \t", "the indentation has a tab", "use spaces"),
    ("found a tab character", "the indentation has a tab", "use spaces"),
    ("cannot start any token @", "a value begins with @", 'put it in quotes, such as "@daily"'),
    ("cannot start any token %", "a value begins with %", "put it in quotes"),
    ("cannot start any token `", "a value begins with `", "put it in quotes"),
    (
        "mapping values are not",
        'a value contains ": "',
        "put it in quotes, or check the indentation",
    ),
)
"""Words of a parser's error with the character at its position, a plain problem, and a hint."""


@dataclass
class _Open:
    """A mapping or list whose end has not been read yet.

    ``key`` is a key whose value is not read yet.
    """

    data: JsonObject | list[Any]
    path: Path
    anchor: str | None
    key: str | None = None
    has_key: bool = False


class _Builder:
    """Builder of a `Document` from the events of a parser. It uses no recursion."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._stack = list[_Open]()
        self._anchors = JsonObject()
        self._count, self._has_root = 0, False

    def add(self, event: Any) -> bool:
        """Add one event. Return False if the document cannot be read further."""
        import yaml

        match event:
            case yaml.DocumentStartEvent() if self._has_root:
                self._problem(event, "has a second document", "write all jobs in one list")
                return False
            case yaml.ScalarEvent():
                self._scalar(event)
            case yaml.AliasEvent():
                if event.anchor not in self._anchors:
                    problem = f"the alias *{event.anchor} has no value yet"
                    self._problem(event, problem, "write the value out")
                    self._value(event, None)
                else:
                    value = self._anchors[event.anchor]
                    self._count += _size(value)
                    self._value(event, value)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._open(event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                closed = self._stack.pop()
                if closed.anchor:
                    self._anchors[closed.anchor] = closed.data
        if len(self._stack) > MAX_DEPTH:
            self._problem(event, "is nested too deeply", f"use at most {MAX_DEPTH} levels")
        elif self._count > MAX_VALUES:
            self._problem(event, "has too many values", f"use at most {MAX_VALUES:,}")
        else:
            return True
        self._document.data = None
        return False

    def _open(self, event: Any) -> None:
        import yaml

        is_mapping = isinstance(event, yaml.MappingStartEvent)
        tag = f"{_TAG}map" if is_mapping else f"{_TAG}seq"
        if event.tag not in (None, "!", tag):
            self._problem(
                event, f"the tag {clip(str(event.tag), 40)} is not supported", "remove it"
            )
        if self._expects_key():
            hint = 'write a text as the key; write a reference in quotes, as "{{secret:name}}"'
            self._problem(event, "a key is not a text", hint)
            self._key(event, None)
            path: Path = (*self._stack[-1].path, "?")
            self._stack.append(_Open({} if is_mapping else [], path, None))
            return
        data: JsonObject | list[Any] = {} if is_mapping else []
        path = self._value(event, data)
        self._stack.append(_Open(data, path, event.anchor))

    def _scalar(self, event: Any) -> None:
        if self._expects_key():
            self._key(event, str(event.value))
            return
        value = self._plain(event)
        if event.anchor:
            self._anchors[event.anchor] = value
        self._value(event, value)

    def _plain(self, event: Any) -> Any:
        tag = (event.tag or "").removeprefix(_TAG)
        is_plain = event.implicit[0] and not tag
        if is_plain:
            tag = next((name for name, form in _SCALARS if form.match(event.value)), "str")
        match tag:
            case "str" | "" | "!" | "timestamp":
                return str(event.value)
            case "null":
                return None
            case "bool":
                return str(event.value).lower() == "true"
            case "int" | "float":
                return self._number(event, tag)
        self._problem(event, f"the tag {clip(event.tag, 40)} is not supported", "remove it")
        return None

    def _number(self, event: Any, tag: str) -> int | float | None:
        text = str(event.value).replace(".inf", "inf").replace(".nan", "nan")
        try:
            number = int(text) if tag == "int" else float(text)
        except ValueError:
            self._problem(event, "is not a number", "write it in quotes")
            return None
        if isinstance(number, float) and not math.isfinite(number):
            self._problem(event, f"{clip(event.value, 40)} is not finite", "use a finite number")
            return None
        return number

    def _expects_key(self) -> bool:
        if not self._stack:
            return False
        top = self._stack[-1]
        return isinstance(top.data, dict) and not top.has_key

    def _key(self, event: Any, key: str | None) -> None:
        top = self._stack[-1]
        top.key, top.has_key = key, True
        if key is None:
            return
        path = (*top.path, key)
        if key == "<<" and event.implicit[0]:
            self._problem(event, "<< is not supported", "write the fields of the alias out")
            top.key = None
        elif isinstance(top.data, dict) and key in top.data:
            first = self._document.keys.get(path)
            where = f" in line {first.line}" if first else ""
            self._problem(event, f"is already given{where}", "keep one of them", key)
            top.key = None
        else:
            self._document.keys[path] = _position(event)

    def _value(self, event: Any, value: Any) -> Path:
        """Store the value in the open mapping or list, and return its path."""
        self._count += 1
        if not self._stack:
            self._has_root, self._document.data = True, value
            path: Path = ()
        else:
            top = self._stack[-1]
            if isinstance(top.data, list):
                path = (*top.path, len(top.data))
                top.data.append(value)
            else:
                path = (*top.path, top.key if top.key is not None else "?")
                if top.key is not None:
                    top.data[top.key] = value
                top.has_key = False
        self._document.values.setdefault(path, _position(event))
        return path

    def _problem(self, event: Any, problem: str, hint: str, field: str = "") -> None:
        keys = [str(each) for each in (self._stack[-1].path if self._stack else ()) if each != "?"]
        top = self._stack[-1].key if self._stack else None
        named = field or top or next((each for each in reversed(keys) if not each.isdigit()), "")
        self._document.problems.append(Problem(_position(event), named, problem, hint))


def _position(event: Any) -> Position:
    return Position(event.start_mark.line + 1, event.start_mark.column + 1)


def _size(value: Any) -> int:
    """Return the number of values in ``value``; if there are more, `MAX_VALUES` + 1."""
    count, left = 0, [value]
    while left and count <= MAX_VALUES:
        each = left.pop()
        count += 1
        if isinstance(each, dict):
            left.extend(each.values())
        elif isinstance(each, list):
            left.extend(each)
    return count


def to_yaml(data: Mapping[str, Any] | list[Any]) -> str:
    """Return ``data`` as YAML for people.

    `read` and parsers of YAML 1.1 and 1.2 read it as the same data. A text of several lines is
    written as a block.
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        if not _OTHER_LINE_BREAKS.isdisjoint(value):
            # Without quotes, PyYAML writes these characters unescaped, and reads them as spaces.
            style = '"'
        return dumper.represent_scalar(f"{_TAG}str", value, style=style)

    Dumper.add_representer(str, text)
    for name, form in _SCALARS:  # also quote a text that is not a text in YAML 1.2
        Dumper.add_implicit_resolver(f"{_TAG}{name}", form, None)
    Dumper.add_implicit_resolver(f"{_TAG}int", _OCTAL, None)
    written: str = yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)
    return written
