"""What Prefect holds for started and nobody runs (`docs/promise.md` 13)."""

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

from daybook.clock import SYSTEM
from daybook.keeper import leftovers
from daybook.keeper.leftovers import LeftOver
from daybook.ledger import claims
from daybook.sync.form import POOL
from tests.e2e.keeper.conftest import House

pytestmark = pytest.mark.e2e

ME, NOW = "the-worker", "incarnation-2"


async def swept(house: House, *supervised: FlowRun) -> LeftOver:
    mine = {str(run.id) for run in supervised}
    return await leftovers.leftovers(house.ledger, house.client, POOL, ME, supervised=lambda: mine)


async def test_a_folder_whose_maker_was_killed_goes_in_the_pass(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "daybook-mcp-x.held"
    left.mkdir()
    assert not await swept(house)
    assert left.name not in os.listdir(tmp_path)


# --- ours


async def custom(house: House, *states: State[Any]) -> FlowRun:
    """A custom run without a row, in the last of these states."""
    stored = await house.job()
    run = await house.ui.create_flow_run_from_deployment(UUID(str(stored.row.deployment_id)))
    await house.ui.update_flow_run(run.id, infrastructure_pid="gone:1")
    await house.set(run, *states)
    return run


@pytest.mark.parametrize(
    ("states", "seconds"),
    [([Pending()], 60), ([Pending(), Running()], 300)],
    ids=["pending", "running"],
)
@pytest.mark.slow
async def test_one_that_nobody_claims_is_scheduled_again(
    house: House, states: list[State[Any]], seconds: int
) -> None:
    run = await custom(house, *states)
    house.passes(seconds=seconds - 30)
    assert not await swept(house)
    house.passes(seconds=31)

    assert await swept(house) == LeftOver(scheduled=1)

    assert await house.shown(run) == ("SCHEDULED", "AwaitingConcurrencySlot")
    assert await house.start(run) <= house.ledger.now()
    assert (await house.run(run)).infrastructure_pid is None
    assert await house.rows() == []
    assert not await swept(house)


@pytest.mark.slow
async def test_one_that_is_to_start_later_is_left_to_who_fetched_it(house: House) -> None:
    details = StateDetails.model_validate({"scheduled_time": house.at(minutes=2)})
    pending: State[Any] = Pending(state_details=details)
    run = await custom(house, pending)
    house.passes(seconds=100)

    assert not await swept(house)

    assert await house.shown(run) == ("PENDING", "Pending")


async def test_cancelling_with_nobody_to_end_it_is_cancelled(house: House) -> None:
    run = await custom(house, Pending(), Cancelling())
    house.passes(seconds=61)

    assert await swept(house) == LeftOver(cancelled=1)

    assert await house.shown(run) == ("CANCELLED", "Cancelled")
    (row,) = await house.rows()
    assert (row.status, row.flow_run_id) == ("cancelled", str(run.id))


async def test_a_retry_that_died_before_its_claim_is_tried_again(house: House) -> None:
    row, run = await house.carried(await house.job())
    await claims.cancel(house.ledger, row.id)
    await house.edit(row, unmirrored=False)
    await house.set(run, Pending())
    house.passes(seconds=61)

    assert await swept(house) == LeftOver(scheduled=1)

    await house.set(run, Pending(), Cancelling())
    house.passes(seconds=61)
    assert await swept(house) == LeftOver(cancelled=1)
    assert await house.shown(run) == ("CANCELLED", "Cancelled")
    assert [each.status for each in await house.rows()] == ["cancelled"]


@pytest.mark.slow
async def test_one_with_a_live_row_is_others_business(house: House) -> None:
    stored = await house.job()
    waiting, first = await house.carried(stored, Pending(), Running())
    claimed, second = await house.carried(await house.job(), Pending(), Running())
    await house.acting(claimed)
    house.passes(seconds=400)

    assert not await swept(house)

    assert await house.shown(first) == await house.shown(second) == ("RUNNING", "Running")
    assert (await house.row(waiting.id)).status == "waiting"


# --- flows that are not ours


@pytest.fixture
async def theirs(house: House) -> AsyncIterator[UUID]:
    """A deployment in our pool that is no job."""
    flow = await house.ui.create_flow_from_name("theirs")
    deployment = await house.ui.create_deployment(flow, uuid4().hex[:8], work_pool_name=POOL)
    yield deployment
    await house.ui.delete_deployment(deployment)


async def foreign(house: House, deployment: UUID, pid: str, *states: State[Any]) -> FlowRun:
    run = await house.ui.create_flow_run_from_deployment(deployment)
    await house.ui.update_flow_run(run.id, infrastructure_pid=pid)
    await house.set(run, *states)
    return run


async def test_of_this_worker_before_it_was_started_again(house: House, theirs: UUID) -> None:
    before = f"{ME}:incarnation-1:17"
    running = await foreign(house, theirs, before, Pending(), Running())
    pending = await foreign(house, theirs, before, Pending())
    stopping = await foreign(house, theirs, before, Pending(), Running(), Cancelling())
    mine = await foreign(house, theirs, f"{ME}:{NOW}:18", Pending(), Running())
    process_worker = await foreign(house, theirs, "a-machine:17", Pending(), Running())

    assert await swept(house, mine) == LeftOver(scheduled=1, crashed=1, cancelled=1)

    assert await house.shown(running) == ("CRASHED", "Crashed")
    assert await house.shown(pending) == ("SCHEDULED", "Scheduled")
    assert (await house.run(pending)).infrastructure_pid is None
    assert await house.shown(stopping) == ("CANCELLED", "Cancelled")
    for untouched in (mine, process_worker):
        assert await house.shown(untouched) == ("RUNNING", "Running")
    assert not await swept(house, mine)
    await house.set(mine, Completed())


@pytest.mark.slow
async def test_of_this_very_worker_when_prefect_was_away_at_its_end(
    house: House, theirs: UUID
) -> None:
    ended = await foreign(house, theirs, f"{ME}:{NOW}:18", Pending(), Running())

    assert await swept(house) == LeftOver(crashed=1)

    assert await house.shown(ended) == ("CRASHED", "Crashed")


async def test_one_that_ended_meanwhile_stays_as_it_ended(house: House, theirs: UUID) -> None:
    run = await foreign(house, theirs, f"{ME}:incarnation-1:17", Pending(), Running())
    house.before["set_state"] = lambda: house.set(run, Completed())

    assert not await swept(house)

    assert await house.shown(run) == ("COMPLETED", "Completed")


@pytest.mark.slow
async def test_those_of_another_ledger_are_not_touched(house: House) -> None:
    flow = await house.ui.create_flow_from_name("theirs")
    deployment = await house.ui.create_deployment(
        flow, uuid4().hex[:8], work_pool_name=POOL, tags=["daybook:another"]
    )
    run = await foreign(house, deployment, f"{ME}:incarnation-1:17", Pending(), Running())

    assert not await swept(house)

    assert await house.shown(run) == ("RUNNING", "Running")
    await house.ui.delete_deployment(deployment)


@pytest.mark.slow
async def test_of_a_worker_that_prefect_holds_for_offline(house: House, theirs: UUID) -> None:
    online, offline = f"w-{uuid4().hex[:8]}", f"w-{uuid4().hex[:8]}"
    await house.ui.send_worker_heartbeat(POOL, online, heartbeat_interval_seconds=600)
    await house.ui.send_worker_heartbeat(POOL, offline, heartbeat_interval_seconds=1)
    going = await foreign(house, theirs, f"{online}:x:17", Pending(), Running())
    left = await foreign(house, theirs, f"{offline}:x:17", Pending(), Running())
    unheard = await foreign(house, theirs, f"w-{uuid4().hex[:8]}:x:17", Pending(), Running())
    alive = WorkerFilter(status=WorkerFilterStatus(any_=["ONLINE"]))
    while offline in {each.name for each in await house.ui.read_workers_for_work_pool(POOL, alive)}:
        await SYSTEM.wait_until(house.at(seconds=0.2))

    assert await swept(house) == LeftOver(crashed=1)

    assert await house.shown(left) == ("CRASHED", "Crashed")
    for untouched in (going, unheard):
        assert await house.shown(untouched) == ("RUNNING", "Running")
