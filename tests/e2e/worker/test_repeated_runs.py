"""Repeated runs and time limits with a real worker: Retry, lost runs, deadlines, timeouts."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import State
from prefect.states import Scheduled

from daybook.clock import SYSTEM_CLOCK
from daybook.prefect import states
from tests.world.agents import DEAF, FOR_EVER, WORKS
from tests.world.prefect_world import PrefectWorld
from tests.world.processes import alive
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]


async def test_a_run_cancelled_before_it_began_can_be_retried(working: PrefectWorld) -> None:
    agent = await working.agents.add(WORKS)
    job = await working.deploy(on_demand=True, agent=agent.name)
    later: State[Any] = Scheduled(scheduled_time=SYSTEM_CLOCK.now() + timedelta(hours=1))
    deployment = UUID(str(job.row.deployment_id))
    asked = await working.client.create_flow_run_from_deployment(deployment, state=later)
    await working.prefect.cancel(str(asked.id))
    first = await working.wait_for_end(job, "cancelled", within=30.0)
    assert first.attempts == 0

    await working.client.set_flow_run_state(asked.id, Scheduled(), force=True)

    await agent.says("running")
    agent.release()
    rows = sorted(await working.runs.rows(job), key=lambda row: row.queued_at)
    assert [each.occurrence for each in rows] == [f"flow:{asked.id}", f"flow:{asked.id}:1"]
    again = await working.wait_for_end(rows[1], "succeeded", within=SEEN)
    assert (again.trigger, again.retry_of, agent.effect_count) == ("retry", first.id, 1)


@pytest.mark.parametrize("ended_again", [False, True])
async def test_a_finished_run_that_another_worker_sets_back_is_not_retried(
    working: PrefectWorld, ended_again: bool
) -> None:
    """Two workers fetched the run; one sets it back to wait after the other has ended it."""
    agent = await working.agents.add(WORKS)
    job = await working.deploy(on_demand=True, agent=agent.name)
    asked = await working.prefect.custom_run(job)
    agent.release(2)
    first = await working.wait_for_end(job, "succeeded", within=30.0)
    late = states.waiting_state(SYSTEM_CLOCK.now(), "its turn comes later")
    for _ in range(1 + ended_again):
        await working.client.set_flow_run_state(asked.id, late, force=True)
        await working.shows(asked, "COMPLETED", within=SEEN)
    assert [each.id for each in await working.runs.rows(job)] == [first.id]
    assert agent.effect_count == 1


@pytest.mark.parametrize("losses", [1, 2])
async def test_a_lost_run_with_on_lost_rerun_runs_again_while_retries_are_left(
    working: PrefectWorld, losses: int
) -> None:
    """With `retries: 1` the run survives one loss."""
    agent = await working.agents.add(WORKS)
    job = await working.deploy(on_demand=True, agent=agent.name, on_lost="rerun", retries=1)
    (worker,) = working.workers.all
    await working.prefect.custom_run(job)
    for _ in range(losses):
        pid = await agent.says("running")
        (head,) = worker.heads()
        os.kill(head.pid, signal.SIGKILL)
    if losses == 1:
        await agent.says("running")
        assert not alive(pid)
        agent.release()
    row = await working.wait_for_end(job, "succeeded" if losses == 1 else "unknown", within=SEEN)
    await working.workers.idle(within=SEEN)
    assert agent.effect_count == row.attempts == 2
    statuses = [each.status for each in await working.runs.attempts(row)]
    assert statuses == ["unknown", "succeeded" if losses == 1 else "unknown"]


async def test_the_deadline_ends_a_running_run(working: PrefectWorld) -> None:
    agent = await working.agents.add(FOR_EVER)
    job = await working.deploy(on_demand=True, agent=agent.name, deadline="8s", retries=3)
    await working.prefect.custom_run(job)
    pid = await agent.says("running")
    row = await working.wait_for_end(job, "timed_out", within=8.0 + SEEN)
    assert row.error == "the deadline of 8s passed"
    await working.workers.idle(within=SEEN)
    assert not alive(pid)
    assert agent.effect_count == row.attempts == 1
    assert row.finished_at is not None
    assert (row.finished_at - row.queued_at).total_seconds() >= 8.0


@pytest.mark.floor("C", "No retry starts while the attempt before it still runs")
async def test_no_attempt_begins_before_one_that_ignores_sigterm_has_ended(
    working: PrefectWorld,
) -> None:
    agent = await working.agents.add(DEAF)
    job = await working.deploy(
        on_demand=True, agent=agent.name, timeout="5s", retries=1, retry_delay="1s"
    )
    await working.prefect.custom_run(job)
    first = await agent.says("running")
    second = await agent.says("running")
    assert not alive(first)
    row = await working.wait_for_end(job, "timed_out", within=30.0 + SEEN)
    assert not alive(second)
    await working.workers.idle(within=SEEN)
    assert agent.effect_count == row.attempts == 2
    one, other = await working.runs.attempts(row)
    assert (one.status, other.status) == ("timed_out", "timed_out")
    assert one.finished_at is not None
    assert one.finished_at < other.started_at
