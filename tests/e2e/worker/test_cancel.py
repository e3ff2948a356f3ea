"""Cancellation by `daybook cancel` and in Prefect's UI, at each stage of a run."""

from __future__ import annotations

import asyncio

import pytest

from daybook.api import runs
from daybook.clock import SYSTEM_CLOCK
from daybook.delivery.views import RunDetails
from daybook.jobs.store import StoredJob
from daybook.ledger.tables import RunRow
from tests.receiver import answer, serving
from tests.waiting import becomes_true
from tests.world.agents import FOR_EVER, Agent
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import CANCELLED, PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]


async def two(world: PrefectWorld, program: str) -> tuple[list[Agent], list[StoredJob]]:
    """Deploy a job with an agent of its own for each of the two ways to cancel."""
    agents = [await world.agents.add(program) for _ in range(2)]
    return agents, [await world.deploy(on_demand=True, agent=agent.name) for agent in agents]


async def cancelled(world: PrefectWorld, jobs: list[StoredJob]) -> None:
    """Cancel the first job's run as `daybook cancel` does, and the second one as the UI does.

    Assert that their processes are gone within the promised time.
    """
    rows = [await world.runs.row(job) for job in jobs]
    began = SYSTEM_CLOCK.now()

    async def exit_time() -> float:
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


async def test_a_claimed_run_that_has_not_begun_can_be_cancelled(working: PrefectWorld) -> None:
    agents, jobs = await two(working, FOR_EVER)
    (gate,) = working.workers.gates
    for agent, job in zip(agents, jobs, strict=True):
        gate.close_for(f"/name/{agent.name}")
        await working.prefect.custom_run(job)
        async with asyncio.timeout(30):
            await gate.held.wait()
        assert (await working.runs.row(job)).status == "claimed"
    await cancelled(working, jobs)
    gate.release()
    assert [each.effect_count for each in agents] == [0, 0]


@pytest.mark.floor("C", "A run can be cancelled")
@pytest.mark.journey
async def test_a_running_run_can_be_cancelled(working: PrefectWorld) -> None:
    agents, jobs = await two(working, FOR_EVER)
    for agent, job in zip(agents, jobs, strict=True):
        await working.prefect.custom_run(job)
        await agent.says("running")
    await cancelled(working, jobs)
    assert [each.effect_count for each in agents] == [1, 1]
    for job in jobs:
        row = await working.runs.row(job)
        (attempt,) = await working.runs.attempts(row)
        assert attempt.status == "cancelled"

        async def has_artifact(of: RunRow = row) -> bool:
            return await working.prefect.has_artifact(of.flow_run_id)

        assert await becomes_true(has_artifact, SEEN)
        page = await working.prefect.artifact(row.flow_run_id)
        assert page.startswith(f"# {job.job.name}\n\n**cancelled** · requested ")
        log = await working.prefect.log(row.flow_run_id)
        assert ("INFO", "cancelled") in log
        assert "ERROR" not in {level for level, _ in log}
        assert " · took " in page and f"/deployments/deployment/{job.row.deployment_id})" in page


# With jitter, 27 s become at most 29.7 s, and a process waits for up to 30 s.
@pytest.mark.parametrize(
    ("delay", "is_kept"), [("27s", True), ("60s", False)], ids=["in_its_process", "in_prefect"]
)
async def test_a_run_that_waits_for_its_next_attempt_can_be_cancelled(
    working: PrefectWorld, delay: str, is_kept: bool
) -> None:
    (worker,) = working.workers.all
    async with serving() as web:
        web.steps = [answer(503)]
        jobs = [
            await working.deploy(prompt=None, url=web.address, retries=1, retry_delay=delay)
            for _ in range(2)
        ]
        for job in jobs:
            await working.prefect.custom_run(job)
        for job in jobs:
            row = await working.wait_for_status(job, "waiting")
            while row.attempts == 0:  # requested, and waiting for its first attempt
                row = await working.wait_for_status(job, "waiting")
        if is_kept:
            assert len(worker.heads()) == 2
        else:
            await working.workers.idle(within=SEEN)
            for job in jobs:
                run = (await working.runs.row(job)).flow_run_id
                await working.shows(run, "SCHEDULED", "AwaitingConcurrencySlot", within=SEEN)
        await cancelled(working, jobs)
        assert len(web.requests) == 2


async def test_cancelling_a_run_several_times_has_the_same_result(working: PrefectWorld) -> None:
    """Cancel it twice at once, and again after it has ended."""
    agent = await working.agents.add(FOR_EVER)
    job = await working.deploy(on_demand=True, agent=agent.name)
    await working.prefect.custom_run(job)
    await agent.says("running")
    row = await working.runs.row(job)
    both = await asyncio.gather(runs.cancel(row.id), runs.cancel(row.id))
    assert [each.status for each in both] == ["cancelled", "cancelled"]
    assert (await runs.cancel(row.id)).status == "cancelled"
    after = await working.wait_for_end(job, "cancelled", within=SEEN)
    assert after.evidence == []
