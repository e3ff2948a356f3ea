"""All services over inconsistent runs: in two processes at once, and killed at each write."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed, Pending, Running

from daybook.jobs import store
from daybook.keeper import lease_reaper
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.prefect import ended_runs, scheduled_runs, stale_runs, state_mirror
from daybook.prefect.parameter_schema import WORK_POOL
from daybook.runs import claims
from tests.world.prefect_world import PrefectWorld
from tests.world.traffic import Died

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


async def every_pass(ledger: Ledger, client: PrefectClient) -> int:
    """Run each service once, as a worker does, and return how many changed something."""
    await ended_runs.record_live_ends(ledger, client)
    await ended_runs.record_unread_ends(ledger, client)
    done = [
        await lease_reaper.expire(ledger, client),
        await scheduled_runs.ensure_all(ledger, client),
        await state_mirror.mirror(ledger, client),
        await stale_runs.handle_stale_runs(ledger, client, WORK_POOL, "the-worker:1"),
    ]
    return sum(map(bool, done))


async def disorder(world: PrefectWorld) -> dict[str, str]:
    """Create a run in each inconsistent state, and return the expected status by run id."""
    later = world.at(hours=3)
    expected: dict[str, str] = {}

    async def add(
        status: str, *states: State[Any], running: bool = False, until: datetime | None = None
    ) -> None:
        row, run = await world.waiting_run(await world.deploy(), until=until)
        if running:
            await world.runs.running(row)
        await world.prefect.set(run, *states)
        expected[row.id] = status

    stored = await world.deploy()
    expected[(await world.runs.request(stored, later)).id] = "waiting"
    await add("waiting", until=later)
    await add("waiting", Pending(), Running())  # set back, because no process claims it
    await add("waiting", Crashed(), until=later)
    await add("waiting", Failed())
    await add("cancelled", Cancelled())
    await add("cancelled", Pending(), Cancelling())
    await add("skipped", Completed())
    await add("unknown", Pending(), Running(), running=True)
    await add("unknown", Crashed(), running=True)
    await add("cancelled", Cancelled(), running=True)
    for status in (Status.SUCCEEDED, Status.FAILED):
        row, _ = await world.waiting_run(await world.deploy(), Pending(), Running())
        granted = await world.runs.running(row)
        await claims.finish(world.ledger, row.id, granted.fence, Outcome(status, error="why"))
        expected[row.id] = str(status)
    deleted_run, run = await world.waiting_run(await world.deploy(), until=later)
    await world.prefect.ui.delete_flow_run(run.id)
    expected[deleted_run.id] = "waiting"
    return expected


async def is_in_order(world: PrefectWorld, expected: dict[str, str]) -> None:
    for row in await world.runs.rows():
        assert row.status == expected[row.id]
        assert not row.unmirrored
        async with world.ledger.read() as session:
            assert row.job_id is not None
            stored = await store.get(session, row.job_id)
        assert stored is not None
        runs = await world.prefect.runs(stored)
        open_ones = [run for run in runs if run.state is not None and not run.state.is_final()]
        if row.status == "waiting":
            (run,) = open_ones
            assert str(run.id) == row.flow_run_id
            assert await world.prefect.shown(run) == ("SCHEDULED", "AwaitingConcurrencySlot")
            assert row.until is not None
            assert abs(await world.prefect.start(run) - row.until).total_seconds() < 1
        else:
            assert not open_ones
            shown = {"succeeded": "Completed", "skipped": "Skipped", "failed": "Failed"}
            shown |= {"cancelled": "Cancelled", "unknown": "Unknown"}
            assert (await world.prefect.shown(row.flow_run_id))[1] == shown[row.status]


async def test_two_concurrent_processes_correct_all_runs(world: PrefectWorld) -> None:
    expected = await disorder(world)
    async with get_client() as other, Ledger(world.ledger.address, world.clock) as ledger:
        for _ in range(4):  # two checks of a lease, and work left to the next turn
            world.passes(seconds=65)
            await asyncio.gather(every_pass(world.ledger, world.client), every_pass(ledger, other))

    await is_in_order(world, expected)
    made = {row.id: row.prefect_runs for row in await world.runs.rows()}
    assert set(made.values()) <= {1, 2}
    # After that nothing changes any more.
    assert await every_pass(world.ledger, world.client) == 0


async def test_a_process_killed_at_each_prefect_write_corrects_all_runs(
    world: PrefectWorld,
) -> None:
    expected = await disorder(world)
    world.prefect.traffic.deadly = True
    turns = 0
    while turns < 4:
        try:
            await every_pass(world.ledger, world.client)
        except Died:
            continue
        turns += 1
        world.passes(seconds=65)

    assert (
        len(world.prefect.traffic.deaths) >= 10
    )  # four runs created, one moved, five states forced
    await is_in_order(world, expected)
    world.prefect.traffic.deadly = False
    assert await every_pass(world.ledger, world.client) == 0
