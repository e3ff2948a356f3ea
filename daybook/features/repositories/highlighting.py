"""Syntax of the lines of a file, by Pygments.

The text is hostile: it may be made so that the regular expressions of a lexer need minutes for it.
So only the lexers of `LEXERS` read it, and the length and the time are limited. What is over a
limit has no colours.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

MAX_FILE_CHARACTERS = 60_000
"""Maximum length of a file's lines, before and after the change."""
MAX_CHARACTERS = 120_000
"""The same for all files of a page."""
MAX_SECONDS = 0.5
"""Maximum CPU time of a page, in seconds."""

Token = tuple[str, str]
"""A class of `CLASSES` or "", and a part of a line."""

CLASSES = {
    "Comment": "sc",
    "Keyword": "sk",
    "Literal.String": "ss",
    "Literal.Number": "sn",
    "Name.Attribute": "sa",
    "Name.Builtin": "sb",
    "Name.Class": "sf",
    "Name.Constant": "sn",
    "Name.Decorator": "sa",
    "Name.Exception": "sb",
    "Name.Function": "sf",
    "Name.Tag": "sk",
    "Name.Variable.Magic": "sb",
    "Operator.Word": "sk",
    "Generic.Heading": "sf",
    "Generic.Subheading": "sf",
}
"""Classes of the style sheet, by the token types of Pygments that have one."""

LEXERS = {
    "bash": "bash sh zsh .bashrc .profile .zshrc",
    "c": "c h",
    "cmake": "cmake CMakeLists.txt",
    "cpp": "cc cpp cxx hh hpp hxx",
    "csharp": "cs",
    "css": "css",
    "dart": "dart",
    "docker": "Containerfile Dockerfile",
    "elixir": "ex exs",
    "go": "go",
    "haskell": "hs",
    "html": "htm html",
    "ini": "cfg ini .editorconfig .gitconfig",
    "java": "java",
    "javascript": "cjs js jsx mjs",
    "json": "json jsonc",
    "kotlin": "kt kts",
    "lua": "lua",
    "make": "mk GNUmakefile Makefile makefile",
    "markdown": "markdown md",
    "nginx": "nginx.conf",
    "nix": "nix",
    "perl": "pl pm",
    "php": "php",
    "powershell": "ps1 psm1",
    "protobuf": "proto",
    "python": "py pyi",
    "r": "R r",
    "rst": "rst",
    "ruby": "gemspec rake rb Gemfile Rakefile",
    "rust": "rs",
    "scala": "scala",
    "scss": "scss",
    "sql": "sql",
    "swift": "swift",
    "terraform": "hcl tf tfvars",
    "toml": "toml Pipfile",
    "typescript": "cts mts ts tsx",
    "xml": "svg xml xsd xsl",
    "yaml": "yaml yml",
}
"""Names of Pygments' lexers, with the extensions and the names of their files."""

_SLOW = re.compile(r"\s{80}|.{1001}")
"""Long white space, and long lines: some lexers need seconds for one token of such a text.

The lexer `c` needs 38 seconds for 20,000 characters of white space after `class`.
"""

_BY_FILE = {each: lexer for lexer, files in LEXERS.items() for each in files.split()}


def lexer_of(path: str) -> str:
    """Return the name of the lexer of a file; "" if it has none."""
    name = path.rpartition("/")[2]
    return _BY_FILE.get(name) or _BY_FILE.get(name.rpartition(".")[2] if "." in name else "", "")


class Highlighter:
    """Reader of the syntax of one page, within the limits above."""

    def __init__(self) -> None:
        self._left = MAX_CHARACTERS
        self._end = time.thread_time() + MAX_SECONDS

    def has_room(self, characters: int) -> bool:
        """Return whether a file of this length is read; count it if it is."""
        if characters > min(self._left, MAX_FILE_CHARACTERS) or time.thread_time() > self._end:
            return False
        self._left -= characters
        return True

    def tokens(self, lexer: str, lines: Sequence[str]) -> list[list[Token]]:
        """Return the tokens of each line; without a ``lexer``, one token without a class."""
        text = "\n".join(lines)
        if lexer and not _SLOW.search(text):
            found = self._read(lexer, text)
            # Pygments does not promise that its tokens are the text.
            if [_text_of(each) for each in found] == list(lines):
                return found
        return [[("", each)] for each in lines]

    def _read(self, lexer: str, text: str) -> list[list[Token]]:
        """Return the tokens of each line; not of all lines if time runs out."""
        lines: list[list[Token]] = [[]]
        for _, kind, value in _lexer(lexer).get_tokens_unprocessed(text):
            if time.thread_time() > self._end:
                return []
            name = _class_of(kind)
            first, *others = value.split("\n")
            _append(lines[-1], name, first)
            for each in others:
                lines.append([])
                _append(lines[-1], name, each)
        return lines


def _append(line: list[Token], name: str, text: str) -> None:
    if line and line[-1][0] == name:
        line[-1] = (name, line[-1][1] + text)
    elif text:
        line.append((name, text))


def _text_of(tokens: Sequence[Token]) -> str:
    return "".join([text for _, text in tokens])


@cache
def _lexer(name: str) -> Any:
    from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]

    return get_lexer_by_name(name, startinline=True)  # a hunk of PHP begins in the code


@cache
def _class_of(kind: Any) -> str:
    """Return the class of a token type, or of the nearest type above it that has one."""
    words = str(kind).split(".")[1:]
    for length in range(len(words), 0, -1):
        if found := CLASSES.get(".".join(words[:length])):
            return found
    return ""
