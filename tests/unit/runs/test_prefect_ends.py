"""Ends in Prefect of runs with a row, by the state of the row (`docs/promise.md` 13)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from daybook.errors import FenceRefused
from daybook.jobs import upcoming
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.runs import claims, prefect_ends
from daybook.runs.claim_requests import ClaimRequest, Finished, Granted
from tests.unit.runs.ending import BY_HAND, SAID, TYPES, Type, end, take
from tests.world import World

pytestmark = pytest.mark.anyio


async def _waiting(world: World, **fields: Any) -> tuple[ClaimRequest, RunRow]:
    """Return a requested run that waits, and the claim request of its Prefect run."""
    stored = await world.jobs.add(**({"every": "1h"} | fields))
    row = await claims.request(world.ledger, stored, "1", "manual")
    await claims.link_prefect_run(world.ledger, row, "f1")
    return world.runs.claim_request(row, flow_run_id="f1"), await world.runs.row(row.id)


async def _claimed(world: World) -> tuple[ClaimRequest, Granted]:
    claim_request = world.runs.claim_request(await world.jobs.add())
    return claim_request, await world.runs.claimed(claim_request)


# --- waiting


async def test_a_waiting_run_cancelled_in_prefect_is_cancelled(world: World) -> None:
    claim_request, row = await _waiting(world)

    assert await take(world, claim_request, "CANCELLED") is Status.CANCELLED

    found = await world.runs.row(row.id)
    assert (found.status, found.reason) == ("cancelled", "cancelled in Prefect")
    assert (found.finished_at, found.until) == (world.clock.now(), None)
    assert found.unmirrored
    assert (await world.jobs.row(str(row.job_id))).last_status == "cancelled"
    assert await take(world, claim_request, "CANCELLED") is None
    assert isinstance(await world.runs.claim(claim_request), Finished)


async def test_a_waiting_run_completed_in_prefect_is_skipped(world: World) -> None:
    claim_request, row = await _waiting(world)

    assert await take(world, claim_request, "COMPLETED") is Status.SKIPPED

    assert (await world.runs.row(row.id)).reason == BY_HAND


async def test_a_waiting_run_that_daybook_skipped_in_prefect_gets_that_reason(world: World) -> None:
    claim_request, row = await _waiting(world)

    refused = end(claim_request, "SKIPPED", message="the job was removed")
    assert await prefect_ends.apply_end(world.ledger, refused) is Status.SKIPPED

    assert (await world.runs.row(row.id)).reason == "the job was removed"


@pytest.mark.parametrize("state", ["CRASHED", "FAILED"])
async def test_a_waiting_run_whose_prefect_run_broke_waits_for_another_one(
    world: World, state: Type
) -> None:
    claim_request, row = await _waiting(world)
    world.clock.move(timedelta(seconds=5))

    assert await take(world, claim_request, state) is Status.WAITING

    found = await world.runs.row(row.id)
    assert (found.status, found.flow_run_id, found.until) == ("waiting", None, world.clock.now())
    assert found.reason == f"its Prefect run ended as {state.title()}: {SAID}"
    # The same end once more, as the next poll reads it.
    world.clock.move(timedelta(seconds=5))
    assert await take(world, claim_request, state) is None
    assert await world.runs.row(row.id) == found
    # And again after another Prefect run was created.
    await claims.link_prefect_run(world.ledger, row, "f2")
    assert await take(world, claim_request, state) is None
    assert (await world.runs.row(row.id)).flow_run_id == "f2"
    assert isinstance(await world.runs.claim(replace(claim_request, flow_run_id="f2")), Granted)


async def test_a_crash_in_prefect_does_not_shorten_a_backoff(world: World) -> None:
    claim_request, row = await _waiting(world)
    granted = await world.runs.running(claim_request)
    until = world.clock.now() + timedelta(minutes=5)
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(world.ledger, granted.run_id, granted.fence, failed, until)

    assert await take(world, claim_request, "CRASHED") is Status.WAITING

    found = await world.runs.row(row.id)
    assert (found.until, found.flow_run_id) == (until, None)


async def test_a_run_fails_after_three_prefect_runs_that_never_began(world: World) -> None:
    claim_request, row = await _waiting(world)
    waits = []
    for flow in ("f1", "f2"):
        assert (
            await take(world, replace(claim_request, flow_run_id=flow), "FAILED") is Status.WAITING
        )
        until = (await world.runs.row(row.id)).until
        assert until is not None
        waits.append((until - world.clock.now()).total_seconds())
        await claims.link_prefect_run(
            world.ledger, await world.runs.row(row.id), f"f{len(waits) + 1}"
        )
    assert waits == [0, 2]

    assert await take(world, replace(claim_request, flow_run_id="f3"), "FAILED") is Status.FAILED

    found = await world.runs.row(row.id)
    assert found.error == f"3 of its Prefect runs ended before it began: {SAID}"
    assert (found.status, found.attempts, found.flow_run_id) == ("failed", 0, "f3")
    assert found.unmirrored
    job = await world.jobs.row(str(row.job_id))
    assert (job.last_error, job.consecutive_failures) == (found.error, 1)


async def test_the_failure_of_a_run_in_another_work_pool_names_the_check_of_the_pool(
    world: World,
) -> None:
    claim_request, row = await _waiting(world, pool="two pools")
    for flow, seconds in (("f1", 30), ("f2", 60)):
        await take(world, replace(claim_request, flow_run_id=flow), "CRASHED")
        found = await world.runs.row(row.id)
        assert found.until == world.clock.now() + timedelta(seconds=seconds)
        await claims.link_prefect_run(world.ledger, found, f"f{int(flow[1]) + 1}")
    await take(world, replace(claim_request, flow_run_id="f3"), "CRASHED")
    error = (await world.runs.row(row.id)).error or ""
    assert error.endswith(f"{SAID}; see daybook doctor --pool 'two pools'")


async def test_a_run_that_has_begun_once_does_not_fail_because_of_its_prefect_runs(
    world: World,
) -> None:
    claim_request, row = await _waiting(world)
    for number in (2, 3, 4):
        await claims.link_prefect_run(world.ledger, await world.runs.row(row.id), f"f{number}")
    claim_request = replace(claim_request, flow_run_id="f4")
    granted = await world.runs.running(claim_request)
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(world.ledger, granted.run_id, granted.fence, failed, world.clock.now())

    assert await take(world, claim_request, "CRASHED") is Status.WAITING


# --- waiting, without a recorded Prefect run


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("CANCELLED", "cancelled"),
        ("COMPLETED", "skipped"),
        ("CRASHED", "waiting"),
        ("FAILED", "waiting"),
    ],
)
async def test_the_end_of_an_unrecorded_prefect_run_counts_only_if_a_person_set_it(
    world: World, state: Type, status: str
) -> None:
    # A crash between the creation of the Prefect run and `link_prefect_run`.
    stored = await world.jobs.add(every="1h")
    row = await claims.request(world.ledger, stored, "1", "manual")
    claim_request = world.runs.claim_request(row, flow_run_id="f1")

    answer = await take(world, claim_request, state)

    found = await world.runs.row(row.id)
    assert found.status == status
    if status == "waiting":
        assert answer is None
        assert found == row
    else:
        assert answer == status
        assert (found.flow_run_id, found.unmirrored) == ("f1", True)


async def test_an_unrecorded_prefect_run_that_daybook_skipped_changes_nothing(world: World) -> None:
    stored = await world.jobs.add(every="1h")
    row = await claims.request(world.ledger, stored, "1", "manual")

    made = end(world.runs.claim_request(row), "SKIPPED")
    assert await prefect_ends.apply_end(world.ledger, made) is None

    assert (await world.runs.row(row.id)).status == "waiting"


# --- claimed


@pytest.mark.parametrize(
    ("state", "status", "reason", "error"),
    [
        ("CANCELLED", Status.CANCELLED, "cancelled in Prefect", None),
        ("FAILED", Status.FAILED, "", SAID),
        ("COMPLETED", Status.SKIPPED, BY_HAND, None),
    ],
)
async def test_a_claimed_run_that_ended_in_prefect_gets_that_outcome(
    world: World, state: Type, status: Status, reason: str, error: str | None
) -> None:
    claim_request, granted = await _claimed(world)

    assert await take(world, claim_request, state) is status

    row = await world.runs.row(granted.run_id)
    assert (row.status, row.reason, row.error) == (status, reason, error)
    assert row.unmirrored
    with pytest.raises(FenceRefused):
        await claims.begin(world.ledger, granted.run_id, granted.fence)


async def test_a_claimed_run_that_crashed_in_prefect_waits_again(world: World) -> None:
    claim_request, granted = await _claimed(world)

    assert await take(world, claim_request, "CRASHED") is Status.WAITING

    row = await world.runs.row(granted.run_id)
    assert (row.status, row.flow_run_id, row.until) == ("waiting", None, world.clock.now())
    assert row.fence == granted.fence + 1
    assert row.reason == f"its Prefect run ended as Crashed: {SAID}"
    with pytest.raises(FenceRefused):
        await claims.begin(world.ledger, granted.run_id, granted.fence)


async def test_a_due_time_that_crashes_in_prefect_within_its_stagger_keeps_it(
    world: World,
) -> None:
    stored = await world.jobs.add(cron="0 * * * *", stagger="10m", catch_up="none")
    claim_request = world.runs.claim_request(stored)
    staggered = claim_request.due + upcoming.stagger_offset(stored.id, stored.job.policy.stagger)
    world.clock.set(max(claim_request.due, staggered - timedelta(seconds=1)))

    assert await take(world, claim_request, "CRASHED") is Status.WAITING

    (row,) = await world.runs.rows()
    assert (row.until, row.queued_at) == (staggered, staggered)


async def test_a_due_time_that_is_missed_because_of_a_late_crash_says_so(world: World) -> None:
    claim_request = world.runs.claim_request(
        await world.jobs.add(cron="0 * * * *", catch_up="none")
    )
    world.clock.set(claim_request.due + timedelta(minutes=5))

    assert await take(world, claim_request, "CRASHED") is Status.MISSED

    (row,) = await world.runs.rows()
    assert row.reason.endswith(f"; its Prefect run ended as Crashed: {SAID}")


# --- running


async def test_a_running_run_cancelled_in_prefect_is_cancelled(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    granted = await world.runs.running(claim_request)

    assert await take(world, claim_request, "CANCELLED") is Status.CANCELLED

    (attempt,) = await world.runs.attempts(granted.run_id)
    assert attempt.status == "cancelled"


@pytest.mark.parametrize("state", ["CRASHED", "FAILED", "COMPLETED"])
async def test_a_running_run_ended_otherwise_in_prefect_is_unknown(
    world: World, state: Type
) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    granted = await world.runs.running(claim_request)

    assert await take(world, claim_request, state) is Status.UNKNOWN

    row = await world.runs.row(granted.run_id)
    assert row.reason == f"its Prefect run ended as {state.title()}: {SAID}"
    # It was still active: its late outcome counts.
    assert await world.runs.finish(granted, Status.SUCCEEDED) is Status.SUCCEEDED


async def test_a_running_run_that_crashed_in_prefect_runs_again_with_on_lost_rerun(
    world: World,
) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add(every="1h", on_lost="rerun"))
    granted = await world.runs.running(claim_request)

    assert await take(world, claim_request, "CRASHED") is Status.WAITING

    row = await world.runs.row(granted.run_id)
    assert (row.status, row.flow_run_id) == ("waiting", None)
    assert row.until is not None
    assert row.until > world.clock.now()


# --- which run an end belongs to


@pytest.mark.parametrize("state", TYPES)
async def test_an_end_in_prefect_of_a_finished_run_changes_nothing(
    world: World, state: Type
) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    granted = await world.runs.finished(claim_request, Status.SUCCEEDED)
    before = await world.runs.row(granted.run_id)

    assert await take(world, claim_request, state) is None

    assert await world.runs.row(granted.run_id) == before


@pytest.mark.parametrize("state", TYPES)
@pytest.mark.parametrize("started", [True, False])
async def test_an_end_of_a_replaced_prefect_run_changes_nothing(
    world: World, state: Type, started: bool
) -> None:
    claim_request, granted = await _claimed(world)
    if started:
        await claims.begin(world.ledger, granted.run_id, granted.fence)
    before = await world.runs.row(granted.run_id)

    assert await take(world, replace(claim_request, flow_run_id="another"), state) is None

    assert await world.runs.row(granted.run_id) == before


async def test_an_end_read_before_the_last_claim_changes_nothing(world: World) -> None:
    claim_request, granted = await _claimed(world)
    fence = (await world.runs.row(granted.run_id)).fence
    until = world.clock.now()
    await claims.postpone(world.ledger, granted.run_id, granted.fence, until, "set back")
    again = await world.runs.running(claim_request)

    assert await prefect_ends.apply_end(world.ledger, end(claim_request, "CRASHED"), fence) is None
    assert (await world.runs.row(granted.run_id)).status == "running"
    assert (
        await prefect_ends.apply_end(world.ledger, end(claim_request, "CRASHED"), again.fence)
        is Status.UNKNOWN
    )


async def test_the_row_of_an_end_is_found_without_a_claim_request(world: World) -> None:
    claim_request, row = await _waiting(world)

    assert await prefect_ends.apply_end(
        world.ledger, replace(end(claim_request, "CANCELLED"), request=None)
    ) is (Status.CANCELLED)

    assert (await world.runs.row(row.id)).status == "cancelled"


async def test_an_end_of_a_retried_prefect_run_applies_to_its_live_row(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    first = await world.runs.finished(claim_request, Status.FAILED)
    retried = await world.runs.claim(replace(claim_request, flow_starts=2, retries=(1,)))
    assert isinstance(retried, Granted)

    assert await take(world, replace(claim_request, flow_starts=2), "CANCELLED") is Status.CANCELLED

    assert (await world.runs.row(retried.run_id)).status == "cancelled"
    assert (await world.runs.row(first.run_id)).status == "failed"


# --- refused by Prefect


async def test_a_run_that_prefect_refuses_waits_longer_each_time_and_then_fails(
    world: World,
) -> None:
    row = await claims.request(world.ledger, await world.jobs.add(), "1", "manual")
    pauses = []
    for _ in range(2):
        assert (
            await prefect_ends.record_refusal(world.ledger, await world.runs.row(row.id), "no")
            is Status.WAITING
        )
        until = (await world.runs.row(row.id)).until
        assert until is not None
        pauses.append((until - world.clock.now()).total_seconds())
    assert pauses == [15, 30]

    assert (
        await prefect_ends.record_refusal(world.ledger, await world.runs.row(row.id), "no")
        is Status.FAILED
    )

    found = await world.runs.row(row.id)
    assert found.error == "Prefect refused 3 times to create its run: no"
    assert (found.status, found.waits_for, found.attempts) == ("failed", "", 0)
    assert await prefect_ends.record_refusal(world.ledger, found, "no") is None


async def test_two_concurrent_refusals_by_prefect_count_once(world: World) -> None:
    row = await claims.request(world.ledger, await world.jobs.add(), "1", "manual")

    assert await prefect_ends.record_refusal(world.ledger, row, "no") is Status.WAITING
    assert await prefect_ends.record_refusal(world.ledger, row, "no") is None

    assert (await world.runs.row(row.id)).prefect_runs == 1


async def test_a_refusal_is_ignored_if_a_prefect_run_was_linked_meanwhile(world: World) -> None:
    row = await claims.request(world.ledger, await world.jobs.add(), "1", "manual")
    await claims.link_prefect_run(world.ledger, row, "f1")

    assert await prefect_ends.record_refusal(world.ledger, row, "no") is None

    assert (await world.runs.row(row.id)).flow_run_id == "f1"


async def test_refusals_do_not_shorten_a_backoff_and_an_attempt_allows_one_more(
    world: World,
) -> None:
    claim_request, row = await _waiting(world)
    granted = await world.runs.running(claim_request)
    until = world.clock.now() + timedelta(minutes=5)
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(world.ledger, granted.run_id, granted.fence, failed, until)

    for count in (2, 3):
        assert (
            await prefect_ends.record_refusal(world.ledger, await world.runs.row(row.id), "no")
            is Status.WAITING
        )
        found = await world.runs.row(row.id)
        assert (found.prefect_runs, found.until) == (count, until)

    assert (
        await prefect_ends.record_refusal(world.ledger, await world.runs.row(row.id), "no")
        is Status.FAILED
    )
