"""Corrected due times: waiting rows, created early, for due times that Prefect will not queue.

::

    row ──due──► the Prefect run that the keeper made for it claims it, like any due time
      │  └─ not claimed ──► the audit decides about it, as if it had no row
      └─ no longer due by the revision in force ──► skipped

Until its due time such a row only reserves the instant (promise 14: Daybook corrects the due times
that Prefect computes wrongly). The row waits for `UNTIL_DUE`, and nothing is decided about it. It
has the job's newest revision at the time of its creation, but the revision in force at the due time
decides whether and how the due time runs. A due time whose Prefect run crashed before the due time
waits in the same way (`daybook.runs.prefect_ends`).
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlmodel import col, select

from daybook.jobs import store
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import RunRow
from daybook.runs import claim_requests, rows

UNTIL_DUE = "due"
"""The `waits_for` of a row that waits for its due time and about which nothing is decided yet."""

NO_LONGER_DUE_REASON = "no longer due"
"""Reason to skip a row whose due time is not due by the revision in force."""


async def add_waiting_runs(
    ledger: Ledger, job_id: str, revision: int, instants: Collection[datetime], why: str
) -> int:
    """Add a waiting row for each future due time of ``instants`` without a row; return the number.

    Add nothing if the job is disabled or does not exist, or if ``revision`` is no longer its
    newest.
    """
    if not instants:
        return 0
    async with ledger.write() as session:
        stored, now = await store.get(session, job_id), ledger.now()
        if stored is None or stored.revision.number != revision or not stored.job.enabled:
            return 0
        stored.require_readable()
        between = (col(RunRow.due) >= min(instants), col(RunRow.due) <= max(instants))
        existing = select(RunRow.due).where(
            col(RunRow.job_id) == job_id, *between, claim_requests.HAS_DUE_KEY
        )
        existing_due_times = set((await session.execute(existing)).scalars())
        missing = [each for each in instants if each not in existing_due_times and each > now]
        for due in missing:
            key = claim_requests.due_key(job_id, due)
            row = rows.of_job(stored, key, "schedule", due, queued_at=due)  # starts the deadline
            session.add(rows.wait(row, due, why, UNTIL_DUE))
        return len(missing)
