"""Deletion of old task data, in small batches.

::

    an ended task    with its runs and their events, once its last run ended long ago
    a wake           after a week, because a run that waits long causes a wake every minute
    a session        a week after it expired, if it holds no run

To add a rule for one of these, add a condition to its function here. For another table, write a
function that deletes one batch and returns the number of rows, and name it in the descriptor. Tasks
have the age limit of `runs.retention.RetentionLimits`.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, exists, func
from sqlmodel import col, select

from daybook.delivery import outbox
from daybook.features.tasks.tables import TaskEventRow, TaskRow, TaskRunRow, TaskSessionRow
from daybook.features.tasks.wakes import WOKEN
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import OutboxRow
from daybook.runs.retention import BATCH_SIZE, RetentionLimits

MAX_RETENTION_AGE = timedelta(days=7)
"""Age up to which wakes and expired sessions are kept."""


async def delete_ended_tasks(ledger: Ledger, keep: RetentionLimits) -> int:
    """Delete one batch of tasks whose runs have all ended before the age limit of ``keep``.

    Return the number of deleted runs.
    """
    since = keep.since(ledger.now())
    ended_tasks = (
        select(TaskRunRow.task_id)
        .group_by(col(TaskRunRow.task_id))
        .having(
            func.max(TaskRunRow.finished_at) < since,
            func.count() == func.count(col(TaskRunRow.finished_at)),
        )
        .limit(BATCH_SIZE // 5)
    )
    async with ledger.read() as session:
        if (await session.execute(ended_tasks.limit(1))).first() is None:
            return 0
    async with ledger.write() as session:
        tasks = list((await session.execute(ended_tasks)).scalars())
        of_tasks = select(TaskRunRow.id).where(col(TaskRunRow.task_id).in_(tasks))
        runs = list((await session.execute(of_tasks)).scalars())
        await session.execute(delete(TaskEventRow).where(col(TaskEventRow.run_id).in_(runs)))
        await session.execute(delete(TaskRunRow).where(col(TaskRunRow.id).in_(runs)))
        await session.execute(delete(TaskRow).where(col(TaskRow.id).in_(tasks)))
        return len(runs)


async def delete_old_wakes(ledger: Ledger, _: RetentionLimits | None = None) -> int:
    """Delete one batch of old wakes with their task events. Return the number of deleted wakes."""
    before = ledger.now() - MAX_RETENTION_AGE
    old = (
        select(OutboxRow.id)
        .where(col(OutboxRow.created_at) < before, col(OutboxRow.purpose) == outbox.WAKE)
        .order_by(col(OutboxRow.created_at))
        .limit(BATCH_SIZE)
    )
    async with ledger.read() as session:
        if (await session.execute(old.limit(1))).first() is None:
            return 0
    async with ledger.write() as session:
        ids = list((await session.execute(old)).scalars())
        wake_events = delete(TaskEventRow).where(
            col(TaskEventRow.outbox_id).in_(ids), col(TaskEventRow.event) == WOKEN
        )
        await session.execute(wake_events)
        await session.execute(delete(OutboxRow).where(col(OutboxRow.id).in_(ids)))
        return len(ids)


async def delete_expired_sessions(ledger: Ledger, _: RetentionLimits | None = None) -> int:
    """Delete one batch of sessions that expired long ago and hold no run. Return their number."""
    holds = exists().where(col(TaskRunRow.session_id) == col(TaskSessionRow.id))
    expired = (
        select(TaskSessionRow.id)
        .where(col(TaskSessionRow.expires_at) < ledger.now() - MAX_RETENTION_AGE, ~holds)
        .limit(BATCH_SIZE)
    )
    async with ledger.read() as session:
        if (await session.execute(expired.limit(1))).first() is None:
            return 0
    async with ledger.write() as session:
        ids = list((await session.execute(expired)).scalars())
        await session.execute(delete(TaskSessionRow).where(col(TaskSessionRow.id).in_(ids)))
        return len(ids)
