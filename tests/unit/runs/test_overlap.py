"""Requirement 22: a due time while another run of its job is active, by overlap policy."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.runs import claims, leases, slots
from daybook.runs.claim_requests import ClaimRequest, ClaimResult, Finished, Granted, Waiting
from daybook.timing import TIMING
from tests.world import World

pytestmark = pytest.mark.anyio

GAP = timedelta(seconds=10)


async def _job(world: World, overlap: str, name: str = "brief") -> StoredJob:
    return await world.jobs.add(name, every="10s", session="new", overlap=overlap)


async def _next(
    world: World, stored: StoredJob, **changes: object
) -> tuple[ClaimRequest, ClaimResult]:
    """Advance the clock to the next due time, and claim it."""
    claim_request = world.runs.claim_request(stored, **changes)
    world.clock.set(claim_request.due)
    return claim_request, await world.runs.claim(claim_request)


async def _woken(world: World, most: int = 4) -> list[str]:
    """Return the due times that the end of a run wakes, as minutes and seconds."""
    async with world.ledger.read() as session:
        found = await slots.next_up(session, world.clock.now(), most, {})
    return [f"{row.due:%M:%S}" for row in found]


async def _became(world: World) -> list[str]:
    return [row.status for row in await world.runs.rows()]


async def test_a_requested_run_is_not_replaced_by_a_due_time_that_still_runs(world: World) -> None:
    stored = await _job(world, "skip")
    requested = await claims.request(world.ledger, stored, "1", "manual")
    changes = {"occurrence": requested.occurrence, "due": requested.due}
    early = world.runs.claim_request(stored, **changes)
    later = await world.runs.running(stored)

    answer = await world.runs.claim(early)

    assert isinstance(answer, Finished)
    row = await world.runs.row(later.run_id)
    assert row.due > early.due
    assert answer.reason.startswith(f"overlap: run {row.id[:8]} of ")
    assert answer.reason.endswith(" was still running")


async def test_a_run_that_waited_for_a_full_disk_names_it_and_not_a_later_run(
    world: World,
) -> None:
    """A run on time is claimed before the late ones, so a later due time may start first."""
    stored = await _job(world, "skip")
    full = "the disk of /srv is full"
    early = world.runs.claim_request(stored, waited=full)
    world.clock.set(early.due)
    later = await world.runs.running(stored)

    answer = await world.runs.claim(early)

    assert isinstance(answer, Finished)
    row = await world.runs.row(later.run_id)
    assert (answer.status, row.due > early.due) == (Status.SKIPPED, True)
    replaced = f"overlap: the run of {row.due:%Y-%m-%d %H:%M:%S} UTC replaced it"
    assert answer.reason == f"{replaced}; before, it waited: {full}"


async def test_queue_all_runs_every_due_time_in_order(world: World) -> None:
    stored = await _job(world, "queue_all")
    running = await world.runs.running(stored)
    queued = [await _next(world, stored) for _ in range(3)]

    for claim_request, answer in queued:
        assert isinstance(answer, Waiting)
        row = await world.runs.row(str(answer.run_id))
        assert (row.waits_for, answer.cancel) == ("overlap", ())
        assert row.reason.startswith(f"overlap: run {running.run_id[:8]}")
        assert row.flow_run_id == claim_request.flow_run_id
    assert await _woken(world) == []

    for place, (claim_request, _) in enumerate(queued):
        await world.runs.finish(running, Status.SUCCEEDED)
        assert await _woken(world) == [f"{claim_request.due:%M:%S}"]
        for later, _ in queued[place + 1 :]:
            assert isinstance(await world.runs.claim(later), Waiting)
        running = await world.runs.running(claim_request)
    await world.runs.finish(running, Status.FAILED)

    assert await _became(world) == ["succeeded"] * 3 + ["failed"]


async def test_queue_one_lets_one_run_wait_and_skips_the_next(world: World) -> None:
    stored = await _job(world, "queue_one")
    running = await world.runs.running(stored)
    second, answer = await _next(world, stored)
    assert isinstance(answer, Waiting)

    _, third = await _next(world, stored)

    assert isinstance(third, Finished)
    assert third.status is Status.SKIPPED
    assert third.reason.endswith("was still running, and another run was already waiting")
    assert isinstance(
        await world.runs.claim(second), Waiting
    )  # it keeps its place when it claims again
    await world.runs.finish(running, Status.SUCCEEDED)
    assert isinstance(await world.runs.claim(second), Granted)
    assert isinstance((await _next(world, stored))[1], Waiting)
    assert await _became(world) == ["succeeded", "claimed", "skipped", "waiting"]


async def test_allow_runs_due_times_in_parallel(world: World) -> None:
    stored = await _job(world, "allow")
    for _ in range(3):
        assert isinstance((await _next(world, stored))[1], Granted)


async def test_allow_lets_runs_that_share_a_session_take_turns(world: World) -> None:
    stored = await world.jobs.add(every="10s", session="reuse", overlap="allow")
    await world.runs.running(stored)

    _, answer = await _next(world, stored)

    assert isinstance(answer, Waiting)
    assert answer.why.startswith("session default:job:")


async def test_cancel_running_names_the_run_to_cancel_until_it_has_ended(world: World) -> None:
    stored = await _job(world, "cancel_running")
    first = world.runs.claim_request(stored)
    running = await world.runs.running(first)

    claim_request, answer = await _next(world, stored)

    assert isinstance(answer, Waiting)
    assert answer.cancel == (first.flow_run_id,)
    assert answer.why.endswith("was still running and is being cancelled")
    again = await world.runs.claim(claim_request)
    assert isinstance(again, Waiting)
    assert again.cancel == answer.cancel

    await world.runs.finish(running, Status.CANCELLED, reason="as asked")
    assert await _woken(world) == [f"{claim_request.due:%M:%S}"]
    assert isinstance(await world.runs.claim(claim_request), Granted)


async def test_cancel_running_skips_a_run_that_already_waits(world: World) -> None:
    stored = await _job(world, "cancel_running")
    running = await world.runs.running(stored)
    second, _ = await _next(world, stored)
    third, answer = await _next(world, stored)

    assert isinstance(answer, Waiting)
    given_answer = await world.runs.claim(second)
    assert isinstance(given_answer, Finished)
    assert (given_answer.status, given_answer.reason) == (
        Status.SKIPPED,
        f"overlap: the run of {third.due:%F %T} UTC replaced it",
    )
    await world.runs.finish(running, Status.CANCELLED)
    assert isinstance(await world.runs.claim(third), Granted)


async def test_cancel_running_cancels_a_run_between_two_attempts_at_once(world: World) -> None:
    stored = await _job(world, "cancel_running")
    first = world.runs.claim_request(stored)
    running = await world.runs.running(first)
    until = world.clock.now() + timedelta(minutes=5)
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(world.ledger, running.run_id, running.fence, failed, until)

    _, answer = await _next(world, stored)

    assert isinstance(answer, Granted)
    row = await world.runs.row(running.run_id)
    assert (row.status, row.attempts, row.unmirrored) == ("cancelled", 1, True)


async def test_cancel_running_does_not_cancel_a_run_that_was_due_later(world: World) -> None:
    stored = await _job(world, "cancel_running")
    early = world.runs.claim_request(stored)
    late = world.runs.claim_request(stored, due=early.due + GAP)
    world.clock.set(late.due)
    await world.runs.running(late)

    answer = await world.runs.claim(early)

    assert isinstance(answer, Finished)
    assert answer.status is Status.SKIPPED
    assert answer.reason.endswith(" was still running and was due later")


@pytest.mark.parametrize("overlap", ["queue_one", "queue_all"])
async def test_a_run_that_is_declared_lost_releases_the_next_in_its_queue(
    world: World, overlap: str
) -> None:
    stored = await _job(world, overlap)
    lost = await world.runs.running(stored)
    claim_request, _ = await _next(world, stored)
    world.clock.move(TIMING.run_lease)
    await leases.expire_all(world.ledger)
    world.clock.move(TIMING.run_lease)
    await leases.expire_all(world.ledger)

    assert (await world.runs.row(lost.run_id)).status == "unknown"
    assert await _woken(world) == [f"{claim_request.due:%M:%S}"]
    assert isinstance(await world.runs.claim(claim_request), Granted)


async def test_the_next_run_in_a_queue_gets_the_slot_before_later_runs_of_other_jobs(
    world: World,
) -> None:
    """One transaction ends the run and queues the next run of its job for a slot."""
    queueing, other = await _job(world, "queue_all"), await _job(world, "skip", "other")
    running = await world.runs.running(world.runs.claim_request(queueing, most=1))
    queued, _ = await _next(world, queueing, most=1)
    elsewhere, answer = await _next(world, other, most=1)
    assert isinstance(answer, Waiting)

    await world.runs.finish(running, Status.SUCCEEDED)

    assert await _woken(world, 1) == [f"{queued.due:%M:%S}"]
    assert isinstance(await world.runs.claim(elsewhere), Waiting)
    assert isinstance(await world.runs.claim(queued), Granted)


async def test_a_requested_run_queues_like_a_due_time(world: World) -> None:
    stored = await _job(world, "queue_all")
    running = await world.runs.running(stored)
    row = await claims.request(world.ledger, stored, "1", "manual")
    assert isinstance(await world.runs.claim(row), Waiting)
    await world.runs.finish(running, Status.SUCCEEDED)

    assert isinstance(await world.runs.claim(row), Granted)


async def test_queued_runs_can_be_cancelled_and_are_skipped_with_their_removed_job(
    world: World,
) -> None:
    stored = await _job(world, "queue_all")
    running = await world.runs.running(stored)
    answers = [(await _next(world, stored))[1] for _ in range(3)]
    ids = [str(answer.run_id) for answer in answers if isinstance(answer, Waiting)]

    await claims.cancel(world.ledger, ids[0])
    assert (await world.runs.row(ids[1])).waits_for == "overlap"  # one run is still active
    await world.jobs.archive(stored.id)
    await world.runs.finish(running, Status.SUCCEEDED)

    assert await _became(world) == ["succeeded", "cancelled", "skipped", "skipped"]


@pytest.mark.parametrize(
    ("overlap", "became"),
    [
        ("skip", {"claimed": 1, "skipped": 11}),
        ("queue_one", {"claimed": 1, "waiting": 1, "skipped": 10}),
        ("queue_all", {"claimed": 1, "waiting": 11}),
        ("allow", {"claimed": 12}),
    ],
)
async def test_many_concurrent_claims_of_one_job_follow_its_overlap_policy(
    world: World, overlap: str, became: dict[str, int]
) -> None:
    stored = await _job(world, overlap)
    rows = [await claims.request(world.ledger, stored, str(each), "manual") for each in range(12)]

    async def ask(claim_request: ClaimRequest) -> ClaimResult:
        async with Ledger(world.ledger.address, world.clock) as ledger:
            return await claims.claim(ledger, claim_request)

    async with asyncio.timeout(60):
        await asyncio.gather(*(ask(world.runs.claim_request(row)) for row in rows))

    assert Counter(await _became(world)) == became
