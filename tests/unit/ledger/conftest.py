"""A ledger of its own for each test, at a time that the test moves, and short ways to its rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select

from daybook.ledger import claims, jobs, leases, offers
from daybook.ledger.engine import Ledger
from daybook.ledger.jobs import StoredJob
from daybook.ledger.offers import Answer, Granted, Offer
from daybook.ledger.outcomes import Outcome
from daybook.ledger.states import Status
from daybook.ledger.tables import AttemptRow, JobRow, RunRow
from daybook.spec.due import next_due
from daybook.spec.job import edit, new_job
from daybook.testing import MovedClock
from daybook.timing import TIMING
from tests import databases

LOST = 2 * TIMING.run_lease


class Book:
    """The ledger under test. Jobs are hourly unless a test says otherwise."""

    def __init__(self, ledger: Ledger, clock: MovedClock, kind: str = "sqlite") -> None:
        self.ledger, self.clock, self.kind = ledger, clock, kind

    async def add(self, name: str = "brief", owner: str = "user", **fields: Any) -> StoredJob:
        fields = {
            "prompt": "What is new?",
            **({"cron": "0 * * * *"} if not fields else {}),
            **fields,
        }
        job = new_job(now=self.clock.now(), name=name, **fields)
        async with self.ledger.write() as session:
            slug = name if owner == "user" else f"{owner} {name}"
            return await jobs.add(session, job, slug, self.clock.now(), owner)

    async def edit(self, job_id: str, source: str = "ledger", **changes: Any) -> StoredJob:
        async with self.ledger.write() as session:
            stored = await jobs.get(session, job_id)
            assert stored is not None
            job = edit(stored.job, changes, now=self.clock.now())
            return await jobs.change(session, stored, job, self.clock.now(), source=source)

    async def archive(self, job_id: str) -> None:
        async with self.ledger.write() as session:
            stored = await jobs.get(session, job_id)
            assert stored is not None
            await jobs.archive(session, stored, self.clock.now())

    async def suspect(self) -> None:
        """Let every lease run out, and somebody find that."""
        self.clock.move(TIMING.run_lease)
        async with self.ledger.write() as session:
            for row in (await session.execute(select(RunRow))).scalars():
                assert not await leases.look(session, row, self.clock.now())

    async def lose(self) -> None:
        """Let every lease run out, be found so, and stay so until it counts as lost."""
        await self.suspect()
        self.clock.move(TIMING.run_lease)

    def due(self, stored: StoredJob, **changes: Any) -> Offer:
        """The offer of the job's next due time, as Prefect's scheduler makes it."""
        due = changes.pop("due", None) or next_due(stored.job.schedule, self.clock.now())
        assert isinstance(due, datetime)
        offer = Offer(
            occurrence=offers.due_key(stored.id, due),
            kind="agent-prompt",
            trigger="schedule",
            due=due,
            holder="here:1",
            parameters=stored.job.parameters(),
            job_id=stored.id,
            flow_run_id=f"{stored.row.name} {due:%d %H:%M:%S}",
        )
        return replace(offer, **changes)

    def asked(self, row: RunRow, **changes: Any) -> Offer:
        """The offer of a run that was asked for."""
        offer = Offer(
            occurrence=row.occurrence,
            kind=row.kind,
            trigger=row.trigger,
            due=row.due,
            holder="here:1",
            parameters=row.parameters,
            job_id=row.job_id,
            flow_run_id=f"flow of {row.occurrence}",
        )
        return replace(offer, **changes)

    async def claim(self, offer: Offer) -> Answer:
        return await claims.claim(self.ledger, offer)

    async def granted(self, offer: Offer) -> Granted:
        """Claim at the due time, and expect to get it."""
        self.clock.set(max(self.clock.now(), offer.due))
        answer = await self.claim(offer)
        assert isinstance(answer, Granted), answer
        return answer

    async def begun(self, offer: Offer) -> Granted:
        granted = await self.granted(offer)
        await claims.begin(self.ledger, granted.run_id, granted.fence)
        return granted

    async def settled(self, offer: Offer, status: Status, **fields: Any) -> Granted:
        granted = await self.begun(offer)
        await self.settle(granted, status, **fields)
        return granted

    async def settle(self, granted: Granted, status: Status, **fields: Any) -> Status:
        outcome = Outcome(status, **fields)
        return await claims.settle(self.ledger, granted.run_id, granted.fence, outcome)

    async def row(self, run_id: str) -> RunRow:
        async with self.ledger.read() as session:
            row = await session.get(RunRow, run_id)
        assert row is not None
        return row

    async def rows(self) -> list[RunRow]:
        async with self.ledger.read() as session:
            return list((await session.execute(select(RunRow).order_by(col(RunRow.due)))).scalars())

    async def attempts(self, run_id: str) -> list[AttemptRow]:
        of_run = select(AttemptRow).where(col(AttemptRow.run_id) == run_id)
        async with self.ledger.read() as session:
            return list((await session.execute(of_run)).scalars())

    async def job(self, job_id: str) -> JobRow:
        async with self.ledger.read() as session:
            row = await session.get(JobRow, job_id)
        assert row is not None
        return row

    async def stored(self, job_id: str) -> StoredJob:
        async with self.ledger.read() as session:
            found = await jobs.get(session, job_id)
        assert found is not None
        return found


@pytest.fixture
def clock() -> MovedClock:
    """12:00:00.25 UTC, a quarter of a second after a full hour."""
    return MovedClock(MovedClock().now() + timedelta(milliseconds=250))


@pytest.fixture(params=databases.KINDS)
async def book(
    request: pytest.FixtureRequest, tmp_path: Path, clock: MovedClock
) -> AsyncIterator[Book]:
    """A ledger in each kind of database."""
    path = tmp_path / "ledger.db"
    there = databases.of_kind(request.param, path, databases.server_of(request), prepared=True)
    async with Ledger(there.address, clock) as ledger:
        yield Book(ledger, clock, there.kind)
