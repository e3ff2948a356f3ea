"""The queue of due runs: each is dispatched once for each time it is queued."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from anyio.lowlevel import checkpoint
from prefect.client.schemas.objects import FlowRun

from daybook.worker.run_queue import RunQueue

pytestmark = pytest.mark.anyio


class Polled:
    """Prefect client that lists one due run; it answers a poll when the test says so."""

    def __init__(self, run: FlowRun) -> None:
        self.asked, self.answers = asyncio.Event(), asyncio.Event()
        self._run = run

    async def get_scheduled_flow_runs_for_work_pool(self, **_: Any) -> list[Any]:
        self.asked.set()
        await self.answers.wait()
        return [SimpleNamespace(flow_run=self._run)]


@asynccontextmanager
async def handing_out(queue: RunQueue) -> AsyncIterator[None]:
    task = asyncio.create_task(queue.hand_out())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_an_answer_from_before_a_dispatch_does_not_dispatch_the_run_again() -> None:
    run, taken = FlowRun(id=uuid4(), flow_id=uuid4()), list[UUID]()

    async def take(run: FlowRun) -> None:
        taken.append(run.id)

    client = Polled(run)
    queue = RunQueue(cast(Any, client), "pool", [], take)
    async with asyncio.timeout(30), handing_out(queue):
        poll = asyncio.create_task(queue.fetch())
        await client.asked.wait()
        queue.hand_out_now(run)
        await queue.wait_until_dispatched()
        client.answers.set()
        await poll
        for _ in range(5):
            await checkpoint()
        assert taken == [run.id]

        # It is scheduled again: a run that was set back, for example.
        await queue.fetch()
        while len(taken) < 2:
            await checkpoint()


async def test_a_run_queued_again_during_its_dispatch_is_dispatched_once_more() -> None:
    taken, released = list[UUID](), asyncio.Event()

    async def take(run: FlowRun) -> None:
        taken.append(run.id)
        await released.wait()

    intake = RunQueue(cast(Any, None), "pool", [], take)
    run = FlowRun(id=uuid4(), flow_id=uuid4())
    intake.hand_out_now(run)
    for _ in range(2):
        intake.hand_out_now(run)
    released.set()
    await intake.wait_until_dispatched()

    assert taken == [run.id] * 2
