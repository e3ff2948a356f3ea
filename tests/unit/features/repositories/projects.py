"""A user's repository, and git as a user or an agent runs it."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from daybook.clock import SYSTEM_CLOCK
from daybook.execution import journal, workspaces
from daybook.execution.workspaces import WorkQuestion
from daybook.features.repositories.store import Store
from daybook.features.repositories.worktrees import Author, Worktree
from daybook.ledger.states import Outcome, Status
from daybook.policies.repositories import Upstream
from daybook.runs.claim_requests import Granted
from tests.world import World

SECRET = "forge"
"""Name of the secret with the token for a repository elsewhere."""
AUTHOR = Author("coder", "coder@daybook", datetime(2026, 1, 15, 12, tzinfo=UTC))


def at(folder: Path, *arguments: str) -> str:
    """Run git with the configuration of the repository only."""
    identity = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    identity |= {f"GIT_{role}_NAME": "ana" for role in ("AUTHOR", "COMMITTER")}
    identity |= {f"GIT_{role}_EMAIL": "ana@example.org" for role in ("AUTHOR", "COMMITTER")}
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env=os.environ | identity,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(folder: Path, **files: str) -> str:
    """Write files whose names end in `.txt`, commit them, and return the commit."""
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    at(folder, "add", "-A")
    at(folder, "commit", "-qm", f"change {' '.join(files)}")
    return at(folder, "rev-parse", "HEAD")


def user_repository(folder: Path, **files: str) -> Path:
    """Create a user's repository, in which another branch than main is checked out.

    ``files`` are those of `commit`; the default is `a.txt` and `b.txt`.
    """
    folder.mkdir()
    at(folder, "init", "-q", "-b", "main")
    commit(folder, **(files or {"a": "one\n", "b": "two\n"}))
    at(folder, "switch", "-qc", "mine")
    return folder


async def worktree(project: Path, run_id: str = "run-1") -> Worktree:
    """Create the worktree of a run."""
    store = Store(Upstream.parse(str(project)))
    made = Worktree(store, run_id, await store.fetch(""), f"daybook/nightly/{run_id}")
    await made.create(AUTHOR)
    return made


async def changed(world: World, granted: Granted, **files: str) -> Outcome:
    """Let the agent of a run write files whose names end in `.txt`, and return the outcome."""
    workspace = workspaces.of(granted)
    assert workspace is not None

    async def ask(_: WorkQuestion) -> Outcome:
        for name, text in files.items():
            (Path(workspace.folder) / f"{name}.txt").write_text(text)
        return Outcome(Status.SUCCEEDED, output="I have **fixed** it.", agent="coder")

    with journal.recording(world.ledger, granted, 1, SYSTEM_CLOCK):
        return await workspace.work(ask)
