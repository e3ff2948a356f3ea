"""Ending a child process and every process that it started."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from tests.contract.worker.conftest import Launching, children, living, wait_until


async def test_a_child_that_obeys_sigterm_is_not_killed(launching: Launching) -> None:
    began = await launching.start("waits")
    await launching.until(began, "ready")
    await began.end(grace=60.0)
    assert await began.ended() == -signal.SIGTERM


async def test_a_stopped_child_is_continued_and_ends_on_sigterm(launching: Launching) -> None:
    began = await launching.start("waits")
    await launching.until(began, "ready")
    os.kill(began.pid, signal.SIGSTOP)
    await began.end(grace=60.0)
    assert await began.ended() == -signal.SIGTERM


@pytest.mark.parametrize("kind", ["ignores", "computes"])
@pytest.mark.slow
async def test_a_child_that_ignores_sigterm_is_killed_after_the_grace_period(
    launching: Launching, kind: str
) -> None:
    began = await launching.start(kind)
    await launching.until(began, "ready")
    before = time.monotonic()
    await began.end(grace=0.5)
    assert await began.ended() == -signal.SIGKILL
    assert 0.5 <= time.monotonic() - before < 20.0


@pytest.mark.slow
async def test_processes_started_by_a_child_end_with_it(launching: Launching) -> None:
    """This covers its group, another session, and a process whose own parent has ended."""
    began = await launching.start("begins")
    pids = await launching.until(began, "children")
    assert living(pids) == pids
    await began.end(grace=60.0)
    assert living([began.pid, *pids]) == []
    assert await began.ended() == -signal.SIGTERM


async def test_ending_a_child_twice_or_after_its_exit_is_harmless(launching: Launching) -> None:
    began = await launching.start("ignores")
    await launching.until(began, "ready")
    await asyncio.gather(began.end(grace=0.2), began.end(grace=0.2))
    assert await began.ended() == -signal.SIGKILL
    await began.end(grace=60.0)


@pytest.mark.slow
async def test_a_child_that_is_ended_while_it_starts_does_not_remain(launching: Launching) -> None:
    for _ in range(10):
        began = await launching.start("waits")
        await began.end(grace=60.0)
        assert await began.ended() == -signal.SIGTERM


@pytest.mark.parametrize("turns", range(1, 12, 2))
@pytest.mark.slow
async def test_a_cancelled_start_leaves_no_process(launching: Launching, turns: int) -> None:
    """The cancellation comes before the task is sent, while it starts, or after the parent's
    answer.
    """
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
    # The parent starts tasks in the order in which they were sent.
    began = await launching.start("end_normally")
    assert await began.ended() == 0
    await wait_until(lambda: children(launching.launcher.pid) == [])


async def test_closing_the_launcher_ends_all_children(launching: Launching) -> None:
    kinds = ("waits", "ignores", "begins")
    started = [await launching.start(kind) for kind in kinds]
    pids = await launching.until(started[2], "children")
    await launching.until(started[1], "ready")
    parent = launching.launcher.pid
    assert parent is not None
    await launching.launcher.__aexit__(None, None, None)
    assert living([parent, *pids, *(each.pid for each in started)]) == []
    with pytest.raises(OSError, match="the launcher is closed"):
        await launching.start("waits")


async def test_closing_the_launcher_ends_a_child_that_is_starting(launching: Launching) -> None:
    starting = asyncio.create_task(launching.start("ignores"))
    turn = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(turn.set_result, None)
    await turn
    await launching.launcher.__aexit__(None, None, None)
    began = await starting
    assert await began.ended() in {-signal.SIGTERM, -signal.SIGKILL}
    assert living([began.pid]) == []
