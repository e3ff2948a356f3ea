"""Starving tasks with a real keeper and Prefect: the requested worker's run, events and wakes."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

import blocks
from daybook.agents import documents
from daybook.features.tasks import notifier, queue, sessions
from daybook.features.tasks.notifier import StarvingRun
from daybook.features.tasks.tables import TaskRunRow
from daybook.home import Home
from daybook.keeper import leader_lease
from daybook.operations import worker
from daybook.operations.prefect_selection import SelectedPrefect
from daybook.processes import children
from daybook.processes.children import Child
from tests.conftest import PrefectServer
from tests.waiting import becomes_true
from tests.world.prefect_world import PrefectWorld

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

SOON = 60.0
"""Seconds until a keeper has started and done its passes on a busy machine."""


@pytest.fixture
async def agent(world: PrefectWorld) -> AsyncIterator[str]:
    """Yield an agent that has a capability of its own."""
    await blocks.register(world.prefect.ui)
    name = f"helper-{uuid4().hex[:8]}"
    await documents.add(world.prefect.ui, name, "offline", {"capabilities": [name, "mail"]})
    yield name
    await documents.remove(world.prefect.ui, name)


@pytest.fixture
async def keeper(
    world: PrefectWorld, daybook_home: Home, prefect_server: PrefectServer
) -> AsyncIterator[list[Child]]:
    """Yield a list for keepers, and stop them at the end of the test."""
    keepers: list[Child] = []
    yield keepers
    for each in keepers:
        await each.terminate()


async def begin(keepers: list[Child], home: Home, server: PrefectServer) -> Child:
    selected = SelectedPrefect(server.api_url, server.ui_url)
    child = await children.start(
        "keeper",
        [sys.executable, "-m", "daybook", "keeper"],
        environment=worker.environment(home, selected),
        log=home.logs / f"keeper-{len(keepers) + 1}.log",
        folder=home.path,
    )
    keepers.append(child)
    return child


async def events(world: PrefectWorld, run_id: str) -> list[dict[str, Any]]:
    """Return Prefect's events about the run of a task."""
    expected = {
        "event": {"name": [notifier.STARVED_EVENT]},
        "resource": {"id": [f"daybook.task-run.{run_id}"]},
    }
    answer = await world.prefect.ui._client.post("/events/filter", json={"filter": expected})
    found: list[dict[str, Any]] = answer.json()["events"]
    return found


async def starving(world: PrefectWorld, *, cycles: int, **fields: Any) -> TaskRunRow:
    """Return a run that has waited for an hour and starved for ``cycles`` cycles."""
    _, run = await queue.add(world.ledger, "review it", **fields)
    async with world.ledger.write() as session:
        row = await session.get(TaskRunRow, run.id)
        assert row is not None
        row.queued_at, row.starved_cycles = row.queued_at - timedelta(hours=1), cycles
        session.add(row)
    return row


@pytest.mark.floor("D", "EmitRunStarved: an event names the run")
@pytest.mark.slow
async def test_a_starving_task_gets_a_worker_run_and_an_event_in_prefect(
    world: PrefectWorld,
    agent: str,
    keeper: list[Child],
    daybook_home: Home,
    prefect_server: PrefectServer,
) -> None:
    stored = await world.deploy(agent=agent, tags=["task-worker"])
    await world.deploy(tags=["task-worker"])  # its agent lacks the capability
    run = await starving(world, cycles=5, capabilities=[agent])
    child = await begin(keeper, daybook_home, prefect_server)

    async def row() -> TaskRunRow:
        async with world.ledger.read() as session:
            found = await session.get(TaskRunRow, run.id)
        assert found is not None
        return found

    async def spawned() -> bool:
        assert child.exit_code is None, child.tail()
        asked = (await row()).spawned_run_id
        return asked is not None and (await world.runs.row(asked)).flow_run_id is not None

    async def is_notified() -> bool:
        return "starved" in (await row()).tiers and bool(await events(world, run.id))

    async def noted() -> bool:
        leader = await leader_lease.read(world.ledger, leader_lease.LEADERSHIP_NAME)
        return leader is not None and "tasks" in leader.note.get("passes", {})

    assert await becomes_true(spawned, SOON), child.tail()
    asked = await world.runs.row(str((await row()).spawned_run_id))
    assert asked.job_id == stored.id
    flow_run = await world.prefect.run(asked.flow_run_id)
    assert str(flow_run.deployment_id) == stored.row.deployment_id
    assert f"worker-{run.id[:8]}-0" in flow_run.parameters["prompt"]
    assert flow_run.parameters["prompt"].startswith("Do it\n\n")

    assert await becomes_true(is_notified, SOON), child.tail()
    (event,) = await events(world, run.id)
    assert event["payload"]["title"] == "review it"
    assert event["payload"]["capabilities"] == [agent]
    # The leader records how the pass ended.
    assert await becomes_true(noted, SOON), child.tail()
    leader = await leader_lease.read(world.ledger, leader_lease.LEADERSHIP_NAME)
    assert leader is not None
    assert leader.note["passes"]["tasks"]["error"] == ""


async def test_the_keeper_wakes_a_connected_session(
    world: PrefectWorld, keeper: list[Child], daybook_home: Home, prefect_server: PrefectServer
) -> None:
    row = await sessions.register(world.ledger, "one")
    await sessions.set_connected(world.ledger, [row.id], world.at(hours=1))
    _, run = await queue.add(world.ledger, "tidy up")
    child = await begin(keeper, daybook_home, prefect_server)

    async def woken() -> bool:
        assert child.exit_code is None, child.tail()
        async with world.ledger.read() as session:
            events = await queue.events(session, run.id)
        return "woken" in [each.event for each in events]

    assert await becomes_true(woken, SOON), child.tail()


@pytest.mark.slow
async def test_an_event_that_is_sent_twice_is_one_event_in_prefect(world: PrefectWorld) -> None:
    now = world.ledger.now()
    run_id = uuid4().hex
    starved = StarvingRun(world.ledger.id, run_id, 0, "task", "twice", 1, (), now, 6, now)
    tell = notifier.prefect_notifier(world.client)
    await tell(starved)

    async def there() -> bool:
        return bool(await events(world, run_id))

    assert await becomes_true(there, SOON)
    await tell(starved)
    other = StarvingRun(world.ledger.id, uuid4().hex, 0, "task", "after", 1, (), now, 6, now)
    await tell(other)

    async def after() -> bool:
        return bool(await events(world, other.run_id))

    assert await becomes_true(after, SOON)
    assert [each["id"] for each in await events(world, run_id)] == [str(starved.event_id)]
