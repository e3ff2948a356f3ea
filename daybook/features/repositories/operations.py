"""Operations on changes and worktrees, for the operator. They work without Prefect.

The exception is `ask`, which requests a run.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, Field
from sqlalchemy import Select
from sqlalchemy.orm import defer
from sqlmodel import col, select

from daybook.api import authorization, runs
from daybook.delivery.views import RunDetails
from daybook.errors import InvalidInput, NotFound
from daybook.features.repositories import messages, review, worktrees
from daybook.features.repositories.tables import ENDED, ChangeRow, ChangeStatus
from daybook.instants import UtcTime
from daybook.jobs.actions import AgentPrompt
from daybook.ledger import references
from daybook.ledger.engine import open_ledger, reading
from daybook.ledger.tables import JobRow, new_id
from daybook.names import Id
from daybook.runs import claim_requests

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession


class RepositoryChange(BaseModel, frozen=True):
    """What the run ``run_id`` has changed in the repository ``repo``.

    ``job`` and ``job_id`` are None for a run without a job. ``onto`` is the branch that gets the
    change, ``branch`` the run's own. ``base`` and ``head`` are full hashes; ``head`` is "" while
    the run works. ``is_verified`` is None without a verification. ``landed`` is the commit with
    which the change has landed, "" before. ``problem`` is why it has not landed; with
    ``has_conflict``, because the branch has changed the same lines. ``host`` is the machine that
    has the commits. ``address`` is that of its pull request, "" without one. ``note`` is what the
    person ``decided_by`` has written.
    """

    run_id: str
    job: str | None
    job_id: str | None
    agent: str
    host: str
    repo: str
    onto: str
    branch: str
    land: str
    status: ChangeStatus
    base: str
    head: str
    changed_files: int
    insertions: int
    deletions: int
    is_verified: bool | None
    landed: str
    problem: str
    has_conflict: bool
    started_at: UtcTime
    recorded_at: UtcTime | None
    decided_at: UtcTime | None
    decided_by: str
    note: str
    address: str

    @classmethod
    def of(cls, row: ChangeRow, job: JobRow | None) -> Self:
        return cls.model_validate(_fields(row, job))

    def size_in_words(self) -> str:
        return messages.size_in_words(self.changed_files, self.insertions, self.deletions)

    def words(self) -> str:
        """Return the status for people."""
        words = _WORDS[self.status].format(onto=self.onto, branch=self.branch)
        if self.status == ChangeStatus.LANDED and self.landed:
            words += f" as {self.landed[:12]}"
        return words

    def state_in_words(self) -> str:
        """Return the status for people, with its reason."""
        return f"{self.words()}: {self.problem}" if self.problem else self.words()

    def verified_in_words(self) -> str:
        return _VERIFIED[self.is_verified]


_WORDS = {
    ChangeStatus.WORKING: "the run works, or has ended without an answer",
    ChangeStatus.UNCHANGED: "no change",
    ChangeStatus.WAITING: "waits for a person",
    ChangeStatus.LANDING: "is landing on {onto}",
    ChangeStatus.LANDED: "landed on {onto}",
    ChangeStatus.BRANCHED: "on the branch {branch}",
    ChangeStatus.PROPOSED: "proposed for {onto}",
    ChangeStatus.DISCARDED: "discarded",
    ChangeStatus.REPLACED: "a later run continues it",
}


_VERIFIED = {None: "not verified", True: "verified", False: "verification failed"}


class FileChange(BaseModel, frozen=True):
    """A file of a change. The numbers of lines are None for a binary file."""

    path: str
    insertions: int | None
    deletions: int | None


class RepositoryChangeDetails(RepositoryChange, frozen=True):
    """A change with its files and its patch, a unified diff.

    The patch is cut at `worktrees.MAX_PATCH_BYTES`. ``notes`` name what is not part of the change.
    ``verification`` is the output of the last verification. ``session_id`` is the session of the
    run, "" if it has none.
    """

    session_id: str
    files: list[FileChange]
    notes: list[str]
    verification: str = Field(repr=False)
    patch: str = Field(repr=False)


class RunWorktree(BaseModel, frozen=True):
    """The worktree of a run on this machine: ``path``, and its size in ``bytes``."""

    run_id: str
    job: str | None
    path: str
    bytes: int
    status: ChangeStatus
    started_at: UtcTime


async def list_changes(limit: int = 50, *, waiting: bool = False) -> list[RepositoryChange]:
    """Return the newest changes, those that wait first; only these if ``waiting``.

    Runs without a change are left out. Raise `InvalidInput` if the actor is an agent.
    """
    authorization.require_operator()
    async with reading() as session:
        return await find(session, limit, waiting=waiting)


async def find(
    session: AsyncSession, limit: int, *, waiting: bool = False
) -> list[RepositoryChange]:
    """Return the changes of `list_changes`, for any actor."""
    waits = col(ChangeRow.status) == ChangeStatus.WAITING
    shown = col(ChangeRow.status).not_in((ChangeStatus.UNCHANGED, ChangeStatus.WORKING))
    query = _rows().where(waits if waiting else shown)
    query = query.order_by(waits.desc(), col(ChangeRow.started_at).desc()).limit(limit)
    return [RepositoryChange.of(*each) for each in (await session.execute(query)).tuples()]


async def show(ref: str) -> RepositoryChangeDetails:
    """Return a change with its patch.

    ``ref`` is a run, or a job, whose last change it stands for. Raise `NotFound`, `Ambiguous`, and
    `InvalidInput` for an agent.
    """
    authorization.require_operator()
    async with reading() as session:
        run_id = await _find(session, ref)
        row = await session.get_one(ChangeRow, run_id)
        job = await session.get(JobRow, row.job_id) if row.job_id else None
    fields = ("session_id", "files", "notes", "verification", "patch")
    return RepositoryChangeDetails.model_validate(
        _fields(row, job) | {name: getattr(row, name) for name in fields}
    )


async def land(ref: str, *, wait: bool = True) -> RepositoryChange:
    """Add a change that waits to its branch. Return it; if it has not landed, with the problem.

    Without ``wait``, only record that it lands: the keeper lands it within a minute. A change that
    has landed stays as it is. ``ref`` and the errors are as for `show`; raise also `InvalidInput`
    for a change that cannot land.
    """
    authorization.require_operator()
    async with reading() as session:
        run_id = await _find(session, ref)
    row = await review.request(run_id, authorization.person())
    if wait and row.status == ChangeStatus.LANDING:
        row = await review.land(run_id)
    return await _view(row)


async def discard(ref: str, note: str = "") -> RepositoryChange:
    """Discard a change that waits; the next run of its session gets the ``note``. Return it.

    ``ref`` and the errors are as for `show`; raise also those of `review.discard`.
    """
    authorization.require_operator()
    async with reading() as session:
        run_id = await _find(session, ref)
    return await _view(await review.discard(run_id, authorization.person(), note))


async def ask(ref: str, prompt: str) -> RunDetails:
    """Let the job change a change that waits: request a run that continues it. Return the run.

    It gets ``prompt`` in place of the job's own, and its session. ``ref`` and the errors are as for
    `show`; raise also the errors of `runs.run`.
    """
    authorization.require_operator()
    if not prompt.strip():
        raise InvalidInput("prompt", "is blank", "write what the agent should change")
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            run_id = await _find(session, ref)
            row = await session.get_one(ChangeRow, run_id)
            if row.status != ChangeStatus.WAITING:
                problem = f"its change does not wait for a decision: it is {row.status}"
                raise InvalidInput("run", problem, "run the job again")
            if row.job_id is None:
                raise InvalidInput("run", "it has no job", "use `daybook sessions send`")
            stored = await authorization.find_job(session, Id(row.job_id))
        action = stored.job.action
        if isinstance(action, AgentPrompt) and action.session != "reuse":
            prompt = f"{action.prompt}\n\n{prompt}"  # the agent does not know the conversation
        request_id = new_id()
        async with ledger.write() as session:
            found = await session.get_one(ChangeRow, run_id)
            found.continued_by = claim_requests.request_key(stored.id, request_id)
    return await runs.run(Id(stored.id), prompt=prompt, request_id=request_id)


async def list_worktrees() -> list[RunWorktree]:
    """Return the worktrees here, the largest first. Raise `InvalidInput` for an agent."""
    authorization.require_operator()
    root = worktrees.folder_of("")
    async with reading() as session:
        query = _rows().where(col(ChangeRow.status).not_in(ENDED))
        found = (await session.execute(query)).tuples().all()
    there = [(row, job) for row, job in found if (root / row.run_id).is_dir()]
    sizes = await asyncio.to_thread(_sizes, [root / row.run_id for row, _ in there])
    made = [
        RunWorktree(
            run_id=row.run_id,
            job=job.name if job else None,
            path=str(root / row.run_id / "work"),
            bytes=size,
            status=ChangeStatus(row.status),
            started_at=row.started_at,
        )
        for (row, job), size in zip(there, sizes, strict=True)
    ]
    return sorted(made, key=lambda each: -each.bytes)


def _sizes(folders: Iterable[Path]) -> list[int]:
    sizes = []
    for folder in folders:
        size = 0
        for parent, _, names in os.walk(folder):
            for name in names:
                try:
                    size += os.lstat(os.path.join(parent, name)).st_blocks * 512
                except FileNotFoundError:
                    continue
        sizes.append(size)
    return sizes


async def _find(session: AsyncSession, ref: str) -> str:
    """Return the run of a change. Raise `NotFound` and `Ambiguous`."""
    match = await authorization.find_job_or_run(session, ref, archived=True)
    query = select(ChangeRow.run_id).where(col(ChangeRow.status) != ChangeStatus.UNCHANGED)
    if match.noun is references.RUN:
        query = query.where(col(ChangeRow.run_id) == match.id)
    else:
        waits = col(ChangeRow.status) == ChangeStatus.WAITING
        query = query.where(col(ChangeRow.job_id) == match.id)
        query = query.order_by(waits.desc(), col(ChangeRow.started_at).desc())
    found = (await session.execute(query.limit(1))).scalars().first()
    if found is None:
        raise NotFound("change", ref, "`daybook review` lists them")
    return str(found)


def _rows() -> Select[tuple[ChangeRow, JobRow | None]]:
    return (
        select(ChangeRow, JobRow)
        .outerjoin(JobRow, col(JobRow.id) == col(ChangeRow.job_id))
        .options(
            defer(ChangeRow.patch),  # type: ignore[arg-type]  # up to 2 MB each
            defer(ChangeRow.verification),  # type: ignore[arg-type]
            defer(ChangeRow.files),  # type: ignore[arg-type]
        )
    )


async def _view(row: ChangeRow) -> RepositoryChange:
    async with reading() as session:
        job = await session.get(JobRow, row.job_id) if row.job_id else None
    return RepositoryChange.of(row, job)


def _fields(row: ChangeRow, job: JobRow | None) -> dict[str, Any]:
    own = {name: getattr(row, name) for name in _SAME}
    landed = row.candidate if row.status == ChangeStatus.LANDED else ""
    return own | {
        "job": job.name if job else None,
        "landed": landed,
    }


_SAME = RepositoryChange.model_fields.keys() - {"job", "landed"}
