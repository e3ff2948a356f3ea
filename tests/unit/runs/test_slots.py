"""The global limit and the worker's own (requirement 12, `docs/promise.md` 12)."""

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
    return [await world.add(f"job-{number}") for number in range(count)]


def _offers(world: World, jobs: list[StoredJob], **changes: Any) -> list[ClaimRequest]:
    """Of each job one run, whose due times rise by a second and have all passed."""
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


async def _next(world: World, most: int) -> list[RunRow]:
    async with world.ledger.read() as session:
        return await slots.next_up(session, world.clock.now(), most, {})


async def test_one_more_than_the_limit_waits_and_says_so(world: World) -> None:
    five = _offers(world, await _jobs(world, 5), most=4)
    held = [await world.granted(each) for each in five[:4]]

    answer = await world.claim(five[4])

    assert isinstance(answer, Waiting)
    assert answer.until == world.clock.now() + timedelta(seconds=30)
    row = await world.row(str(answer.run_id))
    assert (row.status, row.waits_for, row.fence) == ("waiting", "slot", 0)
    assert (row.reason, row.flow_run_id) == ("4 of 4 runs are active", "f4")
    assert await _next(world, 4) == []

    await claims.begin(world.ledger, held[0].run_id, held[0].fence)
    await world.settle(held[0], Status.SUCCEEDED)

    # A free slot is why it looks again before its time.
    assert [each.id for each in await _next(world, 4)] == [row.id]
    assert isinstance(await world.claim(five[4]), Granted)
    row = await world.row(row.id)
    assert (row.status, row.waits_for, row.reason, row.until) == ("claimed", "", "", None)


async def test_a_free_slot_is_the_earliest_due_ones(world: World) -> None:
    blocker, *others = _offers(world, await _jobs(world, 4), most=1)
    held = await world.begun(blocker)
    for each in reversed(others):
        assert isinstance(await world.claim(each), Waiting)
    await world.settle(held, Status.SUCCEEDED)

    later = await world.claim(others[2])
    assert isinstance(later, Waiting)
    assert later.why == "0 of 1 runs are active, and 2 that were due earlier wait"
    assert [each.flow_run_id for each in await _next(world, 1)] == ["f1"]
    assert [each.flow_run_id for each in await _next(world, 3)] == ["f1", "f2", "f3"]

    assert isinstance(await world.claim(others[0]), Granted)


async def test_one_that_was_never_offered_before_stands_behind_those_due_earlier(
    world: World,
) -> None:
    blocker, early, late = _offers(world, await _jobs(world, 3), most=1)
    held = await world.begun(blocker)
    assert isinstance(await world.claim(early), Waiting)
    await world.settle(held, Status.SUCCEEDED)

    assert isinstance(await world.claim(late), Waiting)

    assert isinstance(await world.claim(early), Granted)


async def test_of_two_free_slots_the_second_is_not_kept_for_the_first(world: World) -> None:
    one, two, early, late = _offers(world, await _jobs(world, 4), most=2)
    held = [await world.begun(one), await world.begun(two)]
    assert isinstance(await world.claim(early), Waiting)
    for each in held:
        await world.settle(each, Status.SUCCEEDED)

    assert isinstance(await world.claim(late), Granted)


async def test_nobody_waits_for_one_that_nobody_comes_for(world: World) -> None:
    blocker, gone, late = _offers(world, await _jobs(world, 3), most=1)
    held = await world.begun(blocker)
    answer = await world.claim(gone)
    assert isinstance(answer, Waiting)
    await world.settle(held, Status.SUCCEEDED)

    world.clock.set(answer.until + slots.SLOT_CLAIM_TIMEOUT)
    assert isinstance(await world.claim(late), Waiting)
    assert len(await _next(world, 1)) == 1
    world.clock.move(MICROSECOND)
    assert await _next(world, 1) != []  # the later one
    assert isinstance(await world.claim(late), Granted)


async def _queued(world: World, count: int, most: int) -> list[ClaimRequest]:
    """Offers of runs that wait while nobody is at work any more; the last ones hold all slots."""
    offered = _offers(world, await _jobs(world, most + count), most=most)
    held = [await world.begun(each) for each in offered[:most]]
    for each in offered[most:]:
        assert isinstance(await world.claim(each), Waiting)
    for granted in held:
        await world.settle(granted, Status.SUCCEEDED)
    return offered[most:]


async def _call_up(world: World, most: int, after: timedelta | None = None) -> list[str | None]:
    async with world.ledger.write() as session:
        called = await slots.wake_next(session, world.clock.now(), most, {}, after=after)
    return [each.flow_run_id for each in called]


async def test_a_free_slot_is_not_kept_for_runs_that_nobody_claims_for(world: World) -> None:
    *gone, late = await _queued(world, 6, most=2)

    answer = await world.claim(late)

    # It tells its worker to call up those that stand ahead, and is back soon.
    assert isinstance(answer, Waiting)
    assert (answer.free, answer.until) == (True, world.clock.now() + slots.SLOT_CLAIM_TIMEOUT)
    assert await _call_up(world, 2) == [each.flow_run_id for each in gone[:2]]
    world.clock.set(answer.until)
    assert isinstance(await world.claim(late), Waiting)
    # Three more stand ahead, but the two that were called up have left the two slots free.
    world.clock.move(MICROSECOND)
    assert isinstance(await world.claim(late), Granted)
    assert isinstance(await world.claim(gone[4]), Granted)
    assert isinstance(await world.claim(gone[3]), Waiting)  # both slots are taken now


async def test_of_the_slots_only_those_of_the_runs_that_do_not_come_are_given_away(
    world: World,
) -> None:
    gone, second, third, late = await _queued(world, 4, most=2)
    assert await _call_up(world, 2) == [gone.flow_run_id, second.flow_run_id]
    world.clock.move(slots.SLOT_CLAIM_TIMEOUT + MICROSECOND)

    # Of the two that were called up one comes, though late.
    assert isinstance(await world.claim(second), Granted)
    assert isinstance(await world.claim(late), Granted)  # instead of the one that is gone
    assert isinstance(await world.claim(third), Waiting)


async def test_a_run_that_does_not_come_is_forgotten(world: World) -> None:
    gone, early, late = await _queued(world, 3, most=1)
    assert await _call_up(world, 1) == [gone.flow_run_id]
    world.clock.move(slots.SLOT_CLAIM_TIMEOUT + slots.MAX_RETRY_INTERVAL)
    assert isinstance(await world.claim(replace(early, full=True)), Waiting)  # it is there

    world.clock.move(MICROSECOND)

    assert isinstance(await world.claim(late), Granted)


async def test_who_is_called_up_is_next_and_is_called_up_once(world: World) -> None:
    first, second, third = await _queued(world, 3, most=2)

    assert await _call_up(world, 2) == [first.flow_run_id, second.flow_run_id]
    # Their worker starts them; the leader's net leaves it some time for that.
    seconds = timedelta(seconds=5)
    assert await _call_up(world, 2, after=seconds) == []
    world.clock.move(seconds)
    assert await _call_up(world, 2, after=seconds) == [first.flow_run_id, second.flow_run_id]
    rows = {row.flow_run_id: row for row in await world.rows()}
    assert rows[first.flow_run_id].until == world.clock.now() - seconds
    until = rows[third.flow_run_id].until
    assert until is not None
    assert until > world.clock.now()
    assert isinstance(await world.claim(third), Waiting)
    for each in (second, first):
        assert isinstance(await world.claim(each), Granted)
    assert await _call_up(world, 2) == []


async def test_the_further_back_a_run_stands_the_later_it_looks_again_by_itself(
    world: World,
) -> None:
    offered = _offers(world, await _jobs(world, 26), most=2)
    for each in offered[:2]:
        await world.begun(each)
    answers = [await world.claim(each) for each in offered[2:]]

    waits = [each.until - world.clock.now() for each in answers if isinstance(each, Waiting)]
    # Two slots: each two runs that stand ahead mean one more turn of half a minute.
    assert waits[:3] == [
        slots.MIN_RETRY_INTERVAL,
        1.5 * slots.MIN_RETRY_INTERVAL,
        2 * slots.MIN_RETRY_INTERVAL,
    ]
    assert waits[-1] == slots.MAX_RETRY_INTERVAL
    assert not any(each.free for each in answers if isinstance(each, Waiting))


async def test_a_lost_holder_frees_its_slot(world: World) -> None:
    blocker, waits = _offers(world, await _jobs(world, 2), most=1)
    await world.begun(blocker)
    assert isinstance(await world.claim(waits), Waiting)

    await world.lose()
    assert [each.flow_run_id for each in await leases.expire_all(world.ledger)] == ["f0"]

    assert isinstance(await world.claim(waits), Granted)


async def test_a_direct_call_takes_a_slot_and_waits_for_none(world: World) -> None:
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

    await world.granted(direct)
    assert isinstance(await world.claim(scheduled), Waiting)
    assert isinstance(await world.claim(other), Granted)

    answer = await world.claim(scheduled)
    assert isinstance(answer, Waiting)
    assert answer.why == "2 of 1 runs are active"


async def test_a_full_worker_says_so_and_another_one_takes_the_run(world: World) -> None:
    (offer,) = _offers(world, await _jobs(world, 1), most=4, full=True)

    answer = await world.claim(offer)

    assert isinstance(answer, Waiting)
    assert answer.until == world.clock.now() + timedelta(seconds=5)
    row = await world.row(str(answer.run_id))
    assert (row.waits_for, row.reason) == ("worker", "the worker has no free slot")
    assert [each.id for each in await _next(world, 4)] == [row.id]
    assert isinstance(await world.claim(replace(offer, full=False, holder="other:1")), Granted)


async def test_whose_worker_is_full_keeps_no_slot_from_others(world: World) -> None:
    """Of four slots one is taken; a worker that has no room brought three that were due earlier."""
    at_work, *of_full, other = _offers(world, await _jobs(world, 5), most=4)
    await world.begun(at_work)
    for each in of_full:
        assert isinstance(await world.claim(replace(each, full=True)), Waiting)

    assert isinstance(await world.claim(other), Granted)


async def test_whose_worker_is_full_is_woken_beside_those_that_wait_for_a_slot(
    world: World,
) -> None:
    one, two, early, later, late, last = _offers(world, await _jobs(world, 6), most=2)
    held = [await world.begun(one)]
    for each in (early, later):
        assert isinstance(await world.claim(replace(each, full=True)), Waiting)
    held.append(await world.begun(two))
    for each in (late, last):
        assert isinstance(await world.claim(each), Waiting)
    assert await _next(world, 2) == []

    await world.settle(held[0], Status.SUCCEEDED)

    # One slot is free: the first of either kind, for nobody knows which worker has room.
    assert [each.flow_run_id for each in await _next(world, 2)] == ["f2", "f4"]
    # It may ask before its time, and is granted where there is room.
    assert isinstance(await world.claim(early), Granted)
    assert await _next(world, 2) == []


async def test_whose_worker_is_full_waits_for_a_slot_once_all_are_taken(world: World) -> None:
    offer, blocker = _offers(world, await _jobs(world, 2), most=1)
    assert isinstance(await world.claim(replace(offer, full=True)), Waiting)
    held = await world.begun(blocker)

    answer = await world.claim(replace(offer, full=True))

    assert isinstance(answer, Waiting)
    assert (await world.row(str(answer.run_id))).waits_for == "slot"
    await world.settle(held, Status.SUCCEEDED)
    assert [each.id for each in await _next(world, 1)] == [answer.run_id]


async def test_no_limit_is_no_limit(world: World) -> None:
    for each in _offers(world, await _jobs(world, 6)):
        assert isinstance(await world.claim(each), Granted)


async def test_who_waits_for_its_session_does_not_wait_for_a_slot(world: World) -> None:
    shared = [await world.add(name, every="1h", session_key="ops") for name in ("one", "two")]
    first, second = _offers(world, shared, most=1)
    held = await world.begun(first)

    answer = await world.claim(second)

    assert isinstance(answer, Waiting)
    row = await world.row(str(answer.run_id))
    assert (row.waits_for, row.reason.startswith("session ")) == ("", True)
    assert await _next(world, 2) == []
    await world.settle(held, Status.SUCCEEDED)
    world.clock.set(answer.until)
    assert isinstance(await world.claim(second), Granted)


async def test_a_waiting_run_that_ends_waits_for_nothing(world: World) -> None:
    blocker, waits = _offers(world, await _jobs(world, 2), most=1)
    await world.begun(blocker)
    answer = await world.claim(waits)
    assert isinstance(answer, Waiting)
    await world.archive(str(waits.job_id))

    row = await world.row(str(answer.run_id))

    assert (row.status, row.waits_for, row.unmirrored) == ("skipped", "", True)
    assert isinstance(await world.claim(waits), Finished)


async def test_of_many_that_claim_at_once_no_more_than_the_limit_are_granted(world: World) -> None:
    many = _offers(world, await _jobs(world, 12), most=4)

    async def ask(offer: ClaimRequest) -> ClaimResult:
        async with Ledger(world.ledger.address, world.clock) as ledger:
            return await claims.claim(ledger, offer)

    async with asyncio.timeout(60):
        answers = await asyncio.gather(*map(ask, many))

    assert sum(isinstance(each, Granted) for each in answers) == 4
    assert sum(isinstance(each, Waiting) for each in answers) == 8
    assert sorted(row.status for row in await world.rows()) == ["claimed"] * 4 + ["waiting"] * 8


async def test_twenty_due_in_one_second_run_four_at_a_time_in_their_order(world: World) -> None:
    due = world.clock.now().replace(microsecond=0)
    all_of_them = _offers(world, await _jobs(world, 24), most=4)
    four, twenty = all_of_them[:4], [replace(each, due=due) for each in all_of_them[4:]]
    held = [await world.begun(each) for each in four]
    for each in twenty:  # all ask while the slots are taken, so that the ledger knows who waits
        assert isinstance(await world.claim(each), Waiting)
    for slot in held:
        await world.settle(slot, Status.SUCCEEDED)
    began: list[str] = []
    at_once: list[int] = []

    async def work(ledger: Ledger, left: list[ClaimRequest]) -> None:
        """A worker: claims what is left to it again and again, and carries out what it gets."""
        while left:
            for each in list(left):
                answer = await claims.claim(ledger, each)
                if isinstance(answer, Granted):
                    began.append(answer.run_id)
                    left.remove(each)
                    rows = await world.rows()
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

    rows = {row.id: row for row in await world.rows()}
    assert len(began) == len(set(began)) == 20
    assert max(at_once) <= 4
    order = sorted(began, key=lambda run: (rows[run].due, rows[run].queued_at, run))
    # Who began was among the first four of those that were left.
    for place, run in enumerate(began):
        left = [each for each in order if each not in began[:place]]
        assert left.index(run) < 4
