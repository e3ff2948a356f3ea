"""The two ways to cancel a run, used at once, and the time within which its processes are gone."""

from __future__ import annotations

import asyncio

from daybook.api import runs
from daybook.clock import SYSTEM_CLOCK
from daybook.delivery.views import RunDetails
from daybook.jobs.store import StoredJob
from tests.world.agents import Agent
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import CANCELLED, SEEN


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
