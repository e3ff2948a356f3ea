"""The global limit of runs, and that of a worker (requirement 12, `docs/promise.md` 12)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.runs import claim_requests, claims, leases, slots
from daybook.runs.claim_requests import ClaimRequest, ClaimResult, Finished, Granted, Waiting
from tests.world import World

pytestmark = pytest.mark.anyio

MICROSECOND = timedelta(microseconds=1)


async def _jobs(world: World, count: int) -> list[StoredJob]:
    return [await world.jobs.add(f"job-{number}") for number in range(count)]


def _offers(world: World, jobs: list[StoredJob], **changes: Any) -> list[ClaimRequest]:
    """Return one request per job; the due times rise by a second, and all have passed."""
    due = world.clock.now().replace(microsecond=0) - timedelta(seconds=len(jobs))
    return [
        ClaimRequest(
            claim_requests.flow_key(f"f{number}"),
            "agent-prompt",
            "manual",
            due + timedelta(seconds=number),
            f"w:{number}",
            job.job.parameters(),
            job_id=job.id,
            flow_run_id=f"f{number}",
            **changes,
        )
        for number, job in enumerate(jobs)
    ]


async def _next(world: World, most: int, *at_hand: str) -> list[RunRow]:
    async with world.ledger.read() as session:
        return await slots.next_up(session, world.clock.now(), most, {}, at_hand)


@pytest.mark.floor("C", "A job beyond the limit waits, and is shown as waiting")
async def test_a_run_beyond_the_limit_waits_and_names_the_limit(world: World) -> None:
    five = _offers(world, await _jobs(world, 5), most=4)
    held = [await world.runs.claimed(each) for each in five[:4]]

    answer = await world.runs.claim(five[4])

    assert isinstance(answer, Waiting)
    assert answer.until == world.clock.now() + timedelta(seconds=30)
    row = await world.runs.row(str(answer.run_id))
    assert (row.status, row.waits_for, row.fence) == ("waiting", "slot", 0)
    assert (row.reason, row.flow_run_id) == ("4 of 4 runs are active", "f4")
    assert await _next(world, 4) == []

    await claims.begin(world.ledger, held[0].run_id, held[0].fence)
    await world.runs.finish(held[0], Status.SUCCEEDED)

    # Because a slot is free, it may claim before its time.
    assert [each.id for each in await _next(world, 4)] == [row.id]
    assert isinstance(await world.runs.claim(five[4]), Granted)
    row = await world.runs.row(row.id)
    assert (row.status, row.waits_for, row.reason, row.until) == ("claimed", "", "", None)


async def test_a_free_slot_goes_to_the_earliest_due_run(world: World) -> None:
    blocker, *others = _offers(world, await _jobs(world, 4), most=1)
    held = await world.runs.running(blocker)
    for each in reversed(others):
        assert isinstance(await world.runs.claim(each), Waiting)
    await world.runs.finish(held, Status.SUCCEEDED)

    later = await world.runs.claim(others[2])
    assert isinstance(later, Waiting)
    assert later.why == "0 of 1 runs are active, and 2 due earlier are waiting"
    assert [each.flow_run_id for each in await _next(world, 1)] == ["f1"]
    assert [each.flow_run_id for each in await _next(world, 3)] == ["f1", "f2", "f3"]

    assert isinstance(await world.runs.claim(others[0]), Granted)


async def test_a_new_run_waits_behind_waiting_runs_that_were_due_earlier(world: World) -> None:
    blocker, early, late = _offers(world, await _jobs(world, 3), most=1)
    held = await world.runs.running(blocker)
    assert isinstance(await world.runs.claim(early), Waiting)
    await world.runs.finish(held, Status.SUCCEEDED)

    assert isinstance(await world.runs.claim(late), Waiting)

    assert isinstance(await world.runs.claim(early), Granted)


async def test_one_waiting_run_reserves_only_one_of_two_free_slots(world: World) -> None:
    one, two, early, late = _offers(world, await _jobs(world, 4), most=2)
    held = [await world.runs.running(one), await world.runs.running(two)]
    assert isinstance(await world.runs.claim(early), Waiting)
    for each in held:
        await world.runs.finish(each, Status.SUCCEEDED)

    assert isinstance(await world.runs.claim(late), Granted)


async def test_a_waiting_run_that_no_worker_claims_loses_its_turn(world: World) -> None:
    blocker, abandoned, late = _offers(world, await _jobs(world, 3), most=1)
    held = await world.runs.running(blocker)
    answer = await world.runs.claim(abandoned)
    assert isinstance(answer, Waiting)
    await world.runs.finish(held, Status.SUCCEEDED)

    world.clock.set(answer.until + slots.SLOT_CLAIM_TIMEOUT)
    assert isinstance(await world.runs.claim(late), Waiting)
    assert len(await _next(world, 1)) == 1
    world.clock.move(MICROSECOND)
    assert await _next(world, 1) != []  # the later one
    assert isinstance(await world.runs.claim(late), Granted)


async def _queued(world: World, count: int, most: int) -> list[ClaimRequest]:
    """Return the requests of ``count`` waiting runs; the ``most`` runs before them have ended."""
    offered = _offers(world, await _jobs(world, most + count), most=most)
    held = [await world.runs.running(each) for each in offered[:most]]
    for each in offered[most:]:
        assert isinstance(await world.runs.claim(each), Waiting)
    for granted in held:
        await world.runs.finish(granted, Status.SUCCEEDED)
    return offered[most:]


async def _call_up(world: World, most: int, after: timedelta | None = None) -> list[str | None]:
    async with world.ledger.write() as session:
        called = await slots.wake_next(session, world.clock.now(), most, {}, after=after)
    return [each.flow_run_id for each in called]


async def test_free_slots_are_not_kept_for_woken_runs_that_do_not_claim(world: World) -> None:
    *abandoned, late = await _queued(world, 6, most=2)

    answer = await world.runs.claim(late)

    # The answer asks the worker to wake the runs ahead, and to claim again soon.
    assert isinstance(answer, Waiting)
    assert (answer.free, answer.until) == (True, world.clock.now() + slots.SLOT_CLAIM_TIMEOUT)
    assert await _call_up(world, 2) == [each.flow_run_id for each in abandoned[:2]]
    world.clock.set(answer.until)
    assert isinstance(await world.runs.claim(late), Waiting)
    # Three more runs are ahead, but the two that were woken have left both slots free.
    world.clock.move(MICROSECOND)
    assert isinstance(await world.runs.claim(late), Granted)
    assert isinstance(await world.runs.claim(abandoned[4]), Granted)
    assert isinstance(await world.runs.claim(abandoned[3]), Waiting)  # both slots are taken now


async def test_only_the_slots_of_woken_runs_that_do_not_claim_go_to_later_runs(
    world: World,
) -> None:
    abandoned, second, third, late = await _queued(world, 4, most=2)
    assert await _call_up(world, 2) == [abandoned.flow_run_id, second.flow_run_id]
    world.clock.move(slots.SLOT_CLAIM_TIMEOUT + MICROSECOND)

    # One of the two woken runs claims, though late.
    assert isinstance(await world.runs.claim(second), Granted)
    assert isinstance(await world.runs.claim(late), Granted)  # instead of the one that is gone
    assert isinstance(await world.runs.claim(third), Waiting)


async def test_a_woken_run_that_never_claims_no_longer_blocks_later_runs(world: World) -> None:
    abandoned, early, late = await _queued(world, 3, most=1)
    assert await _call_up(world, 1) == [abandoned.flow_run_id]
    world.clock.move(slots.SLOT_CLAIM_TIMEOUT + slots.MAX_RETRY_INTERVAL)
    assert isinstance(await world.runs.claim(replace(early, full=True)), Waiting)  # it does claim

    world.clock.move(MICROSECOND)

    assert isinstance(await world.runs.claim(late), Granted)


async def test_the_earliest_runs_are_woken_once_and_get_the_free_slots(world: World) -> None:
    first, second, third = await _queued(world, 3, most=2)

    assert await _call_up(world, 2) == [first.flow_run_id, second.flow_run_id]
    # Their worker starts them; the leader gives it some time before it wakes them again.
    seconds = timedelta(seconds=5)
    assert await _call_up(world, 2, after=seconds) == []
    world.clock.move(seconds)
    assert await _call_up(world, 2, after=seconds) == [first.flow_run_id, second.flow_run_id]
    rows = {row.flow_run_id: row for row in await world.runs.rows()}
    assert rows[first.flow_run_id].until == world.clock.now() - seconds
    until = rows[third.flow_run_id].until
    assert until is not None
    assert until > world.clock.now()
    assert isinstance(await world.runs.claim(third), Waiting)
    for each in (second, first):
        assert isinstance(await world.runs.claim(each), Granted)
    assert await _call_up(world, 2) == []


async def test_a_run_further_back_in_the_queue_claims_again_later(world: World) -> None:
    offered = _offers(world, await _jobs(world, 26), most=2)
    for each in offered[:2]:
        await world.runs.running(each)
    answers = [await world.runs.claim(each) for each in offered[2:]]

    waits = [each.until - world.clock.now() for each in answers if isinstance(each, Waiting)]
    # With two slots, every two runs ahead mean one more turn of half a minute.
    assert waits[:3] == [
        slots.MIN_RETRY_INTERVAL,
        1.5 * slots.MIN_RETRY_INTERVAL,
        2 * slots.MIN_RETRY_INTERVAL,
    ]
    assert waits[-1] == slots.MAX_RETRY_INTERVAL
    assert not any(each.free for each in answers if isinstance(each, Waiting))


async def test_a_run_that_is_declared_lost_frees_its_slot(world: World) -> None:
    blocker, waits = _offers(world, await _jobs(world, 2), most=1)
    await world.runs.running(blocker)
    assert isinstance(await world.runs.claim(waits), Waiting)

    await world.runs.lose()
    assert [each.flow_run_id for each in await leases.expire_all(world.ledger)] == ["f0"]

    assert isinstance(await world.runs.claim(waits), Granted)


async def test_a_direct_call_uses_a_slot_but_never_waits_for_one(world: World) -> None:
    (scheduled,) = _offers(world, await _jobs(world, 1), most=1)
    direct = ClaimRequest(
        claim_requests.flow_key("d"),
        "agent-prompt",
        "direct",
        world.clock.now(),
        "here:1",
        {"prompt": "Hi"},
    )
    other = ClaimRequest(
        claim_requests.flow_key("e"),
        "agent-prompt",
        "direct",
        world.clock.now(),
        "here:1",
        {"prompt": "Ho"},
        most=1,
        full=True,
    )

    await world.runs.claimed(direct)
    assert isinstance(await world.runs.claim(scheduled), Waiting)
    assert isinstance(await world.runs.claim(other), Granted)

    answer = await world.runs.claim(scheduled)
    assert isinstance(answer, Waiting)
    assert answer.why == "2 of 1 runs are active"


async def test_a_run_that_a_full_worker_refuses_can_be_claimed_by_another(
    world: World,
) -> None:
    (claim_request,) = _offers(world, await _jobs(world, 1), most=4, full=True)

    answer = await world.runs.claim(claim_request)

    assert isinstance(answer, Waiting)
    assert answer.until == world.clock.now() + slots.WORKER_RETRY_INTERVAL
    row = await world.runs.row(str(answer.run_id))
    assert (row.waits_for, row.reason) == ("worker", "the worker has no free slot")
    assert [each.id for each in await _next(world, 4, "f0")] == [row.id]
    assert isinstance(
        await world.runs.claim(replace(claim_request, full=False, holder="other:1")), Granted
    )


async def test_of_many_runs_of_a_full_worker_each_claims_seldom(world: World) -> None:
    """Their worker starts them, so their own claims only take time from the active runs."""
    requests = _offers(world, await _jobs(world, 5), most=2, full=True)
    answers = [await world.runs.claim(each) for each in requests]

    waits = [each.until - world.clock.now() for each in answers if isinstance(each, Waiting)]
    assert [each.total_seconds() for each in waits] == [15, 22.5, 30, 37.5, 45]


async def test_runs_of_a_full_worker_keep_no_slot_from_others(world: World) -> None:
    """One of four slots is used; a full worker has claimed three runs that were due earlier."""
    at_work, *of_full, other = _offers(world, await _jobs(world, 5), most=4)
    await world.runs.running(at_work)
    for each in of_full:
        assert isinstance(await world.runs.claim(replace(each, full=True)), Waiting)

    assert isinstance(await world.runs.claim(other), Granted)


async def test_a_run_of_a_full_worker_claims_seldom_although_a_slot_is_free_for_earlier_ones(
    world: World,
) -> None:
    first, second, third = _offers(world, await _jobs(world, 3), most=1)
    held = await world.runs.running(first)
    assert isinstance(await world.runs.claim(second), Waiting)
    await world.runs.finish(held, Status.SUCCEEDED)

    of_full, of_other = [
        await world.runs.claim(replace(third, full=each)) for each in (True, False)
    ]

    assert isinstance(of_full, Waiting)
    assert (of_full.free, of_full.until) == (False, world.at(seconds=60))
    assert isinstance(of_other, Waiting)
    assert (of_other.free, of_other.until) == (True, world.at(seconds=15))


async def test_runs_of_a_full_worker_are_woken_along_with_those_that_wait_for_a_slot(
    world: World,
) -> None:
    one, two, early, later, late, last = _offers(world, await _jobs(world, 6), most=2)
    held = [await world.runs.running(one)]
    for each in (early, later):
        assert isinstance(await world.runs.claim(replace(each, full=True)), Waiting)
    held.append(await world.runs.running(two))
    for each in (late, last):
        assert isinstance(await world.runs.claim(each), Waiting)
    assert await _next(world, 2) == []

    await world.runs.finish(held[0], Status.SUCCEEDED)

    # One slot is free: the first run of either kind, as it is unknown which worker has room.
    assert [each.flow_run_id for each in await _next(world, 2, "f2", "f3")] == ["f2", "f4"]
    assert [each.flow_run_id for each in await _next(world, 2, "f3")] == ["f3", "f4"]
    assert [each.flow_run_id for each in await _next(world, 2)] == ["f4"]
    # It may claim before its time, and succeeds if the worker has room.
    assert isinstance(await world.runs.claim(early), Granted)
    assert await _next(world, 2) == []


async def test_a_run_of_a_full_worker_waits_for_a_slot_once_all_slots_are_used(
    world: World,
) -> None:
    claim_request, blocker = _offers(world, await _jobs(world, 2), most=1)
    assert isinstance(await world.runs.claim(replace(claim_request, full=True)), Waiting)
    held = await world.runs.running(blocker)

    answer = await world.runs.claim(replace(claim_request, full=True))

    assert isinstance(answer, Waiting)
    assert (await world.runs.row(str(answer.run_id))).waits_for == "slot"
    await world.runs.finish(held, Status.SUCCEEDED)
    assert [each.id for each in await _next(world, 1)] == [answer.run_id]


async def test_without_a_limit_every_claim_succeeds(world: World) -> None:
    for each in _offers(world, await _jobs(world, 6)):
        assert isinstance(await world.runs.claim(each), Granted)


async def test_a_run_that_waits_for_its_session_does_not_wait_for_a_slot(world: World) -> None:
    shared = [await world.jobs.add(name, every="1h", session_key="ops") for name in ("one", "two")]
    first, second = _offers(world, shared, most=1)
    held = await world.runs.running(first)

    answer = await world.runs.claim(second)

    assert isinstance(answer, Waiting)
    row = await world.runs.row(str(answer.run_id))
    assert (row.waits_for, row.reason.startswith("session ")) == ("session", True)
    assert await _next(world, 2) == []
    await world.runs.finish(held, Status.SUCCEEDED)
    world.clock.set(answer.until)
    assert isinstance(await world.runs.claim(second), Granted)


async def test_a_waiting_run_of_a_removed_job_no_longer_waits_for_a_slot(world: World) -> None:
    blocker, waits = _offers(world, await _jobs(world, 2), most=1)
    await world.runs.running(blocker)
    answer = await world.runs.claim(waits)
    assert isinstance(answer, Waiting)
    await world.jobs.archive(str(waits.job_id))

    row = await world.runs.row(str(answer.run_id))

    assert (row.status, row.waits_for, row.unmirrored) == ("skipped", "", True)
    assert isinstance(await world.runs.claim(waits), Finished)


async def test_concurrent_claims_succeed_only_up_to_the_limit(world: World) -> None:
    many = _offers(world, await _jobs(world, 12), most=4)

    async def ask(claim_request: ClaimRequest) -> ClaimResult:
        async with Ledger(world.ledger.address, world.clock) as ledger:
            return await claims.claim(ledger, claim_request)

    async with asyncio.timeout(60):
        answers = await asyncio.gather(*map(ask, many))

    assert sum(isinstance(each, Granted) for each in answers) == 4
    assert sum(isinstance(each, Waiting) for each in answers) == 8
    assert (
        sorted(row.status for row in await world.runs.rows()) == ["claimed"] * 4 + ["waiting"] * 8
    )


@pytest.mark.floor("C", "No job beyond the limit is dropped")
async def test_twenty_runs_due_in_one_second_run_four_at_a_time_in_order(world: World) -> None:
    due = world.clock.now().replace(microsecond=0)
    all_of_them = _offers(world, await _jobs(world, 24), most=4)
    four, twenty = all_of_them[:4], [replace(each, due=due) for each in all_of_them[4:]]
    held = [await world.runs.running(each) for each in four]
    for each in twenty:  # all claim while the slots are used, so that the ledger knows of them
        assert isinstance(await world.runs.claim(each), Waiting)
    # They were queued in one moment, so their ids decide the order. A worker that did not ask for
    # the first four would never begin one.
    places = {row.occurrence: slots.order_key(row) for row in await world.runs.rows()}
    twenty.sort(key=lambda each: places[each.occurrence])
    for slot in held:
        await world.runs.finish(slot, Status.SUCCEEDED)
    began: list[str] = []
    at_once: list[int] = []

    async def work(ledger: Ledger, left: list[ClaimRequest]) -> None:
        """Claim the first runs in ``left`` repeatedly, and run each claimed one."""
        while left:
            for each in left[:6]:
                answer = await claims.claim(ledger, each)
                if isinstance(answer, Granted):
                    began.append(answer.run_id)
                    left.remove(each)
                    rows = await world.runs.rows()
                    at_once.append(sum(row.status in ("claimed", "running") for row in rows))
                    await claims.begin(ledger, answer.run_id, answer.fence)
                    done = Outcome(Status.SUCCEEDED)
                    await claims.finish(ledger, answer.run_id, answer.fence, done)

    async with (
        Ledger(world.ledger.address, world.clock) as one,
        Ledger(world.ledger.address, world.clock) as two,
        asyncio.timeout(60),
    ):
        await asyncio.gather(work(one, twenty[::2]), work(two, twenty[1::2]))

    rows = {row.id: row for row in await world.runs.rows()}
    assert len(began) == len(set(began)) == 20
    assert max(at_once) <= 4
    order = sorted(began, key=lambda run: (rows[run].due, rows[run].queued_at, run))
    # Each run that began was among the first four that were left.
    for place, run in enumerate(began):
        left = [each for each in order if each not in began[:place]]
        assert left.index(run) < 4
