"""Ending a process and all that it began."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from tests.contract.worker.conftest import Launching, becomes, children, living


async def test_one_that_obeys_is_asked_only(launching: Launching) -> None:
    began = await launching.start("waits")
    await launching.until(began, "ready")
    await began.end(grace=60.0)
    assert await began.ended() == -signal.SIGTERM


async def test_a_stopped_one_is_woken_to_be_asked(launching: Launching) -> None:
    began = await launching.start("waits")
    await launching.until(began, "ready")
    os.kill(began.pid, signal.SIGSTOP)
    await began.end(grace=60.0)
    assert await began.ended() == -signal.SIGTERM


@pytest.mark.parametrize("kind", ["ignores", "computes"])
@pytest.mark.slow
async def test_one_that_does_not_obey_is_killed_after_the_grace(
    launching: Launching, kind: str
) -> None:
    began = await launching.start(kind)
    await launching.until(began, "ready")
    before = time.monotonic()
    await began.end(grace=0.5)
    assert await began.ended() == -signal.SIGKILL
    assert 0.5 <= time.monotonic() - before < 20.0


@pytest.mark.slow
async def test_what_it_began_ends_with_it_wherever_it_is(launching: Launching) -> None:
    """In its group, in a session of its own, and one whose own parent has ended."""
    began = await launching.start("begins")
    pids = await launching.until(began, "begun")
    assert living(pids) == pids
    await began.end(grace=60.0)
    assert living([began.pid, *pids]) == []
    assert await began.ended() == -signal.SIGTERM


async def test_ending_twice_and_after_the_end(launching: Launching) -> None:
    began = await launching.start("ignores")
    await launching.until(began, "ready")
    await asyncio.gather(began.end(grace=0.2), began.end(grace=0.2))
    assert await began.ended() == -signal.SIGKILL
    await began.end(grace=60.0)


@pytest.mark.slow
async def test_one_that_is_ended_as_it_starts_does_not_stay(launching: Launching) -> None:
    for _ in range(10):
        began = await launching.start("waits")
        await began.end(grace=60.0)
        assert await began.ended() == -signal.SIGTERM


@pytest.mark.parametrize("turns", range(1, 12, 2))
@pytest.mark.slow
async def test_a_start_that_is_given_up_leaves_no_process(launching: Launching, turns: int) -> None:
    """Wherever the cancellation strikes: before the task is sent, under way, answered."""
    starting = asyncio.create_task(launching.start("ignores"))
    loop = asyncio.get_running_loop()
    for _ in range(turns):
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn
    if starting.cancel():
        with pytest.raises(asyncio.CancelledError):
            await starting
    else:
        await starting.result().end(0.0)
    # What was sent before this task was begun before it.
    began = await launching.start("ends")
    assert await began.ended() == 0
    await becomes(lambda: children(launching.launcher.pid) == [])


async def test_leaving_the_launcher_ends_what_runs(launching: Launching) -> None:
    kinds = ("waits", "ignores", "begins")
    started = [await launching.start(kind) for kind in kinds]
    begun = await launching.until(started[2], "begun")
    await launching.until(started[1], "ready")
    parent = launching.launcher.pid
    assert parent is not None
    await launching.launcher.__aexit__(None, None, None)
    assert living([parent, *begun, *(each.pid for each in started)]) == []
    with pytest.raises(OSError, match="the launcher is closed"):
        await launching.start("waits")


async def test_leaving_the_launcher_while_one_starts(launching: Launching) -> None:
    starting = asyncio.create_task(launching.start("ignores"))
    turn = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(turn.set_result, None)
    await turn
    await launching.launcher.__aexit__(None, None, None)
    began = await starting
    assert await began.ended() in {-signal.SIGTERM, -signal.SIGKILL}
    assert living([began.pid]) == []
