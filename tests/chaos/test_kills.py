"""Signals to a run's process and to the run launcher, while their worker lives."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from daybook.processes import proc
from tests.waiting import becomes_true
from tests.world.agents import WORKS
from tests.world.prefect_world import PrefectWorld
from tests.world.processes import alive, pending
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]


async def test_a_claimed_run_whose_process_is_killed_is_claimed_again(
    working: PrefectWorld,
) -> None:
    agent = await working.agents.add(WORKS)
    job = await working.deploy(on_demand=True, agent=agent.name)
    (gate,), (worker,) = working.workers.gates, working.workers.all
    gate.close_for(f'["{agent.name}"]')  # the run's process reads its agent there
    asked = await working.prefect.custom_run(job)
    async with asyncio.timeout(30):
        await gate.held.wait()
    first = await working.runs.row(job)
    assert first.status == "claimed"
    (head,) = worker.heads()
    os.kill(head.pid, signal.SIGKILL)

    async def again() -> bool:
        return (await working.runs.row(job)).fence > first.fence

    assert await becomes_true(again, SEEN), working.workers.logs()
    gate.release()
    agent.release()
    row = await working.wait_for_end(job, "succeeded", within=SEEN)
    assert row.fence > first.fence
    assert row.flow_run_id == str(asked.id)
    assert agent.effect_count == row.attempts == 1


async def test_a_killed_run_launcher_is_replaced_and_its_runs_continue(
    working: PrefectWorld,
) -> None:
    agent = await working.agents.add(WORKS)
    job = await working.deploy(on_demand=True, agent=agent.name)
    (worker,) = working.workers.all
    await working.prefect.custom_run(job)
    pid = await agent.says("running")
    (head,) = worker.heads()
    parent = worker.parent
    os.kill(parent.pid, signal.SIGKILL)
    assert await proc.wait_gone([parent], 5.0) == []
    # The running run continues, and a new launcher starts the next run.
    other = await working.agents.add(WORKS)
    following = await working.deploy(on_demand=True, agent=other.name)
    await working.prefect.custom_run(following)
    await other.says("running")
    assert worker.parent != parent
    assert alive(pid)
    assert proc.find(head.pid, head.started) is not None
    for one in (agent, other):
        one.release()
    for each in (job, following):
        row = await working.wait_for_end(each, "succeeded", within=SEEN)
        assert row.output == "done"
    assert (agent.effect_count, other.effect_count) == (1, 1)
    await working.workers.idle(within=SEEN)


async def test_a_run_that_gets_sigterm_after_its_outcome_shows_no_crash(
    working: PrefectWorld,
) -> None:
    agent = await working.agents.add(WORKS)
    job = await working.deploy(on_demand=True, agent=agent.name)
    (gate,), (worker,) = working.workers.gates, working.workers.all
    asked = await working.prefect.custom_run(job)
    await agent.says("running")
    gate.close_for("set_state")
    agent.release()
    await working.wait_for_status(job, "succeeded", within=SEEN)
    async with asyncio.timeout(SEEN):
        await gate.held.wait()  # its process is about to set the state in Prefect
    (head,) = worker.heads()
    os.kill(head.pid, signal.SIGTERM)

    async def taken() -> bool:
        return not any(pending(head.pid))

    assert await becomes_true(taken, SEEN)
    gate.release()
    await working.wait_for_end(job, "succeeded", within=SEEN)
    await working.workers.idle(within=SEEN)
    states = await working.client.read_flow_run_states(asked.id)
    assert "CRASHED" not in {each.type.value for each in states}
