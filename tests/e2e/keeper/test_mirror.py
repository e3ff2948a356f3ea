"""Mirror and lease reaper: Prefect shows the outcome of each run (promises 13 and 5)."""

from __future__ import annotations

from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import (
    AwaitingRetry,
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    Pending,
    Running,
)

from daybook.jobs.store import StoredJob
from daybook.keeper import auditor, lease_reaper
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.prefect import state_mirror
from daybook.prefect.reconcile import ReconcileReport, reconcile_job
from daybook.runs import claims
from tests.world.prefect_world import PrefectWorld
from tests.world.traffic import Died, dies

pytestmark = pytest.mark.e2e

SHOWN = {
    Status.SUCCEEDED: ("COMPLETED", "Completed"),
    Status.FAILED: ("FAILED", "Failed"),
    Status.TIMED_OUT: ("FAILED", "TimedOut"),
    Status.CANCELLED: ("CANCELLED", "Cancelled"),
    Status.UNKNOWN: ("CRASHED", "Unknown"),
}


async def ended(
    world: PrefectWorld, status: Status, *states: State[Any], by_now: float = 16
) -> tuple[RunRow, FlowRun]:
    """Return a run that ended ``by_now`` seconds ago, its Prefect run in the last of ``states``."""
    row, run = await world.waiting_run(await world.deploy())
    granted = await world.runs.running(row)
    await world.prefect.set(run, Pending(), Running())
    await claims.finish(
        world.ledger, row.id, granted.fence, Outcome(status, reason="so it was", error="a reason")
    )
    await world.prefect.set(run, *states)
    world.passes(seconds=by_now)
    return await world.runs.row(row.id), run


@pytest.mark.parametrize("status", SHOWN)
@pytest.mark.slow
async def test_each_outcome_is_mirrored_to_prefect_once(
    world: PrefectWorld, status: Status
) -> None:
    row, run = await ended(world, status)
    assert row.unmirrored

    assert (await state_mirror.mirror(world.ledger, world.client)).forced == 1

    assert await world.prefect.shown(run) == SHOWN[status]
    state = (await world.prefect.run(run)).state
    assert state is not None
    # An unknown outcome shows the reason, not the error.
    messages = {Status.SUCCEEDED: f"run {row.id[:8]} succeeded", Status.UNKNOWN: "so it was"}
    assert state.message == messages.get(status, "a reason")
    level = "INFO" if status in (Status.SUCCEEDED, Status.CANCELLED) else "ERROR"
    assert await world.prefect.log(run) == [(level, f"{status}: {state.message}")]
    assert not (await world.runs.row(row.id)).unmirrored

    # From here on a person may change the state.
    await world.prefect.set(run, Failed(message="I say so"))
    world.prefect.traffic.requests.clear()
    assert not await state_mirror.mirror(world.ledger, world.client)
    assert not world.prefect.traffic.requests
    assert await world.prefect.shown(run) == ("FAILED", "Failed")


@pytest.mark.parametrize(
    "state",
    [Crashed(), Completed(), Cancelling(), Pending()],
    ids=["crashed", "completed", "cancelling", "pending"],
)
@pytest.mark.slow
async def test_any_other_state_in_prefect_is_replaced_by_the_outcome(
    world: PrefectWorld, state: State[Any]
) -> None:
    _, run = await ended(world, Status.FAILED, state)

    assert (await state_mirror.mirror(world.ledger, world.client)).forced == 1

    assert await world.prefect.shown(run) == SHOWN[Status.FAILED]


@pytest.mark.slow
async def test_a_prefect_state_that_agrees_is_not_written_again(world: PrefectWorld) -> None:
    row, run = await ended(world, Status.SUCCEEDED, Completed())
    before = await world.prefect.states(run)

    done = await state_mirror.mirror(world.ledger, world.client)

    assert (done.agreed, done.forced) == (1, 0)
    assert await world.prefect.states(run) == before
    assert not (await world.runs.row(row.id)).unmirrored


@pytest.mark.slow
async def test_the_mirror_gives_a_flow_time_to_set_its_own_state(world: PrefectWorld) -> None:
    row, run = await ended(world, Status.SUCCEEDED, by_now=3)

    assert not await state_mirror.mirror(world.ledger, world.client)
    assert not world.prefect.traffic.requests
    assert await world.prefect.shown(run) == ("RUNNING", "Running")

    # A supervisor that saw the process end does not wait.
    assert (await state_mirror.mirror_run(world.ledger, world.client, row.id)).forced == 1
    assert await world.prefect.shown(run) == SHOWN[Status.SUCCEEDED]


@pytest.mark.parametrize(
    "then",
    [[Failed(message="by hand")], [AwaitingRetry()], [AwaitingRetry(), Pending(), Running()]],
    ids=["changed", "retried", "running again"],
)
@pytest.mark.slow
async def test_a_state_that_prefect_got_after_the_end_is_not_replaced(
    world: PrefectWorld, then: list[State[Any]]
) -> None:
    row, run = await ended(world, Status.SUCCEEDED, Completed(), *then)

    assert not await state_mirror.mirror(world.ledger, world.client)

    assert await world.prefect.shown(run) == (then[-1].type.value, then[-1].name)
    assert not (await world.runs.row(row.id)).unmirrored


@pytest.mark.slow
async def test_a_retry_continues_although_prefect_had_recorded_another_end(
    world: PrefectWorld,
) -> None:
    row, run = await ended(world, Status.FAILED, Crashed(), AwaitingRetry())

    assert not await state_mirror.mirror(world.ledger, world.client)

    assert await world.prefect.shown(run) == ("SCHEDULED", "AwaitingRetry")
    assert not (await world.runs.row(row.id)).unmirrored


@pytest.mark.slow
async def test_a_deleted_prefect_run_counts_as_mirrored(world: PrefectWorld) -> None:
    row, run = await ended(world, Status.SUCCEEDED)
    await world.prefect.ui.delete_flow_run(run.id)

    assert not await state_mirror.mirror(world.ledger, world.client)

    assert not (await world.runs.row(row.id)).unmirrored


@pytest.mark.slow
async def test_a_pass_killed_after_its_write_to_prefect_is_completed_by_the_next(
    world: PrefectWorld,
) -> None:
    row, run = await ended(world, Status.FAILED)
    world.prefect.traffic.after["set_state"] = dies
    with pytest.raises(Died):
        await state_mirror.mirror(world.ledger, world.client)
    assert (await world.runs.row(row.id)).unmirrored
    before = await world.prefect.states(run)

    done = await state_mirror.mirror(world.ledger, world.client)

    assert (done.agreed, done.forced) == (1, 0)
    assert await world.prefect.states(run) == before
    assert not (await world.runs.row(row.id)).unmirrored


@pytest.mark.parametrize("read", ["filter", ""], ids=["the run", "its history"])
async def test_a_state_set_in_prefect_during_the_pass_is_kept(
    world: PrefectWorld, read: str
) -> None:
    _, run = await ended(world, Status.FAILED)

    async def other() -> None:
        assert (await state_mirror.mirror(world.ledger, world.prefect.ui)).forced == 1
        await world.prefect.set(run, Completed())

    world.prefect.traffic.after[read] = other
    assert not await state_mirror.mirror(world.ledger, world.client)

    assert await world.prefect.shown(run) == ("COMPLETED", "Completed")


async def test_an_outcome_corrected_before_the_write_is_not_mirrored_as_it_was(
    world: PrefectWorld,
) -> None:
    row, run = await ended(world, Status.UNKNOWN)
    before = await world.prefect.shown(run)

    async def corrected() -> None:
        world.passes(seconds=1)
        known = Outcome(Status.SUCCEEDED, output="done")
        await claims.finish(world.ledger, row.id, row.fence, known)

    world.prefect.traffic.after["filter"] = corrected

    assert not await state_mirror.mirror(world.ledger, world.client)
    assert await world.prefect.shown(run) == before
    assert (await world.runs.row(row.id)).unmirrored


async def test_a_late_outcome_is_mirrored_after_the_unknown_one(world: PrefectWorld) -> None:
    row, run = await ended(world, Status.UNKNOWN)

    async def late() -> None:
        world.passes(seconds=1)
        known = Outcome(Status.SUCCEEDED, output="done")
        await claims.finish(world.ledger, row.id, row.fence, known)

    world.prefect.traffic.after["set_state"] = late
    assert await state_mirror.mirror(world.ledger, world.client)
    assert await world.prefect.shown(run) == SHOWN[Status.UNKNOWN]
    assert (await world.runs.row(row.id)).unmirrored

    world.passes(seconds=16)
    assert await state_mirror.mirror(world.ledger, world.client)
    assert await world.prefect.shown(run) == SHOWN[Status.SUCCEEDED]


@pytest.mark.slow
async def test_several_rows_are_compared_in_one_request(world: PrefectWorld) -> None:
    stored = await world.deploy()
    for _ in range(5):
        row, run = await world.waiting_run(stored)
        await claims.cancel(world.ledger, row.id)
        await world.prefect.set(run, Cancelled())
    world.passes(seconds=16)

    assert (await state_mirror.mirror(world.ledger, world.client)).agreed == 5

    assert world.prefect.traffic.requests["filter"] == 1
    assert set(world.prefect.traffic.requests) <= {"filter", "csrf-token", ""}


# --- missed due times


async def test_missed_due_times_are_failed_runs_named_by_job_and_due_time(
    world: PrefectWorld,
) -> None:
    """Prefect had queued the runs of two jobs, and not those of the third."""
    zone = {"timezone": "Asia/Kolkata", "catch_up": "none", "start": "2020-01-01"}
    # Start two minutes after a multiple of ten, so that the downtime ends four minutes after the
    # last due time: the audit leaves out the last minute.
    world.passes(seconds=720 - world.ledger.now().timestamp() % 600)
    often = await world.deploy(cron="*/5 * * * *", **zone)
    seldom = await world.deploy(cron="*/10 * * * *", **zone)
    unseen = await world.deploy(cron="*/5 * * * *", **zone)
    for run in await world.prefect.runs(unseen):
        await world.prefect.ui.delete_flow_run(run.id)  # as if the server had been down too
    world.passes(minutes=17)
    until = world.ledger.now()

    await auditor.audit(world.ledger, {each.id: until for each in (often, seldom, unseen)})
    world.passes(seconds=16)
    await state_mirror.mirror(world.ledger, world.client)

    for stored, missed in ((often, 3), (seldom, 1), (unseen, 3)):
        rows = [row for row in await world.runs.rows() if row.job_id == stored.id]
        assert sum(row.count for row in rows) == missed
        assert {row.status for row in rows} == {"missed"}
        shown = {str(run.id): run for run in await world.prefect.runs(stored)}
        for row in rows:
            run = shown[str(row.flow_run_id)]
            assert run.state is not None
            assert (run.state.type, run.state.name) == ("FAILED", "Missed")
            log = await world.prefect.log(run)
            assert log == [("ERROR", f"missed: {run.state.message}")]
            local = row.due.astimezone(ZoneInfo("Asia/Kolkata"))
            assert run.name.startswith(f"{stored.row.name} {local:%Y-%m-%d %H:%M:%S} +05:30")


async def missed_without_deployment(world: PrefectWorld) -> StoredJob:
    """Return a job with a missed range, whose deployment was deleted in Prefect after that."""
    stored = await world.deploy(every="10m", catch_up="none")
    world.passes(minutes=25)
    await auditor.audit(world.ledger, {stored.id: world.ledger.now()})
    await world.prefect.ui.delete_deployment(UUID(str(stored.row.deployment_id)))
    return stored


async def test_a_missed_due_time_is_mirrored_when_its_deployment_is_back(
    world: PrefectWorld,
) -> None:
    stored = await missed_without_deployment(world)
    assert not await state_mirror.mirror(world.ledger, world.client)
    assert [row.unmirrored for row in await world.runs.rows()] == [True]

    await reconcile_job(world.ledger, world.prefect.ui, stored, None, ReconcileReport())

    assert (await state_mirror.mirror(world.ledger, world.client)).made == 1
    (row,) = await world.runs.rows()
    assert await world.prefect.shown(row.flow_run_id) == ("FAILED", "Missed")
    assert not row.unmirrored


async def test_a_missed_row_waits_an_hour_for_its_deployment(world: PrefectWorld) -> None:
    await missed_without_deployment(world)
    world.passes(minutes=59)
    await state_mirror.mirror(world.ledger, world.client)
    assert [row.unmirrored for row in await world.runs.rows()] == [True]

    world.passes(minutes=2)
    assert not await state_mirror.mirror(world.ledger, world.client)

    assert [row.unmirrored for row in await world.runs.rows()] == [False]


# --- lease reaper


async def expired(world: PrefectWorld) -> lease_reaper.ExpiryReport:
    """Run two passes, one lease apart; the first one only suspects the holder."""
    world.passes(seconds=61)
    assert not await lease_reaper.expire(world.ledger, world.client)
    world.passes(seconds=61)
    return await lease_reaper.expire(world.ledger, world.client)


async def test_a_run_whose_lease_is_lost_before_the_effect_waits_again(world: PrefectWorld) -> None:
    row, run = await world.waiting_run(await world.deploy())
    await world.runs.claimed(row)
    await world.prefect.set(run, Pending(), Running())

    assert await expired(world) == lease_reaper.ExpiryReport(waiting=1)

    row = await world.runs.row(row.id)
    assert (row.status, row.fence) == ("waiting", 2)
    assert await world.prefect.shown(run) == ("SCHEDULED", "AwaitingConcurrencySlot")
    assert await world.prefect.start(run) == row.until


async def test_a_run_whose_lease_is_lost_after_the_effect_began_is_unknown(
    world: PrefectWorld,
) -> None:
    row, run = await world.waiting_run(await world.deploy())
    await world.runs.running(row)
    await world.prefect.set(run, Pending(), Running())

    assert await expired(world) == lease_reaper.ExpiryReport(ended=1)

    row = await world.runs.row(row.id)
    assert (row.status, row.unmirrored) == ("unknown", False)
    assert await world.prefect.shown(run) == SHOWN[Status.UNKNOWN]


@pytest.mark.slow
async def test_a_lost_run_with_on_lost_rerun_waits_for_its_next_attempt(
    world: PrefectWorld,
) -> None:
    row, run = await world.waiting_run(await world.deploy(on_lost="rerun"))
    await world.runs.running(row)
    await world.prefect.set(run, Pending(), Running())

    assert await expired(world) == lease_reaper.ExpiryReport(waiting=1)

    row = await world.runs.row(row.id)
    assert (row.status, row.attempts) == ("waiting", 1)
    assert await world.prefect.start(run) == row.until


async def test_a_waiting_run_whose_deadline_passes_is_timed_out(world: PrefectWorld) -> None:
    row, run = await world.waiting_run(await world.deploy(deadline="2h"), until=world.at(hours=3))
    world.passes(hours=2)

    assert await lease_reaper.expire(world.ledger, world.client) == lease_reaper.ExpiryReport(
        ended=1
    )

    assert (await world.runs.row(row.id)).status == "timed_out"
    assert await world.prefect.shown(run) == SHOWN[Status.TIMED_OUT]
