"""Regular expressions: each takes time that is linear in the length of its text.

Most of them read text from outside (a header, an answer of a model, a prompt), some in a server
with one thread. The tests find each pattern of the product and the methods that use it, and derive
texts from its repetitions that make a careless pattern slow.
"""

from __future__ import annotations

import ast
import gc
import importlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from daybook import redaction
from daybook.errors import InvalidInput
from daybook.execution import checks, markdown
from daybook.http import request, secrets
from tests import rows

ROOT = Path(__file__).parents[2]
PACKAGES = ("daybook", "flows", "blocks", "deployments")
USES_OF_REGEX = (
    "daybook/short_text.py",  # only `\\X`, one grapheme cluster
    "daybook/features/work_tools/patterns.py",  # a model's expression, with a time limit
    "daybook/features/repositories/hidden_characters.py",  # one character at a time
)

SIZE = 8_000
"""Characters. A pattern that takes quadratic time is slow at this length."""
STEEPEST = 9.0
"""Four times the text may take so many times as long: 4 is linear, 16 is quadratic."""
QUADRATIC, SURE_SECONDS = 13.0, 0.02
"""A longer text need not confirm such a factor, if the text takes at least so many seconds."""
NOTHING = 0.000_2
"""Seconds of CPU below which a measurement says nothing, and needs to say nothing."""


@dataclass(frozen=True)
class Text:
    """Hostile text of any length: ``pump`` repeated between ``head`` and ``tail``."""

    pump: str
    head: str = ""
    tail: str = ""

    def of(self, size: int) -> str:
        return self.head + self.pump * (size // len(self.pump)) + self.tail


def _texts(*given: str | Text) -> tuple[Text, ...]:
    return tuple(Text(each) if isinstance(each, str) else each for each in given)


INSERTED = {
    "pattern": r"hour at (:\d\d(?:(?:,|,? and) :\d\d)*)",
    "own_name": "daybook",
}
"""An example of each variable that the code inserts into a pattern."""

UNSEEN = {"daybook/files/documents.py": "match"}
"""The method of the patterns of a module for which no call is found; otherwise `finditer`."""


@dataclass(frozen=True)
class Found:
    """A pattern of the product, and the methods that use it."""

    pattern: re.Pattern[Any]
    methods: frozenset[str]


_FUNCTIONS = {
    "match",
    "fullmatch",
    "search",
    "sub",
    "subn",
    "split",
    "findall",
    "finditer",
}


@cache
def found() -> dict[str, Found]:
    """Return each pattern that the product creates or uses, by its module and its name or use."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in paths}
    uses = [use for place, tree in trees.items() for use in _uses(place, tree)]
    return dict(each for place, tree in trees.items() for each in _found_in(place, tree, uses))


def _uses(place: str, tree: ast.AST) -> Iterator[tuple[str, str, str]]:
    """Yield the module, the variable and the method of each call that may use a pattern."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name) | ast.Attribute(attr=name), attr=method) if (
                method in _FUNCTIONS
            ):
                yield place, name, method


def _found_in(
    place: str, tree: ast.AST, uses: list[tuple[str, str, str]]
) -> Iterator[tuple[str, Found]]:
    named = {
        id(statement.value): ast.unparse(target)
        for statement in ast.walk(tree)
        if isinstance(statement, ast.Assign)
        for target in statement.targets
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="re"), attr="compile")):
                variable = named.get(id(node), ast.unparse(node.args[0]))
                methods = {
                    method
                    for used_in, used, method in uses
                    if used == variable and (used_in == place or not variable.startswith("_"))
                }
                pattern = _pattern_of(place, node, named.get(id(node)))
                yield (
                    f"{place}:{variable}",
                    Found(pattern, frozenset(methods or {UNSEEN.get(place, "finditer")})),
                )
            case ast.Call(func=ast.Attribute(value=ast.Name(id="re"), attr=method)) if (
                method in _FUNCTIONS
            ):
                name = f"{place}:{ast.unparse(node.args[0])}"
                yield name, Found(_pattern_of(place, node, None), frozenset({method}))
            case (
                ast.ImportFrom(module="re" | "regex") | ast.Import(names=[ast.alias(name="regex")])
            ) if place not in USES_OF_REGEX:
                raise AssertionError(f"{place}: write `import re`, so that patterns are found here")
            case ast.keyword(arg="pattern" | "regex"):
                raise AssertionError(
                    f"{place}:{node.value.lineno}: a pattern that is not found here"
                )


def _pattern_of(place: str, call: ast.Call, variable: str | None) -> re.Pattern[Any]:
    module = importlib.import_module(place.removesuffix(".py").replace("/", "."))
    if variable is not None:
        pattern: re.Pattern[Any] = getattr(module, variable)
        return pattern
    parts = call.args[0].values if isinstance(call.args[0], ast.JoinedStr) else [call.args[0]]
    return re.compile("".join(_text_of(part, vars(module)) for part in parts), re.IGNORECASE)


def _text_of(part: ast.expr, names: dict[str, Any]) -> str:
    match part:
        case ast.FormattedValue(value=value):
            return _text_of(value, names)
        case ast.Constant(value=value):
            return str(value)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="re"), attr="escape")):
            return "escaped"
        case ast.Name(id=name) if isinstance(names.get(name), str):
            return str(names[name])
    return INSERTED[ast.unparse(part)]


# --- texts that are hostile to a pattern

Node = tuple[Any, Any]
"""An operation of a parsed pattern, and its value."""

_parse: Any = importlib.import_module("re._parser").parse
_MANY = 20
"""Most characters of a repetition that needs no text, because it costs little."""
_LETTERS = "a1A _-.,:/\n\t!~"
_CATEGORIES: dict[str, Callable[[str], bool]] = {
    "DIGIT": str.isdecimal,
    "SPACE": str.isspace,
    "WORD": lambda letter: letter.isalnum() or letter == "_",
}


class Hostile:
    """Texts from the repetitions of a pattern.

    Each text repeats what a repetition matches, after what the pattern needs before it, or together
    with that, because a search begins anew at each character. The end of a text does not match.
    """

    def __init__(self, pattern: re.Pattern[Any]) -> None:
        self.texts = dict[Text, None]()
        for nodes in _alternatives(list(_parse(pattern.pattern, pattern.flags))):
            sets = list(_sets(nodes))
            # One letter for each group of sets that have it in common.
            letters = {chr(value) for op, value in sets if str(op) == "LITERAL"} | set(_LETTERS)
            groups = {tuple(_has(each, one) for each in sets): one for one in sorted(letters)}
            self._letters = list(groups.values())
            self._walk(nodes, "")

    def _walk(self, nodes: list[Node], head: str) -> None:
        """Add the texts for the repetitions in ``nodes``; ``head`` is what comes before."""
        for op, value in nodes:
            if "REPEAT" in str(op) and value[1] > _MANY:
                for each in self._matched(list(value[2])):
                    self._add(each, head)
                    self._add(head + each)
            for body in _bodies(op, value):
                self._walk(body, head)
            head += self._matched([(op, value)])[0]

    def _add(self, pump: str, head: str = "") -> None:
        if pump:
            self.texts |= dict.fromkeys([Text(pump, head, "\0"), Text(pump, head)])

    def _matched(self, nodes: list[Node]) -> list[str]:
        """Return texts that ``nodes`` match, one for each choice in them."""
        found = [""]
        for op, value in nodes:
            if str(op) in ("ASSERT", "ASSERT_NOT"):
                continue
            if bodies := _bodies(op, value):
                choices = [each for body in bodies for each in self._matched(body)]
                times = max(value[0], 1) if "REPEAT" in str(op) else 1
                choices = [each * times for each in choices]
            else:
                choices = [each for each in self._letters if _has((op, value), each)] or [""]
            found = [found[0] + each for each in choices] + [
                each + choices[0] for each in found[1:]
            ]
        return found


def _alternatives(nodes: list[Node]) -> list[list[Node]]:
    """Return the alternatives of a whole pattern, which do not affect each other's time."""
    if len(nodes) == 1 and str(nodes[0][0]) in ("BRANCH", "SUBPATTERN"):
        return [each for body in _bodies(*nodes[0]) for each in _alternatives(body)]
    return [nodes]


def _bodies(op: object, value: Any) -> list[list[Node]]:
    """Return the parts of a node that are patterns themselves."""
    match str(op):
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            return [list(value[2])]
        case "SUBPATTERN":
            return [list(value[3])]
        case "ATOMIC_GROUP":
            return [list(value)]
        case "ASSERT" | "ASSERT_NOT":
            return [list(value[1])]
        case "BRANCH":
            return [list(each) for each in value[1]]
    return []


def _sets(nodes: list[Node]) -> Iterator[Node]:
    """Yield each set of characters in the pattern; a literal is a set of one."""
    for op, value in nodes:
        if str(op) in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            yield op, value
        if str(op) == "IN":
            yield from _sets(value)
        for body in _bodies(op, value):
            yield from _sets(body)


def _has(node: Node, letter: str) -> bool:
    op, value = node
    match str(op):
        case "LITERAL":
            return bool(ord(letter) == value)
        case "NOT_LITERAL":
            return bool(ord(letter) != value)
        case "RANGE":
            return bool(value[0] <= ord(letter) <= value[1])
        case "CATEGORY":
            name = str(value).removeprefix("CATEGORY_")
            is_negated = name.startswith("NOT_")
            return _CATEGORIES[name.removeprefix("NOT_")](letter) is not is_negated
        case "IN":
            is_negated = str(value[0][0]) == "NEGATE"
            return any(_has(each, letter) for each in value[is_negated:]) is not is_negated
    return str(op) == "ANY" and letter != "\n"


# --- the tests


def test_a_slow_pattern_is_found() -> None:
    slow = [
        *((r"\s+$", "search"), (r"\d+-", "findall"), (r"<[^>]*>", "sub")),
        *((r"[a-z ]*[ \d]*!", "match"), (r"begin.*end", "finditer")),
    ]
    for (pattern, method), row in rows.each(slow):
        with row, pytest.raises(AssertionError, match="times as long"):
            _check(Found(re.compile(pattern), frozenset({method})))


@pytest.mark.slow  # measures each pattern of the product
@pytest.mark.timeout(600)
def test_each_pattern_takes_linear_time() -> None:
    for (_, each), row in rows.each(found().items()):
        with row:
            _check(each)


def _check(found: Found) -> None:
    for method in found.methods:
        for text in Hostile(found.pattern).texts:
            _check_is_linear(partial(_use, found.pattern, method), text)


def _use(pattern: re.Pattern[Any], method: str, given: str) -> None:
    text = given.encode() if isinstance(pattern.pattern, bytes) else given
    match method:
        case "sub" | "subn":
            pattern.sub(text[:0], text)
        case "finditer":
            for _ in pattern.finditer(text):
                pass
        case _:
            getattr(pattern, method)(text)


def _headers(text: str) -> None:
    request.check("POST", {"X-Team": text})
    secrets.refuse_literal_headers({"X-Team": text})


_MARKDOWN = _texts(
    *(
        "[",
        "![",
        "`a",
        "`a`",
        "`a\nb` ",
        "> ",
        "- a\n",
        "* a\n",
        "*a_",
        "**a ",
        "<a",
        "<!--",
        "[a](",
        "(",
    ),
    *(
        "[a]: b\n",
        "\\",
        "|a",
        "a\n\n",
        "!",
        "~~~\n",
        "```\n",
        "> `<b>\n`",
        "`",
        "[a](<b>",
        "-\n",
        "&a;",
    ),
    Text("[", "`<b>` "),
    Text("[a][b] ", "`<b>` "),
    Text("a\n", "|a|b|\n|-|-|\n", "\n`<b>`"),
    Text("* a\n", "```\n<b>\n```\n"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("read", "texts"),
    [
        (redaction.redact_tokens, _texts("dbt_", "dbt_a")),
        (_headers, _texts("eyJ-", Text(" ", "Bearer", "a"), "a")),
        (secrets.refuse_literal_params, _texts("eyJ-", Text("a", "eyJ"))),
        (
            checks._unfenced,
            _texts(Text("\t", "```\n", "x"), Text("\n", "```\n", "x```"), Text("`", "```\n", "x")),
        ),
        (markdown.sanitize_markdown, _MARKDOWN),
        (markdown.fenced_block, _texts("`", "``a")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_function_that_reads_outside_text_takes_linear_time(
    read: Callable[[str], Any], texts: tuple[Text, ...]
) -> None:
    def use(text: str) -> None:
        with suppress(InvalidInput):
            read(text)

    for text in texts:
        _check_is_linear(use, text)


def _check_is_linear(use: Callable[[str], None], text: Text) -> None:
    """Fail if a text takes too much longer than a quarter of it, in doubt at two lengths.

    Noise only adds to a measurement, so the smallest of several is compared.
    """
    steep = 0.0
    for size in (SIZE, 4 * SIZE):
        whole, quarter = text.of(size), text.of(size // 4)
        short = max(min(_seconds(use, quarter) for _ in range(3)), NOTHING)
        long = min(_seconds(use, whole) for _ in range(3))
        steep = long / short
        if steep <= STEEPEST:
            return
        if steep >= QUADRATIC and long >= SURE_SECONDS:
            break
    raise AssertionError(f"{steep:.0f} times as long for four times {text}")


def _seconds(use: Callable[[str], None], text: str) -> float:
    """Return the CPU time that this thread uses, without other load of the machine."""
    gc.disable()
    try:
        began = time.thread_time()
        use(text)
        return time.thread_time() - began
    finally:
        gc.enable()
