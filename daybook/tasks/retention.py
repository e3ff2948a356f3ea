"""What is let go of tasks, in small batches (requirement 19).

::

    a task that has ended    with its runs and what happened, when its last run ended long ago
    a wake                   after a week: a run that waits long is woken each minute
    a session                when it was not heard of for as long, and holds nothing
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, exists, func
from sqlmodel import col, select

from daybook.delivery import outbox
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import OutboxRow
from daybook.ledger.task_tables import TaskEventRow, TaskRow, TaskRunRow, TaskSessionRow
from daybook.runs.retention import BATCH, Keep
from daybook.tasks.wakes import WOKEN

GONE = timedelta(days=7)
"""How long a wake, and a session that is gone, is kept at most."""


async def ended(ledger: Ledger, keep: Keep) -> int:
    """Let go of one batch of tasks all of whose runs have ended; returns how many runs went."""
    since = keep.since(ledger.now())
    over = (
        select(TaskRunRow.task_id)
        .group_by(col(TaskRunRow.task_id))
        .having(
            func.max(TaskRunRow.finished_at) < since,
            func.count() == func.count(col(TaskRunRow.finished_at)),
        )
        .limit(BATCH // 5)
    )
    async with ledger.read() as session:
        if (await session.execute(over.limit(1))).first() is None:
            return 0
    async with ledger.write() as session:
        tasks = list((await session.execute(over)).scalars())
        of_tasks = select(TaskRunRow.id).where(col(TaskRunRow.task_id).in_(tasks))
        runs = list((await session.execute(of_tasks)).scalars())
        await session.execute(delete(TaskEventRow).where(col(TaskEventRow.run_id).in_(runs)))
        await session.execute(delete(TaskRunRow).where(col(TaskRunRow.id).in_(runs)))
        await session.execute(delete(TaskRow).where(col(TaskRow.id).in_(tasks)))
        return len(runs)


async def wakes(ledger: Ledger) -> int:
    """Let go of one batch of old wakes, wherever they are written down; returns how many."""
    before = ledger.now() - GONE
    old = (
        select(OutboxRow.id)
        .where(col(OutboxRow.created_at) < before, col(OutboxRow.purpose) == outbox.WAKE)
        .order_by(col(OutboxRow.created_at))
        .limit(BATCH)
    )
    async with ledger.read() as session:
        if (await session.execute(old.limit(1))).first() is None:
            return 0
    async with ledger.write() as session:
        gone = list((await session.execute(old)).scalars())
        told = delete(TaskEventRow).where(
            col(TaskEventRow.outbox_id).in_(gone), col(TaskEventRow.event) == WOKEN
        )
        await session.execute(told)
        await session.execute(delete(OutboxRow).where(col(OutboxRow.id).in_(gone)))
        return len(gone)


async def sessions(ledger: Ledger) -> int:
    """Let go of sessions that are gone; returns how many."""
    holds = exists().where(col(TaskRunRow.session_id) == col(TaskSessionRow.id))
    gone = (
        select(TaskSessionRow.id)
        .where(col(TaskSessionRow.expires_at) < ledger.now() - GONE, ~holds)
        .limit(BATCH)
    )
    async with ledger.read() as session:
        if (await session.execute(gone.limit(1))).first() is None:
            return 0
    async with ledger.write() as session:
        ids = list((await session.execute(gone)).scalars())
        await session.execute(delete(TaskSessionRow).where(col(TaskSessionRow.id).in_(ids)))
        return len(ids)
