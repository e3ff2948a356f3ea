"""Folders that a program finds for the time of a run: `.claude/skills`, `.agents/skills`."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daybook.agents import program_folders
from daybook.agents.base import AgentRequest, ProgramFolder
from daybook.agents.command import CommandAgent, CommandSettings
from daybook.agents.program_folders import FolderRefused, written
from daybook.errors import AgentMisconfigured, AgentTemporary
from tests.unit.agents.test_program_steps import Notes

pytestmark = pytest.mark.anyio

NOTES = ProgramFolder("notes", "d1", {"SKILL.md": b"One.", "scripts/run.sh": b"#!/bin/sh\n"})
NEWER = ProgramFolder("notes", "d2", {"SKILL.md": b"Two."})
OTHER = ProgramFolder("other", "d3", {"SKILL.md": b"Other."})
REQUEST = AgentRequest("Hi", 20.0, "flow:1", folders=(NOTES,))


def names(work_dir: Path, place: str = ".claude/skills") -> list[str]:
    return sorted(each.name for each in (work_dir / place).iterdir())


def text(work_dir: Path, name: str = "notes", place: str = ".claude/skills") -> str:
    return (work_dir / place / name / "SKILL.md").read_text()


async def ask(script: str, request: AgentRequest = REQUEST, **settings: Any) -> Any:
    command = ["/bin/sh", "-c", script]
    return await CommandAgent("cc", CommandSettings(command=command, **settings)).answer(request)


@pytest.mark.parametrize("has_work_dir", [True, False])
async def test_a_program_finds_them_while_it_runs_and_the_run_records_their_digests(
    tmp_path: Path, has_work_dir: bool
) -> None:
    journal = Notes()
    script = (
        "cat .claude/skills/notes/SKILL.md .agents/skills/notes/SKILL.md;"
        "test -x .claude/skills/notes/scripts/run.sh && echo program"
    )
    request = replace(REQUEST, journal=journal, work_dir=str(tmp_path) if has_work_dir else "")
    reply = await ask(script, request)

    assert (reply.text, reply.warnings) == ("One.One.program", ())
    assert journal.lines == ["0 folders began: notes: SHA-256 d1"]
    if has_work_dir:
        assert names(tmp_path) == names(tmp_path, ".agents/skills") == []


async def test_a_folder_of_the_user_stays_and_the_reply_warns_of_it(tmp_path: Path) -> None:
    mine = tmp_path / ".claude" / "skills" / "notes"
    mine.mkdir(parents=True)
    (mine / "SKILL.md").write_text("Mine.")
    (tmp_path / ".agents" / "skills").mkdir(parents=True)
    (tmp_path / ".agents" / "skills" / "notes").symlink_to(mine)

    journal = Notes()
    request = replace(REQUEST, work_dir=str(tmp_path), journal=journal)
    reply = await ask("cat .claude/skills/notes/SKILL.md", request)

    assert reply.text == "Mine."
    assert [each.partition(" is not Daybook's")[0] for each in reply.warnings] == [
        str(mine),
        str(tmp_path / ".agents" / "skills" / "notes"),
    ]
    assert journal.lines == []
    assert [each.name for each in mine.iterdir()] == ["SKILL.md"]
    assert (tmp_path / ".agents" / "skills" / "notes").is_symlink()


def test_a_copy_of_a_folder_under_another_name_belongs_to_the_user(tmp_path: Path) -> None:
    with written(str(tmp_path), [NOTES]):
        skills = tmp_path / ".claude" / "skills"
        shutil.copytree(skills / "notes", skills / "my-notes")
    assert names(tmp_path) == ["my-notes"]


def test_the_last_of_the_runs_that_use_a_folder_removes_it(tmp_path: Path) -> None:
    with written(str(tmp_path), [NOTES]):
        with written(str(tmp_path), [NEWER, OTHER]) as (given, warnings):
            assert (given, warnings) == ([NEWER, OTHER], [])
            assert text(tmp_path) == "Two."
            assert not (tmp_path / ".claude" / "skills" / "notes" / "scripts").exists()
        with written(str(tmp_path), []):
            assert names(tmp_path) == ["notes", "other"]
    assert names(tmp_path) == names(tmp_path, ".agents/skills") == []


def test_an_equal_folder_in_use_is_not_written_again(tmp_path: Path) -> None:
    with written(str(tmp_path), [NOTES]):
        before = (tmp_path / ".claude" / "skills" / "notes").stat().st_ino
        with written(str(tmp_path), [NOTES]) as (given, _):
            assert given == [NOTES]
            assert (tmp_path / ".claude" / "skills" / "notes").stat().st_ino == before


KILLED = """
import os, signal, sys
from daybook.agents import program_folders
from daybook.agents.base import ProgramFolder

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "before":
    os.rename = kill
with program_folders.written(sys.argv[1], [ProgramFolder("old", "d0", {"SKILL.md": b"Old."})]):
    kill()
"""


@pytest.mark.parametrize(("when", "left"), [("before", False), ("after", True)])
@pytest.mark.parametrize("following", [(), (NOTES,)])
def test_the_next_run_removes_what_a_killed_one_has_left(
    tmp_path: Path, when: str, left: bool, following: tuple[ProgramFolder, ...]
) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), when], check=False)
    assert killed.returncode == -signal.SIGKILL
    found = names(tmp_path)
    assert len(found) == 1
    assert (found == ["old"]) is left
    if left:
        assert text(tmp_path, "old") == "Old."

    with written(str(tmp_path), following):
        assert names(tmp_path) == [each.name for each in following]


@pytest.mark.parametrize("link", [".claude", ".claude/skills", ".agents/skills"])
async def test_a_link_is_refused_and_nothing_is_written_behind_it(
    tmp_path: Path, link: str
) -> None:
    work, outside = tmp_path / "work", tmp_path / "outside"
    outside.mkdir()
    (work / link).parent.mkdir(parents=True)
    (work / link).symlink_to(outside)

    with pytest.raises(AgentMisconfigured, match=f"{link} is a link, which Daybook does not"):
        await ask("touch started", replace(REQUEST, work_dir=str(work)))

    assert list(outside.iterdir()) == []
    assert not (work / "started").exists()
    if link == ".agents/skills":
        assert names(work) == []  # the first place is empty again
    assert (await ask("echo ok", replace(REQUEST, folders=(), work_dir=str(work)))).text == "ok"


async def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".claude").write_text("")
    match = r"\.claude/skills cannot be written \(Not a dir"
    with pytest.raises(FolderRefused, match=match), written(str(tmp_path), [NOTES]):
        raise AssertionError


@pytest.mark.parametrize("path", ["../out", "a/../../out", "/tmp/daybook-out"])
def test_no_file_leaves_its_folder(tmp_path: Path, path: str) -> None:
    bad = ProgramFolder("bad", "d", {path: b""})
    with pytest.raises(FolderRefused, match="leaves the folder"), written(str(tmp_path), [bad]):
        raise AssertionError
    assert names(tmp_path) == []


async def test_a_run_waits_only_a_while_for_the_writes_of_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program_folders, "LOCK_SECONDS", 0.0)
    skills = tmp_path / ".claude" / "skills"
    skills.mkdir(parents=True)
    holder = os.open(skills, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(AgentTemporary, match="another run writes there"):
            await ask("true", replace(REQUEST, work_dir=str(tmp_path)))
    finally:
        os.close(holder)
    assert names(tmp_path) == []
