"""What makes a run begin again, and what ends it by the clock."""

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
from tests.world import World
from tests.world.agents import DEAF, FOR_EVER, WORKS
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN, alive

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]


@pytest.mark.journey
async def test_retry_in_the_ui_is_a_run_of_its_own(world: World) -> None:
    agent = await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=agent.name)
    await world.workers.begin()
    asked = await world.prefect.custom_run(job)
    agent.let_go(2)
    first = await world.ends(job, "succeeded", within=30.0)
    await world.client.set_flow_run_state(asked.id, Scheduled(), force=True)
    await agent.says("running")
    await agent.says("running")
    rows = await world.rows()
    assert [each.occurrence for each in rows] == [f"flow:{asked.id}", f"flow:{asked.id}:1"]
    again = await world.ends(rows[1], "succeeded", within=SEEN)
    assert (again.trigger, again.retry_of, again.flow_run_id) == ("retry", first.id, str(asked.id))
    before = await world.row(first)
    assert (before.finished_at, before.status) == (first.finished_at, "succeeded")
    assert agent.had == 2


async def test_retry_of_one_that_was_cancelled_before_it_began(world: World) -> None:
    agent = await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=agent.name)
    later: State[Any] = Scheduled(scheduled_time=SYSTEM_CLOCK.now() + timedelta(hours=1))
    deployment = UUID(str(job.row.deployment_id))
    asked = await world.client.create_flow_run_from_deployment(deployment, state=later)
    await world.workers.begin()
    await world.prefect.cancel(str(asked.id))
    first = await world.ends(job, "cancelled", within=30.0)
    assert first.attempts == 0

    await world.client.set_flow_run_state(asked.id, Scheduled(), force=True)

    await agent.says("running")
    agent.let_go()
    rows = sorted(await world.rows(), key=lambda row: row.queued_at)
    assert [each.occurrence for each in rows] == [f"flow:{asked.id}", f"flow:{asked.id}:1"]
    again = await world.ends(rows[1], "succeeded", within=SEEN)
    assert (again.trigger, again.retry_of, agent.had) == ("retry", first.id, 1)


@pytest.mark.parametrize("ended_again", [False, True])
async def test_a_late_word_to_wait_is_no_retry(world: World, ended_again: bool) -> None:
    """Of two workers that took the run, one says that it waits after the other has ended it."""
    agent = await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=agent.name)
    await world.workers.begin()
    asked = await world.prefect.custom_run(job)
    agent.let_go(2)
    first = await world.ends(job, "succeeded", within=30.0)
    late = states.waiting_state(SYSTEM_CLOCK.now(), "its turn comes later")
    for _ in range(1 + ended_again):
        await world.client.set_flow_run_state(asked.id, late, force=True)
        await world.shows(asked, "COMPLETED", within=SEEN)
    assert [each.id for each in await world.rows()] == [first.id]
    assert agent.had == 1


@pytest.mark.parametrize("losses", [1, 2])
async def test_a_lost_run_is_run_again_once_for_each_loss(world: World, losses: int) -> None:
    """With retries: 1 the job bears one loss."""
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
        agent.let_go()
    row = await world.ends(job, "succeeded" if losses == 1 else "unknown", within=SEEN)
    await world.workers.idle(within=SEEN)
    assert agent.had == row.attempts == 2
    ends = [each.status for each in await world.attempts(row)]
    assert ends == ["unknown", "succeeded" if losses == 1 else "unknown"]


async def test_the_deadline_ends_what_is_at_work(world: World) -> None:
    agent = await world.agents.add(FOR_EVER)
    job = await world.deploy(on_demand=True, agent=agent.name, deadline="15s", retries=3)
    await world.workers.begin()
    await world.prefect.custom_run(job)
    pid = await agent.says("running")
    row = await world.ends(job, "timed_out", within=15.0 + SEEN)
    assert row.error == "the deadline of 15s passed"
    await world.workers.idle(within=SEEN)
    assert not alive(pid)
    assert agent.had == row.attempts == 1
    assert row.finished_at is not None
    assert (row.finished_at - row.queued_at).total_seconds() >= 15.0


async def test_the_deadline_ends_what_waits(world: World) -> None:
    busy, agent = await world.agents.add(WORKS), await world.agents.add(FOR_EVER)
    first = await world.deploy(on_demand=True, agent=busy.name)
    job = await world.deploy(on_demand=True, agent=agent.name, deadline="3s")
    await world.workers.begin(most=1)
    await world.prefect.custom_run(first)
    await busy.says("running")
    await world.prefect.custom_run(job)
    row = await world.ends(job, "timed_out", within=3.0 + SEEN)
    assert row.reason == "the deadline of 3s passed while it waited"
    busy.let_go()
    await world.ends(first, "succeeded", within=SEEN)
    assert (busy.had, agent.had, row.attempts) == (1, 0, 0)


async def test_no_attempt_begins_while_a_deaf_one_runs(world: World) -> None:
    agent = await world.agents.add(DEAF)
    job = await world.deploy(
        on_demand=True, agent=agent.name, timeout="5s", retries=1, retry_delay="1s"
    )
    await world.workers.begin()
    await world.prefect.custom_run(job)
    first = await agent.says("running")
    second = await agent.says("running")
    assert not alive(first)
    row = await world.ends(job, "timed_out", within=30.0 + SEEN)
    assert not alive(second)
    await world.workers.idle(within=SEEN)
    assert agent.had == row.attempts == 2
    one, other = await world.attempts(row)
    assert (one.status, other.status) == ("timed_out", "timed_out")
    assert one.finished_at is not None
    assert one.finished_at < other.started_at


async def test_an_edited_run_is_made_once(world: World) -> None:
    """A run of ours that is deleted in Prefect while it waits is made again, under its key."""
    busy, agent = await world.agents.add(WORKS), await world.agents.add(WORKS)
    first = await world.deploy(on_demand=True, agent=busy.name)
    job = await world.deploy(on_demand=True, agent=agent.name)
    await world.workers.begin(most=1)
    await world.prefect.custom_run(first)
    await busy.says("running")
    asked = await world.prefect.custom_run(job)
    await world.becomes(job, "waiting")
    await world.client.delete_flow_run(asked.id)
    for each in (busy, agent):
        each.let_go()
    row = await world.ends(job, "succeeded", within=60.0)
    assert row.flow_run_id != str(asked.id)
    assert agent.had == 1
    wanted = FlowRunFilter.model_validate({"deployment_id": {"any_": [job.row.deployment_id]}})
    (only,) = await world.client.read_flow_runs(flow_run_filter=wanted)
    assert str(only.id) == row.flow_run_id
