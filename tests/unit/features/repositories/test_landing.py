"""Landing: a change is in its branch once, or the branch has not changed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from daybook.errors import DaybookError
from daybook.features.repositories import landing
from daybook.features.repositories.git import GitFailed
from daybook.features.repositories.landing import BranchBusy, BranchInUse, ChangeConflict
from daybook.features.repositories.worktrees import Change, Worktree
from tests.unit.features.repositories.projects import AUTHOR, at, commit, worktree

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("daybook_home")]


class Landing:
    """The landing of one change, with what it has recorded."""

    def __init__(self, made: Worktree, change: Change) -> None:
        self.made, self.change, self.recorded = made, change, list[str]()

    async def land(self, stop: Callable[[], None] = lambda: None) -> str:
        """Land it, from what was recorded last. ``stop`` is called when it has been recorded."""

        async def check(candidate: str) -> None:
            assert candidate

        async def record(candidate: str) -> None:
            self.recorded.append(candidate)
            stop()

        return await landing.land(
            self.made.store,
            self.change,
            "main",
            AUTHOR,
            run_id=self.made.run_id,
            check=check,
            record=record,
            candidate=self.recorded[-1] if self.recorded else "",
        )


async def changed(project: Path, run_id: str = "run-1", **files: str) -> Landing:
    """Return the landing of a run that has committed ``files``."""
    made = await worktree(project, run_id)
    at(made.work, "config", "user.name", "coder")
    commit(made.work, **files)
    return Landing(made, await made.collect("the rest", AUTHOR))


def subjects(project: Path) -> list[str]:
    return at(project, "log", "--format=%s", "main").splitlines()


async def test_a_change_lands_as_it_is_if_the_branch_has_not_moved(project: Path) -> None:
    one = await changed(project, a="better\n")
    landed = await one.land()
    assert landed == one.change.head == at(project, "rev-parse", "main")
    assert at(project, "rev-parse", "--abbrev-ref", "HEAD") == "mine"
    assert await one.land() == landed
    assert subjects(project) == ["change a", "change a b"]
    assert len(one.recorded) == 1


async def test_a_change_is_rebased_if_the_branch_has_moved(project: Path) -> None:
    one = await changed(project, a="better\n")
    at(project, "switch", "-q", "main")
    commit(project, c="three\n")
    at(project, "switch", "-q", "mine")
    landed = await one.land()
    assert subjects(project) == ["change a", "change c", "change a b"]
    assert at(project, "show", "main:a.txt") == "better"
    assert landed == at(project, "rev-parse", "main") != one.change.head
    assert at(project, "log", "-1", "--format=%an|%cn", "main") == "ana|coder"


async def test_a_tag_of_the_same_name_is_not_the_branch(project: Path) -> None:
    one = await changed(project, a="better\n")
    at(project, "tag", "main", "main")
    at(project, "switch", "-q", "main")
    commit(project, c="three\n")
    at(project, "switch", "-q", "mine")
    await one.land()
    assert at(project, "log", "--format=%s", "refs/heads/main").splitlines() == [
        "change a",
        "change c",
        "change a b",
    ]


@pytest.mark.parametrize("trick", ["amend", "merge"])
async def test_what_lands_is_what_the_change_shows(trick: str, project: Path) -> None:
    at(project, "switch", "-q", "main")
    commit(project, b="two\nmore\n")
    made = await worktree(project)
    commit(project, c="three\n")
    at(project, "switch", "-q", "mine")
    if trick == "amend":
        (made.work / "b.txt").write_text("two\n")
        (made.work / "d.txt").write_text("four\n")
        at(made.work, "add", "-A")
        at(made.work, "commit", "-q", "--amend", "-m", "rewritten")
    else:
        at(made.work, "switch", "-qc", "side")
        commit(made.work, d="four\n")
        at(made.work, "switch", "-q", "-")
        at(made.work, "merge", "-q", "--no-ff", "--no-commit", "side")
        (made.work / "b.txt").write_text("two\n")
        at(made.work, "commit", "-qam", "merge")

    change = await made.collect("the rest", AUTHOR)
    await Landing(made, change).land()

    assert "-more" in change.patch
    assert at(project, "show", "main:b.txt") == "two"
    assert subjects(project)[0] == "the rest"
    assert change.notes == ("the agent rewrote or merged commits, so its change is one commit",)


async def test_a_conflict_names_the_files_and_changes_nothing(project: Path) -> None:
    one = await changed(project, a="better\n", c="new\n")
    at(project, "switch", "-q", "main")
    tip = commit(project, a="other\n")
    with pytest.raises(ChangeConflict, match=r"main has changed the same lines of a\.txt") as met:
        await one.land()
    assert met.value.files == ["a.txt"]
    assert at(project, "rev-parse", "main") == tip
    assert one.recorded == []


async def test_a_branch_that_is_checked_out_is_left_alone(project: Path) -> None:
    one = await changed(project, a="better\n")
    at(project, "switch", "-q", "main")
    tip = at(project, "rev-parse", "main")
    with pytest.raises(BranchInUse, match="main is checked out in"):
        await one.land()
    assert at(project, "rev-parse", "main") == tip
    assert at(project, "status", "--porcelain") == ""
    at(project, "switch", "-q", "mine")
    await one.land()
    assert at(project, "show", "main:a.txt") == "better"


class Killed(Exception):
    """What stands for the end of the process."""


async def test_a_landing_that_was_killed_lands_once(project: Path) -> None:
    one = await changed(project, a="better\n")
    at(project, "switch", "-q", "main")
    commit(project, c="three\n")
    at(project, "switch", "-q", "mine")

    def kill() -> None:
        raise Killed

    with pytest.raises(Killed):  # before the branch has changed
        await one.land(kill)
    assert subjects(project) == ["change c", "change a b"]
    landed = await one.land()
    # The process was killed after the branch has changed, and the branch moves on.
    at(project, "switch", "-q", "main")
    commit(project, d="four\n")
    at(project, "switch", "-q", "mine")
    assert await one.land(kill) == landed
    assert subjects(project) == ["change d", "change a", "change c", "change a b"]


async def test_the_lock_of_a_killed_fetch_is_removed_when_it_is_old(project: Path) -> None:
    one = await changed(project, a="better\n")
    lock = project / ".git" / "refs" / "heads" / "main.lock"
    lock.write_text(f"{one.change.head}\n")
    with pytest.raises(BranchBusy, match=r"main\.lock': File exists"):
        await one.land()
    os.utime(lock, (0, 0))
    await one.land()
    assert subjects(project) == ["change a", "change a b"]
    lock.write_text("0123456789 of another program\n")
    os.utime(lock, (0, 0))
    two = await changed(project, "run-2", c="three\n")
    with pytest.raises(BranchBusy):
        await two.land()


@pytest.mark.slow
async def test_five_changes_that_land_at_once_are_all_in_the_branch(project: Path) -> None:
    every = [await changed(project, f"run-{n}", **{f"file{n}": "new\n"}) for n in range(5)]

    async def land(one: Landing) -> None:
        while True:
            try:
                await one.land()
            except GitFailed:  # the branch has moved each time
                continue
            return

    await asyncio.gather(*map(land, every))
    assert sorted(subjects(project)) == sorted(
        [*(f"change file{n}" for n in range(5)), "change a b"]
    )


async def test_the_branch_of_a_bare_repository_elsewhere_moves_on(
    project: Path, tmp_path: Path
) -> None:
    at(tmp_path, "clone", "-q", "--bare", "-b", "main", str(project), "bare.git")
    one = await changed(tmp_path / "bare.git", a="better\n")
    await one.land()
    assert at(tmp_path / "bare.git", "show", "main:a.txt") == "better"


async def test_no_program_of_the_user_s_repository_runs(project: Path, tmp_path: Path) -> None:
    ran, program = tmp_path / "ran", tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho x >> '{ran}'\n")
    program.chmod(0o755)
    one = await changed(project, a="better\n")
    for name in ("reference-transaction", "post-merge", "post-rewrite", "pre-auto-gc"):
        (project / ".git" / "hooks" / name).parent.mkdir(exist_ok=True)
        (project / ".git" / "hooks" / name).symlink_to(program)
    for name in ("core.fsmonitor", "core.alternateRefsCommand", "core.sshCommand"):
        at(project, "config", name, str(program))
    (tmp_path / "other").mkdir()
    at(tmp_path / "other", "init", "-q")
    alternates = project / ".git" / "objects" / "info" / "alternates"
    alternates.write_text(f"{tmp_path / 'other' / '.git' / 'objects'}\n")
    ran.unlink(missing_ok=True)
    await one.land()
    assert not ran.exists()


async def test_a_missing_branch_has_git_s_error(project: Path) -> None:
    one = await changed(project, a="better\n")
    at(project, "branch", "-D", "main")
    with pytest.raises(DaybookError, match="couldn't find remote ref refs/heads/main"):
        await one.land()
