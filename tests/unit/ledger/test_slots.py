"""The global limit and the worker's own (requirement 12, `docs/promise.md` 12)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from daybook.ledger import claims, leases, offers, slots
from daybook.ledger.engine import Ledger
from daybook.ledger.jobs import StoredJob
from daybook.ledger.offers import Answer, Ended, Granted, Offer, Waiting
from daybook.ledger.outcomes import Outcome
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from tests.unit.ledger.conftest import Book

pytestmark = pytest.mark.anyio

MICROSECOND = timedelta(microseconds=1)


async def _jobs(book: Book, count: int) -> list[StoredJob]:
    return [await book.add(f"job-{number}") for number in range(count)]


def _offers(book: Book, jobs: list[StoredJob], **changes: Any) -> list[Offer]:
    """Of each job one run, whose due times rise by a second and have all passed."""
    due = book.clock.now().replace(microsecond=0) - timedelta(seconds=len(jobs))
    return [
        Offer(
            offers.flow_key(f"f{number}"),
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


async def _next(book: Book, most: int) -> list[RunRow]:
    async with book.ledger.read() as session:
        return await claims.next_for_slot(session, book.clock.now(), most)


async def test_one_more_than_the_limit_waits_and_says_so(book: Book) -> None:
    five = _offers(book, await _jobs(book, 5), most=4)
    held = [await book.granted(each) for each in five[:4]]

    answer = await book.claim(five[4])

    assert isinstance(answer, Waiting)
    assert answer.until == book.clock.now() + timedelta(seconds=30)
    row = await book.row(str(answer.run_id))
    assert (row.status, row.waits_for, row.fence) == ("waiting", "slot", 0)
    assert (row.reason, row.flow_run_id) == ("4 of 4 runs are at work", "f4")
    assert await _next(book, 4) == []

    await claims.begin(book.ledger, held[0].run_id, held[0].fence)
    await book.settle(held[0], Status.SUCCEEDED)

    # A free slot is why it looks again before its time.
    assert [each.id for each in await _next(book, 4)] == [row.id]
    assert isinstance(await book.claim(five[4]), Granted)
    row = await book.row(row.id)
    assert (row.status, row.waits_for, row.reason, row.until) == ("claimed", "", "", None)


async def test_a_free_slot_is_the_earliest_due_ones(book: Book) -> None:
    blocker, *others = _offers(book, await _jobs(book, 4), most=1)
    held = await book.begun(blocker)
    for each in reversed(others):
        assert isinstance(await book.claim(each), Waiting)
    await book.settle(held, Status.SUCCEEDED)

    later = await book.claim(others[2])
    assert isinstance(later, Waiting)
    assert later.why == "0 of 1 runs are at work, and 2 that were due earlier wait"
    assert [each.flow_run_id for each in await _next(book, 1)] == ["f1"]
    assert [each.flow_run_id for each in await _next(book, 3)] == ["f1", "f2", "f3"]

    assert isinstance(await book.claim(others[0]), Granted)


async def test_one_that_was_never_offered_before_stands_behind_those_due_earlier(
    book: Book,
) -> None:
    blocker, early, late = _offers(book, await _jobs(book, 3), most=1)
    held = await book.begun(blocker)
    assert isinstance(await book.claim(early), Waiting)
    await book.settle(held, Status.SUCCEEDED)

    assert isinstance(await book.claim(late), Waiting)

    assert isinstance(await book.claim(early), Granted)


async def test_of_two_free_slots_the_second_is_not_kept_for_the_first(book: Book) -> None:
    one, two, early, late = _offers(book, await _jobs(book, 4), most=2)
    held = [await book.begun(one), await book.begun(two)]
    assert isinstance(await book.claim(early), Waiting)
    for each in held:
        await book.settle(each, Status.SUCCEEDED)

    assert isinstance(await book.claim(late), Granted)


async def test_nobody_waits_for_one_that_nobody_comes_for(book: Book) -> None:
    blocker, gone, late = _offers(book, await _jobs(book, 3), most=1)
    held = await book.begun(blocker)
    answer = await book.claim(gone)
    assert isinstance(answer, Waiting)
    await book.settle(held, Status.SUCCEEDED)

    book.clock.set(answer.until + slots.KEPT)
    assert isinstance(await book.claim(late), Waiting)
    assert len(await _next(book, 1)) == 1
    book.clock.move(MICROSECOND)
    assert await _next(book, 1) != []  # the later one
    assert isinstance(await book.claim(late), Granted)


async def _queued(book: Book, count: int, most: int) -> list[Offer]:
    """Offers of runs that wait while nobody is at work any more; the last ones hold all slots."""
    offered = _offers(book, await _jobs(book, most + count), most=most)
    held = [await book.begun(each) for each in offered[:most]]
    for each in offered[most:]:
        assert isinstance(await book.claim(each), Waiting)
    for granted in held:
        await book.settle(granted, Status.SUCCEEDED)
    return offered[most:]


async def _call_up(book: Book, most: int, after: timedelta | None = None) -> list[str | None]:
    async with book.ledger.write() as session:
        called = await slots.call_up(session, book.clock.now(), most, {}, after=after)
    return [each.flow_run_id for each in called]


async def test_a_free_slot_is_not_kept_for_runs_that_nobody_claims_for(book: Book) -> None:
    *gone, late = await _queued(book, 6, most=2)

    answer = await book.claim(late)

    # It tells its worker to call up those that stand ahead, and is back soon.
    assert isinstance(answer, Waiting)
    assert (answer.free, answer.until) == (True, book.clock.now() + slots.KEPT)
    assert await _call_up(book, 2) == [each.flow_run_id for each in gone[:2]]
    book.clock.set(answer.until)
    assert isinstance(await book.claim(late), Waiting)
    # Three more stand ahead, but the two that were called up have left the two slots free.
    book.clock.move(MICROSECOND)
    assert isinstance(await book.claim(late), Granted)
    assert isinstance(await book.claim(gone[4]), Granted)
    assert isinstance(await book.claim(gone[3]), Waiting)  # both slots are taken now


async def test_of_the_slots_only_those_of_the_runs_that_do_not_come_are_given_away(
    book: Book,
) -> None:
    gone, second, third, late = await _queued(book, 4, most=2)
    assert await _call_up(book, 2) == [gone.flow_run_id, second.flow_run_id]
    book.clock.move(slots.KEPT + MICROSECOND)

    # Of the two that were called up one comes, though late.
    assert isinstance(await book.claim(second), Granted)
    assert isinstance(await book.claim(late), Granted)  # instead of the one that is gone
    assert isinstance(await book.claim(third), Waiting)


async def test_a_run_that_does_not_come_is_forgotten(book: Book) -> None:
    gone, early, late = await _queued(book, 3, most=1)
    assert await _call_up(book, 1) == [gone.flow_run_id]
    book.clock.move(slots.KEPT + slots.LONGEST_LOOK)
    assert isinstance(await book.claim(replace(early, full=True)), Waiting)  # it is there

    book.clock.move(MICROSECOND)

    assert isinstance(await book.claim(late), Granted)


async def test_who_is_called_up_is_next_and_is_called_up_once(book: Book) -> None:
    first, second, third = await _queued(book, 3, most=2)

    assert await _call_up(book, 2) == [first.flow_run_id, second.flow_run_id]
    # Their worker starts them; the leader's net leaves it some time for that.
    seconds = timedelta(seconds=5)
    assert await _call_up(book, 2, after=seconds) == []
    book.clock.move(seconds)
    assert await _call_up(book, 2, after=seconds) == [first.flow_run_id, second.flow_run_id]
    rows = {row.flow_run_id: row for row in await book.rows()}
    assert rows[first.flow_run_id].until == book.clock.now() - seconds
    until = rows[third.flow_run_id].until
    assert until is not None
    assert until > book.clock.now()
    assert isinstance(await book.claim(third), Waiting)
    for each in (second, first):
        assert isinstance(await book.claim(each), Granted)
    assert await _call_up(book, 2) == []


async def test_the_further_back_a_run_stands_the_later_it_looks_again_by_itself(
    book: Book,
) -> None:
    offered = _offers(book, await _jobs(book, 26), most=2)
    for each in offered[:2]:
        await book.begun(each)
    answers = [await book.claim(each) for each in offered[2:]]

    waits = [each.until - book.clock.now() for each in answers if isinstance(each, Waiting)]
    # Two slots: each two runs that stand ahead mean one more turn of half a minute.
    assert waits[:3] == [slots.LOOK_AGAIN, 1.5 * slots.LOOK_AGAIN, 2 * slots.LOOK_AGAIN]
    assert waits[-1] == slots.LONGEST_LOOK
    assert not any(each.free for each in answers if isinstance(each, Waiting))


async def test_a_lost_holder_frees_its_slot(book: Book) -> None:
    blocker, waits = _offers(book, await _jobs(book, 2), most=1)
    await book.begun(blocker)
    assert isinstance(await book.claim(waits), Waiting)

    await book.lose()
    assert [each.flow_run_id for each in await leases.expire_all(book.ledger)] == ["f0"]

    assert isinstance(await book.claim(waits), Granted)


async def test_a_direct_call_takes_a_slot_and_waits_for_none(book: Book) -> None:
    (scheduled,) = _offers(book, await _jobs(book, 1), most=1)
    direct = Offer(
        offers.flow_key("d"), "agent-prompt", "direct", book.clock.now(), "here:1", {"prompt": "Hi"}
    )
    other = Offer(
        offers.flow_key("e"),
        "agent-prompt",
        "direct",
        book.clock.now(),
        "here:1",
        {"prompt": "Ho"},
        most=1,
        full=True,
    )

    await book.granted(direct)
    assert isinstance(await book.claim(scheduled), Waiting)
    assert isinstance(await book.claim(other), Granted)

    answer = await book.claim(scheduled)
    assert isinstance(answer, Waiting)
    assert answer.why == "2 of 1 runs are at work"


async def test_a_full_worker_says_so_and_another_one_takes_the_run(book: Book) -> None:
    (offer,) = _offers(book, await _jobs(book, 1), most=4, full=True)

    answer = await book.claim(offer)

    assert isinstance(answer, Waiting)
    assert answer.until == book.clock.now() + timedelta(seconds=5)
    row = await book.row(str(answer.run_id))
    assert (row.waits_for, row.reason) == ("worker", "the worker has no free slot")
    assert [each.id for each in await _next(book, 4)] == [row.id]
    assert isinstance(await book.claim(replace(offer, full=False, holder="other:1")), Granted)


async def test_whose_worker_is_full_keeps_no_slot_from_others(book: Book) -> None:
    """Of four slots one is taken; a worker that has no room brought three that were due earlier."""
    at_work, *of_full, other = _offers(book, await _jobs(book, 5), most=4)
    await book.begun(at_work)
    for each in of_full:
        assert isinstance(await book.claim(replace(each, full=True)), Waiting)

    assert isinstance(await book.claim(other), Granted)


async def test_whose_worker_is_full_is_woken_beside_those_that_wait_for_a_slot(book: Book) -> None:
    one, two, early, later, late, last = _offers(book, await _jobs(book, 6), most=2)
    held = [await book.begun(one)]
    for each in (early, later):
        assert isinstance(await book.claim(replace(each, full=True)), Waiting)
    held.append(await book.begun(two))
    for each in (late, last):
        assert isinstance(await book.claim(each), Waiting)
    assert await _next(book, 2) == []

    await book.settle(held[0], Status.SUCCEEDED)

    # One slot is free: the first of either kind, for nobody knows which worker has room.
    assert [each.flow_run_id for each in await _next(book, 2)] == ["f2", "f4"]
    # It may ask before its time, and is granted where there is room.
    assert isinstance(await book.claim(early), Granted)
    assert await _next(book, 2) == []


async def test_whose_worker_is_full_waits_for_a_slot_once_all_are_taken(book: Book) -> None:
    offer, blocker = _offers(book, await _jobs(book, 2), most=1)
    assert isinstance(await book.claim(replace(offer, full=True)), Waiting)
    held = await book.begun(blocker)

    answer = await book.claim(replace(offer, full=True))

    assert isinstance(answer, Waiting)
    assert (await book.row(str(answer.run_id))).waits_for == "slot"
    await book.settle(held, Status.SUCCEEDED)
    assert [each.id for each in await _next(book, 1)] == [answer.run_id]


async def test_no_limit_is_no_limit(book: Book) -> None:
    for each in _offers(book, await _jobs(book, 6)):
        assert isinstance(await book.claim(each), Granted)


async def test_who_waits_for_its_session_does_not_wait_for_a_slot(book: Book) -> None:
    shared = [await book.add(name, every="1h", session_key="ops") for name in ("one", "two")]
    first, second = _offers(book, shared, most=1)
    held = await book.begun(first)

    answer = await book.claim(second)

    assert isinstance(answer, Waiting)
    row = await book.row(str(answer.run_id))
    assert (row.waits_for, row.reason.startswith("session ")) == ("", True)
    assert await _next(book, 2) == []
    await book.settle(held, Status.SUCCEEDED)
    book.clock.set(answer.until)
    assert isinstance(await book.claim(second), Granted)


async def test_a_waiting_run_that_ends_waits_for_nothing(book: Book) -> None:
    blocker, waits = _offers(book, await _jobs(book, 2), most=1)
    await book.begun(blocker)
    answer = await book.claim(waits)
    assert isinstance(answer, Waiting)
    await book.archive(str(waits.job_id))

    row = await book.row(str(answer.run_id))

    assert (row.status, row.waits_for, row.unmirrored) == ("skipped", "", True)
    assert isinstance(await book.claim(waits), Ended)


async def test_of_many_that_claim_at_once_no_more_than_the_limit_are_granted(book: Book) -> None:
    many = _offers(book, await _jobs(book, 12), most=4)

    async def ask(offer: Offer) -> Answer:
        async with Ledger(book.ledger.address, book.clock) as ledger:
            return await claims.claim(ledger, offer)

    async with asyncio.timeout(60):
        answers = await asyncio.gather(*map(ask, many))

    assert sum(isinstance(each, Granted) for each in answers) == 4
    assert sum(isinstance(each, Waiting) for each in answers) == 8
    assert sorted(row.status for row in await book.rows()) == ["claimed"] * 4 + ["waiting"] * 8


async def test_twenty_due_in_one_second_run_four_at_a_time_in_their_order(book: Book) -> None:
    due = book.clock.now().replace(microsecond=0)
    all_of_them = _offers(book, await _jobs(book, 24), most=4)
    four, twenty = all_of_them[:4], [replace(each, due=due) for each in all_of_them[4:]]
    held = [await book.begun(each) for each in four]
    for each in twenty:  # all ask while the slots are taken, so that the ledger knows who waits
        assert isinstance(await book.claim(each), Waiting)
    for slot in held:
        await book.settle(slot, Status.SUCCEEDED)
    began: list[str] = []
    at_once: list[int] = []

    async def work(ledger: Ledger, left: list[Offer]) -> None:
        """A worker: claims what is left to it again and again, and carries out what it gets."""
        while left:
            for each in list(left):
                answer = await claims.claim(ledger, each)
                if isinstance(answer, Granted):
                    began.append(answer.run_id)
                    left.remove(each)
                    rows = await book.rows()
                    at_once.append(sum(row.status in ("claimed", "acting") for row in rows))
                    await claims.begin(ledger, answer.run_id, answer.fence)
                    done = Outcome(Status.SUCCEEDED)
                    await claims.settle(ledger, answer.run_id, answer.fence, done)

    async with (
        Ledger(book.ledger.address, book.clock) as one,
        Ledger(book.ledger.address, book.clock) as two,
        asyncio.timeout(60),
    ):
        await asyncio.gather(work(one, twenty[::2]), work(two, twenty[1::2]))

    rows = {row.id: row for row in await book.rows()}
    assert len(began) == len(set(began)) == 20
    assert max(at_once) <= 4
    order = sorted(began, key=lambda run: (rows[run].due, rows[run].queued_at, run))
    # Who began was among the first four of those that were left.
    for place, run in enumerate(began):
        left = [each for each in order if each not in began[:place]]
        assert left.index(run) < 4
