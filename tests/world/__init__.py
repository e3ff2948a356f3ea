"""Test environment: a ledger, and if a test needs them a Prefect, agents and workers.

`World` is the ledger with a clock that the test moves. ``world.tasks`` is the task queue,
``world.prefect`` does what people and workers do in Prefect, ``world.workers`` are real workers. By
default it is only a ledger, in a database for this test; `at_prefect` adds the others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlmodel import col, select

from daybook.clock import SYSTEM_CLOCK
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import edit, new_job
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import AttemptRow, JobRow, RunRow
from daybook.prefect import links as records
from daybook.runs import claim_requests, claims, leases, outcomes
from daybook.runs.claim_requests import ClaimRequest, ClaimResult, Granted
from daybook.schedules.due import next_due
from daybook.testing import ManualClock
from daybook.timing import TIMING, Timing
from tests import databases
from tests.world.tasks import Tasks

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

    from daybook.operations.prefect_selection import SelectedPrefect
    from daybook.prefect.reconcile import ReconcileReport
    from tests.conftest import PrefectServer
    from tests.databases import Database
    from tests.world.agents import Agents
    from tests.world.prefect import Prefect
    from tests.world.workers import Workers

LOST = 2 * TIMING.run_lease
"""A run counts as lost after this long without a renewal."""

AS_PREFECT_SHOWS_IT = {
    "succeeded": ("COMPLETED", "Completed"),
    "skipped": ("CANCELLED", "Skipped"),
    "failed": ("FAILED", "Failed"),
    "timed_out": ("FAILED", "TimedOut"),
    "cancelled": ("CANCELLED", "Cancelled"),
    "unknown": ("CRASHED", "Unknown"),
}

Which = StoredJob | RunRow | str | None
"""A run: its row, its id, its job if that has only one run, or None for the ledger's only run."""


async def so(true: Callable[[], Awaitable[object]], within: float) -> bool:
    """Return whether ``true`` becomes true within that many seconds."""
    import asyncio

    with suppress(TimeoutError):
        async with asyncio.timeout(within):
            while not await true():
                await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + timedelta(seconds=0.05))
            return True
    return False


class World:
    """Ledger with its jobs, runs and Prefect; ``database`` is set if the test created its own."""

    prefect: Prefect
    agents: Agents
    workers: Workers
    home: Home

    def __init__(
        self, ledger: Ledger, clock: ManualClock, database: Database | None = None
    ) -> None:
        self.ledger, self.clock, self._database = ledger, clock, database
        self.tasks = Tasks(self)
        self.timezone = "UTC"
        """The agent of jobs without one."""

    @property
    def database(self) -> Database:
        assert self._database is not None
        return self._database

    @property
    def client(self) -> PrefectClient:
        """Return the Prefect client of the code under test."""
        return self.prefect.client

    def beside(self, ledger: Ledger) -> World:
        """Return a world with another ledger at the same Prefect."""
        other = World(ledger, self.clock)
        other.prefect = replace(self.prefect, world=other)
        return other

    # --- time

    def passes(self, **given: float) -> None:
        """Advance the ledger's clock."""
        self.clock.move(timedelta(**given))

    def at(self, **given: float) -> datetime:
        """Return the ledger's time plus the given duration."""
        return self.ledger.now() + timedelta(**given)

    # --- jobs

    async def add(
        self, name: str = "brief", owner: str = "user", *, slug: str = "", **fields: Any
    ) -> StoredJob:
        """Add a job to the ledger; hourly by default."""
        fields = {
            "prompt": "What is new?",
            **({"cron": "0 * * * *"} if not fields else {}),
            **fields,
        }
        now = self.ledger.now()
        job = new_job(now=now, default_timezone=self.timezone, name=name, **fields)
        slug = slug or (name if owner == "user" else f"{owner} {name}")
        async with self.ledger.write() as session:
            return await store.add(session, job, slug, now, owner)

    async def deploy(self, **fields: Any) -> StoredJob:
        """Add a job to the ledger with its deployment; on demand by default."""
        from daybook.prefect.reconcile import ReconcileReport, reconcile_job

        when = {"cron", "every", "at", "on_demand"} & fields.keys()
        name = f"job-{uuid4().hex[:8]}"
        given = {"name": name, "prompt": "Do it", **({} if when else {"on_demand": True}), **fields}
        stored = await self.add(slug=name, **given)
        await reconcile_job(self.ledger, self.prefect.ui, stored, None, ReconcileReport())
        return await self.job(stored.id)

    async def job(self, ref: str) -> StoredJob:
        """Return the job with that id, archived or not, or the live one with that name."""
        async with self.ledger.read() as session:
            return await store.get(session, ref) or await store.find(session, ref)

    async def job_row(self, job_id: str) -> JobRow:
        async with self.ledger.read() as session:
            row = await session.get(JobRow, job_id)
        assert row is not None
        return row

    async def ids(self) -> dict[str, str]:
        """Return the id of every job by its name, archived ones too."""
        async with self.ledger.read() as session:
            rows = (await session.execute(select(JobRow))).scalars()
            return {row.name: row.id for row in rows}

    async def edit(
        self, ref: str, *, source: str = "ledger", reason: str = "", **changes: Any
    ) -> StoredJob:
        """Change the job; ``reason`` is the reason for switching it off."""
        now = self.ledger.now()
        async with self.ledger.write() as session:
            stored = await store.find(session, ref)
            job = edit(stored.job, changes, now=now)
            return await store.change(
                session, stored, job, now, source=source, disabled_reason=reason
            )

    async def archive(self, which: StoredJob | str) -> StoredJob:
        """Archive the job; its objects in Prefect still have to be deleted."""
        async with self.ledger.write() as session:
            ref = which if isinstance(which, str) else which.id
            found = await store.find(session, ref)
            await outcomes.archive_job(session, found, self.ledger.now())
        return found

    async def forget_deployment(self, name: str) -> None:
        """Simulate a crash before the program recorded what it created in Prefect."""
        async with self.ledger.write() as session:
            stored = await store.find(session, name)
            await records.record_agreement(session, stored.id, None, None, stored.row.created_at)
            stored.row.sync_pending = True

    async def sync(self) -> ReconcileReport:
        """Reconcile all jobs with Prefect, and reset the count of writes there."""
        from daybook.prefect import reconcile

        self.prefect.writes.clear()
        return await reconcile.reconcile_all(self.ledger, self.client)

    # --- claims

    def claim_request(self, stored: StoredJob, **changes: Any) -> ClaimRequest:
        """Return the claim request of the job's next due time, as Prefect's scheduler makes it."""
        due = changes.pop("due", None) or next_due(stored.job.schedule, self.ledger.now())
        assert isinstance(due, datetime)
        claim_request = ClaimRequest(
            occurrence=claim_requests.due_key(stored.id, due),
            kind="agent-prompt",
            trigger="schedule",
            due=due,
            holder="here:1",
            parameters=stored.job.parameters(),
            job_id=stored.id,
            flow_run_id=f"{stored.row.name} {due:%d %H:%M:%S}",
        )
        return replace(claim_request, **changes)

    def claim_request_of(self, row: RunRow, **changes: Any) -> ClaimRequest:
        """Return the claim request of a requested run."""
        claim_request = ClaimRequest(
            occurrence=row.occurrence,
            kind=row.kind,
            trigger=row.trigger,
            due=row.due,
            holder="here:1",
            parameters=row.parameters,
            job_id=row.job_id,
            flow_run_id=row.flow_run_id or str(uuid4()),
        )
        return replace(claim_request, **changes)

    async def request(
        self, stored: StoredJob, until: datetime | None = None, **fields: Any
    ) -> RunRow:
        """Insert a waiting row that was requested a while ago and has no Prefect run."""
        row = await claims.request(self.ledger, stored, uuid4().hex[:8], "manual")
        long_ago = row.queued_at - timedelta(seconds=10)
        return await self.set_row(row, until=until or row.until, queued_at=long_ago, **fields)

    async def claim(self, claim_request: ClaimRequest) -> ClaimResult:
        return await claims.claim(self.ledger, claim_request)

    async def claimed(self, claim_request: ClaimRequest) -> Granted:
        """Claim at the due time and expect the claim to succeed."""
        self.clock.move(max(claim_request.due - self.clock.now(), timedelta(0)))
        answer = await self.claim(claim_request)
        assert isinstance(answer, Granted), answer
        return answer

    async def running(self, claim_request: ClaimRequest) -> Granted:
        granted = await self.claimed(claim_request)
        await claims.begin(self.ledger, granted.run_id, granted.fence)
        return granted

    async def finished(self, claim_request: ClaimRequest, status: Status, **fields: Any) -> Granted:
        granted = await self.running(claim_request)
        await self.finish(granted, status, **fields)
        return granted

    async def finish(self, granted: Granted, status: Status, **fields: Any) -> Status:
        outcome = Outcome(status, **fields)
        return await claims.finish(self.ledger, granted.run_id, granted.fence, outcome)

    async def suspect(self) -> None:
        """Let every lease expire, and let a check detect that."""
        self.clock.move(TIMING.run_lease)
        async with self.ledger.write() as session:
            for row in (await session.execute(select(RunRow))).scalars():
                assert not await leases.check_lease(session, row, self.clock.now())

    async def lose(self) -> None:
        """Let every lease expire and be detected, and pass the time after which a run is lost."""
        await self.suspect()
        self.clock.move(TIMING.run_lease)

    # --- runs

    async def row(self, which: Which = None) -> RunRow:
        """Return the run's row in the ledger; raise AssertionError if there is none."""
        found = await self._row(which)
        assert found is not None, self._logs()
        return found

    async def _row(self, which: Which) -> RunRow | None:
        query = select(RunRow)
        if isinstance(which, StoredJob):
            query = query.where(col(RunRow.job_id) == which.id)
        elif which is not None:
            query = query.where(col(RunRow.id) == (which if isinstance(which, str) else which.id))
        async with self.ledger.read() as session:
            found: RunRow | None = (await session.execute(query)).scalar_one_or_none()
        return found

    async def rows(self, stored: StoredJob | None = None) -> list[RunRow]:
        """Return all runs, or those of one job, the earliest due first."""
        in_order = select(RunRow).order_by(col(RunRow.due), col(RunRow.queued_at))
        if stored is not None:
            in_order = in_order.where(RunRow.job_id == stored.id)
        async with self.ledger.read() as session:
            return list((await session.execute(in_order)).scalars())

    async def set_row(self, row: RunRow, **fields: Any) -> RunRow:
        """Write values into the row that the product's code would not write."""
        async with self.ledger.write() as session:
            found = await session.get(RunRow, row.id)
            assert found is not None
            found.sqlmodel_update(fields)
            session.add(found)
        return found

    async def attempts(self, which: Which = None) -> list[AttemptRow]:
        """Return the attempts of the run, in order."""
        run = which if isinstance(which, str) else (await self.row(which)).id
        of_run = select(AttemptRow).where(col(AttemptRow.run_id) == run)
        async with self.ledger.read() as session:
            found = await session.execute(of_run.order_by(col(AttemptRow.number)))
            return list(found.scalars())

    # --- runs in both the ledger and Prefect

    async def wait_for_status(self, which: Which, status: str, within: float = 30.0) -> RunRow:
        """Wait until the run has this status in the ledger."""

        async def it_is() -> bool:
            row = await self._row(which)
            return row is not None and row.status == status

        if not await so(it_is, within):
            raise AssertionError(f"{await self.rows()}, not {status}\n{self._logs()}")
        return await self.row(which)

    async def wait_for_end(self, which: Which, status: str, within: float) -> RunRow:
        """Wait until the run has ended with this status on both sides; return the row."""
        since = SYSTEM_CLOCK.now()
        row = await self.wait_for_status(which, status, within)
        left = within - (SYSTEM_CLOCK.now() - since).total_seconds()
        await self.shows(row.flow_run_id, *AS_PREFECT_SHOWS_IT[status], within=max(left, 5.0))
        assert row.finished_at is not None
        return row

    async def has_ended(self, which: Which, status: str) -> RunRow:
        """Return the row of a run that has already ended with this status on both sides."""
        row = await self.row(which)
        assert row.status == status, self._logs()
        shown = await self.prefect.shown(row.flow_run_id)
        assert shown == AS_PREFECT_SHOWS_IT[status], self._logs()
        assert row.finished_at is not None
        return row

    async def shows(self, run: Any, *expected: str, within: float) -> None:
        """Wait until Prefect shows a state of that type and, if given, that name."""

        async def it_does() -> bool:
            return (await self.prefect.shown(run))[: len(expected)] == expected

        if not await so(it_does, within):
            shown = await self.prefect.shown(run)
            raise AssertionError(f"{shown}, not {expected}\n{self._logs()}")

    def _logs(self) -> str:
        return self.workers.logs() if hasattr(self, "workers") else ""


@asynccontextmanager
async def in_database(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[World]:
    """Yield an empty ledger in the kind of database that the fixture's parameter names."""
    if request.param == "sqlite":
        async with databases.shared_ledger(clock) as shared:
            yield World(shared, clock, shared.database)
    else:
        there = databases.server_of(request)().prepared()
        async with Ledger(there.address, clock) as ledger:
            yield World(ledger, clock, there)


@asynccontextmanager
async def at_prefect(
    root: Path,
    server: PrefectServer | SelectedPrefect,
    database: Database | None = None,
    timing: Timing = TIMING,
    clock: ManualClock | None = None,
) -> AsyncIterator[World]:
    """Yield a home below ``root``, at the Prefect that this process uses.

    Its clock follows the machine's, and the test can put it forward. The ledger is the home's
    unless there is a ``database``. ``timing`` applies to its workers and their child processes.
    """
    from daybook.operations.prefect_selection import SelectedPrefect
    from tests.world import agents, prefect, workers

    home = Home(root / "home").make()
    address = database.address if database else f"sqlite+aiosqlite:///{home.path}/ledger.db"
    clock = clock or prefect.Ahead()
    variables = timing.environment()
    if database:
        variables["DAYBOOK_LEDGER_URL"] = address
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(Ledger(address, clock))
        world = World(ledger, clock, database)
        world.home = home
        world.prefect = await stack.enter_async_context(prefect.connected(world))
        world.agents = await stack.enter_async_context(agents.of(world, root))
        selected = SelectedPrefect(server.api_url, server.ui_url)
        world.workers = await stack.enter_async_context(
            workers.of(world, root, selected, variables)
        )
        yield world


@asynccontextmanager
async def with_worker(
    root: Path,
    server: PrefectServer | SelectedPrefect,
    timing: Timing = TIMING,
    most: int | None = None,
    before: Callable[[World], Awaitable[None]] | None = None,
) -> AsyncIterator[World]:
    """Yield a home at Prefect with one worker, for all tests of a module; `DAYBOOK_HOME` names it.

    ``before`` is called before the worker starts.

    The worker reaches Prefect through the first of ``world.workers.gates``. A test must not end the
    worker, and has to end the runs that it starts.
    """
    async with at_prefect(root, server, timing=timing) as world:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DAYBOOK_HOME", str(world.home.path))
            if before is not None:
                await before(world)
            gate = await world.workers.gate()
            await world.workers.begin(most=most, api_url=gate.api_url)
            yield world
