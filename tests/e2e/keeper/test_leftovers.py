"""Runs that Prefect shows as started although no process executes them (promise 13)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.filters import WorkerFilter, WorkerFilterStatus
from prefect.client.schemas.objects import FlowRun, State, StateDetails
from prefect.states import Cancelling, Completed, Pending, Running

from daybook.clock import SYSTEM_CLOCK
from daybook.prefect import stale_runs
from daybook.prefect.parameter_schema import WORK_POOL
from daybook.prefect.stale_runs import StaleRunResult
from daybook.runs import claims, workers
from tests.unit.runs.fleet import record_of
from tests.world.prefect_world import PrefectWorld

pytestmark = pytest.mark.e2e

ME, NOW = "the-worker", "incarnation-2"


async def swept(world: PrefectWorld, *supervised: FlowRun) -> StaleRunResult:
    supervised_ids = {str(run.id) for run in supervised}
    return await stale_runs.handle_stale_runs(
        world.ledger, world.client, WORK_POOL, f"{ME}:{NOW}", supervised=lambda: supervised_ids
    )


async def test_the_pass_removes_the_temporary_folder_of_a_killed_process(
    world: PrefectWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "daybook-mcp-x.held"
    left.mkdir()
    assert not await swept(world)
    assert left.name not in os.listdir(tmp_path)


# --- runs of Daybook's jobs


async def custom(world: PrefectWorld, *states: State[Any]) -> FlowRun:
    """Return a custom run without a row, in the last of these states."""
    stored = await world.deploy()
    run = await world.prefect.ui.create_flow_run_from_deployment(
        UUID(str(stored.row.deployment_id))
    )
    await world.prefect.ui.update_flow_run(run.id, infrastructure_pid="gone:1")
    await world.prefect.set(run, *states)
    return run


@pytest.mark.parametrize(
    ("states", "seconds"),
    [([Pending()], 60), ([Pending(), Running()], 300)],
    ids=["pending", "running"],
)
@pytest.mark.slow
async def test_a_started_run_that_no_process_claims_is_scheduled_again(
    world: PrefectWorld, states: list[State[Any]], seconds: int
) -> None:
    run = await custom(world, *states)
    world.passes(seconds=seconds - 30)
    assert not await swept(world)
    world.passes(seconds=31)

    assert await swept(world) == StaleRunResult(scheduled=1)

    assert await world.prefect.shown(run) == ("SCHEDULED", "AwaitingConcurrencySlot")
    assert await world.prefect.start(run) <= world.ledger.now()
    assert (await world.prefect.run(run)).infrastructure_pid is None
    assert await world.runs.rows() == []
    assert not await swept(world)


@pytest.mark.slow
async def test_a_pending_run_with_a_later_start_is_left_to_its_worker(world: PrefectWorld) -> None:
    details = StateDetails.model_validate({"scheduled_time": world.at(minutes=2)})
    pending: State[Any] = Pending(state_details=details)
    run = await custom(world, pending)
    world.passes(seconds=100)

    assert not await swept(world)

    assert await world.prefect.shown(run) == ("PENDING", "Pending")


async def test_a_cancelling_run_without_a_process_is_cancelled(world: PrefectWorld) -> None:
    run = await custom(world, Pending(), Cancelling())
    world.passes(seconds=61)

    assert await swept(world) == StaleRunResult(cancelled=1)

    assert await world.prefect.shown(run) == ("CANCELLED", "Cancelled")
    (row,) = await world.runs.rows()
    assert (row.status, row.flow_run_id) == ("cancelled", str(run.id))


async def test_a_retry_that_died_before_its_claim_is_scheduled_again(world: PrefectWorld) -> None:
    row, run = await world.waiting_run(await world.deploy())
    await claims.cancel(world.ledger, row.id)
    await world.runs.set_row(row, unmirrored=False)
    await world.prefect.set(run, Pending())
    world.passes(seconds=61)

    assert await swept(world) == StaleRunResult(scheduled=1)

    await world.prefect.set(run, Pending(), Cancelling())
    world.passes(seconds=61)
    assert await swept(world) == StaleRunResult(cancelled=1)
    assert await world.prefect.shown(run) == ("CANCELLED", "Cancelled")
    assert [each.status for each in await world.runs.rows()] == ["cancelled"]


@pytest.mark.slow
async def test_a_started_run_with_a_live_row_is_not_touched(world: PrefectWorld) -> None:
    stored = await world.deploy()
    waiting, first = await world.waiting_run(stored, Pending(), Running())
    claimed, second = await world.waiting_run(await world.deploy(), Pending(), Running())
    await world.runs.running(claimed)
    world.passes(seconds=400)

    assert not await swept(world)

    assert (
        await world.prefect.shown(first)
        == await world.prefect.shown(second)
        == ("RUNNING", "Running")
    )
    assert (await world.runs.row(waiting.id)).status == "waiting"


# --- runs of other flows


@pytest.fixture
async def theirs(world: PrefectWorld) -> AsyncIterator[UUID]:
    """Yield a deployment in Daybook's pool that belongs to no job."""
    flow = await world.prefect.ui.create_flow_from_name("theirs")
    deployment = await world.prefect.ui.create_deployment(
        flow, uuid4().hex[:8], work_pool_name=WORK_POOL
    )
    yield deployment
    await world.prefect.ui.delete_deployment(deployment)


async def foreign(world: PrefectWorld, deployment: UUID, pid: str, *states: State[Any]) -> FlowRun:
    run = await world.prefect.ui.create_flow_run_from_deployment(deployment)
    await world.prefect.ui.update_flow_run(run.id, infrastructure_pid=pid)
    await world.prefect.set(run, *states)
    return run


async def test_runs_left_by_an_earlier_process_of_this_worker_are_resolved(
    world: PrefectWorld, theirs: UUID
) -> None:
    before = f"{ME}:incarnation-1:17"
    running = await foreign(world, theirs, before, Pending(), Running())
    pending = await foreign(world, theirs, before, Pending())
    stopping = await foreign(world, theirs, before, Pending(), Running(), Cancelling())
    own_run = await foreign(world, theirs, f"{ME}:{NOW}:18", Pending(), Running())
    process_worker = await foreign(world, theirs, "a-machine:17", Pending(), Running())
    # Another living process may have the same name.
    assert not await swept(world, own_run)
    await recorded_for_a_lease(world)

    assert await swept(world, own_run) == StaleRunResult(scheduled=1, crashed=1, cancelled=1)

    assert await world.prefect.shown(running) == ("CRASHED", "Crashed")
    assert await world.prefect.shown(pending) == ("SCHEDULED", "Scheduled")
    assert (await world.prefect.run(pending)).infrastructure_pid is None
    assert await world.prefect.shown(stopping) == ("CANCELLED", "Cancelled")
    for untouched in (own_run, process_worker):
        assert await world.prefect.shown(untouched) == ("RUNNING", "Running")
    assert not await swept(world, own_run)
    await world.prefect.set(own_run, Completed())


async def recorded_for_a_lease(world: PrefectWorld) -> None:
    """Let this worker be the only process with its name for as long as a lease."""
    started_at = world.ledger.now()
    world.passes(seconds=61)
    await workers.record(world.ledger, record_of(world, ME, started_at=started_at))


@pytest.mark.slow
async def test_a_run_of_this_worker_that_it_no_longer_supervises_is_crashed(
    world: PrefectWorld, theirs: UUID
) -> None:
    ended = await foreign(world, theirs, f"{ME}:{NOW}:18", Pending(), Running())

    assert await swept(world) == StaleRunResult(crashed=1)

    assert await world.prefect.shown(ended) == ("CRASHED", "Crashed")


async def test_a_run_that_ends_just_before_the_write_keeps_its_state(
    world: PrefectWorld, theirs: UUID
) -> None:
    run = await foreign(world, theirs, f"{ME}:incarnation-1:17", Pending(), Running())
    await recorded_for_a_lease(world)
    world.prefect.traffic.before["set_state"] = lambda: world.prefect.set(run, Completed())

    assert not await swept(world)

    assert await world.prefect.shown(run) == ("COMPLETED", "Completed")


@pytest.mark.slow
async def test_runs_of_another_ledger_are_not_touched(world: PrefectWorld) -> None:
    flow = await world.prefect.ui.create_flow_from_name("theirs")
    deployment = await world.prefect.ui.create_deployment(
        flow, uuid4().hex[:8], work_pool_name=WORK_POOL, tags=["daybook:another"]
    )
    run = await foreign(world, deployment, f"{ME}:incarnation-1:17", Pending(), Running())
    await recorded_for_a_lease(world)

    assert not await swept(world)

    assert await world.prefect.shown(run) == ("RUNNING", "Running")
    await world.prefect.ui.delete_deployment(deployment)


@pytest.mark.slow
async def test_runs_of_a_worker_that_prefect_shows_as_offline_are_crashed(
    world: PrefectWorld, theirs: UUID
) -> None:
    online, offline = f"w-{uuid4().hex[:8]}", f"w-{uuid4().hex[:8]}"
    await world.prefect.ui.send_worker_heartbeat(WORK_POOL, online, heartbeat_interval_seconds=600)
    await world.prefect.ui.send_worker_heartbeat(WORK_POOL, offline, heartbeat_interval_seconds=1)
    going = await foreign(world, theirs, f"{online}:x:17", Pending(), Running())
    left = await foreign(world, theirs, f"{offline}:x:17", Pending(), Running())
    unheard = await foreign(world, theirs, f"w-{uuid4().hex[:8]}:x:17", Pending(), Running())
    alive = WorkerFilter(status=WorkerFilterStatus(any_=["ONLINE"]))
    while offline in {
        each.name for each in await world.prefect.ui.read_workers_for_work_pool(WORK_POOL, alive)
    }:
        await SYSTEM_CLOCK.wait_until(world.at(seconds=0.2))

    assert await swept(world) == StaleRunResult(crashed=1)

    assert await world.prefect.shown(left) == ("CRASHED", "Crashed")
    for untouched in (going, unheard):
        assert await world.prefect.shown(untouched) == ("RUNNING", "Running")
