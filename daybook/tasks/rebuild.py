"""Rebuild of the task scheduler's state: every session may be woken again."""

from __future__ import annotations

from sqlalchemy import func
from sqlmodel import col, select

from daybook.ledger.engine import Ledger
from daybook.ledger.task_tables import TaskRunRow
from daybook.tasks import sessions, statistics, wakes
from daybook.tasks.policy import SchedulerPolicy
from daybook.tasks.states import Status
from daybook.tasks.statistics import RebuildResult


async def rebuild(ledger: Ledger, policy: SchedulerPolicy) -> RebuildResult:
    """Forget the recent wakes; escalation counts and steps stay. Return what was found and done."""
    async with ledger.write() as session:
        stored, now = await statistics.load(session), ledger.now()
        cleared = await wakes.recently_woken(
            session, now, policy.wake_cooldown, stored.last_rebuild_at
        )
        stored.rebuilds, stored.last_rebuild_at = stored.rebuilds + 1, now
        await statistics.store(session, stored)
        counted = (
            select(TaskRunRow.status, func.count())
            .where(col(TaskRunRow.finished_at).is_(None))
            .group_by(col(TaskRunRow.status))
        )
        by_status = dict((await session.execute(counted)).tuples().all())
        return RebuildResult(
            at=now,
            pending=by_status.get(Status.QUEUED, 0),
            active=by_status.get(Status.CLAIMED, 0),
            sessions=len(await sessions.live_sessions(session, now)),
            cleared=len(cleared),
            statistics=await statistics.read(session),
        )
