"""Two homes at one Prefect: what `status`, `doctor` and a waiting `run` report about the other.

No worker runs here: the tests only send heartbeats of workers to Prefect.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from daybook.api import runs, sync
from daybook.clock import SYSTEM_CLOCK
from daybook.diagnosis import doctor, status
from daybook.errors import InvalidInput
from daybook.finding import Finding
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.operations import setup
from daybook.prefect import parameter_schema, reconcile, states, work_pool, work_queues
from daybook.runs import claims
from tests.at_prefect import delete_deployments
from tests.world.prefect import forget_workers

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

OTHERS = f"{socket.gethostname()}-abcdef"
"""The name of another home's worker on this machine."""

Beat = Callable[[str], Awaitable[None]]


@pytest.fixture
async def client(prefect_server: Any, daybook_home: Home) -> AsyncIterator[Any]:
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        await delete_deployments(client)
        await setup.prepare(client)
        await forget_workers(client)
        yield client
        await delete_deployments(client)


@pytest.fixture
async def beat(client: Any) -> AsyncIterator[Beat]:
    """Yield a function that makes a worker of that name appear online until the end of the test."""
    started: list[str] = []

    async def online(name: str) -> None:
        await client.send_worker_heartbeat(parameter_schema.WORK_POOL, name, 60.0)
        started.append(name)

    yield online
    for name in started:
        await client.request("DELETE", f"/work_pools/{parameter_schema.WORK_POOL}/workers/{name}")


async def ledger_with(name: str, file: Path) -> Ledger:
    """Return a ledger with one on-demand job."""
    ledger = Ledger(f"sqlite+aiosqlite:///{file}")
    async with ledger, ledger.write() as session:
        job = new_job(now=ledger.now(), prompt="Hello?", name=name, on_demand=True)
        await store.add(session, job, name, ledger.now())
    return ledger


async def of_another_home(client: Any, folder: Path) -> str:
    ledger = await ledger_with("theirs", folder / "other.db")
    async with ledger:
        await reconcile.reconcile_all(ledger, client)
    return ledger.id


@pytest.fixture
async def other(client: Any, tmp_path: Path) -> str:
    """Return the id of another home's ledger, whose one job is in the pool."""
    return await of_another_home(client, tmp_path)


@pytest.fixture
async def own_ledger(daybook_home: Home) -> Ledger:
    return await ledger_with("mine", daybook_home.path / "ledger.db")


async def test_a_worker_refuses_a_pool_with_jobs_of_another_ledger_only(
    client: Any, own_ledger: Ledger, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInput, match=rf"jobs of another ledger \({other[:8]}\) and none"):
        await work_pool.check_ledger(client, parameter_schema.WORK_POOL, own_ledger.id)
    async with own_ledger:
        await reconcile.reconcile_all(own_ledger, client)
    await work_pool.check_ledger(client, parameter_schema.WORK_POOL, own_ledger.id)
    # It accepts the pool even if other ledgers' deployments fill the read limit.
    for looked_at in (1, 2):
        monkeypatch.setattr(work_pool, "MAX_DEPLOYMENTS_READ", looked_at)
        await work_pool.check_ledger(client, parameter_schema.WORK_POOL, own_ledger.id)


async def findings(check: str) -> list[Finding]:
    return [each for each in await doctor.doctor() if each.check == check]


@pytest.mark.slow
async def test_status_and_doctor_name_a_prefect_that_belongs_to_another_daybook(
    client: Any, daybook_home: Home, own_ledger: Ledger, other: str, beat: Beat
) -> None:
    await beat(OTHERS)

    found = await status.status()
    assert found.ready is False
    assert found.worker.online == 0
    assert [(w.name, w.ours) for w in found.worker.workers] == [(OTHERS, False)]
    foreign, idle = (p.title for p in found.problems if "another Daybook" in p.title)
    assert f"has jobs of another Daybook (ledger {other[:8]}) and none of this one" in foreign
    assert f"{OTHERS} belongs to another Daybook" in idle
    assert await status.worker_online() is False

    (of_pool,) = await findings("pool")
    assert not of_pool.ok
    assert other[:8] in of_pool.message
    assert "PREFECT_API_URL" in of_pool.fix
    (of_worker,) = await findings("worker")
    assert not of_worker.ok
    assert OTHERS in of_worker.message
    assert of_worker.fix == "daybook up"


@pytest.mark.slow
async def test_two_homes_may_share_one_prefect(
    client: Any, daybook_home: Home, own_ledger: Ledger, other: str, beat: Beat
) -> None:
    await beat(OTHERS)
    assert (await sync.sync()).created == ["mine"]

    assert [each.ok for each in await findings("pool")] == [True]
    found = await status.status()
    assert found.ready is False
    (problem,) = (p.title for p in found.problems if "another Daybook" in p.title)
    assert OTHERS in problem

    await beat(daybook_home.worker_name)
    found = await status.status()
    assert found.ready is True
    assert found.worker.online == 1
    assert not [p for p in found.problems if "Daybook" in p.title]
    assert await status.worker_online() is True
    (of_worker,) = await findings("worker")
    assert of_worker.ok
    assert OTHERS in of_worker.message


@pytest.mark.slow
async def test_a_home_without_jobs_is_ready_in_a_pool_with_jobs_of_another(
    client: Any, daybook_home: Home, other: str, beat: Beat
) -> None:
    assert [each.ok for each in await findings("pool")] == [True]
    await beat(daybook_home.worker_name)
    assert (await status.status()).ready is True


@pytest.mark.slow
async def test_a_worker_with_a_custom_name_counts_only_in_an_unshared_pool(
    client: Any, own_ledger: Ledger, beat: Beat, tmp_path: Path
) -> None:
    await sync.sync()
    await beat("thursday")
    assert (await status.status()).ready is True
    await of_another_home(client, tmp_path)
    assert (await status.status()).ready is False


@pytest.mark.slow
async def test_own_deployments_are_found_beyond_the_read_limit(
    client: Any, own_ledger: Ledger, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sync.sync()
    monkeypatch.setattr(work_pool, "MAX_DEPLOYMENTS_READ", 1)
    for ledger_id, has_ours in ((own_ledger.id, True), (other, True), ("nobody", False)):
        assert (await work_pool.read(client, ledger_id)).has_ours is has_ours


@pytest.mark.slow
async def test_doctor_names_a_pool_of_another_type(client: Any, own_ledger: Ledger) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate

    await client.delete_work_pool(parameter_schema.WORK_POOL)
    await client.create_work_pool(WorkPoolCreate(name=parameter_schema.WORK_POOL, type="process"))
    try:
        (of_pool,) = await findings("pool")
        assert "has the type process, but our worker needs daybook" in of_pool.message
        assert of_pool.fix == "prefect work-pool delete daybook; daybook sync"
        with pytest.raises(InvalidInput, match="has the type process"):
            await sync.sync()
    finally:
        await client.delete_work_pool(parameter_schema.WORK_POOL)
        await sync.sync()
    assert all(each.ok for each in await findings("pool"))
    queues = await client.read_work_queues(work_pool_name=parameter_schema.WORK_POOL)
    assert {each.name for each in queues} >= set(work_queues.CLASS_QUEUES)


class Hears:
    """Listener of a `run` that waits: records each reason and calls ``then`` with it."""

    def __init__(self, then: Callable[[str], Awaitable[None]]) -> None:
        self.shown_lines: list[str] = []
        self._then = then
        self._doing: list[asyncio.Future[None]] = []

    def asked(self) -> None:
        self.shown_lines.append("asked")

    def held_up(self, why: str) -> None:
        self.shown_lines.append(why)
        self._doing.append(asyncio.ensure_future(self._then(why)))


@pytest.mark.slow
async def test_a_waiting_run_command_reports_why_the_run_does_not_start(
    client: Any, daybook_home: Home, own_ledger: Ledger, other: str, beat: Beat
) -> None:
    """First no own worker is online; then a worker with another ledger has set the run back."""
    await beat(OTHERS)
    refused = "the run and its worker use different ledgers"

    async def next_reason(why: str) -> None:
        async with Ledger(own_ledger.address) as ledger:
            (run,) = await runs.history("mine")
            if refused in why:
                await claims.cancel(ledger, run.id)
                return
            until = SYSTEM_CLOCK.now() + timedelta(minutes=1)
            state = states.waiting_state(until, refused)
            await client.set_flow_run_state(UUID(run.flow_run_id), state)
            await beat(daybook_home.worker_name)

    talk = Hears(next_reason)
    async with asyncio.timeout(60):
        run = await runs.run("mine", wait=True, talk=talk)
    assert run.status == "cancelled"
    asked, idle, put_off = talk.shown_lines
    assert asked == "asked"
    assert f"{OTHERS} belongs to another Daybook" in idle
    assert "`daybook up` starts one" in idle
    assert put_off == refused
