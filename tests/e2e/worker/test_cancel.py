"""Cancellation by `daybook cancel` and in Prefect's UI, at each stage of a run."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from daybook.api import runs
from daybook.clock import SYSTEM_CLOCK
from daybook.delivery.views import RunDetails
from daybook.jobs.store import StoredJob
from daybook.ledger.tables import RunRow
from tests.waiting import becomes_true
from tests.world.agents import FOR_EVER, WORKS, Agent
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import CANCELLED, PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

LOOK = timedelta(seconds=0.05)


async def two(
    world: PrefectWorld, program: str, **fields: object
) -> tuple[list[Agent], list[StoredJob]]:
    """Deploy a job with an agent of its own for each of the two ways to cancel."""
    agents = [await world.agents.add(program) for _ in range(2)]
    return agents, [
        await world.deploy(on_demand=True, agent=agent.name, **fields) for agent in agents
    ]


async def cancelled(world: PrefectWorld, jobs: list[StoredJob], others: int = 0) -> None:
    """Cancel the first job's run as `daybook cancel` does, and the second one as the UI does.

    Assert that only processes of ``others`` runs are left within the promised time.
    """
    rows = [await world.runs.row(job) for job in jobs]
    began = SYSTEM_CLOCK.now()

    async def exit_time() -> float:
        while len([each for worker in world.workers.all for each in worker.heads()]) > others:
            await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + LOOK)
        if not others:
            await world.workers.idle(within=CANCELLED)
        return (SYSTEM_CLOCK.now() - began).total_seconds()

    output, _, seconds, *_ = await asyncio.gather(
        runs.cancel(rows[0].id),
        world.prefect.cancel(rows[1].flow_run_id),
        exit_time(),
        *(world.wait_for_end(job, "cancelled", within=SEEN) for job in jobs),
    )
    assert isinstance(output, RunDetails)
    assert output.status == "cancelled"
    assert isinstance(seconds, float)
    assert seconds <= CANCELLED


async def test_a_run_that_waits_for_a_slot_can_be_cancelled(world: PrefectWorld) -> None:
    busy = await world.agents.add(WORKS)
    first = await world.deploy(on_demand=True, agent=busy.name)
    agents, jobs = await two(world, FOR_EVER)
    await world.workers.begin(most=1)
    await world.prefect.custom_run(first)
    await busy.says("running")
    for job in jobs:
        await world.prefect.custom_run(job)
        row = await world.wait_for_status(job, "waiting")
        assert row.waits_for == "slot"
    await cancelled(world, jobs, others=1)
    busy.release()
    await world.wait_for_end(first, "succeeded", within=SEEN)
    await world.workers.idle(within=SEEN)
    assert [each.effect_count for each in (busy, *agents)] == [1, 0, 0]
    for job in jobs:
        row = await world.runs.row(job)
        assert (row.status, row.attempts) == ("cancelled", 0)


async def test_a_claimed_run_that_has_not_begun_can_be_cancelled(world: PrefectWorld) -> None:
    agents, jobs = await two(world, FOR_EVER)
    gate = await world.workers.gate()
    await world.workers.begin(api_url=gate.api_url)
    for agent, job in zip(agents, jobs, strict=True):
        gate.close_for(f"/name/{agent.name}")
        await world.prefect.custom_run(job)
        async with asyncio.timeout(30):
            await gate.held.wait()
        assert (await world.runs.row(job)).status == "claimed"
    await cancelled(world, jobs)
    gate.release()
    assert [each.effect_count for each in agents] == [0, 0]


@pytest.mark.journey
async def test_a_running_run_can_be_cancelled(world: PrefectWorld) -> None:
    agents, jobs = await two(world, FOR_EVER)
    await world.workers.begin()
    for agent, job in zip(agents, jobs, strict=True):
        await world.prefect.custom_run(job)
        await agent.says("running")
    await cancelled(world, jobs)
    assert [each.effect_count for each in agents] == [1, 1]
    for job in jobs:
        row = await world.runs.row(job)
        (attempt,) = await world.runs.attempts(row)
        assert attempt.status == "cancelled"

        async def has_artifact(of: RunRow = row) -> bool:
            return await world.prefect.has_artifact(of.flow_run_id)

        assert await becomes_true(has_artifact, SEEN)
        page = await world.prefect.artifact(row.flow_run_id)
        assert page.startswith(f"# {job.job.name}\n\n**cancelled** · requested ")
        assert " · took " in page and f"/deployments/deployment/{job.row.deployment_id})" in page


# With jitter, 27 s become at most 29.7 s, and a process waits for up to 30 s.
@pytest.mark.parametrize(
    ("delay", "is_kept"), [("27s", True), ("60s", False)], ids=["in_its_process", "in_prefect"]
)
async def test_a_run_that_waits_for_its_next_attempt_can_be_cancelled(
    world: PrefectWorld, delay: str, is_kept: bool
) -> None:
    agents, jobs = await two(world, FOR_EVER, timeout="5s", retries=1, retry_delay=delay)
    worker = await world.workers.begin()
    for job in jobs:
        await world.prefect.custom_run(job)
    for job in jobs:
        row = await world.wait_for_status(job, "waiting")
        while row.attempts == 0:  # requested, and waiting for its first attempt
            row = await world.wait_for_status(job, "waiting")
    if is_kept:
        assert len(worker.heads()) == 2
    else:
        await world.workers.idle(within=SEEN)
        for job in jobs:
            row = await world.runs.row(job)
            await world.shows(row.flow_run_id, "SCHEDULED", "AwaitingConcurrencySlot", within=SEEN)
    await cancelled(world, jobs)
    assert [each.effect_count for each in agents] == [1, 1]


async def test_cancelling_a_run_several_times_has_the_same_result(world: PrefectWorld) -> None:
    """Cancel it twice at once, and again after it has ended."""
    agent = await world.agents.add(FOR_EVER)
    job = await world.deploy(on_demand=True, agent=agent.name)
    await world.workers.begin()
    await world.prefect.custom_run(job)
    await agent.says("running")
    row = await world.runs.row(job)
    both = await asyncio.gather(runs.cancel(row.id), runs.cancel(row.id))
    assert [each.status for each in both] == ["cancelled", "cancelled"]
    assert (await runs.cancel(row.id)).status == "cancelled"
    after = await world.wait_for_end(job, "cancelled", within=SEEN)
    assert after.evidence == []
