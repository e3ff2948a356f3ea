"""The claim lock of a worker: the first in order is next, whichever claim waited first."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from anyio.lowlevel import checkpoint

from daybook.worker.claim_lock import FirstInOrderLock

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
ORDER = False, NOON, True


class Claims:
    """Claims under one lock; each lasts until ``let_go`` is released."""

    def __init__(self) -> None:
        self.turns, self.order, self.at_once = FirstInOrderLock(), list[int](), 0
        self.permits = asyncio.Semaphore(0)

    async def claim(self, due: int) -> None:
        async with self.turns.turn((False, NOON + timedelta(seconds=due), True)):
            self.at_once += 1
            assert self.at_once == 1
            self.order.append(due)
            await self.permits.acquire()
            self.at_once -= 1

    def started(self, *dues: int) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self.claim(due)) for due in dues]


async def _all_blocked() -> None:
    """Let all tasks run until they block."""
    for _ in range(10):
        await checkpoint()


async def test_the_waiting_claim_with_the_earliest_due_time_is_next() -> None:
    claims = Claims()
    tasks = claims.started(50, 40, 60)
    await _all_blocked()
    tasks += claims.started(10)
    for _ in range(4):
        claims.permits.release()
    await asyncio.gather(*tasks)

    assert claims.order == [50, 10, 40, 60]


async def test_a_late_claim_waits_for_one_that_is_on_time() -> None:
    turns, order, permit = FirstInOrderLock(), list[str](), asyncio.Event()

    async def claim(name: str, is_late: bool, due: datetime) -> None:
        async with turns.turn((is_late, due, True)):
            order.append(name)
            await permit.wait()

    early = NOON - timedelta(hours=1)
    claims = [("first", True, early), ("late", True, early), ("on time", False, NOON)]
    tasks = [asyncio.create_task(claim(*each)) for each in claims]
    await _all_blocked()
    permit.set()
    await asyncio.gather(*tasks)

    assert order == ["first", "on time", "late"]


async def test_each_third_turn_is_a_late_claims_if_others_always_wait() -> None:
    turns, order, permit = FirstInOrderLock(), list[str](), asyncio.Event()

    async def claim(name: str, is_late: bool) -> None:
        async with turns.turn((is_late, NOON, True)):
            order.append(name)
            await permit.wait()

    claims = [*[("on time", False)] * 6, *[("late", True)] * 3]
    tasks = [asyncio.create_task(claim(*each)) for each in claims]
    await _all_blocked()
    permit.set()
    await asyncio.gather(*tasks)

    first, *others = order
    assert first == "on time"  # it found the lock free
    assert others == ["on time", "on time", "late"] * 2 + ["on time", "late"]


async def test_a_run_with_a_slot_claims_before_the_others_of_its_due_time() -> None:
    turns, order, permit = FirstInOrderLock(), list[str](), asyncio.Event()

    async def claim(name: str, due: datetime, has_slot: bool) -> None:
        async with turns.turn((False, due, not has_slot)):
            order.append(name)
            await permit.wait()

    before = NOON - timedelta(minutes=1)
    claims = [("first", NOON, False), ("new", NOON, False), ("earlier", before, False)]
    claims.append(("woken", NOON, True))
    tasks = [asyncio.create_task(claim(*each)) for each in claims]
    await _all_blocked()
    permit.set()
    await asyncio.gather(*tasks)

    assert order == ["first", "earlier", "woken", "new"]


async def test_claims_with_the_same_due_time_keep_their_order() -> None:
    turns, order = FirstInOrderLock(), list[str]()

    async def claim(name: str) -> None:
        async with turns.turn(ORDER):
            order.append(name)
            await checkpoint()

    await asyncio.gather(*map(claim, "abcd"))

    assert order == list("abcd")


class Parked:
    """Parked claims under one lock, in the order of their due times; ``room`` is what is left."""

    def __init__(self) -> None:
        self.room, self.order = 0, list[str]()
        self.turns = FirstInOrderLock(lambda: self.room > 0)

    async def claim(self, name: str, due: int = 0, *, park_seconds: float = 60.0) -> None:
        order = False, NOON + timedelta(seconds=due), True
        async with self.turns.turn(order, park_seconds=park_seconds):
            self.order.append(name)
            self.room -= park_seconds > 0
            await checkpoint()

    def make_room(self, room: int) -> None:
        self.room = room
        self.turns.unpark()


async def test_parked_claims_wait_for_room_in_their_order_and_others_do_not() -> None:
    parked = Parked()
    tasks = [asyncio.create_task(parked.claim(name, due)) for name, due in (("b", 2), ("a", 1))]
    await _all_blocked()
    assert (parked.order, parked.turns.parked) == ([], 2)
    await parked.claim("not parked", 9, park_seconds=0)
    parked.make_room(1)
    await _all_blocked()
    assert parked.order == ["not parked", "a"]
    parked.make_room(2)
    await asyncio.gather(*tasks)
    await parked.claim("c")  # there is room at once
    assert parked.order == ["not parked", "a", "b", "c"]


async def test_parked_claims_and_others_have_one_order() -> None:
    parked, permit = Parked(), asyncio.Event()

    async def block() -> None:
        async with parked.turns.turn(ORDER):
            await permit.wait()

    parked.room = 9
    claims = [("parked, early", 1, 60.0), ("later", 2, 0.0), ("parked, last", 3, 60.0)]
    tasks = [asyncio.create_task(block())]
    await _all_blocked()
    tasks += [asyncio.create_task(parked.claim(*each[:2], park_seconds=each[2])) for each in claims]
    await _all_blocked()
    permit.set()
    await asyncio.gather(*tasks)
    assert parked.order == ["parked, early", "later", "parked, last"]


async def test_parking_ends_after_its_time_although_there_is_no_room() -> None:
    parked = Parked()
    endless = asyncio.create_task(parked.claim("endless", 1))
    async with asyncio.timeout(30):
        await parked.claim("short", 2, park_seconds=0.01)
    assert parked.order == ["short"]
    parked.make_room(1)
    await endless


async def test_a_parked_claim_that_is_cancelled_leaves_its_room_to_the_next() -> None:
    parked = Parked()
    first, second = (asyncio.create_task(parked.claim(name)) for name in "ab")
    await _all_blocked()
    first.cancel()
    parked.make_room(1)
    async with asyncio.timeout(30):
        await second
    assert (first.cancelled(), parked.order) == (True, ["b"])


@pytest.mark.parametrize("woken", [False, True])
async def test_a_cancelled_claim_does_not_block_the_next_one(woken: bool) -> None:
    claims = Claims()
    holder, cancelled, last = claims.started(1, 2, 3)
    await _all_blocked()
    if woken:  # the holder has released the lock, but the next claim has not noticed yet
        claims.permits.release()
        while not holder.done():
            await checkpoint()
            if claims.at_once == 0:
                break
    cancelled.cancel()
    claims.permits.release()
    claims.permits.release()
    await asyncio.gather(holder, last)

    assert cancelled.cancelled()
    assert claims.order == [1, 3]


async def test_an_error_releases_the_lock() -> None:
    turns = FirstInOrderLock()

    async def fail() -> None:
        async with turns.turn(ORDER):
            await checkpoint()
            raise OSError

    async def claim() -> bool:
        async with turns.turn(ORDER):
            return True

    assert isinstance((await asyncio.gather(fail(), claim(), return_exceptions=True))[0], OSError)
    assert await claim()
