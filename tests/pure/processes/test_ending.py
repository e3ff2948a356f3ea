"""Ends of tasks that were cancelled."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from anyio.lowlevel import checkpoint

from daybook.processes import ending
from daybook.processes.ending import cancel_all

pytestmark = pytest.mark.anyio


async def test_cancelled_tasks_have_ended_also_their_last_steps() -> None:
    steps: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await checkpoint()  # such as to return a connection
            steps.append("closed")

    tasks = [asyncio.create_task(work()) for _ in range(2)]
    await checkpoint()
    await cancel_all(*tasks, None)

    assert steps == ["closed", "closed"]
    assert all(each.cancelled() for each in tasks)


async def test_the_error_of_a_cancelled_task_is_logged_and_not_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("while it closed") from None

    task = asyncio.create_task(work())
    await checkpoint()
    await cancel_all(task)
    assert isinstance(task.exception(), ValueError)
    assert "while it closed" in caplog.text


async def test_a_task_that_is_already_closing_is_not_cancelled_again() -> None:
    steps: list[str] = []
    may_close = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await may_close.wait()  # another cancellation would interrupt it
            steps.append("closed")

    task = asyncio.create_task(work())
    await checkpoint()
    task.cancel()
    await checkpoint()
    asyncio.get_running_loop().call_soon(may_close.set)
    await cancel_all(task)
    assert steps == ["closed"]


async def test_a_task_that_went_on_after_a_timeout_of_its_own_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ending, "CANCEL_SECONDS", 0.02)

    async def work() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await checkpoint()
    task.cancel()  # as a timeout in the task does
    await cancel_all(task)
    assert task.cancelled()


async def test_a_task_that_does_not_end_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "CANCEL_SECONDS", 0.01)
    answers = asyncio.Event()

    async def work() -> None:
        while not answers.is_set():
            try:
                await answers.wait()
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(work())
    await checkpoint()
    await cancel_all(task)
    assert not task.done()
    answers.set()
    await task
