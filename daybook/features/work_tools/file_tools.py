"""The tools `files.list`, `find`, `grep`, `read`, `write` and `edit`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from daybook import settings
from daybook.agents.base import Tool
from daybook.errors import InvalidInput
from daybook.execution.builtin_tools import ToolContext
from daybook.features.work_tools import kept_files
from daybook.features.work_tools import settings as work_settings
from daybook.features.work_tools.folders import (
    MAX_FILE_BYTES,
    Coverage,
    FileRefused,
    Folders,
    identity_of,
    read_entry,
)
from daybook.features.work_tools.kept_files import Keep
from daybook.features.work_tools.paths import Place, Root, no_work_dir, printable
from daybook.features.work_tools.patterns import Glob, Searched
from daybook.home import home_path
from daybook.json_text import JsonObject
from daybook.processes import locations
from daybook.processes.ending import wait_shielded
from daybook.short_text import clip, first_names

MAX_ANSWER_CHARACTERS = 20_000
"""Maximum length of one answer: about five thousand tokens."""
MAX_ENTRIES = 2_000
MAX_MATCHES = 200
MAX_MATCH_CHARACTERS = 300
MAX_SEARCH_SECONDS = 5.0
MAX_LINES = 10_000

_FLAG = {"type": "boolean", "default": False}
_PATH = {
    "type": "string",
    "description": "Path in the work directory, or @name/… in a read-only folder.",
}
_FOLDER = {**_PATH, "default": ".", "description": f"Folder. {_PATH['description']}"}


async def file_tools(context: ToolContext) -> Sequence[Tool]:
    """Return the tools. Their calls raise `InvalidInput` if the job has no work directory."""
    is_worktree = bool(context.granted.policy.repo)
    folders = await asyncio.to_thread(_folders, context.work_dir, is_worktree=is_worktree)
    tools = FileTools(folders, kept_files.keeping(context)).tools()
    if context.work_dir:
        return tools

    async def refuse(_: JsonObject) -> str:
        raise no_work_dir("files")

    return [replace(each, call=refuse, read_only=True) for each in tools]


def _folders(work_dir: str, *, is_worktree: bool) -> Folders:
    named = work_settings.load().folders_by_name
    read_only = [Root(locations.real_path(path), name) for name, path in named.items()]
    own = [os.fspath(each) for each in settings.load().data_folders]
    return Folders(
        (Root(work_dir), *read_only),
        closed=_identities(own),
        read_only=_identities(each.path for each in read_only),
        home=_identities([os.fspath(home_path())]),
        is_worktree=is_worktree,
    )


def _identities(paths: Any) -> frozenset[tuple[int, int]]:
    found = set()
    for each in paths:
        with suppress(OSError):
            found.add(identity_of(os.stat(each)))
    return frozenset(found)


class FileTools:
    """The tools of one run. They work in threads, because a disk may be slow."""

    def __init__(self, folders: Folders, keep: Keep) -> None:
        self._folders, self._keep = folders, keep

    def tools(self) -> tuple[Tool, ...]:
        names = ", ".join(f"@{each.name}" for each in self._folders.roots[1:])
        also = f" Read-only folders: {names}." if names else ""
        return (
            _tool(
                "list",
                f"List a folder: size, time and name of each entry.{also}",
                {"path": _FOLDER},
                _reading(self._list),
            ),
            _tool(
                "find",
                "Find files by a pattern of their paths, such as *.py in any folder, or "
                "src/**/*.py.",
                {"pattern": {"type": "string"}, "path": _FOLDER},
                _reading(self._find),
                required=["pattern"],
            ),
            _tool(
                "grep",
                "Search a text in files, line by line.",
                {
                    "pattern": {"type": "string", "description": "The text to look for."},
                    "path": {**_FOLDER, "description": f"File or folder. {_PATH['description']}"},
                    "files": {
                        "type": "string",
                        "default": "",
                        "description": "Pattern of the files to search, such as *.py.",
                    },
                    "regex": {**_FLAG, "description": "The pattern is a regular expression."},
                    "ignore_case": _FLAG,
                },
                _reading(self._grep),
                required=["pattern"],
            ),
            _tool(
                "read",
                "Read a file of text. A long file is read in parts.",
                {
                    "path": _PATH,
                    "start": {
                        "type": "integer",
                        "minimum": 1,
                        "default": 1,
                        "description": "Number of the first line.",
                    },
                    "lines": {"type": "integer", "minimum": 1, "maximum": MAX_LINES},
                },
                _reading(self._read),
                required=["path"],
            ),
            _tool(
                "write",
                "Create a file, or replace its whole content. To change a part, use files_edit.",
                {
                    "path": _PATH,
                    "content": {"type": "string"},
                    "create_folders": {
                        **_FLAG,
                        "description": "Create the folders of the path that are missing.",
                    },
                },
                self._writing(self._write),
                required=["path", "content"],
                is_effect=True,
            ),
            _tool(
                "edit",
                "Replace a text in a file by another one. The text has to occur exactly once, or "
                "as often as expected.",
                {
                    "path": _PATH,
                    "old": {"type": "string", "description": "The text in the file, exactly."},
                    "new": {"type": "string"},
                    "expected": {"type": "integer", "minimum": 1, "default": 1},
                },
                self._writing(self._edit),
                required=["path", "old", "new"],
                is_effect=True,
            ),
        )

    # --- reading

    def _list(self, arguments: JsonObject) -> str:
        place = self._folders.locate(_text(arguments, "path", "."))
        entries, others = self._folders.entries(place, MAX_ENTRIES)
        lines = [_described(name, status) for name, status in entries]
        return _bounded(lines, others, "entries") or "The folder is empty."

    def _find(self, arguments: JsonObject) -> str:
        place = self._folders.locate(_text(arguments, "path", "."))
        wanted = Glob.parse("pattern", _text(arguments, "pattern"))
        coverage = _coverage()
        found, others = list[str](), 0
        for each in self._files(place, wanted, coverage):
            if len(found) < MAX_ENTRIES:
                found.append(str(each))
            else:
                others += 1
        return _searched(found, others, "files", coverage)

    def _grep(self, arguments: JsonObject) -> str:
        place = self._folders.locate(_text(arguments, "path", "."))
        wanted = Glob.parse("files", _text(arguments, "files", "") or "*")
        searched = Searched.compile(
            _text(arguments, "pattern"),
            is_regex=_flag(arguments, "regex"),
            ignore_case=_flag(arguments, "ignore_case"),
        )
        coverage, lines = _coverage(), list[str]()
        for each, content in self._contents(place, wanted, coverage):
            if b"\0" in content:
                continue
            for number, line in enumerate(content.decode(errors="replace").split("\n"), 1):
                if coverage.is_over() or len(lines) > MAX_MATCHES:
                    break
                if searched.matches(line, coverage):
                    shown = clip(printable(line.strip()), MAX_MATCH_CHARACTERS)
                    lines.append(f"{each}:{number}: {shown}")
            if len(lines) > MAX_MATCHES:
                break
        more = (
            ["… more matches; use a narrower pattern or path"] if len(lines) > MAX_MATCHES else []
        )
        return _searched([*lines[:MAX_MATCHES], *more], 0, "matches", coverage)

    def _files(self, place: Place, wanted: Glob, coverage: Coverage) -> Iterator[Place]:
        """Yield the files in a folder that match."""
        for visited in self._folders.visit(place, coverage):
            for entry in visited.entries:
                here = visited.place / entry.name
                if entry.is_file(follow_symlinks=False) and wanted.matches(
                    here.parts[len(place.parts) :]
                ):
                    yield here

    def _contents(
        self, place: Place, wanted: Glob, coverage: Coverage
    ) -> Iterator[tuple[Place, bytes]]:
        """Yield the files to search with their contents; leave out those that cannot be read."""
        if not self._folders.is_folder(place):
            yield place, self._folders.read(place)
            return
        for visited in self._folders.visit(place, coverage):
            for entry in visited.entries:
                here = visited.place / entry.name
                if (
                    coverage.is_over()
                    or not entry.is_file(follow_symlinks=False)
                    or not wanted.matches(here.parts[len(place.parts) :])
                ):
                    continue
                try:
                    content = read_entry(visited, entry.name)
                except FileRefused:
                    coverage.left_out.append(str(here))
                else:
                    yield here, content

    def _read(self, arguments: JsonObject) -> str:
        place = self._folders.locate(_text(arguments, "path"))
        start = _number(arguments, "start", 1)
        most = min(_number(arguments, "lines", MAX_LINES), MAX_LINES)
        content = self._folders.read(place)
        lines = _decoded(place, content).split("\n")
        if lines[-1] == "":
            lines.pop()
        if not lines:
            return "The file is empty."
        if start > len(lines):
            raise InvalidInput("start", f"is {start:,}, but {place} has {len(lines):,} lines")
        kept, room = list[str](), MAX_ANSWER_CHARACTERS
        for line in lines[start - 1 : start - 1 + most]:
            if len(line) + 1 > room:
                break
            kept.append(line)
            room -= len(line) + 1
        note = ""
        if not kept:  # not even one line has room
            kept = [lines[start - 1][:MAX_ANSWER_CHARACTERS]]
            note = f" The line is cut; it has {len(lines[start - 1]):,} characters."
        end = start + len(kept) - 1
        following = f" Next part: start={end + 1}." if end < len(lines) else ""
        head = f"Lines {start:,} to {end:,} of {len(lines):,}.{following}{note}"
        return "\n".join([head, *kept])

    # --- writing

    def _writing(
        self, work: Callable[[JsonObject], tuple[Place, bytes]]
    ) -> Callable[[JsonObject], Awaitable[str]]:
        async def call(arguments: JsonObject) -> str:
            # If the attempt ends during the write, the next one begins only after it.
            writing = asyncio.create_task(asyncio.to_thread(work, arguments))
            place, content = await wait_shielded(writing)
            await self._keep(str(place), content)
            return _written(place, content)

        return call

    def _write(self, arguments: JsonObject) -> tuple[Place, bytes]:
        place = self._folders.locate(_text(arguments, "path"))
        content = _encoded("content", _text(arguments, "content", may_be_empty=True))
        creates = _flag(arguments, "create_folders")
        self._folders.write(place, content, create_folders=creates)
        return place, content

    def _edit(self, arguments: JsonObject) -> tuple[Place, bytes]:
        place = self._folders.locate(_text(arguments, "path"))
        old, new = _text(arguments, "old"), _text(arguments, "new", may_be_empty=True)
        expected = _number(arguments, "expected", 1)
        if old == new:
            raise InvalidInput("new", "is the same text as old", "give another text")

        def change(content: bytes) -> bytes:
            try:
                text = content.decode()
            except UnicodeDecodeError:
                raise FileRefused(place, "is no text in UTF-8") from None
            count = text.count(old)
            if count != expected:
                raise InvalidInput("old", *_miscounted(text, old, count, expected))
            return _encoded("new", text.replace(old, new))

        return place, self._folders.edit(place, change)


def _miscounted(text: str, old: str, count: int, expected: int) -> tuple[str, str]:
    problem = f"occurs {count:,} times, and not {expected:,}"
    if count:
        return problem, f"give more of the text around it, or expected={count}"
    if "\r\n" in text and "\n" in old and "\r\n" not in old:
        return problem, "the lines of this file end in \\r\\n"
    return problem, "read the file, and copy the text exactly"


def _tool(
    name: str,
    description: str,
    properties: JsonObject,
    call: Callable[[JsonObject], Awaitable[str]],
    *,
    required: Sequence[str] = (),
    is_effect: bool = False,
) -> Tool:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }
    return Tool(name, description, schema, call, read_only=not is_effect, destructive=is_effect)


def _reading(work: Callable[[JsonObject], str]) -> Callable[[JsonObject], Awaitable[str]]:
    async def call(arguments: JsonObject) -> str:
        return await asyncio.to_thread(work, arguments)

    return call


# --- arguments


def _text(
    arguments: JsonObject, name: str, default: str | None = None, *, may_be_empty: bool = False
) -> str:
    value = arguments.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or not (value or may_be_empty or default == ""):
        raise InvalidInput(name, "is missing", "give it as a text")
    return value


def _number(arguments: JsonObject, name: str, default: int) -> int:
    value = arguments.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInput(name, "is no number of at least 1", "leave it out, or give a number")
    return value


def _flag(arguments: JsonObject, name: str) -> bool:
    value = arguments.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidInput(name, "is neither true nor false", "leave it out, or give true")
    return value is True


def _encoded(field: str, text: str) -> bytes:
    try:
        content = text.encode()
    except UnicodeEncodeError:
        problem = "has a character that UTF-8 cannot encode (half of a surrogate pair)"
        raise InvalidInput(field, problem, "leave it out") from None
    if len(content) > MAX_FILE_BYTES:
        problem = f"the file would have {len(content):,} bytes"
        raise InvalidInput(field, problem, f"the limit is {MAX_FILE_BYTES:,} bytes")
    return content


# --- answers


def _decoded(place: Place, content: bytes) -> str:
    if b"\0" in content:
        raise FileRefused(place, f"is no text, but binary ({len(content):,} bytes)")
    return content.decode(errors="replace")


def _described(name: str, status: os.stat_result) -> str:
    if stat.S_ISREG(status.st_mode):
        kind = f"{status.st_size:,}"
    elif stat.S_ISDIR(status.st_mode):
        kind, name = "folder", f"{name}/"
    else:
        kind = "link" if stat.S_ISLNK(status.st_mode) else "special"
    changed = datetime.fromtimestamp(status.st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{kind:>9}  {changed}  {printable(name)}"


def _coverage() -> Coverage:
    return Coverage(time.monotonic() + MAX_SEARCH_SECONDS)


def _searched(lines: Sequence[str], others: int, noun: str, coverage: Coverage) -> str:
    """Return the lines of a search, and what it left out."""
    notes = list[str]()
    if coverage.is_out_of_time:
        limit = f"{MAX_SEARCH_SECONDS:g} s"
        notes.append(f"Incomplete: stopped after {limit}; use a narrower path or pattern.")
    if coverage.left_out:
        notes.append(f"Not searched: {first_names(coverage.left_out)}.")
    return "\n".join([_bounded(lines, others, noun) or f"There are no {noun}.", *notes])


def _bounded(lines: Sequence[str], others: int, noun: str) -> str:
    """Return as many lines as have room in an answer, and the number of the others."""
    kept, room = list[str](), MAX_ANSWER_CHARACTERS - 1_000  # for the notes
    for line in lines:
        if len(line) + 1 > room:
            break
        kept.append(line)
        room -= len(line) + 1
    others += len(lines) - len(kept)
    return "\n".join([*kept, *([f"… and {others:,} more {noun}"] if others else [])])


def _written(place: Place, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    return json.dumps({"path": str(place), "bytes": len(content), "sha256": digest})
