"""Which ended runs Prefect has still to be told of (`docs/promise.md` 13).

Every outcome of a run that a Prefect run carries marks its row `unmirrored`, in the transaction
that writes it. The mark goes when Prefect was seen to agree or was told, and is never set again but
by another outcome: so a state that somebody changed by hand afterwards is left alone.

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


async def unmirrored(session: AsyncSession, before: datetime, limit: int = 100) -> list[RunRow]:
    """Marked runs that ended at ``before`` (UTC) or earlier, oldest first.

    Runs that no process ended are among them at once: those without a Prefect run, and ranges of
    due times. Those whose job has no deployment yet are left out. Those whose deployment was
    deleted in Prefect are included, so that the caller clears their mark: Prefect can never show
    them.
    """
    deleted = await links.absent(session)
    deployed = select(JobRow.id).where(
        col(JobRow.id) == col(RunRow.job_id),
        col(JobRow.deployment_id).is_not(None) | col(JobRow.archived_at).is_not(None),
    )
    known = deployed.exists() | col(RunRow.job_id).in_(deleted)
    alone = col(RunRow.flow_run_id).is_(None) & known
    carried = col(RunRow.flow_run_id).is_not(None) & (
        (col(RunRow.finished_at) <= before) | col(RunRow.due_to).is_not(None)
    )
    marked = (
        select(RunRow)
        .where(col(RunRow.unmirrored).is_(True), or_(alone, carried))
        .order_by(col(RunRow.finished_at), col(RunRow.id))
        .limit(limit)
    )
    return list((await session.execute(marked)).scalars())


async def carried_by(ledger: Ledger, run_id: str, flow_run_id: str) -> RunRow | None:
    """Write down the Prefect run that was made for a marked run which had none.

    Returns the row as it is then; None, and nothing written, when it is not marked any more. A
    claim may have written down another Prefect run meanwhile: that one stays.
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


async def told(ledger: Ledger, run_id: str) -> None:
    """Take the mark from this run, whose Prefect run the caller has just brought to its outcome.

    A range keeps it: its Prefect run has still to show the other due times.
    """
    one = update(RunRow).where(col(RunRow.id) == run_id, col(RunRow.due_to).is_(None))
    async with ledger.write() as session:
        await session.execute(one.values(unmirrored=False))


async def mirrored(
    ledger: Ledger, run_ids: Collection[str], before: datetime | None = None
) -> None:
    """Take the mark from these runs.

    ``before`` is the instant that `unmirrored` was asked with: a run that got a late outcome since
    then keeps its mark, because what Prefect was told is the outcome before.
    """
    if not run_ids:
        return
    told = update(RunRow).where(col(RunRow.id).in_(run_ids), col(RunRow.unmirrored).is_(True))
    if before is not None:
        told = told.where(col(RunRow.finished_at) <= before)
    async with ledger.write() as session:
        await session.execute(told.values(unmirrored=False))
