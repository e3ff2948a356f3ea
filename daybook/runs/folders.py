"""Folders of programs: a run waits while a run of another job works in the same files.

::

    policy.work_dir, or the agent's own ──► `RunRow.work_dir`, the real path, set by each claim
                                                │
    another held run of another job in the same folder, or inside or around it ──► wait

Two runs wait for each other only if the policy `exclusive_dir` of both is on, which is the default.
Runs of one job follow the job's overlap policy. A waiting run holds no folder, so no two runs wait
for each other. Decision 0137 has the reasons.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice
from pathlib import PurePath
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import owners
from daybook.ledger import waits
from daybook.ledger.states import HELD, Status
from daybook.ledger.tables import JobRow, RunRow
from daybook.policies import policy
from daybook.processes import locations
from daybook.runs import leases, slots
from daybook.runs.claim_requests import ClaimRequest, agent_name

RETRY_INTERVAL = timedelta(seconds=5)
"""How long the first run that waits for a folder waits before it claims again."""

MAX_RETRY_INTERVAL = timedelta(minutes=1)
"""Maximum delay until a run at the end of a folder's queue claims again."""

WAITER_GRACE = timedelta(seconds=15)
"""How long a waiting run keeps its turn after it missed its retry."""


def folder_of(row: RunRow, request: ClaimRequest) -> str:
    """Return the real path of the folder in which the run's program works; "" for a new folder.

    If the requester has not resolved a path, it is used as it is written.
    """
    if not row.asks_agent or row.policy.repo:  # each run has a worktree of its own
        return ""
    written = row.policy.work_dir
    if not written:
        return request.folders.get(agent_key(agent_name(row.parameters)), "")
    return request.folders.get(written) or locations.plain_path(written)


def agent_key(name: str) -> str:
    """Return the key of an agent's own folder in `ClaimRequest.folders`."""
    return f"@{name}"


def overlap(first: str, second: str) -> bool:
    """Return whether two real paths are the same folder, or one is inside the other."""
    one, other = PurePath(first), PurePath(second)
    return one.is_relative_to(other) or other.is_relative_to(one)


async def wait_for_folder(
    session: AsyncSession, row: RunRow, now: datetime
) -> slots.SlotWait | None:
    """Return the wait of ``row`` for its folder; None if its turn has come.

    Check expired leases of the runs in the folder first. Of the runs that wait for the folder, the
    earliest due run goes first; each further one claims later, so that a long queue costs little. A
    run that waits for something else, such as its agent, does not count.
    """
    if not row.work_dir or not row.policy.exclusive_dir or row.started_by.is_direct:
        return None
    others = select(
        col(RunRow.id), col(RunRow.work_dir), col(RunRow.until), col(RunRow.parameters)["policy"]
    ).where(
        col(RunRow.work_dir) != "",
        col(RunRow.id) != row.id,
        col(RunRow.job_id).is_(None) | (col(RunRow.job_id) != row.job_id),
    )
    held = others.where(col(RunRow.status).in_(HELD))
    queued = others.where(
        col(RunRow.status) == Status.WAITING,
        col(RunRow.waits_for) == waits.FOLDER.name,
        col(RunRow.until) >= now - WAITER_GRACE,
        slots.earlier(row),
    ).order_by(*slots.ORDER)
    before = await _in_same_files(session, queued, row, MAX_RETRY_INTERVAL // RETRY_INTERVAL)
    until = now + min(RETRY_INTERVAL * (1 + len(before)), MAX_RETRY_INTERVAL)
    for run_id, _ in await _in_same_files(session, held, row):
        other = await session.get_one(RunRow, run_id)
        if not await leases.check_lease(session, other, now):
            return slots.SlotWait(
                until, await _words(session, row, other, "works in"), waits.FOLDER
            )
    for run_id, at in before:
        if at <= now + RETRY_INTERVAL:
            first = await session.get_one(RunRow, run_id)
            why = await _words(session, row, first, "goes first in")
            return slots.SlotWait(until, why, waits.FOLDER)
    return None


async def _in_same_files(
    session: AsyncSession, query: Any, row: RunRow, limit: int | None = None
) -> list[tuple[str, datetime]]:
    """Return id and `until` of the first runs of ``query`` that exclude ``row`` from its folder.

    Read no other columns, because a payload or a prompt may be large.
    """
    found = (
        (run_id, until)
        for run_id, folder, until, given in await session.execute(query)
        if overlap(folder, row.work_dir)
        and policy.policy_from_parameters({"policy": given}).exclusive_dir
    )
    return list(islice(found, limit))


async def _words(session: AsyncSession, row: RunRow, other: RunRow, does: str) -> str:
    own, job = [
        await session.get(JobRow, each.job_id) if each.job_id else None for each in (row, other)
    ]
    if own is not None and owners.is_agent(own.owner) and (job is None or job.owner != own.owner):
        return f"another run {does} its folder"  # an agent sees only its own jobs
    of_job = f" of {job.name}" if job else ""
    return f"run {other.id[:8]}{of_job} {does} {other.work_dir}"
