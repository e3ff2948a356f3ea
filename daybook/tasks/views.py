"""Read-only views of the queue: lists, counts, and why a run waits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy
from sqlalchemy import case, func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from daybook import owners
from daybook.ledger.task_tables import TaskRow, TaskRunRow
from daybook.tasks import matching, sessions
from daybook.tasks import pause as switch
from daybook.tasks.matching import Candidate, RunRequirements
from daybook.tasks.pause import PauseState
from daybook.tasks.queue import TaskAndRun
from daybook.tasks.states import ENDED, LIVE, Status

DAY = timedelta(days=1)


@dataclass(frozen=True)
class TaskCounts:
    """Counts of tasks and sessions. ``oldest`` is since when the oldest queued run has waited.

    ``starving`` are queued runs that starve. ``attention`` are runs that an operator should look
    at, including queued ones whose escalation is complete. ``free`` sessions could claim now.
    Expired sessions are not counted.
    """

    live: dict[Status, int]
    ended_last_day: dict[Status, int]
    oldest: datetime | None
    starving: int
    attention: int
    free: int
    busy: int
    switch: PauseState

    @property
    def any(self) -> bool:
        """Whether there is anything to show."""
        counts = (*self.live.values(), *self.ended_last_day.values(), self.free, self.busy)
        return any(counts) or self.switch.paused


async def read_counts(session: AsyncSession, now: datetime) -> TaskCounts:
    """Return the counts at ``now``."""
    run = TaskRunRow
    by_status = sqlalchemy.select(
        col(run.status),
        func.count(),
        func.min(col(run.queued_at)),
        func.sum(case((col(run.starved_cycles) > 0, 1), else_=0)),
        func.sum(case((col(run.attention) != "", 1), else_=0)),
    ).where(col(run.finished_at).is_(None))
    live = {
        Status(row[0]): row[1:]
        for row in (await session.execute(by_status.group_by(col(run.status)))).all()
    }
    queued = live.get(Status.QUEUED, (0, None, 0, 0))
    ended = select(run.status, func.count()).where(col(run.finished_at) >= now - DAY)
    last_day = dict((await session.execute(ended.group_by(run.status))).tuples().all())
    candidates = await live_candidates(session, now)
    free = sum(not matching.busy_reason(each, now) for each in candidates)
    return TaskCounts(
        live={each: live[each][0] if each in live else 0 for each in sorted(LIVE)},
        ended_last_day={each: last_day.get(each, 0) for each in sorted(ENDED)},
        oldest=queued[1],
        starving=int(queued[2]),
        attention=int(queued[3]) + live.get(Status.NEEDS_ATTENTION, (0,))[0],
        free=free,
        busy=len(candidates) - free,
        switch=await switch.read(session),
    )


async def live_candidates(session: AsyncSession, now: datetime) -> list[Candidate]:
    """Return the live sessions of all owners, by name."""
    return [candidate for _, candidate in await sessions.live_sessions(session, now)]


async def list_tasks(session: AsyncSession, status: Status | None, limit: int) -> list[TaskAndRun]:
    """Return tasks with their newest runs: live ones in claim order, then the most recently ended.

    With ``status``, return only tasks whose newest run has that state.
    """
    pairs: list[TaskAndRun] = []
    newer = aliased(TaskRunRow)
    newest = (
        select(TaskRow, TaskRunRow)
        .join(TaskRunRow, col(TaskRunRow.task_id) == col(TaskRow.id))
        .where(
            ~select(newer.id)
            .where(newer.task_id == TaskRunRow.task_id, newer.number > TaskRunRow.number)
            .exists()
        )
    )
    run = TaskRunRow
    status_rank = case(
        (col(run.status) == Status.NEEDS_ATTENTION, 0),
        (col(run.status) == Status.CLAIMED, 1),
        else_=2,
    )
    live = (status_rank, col(TaskRow.priority), col(run.queued_at), col(run.id))
    ended = (col(run.finished_at).desc(), col(run.id))
    for group, order in ((LIVE, live), (ENDED, ended)):
        statuses = group if status is None else group & {status}
        if statuses and len(pairs) < limit:
            newest_of_group = newest.where(col(run.status).in_(statuses)).order_by(*order)
            pairs += (
                (await session.execute(newest_of_group.limit(limit - len(pairs)))).tuples().all()
            )
    return pairs


def why_waiting(wanted: RunRequirements, there: Sequence[Candidate], now: datetime) -> str:
    """Return why no session of ``there`` has claimed a queued run yet."""
    if wanted.paused:
        return "the task is paused"
    if wanted.owner == owners.USER:
        return "it is a person's to do"
    if free := [each.name for each in there if not matching.refusal_reason(wanted, each, now)]:
        return f"{_first_three(free)} could claim it"
    fitting = [each for each in there if not matching.mismatch_reason(wanted, each)]
    if fitting:
        return "; ".join(f"{each.name}: {matching.busy_reason(each, now)}" for each in fitting[:3])
    if not there:
        return "no session is there"
    lacking = set(wanted.capabilities)
    for each in there:
        lacking -= set(each.capabilities)
    if lacking:
        return f"no session has {', '.join(sorted(lacking))}"
    return "no session fits: " + "; ".join(
        f"{each.name}: {matching.mismatch_reason(wanted, each)}" for each in there[:3]
    )


def _first_three(names: Iterable[str]) -> str:
    given = list(names)
    return ", ".join(given[:3]) + (f" and {len(given) - 3} more" if len(given) > 3 else "")
