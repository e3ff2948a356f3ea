"""Cancelled by `daybook cancel` and in Prefect's UI, at each moment of a run's life."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from daybook.clock import SYSTEM
from daybook.ledger.jobs import StoredJob
from daybook.service import runs
from tests.crew import CANCELLED, FOR_EVER, SEEN, WORKS, Crew
from tests.floor import PREFECT_LEAVES_A_SOCKET, Agent

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

LOOK = timedelta(seconds=0.05)


async def two(crew: Crew, program: str, **fields: object) -> tuple[list[Agent], list[StoredJob]]:
    """A job for each of the ways to cancel, with an agent of its own."""
    agents = [await crew.floor.agent(program) for _ in range(2)]
    return agents, [
        await crew.floor.job(on_demand=True, agent=agent.name, **fields) for agent in agents
    ]


async def cancelled(crew: Crew, jobs: list[StoredJob], others: int = 0) -> None:
    """Cancel the first as `daybook cancel` does and the second in the UI.

    What is left at work are the processes of ``others`` runs, within the time that is promised.
    """
    rows = [await crew.row(job) for job in jobs]
    began = SYSTEM.now()

    async def gone() -> float:
        while len([each for worker in crew.workers for each in worker.heads()]) > others:
            await SYSTEM.wait_until(SYSTEM.now() + LOOK)
        if not others:
            await crew.idle(within=CANCELLED)
        return (SYSTEM.now() - began).total_seconds()

    said, _, took, *_ = await asyncio.gather(
        runs.cancel(rows[0].id),
        crew.cancel_in_ui(rows[1].flow_run_id),
        gone(),
        *(crew.ends(job, "cancelled", within=SEEN) for job in jobs),
    )
    assert said["status"] == "cancelled"
    assert took <= CANCELLED


async def test_while_it_waits_for_a_slot(crew: Crew) -> None:
    busy = await crew.floor.agent(WORKS)
    first = await crew.floor.job(on_demand=True, agent=busy.name)
    agents, jobs = await two(crew, FOR_EVER)
    await crew.worker(most=1)
    await crew.floor.asked(first)
    await busy.says("acting")
    for job in jobs:
        await crew.floor.asked(job)
        row = await crew.becomes(job, "waiting")
        assert row.waits_for == "slot"
    await cancelled(crew, jobs, others=1)
    busy.let_go()
    await crew.ends(first, "succeeded", within=SEEN)
    await crew.idle(within=SEEN)
    assert [each.had for each in (busy, *agents)] == [1, 0, 0]
    for job in jobs:
        row = await crew.row(job)
        assert (row.status, row.attempts) == ("cancelled", 0)


async def test_when_it_is_claimed_and_has_not_begun(crew: Crew) -> None:
    agents, jobs = await two(crew, FOR_EVER)
    gate = await crew.gate()
    await crew.worker(api_url=gate.api_url)
    for agent, job in zip(agents, jobs, strict=True):
        gate.close_for(f"/name/{agent.name}")
        await crew.floor.asked(job)
        async with asyncio.timeout(30):
            await gate.held.wait()
        assert (await crew.row(job)).status == "claimed"
    await cancelled(crew, jobs)
    gate.let_go()
    assert [each.had for each in agents] == [0, 0]


@pytest.mark.journey
async def test_while_it_is_at_work(crew: Crew) -> None:
    agents, jobs = await two(crew, FOR_EVER)
    await crew.worker()
    for agent, job in zip(agents, jobs, strict=True):
        await crew.floor.asked(job)
        await agent.says("acting")
    await cancelled(crew, jobs)
    assert [each.had for each in agents] == [1, 1]
    for job in jobs:
        (attempt,) = await crew.attempts(await crew.row(job))
        assert attempt.status == "cancelled"


@pytest.mark.parametrize(
    ("delay", "kept"), [("20s", True), ("60s", False)], ids=["in_its_process", "in_prefect"]
)
async def test_in_a_backoff(crew: Crew, delay: str, kept: bool) -> None:
    agents, jobs = await two(crew, FOR_EVER, timeout="5s", retries=1, retry_delay=delay)
    worker = await crew.worker()
    for job in jobs:
        await crew.floor.asked(job)
    for job in jobs:
        row = await crew.becomes(job, "waiting")
        while row.attempts == 0:  # asked for, and waiting for its first
            row = await crew.becomes(job, "waiting")
    if kept:
        assert len(worker.heads()) == 2
    else:
        await crew.idle(within=SEEN)
        for job in jobs:
            row = await crew.row(job)
            await crew.shows(row.flow_run_id, "SCHEDULED", "AwaitingConcurrencySlot", within=SEEN)
    await cancelled(crew, jobs)
    assert [each.had for each in agents] == [1, 1]


async def test_twice_and_after_the_end(crew: Crew) -> None:
    """A run that was cancelled is cancelled; one that has ended otherwise cannot be."""
    agent = await crew.floor.agent(FOR_EVER)
    job = await crew.floor.job(on_demand=True, agent=agent.name)
    await crew.worker()
    await crew.floor.asked(job)
    await agent.says("acting")
    row = await crew.row(job)
    both = await asyncio.gather(runs.cancel(row.id), runs.cancel(row.id))
    assert [each["status"] for each in both] == ["cancelled", "cancelled"]
    assert (await runs.cancel(row.id))["status"] == "cancelled"
    after = await crew.ends(job, "cancelled", within=SEEN)
    assert after.evidence == []
