"""Which run a session gets: the first of the queue that fits it, or why it gets none. Reads only.

`matching.verdict` judges; the database leaves out what that could only refuse, so that a long queue
costs a claim little. No more is read of a run than the verdict needs.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import owners
from daybook.ledger.task_tables import TaskRow, TaskRunRow, TaskSessionRow
from daybook.tasks import matching, model, pause, sessions
from daybook.tasks.matching import Candidate, Wanted
from daybook.tasks.states import Status

HEAD = 100
"""So many of the queue are looked at first, then all of it."""


async def kept_from(
    session: AsyncSession, row: TaskSessionRow, held: TaskRunRow | None, now: datetime
) -> str:
    """Why nothing is looked for; a run whose lease is over is ``held`` no more."""
    paused = await pause.read(session)
    if paused.paused:
        return "the task scheduler is paused" + (f": {paused.reason}" if paused.reason else "")
    if row.expires_at <= now:
        since = (row.expires_at - sessions.SILENT).replace(microsecond=0).isoformat()
        return f"the session was silent since {since}; report its state, or register it again"
    if held is not None and not _is_over(held, now):
        return f"the session holds run {held.id[:8]}; complete, fail or release that first"
    return ""


def _is_over(held: TaskRunRow | None, now: datetime) -> bool:
    return held is not None and held.lease_until is not None and held.lease_until <= now


_QUEUED = (col(TaskRunRow.status) == Status.QUEUED) & col(TaskRunRow.finished_at).is_(None)
_ASKS = (
    select(
        TaskRunRow.id,
        TaskRow.priority,
        TaskRunRow.queued_at,
        TaskRow.owner,
        TaskRow.workspace,
        TaskRow.channel,
        TaskRow.capabilities,
        TaskRow.paused,
    )  # type: ignore[call-overload]
    .join(TaskRow, col(TaskRow.id) == col(TaskRunRow.task_id))
    .where(_QUEUED)
    .order_by(col(TaskRow.priority), col(TaskRunRow.queued_at), col(TaskRunRow.id))
)
"""What each queued run asks, in the order of claims: no more than the verdict needs."""


def _asks(found: Any) -> Wanted:
    id_, priority, queued_at, owner, workspace, channel, capabilities, paused = found
    return Wanted(
        run_id=id_,
        priority=priority,
        queued_at=queued_at,
        owner=owner,
        workspace=workspace,
        channel=channel,
        capabilities=tuple(capabilities),
        paused=paused,
    )


async def first(session: AsyncSession, candidate: Candidate, now: datetime) -> str | None:
    """The id of the first run that fits; None: none does.

    What can never fit is left out by the database; the verdict judges the rest, once of all that
    ask the same.
    """
    if matching.busy(candidate, now):
        return None
    its = [model.ANYONE, model.BY_SESSION + candidate.name]
    if candidate.agent:
        its.append(owners.BY_AGENT + candidate.agent)
    might = _ASKS.where(
        ~col(TaskRow.paused),
        col(TaskRow.owner).in_(its),
        col(TaskRow.workspace).in_({"", candidate.workspace}),
        col(TaskRow.channel).in_({"", candidate.channel}),
    )
    unfit: set[tuple[object, ...]] = set()
    for queue in (might.limit(HEAD), might):
        found = (await session.execute(queue)).all()
        for wanted in map(_asks, found):
            kind = (wanted.owner, wanted.workspace, wanted.channel, wanted.capabilities)
            if kind in unfit:
                continue
            if not matching.verdict(wanted, candidate, now):
                return wanted.run_id
            unfit.add(kind)
        if len(found) < HEAD:
            break
    return None


async def why_none(session: AsyncSession, candidate: Candidate, now: datetime) -> str:
    """In words: the session is busy, or how many are queued and why not the first."""
    if why := matching.busy(candidate, now):
        return why
    top = (await session.execute(_ASKS.limit(1))).first()
    if top is None:
        return "no task is queued"
    count = (await session.execute(select(func.count()).where(_QUEUED))).scalar_one()
    why = matching.verdict(_asks(top), candidate, now)
    return f"of {count:,} queued none fits; of the first: {why}"
