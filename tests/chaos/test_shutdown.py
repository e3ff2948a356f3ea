"""SIGTERM of the worker: with time to finish, and without."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from tests.world import World, so
from tests.world.agents import FOR_EVER, WORKS
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN, alive, pending

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

FINISH = 10.0
"""Seconds that runs at work have to end by themselves."""
HARD = 10.0
"""Seconds from SIGTERM to SIGKILL for what has not."""
LEAVES = 30.0
"""Seconds in which a worker has gone whose runs have ended: to tell Prefect of their ends has ten,
and Prefect's own command waits ten for its event stream's farewell."""


@pytest.mark.parametrize("by_prefect", [False, True], ids=["daybook", "prefect"])
async def test_what_ends_in_time_has_its_outcome(world: World, by_prefect: bool) -> None:
    agent = await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=agent.name)
    late = await world.deploy(on_demand=True, agent=agent.name)
    worker = await world.workers.begin(by_prefect=by_prefect)
    await world.prefect.custom_run(job)
    await agent.says("running")
    await worker.told(signal.SIGTERM)
    not_taken = await world.prefect.custom_run(late)
    agent.let_go()
    row = await world.ends(job, "succeeded", within=SEEN)
    assert row.output == "done"
    assert await worker.ends(within=LEAVES) == 0
    await world.workers.nobody(within=5.0)
    assert agent.had == 1
    assert [each.id for each in await world.rows()] == [row.id]
    assert (await world.prefect.shown(not_taken))[
        0
    ] == "SCHEDULED"  # Prefect may call it late by now


async def test_told_twice_it_ends_what_is_at_work(world: World) -> None:
    agent = await world.agents.add(FOR_EVER)
    job = await world.deploy(on_demand=True, agent=agent.name)
    worker = await world.workers.begin()
    await world.prefect.custom_run(job)
    pid = await agent.says("running")
    await worker.told(signal.SIGTERM)
    await worker.told(signal.SIGTERM)

    async def gone() -> bool:
        return not alive(pid)

    assert await so(gone, FINISH - 2.0)  # its time was not waited for
    assert await worker.ends(within=LEAVES) == 0
    await world.workers.nobody(within=5.0)
    # It was written down before the worker left.
    row = await world.has_ended(job, "unknown")
    assert row.reason == "the worker was stopped"
    assert agent.had == 1


async def test_what_takes_longer_is_ended(world: World) -> None:
    agent = await world.agents.add(FOR_EVER)
    job = await world.deploy(on_demand=True, agent=agent.name)
    worker = await world.workers.begin()
    await world.prefect.custom_run(job)
    pid = await agent.says("running")
    await worker.told(signal.SIGTERM)
    assert await worker.ends(within=FINISH + HARD + LEAVES) == 0
    assert not alive(pid)
    await world.workers.nobody(within=5.0)
    row = await world.has_ended(job, "unknown")
    assert row.reason == "the worker was stopped"


async def test_what_has_not_begun_waits_for_another_worker(world: World) -> None:
    agent = await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=agent.name)
    gate = await world.workers.gate()
    gate.close_for(f"/name/{agent.name}")
    worker = await world.workers.begin(api_url=gate.api_url)
    asked = await world.prefect.custom_run(job)
    async with asyncio.timeout(30):
        await gate.held.wait()
    await worker.told(signal.SIGTERM)
    await worker.told(signal.SIGTERM)
    assert await worker.ends(within=LEAVES) == 0
    await world.workers.nobody(within=5.0)
    row = await world.row(job)
    assert (row.status, row.attempts, agent.had) == ("waiting", 0, 0)
    assert (await world.prefect.shown(asked))[0] == "SCHEDULED"
    await world.workers.begin()
    agent.let_go()
    row = await world.ends(job, "succeeded", within=SEEN)
    assert agent.had == row.attempts == 1


async def test_told_to_end_when_it_has_its_outcome_a_run_shows_no_crash(world: World) -> None:
    agent = await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=agent.name)
    gate = await world.workers.gate()
    worker = await world.workers.begin(api_url=gate.api_url)
    asked = await world.prefect.custom_run(job)
    await agent.says("running")
    gate.close_for("set_state")
    agent.let_go()
    await world.becomes(job, "succeeded", within=SEEN)
    async with asyncio.timeout(SEEN):
        await gate.held.wait()  # its process is about to tell Prefect
    (head,) = worker.heads()
    os.kill(head.pid, signal.SIGTERM)

    async def taken() -> bool:
        return not any(pending(head.pid))

    assert await so(taken, SEEN)
    gate.let_go()
    await world.ends(job, "succeeded", within=SEEN)
    await world.workers.idle(within=SEEN)
    states = await world.client.read_flow_run_states(asked.id)
    assert "CRASHED" not in {each.type.value for each in states}
