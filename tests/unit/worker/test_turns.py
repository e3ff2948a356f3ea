"""Who claims next in one worker: the run that was due first, whoever asked before it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from anyio.lowlevel import checkpoint

from daybook.worker.dispatcher import EarliestFirstLock

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Claims:
    """Claims under one lock, each of which lasts until it is let go."""

    def __init__(self) -> None:
        self.turns, self.order, self.at_once = EarliestFirstLock(), list[int](), 0
        self.let_go = asyncio.Semaphore(0)

    async def claim(self, due: int) -> None:
        async with self.turns.turn(NOON + timedelta(seconds=due)):
            self.at_once += 1
            assert self.at_once == 1
            self.order.append(due)
            await self.let_go.acquire()
            self.at_once -= 1

    def started(self, *dues: int) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self.claim(due)) for due in dues]


async def _settled() -> None:
    """Let everything that can go on go on."""
    for _ in range(10):
        await checkpoint()


async def test_the_earliest_is_next() -> None:
    claims = Claims()
    tasks = claims.started(50, 40, 60)
    await _settled()
    tasks += claims.started(10)
    for _ in range(4):
        claims.let_go.release()
    await asyncio.gather(*tasks)

    assert claims.order == [50, 10, 40, 60]


async def test_of_one_due_time_the_first_that_asked_is_first() -> None:
    turns, order = EarliestFirstLock(), list[str]()

    async def claim(name: str) -> None:
        async with turns.turn(NOON):
            order.append(name)
            await checkpoint()

    await asyncio.gather(*map(claim, "abcd"))

    assert order == list("abcd")


@pytest.mark.parametrize("woken", [False, True])
async def test_one_that_is_cancelled_keeps_nobody_waiting(woken: bool) -> None:
    claims = Claims()
    holder, cancelled, last = claims.started(1, 2, 3)
    await _settled()
    if woken:  # the holder has passed the lock on, and the next has not noticed yet
        claims.let_go.release()
        while not holder.done():
            await checkpoint()
            if claims.at_once == 0:
                break
    cancelled.cancel()
    claims.let_go.release()
    claims.let_go.release()
    await asyncio.gather(holder, last)

    assert cancelled.cancelled()
    assert claims.order == [1, 3]


async def test_an_error_passes_the_lock_on() -> None:
    turns = EarliestFirstLock()

    async def fail() -> None:
        async with turns.turn(NOON):
            await checkpoint()
            raise OSError

    async def claim() -> bool:
        async with turns.turn(NOON):
            return True

    assert isinstance((await asyncio.gather(fail(), claim(), return_exceptions=True))[0], OSError)
    assert await claim()
