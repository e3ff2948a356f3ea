"""Leader election among keepers (promise 16): real processes, ended in every way.

Leadership is a lease in the ledger, so the scenarios run over each kind of database. Those that
wait for the end of a lease run concurrently, each in a world of its own, and one test each reports
the result.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings

from daybook.clock import SYSTEM_CLOCK
from daybook.errors import LeadershipLost
from daybook.home import Home
from daybook.keeper import leader_lease as leads
from daybook.keeper import leadership as lead
from daybook.keeper import services
from daybook.keeper.keeper import Keeper
from daybook.ledger.tables import RunRow
from daybook.operations import worker
from daybook.operations.prefect_selection import SelectedPrefect
from daybook.processes import children
from daybook.processes.children import Child
from daybook.schedules.schedule import Cron
from daybook.timing import TIMING
from tests import databases
from tests.conftest import PrefectServer
from tests.databases import Database, Postgresql
from tests.gate import Gate, opened
from tests.timings import SHORT, change
from tests.waiting import becomes_true
from tests.world.home import at_prefect
from tests.world.prefect_world import PrefectWorld
from tests.world.processes import sqlite_is_free, stand_still

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

FOLLOWED = SHORT.leader_lease.total_seconds() + SHORT.leader_check.total_seconds() + 15.0
"""Seconds until a killed leader is replaced: its lease, one check, and 15 s for a busy machine."""
SOON = 90.0
"""Seconds until a pass is done or a process has started."""
_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended('daybook public', 0))"


@dataclass
class Keepers:
    """The keepers of one world, each a process with `SHORT` timing."""

    world: PrefectWorld
    processes: list[Child] = field(default_factory=list)

    async def another(self, gate: Gate | None = None) -> Child:
        """Start a keeper, and wait until it is on standby or leads."""
        selected = self.world.workers.selected_prefect
        if gate is not None:
            selected = SelectedPrefect(gate.api_url, selected.ui_url)
        child = await children.start(
            "keeper",
            [sys.executable, "-m", "daybook", "keeper"],
            environment=worker.environment(self.world.home, selected)
            | {"DAYBOOK_LEDGER_URL": self.world.database.address}
            | SHORT.environment(),
            log=self.world.home.logs / f"keeper-{len(self.processes) + 1}.log",
            folder=self.world.home.path,
        )
        self.processes.append(child)

        async def started() -> bool:
            assert child.exit_code is None, child.tail()
            return "Keeper started" in child.tail()

        assert await becomes_true(started, 90.0), child.tail()
        return child

    async def leader(self) -> Child | None:
        """Return the keeper that leads now, according to the ledger."""
        found = await leads.read(self.world.ledger, leads.LEADERSHIP_NAME)
        if found is None or not found.leads(self.world.ledger.now()):
            return None
        (pid,) = found.holder.split(":")[1:2]
        return next((each for each in self.processes if each.pid == int(pid)), None)

    async def leads(self, child: Child, within: float = SOON) -> None:
        async def so_it_is() -> bool:
            return await self.leader() is child

        assert await becomes_true(so_it_is, within), "\n".join(
            each.tail() for each in self.processes
        )

    def logs(self) -> str:
        return "\n".join(each.tail() for each in self.processes)

    async def carried(self, row: RunRow, within: float = SOON) -> None:
        """Wait until the row has its Prefect run, which only a leader creates."""

        async def so_it_is() -> bool:
            return (await self.world.runs.row(row.id)).flow_run_id is not None

        assert await becomes_true(so_it_is, within), "\n".join(
            each.tail() for each in self.processes
        )

    async def waits(self) -> RunRow:
        """Return a row that waits for longer than the test takes and has no Prefect run."""
        job = await self.world.deploy()
        return await self.world.runs.request(job, self.world.at(hours=1))

    async def stop(self, keeper: Child) -> None:
        await stand_still(keeper.pid, lambda: _is_free(self.world.database))

    async def close(self) -> None:
        for each in self.processes:
            if each.exit_code is None:
                os.kill(each.pid, signal.SIGCONT)
                await each.terminate(0.0)


def _is_free(database: Database) -> bool:
    """Return whether no process holds the claim lock."""
    if isinstance(database, Postgresql):
        return bool(database.query(_LOCK)[0][0])
    return sqlite_is_free(database.address)


@asynccontextmanager
async def keepers_of(world: PrefectWorld) -> AsyncIterator[Keepers]:
    found = Keepers(world)
    try:
        yield found
    finally:
        await found.close()


@pytest.fixture
async def world(
    prefect_server: PrefectServer, daybook_home: Home, tmp_path: Path, database: Database
) -> AsyncIterator[PrefectWorld]:
    """Yield a world whose ledger is in each kind of database."""
    async with at_prefect(tmp_path, prefect_server, database) as world:
        yield world


async def killed_and_terminated(keepers: Keepers) -> None:
    first = await keepers.another()
    await keepers.leads(first)
    await keepers.carried(await keepers.waits())
    second, third = await keepers.another(), await keepers.another()
    assert await keepers.leader() is first

    os.kill(first.pid, signal.SIGKILL)
    row = await keepers.waits()

    async def followed() -> bool:
        return await keepers.leader() in (second, third)

    assert await becomes_true(followed, FOLLOWED)
    await keepers.carried(row)
    one = await keepers.leader()
    assert one is not None
    (other,) = {second, third} - {one}
    os.kill(one.pid, signal.SIGTERM)
    assert await one.wait() == 0
    # It released its lease, so the other keeper need not wait until a lease expires.
    assert await keepers.leader() is not one
    await keepers.leads(other)
    await keepers.carried(await keepers.waits())
    assert "Keeper stopped" in one.tail()


async def stopped(keepers: Keepers) -> None:
    world, gate = keepers.world, await keepers.world.workers.gate()
    first = await keepers.another(gate)
    await keepers.leads(first)
    await keepers.carried(await keepers.waits())
    gate.close_for("flow_runs/filter")  # in the middle of a pass
    await asyncio.wait_for(gate.held.wait(), SOON)
    await keepers.stop(first)
    gate.release()
    second = await keepers.another()
    await keepers.leads(second, FOLLOWED)
    await keepers.stop(second)
    row, woken = await keepers.waits(), SYSTEM_CLOCK.now()
    held = await leads.read(world.ledger, leads.LEADERSHIP_NAME)
    assert held is not None
    os.kill(first.pid, signal.SIGCONT)

    await keepers.carried(row, FOLLOWED)

    # It wrote nothing before the other keeper's lease ended.
    writes = [at for at, how, path in gate.asked if at > woken and lead.is_write(how, path)]
    assert min(writes) >= held.until
    assert await keepers.leader() is first
    assert "on standby: another keeper leads" in first.tail(1000)


Outcomes = dict[tuple[str, str], BaseException | None]


@pytest.fixture(scope="module")
async def outcomes(
    anyio_backend: str,
    prefect_server: PrefectServer,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> AsyncIterator[Outcomes]:
    """Run the selected scenarios over each database concurrently, and yield the errors."""
    found, playing = Outcomes(), dict[tuple[str, str], Coroutine[Any, Any, None]]()
    selected = databases.selected_cases(request)
    async with AsyncExitStack() as stack:
        for kind in databases.KINDS:
            # A test session has two databases on a server, and one of them has its tables already.
            for play, prepared in ((killed_and_terminated, False), (stopped, True)):
                if (play, kind) not in selected:
                    continue
                root = tmp_path_factory.mktemp(play.__name__)
                file, server = root / "ledger.db", databases.server_of(request)
                try:
                    database = databases.of_kind(kind, file, server, prepared=prepared)
                except pytest.skip.Exception as absent:
                    found[play.__name__, kind] = absent
                    continue
                there = at_prefect(root, prefect_server, database)
                world = await stack.enter_async_context(there)
                # In a pool with another ledger's deployments, a keeper needs one of its own.
                await world.deploy()
                keepers = await stack.enter_async_context(keepers_of(world))
                playing[play.__name__, kind] = play(keepers)
        results = await asyncio.gather(*playing.values(), return_exceptions=True)
    yield found | dict(zip(playing, results, strict=True))


@pytest.mark.parametrize("kind", databases.KINDS)
@pytest.mark.parametrize("play", [killed_and_terminated, stopped], ids=lambda play: play.__name__)
def test_another_keeper_leads_after_the_leader(
    outcomes: Outcomes, play: Callable[[Keepers], Coroutine[Any, Any, None]], kind: str
) -> None:
    """A killed leader is replaced after its lease, a terminated one at once.

    A suspended keeper writes nothing until it leads again.
    """
    wrong = outcomes[play.__name__, kind]
    if wrong is not None:
        raise wrong


async def test_a_leader_that_cannot_reach_prefect_gives_up_leadership(
    world: PrefectWorld, prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daybook.keeper.keeper.PREFECT_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr("daybook.keeper.keeper.CYCLE_TIMEOUT_SECONDS", 2.0)
    async with opened(prefect_server.api_url) as gate:
        gate.close_for("")
        with temporary_settings({PREFECT_API_URL: gate.api_url}):
            keeper = Keeper(world.ledger, "here:1:a")
            work = asyncio.create_task(keeper.run())
            await keeper.leadership.wait_until_leading()

            async def free() -> bool:
                return (
                    await leads.acquire(world.ledger, leads.LEADERSHIP_NAME, "there:2:b")
                    is not None
                )

            # Much sooner than an unrenewed lease would expire.
            assert await becomes_true(free, TIMING.leader_lease.total_seconds() / 2)
            work.cancel()
            await asyncio.wait({work})


async def test_the_leaders_client_refuses_to_write_after_leadership_was_lost(
    world: PrefectWorld,
) -> None:
    leadership = lead.Leadership(world.ledger, "here:1:a")
    keeping = asyncio.create_task(leadership.keep())
    await leadership.wait_until_leading()
    job = await world.deploy()
    async with lead.leader_client(leadership) as client:
        deployment = await client.read_deployment(job.row.deployment_id or "")
        made = await client.create_flow_run_from_deployment(deployment.id)
        world.passes(seconds=TIMING.leader_lease.total_seconds())
        assert await leads.acquire(world.ledger, leads.LEADERSHIP_NAME, "there:2:b") is not None

        with pytest.raises(LeadershipLost):
            await client.create_flow_run_from_deployment(deployment.id)
        with pytest.raises(LeadershipLost):
            await client.update_flow_run(made.id, name="after")
        with pytest.raises(LeadershipLost):
            await client.delete_flow_run(made.id)

        # Reading is still allowed.
        assert [run.name for run in await client.read_flow_runs()].count(made.name) == 1
    assert [run.id for run in await world.prefect.runs(job)] == [made.id]
    keeping.cancel()
    await asyncio.wait({keeping})


async def test_the_leader_records_errors_and_costs_of_its_services(world: PrefectWorld) -> None:
    await world.deploy()
    async with keepers_of(world) as keepers:
        await keepers.waits()  # otherwise the services of runs have no work
        await keepers.another()
        await _tells(world)


async def _tells(world: PrefectWorld) -> None:

    async def all_services_ran() -> bool:
        found = await leads.read(world.ledger, leads.LEADERSHIP_NAME)
        passes = found.note.get("passes", {}) if found else {}
        expected = {"drain", "open", "expire", "ends", "ensure", "wake", "mirror", "unread"}
        expected |= {"observe", "correct", "audit", "prune"}
        return expected <= passes.keys()

    assert await becomes_true(all_services_ran, SOON)
    found = await leads.read(world.ledger, leads.LEADERSHIP_NAME)
    assert found is not None
    assert {name: each["error"] for name, each in found.note["passes"].items()} == dict.fromkeys(
        found.note["passes"], ""
    )
    # The recorded costs of a service are its requests and its CPU time.
    assert found.note["passes"]["observe"]["requests"] > 0
    assert 0 < found.note["passes"]["observe"]["cpu_seconds"] < 5
    observed = found.note["observed_at"]
    assert (
        timedelta(0) < world.ledger.now() - datetime.fromisoformat(observed) < timedelta(minutes=1)
    )


async def test_the_keeper_imports_an_edit_by_polling_and_sooner_by_its_event(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await world.deploy(cron="0 9 * * *")
    deployment = await world.prefect.ui.read_deployment(UUID(str(job.row.deployment_id)))
    keeper = Keeper(world.ledger, "here:1:a")
    keeping = asyncio.create_task(keeper.run())

    async def passed() -> bool:
        return "observe" in keeper.costs

    assert await becomes_true(passed, SOON)
    # Prefect sends no event for this edit, so the next pass finds it.
    (schedule,) = deployment.schedules
    await world.prefect.ui.update_deployment_schedule(
        deployment.id, schedule.id, schedule=CronSchedule(cron="30 7 * * *", timezone="UTC")
    )

    async def taken_over() -> bool:
        schedule = (await world.jobs.get(job.id)).job.schedule
        return isinstance(schedule, Cron) and schedule.expr == "30 7 * * *"

    assert await becomes_true(taken_over, 15.0)
    # From here on only the event can start a pass in time.
    change(monkeypatch, services, jobs_interval=600)
    await world.prefect.ui.update_deployment(deployment.id, DeploymentUpdate(paused=True))

    async def off() -> bool:
        return not (await world.jobs.get(job.id)).job.enabled

    assert await becomes_true(off, SOON)
    keeping.cancel()
    await asyncio.wait({keeping})
    assert await leads.acquire(world.ledger, leads.LEADERSHIP_NAME, "there:2:b") == 2
