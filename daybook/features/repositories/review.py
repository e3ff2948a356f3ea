"""Decisions about changes, and their landing.

::

    request ──► `landing` ──► land, which holds the lock of the run ──► `landed`, `branched`
                                   │      └ the branch gets the candidate, recorded before
                                   └──► `waiting` with the problem

The process that has decided it lands a change in the status `landing`, or the keeper after a kill
(`keeping`). `landing` shows why a change lands once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

from slugify import slugify
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import owners
from daybook.errors import DaybookError, InvalidInput, NotFound
from daybook.execution import sandboxing
from daybook.features.repositories import (
    access,
    job_programs,
    landing,
    messages,
    pull_requests,
    worktrees,
)
from daybook.features.repositories.access import RepositoryUnreachable
from daybook.features.repositories.forges import Forge, ForgeFailed
from daybook.features.repositories.git import GitFailed
from daybook.features.repositories.landing import BranchBusy, BranchInUse, ChangeConflict
from daybook.features.repositories.locks import StillLocked, locked
from daybook.features.repositories.store import Store
from daybook.features.repositories.tables import ChangeRow, ChangeStatus
from daybook.features.repositories.worktrees import Author, Change, folder_of
from daybook.ledger.engine import Ledger, open_ledger, reading
from daybook.ledger.tables import JobRow, RunRow
from daybook.policies.policy import Policy
from daybook.policies.repositories import Upstream

LOCK_SECONDS = 900.0
"""How long a decision waits for the landing of the same change."""

RETRY_DURATION = timedelta(hours=1)
"""How long a landing is tried again while the repository cannot be written to."""

MAX_NOTE_CHARACTERS = 2_000

_LANDED = (ChangeStatus.LANDED, ChangeStatus.BRANCHED, ChangeStatus.PROPOSED)


class VerificationFailed(DaybookError):
    """The error that the job's verification fails for the commit that would land."""

    code = "verification_failed"


@asynccontextmanager
async def _held(run_id: str, seconds: float = LOCK_SECONDS) -> AsyncIterator[None]:
    """Hold the lock of a run's change. Raise `StillLocked`."""
    path = folder_of(run_id).with_name(f"{run_id}.lock")
    async with locked(path, seconds):
        yield


async def request(run_id: str, person: str) -> ChangeRow:
    """Record that a waiting change lands. Return the row, also if it lands or has landed already.

    Raise `NotFound`, and `InvalidInput` if the change cannot land, or not on this machine.
    """

    def decide(row: ChangeRow, ledger: Ledger) -> None:
        if row.status != ChangeStatus.WAITING:
            return
        row.status, row.problem, row.has_conflict = ChangeStatus.LANDING, "", False
        row.decided_by, row.decided_at = person, ledger.now()

    row = await read(run_id)
    if row.status in _LANDED or row.status == ChangeStatus.LANDING:
        return row
    _require_waiting(row)
    if not await is_here(row):
        problem = f"its change is on the machine {row.host}"
        raise InvalidInput("run", problem, "decide about it there")
    return await _change(run_id, decide)


async def land(run_id: str, wait_seconds: float = LOCK_SECONDS) -> ChangeRow:
    """Land the change if its status is `landing`. Return the row, which has the problem if any.

    After a temporary problem of the repository, the status stays `landing`, so the keeper
    tries again for `RETRY_DURATION`. Raise `StillLocked` if another process lands it, or another
    change of the repository, for longer than ``wait_seconds``.
    """
    async with _held(run_id, wait_seconds):
        row = await read(run_id)
        if row.status != ChangeStatus.LANDING:
            return row
        is_temporary = False
        try:
            done = await _land(row, wait_seconds)
        except ChangeConflict as error:
            problem, has_conflict = str(error), True
        except BranchInUse as error:
            problem, has_conflict = await _offered(row, error), False
        except StillLocked:
            raise
        except DaybookError as error:
            problem, has_conflict, is_temporary = str(error), False, _is_temporary(error)
        else:
            return await _change(run_id, lambda row, _: _end(row, done))

        async with open_ledger() as ledger, ledger.write() as session:
            row = await session.get_one(ChangeRow, run_id)
            row.problem, row.has_conflict = problem, has_conflict
            since = row.decided_at or row.recorded_at
            if not is_temporary or since is None or since < ledger.now() - RETRY_DURATION:
                row.status = ChangeStatus.WAITING
                if not row.decided_by:
                    await messages.enqueue(session, row, ledger.now())
            return row


def _is_temporary(error: DaybookError) -> bool:
    is_of_forge = isinstance(error, ForgeFailed) and error.is_temporary
    return is_of_forge or isinstance(error, RepositoryUnreachable | BranchBusy)


def _end(row: ChangeRow, status: ChangeStatus) -> None:
    row.status, row.problem, row.has_conflict = status, "", False


async def _land(row: ChangeRow, wait_seconds: float) -> ChangeStatus:
    store = store_of(row)

    async def check(candidate: str) -> None:
        if candidate != row.head or not row.is_verified:
            await _verify(row, store, candidate)

    if row.land == "branch":
        await check(row.head)
        await landing.forward(store, row.branch, row.head)
        return ChangeStatus.BRANCHED
    if row.land == "pull-request":
        await check(row.head)
        return await _propose(row, store)

    async def record(candidate: str) -> None:
        def set_candidate(row: ChangeRow, _: Ledger) -> None:
            row.candidate = candidate

        await _change(row.run_id, set_candidate)

    # One after the other: while one is verified, the branch must not move.
    async with locked(store.folder / "landing", wait_seconds):
        await landing.land(
            store,
            Change(row.base, row.head, row.branch),
            row.onto,
            author_of(row),
            run_id=row.run_id,
            check=check,
            record=record,
            candidate=row.candidate,
        )
    return ChangeStatus.LANDED


async def _propose(row: ChangeRow, store: Store) -> ChangeStatus:
    """Push the run's branch, and open a pull request for it, or update the open one.

    If the branch has the change of a later run, only return that this one is replaced.
    """
    policy, _ = await _policy(row)
    place = Forge.of(store.source, policy.forge)
    try:
        await landing.push_branch(store, row.branch, row.head, partial(_is_earlier, row))
    except _ReplacedByLaterRun:
        return ChangeStatus.REPLACED
    subject, _, rest = row.summary.strip().partition("\n")
    async with access.secret_store() as secrets:
        opened = await pull_requests.propose(
            place,
            row.branch,
            row.onto,
            subject or row.branch,
            f"{rest.strip()}\n\nDaybook-Run: {row.run_id}".strip(),
            secret=row.secret,
            store=secrets,
            updates=policy.one_pull_request,
        )

    def set_address(row: ChangeRow, _: Ledger) -> None:
        row.address = opened.url

    await _change(row.run_id, set_address)
    return ChangeStatus.PROPOSED


class _ReplacedByLaterRun(DaybookError):
    """The error that a branch has the change of a later run of its job."""


async def _is_earlier(row: ChangeRow, commit: str) -> bool:
    """Return whether the commit is an earlier change on the branch. Raise `_ReplacedByLaterRun`."""
    query = select(ChangeRow.started_at).where(
        col(ChangeRow.head) == commit,
        col(ChangeRow.branch) == row.branch,
        col(ChangeRow.repo) == row.repo,
    )
    async with reading() as session:
        found = (await session.execute(query)).scalars().all()
    if found and min(found) > row.started_at:
        raise _ReplacedByLaterRun
    return bool(found)


async def _verify(row: ChangeRow, store: Store, candidate: str) -> None:
    """Run the job's verification for the commit. Raise `VerificationFailed`."""
    policy, owner = await _policy(row)
    if not policy.verify:
        return
    sandbox = sandboxing.build(policy, owner, row.job_id or "", (str(store.objects),))
    folder = folder_of(f"{row.run_id}.verifying")
    await asyncio.to_thread(worktrees.remove_folder, folder)
    try:
        await worktrees.check_out(folder / "work", store, candidate, "verifying", author_of(row))
        loop = asyncio.get_running_loop()
        end = loop.time() + policy.timeout.total_seconds()
        for name, command in (("setup", policy.setup), ("verify", policy.verify)):
            if not command:
                continue
            left = end - loop.time()
            work, job = folder / "work", row.job_id or ""
            ended = await job_programs.run(command, work, job, left, sandbox)
            if ended.problem:
                raise VerificationFailed(f"{name}, with the newest commits: {ended.in_words()}")
    finally:
        await asyncio.to_thread(worktrees.remove_folder, folder)


async def _policy(row: ChangeRow) -> tuple[Policy, str]:
    """Return the policy of the run, and the owner of its job. Raise `InvalidInput`."""
    async with reading() as session:
        run = await session.get(RunRow, row.run_id)
        job = await session.get(JobRow, row.job_id) if row.job_id else None
    if run is None:
        problem = "was removed by retention, and its verification with it"
        raise InvalidInput("run", problem, f"merge {row.head} by hand")
    return run.policy, job.owner if job else owners.USER


async def _offered(row: ChangeRow, error: BranchInUse) -> str:
    """Add the run's branch to the repository, so that the user can merge it. Return the problem."""
    store = store_of(row)
    command = f"git merge --ff-only {row.branch}"
    try:
        await landing.forward(store, row.branch, error.candidate, force=True)
    except DaybookError as failure:
        return f"{error}; and {row.branch} cannot be added: {failure}"
    return f"{error}, whose files Daybook does not change; run `{command}` there"


async def notice_merge(run_id: str) -> None:
    """Record that a waiting change has landed, if the user has merged its candidate."""
    async with _held(run_id):
        row = await read(run_id)
        if row.status != ChangeStatus.WAITING:
            return
        store = store_of(row)
        if await landing.has_landed(store, row.onto, row.candidate):
            await _change(run_id, lambda row, _: _end(row, ChangeStatus.LANDED))


async def discard(run_id: str, person: str, note: str) -> ChangeRow:
    """Record that a person does not want the change. Return the row.

    The next run of the session learns it. Raise `NotFound`, and `InvalidInput` if the change does
    not wait, has landed meanwhile, or if it is not known whether it has.
    """
    if len(note) > MAX_NOTE_CHARACTERS:
        raise InvalidInput("note", "is too long", f"use {MAX_NOTE_CHARACTERS:,} characters")
    async with _held(run_id):
        row = await read(run_id)
        if row.status == ChangeStatus.DISCARDED:
            return row
        _require_waiting(row)
        if row.candidate:  # a landing may have failed after it had its effect
            store = store_of(row)
            try:
                is_landed = await landing.has_landed(store, row.onto, row.candidate)
            except GitFailed as error:
                problem = f"it is not known whether it has landed: {error}"
                raise InvalidInput("run", problem, "try again later") from None
            if is_landed:
                await _change(run_id, lambda row, _: _end(row, ChangeStatus.LANDED))
                raise InvalidInput("run", f"its change has landed on {row.onto}", "revert it there")

        def decide(row: ChangeRow, ledger: Ledger) -> None:
            _require_waiting(row)
            row.status, row.note = ChangeStatus.DISCARDED, note.strip()
            row.decided_by, row.decided_at = person, ledger.now()

        return await _change(run_id, decide)


async def replace(session: AsyncSession, run_id: str) -> None:
    """Record that a later run continues the change of ``run_id``, if it still waits."""
    waits = (col(ChangeRow.run_id) == run_id) & (col(ChangeRow.status) == ChangeStatus.WAITING)
    await session.execute(update(ChangeRow).where(waits).values(status=ChangeStatus.REPLACED))


async def land_in_words(run_id: str) -> str:
    """Land the change of a run that goes on; return what has happened."""
    row = await land(run_id)
    match row.status:
        case ChangeStatus.LANDED:
            return f"landed on {row.onto} as {row.candidate[:12]}"
        case ChangeStatus.BRANCHED:
            return f"on the branch {row.branch}"
        case ChangeStatus.PROPOSED:
            return f"proposed: {row.address or row.branch}"
        case ChangeStatus.REPLACED:
            return f"{row.branch} has the change of a later run"
        case ChangeStatus.LANDING:
            return f"it is landing, and not yet there: {row.problem}"
        case _:
            return f"not landed: {row.problem}"


def store_of(row: ChangeRow) -> Store:
    """Return the store of the repository of a change."""
    return Store(Upstream.parse(row.repo), row.secret)


def author_of(row: ChangeRow) -> Author:
    """Return the author of the commits of a run: its agent, at the run's start."""
    name = row.agent or "agent"
    return Author(name, f"{slugify(name) or 'agent'}@daybook.invalid", row.started_at)


async def is_here(row: ChangeRow) -> bool:
    """Return whether this machine has the commits of the change."""
    store = store_of(row)
    if not row.head or not await asyncio.to_thread(store.repository.exists):
        return False
    try:
        return await store.commit_of(row.head) == row.head
    except GitFailed:
        return False


async def read(run_id: str) -> ChangeRow:
    """Return the row of a run's change. Raise `NotFound`."""
    async with reading() as session:
        row = await session.get(ChangeRow, run_id)
    if row is None:
        raise NotFound("change", run_id[:12], "`daybook review` lists them")
    return row


def _require_waiting(row: ChangeRow) -> None:
    if row.status != ChangeStatus.WAITING:
        problem = f"its change does not wait for a decision: it is {row.status}"
        raise InvalidInput("run", problem, "`daybook review` lists those that wait")


async def _change(run_id: str, work: Callable[[ChangeRow, Ledger], object]) -> ChangeRow:
    async with open_ledger() as ledger, ledger.write() as session:
        row = await session.get(ChangeRow, run_id)
        if row is None:
            raise NotFound("change", run_id[:12])
        work(row, ledger)
        if row.status != ChangeStatus.WAITING:
            await messages.withdraw(session, run_id, ledger.now())
        return row
