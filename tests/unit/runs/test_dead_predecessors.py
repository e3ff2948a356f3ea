"""Promises 1 and 9: a due time is skipped only for a run whose holder is known to be alive."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from daybook.jobs import upcoming
from daybook.jobs.store import StoredJob
from daybook.ledger.states import HELD, Outcome, Status
from daybook.runs import audit, claims, leases, slots
from daybook.runs.claim_requests import ClaimRequest, ClaimResult, Finished, Granted, Waiting
from daybook.timing import TIMING
from tests.world import World

pytestmark = pytest.mark.anyio

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
HOUR = 60 * MINUTE
NEW = "there:2"
"""The process that claims after the crash; `World` claims as another one."""


async def _job(world: World, **fields: Any) -> StoredJob:
    return await world.jobs.add(**{"every": "1h", "session": "new", **fields})


async def _dead(world: World, stored: StoredJob, *, began: bool = True) -> Granted:
    """Claim the job's next due time; its machine dies 50 minutes later, after a renewal."""
    first = world.runs.claim_request(stored)
    granted = await (world.runs.running(first) if began else world.runs.claimed(first))
    world.clock.move(50 * MINUTE)
    await leases.renew(world.ledger, granted.run_id, granted.fence)
    return granted


async def _claimed(
    world: World, stored: StoredJob, at: timedelta
) -> tuple[ClaimRequest, ClaimResult]:
    """Claim the job's next due time as the process `NEW`, ``at`` after that due time."""
    claim_request = world.runs.claim_request(stored, holder=NEW)
    world.clock.set(claim_request.due + at)
    return claim_request, await world.runs.claim(claim_request)


async def _judged(world: World) -> None:
    """Expire leases as the keeper does, until no run is held any more."""
    for _ in range(3):
        await leases.expire_all(world.ledger)
        if not any(row.state in HELD for row in await world.runs.rows()):
            return
        world.clock.move(TIMING.run_lease)
    raise AssertionError("a lease was not judged")


async def _became(world: World) -> list[tuple[str, str, int]]:
    return [(row.status, row.trigger, row.attempts) for row in await world.runs.rows()]


async def test_a_catch_up_run_waits_until_its_dead_predecessor_is_declared_lost(
    world: World,
) -> None:
    stored = await _job(world)
    dead = await _dead(world, stored)

    claim_request, answer = await _claimed(world, stored, at=20 * MINUTE)

    assert isinstance(answer, Waiting)
    assert answer.until == world.clock.now() + TIMING.run_lease
    why = f"overlap: it is not known yet whether run {dead.run_id[:8]} of "
    assert answer.why.startswith(why)
    row = await world.runs.row(str(answer.run_id))
    assert (row.status, row.waits_for, row.reason) == ("waiting", "holder", answer.why)

    world.clock.set(answer.until)
    assert isinstance(await world.runs.claim(claim_request), Granted)
    assert await _became(world) == [("unknown", "schedule", 1), ("claimed", "catch_up", 0)]


async def test_the_keeper_wakes_the_waiting_run_when_it_declares_the_holder_lost(
    world: World,
) -> None:
    stored = await _job(world)
    await _dead(world, stored)
    claim_request, _ = await _claimed(world, stored, at=20 * MINUTE)

    await _judged(world)

    async with world.ledger.read() as session:
        (woken,) = await slots.next_up(session, world.clock.now(), 1, {})
    assert (woken.occurrence, woken.status) == (claim_request.occurrence, "waiting")
    assert isinstance(await world.runs.claim(claim_request), Granted)


async def test_a_run_starts_at_once_if_its_predecessor_was_already_declared_lost(
    world: World,
) -> None:
    stored = await _job(world)
    await _dead(world, stored)
    await _judged(world)

    _, answer = await _claimed(world, stored, at=20 * MINUTE)

    assert isinstance(answer, Granted)


async def test_a_waiting_run_is_skipped_when_the_holder_renews_its_lease(world: World) -> None:
    """The ledger was unreachable for longer than a lease; the run continued."""
    stored = await _job(world)
    running = await _dead(world, stored)
    claim_request, answer = await _claimed(world, stored, at=SECOND)
    assert isinstance(answer, Waiting)

    assert await leases.renew(world.ledger, running.run_id, running.fence)
    world.clock.set(answer.until)
    await leases.renew(world.ledger, running.run_id, running.fence)
    given_answer = await world.runs.claim(claim_request)

    assert isinstance(given_answer, Finished)
    assert given_answer.status is Status.SKIPPED
    assert given_answer.reason.startswith(f"overlap: run {running.run_id[:8]} of ")
    assert await world.runs.finish(running, Status.SUCCEEDED) is Status.SUCCEEDED


async def test_an_outcome_within_the_lease_skips_the_run_that_waits_for_the_holder(
    world: World,
) -> None:
    stored = await _job(world)
    running = await _dead(world, stored)
    _, answer = await _claimed(world, stored, at=SECOND)
    assert isinstance(answer, Waiting)
    assert await leases.renew(world.ledger, running.run_id, running.fence)

    await world.runs.finish(running, Status.SUCCEEDED)

    row = await world.runs.row(str(answer.run_id))
    assert (row.status, row.attempts) == ("skipped", 0)
    assert row.reason.startswith(f"overlap: run {running.run_id[:8]} of ")


async def test_an_outcome_after_the_lease_does_not_skip_the_waiting_run(world: World) -> None:
    """An example is an outcome that was in the spool when the machine died."""
    stored = await _job(world)
    running = await _dead(world, stored)
    claim_request, _ = await _claimed(world, stored, at=20 * MINUTE)

    await world.runs.finish(running, Status.SUCCEEDED)

    assert isinstance(await world.runs.claim(claim_request), Granted)


async def test_a_run_waits_if_the_holder_has_not_renewed_since_the_due_time(world: World) -> None:
    stored = await _job(world, every="1m")
    dead = await world.runs.running(stored)
    world.clock.move(40 * SECOND)
    assert await leases.renew(world.ledger, dead.run_id, dead.fence)  # and then the holder dies

    claim_request, answer = await _claimed(world, stored, at=timedelta())

    assert isinstance(answer, Waiting)
    last_report = claim_request.due - 20 * SECOND
    assert answer.until == last_report + TIMING.run_lease_missed
    looks = []
    while isinstance(answer, Waiting):
        looks.append(answer.until - last_report)
        world.clock.set(answer.until)
        answer = await world.runs.claim(claim_request)
    assert looks == [25 * SECOND, TIMING.run_lease, 2 * TIMING.run_lease]
    assert isinstance(answer, Granted)


async def test_a_run_is_skipped_if_the_holder_has_renewed_since_the_due_time(world: World) -> None:
    stored = await _job(world, every="1m")
    running = await world.runs.running(stored)
    claim_request = world.runs.claim_request(stored, holder=NEW)
    world.clock.set(claim_request.due)
    assert await leases.renew(world.ledger, running.run_id, running.fence)
    world.clock.move(30 * SECOND)

    assert isinstance(await world.runs.claim(claim_request), Finished)


async def test_a_run_is_skipped_if_the_claiming_process_holds_the_active_run(world: World) -> None:
    stored = await _job(world, every="1m")
    running = await world.runs.running(stored)
    world.clock.move(40 * SECOND)
    assert await leases.renew(world.ledger, running.run_id, running.fence)

    assert isinstance((await _claimed(world, stored, at=timedelta()))[1], Waiting)
    second = world.runs.claim_request(stored, due=world.clock.now())
    assert isinstance(await world.runs.claim(second), Finished)


async def test_a_run_is_not_missed_if_its_window_ends_while_it_waits_for_the_holder(
    world: World,
) -> None:
    stored = await _job(world)
    await _dead(world, stored)
    claim_request, answer = await _claimed(world, stored, at=30 * MINUTE)  # the end of its window
    assert isinstance(answer, Waiting)
    world.clock.set(answer.until)

    assert isinstance(await world.runs.claim(claim_request), Granted)


@pytest.mark.parametrize(("again", "expected"), [(25 * MINUTE, "claimed"), (40 * MINUTE, "missed")])
async def test_lateness_is_evaluated_again_after_a_second_outage_left_a_run_undecided(
    world: World, again: timedelta, expected: str
) -> None:
    stored = await _job(world)
    await _dead(world, stored)
    claim_request, answer = await _claimed(world, stored, at=10 * MINUTE)
    assert isinstance(answer, Waiting)
    world.clock.set(claim_request.due + again)
    answer = await world.runs.claim(claim_request)
    assert isinstance(answer, Granted if expected == "claimed" else Finished)

    assert (await world.runs.rows())[-1].status == expected


async def test_of_several_runs_that_wait_for_a_holder_only_the_latest_stays(world: World) -> None:
    stored = await _job(world, every="30s")
    await world.runs.running(stored)
    claim_requests = [(await _claimed(world, stored, at=timedelta()))[0] for _ in range(2)]

    rows = await world.runs.rows()
    assert [row.status for row in rows] == ["running", "skipped", "waiting"]
    assert rows[1].reason == f"overlap: the run of {claim_requests[1].due:%F %T} UTC replaced it"
    earlier = world.runs.claim_request(stored, due=claim_requests[0].due, holder=NEW)
    assert isinstance(await world.runs.claim(earlier), Finished)
    await _judged(world)
    assert isinstance(await world.runs.claim(claim_requests[1]), Granted)


@pytest.mark.parametrize("lost_first", [False, True])
async def test_a_run_lost_before_its_effect_is_skipped_for_a_later_due_time(
    world: World, lost_first: bool
) -> None:
    stored = await _job(world)
    first = world.runs.claim_request(stored, holder=NEW)
    await _dead(world, stored, began=False)
    claim_request, _ = await _claimed(world, stored, at=10 * MINUTE)
    await _judged(world)

    answers = [
        await world.runs.claim(each)
        for each in ((first, claim_request) if lost_first else (claim_request, first))
    ]

    assert sorted(type(each).__name__ for each in answers) == ["Finished", "Granted"]
    assert await _became(world) == [("skipped", "schedule", 0), ("claimed", "catch_up", 0)]


async def test_a_run_lost_before_its_effect_runs_if_no_later_due_time_waits(world: World) -> None:
    stored = await _job(world)
    first = world.runs.claim_request(stored, holder=NEW)
    await _dead(world, stored, began=False)
    await _judged(world)

    assert isinstance(await world.runs.claim(first), Granted)


@pytest.mark.parametrize("judged_first", [False, True])
@pytest.mark.parametrize("lost_first", [False, True])
async def test_the_rerun_of_a_lost_run_comes_after_the_due_time_that_waited_for_it(
    world: World, lost_first: bool, judged_first: bool
) -> None:
    stored = await _job(world, on_lost="rerun", retry_delay="1s", retries=1)
    first = world.runs.claim_request(stored, holder=NEW)
    await _dead(world, stored)
    claim_request = world.runs.claim_request(stored, holder=NEW)
    world.clock.set(claim_request.due + 10 * MINUTE)
    if judged_first:  # by the keeper, whose audit also creates the row of the unclaimed due time
        await _judged(world)
        await audit.advance(world.ledger, stored.id, world.clock.now())
    else:
        assert isinstance(await world.runs.claim(claim_request), Waiting)
        await _judged(world)
    world.clock.move(5 * SECOND)  # the pause before the rerun is over
    for each in (first, claim_request) if lost_first else (claim_request, first):
        answer = await world.runs.claim(each)
        assert isinstance(answer, Waiting if each is first else Granted), answer
    granted = answer if isinstance(answer, Granted) else await _granted_as(world, claim_request)

    await claims.begin(world.ledger, granted.run_id, granted.fence)
    assert isinstance(await world.runs.claim(first), Waiting)
    await world.runs.finish(granted, Status.SUCCEEDED)

    assert isinstance(await world.runs.claim(first), Granted)
    assert await _became(world) == [("claimed", "schedule", 1), ("succeeded", "catch_up", 1)]


async def _granted_as(world: World, claim_request: ClaimRequest) -> Granted:
    (row,) = [
        each for each in await world.runs.rows() if each.occurrence == claim_request.occurrence
    ]
    return await claims.read_grant(world.ledger, row.id, row.fence)


async def test_a_due_time_after_the_loss_was_declared_is_skipped_for_the_rerun(
    world: World,
) -> None:
    stored = await _job(world, on_lost="rerun", retry_delay="5m", retries=1)
    dead = await _dead(world, stored)
    world.clock.move(6 * MINUTE)
    await _judged(world)
    assert (await world.runs.row(dead.run_id)).status == "waiting"

    assert isinstance((await _claimed(world, stored, at=timedelta()))[1], Finished)


async def test_a_due_time_is_skipped_for_a_run_between_two_attempts(world: World) -> None:
    stored = await _job(world, every="1m", retries=1)
    running = await world.runs.running(stored)
    until = world.clock.now() + 5 * MINUTE
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(world.ledger, running.run_id, running.fence, failed, until)

    assert isinstance((await _claimed(world, stored, at=timedelta()))[1], Finished)


@pytest.mark.parametrize("alive", [False, True])
async def test_queue_one_waits_until_it_is_known_whether_the_holder_is_alive(
    world: World, alive: bool
) -> None:
    stored = await _job(world, overlap="queue_one")
    running = await _dead(world, stored)
    queued, answer = await _claimed(world, stored, at=timedelta())
    assert isinstance(answer, Waiting)
    assert (await world.runs.row(str(answer.run_id))).waits_for == "overlap"
    last = world.runs.claim_request(stored, holder=NEW)
    world.clock.set(last.due - 2 * MINUTE)
    assert await leases.renew(world.ledger, running.run_id, running.fence)
    world.clock.set(last.due + MINUTE)
    assert isinstance(await world.runs.claim(queued), Waiting)  # it claims again by itself
    first = await world.runs.claim(last)
    assert isinstance(first, Waiting)
    assert (await world.runs.row(str(first.run_id))).waits_for == "holder"

    if alive:
        await leases.renew(world.ledger, running.run_id, running.fence)
        answer = await world.runs.claim(last)
        assert isinstance(answer, Finished)
        assert answer.reason.endswith("was still running, and another run was already waiting")
        return
    await _judged(world)
    granted = await world.runs.running(queued)
    assert isinstance(await world.runs.claim(last), Waiting)
    await world.runs.finish(granted, Status.SUCCEEDED)
    assert isinstance(await world.runs.claim(last), Granted)


@pytest.mark.parametrize("overlap", ["skip", "allow"])
async def test_a_run_in_doubt_that_has_not_begun_does_not_use_up_max_runs(
    world: World, overlap: str
) -> None:
    stored = await _job(world, max_runs=1, overlap=overlap)
    first = world.runs.claim_request(stored, holder=NEW)
    dead = await _dead(world, stored, began=False)
    claim_request, answer = await _claimed(world, stored, at=10 * MINUTE)
    assert isinstance(answer, Waiting)
    assert answer.why.startswith(f"max runs: it is not known yet whether run {dead.run_id[:8]}")
    world.clock.set(answer.until)

    granted = await world.runs.running(claim_request)
    await world.runs.finish(granted, Status.SUCCEEDED)

    assert isinstance(await world.runs.claim(first), Finished)
    assert [row.status for row in await world.runs.rows()] == ["skipped", "succeeded"]


async def test_a_run_in_doubt_that_has_begun_uses_up_max_runs(world: World) -> None:
    stored = await _job(world, max_runs=1)
    await _dead(world, stored)

    _, answer = await _claimed(world, stored, at=10 * MINUTE)

    assert isinstance(answer, Finished)
    assert answer.reason == "max runs: 1 are done or running"


async def test_the_audit_leaves_a_due_time_that_depends_on_a_run_in_doubt_to_the_claim(
    world: World,
) -> None:
    stored = await _job(world, max_runs=1)
    await _dead(world, stored, began=False)
    claim_request = world.runs.claim_request(stored, holder=NEW)
    world.clock.set(claim_request.due + 10 * MINUTE)

    await audit.advance(world.ledger, stored.id, world.clock.now())

    assert [row.status for row in await world.runs.rows()] == ["claimed", "waiting"]
    answer = await world.runs.claim(claim_request)
    assert isinstance(answer, Waiting)
    world.clock.set(answer.until)
    assert isinstance(await world.runs.claim(claim_request), Granted)


async def test_a_staggered_run_waits_if_the_holder_has_not_renewed_since_its_stagger(
    world: World,
) -> None:
    stored = await _job(world, stagger="30m")
    later = upcoming.stagger_offset(stored.id, stored.job.policy.stagger)
    first = world.runs.claim_request(stored)
    world.clock.set(first.due + later)
    dead = await world.runs.running(first)
    claim_request = world.runs.claim_request(stored, holder=NEW)
    begins = claim_request.due + later
    world.clock.set(begins - 10 * SECOND)
    assert await leases.renew(world.ledger, dead.run_id, dead.fence)
    world.clock.set(begins)

    answer = await world.runs.claim(claim_request)

    assert isinstance(answer, Waiting)
    assert answer.until == begins + 15 * SECOND
