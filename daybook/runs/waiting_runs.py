"""Queries for waiting runs, and their deadlines.

A waiting row is the only record of work that must happen later (`docs/promise.md`, "The states").

The deadline of a run counts from `queued_at`, so the deadline includes the wait. `queued_at` is the
time at which the ledger first recorded the run, but not before its due time plus stagger, and not
before the end of a maintenance window for which the run waited. Once a backfill is claimed,
`queued_at` is the time of that claim.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.ledger import triggers, waits
from daybook.ledger.engine import Ledger
from daybook.ledger.states import LIVE, Status
from daybook.ledger.tables import RunRow
from daybook.policies import policy
from daybook.runs import rows, slots, workers
from daybook.runs.claim_requests import Waiting
from daybook.schedules import durations


def deadline_reason(row: RunRow, now: datetime) -> str:
    """Return why a run must not wait any longer; empty if it may, or has no deadline."""
    deadline = row.policy.deadline
    if row.started_by.is_backfill and not row.attempts:
        return ""  # a backfill's deadline counts from its claim
    if deadline is None or row.queued_at + deadline > now:
        return ""
    return f"the deadline of {durations.to_text(deadline)} passed while it waited"


async def ids_past_deadline(session: AsyncSession, now: datetime, limit: int) -> list[str]:
    """Return the ids of waiting runs whose deadlines have passed, first queued first."""
    deadline = col(RunRow.parameters)[("policy", "deadline")].as_string()
    waiting = (
        select(RunRow.id, RunRow.queued_at, deadline)
        .where(
            col(RunRow.status) == Status.WAITING,
            deadline != "",
            # An edit may still change the deadline of a run that waits for its due time.
            col(RunRow.waits_for).not_in(waits.names(lambda each: each.is_reservation)),
            (col(RunRow.trigger) != triggers.BACKFILL.name) | (col(RunRow.attempts) > 0),
        )
        .order_by(col(RunRow.queued_at))
    )
    rows = (await session.execute(waiting)).all()
    deadlines = {
        text: policy.policy_from_parameters({"policy": {"deadline": text}}).deadline
        for *_, text in rows
    }
    passed = [
        run for run, since, text in rows if (allowed := deadlines[text]) and since + allowed <= now
    ]
    return passed[:limit]


async def still_waits(ledger: Ledger, answer: Waiting) -> bool:
    """Return whether the row of ``answer`` still waits until the time of ``answer``.

    If it was claimed, woken or ended, the caller must not write ``answer`` to Prefect.
    """
    async with ledger.read() as session:
        row = await session.get(RunRow, answer.run_id)
    return row is not None and (row.state, row.until) == (Status.WAITING, answer.until)


async def wait_for_slot(
    ledger: Ledger, flow_run_id: UUID, *, elsewhere: bool = False
) -> Waiting | None:
    """Return the wait of the row of this flow run for a free slot; None if it has none now.

    If the run can only start ``elsewhere``, on another worker, a wait for room in a worker counts
    too, and the wait ends `workers.HANDOVER_INTERVAL` after the row's time.
    """
    async with ledger.read() as session:
        row = await rows.find(session, str(flow_run_id), None)
    if row is None or row.state is not Status.WAITING:
        return None
    if not (row.wait_reason.for_slot if elsewhere else row.wait_reason is waits.SLOT):
        return None
    grace = workers.HANDOVER_INTERVAL if elsewhere else timedelta(0)
    until = (row.until or row.queued_at) + grace
    if until <= ledger.now():
        return None
    return Waiting(until, row.reason, row.id, fence=row.fence, for_slot=True)


async def until_of_waits_for_slots(session: AsyncSession) -> dict[str, datetime]:
    """Return until when each run waits that may get the next free slot, by the flow run's id."""
    query = select(RunRow.flow_run_id, RunRow.until).where(
        col(RunRow.status) == Status.WAITING, slots.WAITS_FOR_SLOT
    )
    return {str(flow_run_id): until for flow_run_id, until in await session.execute(query) if until}


async def needing_prefect_run(session: AsyncSession, per_job: int = 10) -> list[RunRow]:
    """Return the waiting runs that should have a Prefect run: the next ``per_job`` of each job.

    Include all runs without a job.
    """
    group = func.coalesce(col(RunRow.job_id), col(RunRow.id))
    place = func.row_number().over(partition_by=group, order_by=slots.ORDER)
    numbered = (
        select(col(RunRow.id).label("id"), place.label("place"))
        .where(col(RunRow.status) == Status.WAITING)
        .subquery()
    )
    next_ones = (
        select(RunRow)
        .join(numbered, numbered.c.id == col(RunRow.id))
        .where(numbered.c.place <= per_job)
        .order_by(*slots.ORDER)
    )
    return list((await session.execute(next_ones)).scalars())


async def live_in_prefect(session: AsyncSession) -> list[RunRow]:
    """Return the live runs that a Prefect run carries, earliest due time first."""
    carried = (
        select(RunRow)
        .where(col(RunRow.status).in_(LIVE), col(RunRow.flow_run_id).is_not(None))
        .order_by(col(RunRow.due), col(RunRow.id))
    )
    return list((await session.execute(carried)).scalars())
