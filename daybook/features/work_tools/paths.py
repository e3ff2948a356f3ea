"""Paths as a model writes them, and the names that no tool opens.

::

    src/a.py            in the work directory
    /home/ana/p/a.py    the same, or in a read-only folder
    @manual/a.md        in the read-only folder whose name is manual

A path has no `..`, because the folder before it may be a link.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from daybook.errors import InvalidInput
from daybook.execution import project_instructions
from daybook.execution.tool_arguments import is_encodable

MAX_PATH_CHARACTERS = 1_000

DENIED = (
    ".git",
    ".git-credentials",
    ".env*",
    ".ssh",
    ".aws",
    ".gnupg",
    ".netrc",
    ".npmrc",
    ".pypirc",
    "*.pem",
    "*.key",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
)
"""Names of files and folders that no tool opens, in any case: they often contain secrets."""

TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".daybook-", ".tmp"
"""The names of files that are being written."""


@dataclass(frozen=True)
class Root:
    """A folder that a model may use: the work directory (no ``name``), or a read-only folder.

    ``path`` is its real path.
    """

    path: str
    name: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(filter(None, self.path.split("/")))

    @property
    def is_writable(self) -> bool:
        return not self.name


@dataclass(frozen=True)
class Place:
    """A file or folder in a root. ``parts`` are the names on the way to it, none for the root."""

    root: Root
    parts: tuple[str, ...] = ()

    def __truediv__(self, name: str) -> Place:
        return Place(self.root, (*self.parts, name))

    @property
    def folder(self) -> Place:
        return Place(self.root, self.parts[:-1])

    def __str__(self) -> str:
        """Return the path as a model may write it; not printable characters are escaped."""
        names = (f"@{self.root.name}", *self.parts) if self.root.name else self.parts
        return printable("/".join(names)) or "."


def no_work_dir(word: str) -> InvalidInput:
    """Return the error of the tools ``word`` in a job without a work directory.

    Only their calls raise it, because other jobs of the agent may not need them.
    """
    problem = f'the job has no work directory, which "{word}" needs'
    return InvalidInput("work_dir", problem, "the operator sets it with --work-dir")


def printable(name: str) -> str:
    """Return ``name`` on one line, in characters that can be stored."""
    return name if name.isprintable() else ascii(name)[1:-1]


def is_denied(name: str) -> bool:
    """Return whether no tool opens a file or folder of this name."""
    plain = _plain(name)
    if plain.startswith(TEMPORARY_PREFIX) and plain.endswith(TEMPORARY_SUFFIX):
        return True
    return any(fnmatchcase(plain, pattern) for pattern in DENIED)


def has_instructions(name: str) -> bool:
    """Return whether a file of this name instructs the runs that work in its folder."""
    return _plain(name) in map(_plain, project_instructions.NAMES)


def _plain(name: str) -> str:
    """Return ``name`` without all that some file systems ignore.

    They ignore case, the form of characters, invisible characters, and blanks and periods at the
    end.
    """
    plain = "".join(each for each in name if unicodedata.category(each) != "Cf")
    for _ in range(2):  # case folding may give characters that have another normal form
        plain = unicodedata.normalize("NFKC", plain).casefold()
    return plain.rstrip(" .")


def locate(path: str, roots: Sequence[Root], field: str = "path") -> Place:
    """Return the place that ``path`` names. The first of ``roots`` is the work directory.

    Raise `InvalidInput` for a path that cannot be in a root, or that no tool opens. The file system
    is not asked, so the place may be a link.
    """
    if not path or len(path) > MAX_PATH_CHARACTERS:
        hint = f"use 1 to {MAX_PATH_CHARACTERS:,} characters"
        raise InvalidInput(field, f"has {len(path):,} characters", hint)
    shown = printable(path)
    if "\0" in path or not is_encodable(path):
        raise InvalidInput(field, f'"{shown}" has a character that no name of a file contains')
    parts = tuple(each for each in path.split("/") if each not in ("", "."))
    if ".." in parts:
        hint = "write the path without it, from the work directory"
        raise InvalidInput(field, f'"{shown}" contains ..', hint)
    place = _in_a_root(path, parts, roots)
    if place is None:
        known = ", ".join(["the work directory", *(f"@{each.name}" for each in roots[1:])])
        raise InvalidInput(field, f'"{shown}" is outside of the folders', f"use {known}")
    for each in place.parts:
        if is_denied(each):
            raise InvalidInput(field, f'no tool opens "{printable(each)}"', "it may have secrets")
    return place


def _in_a_root(path: str, parts: tuple[str, ...], roots: Sequence[Root]) -> Place | None:
    if path.startswith("/"):
        around = [each for each in roots if parts[: len(each.parts)] == each.parts]
        if not around:
            return None
        root = max(around, key=lambda each: len(each.parts))
        return Place(root, parts[len(root.parts) :])
    if path.startswith("~"):
        return None
    first = path.split("/", 1)[0]
    for root in roots[1:]:
        if first == f"@{root.name}":
            return Place(root, parts[1:])
    return Place(roots[0], parts)
