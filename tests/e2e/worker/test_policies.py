"""Policies with a real worker and Prefect: overlap, backfills, one-time jobs, failures."""

from __future__ import annotations

from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRun

from daybook.clock import SYSTEM_CLOCK
from daybook.ledger.tables import RunRow
from daybook.runs import backfill
from tests.waiting import becomes_true
from tests.world.agents import WORKS
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

SOON = 20.0
"""Seconds: less than the 30 s after which a waiting run claims again by itself."""


async def _row(world: PrefectWorld, flow_run: FlowRun, status: str) -> RunRow:
    """Wait until the row of this flow run has the status, and return it."""
    found: list[RunRow] = []

    async def it_is() -> bool:
        rows = await world.runs.rows()
        found[:] = [each for each in rows if each.flow_run_id == str(flow_run.id)]
        return bool(found) and found[0].status == status

    assert await becomes_true(it_is, SEEN), (await world.runs.rows(), world.workers.logs())
    return found[0]


async def test_the_next_run_in_a_queue_begins_when_the_previous_one_has_ended(
    working: PrefectWorld,
) -> None:
    agent = await working.agents.add(WORKS)
    fields = {"on_demand": True, "session": "new", "overlap": "queue_all"}
    job = await working.deploy(agent=agent.name, **fields)
    first = await working.prefect.custom_run(job)
    await agent.says("running")
    second = await working.prefect.custom_run(job)
    waits = await _row(working, second, "waiting")
    assert waits.waits_for == "overlap"
    await working.shows(second, "SCHEDULED", "AwaitingConcurrencySlot", within=SEEN)

    agent.release()
    await agent.says("running", within=SOON)

    agent.release()
    for flow_run in (first, second):
        await working.wait_for_end(
            await _row(working, flow_run, "succeeded"), "succeeded", within=SEEN
        )
    assert agent.effect_count == 2


async def test_cancel_running_ends_the_running_run_before_the_next_begins(
    working: PrefectWorld,
) -> None:
    agent = await working.agents.add(WORKS)
    fields = {"on_demand": True, "session": "new", "overlap": "cancel_running"}
    job = await working.deploy(agent=agent.name, **fields)
    first = await working.prefect.custom_run(job)
    before = await agent.says("running")

    second = await working.prefect.custom_run(job)
    after = await agent.says("running", within=SEEN)

    assert before != after
    cancelled = await _row(working, first, "cancelled")
    await working.wait_for_end(cancelled, "cancelled", within=SEEN)
    running = await _row(working, second, "running")
    assert cancelled.finished_at is not None
    assert running.started_at is not None
    assert cancelled.finished_at <= running.started_at  # never two at once
    agent.release()
    await working.wait_for_end(running, "succeeded", within=SEEN)
    await working.workers.idle(within=SEEN)


async def test_a_backfill_runs_oldest_first_and_one_at_a_time(working: PrefectWorld) -> None:
    agent = await working.agents.add('had(); tell("running"); heed(); print("x")\n')
    job = await working.deploy(agent=agent.name, cron="0 0 1 1 *", timezone="UTC", session="new")
    year = SYSTEM_CLOCK.now().year
    past = [
        SYSTEM_CLOCK.now().replace(year=each, month=1, day=1) for each in (year - 2, year - 1, year)
    ]
    due = [each.replace(hour=0, minute=0, second=0, microsecond=0) for each in past]
    assert await backfill.request_runs(working.ledger, job, due) == 3

    for place in range(3):
        await agent.says("running")
        rows = sorted(await working.runs.rows(job), key=lambda each: each.due)
        assert [each.status for each in rows] == (
            ["succeeded"] * place + ["running"] + ["waiting"] * (2 - place)
        )
        agent.release()

    for row in rows:
        await working.wait_for_end(row, "succeeded", within=SEEN)
    assert [each.due for each in rows] == due


async def test_pause_after_failures_also_pauses_the_deployment(working: PrefectWorld) -> None:
    agent = await working.agents.add('had(); sys.exit("broken")\n')
    fields = {"every": "1h", "retries": 0, "pause_after_failures": 1}
    job = await working.deploy(agent=agent.name, **fields)
    await working.prefect.custom_run(job)

    await working.wait_for_status(job, "failed", within=60.0)

    async def paused() -> bool:
        found = await working.client.read_deployment(UUID(str(job.row.deployment_id)))
        return found.paused

    assert await becomes_true(paused, SEEN), working.workers.logs()
