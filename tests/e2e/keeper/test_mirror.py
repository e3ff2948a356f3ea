"""Mirror and expire: Prefect shows what became of a run (`docs/promise.md` 13, 5)."""

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

from daybook.keeper import audit, expire, mirror
from daybook.ledger import claims
from daybook.ledger.jobs import StoredJob
from daybook.ledger.outcomes import Outcome
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.sync.reconcile import Report, bring
from tests.e2e.keeper.conftest import Died, House, dies

pytestmark = pytest.mark.e2e

SHOWN = {
    Status.SUCCEEDED: ("COMPLETED", "Completed"),
    Status.FAILED: ("FAILED", "Failed"),
    Status.TIMED_OUT: ("FAILED", "TimedOut"),
    Status.CANCELLED: ("CANCELLED", "Cancelled"),
    Status.UNKNOWN: ("CRASHED", "Unknown"),
}


async def ended(
    house: House, status: Status, *states: State[Any], by_now: float = 16
) -> tuple[RunRow, FlowRun]:
    """A run that ended ``by_now`` seconds ago, with its Prefect run in the last of the states."""
    row, run = await house.carried(await house.job())
    granted = await house.acting(row)
    await house.set(run, Pending(), Running())
    await claims.settle(
        house.ledger, row.id, granted.fence, Outcome(status, reason="so it was", error="a reason")
    )
    await house.set(run, *states)
    house.passes(seconds=by_now)
    return await house.row(row.id), run


@pytest.mark.parametrize("status", SHOWN)
@pytest.mark.slow
async def test_each_outcome_is_shown_once(house: House, status: Status) -> None:
    row, run = await ended(house, status)
    assert row.unmirrored

    assert (await mirror.mirror(house.ledger, house.client)).forced == 1

    assert await house.shown(run) == SHOWN[status]
    state = (await house.run(run)).state
    assert state is not None
    # What is not known says the reason, not the error.
    said = {Status.SUCCEEDED: f"run {row.id[:8]} succeeded", Status.UNKNOWN: "so it was"}
    assert state.message == said.get(status, "a reason")
    assert not (await house.row(row.id)).unmirrored

    # From here on it is a person's to change.
    await house.set(run, Failed(message="I say so"))
    house.requests.clear()
    assert not await mirror.mirror(house.ledger, house.client)
    assert not house.requests
    assert await house.shown(run) == ("FAILED", "Failed")


@pytest.mark.parametrize(
    "state",
    [Crashed(), Completed(), Cancelling(), Pending()],
    ids=["crashed", "completed", "cancelling", "pending"],
)
@pytest.mark.slow
async def test_whatever_prefect_has_is_brought_to_it(house: House, state: State[Any]) -> None:
    _, run = await ended(house, Status.FAILED, state)

    assert (await mirror.mirror(house.ledger, house.client)).forced == 1

    assert await house.shown(run) == SHOWN[Status.FAILED]


@pytest.mark.slow
async def test_what_agrees_is_not_written_again(house: House) -> None:
    row, run = await ended(house, Status.SUCCEEDED, Completed())
    before = await house.states(run)

    done = await mirror.mirror(house.ledger, house.client)

    assert (done.agreed, done.forced) == (1, 0)
    assert await house.states(run) == before
    assert not (await house.row(row.id)).unmirrored


@pytest.mark.slow
async def test_a_flow_has_its_own_time_to_end(house: House) -> None:
    row, run = await ended(house, Status.SUCCEEDED, by_now=3)

    assert not await mirror.mirror(house.ledger, house.client)
    assert not house.requests
    assert await house.shown(run) == ("RUNNING", "Running")

    # Whoever saw its process end does not wait.
    assert (await mirror.now(house.ledger, house.client, row.id)).forced == 1
    assert await house.shown(run) == SHOWN[Status.SUCCEEDED]


@pytest.mark.parametrize(
    "then",
    [[Failed(message="by hand")], [AwaitingRetry()], [AwaitingRetry(), Pending(), Running()]],
    ids=["changed", "retried", "running again"],
)
@pytest.mark.slow
async def test_what_is_done_after_the_end_is_not_undone(
    house: House, then: list[State[Any]]
) -> None:
    row, run = await ended(house, Status.SUCCEEDED, Completed(), *then)

    assert not await mirror.mirror(house.ledger, house.client)

    assert await house.shown(run) == (then[-1].type.value, then[-1].name)
    assert not (await house.row(row.id)).unmirrored


@pytest.mark.slow
async def test_a_retry_of_a_run_that_prefect_ended_otherwise_goes_on(house: House) -> None:
    row, run = await ended(house, Status.FAILED, Crashed(), AwaitingRetry())

    assert not await mirror.mirror(house.ledger, house.client)

    assert await house.shown(run) == ("SCHEDULED", "AwaitingRetry")
    assert not (await house.row(row.id)).unmirrored


@pytest.mark.slow
async def test_of_a_run_that_was_deleted_nothing_is_left_to_tell(house: House) -> None:
    row, run = await ended(house, Status.SUCCEEDED)
    await house.ui.delete_flow_run(run.id)

    assert not await mirror.mirror(house.ledger, house.client)

    assert not (await house.row(row.id)).unmirrored


@pytest.mark.slow
async def test_dead_between_its_two_writes_the_next_pass_writes_one(house: House) -> None:
    row, run = await ended(house, Status.FAILED)
    house.after["set_state"] = dies
    with pytest.raises(Died):
        await mirror.mirror(house.ledger, house.client)
    assert (await house.row(row.id)).unmirrored
    before = await house.states(run)

    done = await mirror.mirror(house.ledger, house.client)

    assert (done.agreed, done.forced) == (1, 0)
    assert await house.states(run) == before
    assert not (await house.row(row.id)).unmirrored


@pytest.mark.parametrize("read", ["filter", ""], ids=["the run", "its history"])
async def test_another_process_was_quicker(house: House, read: str) -> None:
    _, run = await ended(house, Status.FAILED)

    async def other() -> None:
        assert (await mirror.mirror(house.ledger, house.ui)).forced == 1
        await house.set(run, Completed())

    house.after[read] = other
    assert not await mirror.mirror(house.ledger, house.client)

    assert await house.shown(run) == ("COMPLETED", "Completed")


async def test_an_outcome_that_comes_late_is_shown_too(house: House) -> None:
    row, run = await ended(house, Status.UNKNOWN)

    async def late() -> None:
        house.passes(seconds=1)
        known = Outcome(Status.SUCCEEDED, output="done")
        await claims.settle(house.ledger, row.id, row.fence, known)

    house.after["set_state"] = late
    assert await mirror.mirror(house.ledger, house.client)
    assert await house.shown(run) == SHOWN[Status.UNKNOWN]
    assert (await house.row(row.id)).unmirrored

    house.passes(seconds=16)
    assert await mirror.mirror(house.ledger, house.client)
    assert await house.shown(run) == SHOWN[Status.SUCCEEDED]


@pytest.mark.slow
async def test_a_hundred_in_one_request(house: House) -> None:
    stored = await house.job()
    for _ in range(5):
        row, run = await house.carried(stored)
        await claims.cancel(house.ledger, row.id)
        await house.set(run, Cancelled())
    house.passes(seconds=16)

    assert (await mirror.mirror(house.ledger, house.client)).agreed == 5

    assert house.requests["filter"] == 1
    assert set(house.requests) <= {"filter", "csrf-token", ""}


# --- due times that nobody ran


async def test_after_a_stop_the_missed_due_times_are_failures_named_by_job_and_due_time(
    house: House,
) -> None:
    """Three jobs and a quarter of an hour: two that Prefect had queued, one that it had not."""
    zone = {"timezone": "Asia/Kolkata", "catch_up": "none", "start": "2020-01-01"}
    # Begin two minutes after a multiple of ten, so that the stop ends four minutes after the last
    # due time: the audit does not judge the last minute.
    house.passes(seconds=720 - house.ledger.now().timestamp() % 600)
    often = await house.job(cron="*/5 * * * *", **zone)
    seldom = await house.job(cron="*/10 * * * *", **zone)
    unseen = await house.job(cron="*/5 * * * *", **zone)
    for run in await house.runs(unseen):
        await house.ui.delete_flow_run(run.id)  # as if the server, too, had been away
    house.passes(minutes=17)
    until = house.ledger.now()

    await audit.audit(house.ledger, {each.id: until for each in (often, seldom, unseen)})
    house.passes(seconds=16)
    await mirror.mirror(house.ledger, house.client)

    for stored, missed in ((often, 3), (seldom, 1), (unseen, 3)):
        rows = [row for row in await house.rows() if row.job_id == stored.id]
        assert sum(row.count for row in rows) == missed
        assert {row.status for row in rows} == {"missed"}
        shown = {str(run.id): run for run in await house.runs(stored)}
        for row in rows:
            run = shown[str(row.flow_run_id)]
            assert run.state is not None
            assert (run.state.type, run.state.name) == ("FAILED", "Missed")
            local = row.due.astimezone(ZoneInfo("Asia/Kolkata"))
            assert run.name.startswith(f"{stored.row.name} {local:%Y-%m-%d %H:%M:%S} +05:30")


async def missed_without_deployment(house: House) -> StoredJob:
    """A job with a missed range, whose deployment Prefect has lost since."""
    stored = await house.job(every="10m", catch_up="none")
    house.passes(minutes=25)
    await audit.audit(house.ledger, {stored.id: house.ledger.now()})
    await house.ui.delete_deployment(UUID(str(stored.row.deployment_id)))
    return stored


async def test_a_missed_due_time_is_shown_once_its_deployment_is_there_again(house: House) -> None:
    stored = await missed_without_deployment(house)
    assert not await mirror.mirror(house.ledger, house.client)
    assert [row.unmirrored for row in await house.rows()] == [True]

    await bring(house.ledger, house.ui, stored, None, Report())

    assert (await mirror.mirror(house.ledger, house.client)).made == 1
    (row,) = await house.rows()
    assert await house.shown(row.flow_run_id) == ("FAILED", "Missed")
    assert not row.unmirrored


async def test_for_a_deployment_that_stays_away_it_waits_an_hour(house: House) -> None:
    await missed_without_deployment(house)
    house.passes(minutes=59)
    await mirror.mirror(house.ledger, house.client)
    assert [row.unmirrored for row in await house.rows()] == [True]

    house.passes(minutes=2)
    assert not await mirror.mirror(house.ledger, house.client)

    assert [row.unmirrored for row in await house.rows()] == [False]


# --- expire


async def expired(house: House) -> expire.Expired:
    """Two looks, one lease apart: the first one only suspects."""
    house.passes(seconds=61)
    assert not await expire.expire(house.ledger, house.client)
    house.passes(seconds=61)
    return await expire.expire(house.ledger, house.client)


async def test_a_lease_lost_before_the_effect(house: House) -> None:
    row, run = await house.carried(await house.job())
    await house.claimed(row)
    await house.set(run, Pending(), Running())

    assert await expired(house) == expire.Expired(waiting=1)

    row = await house.row(row.id)
    assert (row.status, row.fence) == ("waiting", 2)
    assert await house.shown(run) == ("SCHEDULED", "AwaitingConcurrencySlot")
    assert await house.start(run) == row.until


async def test_a_lease_lost_after_the_effect_began(house: House) -> None:
    row, run = await house.carried(await house.job())
    await house.acting(row)
    await house.set(run, Pending(), Running())

    assert await expired(house) == expire.Expired(ended=1)

    row = await house.row(row.id)
    assert (row.status, row.unmirrored) == ("unknown", False)
    assert await house.shown(run) == SHOWN[Status.UNKNOWN]


@pytest.mark.slow
async def test_on_lost_rerun_it_waits_for_its_next_attempt(house: House) -> None:
    row, run = await house.carried(await house.job(on_lost="rerun"))
    await house.acting(row)
    await house.set(run, Pending(), Running())

    assert await expired(house) == expire.Expired(waiting=1)

    row = await house.row(row.id)
    assert (row.status, row.attempts) == ("waiting", 1)
    assert await house.start(run) == row.until


async def test_a_deadline_that_passes_while_it_waits(house: House) -> None:
    row, run = await house.carried(await house.job(deadline="2h"), until=house.at(hours=3))
    house.passes(hours=2)

    assert await expire.expire(house.ledger, house.client) == expire.Expired(ended=1)

    assert (await house.row(row.id)).status == "timed_out"
    assert await house.shown(run) == SHOWN[Status.TIMED_OUT]
