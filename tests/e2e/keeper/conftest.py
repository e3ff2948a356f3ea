"""A ledger with a clock that goes ahead, beside the session's Prefect server.

No flow runs here: states are set by the API as a worker and its flows set them. What falls between
two requests of a pass is done by `House.before` and `House.after`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort
from sqlmodel import col, select

from daybook.clock import SystemClock
from daybook.home import Home
from daybook.host import worker
from daybook.ledger import claims, jobs
from daybook.ledger.engine import Ledger
from daybook.ledger.jobs import StoredJob
from daybook.ledger.offers import Granted, Offer
from daybook.ledger.tables import RunRow
from daybook.runs import prefect_states, run_names
from daybook.spec.job import new_job
from daybook.sync.reconcile import Report, bring
from tests.conftest import PrefectServer
from tests.floor import deployments_of

Hook = Callable[[], Awaitable[object]]


class Ahead(SystemClock):
    """The machine's clock, which a test puts forward: as if so much time had passed."""

    by = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.by


@dataclass
class House:
    """One ledger at the session's Prefect. ``client`` is what the passes get, and counts their
    requests; ``ui`` is everybody else's.
    """

    ledger: Ledger
    clock: Ahead
    client: PrefectClient
    ui: PrefectClient
    requests: Counter[str] = field(default_factory=Counter)
    before: dict[str, Hook] = field(default_factory=dict)
    after: dict[str, Hook] = field(default_factory=dict)
    deadly: bool = False
    """Whether the process dies at each new write in Prefect, when that has been done there."""
    deaths: set[str] = field(default_factory=set)

    # --- time

    def passes(self, **given: float) -> None:
        """Let so much time pass for the ledger."""
        self.clock.by += timedelta(**given)

    def at(self, **given: float) -> datetime:
        """So much from now on, for the ledger."""
        return self.ledger.now() + timedelta(**given)

    # --- the ledger's side

    async def job(self, **fields: Any) -> StoredJob:
        """A job with its deployment."""
        name = f"job-{uuid4().hex[:8]}"
        given = {"name": name, "prompt": "Do it", "on_demand": True, **fields}
        if "cron" in given or "every" in given:
            del given["on_demand"]
        job = new_job(now=self.ledger.now(), **given)
        async with self.ledger.write() as session:
            stored = await jobs.add(session, job, name, self.ledger.now())
        await bring(self.ledger, self.ui, stored, None, Report())
        async with self.ledger.read() as session:
            return await jobs.find(session, stored.id)

    async def asked(
        self, stored: StoredJob, until: datetime | None = None, **fields: Any
    ) -> RunRow:
        """A waiting row that was asked for a while ago, and has no Prefect run."""
        row = await claims.request(self.ledger, stored, uuid4().hex[:8], "manual")
        long_ago = row.queued_at - timedelta(seconds=10)
        return await self.edit(row, until=until or row.until, queued_at=long_ago, **fields)

    async def edit(self, row: RunRow, **fields: Any) -> RunRow:
        async with self.ledger.write() as session:
            found = await session.get(RunRow, row.id)
            assert found is not None
            found.sqlmodel_update(fields)
            session.add(found)
        return found

    async def carried(
        self, stored: StoredJob, *states: State[Any], until: datetime | None = None, **fields: Any
    ) -> tuple[RunRow, FlowRun]:
        """A waiting row with its Prefect run, in the last of these states; without any, scheduled
        for `until`.
        """
        row = await self.asked(stored, until, **fields)
        key = f"{self.ledger.id}:{row.occurrence}:1"
        run = await self.ui.create_flow_run_from_deployment(
            UUID(str(stored.row.deployment_id)),
            parameters=row.parameters,
            idempotency_key=key,
            name=run_names.of_row(stored, row),
        )
        await claims.carried_by(self.ledger, row, str(run.id))
        assert row.until is not None
        await self.set(run, prefect_states.waiting(row.until, row.reason), *states)
        return await self.row(row.id), await self.run(run)

    async def claimed(self, row: RunRow, holder: str = "somebody") -> Granted:
        offer = Offer(
            occurrence=row.occurrence,
            kind=row.kind,
            trigger=row.trigger,
            due=row.due,
            holder=holder,
            job_id=row.job_id,
            flow_run_id=row.flow_run_id,
        )
        answer = await claims.claim(self.ledger, offer)
        assert isinstance(answer, Granted)
        return answer

    async def acting(self, row: RunRow, holder: str = "somebody") -> Granted:
        granted = await self.claimed(row, holder)
        await claims.begin(self.ledger, granted.run_id, granted.fence)
        return granted

    async def row(self, run_id: str) -> RunRow:
        async with self.ledger.read() as session:
            row = await session.get(RunRow, run_id)
        assert row is not None
        return row

    async def rows(self) -> list[RunRow]:
        async with self.ledger.read() as session:
            found = await session.execute(select(RunRow).order_by(col(RunRow.queued_at)))
            return list(found.scalars())

    async def archive(self, stored: StoredJob) -> None:
        async with self.ledger.write() as session:
            await jobs.archive(session, await jobs.find(session, stored.id), self.ledger.now())

    # --- Prefect's side

    async def set(self, run: FlowRun | UUID, *states: State[Any]) -> None:
        """Set these states, one after the other, as a worker or a person does."""
        flow_run_id = run if isinstance(run, UUID) else run.id
        for state in states:
            await self.ui.set_flow_run_state(flow_run_id, state, force=True)

    async def run(self, run: FlowRun | str | None) -> FlowRun:
        return await self.ui.read_flow_run(
            UUID(run) if isinstance(run, str) else run.id if run else UUID(int=0)
        )

    async def runs(self, stored: StoredJob) -> list[FlowRun]:
        """All Prefect runs of the job, the earliest first."""
        wanted = FlowRunFilter.model_validate(
            {"deployment_id": {"any_": [stored.row.deployment_id]}}
        )
        return await self.ui.read_flow_runs(
            flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=200
        )

    async def shown(self, run: FlowRun | str | None) -> tuple[str, str]:
        """Type and name of the state that Prefect shows."""
        state = (await self.run(run)).state
        assert state is not None
        return state.type.value, str(state.name)

    async def start(self, run: FlowRun) -> datetime:
        """When it is scheduled for."""
        at = (await self.run(run)).next_scheduled_start_time
        assert at is not None
        return at

    async def states(self, run: FlowRun) -> int:
        """How many states it has had."""
        return len(await self.ui.read_flow_run_states(run.id))

    # --- what is asked

    async def _request(self, request: httpx.Request) -> None:
        name = request.url.path.rpartition("/")[2]
        self.requests[name] += 1
        if name in self.before:
            await self.before.pop(name)()

    async def _answer(self, response: httpx.Response) -> None:
        name = response.request.url.path.rpartition("/")[2]
        if name in self.after:
            await self.after.pop(name)()
        if not self.deadly or name == "filter" or response.request.method == "GET":
            return
        keyed = json.loads(response.request.content or "{}").get("idempotency_key", "")
        write = f"{response.request.url.path} {keyed}"
        if response.is_success and write not in self.deaths:
            self.deaths.add(write)
            raise Died


class Died(Exception):
    """The process died here."""


async def dies() -> None:
    raise Died


@pytest.fixture
def ledger_address(daybook_home: Home) -> str:
    """Where the ledger is: the home's file."""
    return f"sqlite+aiosqlite:///{daybook_home.path}/ledger.db"


@asynccontextmanager
async def housed(address: str) -> AsyncIterator[House]:
    """A house whose ledger is at ``address``."""
    clock = Ahead()
    hooks: dict[str, list[Any]] = {"request": [], "response": []}
    async with (
        Ledger(address, clock) as ledger,
        get_client(httpx_settings={"event_hooks": hooks}) as client,
        get_client() as ui,
    ):
        await worker.ensure_pool(ui)
        house = House(ledger, clock, client, ui)
        # The client has copied the dictionary, and asks it at each request.
        client._client.event_hooks = {
            "request": [house._request],
            "response": [house._answer],
        }
        yield house
        for each in await deployments_of(ui, ledger.id):
            await ui.delete_deployment(UUID(each))


@pytest.fixture
async def house(prefect_server: PrefectServer, ledger_address: str) -> AsyncIterator[House]:
    async with housed(ledger_address) as house:
        yield house
