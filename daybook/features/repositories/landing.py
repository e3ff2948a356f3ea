"""Landing: a change becomes part of the branch from which its run has started.

::

    fetch the branch ──► it has the candidate ────────────────────────► landed
            │
            └► rebase if the branch has moved ──► record the candidate ──► fast-forward ──► landed
                  └► `ChangeConflict`

The candidate, the commit that the branch will have, is recorded before the branch changes. So a
process that goes on after another one was killed finds out whether the branch has it, and a change
never lands twice. A branch only moves forward; git refuses anything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

from daybook.clock import SYSTEM_CLOCK
from daybook.errors import DaybookError
from daybook.features.repositories import git, worktrees
from daybook.features.repositories.git import GitFailed
from daybook.features.repositories.store import Store
from daybook.features.repositories.worktrees import Author, Change, folder_of
from daybook.short_text import first_names

MAX_TRIES = 3
"""How often a branch may move while a change is landing."""

LOCK_AGE = timedelta(minutes=1)
"""Age of the lock of a branch, which git has for milliseconds, that a killed git has left."""

OnCandidate = Callable[[str], Awaitable[None]]
"""Coroutine function of the hash of a candidate."""

OwnsCommit = Callable[[str], Awaitable[bool]]
"""Coroutine function that returns whether Daybook has made the commit with a hash."""


class ChangeConflict(DaybookError):
    """The error that a change and the branch have changed the same lines of ``files``."""

    code = "change_conflict"

    def __init__(self, branch: str, files: list[str]) -> None:
        super().__init__(f"{branch} has changed the same lines of {first_names(files)}")
        self.files = files


class BranchInUse(DaybookError):
    """The error that the branch is checked out, so that its files would no longer fit it.

    ``candidate`` is the commit that it would have got.
    """

    code = "branch_in_use"

    def __init__(self, branch: str, folder: str, candidate: str) -> None:
        super().__init__(f"{branch} is checked out in {folder}")
        self.folder, self.candidate = folder, candidate


class BranchBusy(GitFailed):
    """The error that another program changes the branch, or was killed while it did."""

    code = "branch_busy"


async def land(
    store: Store,
    change: Change,
    branch: str,
    author: Author,
    *,
    run_id: str,
    check: OnCandidate,
    record: OnCandidate,
    candidate: str = "",
) -> str:
    """Add ``change`` to ``branch`` of the store's repository; return the commit there.

    ``check`` raises the error of a candidate that must not land, and ``record`` stores the hash of
    one that may. ``candidate`` is what ``record`` has stored for this change before. Raise the
    errors of ``check``, `ChangeConflict`, `BranchInUse`, `BranchBusy`, and `GitFailed`, after which
    the branch has not changed, or has the candidate.
    """
    for _ in range(MAX_TRIES):
        tip = await store.fetch(f"refs/heads/{branch}")  # a tag may have the same name
        if candidate and await has(store, tip, candidate):
            return candidate
        candidate = change.head
        if not await store.contains(tip, candidate):
            candidate = await _rebased(store, change, (branch, tip), author, run_id)
        await check(candidate)
        await record(candidate)
        try:
            await forward(store, branch, candidate)
        except GitFailed:
            if await store.fetch(f"refs/heads/{branch}") == tip:
                raise
            continue  # it has moved meanwhile
        return candidate
    raise BranchBusy(f"{branch} has moved {MAX_TRIES} times meanwhile")


async def has_landed(store: Store, branch: str, candidate: str) -> bool:
    """Return whether ``branch`` of the store's repository has the candidate. Raise `GitFailed`."""
    return bool(candidate) and await has(
        store, await store.fetch(f"refs/heads/{branch}"), candidate
    )


async def has(store: Store, tip: str, candidate: str) -> bool:
    """Return whether the commit ``tip`` of the store is the candidate, or comes after it."""
    try:
        return await store.contains(candidate, tip)
    except GitFailed:  # the candidate was lost with its worktree, so the branch cannot have it
        return False


async def _rebased(
    store: Store, change: Change, onto: tuple[str, str], author: Author, run_id: str
) -> str:
    """Return the last of the change's commits after the commit of ``onto``, a branch and its tip.

    Raise `ChangeConflict`.
    """
    branch, tip = onto
    folder = folder_of(f"{run_id}.landing")
    await asyncio.to_thread(worktrees.remove_folder, folder)
    work = folder / "work"
    try:
        await worktrees.check_out(work, store, change.head, "landing", author)
        repository = work / ".git"
        variables = author.variables() | {"GIT_WORK_TREE": str(work), "GIT_EDITOR": "true"}
        # An author is that of each commit.
        variables = {k: v for k, v in variables.items() if not k.startswith("GIT_AUTHOR")}
        try:
            await git.run(
                *("rebase", "--quiet", "--no-autostash", "--no-gpg-sign", "--empty=drop"),
                *("--onto", tip, change.base, "landing"),
                repository=repository,
                variables=variables,
                cwd=work,
            )
        except GitFailed:
            unmerged = await git.run(
                *("diff", "--name-only", "--no-ext-diff", "--diff-filter=U", "-z"),
                repository=repository,
                variables=variables,
                cwd=work,
            )
            if not (files := unmerged.fields()):
                raise
            raise ChangeConflict(branch, [*map(git.printable, files)]) from None
        async with store.writing() as run:
            target = f"refs/daybook/landing/{run_id}"
            await run(
                *git.fetch(str(repository), f"+refs/heads/landing:{target}"),
                protocols=["file"],
            )
            return await store.commit_of(target)
    finally:
        await asyncio.to_thread(worktrees.remove_folder, folder)


async def push_branch(store: Store, branch: str, commit: str, owns: OwnsCommit) -> None:
    """Set a branch of Daybook's own at the store's repository, which is elsewhere, to ``commit``.

    ``owns`` returns whether the commit that the branch has now is of Daybook. Raise `GitFailed`,
    also if others have changed the branch.
    """
    address, ref = store.source.address, f"refs/heads/{branch}"
    listed = await store.remote("ls-remote", "--quiet", "--", address, ref)
    now = listed.text.partition("\t")[0]
    if now not in ("", commit) and not await owns(now):
        problem = f"{branch} there has the commit {now[:12]}, which is not of Daybook"
        raise GitFailed(f"{problem}; merge or delete the branch")
    await store.remote(
        *("push", "--quiet", "--no-verify", "--receive-pack=git-receive-pack"),
        *(f"--force-with-lease={ref}:{now}", "--", address, f"{commit}:{ref}"),
        run=partial(git.run, repository=store.repository),
    )


async def forward(store: Store, branch: str, candidate: str, *, force: bool = False) -> None:
    """Move ``branch`` of the store's repository to ``candidate``, if that is a fast-forward.

    With ``force``, move it in any case. Create the branch if it is missing. Raise `BranchInUse` and
    `GitFailed`.
    """
    source, plus = store.source, "+" * force
    if source.protocol != "file":
        await store.remote(
            *("push", "--quiet", "--no-verify", "--receive-pack=git-receive-pack", "--"),
            *(source.address, f"{plus}{candidate}:refs/heads/{branch}"),
            run=partial(git.run, repository=store.repository),
        )
        return
    # The user's repository fetches, because a push would be refused, or start its hooks.
    own = await git.run(
        "rev-parse", "--path-format=absolute", "--git-common-dir", cwd=source.address
    )
    await asyncio.to_thread(_remove_own_lock, own.path, branch, candidate)
    try:
        await git.run(
            *git.fetch(str(store.repository), f"{plus}{candidate}:refs/heads/{branch}"),
            repository=own.path,
            protocols=["file"],
        )
    except GitFailed as error:
        if "refusing to fetch into" in str(error):
            raise BranchInUse(branch, source.address, candidate) from None
        if ".lock': File exists" in str(error):
            raise BranchBusy(str(error)) from None
        raise


def _remove_own_lock(repository: Path, branch: str, candidate: str) -> None:
    """Remove the lock of a branch that was left by a `git fetch` which was killed in `forward`.

    Such a lock is empty, or has the candidate.
    """
    lock = repository / "refs" / "heads" / f"{branch}.lock"
    try:
        age = SYSTEM_CLOCK.now().timestamp() - lock.stat().st_mtime
        is_own = lock.read_text().strip() in ("", candidate)
    except (OSError, ValueError):
        return
    if is_own and age > LOCK_AGE.total_seconds():
        lock.unlink(missing_ok=True)
