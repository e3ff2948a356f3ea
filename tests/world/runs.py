"""Runs of a ledger: their claims, their ends and their rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlmodel import col, select

from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import AttemptRow, RunRow, StepRow
from daybook.runs import claims, leases, steps
from daybook.runs.claim_requests import ClaimRequest, ClaimResult, Granted
from daybook.schedules.due import next_due
from daybook.testing import ManualClock
from daybook.timing import TIMING
from tests.world import claim_requests

Which = StoredJob | RunRow | str | None
"""A run: its row, its id, its job if that has only one run, or None for the ledger's only run."""
Claimable = ClaimRequest | StoredJob | RunRow
"""What can be claimed: a claim request, a job's next due time, or a requested run."""


def step_of(run_id: str, started_at: datetime, number: int = 1, **fields: Any) -> StepRow:
    """Return the row of a running step: a request, unless ``fields`` say otherwise."""
    values: dict[str, Any] = {
        "position": str(number),
        "attempt": 1,
        "kind": "request",
        "name": "gpt-6-luna",
        "digest": "0" * 64,
        "repeatable": True,
    }
    return StepRow(run_id=run_id, number=number, started_at=started_at, **values | fields)


class Runs:
    def __init__(self, ledger: Ledger, clock: ManualClock) -> None:
        self._ledger, self._clock = ledger, clock

    # --- claims

    def claim_request(self, which: StoredJob | RunRow, **changes: Any) -> ClaimRequest:
        """Return the claim request of a requested run, or of the job's next due time or ``due``."""
        if isinstance(which, RunRow):
            return replace(claim_requests.of_row(which), **changes)
        due = changes.pop("due", None) or next_due(which.job.schedule, self._ledger.now())
        assert isinstance(due, datetime)
        return replace(claim_requests.of_job(which, due), **changes)

    def _claim_request(self, which: Claimable) -> ClaimRequest:
        return which if isinstance(which, ClaimRequest) else self.claim_request(which)

    async def request(
        self, stored: StoredJob, until: datetime | None = None, **fields: Any
    ) -> RunRow:
        """Insert a waiting row that was requested a while ago and has no Prefect run."""
        row = await claims.request(self._ledger, stored, uuid4().hex[:8], "manual")
        long_ago = row.queued_at - timedelta(seconds=10)
        return await self.set_row(row, until=until or row.until, queued_at=long_ago, **fields)

    async def claim(self, which: Claimable) -> ClaimResult:
        return await claims.claim(self._ledger, self._claim_request(which))

    async def claimed(self, which: Claimable) -> Granted:
        """Claim at the due time and expect the claim to succeed."""
        claim_request = self._claim_request(which)
        self._clock.move(max(claim_request.due - self._clock.now(), timedelta(0)))
        answer = await self.claim(claim_request)
        assert isinstance(answer, Granted), answer
        return answer

    async def running(self, which: Claimable) -> Granted:
        granted = await self.claimed(which)
        await claims.begin(self._ledger, granted.run_id, granted.fence)
        return granted

    async def finished(self, which: Claimable, status: Status, **fields: Any) -> Granted:
        granted = await self.running(which)
        await self.finish(granted, status, **fields)
        return granted

    async def finish(self, granted: Granted, status: Status, **fields: Any) -> Status:
        outcome = Outcome(status, **fields)
        return await claims.finish(self._ledger, granted.run_id, granted.fence, outcome)

    async def stepped(self, granted: Granted, status: Status, **fields: Any) -> None:
        """Record a whole step of a running run; `output`, `error` and `usage` are of its end."""
        ended = {each: fields.pop(each) for each in ("output", "error", "usage") if each in fields}
        row = step_of(granted.run_id, granted.due, **fields)
        await steps.start(self._ledger, granted.fence, row)
        await steps.finish(self._ledger, granted.fence, granted.run_id, row.number, status, **ended)

    async def suspect(self) -> None:
        """Let every lease expire, and let a check detect that."""
        self._clock.move(TIMING.run_lease)
        async with self._ledger.write() as session:
            for row in (await session.execute(select(RunRow))).scalars():
                assert not await leases.check_lease(session, row, self._clock.now())

    async def lose(self) -> None:
        """Let every lease expire and be detected, and pass the time after which a run is lost."""
        await self.suspect()
        self._clock.move(TIMING.run_lease)

    # --- rows

    async def find(self, which: Which = None) -> RunRow | None:
        query = select(RunRow)
        if isinstance(which, StoredJob):
            query = query.where(col(RunRow.job_id) == which.id)
        elif which is not None:
            query = query.where(col(RunRow.id) == (which if isinstance(which, str) else which.id))
        async with self._ledger.read() as session:
            found: RunRow | None = (await session.execute(query)).scalar_one_or_none()
        return found

    async def row(self, which: Which = None) -> RunRow:
        found = await self.find(which)
        assert found is not None
        return found

    async def rows(self, stored: StoredJob | None = None) -> list[RunRow]:
        """Return all runs, or those of one job, the earliest due first."""
        in_order = select(RunRow).order_by(col(RunRow.due), col(RunRow.queued_at))
        if stored is not None:
            in_order = in_order.where(RunRow.job_id == stored.id)
        async with self._ledger.read() as session:
            return list((await session.execute(in_order)).scalars())

    async def set_row(self, row: RunRow, **fields: Any) -> RunRow:
        """Write values into the row that the product's code would not write."""
        async with self._ledger.write() as session:
            found = await session.get(RunRow, row.id)
            assert found is not None
            found.sqlmodel_update(fields)
            session.add(found)
        return found

    async def attempts(self, which: Which = None) -> list[AttemptRow]:
        """Return the attempts of the run, in order."""
        run = which if isinstance(which, str) else (await self.row(which)).id
        of_run = select(AttemptRow).where(col(AttemptRow.run_id) == run)
        async with self._ledger.read() as session:
            found = await session.execute(of_run.order_by(col(AttemptRow.number)))
            return list(found.scalars())
