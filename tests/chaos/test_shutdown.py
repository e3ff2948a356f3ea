"""SIGTERM of the worker: with time to finish, and without."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from tests.crew import FOR_EVER, SEEN, WORKS, Crew, pending, so
from tests.floor import PREFECT_LEAVES_A_SOCKET, alive

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

FINISH = 10.0
"""Seconds that runs at work have to end by themselves."""
HARD = 10.0
"""Seconds from SIGTERM to SIGKILL for what has not."""
LEAVES = 30.0
"""Seconds in which a worker has gone whose runs have ended: to tell Prefect of their ends has ten,
and Prefect's own command waits ten for its event stream's farewell."""


@pytest.mark.parametrize("by_prefect", [False, True], ids=["daybook", "prefect"])
async def test_what_ends_in_time_has_its_outcome(crew: Crew, by_prefect: bool) -> None:
    agent = await crew.floor.agent(WORKS)
    job = await crew.floor.job(on_demand=True, agent=agent.name)
    late = await crew.floor.job(on_demand=True, agent=agent.name)
    worker = await crew.worker(by_prefect=by_prefect)
    await crew.floor.asked(job)
    await agent.says("acting")
    await worker.told(signal.SIGTERM)
    not_taken = await crew.floor.asked(late)
    agent.let_go()
    row = await crew.ends(job, "succeeded", within=SEEN)
    assert row.output == "done"
    assert await worker.ends(within=LEAVES) == 0
    await crew.nobody(within=5.0)
    assert agent.had == 1
    assert [each.id for each in await crew.floor.rows()] == [row.id]
    assert (await crew.shown(not_taken))[0] == "SCHEDULED"  # Prefect may call it late by now


async def test_told_twice_it_ends_what_is_at_work(crew: Crew) -> None:
    agent = await crew.floor.agent(FOR_EVER)
    job = await crew.floor.job(on_demand=True, agent=agent.name)
    worker = await crew.worker()
    await crew.floor.asked(job)
    pid = await agent.says("acting")
    await worker.told(signal.SIGTERM)
    await worker.told(signal.SIGTERM)

    async def gone() -> bool:
        return not alive(pid)

    assert await so(gone, FINISH - 2.0)  # its time was not waited for
    assert await worker.ends(within=LEAVES) == 0
    await crew.nobody(within=5.0)
    # It was written down before the worker left.
    row = await crew.has_ended(job, "unknown")
    assert row.reason == "the worker was stopped"
    assert agent.had == 1


async def test_what_takes_longer_is_ended(crew: Crew) -> None:
    agent = await crew.floor.agent(FOR_EVER)
    job = await crew.floor.job(on_demand=True, agent=agent.name)
    worker = await crew.worker()
    await crew.floor.asked(job)
    pid = await agent.says("acting")
    await worker.told(signal.SIGTERM)
    assert await worker.ends(within=FINISH + HARD + LEAVES) == 0
    assert not alive(pid)
    await crew.nobody(within=5.0)
    row = await crew.has_ended(job, "unknown")
    assert row.reason == "the worker was stopped"


async def test_what_has_not_begun_waits_for_another_worker(crew: Crew) -> None:
    agent = await crew.floor.agent(WORKS)
    job = await crew.floor.job(on_demand=True, agent=agent.name)
    gate = await crew.gate()
    gate.close_for(f"/name/{agent.name}")
    worker = await crew.worker(api_url=gate.api_url)
    asked = await crew.floor.asked(job)
    async with asyncio.timeout(30):
        await gate.held.wait()
    await worker.told(signal.SIGTERM)
    await worker.told(signal.SIGTERM)
    assert await worker.ends(within=LEAVES) == 0
    await crew.nobody(within=5.0)
    row = await crew.row(job)
    assert (row.status, row.attempts, agent.had) == ("waiting", 0, 0)
    assert (await crew.shown(asked))[0] == "SCHEDULED"
    await crew.worker()
    agent.let_go()
    row = await crew.ends(job, "succeeded", within=SEEN)
    assert agent.had == row.attempts == 1


async def test_told_to_end_when_it_has_its_outcome_a_run_shows_no_crash(crew: Crew) -> None:
    agent = await crew.floor.agent(WORKS)
    job = await crew.floor.job(on_demand=True, agent=agent.name)
    gate = await crew.gate()
    worker = await crew.worker(api_url=gate.api_url)
    asked = await crew.floor.asked(job)
    await agent.says("acting")
    gate.close_for("set_state")
    agent.let_go()
    await crew.becomes(job, "succeeded", within=SEEN)
    async with asyncio.timeout(SEEN):
        await gate.held.wait()  # its process is about to tell Prefect
    (head,) = worker.heads()
    os.kill(head.pid, signal.SIGTERM)

    async def taken() -> bool:
        return not any(pending(head.pid))

    assert await so(taken, SEEN)
    gate.let_go()
    await crew.ends(job, "succeeded", within=SEEN)
    await crew.idle(within=SEEN)
    states = await crew.floor.client.read_flow_run_states(asked.id)
    assert "CRASHED" not in {each.type.value for each in states}
