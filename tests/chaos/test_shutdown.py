"""SIGTERM of a worker, with and without time for its runs to finish."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from daybook.home import Home
from daybook.timing import TIMING
from tests.conftest import PrefectServer
from tests.waiting import becomes_true
from tests.world.agents import FOR_EVER, WORKS
from tests.world.home import at_prefect
from tests.world.prefect_world import PrefectWorld
from tests.world.processes import alive
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

FINISH = 10.0
"""Seconds that running runs have to end by themselves."""
HARD = 10.0
"""Seconds from SIGTERM to SIGKILL for runs that have not ended."""
LEAVES = 30.0
"""Seconds until a worker exits after its runs have ended: ten to report their ends to Prefect, and
ten in which Prefect's own command closes its event stream."""


@pytest.mark.floor("A", "Stop lets a run in progress end")
@pytest.mark.floor("A", "Quiesce: no new run starts during a shutdown")
@pytest.mark.parametrize("by_prefect", [False, True], ids=["daybook", "prefect"])
async def test_a_run_that_ends_within_the_grace_period_has_its_outcome(
    world: PrefectWorld, by_prefect: bool
) -> None:
    agent = await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=agent.name)
    late = await world.deploy(on_demand=True, agent=agent.name)
    worker = await world.workers.begin(by_prefect=by_prefect)
    await world.prefect.custom_run(job)
    await agent.says("running")
    await worker.send_signal(signal.SIGTERM)
    not_taken = await world.prefect.custom_run(late)
    agent.release()
    row = await world.wait_for_end(job, "succeeded", within=SEEN)
    assert row.output == "done"
    assert await worker.wait_for_exit(within=LEAVES) == 0
    await world.workers.nobody(within=5.0)
    assert agent.effect_count == 1
    assert [each.id for each in await world.runs.rows()] == [row.id]
    assert (await world.prefect.shown(not_taken))[
        0
    ] == "SCHEDULED"  # Prefect may have named it Late by now


async def test_a_second_sigterm_ends_running_runs_at_once_and_claimed_runs_wait(
    world: PrefectWorld,
) -> None:
    """The claimed run waits for another worker."""
    agent, later = await world.agents.add(FOR_EVER), await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=agent.name)
    claimed = await world.deploy(on_demand=True, agent=later.name)
    gate = await world.workers.gate()
    gate.close_for(f'["{later.name}"]')
    worker = await world.workers.begin(api_url=gate.api_url)
    await world.prefect.custom_run(job)
    pid = await agent.says("running")
    asked = await world.prefect.custom_run(claimed)
    async with asyncio.timeout(30):
        await gate.held.wait()
    await worker.send_signal(signal.SIGTERM)
    await worker.send_signal(signal.SIGTERM)

    async def have_exited() -> bool:
        return not alive(pid)

    assert await becomes_true(have_exited, FINISH - 2.0)  # before the grace period is over
    assert await worker.wait_for_exit(within=LEAVES) == 0
    await world.workers.nobody(within=5.0)
    # The worker recorded the outcome before it exited.
    row = await world.has_ended(job, "unknown")
    assert row.reason == "the worker was stopped"
    assert agent.effect_count == 1
    row = await world.runs.row(claimed)
    assert (row.status, row.attempts, later.effect_count) == ("waiting", 0, 0)
    assert (await world.prefect.shown(asked))[0] == "SCHEDULED"
    await world.workers.begin()
    later.release()
    row = await world.wait_for_end(claimed, "succeeded", within=SEEN)
    assert later.effect_count == row.attempts == 1


async def test_a_run_that_exceeds_the_grace_period_is_ended(
    prefect_server: PrefectServer, daybook_home: Home, tmp_path: Path
) -> None:
    timing = replace(TIMING, shutdown_wait=timedelta(milliseconds=500))
    async with at_prefect(tmp_path, prefect_server, timing=timing) as world:
        await _is_ended_after_the_grace_period(world)


async def _is_ended_after_the_grace_period(world: PrefectWorld) -> None:
    agent = await world.agents.add(FOR_EVER)
    job = await world.deploy(on_demand=True, agent=agent.name)
    worker = await world.workers.begin()
    await world.prefect.custom_run(job)
    pid = await agent.says("running")
    await worker.send_signal(signal.SIGTERM)
    assert await worker.wait_for_exit(within=FINISH + HARD + LEAVES) == 0
    assert not alive(pid)
    await world.workers.nobody(within=5.0)
    row = await world.has_ended(job, "unknown")
    assert row.reason == "the worker was stopped"
