"""The marks of ended runs whose outcome Prefect does not show yet (promise 13: once per outcome).

The transaction that records an outcome also marks the row as `unmirrored` if the run has a Prefect
run. The mirror clears the mark when Prefect shows the outcome, and only another outcome sets the
mark again. So Daybook does not change a state that a user sets by hand afterwards. The audit marks
its rows too; they have no Prefect run, so the mirror creates a Prefect run for each of these rows.
Whenever the row of a range gets further due times, it is marked again.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import or_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import JobRow, RunRow
from daybook.prefect import links


async def unmirrored_rows(
    session: AsyncSession, before: datetime, limit: int = 100
) -> list[RunRow]:
    """Return at most ``limit`` marked runs that ended by ``before`` (UTC), oldest first.

    ``before`` applies neither to runs without a Prefect run nor to ranges of due times, because no
    process executed them. Leave out a run without a Prefect run if its job has no deployment yet.
    If the deployment was deleted in Prefect, include the run, so that the caller clears the mark:
    Prefect can never show this run.
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
    """Record the Prefect run that was created for a marked run without a Prefect run.

    Return the row after that. If the row is not marked any more, return None and write nothing. If
    a claim has meanwhile recorded another Prefect run, that Prefect run stays.
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


async def clear_mark(ledger: Ledger, run_id: str, status: Status) -> None:
    """Clear the mark of this run, whose outcome ``status`` the caller has just set in Prefect.

    A range keeps its mark, because its Prefect run must still show the other due times; so does a
    run that got another outcome meanwhile.
    """
    statement = update(RunRow).where(
        col(RunRow.id) == run_id, col(RunRow.status) == status, col(RunRow.due_to).is_(None)
    )
    async with ledger.write() as session:
        await session.execute(statement.values(unmirrored=False))


async def clear_marks(
    ledger: Ledger, run_ids: Collection[str], before: datetime | None = None
) -> None:
    """Clear the marks of these runs, unless their outcome was recorded after ``before``.

    ``before`` (UTC) is the latest end among these runs when the caller read them; None clears all
    marks. A run that got a later outcome keeps its mark, because Prefect still shows the earlier
    outcome.
    """
    if not run_ids:
        return
    statement = update(RunRow).where(col(RunRow.id).in_(run_ids), col(RunRow.unmirrored).is_(True))
    if before is not None:
        statement = statement.where(col(RunRow.finished_at) <= before)
    async with ledger.write() as session:
        await session.execute(statement.values(unmirrored=False))
