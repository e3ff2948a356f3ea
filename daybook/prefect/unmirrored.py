"""The marks of ended runs whose outcome Prefect does not show yet (promise 13: once per outcome).

Each outcome of a run that a Prefect run carries marks its row `unmirrored`, in the transaction that
records it. The mark is cleared when Prefect shows the outcome, and only another outcome sets it
again. So a state that somebody sets by hand afterwards is not changed.

The audit marks its rows too, which have no Prefect run: the mirror makes one for each. A row of
several due times is marked again when it is extended.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import or_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.ledger.engine import Ledger
from daybook.ledger.tables import JobRow, RunRow
from daybook.prefect import links


async def unmirrored_rows(
    session: AsyncSession, before: datetime, limit: int = 100
) -> list[RunRow]:
    """Return marked runs that ended at ``before`` (UTC) or earlier, oldest first.

    Runs that no process ended are included at once: those without a Prefect run, and ranges of due
    times. Runs whose job has no deployment yet are left out. Runs whose deployment was deleted in
    Prefect are included, so that the caller clears their mark: Prefect can never show them.
    """
    deleted = await links.jobs_without_deployment(session)
    deployed = select(JobRow.id).where(
        col(JobRow.id) == col(RunRow.job_id),
        col(JobRow.deployment_id).is_not(None) | col(JobRow.archived_at).is_not(None),
    )
    has_deployment = deployed.exists() | col(RunRow.job_id).in_(deleted)
    without_run = col(RunRow.flow_run_id).is_(None) & has_deployment
    with_run = col(RunRow.flow_run_id).is_not(None) & (
        (col(RunRow.finished_at) <= before) | col(RunRow.due_to).is_not(None)
    )
    marked = (
        select(RunRow)
        .where(col(RunRow.unmirrored).is_(True), or_(without_run, with_run))
        .order_by(col(RunRow.finished_at), col(RunRow.id))
        .limit(limit)
    )
    return list((await session.execute(marked)).scalars())


async def record_flow_run(ledger: Ledger, run_id: str, flow_run_id: str) -> RunRow | None:
    """Record the Prefect run that was made for a marked run without one.

    Returns the row as it is then; returns None, and writes nothing, if the row is not marked any
    more. If a claim has recorded another Prefect run in the meantime, that one stays.
    """
    async with ledger.write() as session:
        row = await session.get(RunRow, run_id)
        if row is None or not row.unmirrored:
            return None
        if row.flow_run_id is None:
            row.flow_run_id = flow_run_id
            row.prefect_runs += 1
            session.add(row)
        return row


async def clear_mark(ledger: Ledger, run_id: str) -> None:
    """Clear the mark of this run; the caller has just set its outcome in Prefect.

    A range keeps its mark, because its Prefect run must still show the other due times.
    """
    statement = update(RunRow).where(col(RunRow.id) == run_id, col(RunRow.due_to).is_(None))
    async with ledger.write() as session:
        await session.execute(statement.values(unmirrored=False))


async def clear_marks(
    ledger: Ledger, run_ids: Collection[str], before: datetime | None = None
) -> None:
    """Clear the mark of these runs.

    ``before`` is the instant that was passed to `unmirrored_rows`. A run that got a late outcome
    since then keeps its mark, because Prefect shows the earlier outcome.
    """
    if not run_ids:
        return
    statement = update(RunRow).where(col(RunRow.id).in_(run_ids), col(RunRow.unmirrored).is_(True))
    if before is not None:
        statement = statement.where(col(RunRow.finished_at) <= before)
    async with ledger.write() as session:
        await session.execute(statement.values(unmirrored=False))
