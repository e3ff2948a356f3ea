"""Patches of git as files, hunks and lines.

::

    parse          a patch, also one that was cut  ──►  FilePatch ──► Hunk ──► PatchLine
    side_by_side   the lines of a hunk in pairs: a removed line beside the added one
    changed_parts  the words by which the lines of a pair differ
    is_generated   whether a file is one that programs write, by its name

Each line of a file's content begins with a sign in a patch, so no content can look like a header.
The library `unidiff` refuses a patch that was cut, and paths such as `a b/c`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise, takewhile, zip_longest
from typing import Literal

CUT_MARK = "… (longer)"
"""The last line of a patch that `worktrees` has cut."""
MAX_COMPARED_WORDS = 40
"""Maximum number of words of a line's changed part in which unchanged words are looked for."""
MIN_SIMILARITY = 0.3
"""Part of the words that a pair has in common, below which its changed words are not marked."""

FileStatus = Literal["added", "deleted", "renamed", "copied", "modified"]
Parts = list[tuple[int, int]]
"""Ranges of a line, as indexes of their first character and of the one after the last."""

_FILE = "diff --git "
_HUNK = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@ ?(.*)", re.DOTALL)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\([0-7]{3}|.)", re.DOTALL)
_ESCAPES = {"a": "\a", "b": "\b", "t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}
_WORD = re.compile(r"\w+|\s+|.", re.DOTALL)
_LINK_MODE = "120000"

_GENERATED_NAMES = frozenset(
    {
        "bun.lockb",
        "conda-lock.yml",
        "go.sum",
        "gradle.lockfile",
        "npm-shrinkwrap.json",
        "package-lock.json",
        "packages.lock.json",
        "pnpm-lock.yaml",
        ".terraform.lock.hcl",
    }
)
_GENERATED_ENDS = (
    *(".lock", ".min.js", ".min.css", ".js.map", ".css.map", ".pb.go", ".pb.cc", ".pb.h"),
    *("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", ".g.dart", ".designer.cs"),
)
_GENERATED_FOLDERS = ("node_modules/", "__generated__/")


@dataclass(frozen=True, slots=True)
class PatchLine:
    """A line of a hunk. ``sign`` is a blank for an unchanged line, `-` or `+`.

    ``old`` and ``new`` are its numbers before and after the change. ``text`` has no line break.
    """

    sign: str
    old: int | None
    new: int | None
    text: str
    has_newline: bool = True


@dataclass(frozen=True, slots=True)
class Hunk:
    """A part of a file. ``missing`` is the number of its lines that the patch does not contain."""

    header: str
    lines: tuple[PatchLine, ...]
    missing: int = 0


@dataclass(frozen=True)
class FilePatch:
    """The change of one file.

    ``old_path`` differs from ``path`` if the file was renamed or copied. A mode is "" if the patch
    does not name it.
    """

    path: str
    old_path: str
    status: FileStatus
    old_mode: str = ""
    new_mode: str = ""
    is_binary: bool = False
    hunks: tuple[Hunk, ...] = ()

    @property
    def lines(self) -> int:
        """Return the number of lines, with the unchanged ones."""
        return sum(len(each.lines) for each in self.hunks)

    @property
    def insertions(self) -> int:
        return sum(line.sign == "+" for each in self.hunks for line in each.lines)

    @property
    def deletions(self) -> int:
        return sum(line.sign == "-" for each in self.hunks for line in each.lines)

    @property
    def is_incomplete(self) -> bool:
        return any(each.missing for each in self.hunks)

    @property
    def is_link(self) -> bool:
        return _LINK_MODE in (self.old_mode, self.new_mode)

    @property
    def has_crlf(self) -> bool:
        """Return whether each line break is CR LF, before and after the change."""
        lines = [line for each in self.hunks for line in each.lines if line.has_newline]
        return bool(lines) and all(line.text.endswith("\r") for line in lines)


@dataclass(frozen=True)
class Patch:
    """The files of a patch. ``is_cut`` if its end is missing."""

    files: tuple[FilePatch, ...]
    is_cut: bool


def parse(patch: str) -> Patch:
    """Return the files of a patch that git has written. Text that is no patch has no files."""
    lines = patch.split("\n")
    if lines[-1] == "":
        lines.pop()
    is_cut = lines[-1:] == [CUT_MARK]
    if is_cut:
        del lines[-2:]  # the mark, and a line whose end may be missing
    starts = [number for number, line in enumerate(lines) if line.startswith(_FILE)]
    files = tuple(_file(lines[start:end]) for start, end in pairwise([*starts, len(lines)]))
    return Patch(files, is_cut or bool(files and files[-1].is_incomplete))


def side_by_side(lines: Sequence[PatchLine]) -> Iterator[tuple[PatchLine | None, PatchLine | None]]:
    """Yield the lines of a hunk before and after the change, in pairs.

    None stands beside a line without counterpart.
    """
    removed, added = list[PatchLine](), list[PatchLine]()
    for line in lines:
        if line.sign == "+":
            added.append(line)
            continue
        if line.sign == " " or added:
            yield from zip_longest(removed, added)
            removed, added = [], []
        if line.sign == " ":
            yield line, line
        else:
            removed.append(line)
    yield from zip_longest(removed, added)


def changed_parts(old: str, new: str) -> tuple[Parts, Parts]:
    """Return the parts of two lines by which they differ, in whole words.

    Both are empty if the lines have little in common.
    """
    before, after = _WORD.findall(old), _WORD.findall(new)
    first = 0
    for one, other in zip(before, after, strict=False):
        if one != other:
            break
        first += 1
    last = 0
    for one, other in zip(reversed(before[first:]), reversed(after[first:]), strict=False):
        if one != other:
            break
        last += 1
    ranges = [(first, len(before) - last, first, len(after) - last)]
    if 0 < max(ranges[0][1], ranges[0][3]) - first <= MAX_COMPARED_WORDS:
        matcher = SequenceMatcher(
            None, before[first : ranges[0][1]], after[first : ranges[0][3]], autojunk=False
        )
        ranges = [
            (first + i1, first + i2, first + j1, first + j2)
            for step, i1, i2, j1, j2 in matcher.get_opcodes()
            if step != "equal"
        ]
    of_old = _ranges(before, [(each[0], each[1]) for each in ranges])
    of_new = _ranges(after, [(each[2], each[3]) for each in ranges])
    longest = max(len(old.strip()), len(new.strip()))
    changed = max(_visible_length(old, of_old), _visible_length(new, of_new))
    if changed > longest * (1 - MIN_SIMILARITY):
        return [], []
    return of_old, of_new


def is_generated(path: str) -> bool:
    """Return whether programs usually write the file, such as a lock file."""
    name = path.rpartition("/")[2]
    return (
        name in _GENERATED_NAMES
        or name.lower().endswith(_GENERATED_ENDS)
        or any(f"/{folder}" in f"/{path}" for folder in _GENERATED_FOLDERS)
    )


def _ranges(words: Sequence[str], parts: Sequence[tuple[int, int]]) -> Parts:
    """Return ranges of words as ranges of characters."""
    ends = [0]
    for word in words:
        ends.append(ends[-1] + len(word))
    return [(ends[start], ends[end]) for start, end in parts if start < end]


def _visible_length(line: str, parts: Parts) -> int:
    return sum(len(line[start:end].strip()) for start, end in parts)


def _file(lines: Sequence[str]) -> FilePatch:
    """Return the change of a file from its lines, the first of which names it."""
    header = list(takewhile(lambda line: not line.startswith("@@ "), lines))
    facts: dict[str, str] = {}
    for line in header[1:]:
        for name in _HEADERS:
            if line.startswith(name):
                facts[name] = line[len(name) :]
    old, new = _paths(header[0][len(_FILE) :], facts)
    status: FileStatus = "modified"
    for name, each in _STATUSES:
        if name in facts:
            status = each
    return FilePatch(
        path=old if status == "deleted" else new,
        old_path=new if status == "added" else old,
        status=status,
        old_mode=facts.get("old mode ", facts.get("deleted file mode ", "")),
        new_mode=facts.get("new mode ", facts.get("new file mode ", "")),
        is_binary="Binary files " in facts or "GIT binary patch" in facts,
        hunks=tuple(_hunks(lines[len(header) :])),
    )


_HEADERS = (
    *("old mode ", "new mode ", "deleted file mode ", "new file mode "),
    *("rename from ", "rename to ", "copy from ", "copy to "),
    *("--- ", "+++ ", "Binary files ", "GIT binary patch"),
)
_STATUSES: tuple[tuple[str, FileStatus], ...] = (
    ("new file mode ", "added"),
    ("deleted file mode ", "deleted"),
    ("rename from ", "renamed"),
    ("copy from ", "copied"),
)


def _paths(both: str, facts: dict[str, str]) -> tuple[str, str]:
    """Return the file's paths before and after the change.

    ``both`` is the rest of the file's first line. A blank in a path makes it ambiguous, so other
    lines are used if they name the path. If none does, both paths are the same.
    """
    old, new = facts.get("--- ", "/dev/null"), facts.get("+++ ", "/dev/null")
    if "rename from " in facts or "copy from " in facts:
        old = facts.get("rename from ", facts.get("copy from ", ""))
        new = facts.get("rename to ", facts.get("copy to ", ""))
        return _unquoted(old), _unquoted(new)
    named = [_unquoted(each.removesuffix("\t"))[2:] for each in (old, new) if each != "/dev/null"]
    if named:
        return named[0], named[-1]
    quoted = _QUOTED.match(both)
    path = _unquoted(quoted[0])[2:] if quoted else both[2 : len(both) // 2]
    return path, path


def _unquoted(path: str) -> str:
    """Return a path that git has quoted as a string of C, or the path as it is."""
    if not _QUOTED.fullmatch(path):
        return path
    content = bytearray()
    at = 1
    for found in _ESCAPE.finditer(path, 1, len(path) - 1):
        content += path[at : found.start()].encode()
        code = found[1]
        if len(code) == 3:
            content.append(int(code, 8) & 255)
        else:
            content += _ESCAPES.get(code, code).encode()
        at = found.end()
    content += path[at:-1].encode()
    return content.decode(errors="replace")


def _hunks(lines: Sequence[str]) -> Iterator[Hunk]:
    starts = [number for number, line in enumerate(lines) if line.startswith("@@ ")]
    for start, end in pairwise([*starts, len(lines)]):
        if found := _HUNK.match(lines[start]):
            yield _hunk(found, lines[start + 1 : end])


def _hunk(header: re.Match[str], lines: Sequence[str]) -> Hunk:
    old, new = int(header[1]), int(header[3])
    after = old + int(header[2] or 1) + new + int(header[4] or 1)
    found = list[PatchLine]()
    for line in lines:
        sign, text = line[:1] or " ", line[1:]
        if sign == "+":
            found.append(PatchLine(sign, None, new, text))
            new += 1
        elif sign == "-":
            found.append(PatchLine(sign, old, None, text))
            old += 1
        elif sign == "\\" and found:
            last = found[-1]
            found[-1] = PatchLine(last.sign, last.old, last.new, last.text, has_newline=False)
        elif sign == " ":
            found.append(PatchLine(sign, old, new, text))
            old, new = old + 1, new + 1
        else:
            break  # no line of git
    return Hunk(header[0], tuple(found), max(after - old - new, 0))
