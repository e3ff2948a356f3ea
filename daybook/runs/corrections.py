"""Due times that Prefect will not queue: rows that wait ahead of their time (`docs/promise.md` 14).

::

    row ──due──► claimed by the Prefect run that `ensure` made for it: judged as any due time is
      │  └─ nobody came ──► the audit judges it, as if it had no row
      └─ not due any more by the revision in force ──► skipped

Until then such a row says only that somebody has to see to that instant: it `waits_for` `DUE`, and
nothing of it is decided. What it was made with stands for what was known then: it acts, and is
judged, with the revision in force at its due time. A due time whose Prefect run crashed ahead of it
waits in the same way (`daybook.runs.prefect_ends`).
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlmodel import col, select

from daybook.jobs import store
from daybook.ledger import states
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.runs import claim_requests

DUE = "due"
"""What `waits_for` says of a row that waits for its due time and has not been judged."""

NOT_ANY_MORE = "not due any more"
"""Why a row is skipped whose job is not due then by what is in force."""


async def ask(
    ledger: Ledger, job_id: str, revision: int, instants: Collection[datetime], why: str
) -> int:
    """Let these due times of the job wait for their time, but for those that have a row.

    Nothing happens when ``revision`` is not the job's newest any more. Returns how many are new.
    """
    if not instants:
        return 0
    async with ledger.write() as session:
        stored, now = await store.get(session, job_id), ledger.now()
        if stored is None or stored.revision.number != revision or not stored.job.enabled:
            return 0
        between = (col(RunRow.due) >= min(instants), col(RunRow.due) <= max(instants))
        timed = select(RunRow.due).where(
            col(RunRow.job_id) == job_id, *between, col(RunRow.occurrence).startswith("due:")
        )
        known = set((await session.execute(timed)).scalars())
        parameters = stored.job.parameters()
        fresh = [each for each in instants if each not in known and each > now]
        for due in fresh:
            row = RunRow(
                occurrence=claim_requests.due_key(job_id, due),
                job_id=job_id,
                revision=revision,
                kind=stored.row.kind,
                trigger="schedule",
                due=due,
                status=Status.WAITING,
                reason=why,
                until=due,
                waits_for=DUE,
                parameters=parameters,
                agent=claim_requests.agent_of(parameters),
                queued_at=due,  # it waits for nothing else before
            )
            states.check(row.id, None, row.state)
            session.add(row)
        return len(fresh)
