"""Which flow runs are due: fetched ahead, handed out at their time, never early.

::

    an event of the pool ─┐
    every `Timing.poll` ──┼─► Prefect: scheduled within `AHEAD` ─► upcoming ─► at its time: take
    a slot became free  ──┘

Events only shorten the wait: the scheduler's own inserts emit none, and a stream breaks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NoReturn
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound

from daybook.clock import SYSTEM
from daybook.timing import TIMING

log = logging.getLogger(__name__)

AHEAD = timedelta(seconds=10)
SLOWEST = 30.0
"""Seconds between two polls of a Prefect that does not answer."""


class Intake:
    """``take`` is called once for each run at its scheduled time."""

    def __init__(
        self,
        client: PrefectClient,
        pool: str,
        queues: list[str],
        take: Callable[[FlowRun], Coroutine[Any, Any, None]],
    ) -> None:
        self._client, self._pool, self._queues = client, pool, queues
        self._take = take
        self._upcoming: dict[UUID, tuple[datetime, FlowRun]] = {}
        self._in_hand: dict[UUID, asyncio.Task[None]] = {}
        self._taken: dict[UUID, float] = {}
        self._again: dict[UUID, FlowRun] = {}
        self._wanted = asyncio.Event()
        self._changed = asyncio.Event()
        self.last_poll: datetime | None = None

    def hand(self, run: FlowRun) -> None:
        """Take this run now, whatever time Prefect has for it; if it is being taken, once more."""
        self._upcoming.pop(run.id, None)
        if run.id in self._in_hand:
            self._again[run.id] = run
        else:
            self._begin(run)

    def poll_soon(self) -> None:
        """Ask Prefect at once rather than at the next turn."""
        self._wanted.set()

    async def poll(self) -> NoReturn:
        """Ask again and again, until cancelled; a Prefect that is away is asked less often."""
        wait = TIMING.poll.total_seconds()
        while True:
            try:
                async with asyncio.timeout(wait):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            try:
                await self.look()
                wait = TIMING.poll.total_seconds()
            except (httpx.HTTPError, ObjectNotFound) as error:
                wait = min(wait * 2, SLOWEST)
                log.warning("Prefect cannot be polled: %s", error, extra={"action": "poll_failed"})

    async def look(self) -> None:
        """One poll: what is upcoming now replaces what was."""
        asked, before = time.monotonic(), SYSTEM.now() + AHEAD
        found = await self._client.get_scheduled_flow_runs_for_work_pool(
            work_pool_name=self._pool, work_queue_names=self._queues, scheduled_before=before
        )
        self.last_poll = SYSTEM.now()
        runs = [each.flow_run for each in found]
        # An answer that was under way while a run was taken still holds it as scheduled.
        self._taken = {each: at for each, at in self._taken.items() if at > asked}
        busy = self._in_hand.keys() | self._taken.keys()
        self._upcoming = {run.id: (_when(run), run) for run in runs if run.id not in busy}
        self._changed.set()

    async def hand_out(self) -> NoReturn:
        """Take each run when its time has come, earliest first, until cancelled."""
        while True:
            self._changed.clear()
            now = SYSTEM.now()
            due = [(when, run) for when, run in self._upcoming.values() if when <= now]
            for _, run in sorted(due, key=lambda each: (each[0], expected(each[1]))):
                del self._upcoming[run.id]
                self._begin(run)
            first = min((when for when, _ in self._upcoming.values()), default=None)
            try:
                # At most a second: a clock that is set must not let a run wait for the old time.
                async with asyncio.timeout(
                    None if first is None else min((first - now).total_seconds(), 1.0)
                ):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _begin(self, run: FlowRun) -> None:
        task = asyncio.create_task(self._take(run))
        self._in_hand[run.id] = task
        task.add_done_callback(partial(self._done, run.id))

    def _done(self, run_id: UUID, task: asyncio.Task[None]) -> None:
        self._in_hand.pop(run_id)
        self._taken[run_id] = time.monotonic()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("not taken: %r", error, exc_info=error, extra={"action": "take_failed"})
        if (again := self._again.pop(run_id, None)) is not None and not task.cancelled():
            self._begin(again)

    async def finish(self) -> None:
        """Wait for what was handed out and is not taken yet."""
        while self._in_hand:
            await asyncio.wait(self._in_hand.values())


def _when(run: FlowRun) -> datetime:
    scheduled = run.next_scheduled_start_time or run.expected_start_time
    return SYSTEM.now() if scheduled is None else _plain(scheduled)


def expected(run: FlowRun) -> datetime:
    """When the run was due, as Prefect knows it: waiting does not change it."""
    return _when(run) if run.expected_start_time is None else _plain(run.expected_start_time)


def _plain(instant: datetime) -> datetime:
    return datetime.fromtimestamp(instant.timestamp(), UTC)
