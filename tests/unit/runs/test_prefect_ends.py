"""Ends made in Prefect, by the state the row is in (`docs/promise.md` 13, the other way)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from daybook.errors import FenceRefused
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.runs import claims, prefect_ends
from daybook.runs.claim_requests import ClaimRequest, Finished, Granted
from tests.unit.runs.ending import BY_HAND, SAID, TYPES, Type, end, take
from tests.world import World

pytestmark = pytest.mark.anyio


async def _waiting(world: World, **fields: Any) -> tuple[ClaimRequest, RunRow]:
    """A run that was asked for, and the Prefect run that was made for it."""
    stored = await world.add(**({"every": "1h"} | fields))
    row = await claims.request(world.ledger, stored, "1", "manual")
    await claims.link_prefect_run(world.ledger, row, "f1")
    return world.offer_of(row, flow_run_id="f1"), await world.row(row.id)


async def _claimed(world: World) -> tuple[ClaimRequest, Granted]:
    offer = world.offer(await world.add())
    return offer, await world.granted(offer)


# --- waiting


async def test_a_waiting_one_that_is_cancelled_there_is_cancelled(world: World) -> None:
    offer, row = await _waiting(world)

    assert await take(world, offer, "CANCELLED") is Status.CANCELLED

    found = await world.row(row.id)
    assert (found.status, found.reason) == ("cancelled", "cancelled in Prefect")
    assert (found.finished_at, found.until) == (world.clock.now(), None)
    assert found.unmirrored
    assert (await world.job_row(str(row.job_id))).last_status == "cancelled"
    assert await take(world, offer, "CANCELLED") is None
    assert isinstance(await world.claim(offer), Finished)


async def test_a_waiting_one_that_is_completed_there_is_skipped(world: World) -> None:
    offer, row = await _waiting(world)

    assert await take(world, offer, "COMPLETED") is Status.SKIPPED

    assert (await world.row(row.id)).reason == BY_HAND


async def test_a_waiting_one_that_we_refused_there_has_the_reason_of_that(world: World) -> None:
    offer, row = await _waiting(world)

    refused = end(offer, "SKIPPED", message="the job was removed")
    assert await prefect_ends.apply_end(world.ledger, refused) is Status.SKIPPED

    assert (await world.row(row.id)).reason == "the job was removed"


@pytest.mark.parametrize("state", ["CRASHED", "FAILED"])
async def test_a_waiting_one_whose_run_broke_waits_for_another(world: World, state: Type) -> None:
    offer, row = await _waiting(world)
    world.clock.move(timedelta(seconds=5))

    assert await take(world, offer, state) is Status.WAITING

    found = await world.row(row.id)
    assert (found.status, found.flow_run_id, found.until) == ("waiting", None, world.clock.now())
    assert found.reason == f"its Prefect run ended as {state.title()}: {SAID}"
    # The same end once more, as the next poll brings it.
    world.clock.move(timedelta(seconds=5))
    assert await take(world, offer, state) is None
    assert await world.row(row.id) == found
    # And after another run was made.
    await claims.link_prefect_run(world.ledger, row, "f2")
    assert await take(world, offer, state) is None
    assert (await world.row(row.id)).flow_run_id == "f2"
    assert isinstance(await world.claim(replace(offer, flow_run_id="f2")), Granted)


async def test_a_backoff_is_not_cut_short_by_a_crash(world: World) -> None:
    offer, row = await _waiting(world)
    granted = await world.begun(offer)
    until = world.clock.now() + timedelta(minutes=5)
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(world.ledger, granted.run_id, granted.fence, failed, until)

    assert await take(world, offer, "CRASHED") is Status.WAITING

    found = await world.row(row.id)
    assert (found.until, found.flow_run_id) == (until, None)


async def test_after_three_runs_that_never_began_it_has_failed(world: World) -> None:
    offer, row = await _waiting(world)
    waits = []
    for flow in ("f1", "f2"):
        assert await take(world, replace(offer, flow_run_id=flow), "FAILED") is Status.WAITING
        until = (await world.row(row.id)).until
        assert until is not None
        waits.append((until - world.clock.now()).total_seconds())
        await claims.link_prefect_run(world.ledger, await world.row(row.id), f"f{len(waits) + 1}")
    assert waits == [0, 2]

    assert await take(world, replace(offer, flow_run_id="f3"), "FAILED") is Status.FAILED

    found = await world.row(row.id)
    assert found.error == f"its Prefect runs ended 3 times before it began: {SAID}"
    assert (found.status, found.attempts, found.flow_run_id) == ("failed", 0, "f3")
    assert found.unmirrored
    job = await world.job_row(str(row.job_id))
    assert (job.last_error, job.consecutive_failures) == (found.error, 1)


async def test_one_that_has_begun_before_is_not_failed_for_its_runs(world: World) -> None:
    offer, row = await _waiting(world)
    for number in (2, 3, 4):
        await claims.link_prefect_run(world.ledger, await world.row(row.id), f"f{number}")
    offer = replace(offer, flow_run_id="f4")
    granted = await world.begun(offer)
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(world.ledger, granted.run_id, granted.fence, failed, world.clock.now())

    assert await take(world, offer, "CRASHED") is Status.WAITING


# --- waiting, and no Prefect run written down


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("CANCELLED", "cancelled"),
        ("COMPLETED", "skipped"),
        ("CRASHED", "waiting"),
        ("FAILED", "waiting"),
    ],
)
async def test_of_a_run_that_is_not_written_down_a_persons_wish_counts(
    world: World, state: Type, status: str
) -> None:
    # A crash between the making of the Prefect run and `carried_by`.
    stored = await world.add(every="1h")
    row = await claims.request(world.ledger, stored, "1", "manual")
    offer = world.offer_of(row, flow_run_id="f1")

    answer = await take(world, offer, state)

    found = await world.row(row.id)
    assert found.status == status
    if status == "waiting":
        assert answer is None
        assert found == row
    else:
        assert answer == status
        assert (found.flow_run_id, found.unmirrored) == ("f1", True)


async def test_our_own_refusal_is_no_persons_wish(world: World) -> None:
    stored = await world.add(every="1h")
    row = await claims.request(world.ledger, stored, "1", "manual")

    made = end(world.offer_of(row), "SKIPPED")
    assert await prefect_ends.apply_end(world.ledger, made) is None

    assert (await world.row(row.id)).status == "waiting"


# --- claimed


@pytest.mark.parametrize(
    ("state", "status", "reason", "error"),
    [
        ("CANCELLED", Status.CANCELLED, "cancelled in Prefect", None),
        ("FAILED", Status.FAILED, "", SAID),
        ("COMPLETED", Status.SKIPPED, BY_HAND, None),
    ],
)
async def test_a_claimed_one_ends_as_it_ended_there(
    world: World, state: Type, status: Status, reason: str, error: str | None
) -> None:
    offer, granted = await _claimed(world)

    assert await take(world, offer, state) is status

    row = await world.row(granted.run_id)
    assert (row.status, row.reason, row.error) == (status, reason, error)
    assert row.unmirrored
    with pytest.raises(FenceRefused):
        await claims.begin(world.ledger, granted.run_id, granted.fence)


async def test_a_claimed_one_that_crashed_there_waits_at_once(world: World) -> None:
    offer, granted = await _claimed(world)

    assert await take(world, offer, "CRASHED") is Status.WAITING

    row = await world.row(granted.run_id)
    assert (row.status, row.flow_run_id, row.until) == ("waiting", None, world.clock.now())
    assert row.fence == granted.fence + 1
    assert row.reason == f"its Prefect run ended as Crashed: {SAID}"
    with pytest.raises(FenceRefused):
        await claims.begin(world.ledger, granted.run_id, granted.fence)


# --- running


async def test_an_acting_one_that_was_cancelled_there_is_cancelled(world: World) -> None:
    offer = world.offer(await world.add())
    granted = await world.begun(offer)

    assert await take(world, offer, "CANCELLED") is Status.CANCELLED

    (attempt,) = await world.attempts(granted.run_id)
    assert attempt.status == "cancelled"


@pytest.mark.parametrize("state", ["CRASHED", "FAILED", "COMPLETED"])
async def test_an_acting_one_cannot_be_known(world: World, state: Type) -> None:
    offer = world.offer(await world.add())
    granted = await world.begun(offer)

    assert await take(world, offer, state) is Status.UNKNOWN

    row = await world.row(granted.run_id)
    assert row.reason == f"its Prefect run ended as {state.title()}: {SAID}"
    # It was at work all the same: its outcome comes late, and counts.
    assert await world.settle(granted, Status.SUCCEEDED) is Status.SUCCEEDED


async def test_an_acting_one_is_run_again_where_the_job_says_so(world: World) -> None:
    offer = world.offer(await world.add(every="1h", on_lost="rerun"))
    granted = await world.begun(offer)

    assert await take(world, offer, "CRASHED") is Status.WAITING

    row = await world.row(granted.run_id)
    assert (row.status, row.flow_run_id) == ("waiting", None)
    assert row.until is not None
    assert row.until > world.clock.now()


# --- whose end it is


@pytest.mark.parametrize("state", TYPES)
async def test_an_end_of_what_has_ended_changes_nothing(world: World, state: Type) -> None:
    offer = world.offer(await world.add())
    granted = await world.settled(offer, Status.SUCCEEDED)
    before = await world.row(granted.run_id)

    assert await take(world, offer, state) is None

    assert await world.row(granted.run_id) == before


@pytest.mark.parametrize("state", TYPES)
@pytest.mark.parametrize("begun", [True, False])
async def test_an_end_of_a_run_that_another_replaced_changes_nothing(
    world: World, state: Type, begun: bool
) -> None:
    offer, granted = await _claimed(world)
    if begun:
        await claims.begin(world.ledger, granted.run_id, granted.fence)
    before = await world.row(granted.run_id)

    assert await take(world, replace(offer, flow_run_id="another"), state) is None

    assert await world.row(granted.run_id) == before


async def test_an_end_seen_before_the_last_claim_changes_nothing(world: World) -> None:
    offer, granted = await _claimed(world)
    seen = (await world.row(granted.run_id)).fence
    until = world.clock.now()
    await claims.postpone(world.ledger, granted.run_id, granted.fence, until, "set back")
    again = await world.begun(offer)

    assert await prefect_ends.apply_end(world.ledger, end(offer, "CRASHED"), seen) is None
    assert (await world.row(granted.run_id)).status == "running"
    assert (
        await prefect_ends.apply_end(world.ledger, end(offer, "CRASHED"), again.fence)
        is Status.UNKNOWN
    )


async def test_a_row_is_found_without_an_offer_too(world: World) -> None:
    offer, row = await _waiting(world)

    assert await prefect_ends.apply_end(
        world.ledger, replace(end(offer, "CANCELLED"), offer=None)
    ) is (Status.CANCELLED)

    assert (await world.row(row.id)).status == "cancelled"


async def test_of_several_starts_the_live_one_is_meant(world: World) -> None:
    offer = world.offer(await world.add())
    first = await world.settled(offer, Status.FAILED)
    retried = await world.claim(replace(offer, flow_starts=2, retries=(1,)))
    assert isinstance(retried, Granted)

    assert await take(world, replace(offer, flow_starts=2), "CANCELLED") is Status.CANCELLED

    assert (await world.row(retried.run_id)).status == "cancelled"
    assert (await world.row(first.run_id)).status == "failed"


# --- refused


async def test_a_run_that_prefect_refuses_waits_longer_each_time_and_has_failed_then(
    world: World,
) -> None:
    row = await claims.request(world.ledger, await world.add(), "1", "manual")
    pauses = []
    for _ in range(2):
        assert (
            await prefect_ends.record_refusal(world.ledger, await world.row(row.id), "no")
            is Status.WAITING
        )
        until = (await world.row(row.id)).until
        assert until is not None
        pauses.append((until - world.clock.now()).total_seconds())
    assert pauses == [15, 30]

    assert (
        await prefect_ends.record_refusal(world.ledger, await world.row(row.id), "no")
        is Status.FAILED
    )

    found = await world.row(row.id)
    assert found.error == "Prefect refused 3 times to create its run: no"
    assert (found.status, found.waits_for, found.attempts) == ("failed", "", 0)
    assert await prefect_ends.record_refusal(world.ledger, found, "no") is None


async def test_of_two_that_are_refused_at_once_one_counts(world: World) -> None:
    row = await claims.request(world.ledger, await world.add(), "1", "manual")

    assert await prefect_ends.record_refusal(world.ledger, row, "no") is Status.WAITING
    assert await prefect_ends.record_refusal(world.ledger, row, "no") is None

    assert (await world.row(row.id)).prefect_runs == 1


async def test_a_run_that_was_carried_meanwhile_was_not_refused(world: World) -> None:
    row = await claims.request(world.ledger, await world.add(), "1", "manual")
    await claims.link_prefect_run(world.ledger, row, "f1")

    assert await prefect_ends.record_refusal(world.ledger, row, "no") is None

    assert (await world.row(row.id)).flow_run_id == "f1"


async def test_a_backoff_is_not_cut_short_by_a_refusal_and_an_attempt_gives_patience(
    world: World,
) -> None:
    offer, row = await _waiting(world)
    granted = await world.begun(offer)
    until = world.clock.now() + timedelta(minutes=5)
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(world.ledger, granted.run_id, granted.fence, failed, until)

    for count in (2, 3):
        assert (
            await prefect_ends.record_refusal(world.ledger, await world.row(row.id), "no")
            is Status.WAITING
        )
        found = await world.row(row.id)
        assert (found.prefect_runs, found.until) == (count, until)

    assert (
        await prefect_ends.record_refusal(world.ledger, await world.row(row.id), "no")
        is Status.FAILED
    )
