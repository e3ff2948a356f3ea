"""Repeated runs and time limits with a real worker: Retry, lost runs, deadlines, timeouts."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State
from prefect.states import Scheduled

from daybook.clock import SYSTEM_CLOCK
from daybook.prefect import states
from tests.world.agents import DEAF, FOR_EVER, WORKS
from tests.world.prefect_world import PrefectWorld
from tests.world.processes import alive
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]


@pytest.mark.journey
async def test_a_retry_in_prefects_ui_is_a_run_of_its_own(world: PrefectWorld) -> None:
    agent = await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=agent.name)
    await world.workers.begin()
    asked = await world.prefect.custom_run(job)
    agent.release(2)
    first = await world.wait_for_end(job, "succeeded", within=30.0)
    await world.client.set_flow_run_state(asked.id, Scheduled(), force=True)
    await agent.says("running")
    await agent.says("running")
    rows = await world.runs.rows()
    assert [each.occurrence for each in rows] == [f"flow:{asked.id}", f"flow:{asked.id}:1"]
    again = await world.wait_for_end(rows[1], "succeeded", within=SEEN)
    assert (again.trigger, again.retry_of, again.flow_run_id) == ("retry", first.id, str(asked.id))
    before = await world.runs.row(first)
    assert (before.finished_at, before.status) == (first.finished_at, "succeeded")
    assert agent.effect_count == 2


async def test_a_run_cancelled_before_it_began_can_be_retried(world: PrefectWorld) -> None:
    agent = await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=agent.name)
    later: State[Any] = Scheduled(scheduled_time=SYSTEM_CLOCK.now() + timedelta(hours=1))
    deployment = UUID(str(job.row.deployment_id))
    asked = await world.client.create_flow_run_from_deployment(deployment, state=later)
    await world.workers.begin()
    await world.prefect.cancel(str(asked.id))
    first = await world.wait_for_end(job, "cancelled", within=30.0)
    assert first.attempts == 0

    await world.client.set_flow_run_state(asked.id, Scheduled(), force=True)

    await agent.says("running")
    agent.release()
    rows = sorted(await world.runs.rows(), key=lambda row: row.queued_at)
    assert [each.occurrence for each in rows] == [f"flow:{asked.id}", f"flow:{asked.id}:1"]
    again = await world.wait_for_end(rows[1], "succeeded", within=SEEN)
    assert (again.trigger, again.retry_of, agent.effect_count) == ("retry", first.id, 1)


@pytest.mark.parametrize("ended_again", [False, True])
async def test_a_finished_run_that_another_worker_sets_back_is_not_retried(
    world: PrefectWorld, ended_again: bool
) -> None:
    """Two workers fetched the run; one sets it back to wait after the other has ended it."""
    agent = await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=agent.name)
    await world.workers.begin()
    asked = await world.prefect.custom_run(job)
    agent.release(2)
    first = await world.wait_for_end(job, "succeeded", within=30.0)
    late = states.waiting_state(SYSTEM_CLOCK.now(), "its turn comes later")
    for _ in range(1 + ended_again):
        await world.client.set_flow_run_state(asked.id, late, force=True)
        await world.shows(asked, "COMPLETED", within=SEEN)
    assert [each.id for each in await world.runs.rows()] == [first.id]
    assert agent.effect_count == 1


@pytest.mark.parametrize("losses", [1, 2])
async def test_a_lost_run_with_on_lost_rerun_runs_again_while_retries_are_left(
    world: PrefectWorld, losses: int
) -> None:
    """With `retries: 1` the run survives one loss."""
    agent = await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=agent.name, on_lost="rerun", retries=1)
    worker = await world.workers.begin()
    await world.prefect.custom_run(job)
    for _ in range(losses):
        pid = await agent.says("running")
        (head,) = worker.heads()
        os.kill(head.pid, signal.SIGKILL)
    if losses == 1:
        await agent.says("running")
        assert not alive(pid)
        agent.release()
    row = await world.wait_for_end(job, "succeeded" if losses == 1 else "unknown", within=SEEN)
    await world.workers.idle(within=SEEN)
    assert agent.effect_count == row.attempts == 2
    statuses = [each.status for each in await world.runs.attempts(row)]
    assert statuses == ["unknown", "succeeded" if losses == 1 else "unknown"]


async def test_the_deadline_ends_a_running_run(world: PrefectWorld) -> None:
    agent = await world.agents.add(FOR_EVER)
    job = await world.deploy(on_demand=True, agent=agent.name, deadline="15s", retries=3)
    await world.workers.begin()
    await world.prefect.custom_run(job)
    pid = await agent.says("running")
    row = await world.wait_for_end(job, "timed_out", within=15.0 + SEEN)
    assert row.error == "the deadline of 15s passed"
    await world.workers.idle(within=SEEN)
    assert not alive(pid)
    assert agent.effect_count == row.attempts == 1
    assert row.finished_at is not None
    assert (row.finished_at - row.queued_at).total_seconds() >= 15.0


async def test_the_deadline_ends_a_waiting_run(world: PrefectWorld) -> None:
    busy, agent = await world.agents.add(WORKS), await world.agents.add(FOR_EVER)
    first = await world.deploy(on_demand=True, agent=busy.name)
    job = await world.deploy(on_demand=True, agent=agent.name, deadline="3s")
    await world.workers.begin(most=1)
    await world.prefect.custom_run(first)
    await busy.says("running")
    await world.prefect.custom_run(job)
    row = await world.wait_for_end(job, "timed_out", within=3.0 + SEEN)
    assert row.reason == "the deadline of 3s passed while it waited"
    busy.release()
    await world.wait_for_end(first, "succeeded", within=SEEN)
    assert (busy.effect_count, agent.effect_count, row.attempts) == (1, 0, 0)


async def test_no_attempt_begins_before_one_that_ignores_sigterm_has_ended(
    world: PrefectWorld,
) -> None:
    agent = await world.agents.add(DEAF)
    job = await world.deploy(
        on_demand=True, agent=agent.name, timeout="5s", retries=1, retry_delay="1s"
    )
    await world.workers.begin()
    await world.prefect.custom_run(job)
    first = await agent.says("running")
    second = await agent.says("running")
    assert not alive(first)
    row = await world.wait_for_end(job, "timed_out", within=30.0 + SEEN)
    assert not alive(second)
    await world.workers.idle(within=SEEN)
    assert agent.effect_count == row.attempts == 2
    one, other = await world.runs.attempts(row)
    assert (one.status, other.status) == ("timed_out", "timed_out")
    assert one.finished_at is not None
    assert one.finished_at < other.started_at


async def test_a_waiting_run_deleted_in_prefect_gets_one_new_prefect_run(
    world: PrefectWorld,
) -> None:
    """The keeper creates the deleted Prefect run again, under its key."""
    busy, agent = await world.agents.add(WORKS), await world.agents.add(WORKS)
    first = await world.deploy(on_demand=True, agent=busy.name)
    job = await world.deploy(on_demand=True, agent=agent.name)
    await world.workers.begin(most=1)
    await world.prefect.custom_run(first)
    await busy.says("running")
    asked = await world.prefect.custom_run(job)
    await world.wait_for_status(job, "waiting")
    await world.client.delete_flow_run(asked.id)
    for each in (busy, agent):
        each.release()
    row = await world.wait_for_end(job, "succeeded", within=60.0)
    assert row.flow_run_id != str(asked.id)
    assert agent.effect_count == 1
    run_filter = FlowRunFilter.model_validate({"deployment_id": {"any_": [job.row.deployment_id]}})
    (only,) = await world.client.read_flow_runs(flow_run_filter=run_filter)
    assert str(only.id) == row.flow_run_id
