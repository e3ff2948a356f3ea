"""Skipping of waiting runs whose job is disabled or snoozed.

These runs are due times, backfills, and runs that another job or a hook started. A claim would skip
such a run (`claim_rules.switched_off`), but each claim needs the start of a Prefect run, and only a
few Prefect runs start at once. So the keeper skips the runs here, many in one transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import or_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.errors import LedgerUnreachable
from daybook.jobs import store
from daybook.jobs.store import StoredJob
from daybook.ledger import triggers, waits
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import NEWEST_REVISION, JobRow, RevisionRow, RunRow
from daybook.runs import claim_requests, eligibility, outcomes

log = logging.getLogger(__name__)


BATCH_SIZE = 200
"""Maximum number of runs skipped in one transaction, so that claims wait less than a second."""


async def skip_all(ledger: Ledger, max_batches: int = 50) -> int:
    """Skip the waiting runs of jobs that are disabled or snoozed; return their number.

    A run that a person started by hand keeps waiting. Skip at most ``max_batches`` times
    `BATCH_SIZE` runs. Raise `LedgerUnreachable`; earlier batches stay recorded.
    """
    total = 0
    for _ in range(max_batches):
        skipped = await skip_batch(ledger)
        total += len(skipped)
        if len(skipped) < BATCH_SIZE:
            break
    return total


async def skip_batch(ledger: Ledger, limit: int | None = None) -> list[RunRow]:
    """Skip at most ``limit`` of the runs that `skip_all` skips; return the skipped runs.

    The default of ``limit`` is `BATCH_SIZE`. Do not skip a run that waits for a time, such as the
    time of its next attempt, before that time. If there is nothing to do, only read. Log the error
    of one run and continue, but raise `LedgerUnreachable`.
    """
    async with ledger.read() as session:
        run_ids = await _waiting_ids(session, ledger.now(), limit or BATCH_SIZE)
    if not run_ids:
        return []
    try:
        return await _skip(ledger, run_ids)
    except LedgerUnreachable:
        raise
    except Exception:  # one run's error must not block the other runs
        skipped = []
        for run_id in run_ids:
            try:
                skipped += await _skip(ledger, [run_id])
            except LedgerUnreachable:
                raise
            except Exception:
                log.exception("cannot skip run %s", run_id, extra={"action": "skip"})
        return skipped


async def _waiting_ids(session: AsyncSession, now: datetime, limit: int) -> Sequence[str]:
    waiting = (
        select(RunRow.id)
        .join(JobRow, col(JobRow.id) == col(RunRow.job_id))
        .join(RevisionRow, NEWEST_REVISION)
        .where(
            col(RunRow.status) == Status.WAITING,
            or_(
                claim_requests.HAS_DUE_KEY,
                col(RunRow.trigger).in_(
                    triggers.names(lambda each: each.by_event or each.is_backfill)
                ),
            ),
            # A run that is not due yet may be due after its job is enabled again.
            col(RunRow.waits_for).not_in(waits.names(lambda each: each.is_reservation)),
            or_(
                col(RunRow.until).is_(None),
                col(RunRow.until) <= now,
                col(RunRow.waits_for).in_(waits.names(lambda each: each.claims_early)),
            ),
            or_(
                col(RevisionRow.enabled).is_(False),
                (col(JobRow.snoozed_until) > col(RunRow.due))
                & (col(RunRow.attempts) == 0)
                & (col(RunRow.trigger) != triggers.BACKFILL.name),
            ),
        )
        .order_by(col(RunRow.queued_at))
        .limit(limit)
    )
    return (await session.execute(waiting)).scalars().all()


async def _skip(ledger: Ledger, run_ids: Sequence[str]) -> list[RunRow]:
    skipped = []
    async with ledger.write() as session:
        now = ledger.now()
        chosen = select(RunRow).where(col(RunRow.id).in_(run_ids))
        rows = (await session.execute(chosen)).scalars().all()
        jobs = dict[str, StoredJob | None]()
        for row in rows:
            job_id = str(row.job_id)
            if job_id not in jobs:
                jobs[job_id] = await store.get(session, job_id)
            newest = jobs[job_id]
            if newest is None or row.state is not Status.WAITING:
                continue
            if eligibility.needs_enabled_job(row) and (why := eligibility.off_reason(newest, row)):
                await outcomes.record(session, row, Outcome(Status.SKIPPED, why), now)
                skipped.append(row)
    return skipped
