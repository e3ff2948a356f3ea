"""The tools `files`, with real files."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from daybook import settings
from daybook.errors import DaybookError, InvalidInput
from daybook.features.work_tools import file_tools, folders
from daybook.features.work_tools.patterns import Glob
from daybook.home import Home
from tests import rows
from tests.unit.features.work_tools.conftest import Files, tools

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("daybook_home")]

WHOLE = folders.MAX_FILE_BYTES


async def refused(files: Files, name: str, **arguments: Any) -> str:
    with pytest.raises(DaybookError) as caught:
        await files(name, **arguments)
    return str(caught.value)


async def test_without_a_work_directory_each_call_is_refused() -> None:
    found = await tools("files", None)
    assert len(found) == 6
    for tool in found.values():
        with pytest.raises(InvalidInput, match=r"no work directory.*sets it with --work-dir"):
            await tool.call({"path": "/etc/passwd", "pattern": "*", "content": "x"})
        assert tool.is_repeatable


async def test_only_the_reading_tools_may_be_repeated(work: Path) -> None:
    found = await tools("files", work)
    flags = {name: (each.is_repeatable, each.destructive) for name, each in found.items()}
    assert flags == {
        **{f"files.{name}": (True, False) for name in ("list", "find", "grep", "read")},
        **{f"files.{name}": (False, True) for name in ("write", "edit")},
    }
    assert list(await tools("files.read", work)) == ["files.read"]


# --- write and edit


async def test_a_write_creates_a_file_and_returns_its_digest(files: Files) -> None:
    text = "Grüße\n"
    answer = json.loads(await files("write", path="a/b/c.txt", content=text, create_folders=True))
    content = text.encode()
    assert (files.path / "a/b/c.txt").read_bytes() == content
    assert answer == {
        "path": "a/b/c.txt",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert "does not exist" in await refused(files, "write", path="x/y.txt", content="")
    assert not (files.path / "x").exists()


@pytest.mark.parametrize("mode", [0o755, 0o600, 0o444 | 0o200])
async def test_a_replaced_file_keeps_its_mode(files: Files, mode: int) -> None:
    file = files.path / "run.sh"
    file.write_text("one")
    file.chmod(mode)
    await files("write", path="run.sh", content="two")
    await files("edit", path="run.sh", old="two", new="three")
    assert (file.read_text(), file.stat().st_mode & 0o7777) == ("three", mode)


async def test_a_reader_never_sees_a_part_of_a_write(files: Files) -> None:
    old, new = "a" * 500_000, "b" * 500_000
    file = files.path / "a.txt"
    file.write_text(old)
    writes = asyncio.create_task(_write_in_turn(files, [new, old] * 5))
    seen = set()
    while not writes.done():
        seen.add(await asyncio.to_thread(file.read_text))
    await writes
    assert seen <= {old, new}
    assert os.listdir(files.path) == ["a.txt"]


async def _write_in_turn(files: Files, contents: list[str]) -> None:
    for each in contents:
        await files("write", path="a.txt", content=each)


async def test_an_edit_replaces_a_text_that_occurs_as_often_as_expected(files: Files) -> None:
    file = files.path / "a.py"
    file.write_bytes("x = 1\r\ny = 'ä'\nx = 1\n".encode())
    problem = await refused(files, "edit", path="a.py", old="x = 1", new="x = 2")
    assert "occurs 2 times, and not 1" in problem and "expected=2" in problem
    problem = await refused(files, "edit", path="a.py", old="x = 3", new="x = 2")
    assert "occurs 0 times" in problem
    problem = await refused(files, "edit", path="a.py", old="x = 1\ny", new="z")
    assert r"\r\n" in problem
    assert "same text" in await refused(files, "edit", path="a.py", old="x", new="x")
    answer = await files("edit", path="a.py", old="x = 1", new="", expected=2)
    content = "\r\ny = 'ä'\n\n".encode()
    assert file.read_bytes() == content
    assert json.loads(answer)["sha256"] == hashlib.sha256(content).hexdigest()


async def test_an_edit_keeps_the_bytes_of_other_encodings(files: Files) -> None:
    (files.path / "a.txt").write_bytes(b"na\xefve one")
    problem = await refused(files, "edit", path="a.txt", old="one", new="two")
    assert "is no text in UTF-8" in problem
    assert (files.path / "a.txt").read_bytes() == b"na\xefve one"


async def test_too_long_contents_are_not_written(files: Files) -> None:
    problem = await refused(files, "write", path="a.txt", content="ä" * (WHOLE // 2) + "b")
    assert f"{WHOLE + 1:,} bytes" in problem
    await files("write", path="a.txt", content="ä" * (WHOLE // 2))
    grown = {"path": "a.txt", "old": "ä", "new": "ää", "expected": WHOLE // 2}
    assert "the limit is" in await refused(files, "edit", **grown)
    assert (files.path / "a.txt").stat().st_size == WHOLE
    assert "half of a surrogate" in await refused(files, "write", path="a", content="\ud800")


async def test_files_of_a_killed_write_are_hidden_and_removed_by_the_next(files: Files) -> None:
    left = files.path / ".daybook-0011223344556677.tmp"
    left.write_text("half")
    assert await files("list") == "The folder is empty."
    await refused(files, "read", path=left.name)
    await files("write", path="a.txt", content="")
    assert os.listdir(files.path) == ["a.txt"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("read", {}),
        ("read", {"path": 7}),
        ("read", {"path": "a.txt", "start": 0}),
        ("read", {"path": "a.txt", "start": 2}),
        ("read", {"path": "a.txt", "lines": True}),
        ("read", {"path": "."}),
        ("read", {"path": "missing"}),
        ("write", {"path": "a.txt"}),
        ("write", {"path": ".", "content": ""}),
        ("write", {"path": "folder", "content": ""}),
        ("write", {"path": "a.txt/b", "content": "", "create_folders": True}),
        ("write", {"path": "b.txt", "content": "", "create_folders": "yes"}),
        ("edit", {"path": "a.txt", "old": "", "new": "x"}),
        ("edit", {"path": "missing", "old": "a", "new": "x"}),
        ("list", {"path": "a.txt"}),
        ("find", {}),
        ("find", {"pattern": "../*"}),
        ("find", {"pattern": "/etc/*"}),
        ("find", {"pattern": "x" * 501}),
        ("find", {"pattern": "*", "path": "a.txt"}),
        ("grep", {"pattern": "("}),
        ("grep", {"pattern": "", "regex": True}),
        ("grep", {"pattern": "(", "regex": True}),
        ("grep", {"pattern": "a", "path": "missing"}),
    ],
)
async def test_invalid_calls_are_refused_with_a_reason(
    files: Files, name: str, arguments: dict[str, Any]
) -> None:
    (files.path / "a.txt").write_text("one(\n")
    (files.path / "folder").mkdir()
    if arguments == {"pattern": "("}:
        assert await files(name, **arguments) == "a.txt:1: one("
    else:
        assert await refused(files, name, **arguments)
    assert (files.path / "a.txt").read_text() == "one(\n"
    assert sorted(os.listdir(files.path)) == ["a.txt", "folder"]


# --- read


async def test_a_long_file_is_read_in_parts(files: Files) -> None:
    text = "".join(f"line {number}\n" for number in range(5_000))
    (files.path / "a.txt").write_text(text)
    parts, start = "", 1
    while start:
        answer = await files("read", path="a.txt", start=start)
        assert len(answer) < file_tools.MAX_ANSWER_CHARACTERS + 100
        head, _, part = answer.partition("\n")
        parts += f"{part}\n"
        _, _, following = head.partition("start=")
        start = int(following.rstrip(".") or 0)
    assert parts == text
    assert (await files("read", path="a.txt", start=3, lines=2)).endswith("\nline 2\nline 3")


async def test_contents_that_are_no_short_text(files: Files) -> None:
    contents = {
        "empty": b"",
        "binary": b"PK\x00\x01",
        "utf16": "text".encode("utf-16"),
        "latin": b"na\xefve",
        "huge": b"x" * (WHOLE + 1),
        "line": b"x" * 30_000,
    }
    for name, content in contents.items():
        (files.path / name).write_bytes(content)
    with (files.path / "sparse").open("wb") as file:
        file.truncate(2**40)
    assert await files("read", path="empty") == "The file is empty."
    for name in ("binary", "utf16"):
        assert "binary" in await refused(files, "read", path=name)
    assert (await files("read", path="latin")).endswith("na\ufffdve")
    for name in ("huge", "sparse"):
        assert "the limit is 2,097,152 bytes" in await refused(files, "read", path=name)
    assert f"{2**40:,} bytes" in await refused(files, "read", path="sparse")
    head, _, text = (await files("read", path="line")).partition("\n")
    assert (len(text), "30,000 characters" in head) == (file_tools.MAX_ANSWER_CHARACTERS, True)


# --- list, find and grep


async def test_a_list_has_sizes_times_and_kinds(files: Files) -> None:
    (files.path / "a.txt").write_text("x" * 1_234)
    os.utime(files.path / "a.txt", (0, 86_400))
    (files.path / "folder").mkdir()
    (files.path / "link").symlink_to("a.txt")
    (files.path / "two\nlines").write_text("")
    (files.path / ".env").write_text("")
    lines = [line.split("  ") for line in (await files("list")).splitlines()]
    named = {each[-1]: "  ".join(each[:-1]).strip() for each in lines}
    assert named["a.txt"] == "1,234  1970-01-02T00:00:00Z"
    assert named["folder/"].startswith("folder")
    assert named["link"].startswith("link")
    assert list(named) == ["a.txt", "folder/", "link", "two\\nlines"]


async def test_long_answers_are_cut_and_say_so(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1_000):
        (files.path / f"a-long-name-{number:012}.txt").write_text("match\n" * 3)
    for name, arguments in (
        ("list", {}),
        ("find", {"pattern": "*"}),
        ("grep", {"pattern": "match"}),
    ):
        answer = await files(name, **arguments)
        assert len(answer) <= file_tools.MAX_ANSWER_CHARACTERS
        assert "more " in answer.splitlines()[-1]
    monkeypatch.setattr(file_tools, "MAX_ENTRIES", 10)
    for name, arguments in (("list", {}), ("find", {"pattern": "*"})):
        lines = (await files(name, **arguments)).splitlines()
        assert (len(lines), "990 more" in lines[-1]) == (11, True)


GLOBS = {
    "*.py": {"a.py", "src/b.py", "src/deep/c.py"},
    "**/*.py": {"a.py", "src/b.py", "src/deep/c.py"},
    "src/*.py": {"src/b.py"},
    "src/**": {"src/b.py", "src/deep/c.py"},
    "src/**/c.py": {"src/deep/c.py"},
    "src/**/b.py": {"src/b.py"},
    "**/deep/**": {"src/deep/c.py"},
    "./src/b.py": {"src/b.py"},
    "?.py": {"a.py", "src/b.py", "src/deep/c.py"},
    "[ab].py": {"a.py", "src/b.py"},
    "src/**/**/*.py": {"src/b.py", "src/deep/c.py"},
    "deep/*.py": set[str](),
    "*.PY": set[str](),
}


async def test_patterns_find_the_files_in_a_folder(files: Files) -> None:
    for name in ("a.py", "src/b.py", "src/deep/c.py", "src/.git/d.py", "a.txt/x"):
        (files.path / name).parent.mkdir(parents=True, exist_ok=True)
        (files.path / name).write_text("")
    for (pattern, expected), trying in rows.each(GLOBS.items()):
        with trying:
            found = set((await files("find", pattern=pattern)).splitlines())
            assert found == (expected or {"There are no files."})
    assert await files("find", pattern="*.py", path="src/deep") == "src/deep/c.py"


def test_a_hostile_glob_costs_no_more_than_another() -> None:
    began = time.process_time()
    names = ["a" * 200] * 300
    for pattern in ("**/" * 160 + "x", "*a" * 240 + "b", "**/*a*a*a*b/" * 40 + "x"):
        assert not Glob.parse("pattern", pattern[:500]).matches(names)
    assert time.process_time() - began < 2


async def test_a_search_names_files_and_lines(files: Files) -> None:
    (files.path / "src").mkdir()
    (files.path / "src/a.py").write_text("import os\n  print('Os')\n" + "y" * 5_000 + "os\n")
    (files.path / "b.txt").write_text("os.path\n")
    (files.path / "binary").write_bytes(b"os\0")
    (files.path / "large").write_bytes(b"os" * WHOLE)
    answer = (await files("grep", pattern="os")).splitlines()
    assert answer[:2] == ["b.txt:1: os.path", "src/a.py:1: import os"]
    assert answer[2].startswith("src/a.py:3: yyy") and len(answer[2]) < 350
    assert answer[3:] == ["Not searched: large."]
    assert await files("grep", pattern="s[.]p", path="b.txt") == "There are no matches."
    assert await files("grep", pattern="s[.]p", path="b.txt", regex=True) == "b.txt:1: os.path"
    found = await files("grep", pattern="PRINT('os", ignore_case=True, files="*.py")
    assert found == "src/a.py:2: print('Os')"


CATASTROPHIC = (
    "(a|aa)+$",
    "(a|a|aa)*b",
    "(?:a?){40}a{40}b",
    "^(([a-z])+.)+[A-Z]([a-z])+$",
    "(.*a){12}b",
    "(a*)*(a*)*(a*)*[^a]$",
    "(?:a+b?){e<=5}c{e<=2}z",
    r"(\w+\s?)*\d!",
    "(?=(a+))a*b\\1",
    "(a{1,99}){1,99}b",
)
REFUSED = (
    *("(?:(?:a{1000}){1000}){1000}", "a{99999}", "(a{200}){200}", "x{" + "9" * 400 + "}"),
    # With the flag x, blanks and comments in braces hide the numbers.
    *("(?x)(?:(?:a b){1 0 0 0 0}c){1 0 0 0 0}", "(?x)a{1#}\n00000}", "(?i-s:b)(?ix:a{9 9 9 9 9})"),
    "(?:(?:" + "a?" * 230 + "){100}){100}",
)


async def test_no_expression_takes_long(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_tools, "MAX_SEARCH_SECONDS", 0.02)
    (files.path / "a.txt").write_text("a" * 5_000 + "!")
    stopped = 0
    for pattern, trying in rows.each(CATASTROPHIC):
        with trying:
            began = time.process_time()
            answer = await files("grep", pattern=pattern, regex=True)
            assert time.process_time() - began < 1
            stopped += "stopped after 0.02 s" in answer
    assert stopped >= 2
    for pattern in REFUSED:
        problem = await refused(files, "grep", pattern=pattern, regex=True)
        assert "repeats too much" in problem or "sets the flag x" in problem


async def test_a_search_of_many_files_ends_in_time(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files.path / "a.txt").write_text("match")
    monkeypatch.setattr(file_tools, "MAX_SEARCH_SECONDS", -1.0)
    for name, arguments in (("grep", {"pattern": "match"}), ("find", {"pattern": "*"})):
        assert "Incomplete: stopped" in await files(name, **arguments)


# --- read-only folders, and permissions


async def test_read_only_folders_are_read_by_name_or_path_and_never_written(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs, vendor = work.parent / "docs", work / "vendor"
    for folder in (docs, vendor):
        folder.mkdir()
        (folder / "a.md").write_text("one")
    (work / "@docs").mkdir()
    monkeypatch.setenv("DAYBOOK_READ_ONLY_FOLDERS", f"{docs}, {vendor}")
    files = Files(await tools("files", work), work)
    for path in ("@docs/a.md", f"{docs}/a.md", "vendor/a.md", "@vendor/a.md", f"{vendor}/a.md"):
        assert (await files("read", path=path)).endswith("\none")
        for name, given in (
            ("write", {"content": "two"}),
            ("edit", {"old": "one", "new": "two"}),
        ):
            assert "is read-only" in await refused(files, name, path=path, **given)
    assert "@docs/a.md" in await files("find", pattern="*", path="@docs")
    assert await files("grep", pattern="one", path=str(docs)) == "@docs/a.md:1: one"
    await files("write", path="./@docs/b.md", content="")
    assert os.listdir(docs) == ["a.md"]
    assert os.listdir(work / "@docs") == ["b.md"]


@pytest.mark.parametrize("value", ["docs", "/", "/srv/docs, /opt/docs/"])
def test_invalid_read_only_folders_are_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBOOK_READ_ONLY_FOLDERS", value)
    with pytest.raises(InvalidInput, match="DAYBOOK_READ_ONLY_FOLDERS"):
        settings.load()


@contextmanager
def without_rights() -> Iterator[None]:
    """Act as a user for which the modes of files apply."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.fixture
def shared() -> Iterator[Path]:
    """Return a folder that every user can pass, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made).resolve()


async def test_the_rights_of_the_user_apply(shared: Path) -> None:
    work = shared
    for name, mode in (("closed", 0o000), ("no_entry", 0o600), ("no_write", 0o500)):
        (work / name).mkdir()
        (work / name / "a.txt").write_text("secret")
        (work / name).chmod(mode)
    for name, mode in (("closed.txt", 0o000), ("fixed.txt", 0o444)):
        (work / name).write_text("secret")
        (work / name).chmod(mode)
    if os.getuid() == 0:
        for each in (work, *work.iterdir()):
            os.chown(each, 65_534, 65_534)
    files = Files(await tools("files", work), work)
    with without_rights():
        for path in ("closed.txt", "closed/a.txt", "no_entry/a.txt"):
            assert "Permission denied" in await refused(files, "read", path=path)
        for path in ("closed.txt", "fixed.txt", "closed/a.txt", "no_write/b.txt"):
            problem = await refused(files, "write", path=path, content="new")
            assert "Permission denied" in problem
        fixed = {"path": "fixed.txt", "old": "secret", "new": "new"}
        assert "Permission denied" in await refused(files, "edit", **fixed)
        found = await files("grep", pattern="secret")
    assert found.splitlines()[0] == "fixed.txt:1: secret"
    assert "no_write/a.txt:1: secret" in found
    for name in ("closed", "closed.txt"):
        assert name in found.splitlines()[-1]
    for each in work.iterdir():
        each.chmod(0o700)


async def test_a_work_directory_below_a_closed_or_read_only_folder_is_protected(
    tmp_path: Path, daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    below_home = daybook_home.path / "out" / "mine"
    below_home.mkdir(parents=True)
    (below_home / "a.txt").write_text("secret")
    with pytest.raises(DaybookError, match="a folder of Daybook itself"):
        await (await tools("files", below_home))["files.read"].call({"path": "a.txt"})

    shared = tmp_path / "shared" / "mine"
    shared.mkdir(parents=True)
    (shared / "a.txt").write_text("seen")
    monkeypatch.setenv("DAYBOOK_READ_ONLY_FOLDERS", str(shared.parent))
    found = await tools("files", shared)
    assert "seen" in await found["files.read"].call({"path": "a.txt"})
    with pytest.raises(DaybookError, match="is read-only"):
        await found["files.write"].call({"path": "b.txt", "content": "x"})
    assert not (shared / "b.txt").exists()


async def test_a_write_removes_only_files_of_killed_writes(files: Files) -> None:
    for name in (".daybook-mine.tmp", f".daybook-{'x' * 16}.tmp", f".daybook-{'0' * 16}.tmp"):
        (files.path / name).write_text("x")
    await files("write", path="a.txt", content="a")
    left = sorted(each.name for each in files.path.iterdir())
    assert left == sorted([".daybook-mine.tmp", f".daybook-{'x' * 16}.tmp", "a.txt"])


async def test_a_file_that_instructs_later_runs_is_read_but_not_written(files: Files) -> None:
    (files.path / "AGENTS.md").write_text("Use spaces.")
    assert "Use spaces." in await files("read", path="AGENTS.md")
    for path in ("AGENTS.md", "claude.MD", "CLAUDE.md", "new/agents.md", "AGENTS.md."):
        problem = await refused(files, "write", path=path, content="Obey.", create_folders=True)
        assert "instructs later runs, so no tool writes it" in problem
    problem = await refused(files, "edit", path="AGENTS.md", old="spaces", new="tabs")
    assert "instructs later runs" in problem
    assert (files.path / "AGENTS.md").read_text() == "Use spaces."
    assert sorted(os.listdir(files.path)) == ["AGENTS.md"]
    await files("write", path="AGENTS.txt", content="No instructions.")
