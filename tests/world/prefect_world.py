"""A `World` whose ledger belongs to a home at a Prefect server, with agents and workers."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State

from daybook.clock import SYSTEM_CLOCK
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import RunRow
from daybook.prefect import reconcile, run_names
from daybook.prefect import states as prefect_states
from daybook.prefect.reconcile import ReconcileReport
from daybook.runs import claims
from daybook.testing import ManualClock
from tests.waiting import becomes_true
from tests.world import World
from tests.world.agents import Agents
from tests.world.deployments import Deployments
from tests.world.executions import Executions
from tests.world.foreign_flows import ForeignFlows
from tests.world.prefect import Prefect
from tests.world.runs import Which
from tests.world.workers import Workers

if TYPE_CHECKING:
    from tests.databases import Database

AS_PREFECT_SHOWS_IT = {
    "succeeded": ("COMPLETED", "Completed"),
    "skipped": ("CANCELLED", "Skipped"),
    "failed": ("FAILED", "Failed"),
    "timed_out": ("FAILED", "TimedOut"),
    "cancelled": ("CANCELLED", "Cancelled"),
    "unknown": ("CRASHED", "Unknown"),
}


class PrefectWorld(World):
    """A home with its ledger, at a Prefect server; its own methods act on both."""

    def __init__(
        self,
        ledger: Ledger,
        clock: ManualClock,
        database: Database | None,
        prefect: Prefect,
        workers: Workers,
    ) -> None:
        super().__init__(ledger, clock, database)
        self.prefect, self.workers, self.home = prefect, workers, workers.home
        elsewhere = workers.root / "elsewhere"
        self.deployments = Deployments(prefect, ledger)
        self.agents = Agents(prefect.client, elsewhere)
        self.executions = Executions(prefect, elsewhere)
        self.foreign = ForeignFlows(prefect.client, elsewhere)

    @property
    def client(self) -> PrefectClient:
        """Return the Prefect client of the code under test."""
        return self.prefect.client

    def beside(self, ledger: Ledger) -> PrefectWorld:
        """Return a world with another ledger at the same Prefect."""
        return PrefectWorld(ledger, self.clock, None, self.prefect, self.workers)

    async def deploy(self, **fields: Any) -> StoredJob:
        """Add a job to the ledger with its deployment; on demand by default."""
        when = {"cron", "every", "at", "on_demand"} & fields.keys()
        name = f"job-{uuid4().hex[:8]}"
        given = {"name": name, "prompt": "Do it", **({} if when else {"on_demand": True}), **fields}
        stored = await self.jobs.add(slug=name, **given)
        await reconcile.reconcile_job(self.ledger, self.prefect.ui, stored, None, ReconcileReport())
        return await self.jobs.get(stored.id)

    async def sync(self) -> ReconcileReport:
        """Reconcile all jobs with Prefect, and reset the count of writes there."""
        self.prefect.traffic.writes.clear()
        return await reconcile.reconcile_all(self.ledger, self.client)

    async def waiting_run(
        self, stored: StoredJob, *states: State[Any], until: datetime | None = None, **fields: Any
    ) -> tuple[RunRow, FlowRun]:
        """Insert a waiting row with its Prefect run, in the last of these states.

        Without states the run is scheduled for `until`.
        """
        row = await self.runs.request(stored, until, **fields)
        run = await self.prefect.keyed_run(
            stored,
            f"{self.ledger.id}:{row.occurrence}:1",
            parameters=row.parameters,
            name=run_names.of_row(stored, row),
        )
        await claims.link_prefect_run(self.ledger, row, str(run.id))
        assert row.until is not None
        await self.prefect.set(run, prefect_states.waiting_state(row.until, row.reason), *states)
        return await self.runs.row(row.id), await self.prefect.run(run)

    async def wait_for_status(self, which: Which, status: str, within: float = 30.0) -> RunRow:
        """Wait until the run has this status in the ledger."""

        async def it_is() -> bool:
            row = await self.runs.find(which)
            return row is not None and row.status == status

        if not await becomes_true(it_is, within):
            rows = await self.runs.rows()
            raise AssertionError(f"{rows}, not {status}\n{self.workers.logs()}")
        return await self.runs.row(which)

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
        row = await self.runs.row(which)
        assert row.status == status, self.workers.logs()
        shown = await self.prefect.shown(row.flow_run_id)
        assert shown == AS_PREFECT_SHOWS_IT[status], self.workers.logs()
        assert row.finished_at is not None
        return row

    async def shows(self, run: Any, *expected: str, within: float) -> None:
        """Wait until Prefect shows a state of that type and, if given, that name."""

        async def it_does() -> bool:
            return (await self.prefect.shown(run))[: len(expected)] == expected

        if not await becomes_true(it_does, within):
            shown = await self.prefect.shown(run)
            raise AssertionError(f"{shown}, not {expected}\n{self.workers.logs()}")
