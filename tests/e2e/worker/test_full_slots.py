"""Runs that wait for the worker's only slot: they are cancelled, time out, or lose their run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from prefect.client.schemas.filters import FlowRunFilter

from daybook.api import runs
from daybook.jobs.store import StoredJob
from tests.conftest import PrefectServer
from tests.world.agents import FOR_EVER, WORKS, Agent
from tests.world.home import with_worker
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]


@pytest.fixture(scope="module")
async def module_world(
    anyio_backend: str, prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[PrefectWorld]:
    """Yield a home with one worker that runs one run at a time."""
    root = tmp_path_factory.mktemp("working")
    async with with_worker(root, prefect_server, most=1) as world:
        yield world


async def busy_with(world: PrefectWorld) -> tuple[StoredJob, Agent]:
    """Start the run that occupies the slot until the test releases its agent."""
    agent = await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=agent.name)
    await world.prefect.custom_run(job)
    await agent.says("running")
    return job, agent


async def test_a_run_that_waits_for_a_slot_can_be_cancelled(working: PrefectWorld) -> None:
    """Cancel one run with `daybook cancel` and one in the UI."""
    first, busy = await busy_with(working)
    agent = await working.agents.add(FOR_EVER)
    jobs = [await working.deploy(on_demand=True, agent=agent.name) for _ in range(2)]
    rows = []
    for job in jobs:
        await working.prefect.custom_run(job)
        rows.append(await working.wait_for_status(job, "waiting"))
    assert [each.waits_for for each in rows] == ["slot", "slot"]

    await asyncio.gather(
        runs.cancel(rows[0].id),
        working.prefect.cancel(rows[1].flow_run_id),
        *(working.wait_for_end(job, "cancelled", within=SEEN) for job in jobs),
    )

    busy.release()
    await working.wait_for_end(first, "succeeded", within=SEEN)
    await working.workers.idle(within=SEEN)
    assert (busy.effect_count, agent.effect_count) == (1, 0)
    for job in jobs:
        row = await working.runs.row(job)
        assert (row.status, row.attempts) == ("cancelled", 0)


async def test_the_deadline_ends_a_waiting_run(working: PrefectWorld) -> None:
    first, busy = await busy_with(working)
    agent = await working.agents.add(FOR_EVER)
    job = await working.deploy(on_demand=True, agent=agent.name, deadline="3s")
    await working.prefect.custom_run(job)
    row = await working.wait_for_end(job, "timed_out", within=3.0 + SEEN)
    assert row.reason == "the deadline of 3s passed while it waited"
    busy.release()
    await working.wait_for_end(first, "succeeded", within=SEEN)
    assert (busy.effect_count, agent.effect_count, row.attempts) == (1, 0, 0)


async def test_a_waiting_run_deleted_in_prefect_gets_one_new_prefect_run(
    working: PrefectWorld,
) -> None:
    """The keeper creates the deleted Prefect run again, under its key."""
    _, busy = await busy_with(working)
    agent = await working.agents.add(WORKS)
    job = await working.deploy(on_demand=True, agent=agent.name)
    asked = await working.prefect.custom_run(job)
    await working.wait_for_status(job, "waiting")
    await working.client.delete_flow_run(asked.id)
    for each in (busy, agent):
        each.release()
    row = await working.wait_for_end(job, "succeeded", within=60.0)
    assert row.flow_run_id != str(asked.id)
    assert agent.effect_count == 1
    run_filter = FlowRunFilter.model_validate({"deployment_id": {"any_": [job.row.deployment_id]}})
    (only,) = await working.client.read_flow_runs(flow_run_filter=run_filter)
    assert str(only.id) == row.flow_run_id
