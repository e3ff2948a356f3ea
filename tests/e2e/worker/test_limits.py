"""Slot limits with real workers: waiting runs show as waiting, start by due time, and all run."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from prefect.client.schemas.actions import DeploymentUpdate

from daybook.clock import SYSTEM_CLOCK
from daybook.jobs import store as book
from daybook.jobs.store import StoredJob
from tests.waiting import becomes_true
from tests.world.agents import WORKS
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

JOBS, MOST = 10, 3


async def at_once(world: PrefectWorld, agent: str) -> tuple[datetime, list[StoredJob]]:
    """Deploy `JOBS` jobs that are due in the same second; return that instant and the jobs."""
    due = (SYSTEM_CLOCK.now() + timedelta(seconds=20)).replace(microsecond=0)
    return due, [await world.deploy(at=due.isoformat(), agent=agent) for _ in range(JOBS)]


@pytest.mark.timeout(240)
async def test_ten_jobs_due_in_the_same_second_share_three_slots_in_order(
    world: PrefectWorld,
) -> None:
    agent = await world.agents.add(WORKS)
    due, jobs = await at_once(world, agent.name)
    assert SYSTEM_CLOCK.now() < due
    await world.workers.begin(most=MOST)

    async def all_known() -> bool:
        return len(await world.runs.rows()) == JOBS

    assert await becomes_true(all_known, 60.0), world.workers.logs()
    for _ in range(MOST):
        await agent.says("running")
    rows = await world.runs.rows()
    assert sorted(each.status for each in rows) == ["running"] * MOST + ["waiting"] * (JOBS - MOST)
    waits = [each for each in rows if each.status == "waiting"]
    assert {each.waits_for for each in waits} == {"slot"}
    for each in waits:
        await world.shows(each.flow_run_id, "SCHEDULED", "AwaitingConcurrencySlot", within=SEEN)
    # A pause and an edit of the deployment do not affect a waiting run.
    spared = max(waits, key=lambda each: each.queued_at)
    (job,) = [each for each in jobs if each.id == spared.job_id]
    deployment = UUID(str(job.row.deployment_id))
    client = world.client
    await client.pause_deployment(deployment)
    await client.resume_deployment(deployment)
    await client.update_deployment(deployment, DeploymentUpdate(description="edited"))
    assert await world.prefect.shown(spared.flow_run_id) == ("SCHEDULED", "AwaitingConcurrencySlot")

    async def known() -> bool:  # else a claim might find the job disabled, and skip
        async with world.ledger.read() as session:
            now = (await book.find(session, job.id)).job
            return now.enabled and now.description == "edited"

    assert await becomes_true(known, 2 * SEEN), world.workers.logs()
    agent.release(JOBS)
    for each in rows:
        row = await world.wait_for_end(each, "succeeded", within=120.0)
        assert row.flow_run_id == each.flow_run_id
        assert row.attempts == 1
    assert agent.effect_count == JOBS
    await world.workers.idle(within=SEEN)
    rows = await world.runs.rows()
    assert len(rows) == JOBS
    assert {each.due for each in rows} == {due}
    assert all(each.started_at is not None and each.started_at >= due for each in rows)
    tries = [(await world.runs.attempts(each))[0] for each in rows]
    spans = [(each.started_at, each.finished_at or due) for each in tries]
    for started, _ in spans:
        assert sum(begin <= started < end for begin, end in spans) <= MOST
    # They start by due time, which is the same here, and then by the time of their request.
    later = [each for each in rows if each.id in {wait.id for wait in waits}]
    by_start = sorted(later, key=lambda each: each.started_at or due)
    order = [each.id for each in sorted(later, key=lambda each: (each.queued_at, each.id))]
    for place, each in enumerate(by_start):
        # Runs that get slots at the same moment start concurrently.
        assert abs(order.index(each.id) - place) < 2 * MOST


async def test_a_full_worker_leaves_the_next_run_to_another_worker(world: PrefectWorld) -> None:
    agents = [await world.agents.add(WORKS) for _ in range(2)]
    jobs = [await world.deploy(on_demand=True, agent=agent.name) for agent in agents]
    await world.workers.begin(limit=1)
    await world.prefect.custom_run(jobs[0])
    await agents[0].says("running")
    await world.prefect.custom_run(jobs[1])
    row = await world.wait_for_status(jobs[1], "waiting")
    assert (row.waits_for, row.reason) == ("worker", "the worker has no free slot")
    await world.workers.begin(limit=1)
    await agents[1].says("running")
    holders = {(await world.runs.row(job)).holder for job in jobs}
    assert len(holders) == 2
    for agent in agents:
        agent.release()
    await asyncio.gather(*(world.wait_for_end(job, "succeeded", within=SEEN) for job in jobs))
    assert [agent.effect_count for agent in agents] == [1, 1]


async def test_two_workers_execute_each_run_once(world: PrefectWorld) -> None:
    agent = await world.agents.add(WORKS)
    jobs = [await world.deploy(on_demand=True, agent=agent.name) for _ in range(6)]
    for _ in range(2):
        await world.workers.begin(most=20)
    await asyncio.gather(*(world.prefect.custom_run(job) for job in jobs))
    agent.release(len(jobs))
    for job in jobs:
        row = await world.wait_for_end(job, "succeeded", within=60.0)
        assert (row.attempts, row.fence) == (1, 1)
    assert agent.effect_count == len(jobs)
