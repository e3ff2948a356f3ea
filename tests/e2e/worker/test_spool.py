"""Runs that end while the ledger is unreachable: the outcome is spooled, and recorded once.

A real worker and real processes, over both databases. SQLite is unreachable while another process
holds the write lock; PostgreSQL while the database accepts no connection.
"""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    closing,
)
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg  # type: ignore[import-untyped]
import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.jobs.store import StoredJob
from daybook.ledger.tables import RunRow
from daybook.operations import worker
from daybook.processes import children, proc
from daybook.processes.children import Child
from tests import databases
from tests.conftest import PrefectServer
from tests.databases import Database, Postgresql
from tests.timings import SHORT
from tests.waiting import becomes_true
from tests.world.agents import WORKS
from tests.world.home import at_prefect
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import JUDGED, PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    *PREFECT_LEAVES_A_SOCKET,
]

IMPATIENT = replace(SHORT, ledger_lock=timedelta(seconds=5))
KEPT = IMPATIENT.ledger_lock.total_seconds() + 15.0
"""Seconds until a process stops waiting for the ledger, and spools the outcome."""


def unreachable_database(database: Database) -> AbstractAsyncContextManager[None]:
    """Return a context in which no process can write to the ledger."""
    if isinstance(database, Postgresql):
        return _refusing(database)
    return _locked(Path(urlsplit(database.address).path))


@asynccontextmanager
async def _locked(ledger: Path) -> AsyncIterator[None]:
    with closing(sqlite3.connect(ledger, isolation_level=None, timeout=30)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        yield


@asynccontextmanager
async def _refusing(database: Postgresql) -> AsyncIterator[None]:
    name = urlsplit(database.url).path.removeprefix("/")
    elsewhere = await asyncpg.connect(databases.URL)
    try:
        await elsewhere.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        assert database.cut_off() > 0
        try:
            yield
        finally:
            await elsewhere.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    finally:
        await elsewhere.close()


def spooled(world: PrefectWorld) -> list[Path]:
    return list((world.home.path / "spool").glob("*.json"))


async def running(world: PrefectWorld) -> tuple[StoredJob, RunRow]:
    """Return a job and its running run, whose agent waits until the test lets it end."""
    agent = await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=agent.name)
    await world.workers.begin()
    await world.prefect.custom_run(job)
    await agent.says("running")
    return job, await world.wait_for_status(job, "running")


async def wait_until_spooled(world: PrefectWorld, row: RunRow) -> None:
    """Let the agent end, and wait until its run's outcome is in the spool."""
    world.agents.all[-1].release()

    async def it_is() -> bool:
        return bool(spooled(world))

    assert await becomes_true(it_is, KEPT), world.workers.logs()
    assert [each.name for each in spooled(world)] == [f"{row.id}-1-1.json"]


async def notified_once(world: PrefectWorld, job: StoredJob) -> None:
    """Assert that both sides have the outcome of the one attempt, and never had another."""
    row = await world.wait_for_end(job, "succeeded", within=JUDGED)
    await world.workers.idle(within=JUDGED)

    async def all_done() -> bool:
        return not spooled(world) and not (await world.runs.row(job)).unmirrored

    assert await becomes_true(all_done, SEEN), world.workers.logs()
    now = await world.runs.row(job)
    assert (now.status, now.finished_at) == (row.status, row.finished_at)
    assert (now.output, now.evidence) == ("done", [])
    assert [each.status for each in await world.runs.attempts(row)] == ["succeeded"]
    assert world.agents.all[-1].effect_count == row.attempts == 1
    states = await world.client.read_flow_run_states(UUID(str(row.flow_run_id)))
    assert {each.name for each in states if each.is_final()} == {"Completed"}


async def until_the_ledger_is_back(world: PrefectWorld, database: Database) -> None:
    job, row = await running(world)
    async with unreachable_database(database):
        lost = SYSTEM_CLOCK.now() + SHORT.run_lease
        await wait_until_spooled(world, row)
        # The lease has expired by then, because no process could renew it.
        await SYSTEM_CLOCK.wait_until(lost)
    await notified_once(world, job)


async def by_another_keeper(world: PrefectWorld, database: Database) -> None:
    job, row = await running(world)
    async with unreachable_database(database):
        await wait_until_spooled(world, row)
        proc.send_signal(proc.process_tree(world.workers.all[-1].child.process), signal.SIGKILL)
        await world.workers.nobody(within=SEEN)
    assert (await world.runs.row(job)).status == "running"
    assert len(spooled(world)) == 1
    async with keeper(world):
        await notified_once(world, job)


@asynccontextmanager
async def keeper(world: PrefectWorld) -> AsyncIterator[Child]:
    home = world.home
    child = await children.start(
        "keeper",
        [sys.executable, "-m", "daybook", "keeper"],
        environment=worker.environment(home, world.workers.selected_prefect)
        | world.workers.variables,
        log=home.logs / "keeper.log",
        folder=home.path,
    )
    world.workers.apart.add(child.pid)
    try:
        yield child
    finally:
        await child.terminate()


Outcomes = dict[tuple[str, str], BaseException | None]


@pytest.fixture(scope="module")
async def outcomes(
    anyio_backend: str,
    prefect_server: PrefectServer,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> AsyncIterator[Outcomes]:
    """Run the selected scenarios over each database concurrently, and yield their errors."""
    found, selected = Outcomes(), databases.selected_cases(request)
    playing: dict[tuple[str, str], Coroutine[Any, Any, None]] = {}
    async with AsyncExitStack() as stack:
        for kind in databases.KINDS:
            # A test session has two databases on a server, and one of them has its tables already.
            for play, prepared in ((until_the_ledger_is_back, False), (by_another_keeper, True)):
                if (play, kind) not in selected:
                    continue
                root = tmp_path_factory.mktemp(play.__name__)
                file, server = root / "ledger.db", databases.server_of(request)
                try:
                    database = databases.of_kind(kind, file, server, prepared=prepared)
                except pytest.skip.Exception as absent:
                    found[play.__name__, kind] = absent
                    continue
                world = await stack.enter_async_context(
                    at_prefect(root, prefect_server, database, IMPATIENT)
                )
                playing[play.__name__, kind] = play(world, database)
        results = await asyncio.gather(*playing.values(), return_exceptions=True)
    yield found | dict(zip(playing, results, strict=True))


@pytest.mark.parametrize("kind", databases.KINDS)
@pytest.mark.parametrize(
    "play", [until_the_ledger_is_back, by_another_keeper], ids=lambda play: play.__name__
)
def test_an_outcome_is_spooled_and_recorded_once(
    outcomes: Outcomes,
    play: Callable[[PrefectWorld, Database], Coroutine[Any, Any, None]],
    kind: str,
) -> None:
    """The run's process records it, or if its worker was killed, a keeper of the home."""
    wrong = outcomes[play.__name__, kind]
    if wrong is not None:
        raise wrong
