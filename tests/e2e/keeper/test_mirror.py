"""Mirror and expire: Prefect shows what became of a run (`docs/promise.md` 13, 5)."""

from __future__ import annotations

from typing import Any

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

from daybook.keeper import expire, mirror
from daybook.ledger import claims
from daybook.ledger.outcomes import Outcome
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
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
async def test_whatever_prefect_has_is_brought_to_it(house: House, state: State[Any]) -> None:
    _, run = await ended(house, Status.FAILED, state)

    assert (await mirror.mirror(house.ledger, house.client)).forced == 1

    assert await house.shown(run) == SHOWN[Status.FAILED]


async def test_what_agrees_is_not_written_again(house: House) -> None:
    row, run = await ended(house, Status.SUCCEEDED, Completed())
    before = await house.states(run)

    done = await mirror.mirror(house.ledger, house.client)

    assert (done.agreed, done.forced) == (1, 0)
    assert await house.states(run) == before
    assert not (await house.row(row.id)).unmirrored


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
async def test_what_is_done_after_the_end_is_not_undone(
    house: House, then: list[State[Any]]
) -> None:
    row, run = await ended(house, Status.SUCCEEDED, Completed(), *then)

    assert not await mirror.mirror(house.ledger, house.client)

    assert await house.shown(run) == (then[-1].type.value, then[-1].name)
    assert not (await house.row(row.id)).unmirrored


async def test_a_retry_of_a_run_that_prefect_ended_otherwise_goes_on(house: House) -> None:
    row, run = await ended(house, Status.FAILED, Crashed(), AwaitingRetry())

    assert not await mirror.mirror(house.ledger, house.client)

    assert await house.shown(run) == ("SCHEDULED", "AwaitingRetry")
    assert not (await house.row(row.id)).unmirrored


async def test_of_a_run_that_was_deleted_nothing_is_left_to_tell(house: House) -> None:
    row, run = await ended(house, Status.SUCCEEDED)
    await house.ui.delete_flow_run(run.id)

    assert not await mirror.mirror(house.ledger, house.client)

    assert not (await house.row(row.id)).unmirrored


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
