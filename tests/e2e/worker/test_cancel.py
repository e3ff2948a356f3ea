"""Cancellation by `daybook cancel` and in Prefect's UI, at each stage of a run."""

from __future__ import annotations

import asyncio
import os
import re

import pytest

from daybook.api import runs
from tests.e2e.mcp.clients import PROGRAM, Where, by_mcp
from tests.e2e.worker.cancelling import cancelled, two
from tests.receiver import answer, serving
from tests.world.agents import FOR_EVER
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]


async def test_a_claimed_run_that_has_not_begun_can_be_cancelled(working: PrefectWorld) -> None:
    agents, jobs = await two(working, FOR_EVER)
    (gate,) = working.workers.gates
    for agent, job in zip(agents, jobs, strict=True):
        gate.close_for(f'["{agent.name}"]')
        await working.prefect.custom_run(job)
        async with asyncio.timeout(30):
            await gate.held.wait()
        assert (await working.runs.row(job)).status == "claimed"
    await cancelled(working, jobs)
    gate.release()
    assert [each.effect_count for each in agents] == [0, 0]


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


async def test_an_mcp_client_cancels_an_endless_run(working: PrefectWorld) -> None:
    agent = await working.agents.add(FOR_EVER)
    command = (*PROGRAM, "--owner", f"agent:{agent.name}")
    async with by_mcp(Where(dict(os.environ), command=command)) as talk:
        given = {
            "prompt": "Go on.",
            "schedule": "on demand",
            "agent": agent.name,
            "name": "endless",
        }
        assert not (await talk.call("cron_add", **given)).refused
        asked = asyncio.create_task(talk.call("cron_trigger", job_id="endless"))
        await agent.says("running")
        live = await talk.call("cron_runs", job_id="endless")
        assert ": running, requested " in live.text
        ended = await talk.call("cron_cancel", job_id="endless")
        assert re.match(r"Ended: run [0-9a-f]{8}: cancelled", ended.text), ended.text
        assert (await asked).text.startswith("Ran: run ")
        again = await talk.call("cron_cancel", job_id="endless")
        assert (again.refused, "cron_runs lists" in again.text) == (True, True), again.text
        assert not (await talk.call("cron_remove", job_id="endless")).refused
    assert agent.effect_count == 1
