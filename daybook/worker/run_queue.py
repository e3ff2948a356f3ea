"""Queue of due flow runs: it fetches them ahead from Prefect, but dispatches none of them early.

::

    an event of the pool ─┐
    every `Timing.poll` ──┼─► fetch: scheduled within `FETCH_AHEAD_INTERVAL` ─► upcoming
    a slot became free  ──┘                                    at its time: dispatch ◄┘

Only `RunQueue.hand_out_now` dispatches a run before its time in Prefect: a waiting run for which a
slot is free. Events only shorten the wait: the queue also polls, because Prefect emits no event
when its scheduler inserts runs, and because the event stream can break. It polls less often while
nothing is due soon, or while polling fails.

Prefect refuses a poll as a whole if one of its queues does not exist. So a worker that serves only
some queues reads the names of all queues now and then, and polls those of its queues that exist. It
also polls the queues of all labels, because a run whose label no worker has must be claimed, to
wait with a reason; the claim starts no such run.

After a stop of hours, Prefect has many late runs, which only have to be recorded as missed. The
other runs claim before them (`claim_order`). The queue fetches the other runs even if more late
runs precede them than Prefect lists at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from typing import Any, NoReturn
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from daybook.clock import SYSTEM_CLOCK, Clock
from daybook.jobs.lateness import MAX_CATCH_UP_AGE, ON_TIME_GRACE
from daybook.policies.policy import policy_from_parameters
from daybook.prefect import work_queues
from daybook.prefect.deployments import PAGE_SIZE
from daybook.prefect.states import WAITING_NAME
from daybook.timing import TIMING

log = logging.getLogger(__name__)

FETCH_AHEAD_INTERVAL = timedelta(seconds=20)
MAX_IDLE_INTERVAL = FETCH_AHEAD_INTERVAL / 2
"""Maximum interval between two polls while no run is due within this time, or while polling fails.

Each poll costs Prefect's server a request and three background tasks, a third of the work that the
server does while it is idle.
"""
LARGE_PAGE_SIZE = 1000
"""How many due runs a worker lists at once behind a page of runs that it is dispatching.

Prefect's default maximum is `PAGE_SIZE`; the servers that Daybook starts allow this number.
"""
MAX_PAGING_SECONDS = 5.0
"""Time after which a poll reads no further page of a queue."""
HELD_PART = 0.8
"""Maximum number of runs that a worker holds, as a part of the runs that Prefect lists at once.

Prefect lists held runs again in each poll, so more would hide the runs of the same instant.
"""
POLL_TIMEOUT_SECONDS = 20.0
"""Timeout of a poll.

Prefect's client would retry for more than a minute, with pauses of up to 32 s.
"""
POLL_SHARE = 0.1
MAX_REST_SECONDS = 1.0
MAX_BUSY_REST_SECONDS = 10.0
BUSY = 50
"""A worker polls for about `POLL_SHARE` of its time.

After a poll, it rests so long that this is true, but at most `MAX_REST_SECONDS`. If it knows all
due runs, and dispatches `BUSY` of them or more, it may rest for `MAX_BUSY_REST_SECONDS`. Otherwise
an overloaded worker would poll all the time: each run that it reschedules causes an event, and each
poll lists hundreds of due runs again.
"""
QUEUES_INTERVAL_SECONDS = 60.0
"""Interval at which a worker reads which queues exist, if it serves only some, and their limits."""
LATE_AFTER = timedelta(minutes=10)
"""Lateness after which a run claims after the other runs (`claim_lock`).

Runs that are less late, as on a busy machine, claim in the order of their due times, so that no run
waits for long, unless they are missed (`dispatcher`).
"""


MAX_PARKED = timedelta(seconds=20)
MAX_PARKED_BRIEFLY = timedelta(seconds=10)
"""How long after its due time a run claims at the latest, although it cannot start (`may_park`).

After 30 s, `daybook status` warns of runs that no worker has claimed, and after 60 s they may be
missed.
"""


class RunQueue:
    """Queue that calls ``dispatch`` with each flow run at its scheduled time.

    It has the ``clock`` of the ledger, because this machine's may be wrong.
    """

    def __init__(
        self,
        client: PrefectClient,
        pool: str,
        queues: list[str],
        dispatch: Callable[[FlowRun], Coroutine[Any, Any, None]],
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._clock = clock
        self._client, self._pool, self._served = client, pool, queues
        self._dispatch = dispatch
        self._queues, self._queues_read_at = queues, float("-inf")
        self._upcoming: dict[UUID, tuple[datetime, FlowRun]] = {}
        self._dispatching: dict[UUID, asyncio.Task[None]] = {}
        self._dispatched: dict[UUID, float] = {}
        self._dispatch_again: dict[UUID, FlowRun] = {}
        self._poll_now = asyncio.Event()
        self._changed = asyncio.Event()
        self.last_poll: datetime | None = None
        self._largest_page, self._has_large_page = LARGE_PAGE_SIZE, False
        self._is_limited, self._limits_read_at = True, float("-inf")
        self._listed_all = True

    def hand_out_now(self, run: FlowRun) -> None:
        """Dispatch this run now, before its time in Prefect.

        If it is already being dispatched, dispatch it again afterwards.
        """
        self._upcoming.pop(run.id, None)
        if run.id in self._dispatching:
            self._dispatch_again[run.id] = run
        else:
            self._start(run)

    def dispatches_again(self, run_id: UUID) -> bool:
        """Return whether the run was handed out again during its dispatch."""
        return run_id in self._dispatch_again

    def poll_soon(self) -> None:
        """Poll Prefect at once, or after the rest that follows the last poll."""
        self._poll_now.set()

    async def poll(self) -> NoReturn:
        """Poll until cancelled; poll less often while polling fails, or nothing is due soon."""
        wait = shortest = TIMING.poll.total_seconds()
        failures, rest = 0, 0.0
        while True:
            await asyncio.sleep(rest)
            try:
                async with asyncio.timeout(max(wait - rest, 0.0)):
                    await self._poll_now.wait()
                wait = shortest
            except TimeoutError:
                pass
            self._poll_now.clear()
            began = time.monotonic()
            try:
                async with asyncio.timeout(POLL_TIMEOUT_SECONDS):
                    await self.fetch()
                wait, failures = self.pause_after(wait), 0
            except Exception as error:  # also an answer that is no JSON, such as a proxy's page
                wait = min(shortest * 2**failures, MAX_IDLE_INTERVAL.total_seconds())
                failures = min(failures + 1, 10)
                log.warning("cannot poll Prefect: %r", error, extra={"action": "poll_failed"})
            is_busy = len(self._dispatching) >= BUSY and self._listed_all
            longest = MAX_BUSY_REST_SECONDS if is_busy else MAX_REST_SECONDS
            rest = min((time.monotonic() - began) * (1 / POLL_SHARE - 1), longest)

    def pause_after(self, wait: float) -> float:
        """Return the seconds until the next poll; ``wait`` is the time before the last poll."""
        shortest, longest = TIMING.poll.total_seconds(), MAX_IDLE_INTERVAL.total_seconds()
        soon = self._clock.now() + MAX_IDLE_INTERVAL
        if self._dispatching or any(when <= soon for when, _ in self._upcoming.values()):
            return shortest
        return max(min(wait * 2, longest), shortest)

    async def fetch(self) -> None:
        """Poll once and replace the upcoming runs.

        Raise `httpx.HTTPError`, and `ObjectNotFound` for a pool or queue that does not exist.
        """
        await self._find_queues()
        polled_at, before = time.monotonic(), self._clock.now() + FETCH_AHEAD_INTERVAL
        try:
            runs, is_all = await self._list(before)
        except ObjectNotFound:
            self._queues_read_at = float("-inf")  # the next poll leaves a deleted queue out
            raise
        now = self._clock.now()
        if not is_all or self._has_late(runs, now):
            # Prefect lists the earliest runs first, at most a page, or as many runs as the pool has
            # slots. So late runs may hide the runs that are due now.
            on_time, has_all = await self._list(before, now - ON_TIME_GRACE)
            runs, is_all = runs + on_time, is_all and has_all
        self._listed_all = is_all
        self.last_poll = SYSTEM_CLOCK.now()
        # A response that Prefect sent before a run was dispatched still lists the run as scheduled.
        self._dispatched = {each: at for each, at in self._dispatched.items() if at > polled_at}
        busy = self._dispatching.keys() | self._dispatched.keys()
        self._upcoming = {
            run.id: (scheduled_at(run, now), run) for run in runs if run.id not in busy
        }
        self._changed.set()
        await self._read_limits()

    async def _list(
        self, before: datetime, after: datetime | None = None
    ) -> tuple[list[FlowRun], bool]:
        """Return the runs between two times, and whether these are all (see `_pages`)."""
        if len(self._queues) == 1:
            return await self._pages(self._queues[0], before, after)
        runs = await self._read(self._queues, before, after, PAGE_SIZE)
        if len(runs) < PAGE_SIZE:
            return runs, True
        # Prefect lists all runs of a queue before the runs of the next queue, so many runs in one
        # queue would hide the runs of other queues.
        found = await self._client.read_work_queues(work_pool_name=self._pool)
        names = self._queues or [each.name for each in found]
        listed = {run.work_queue_name for run in runs}
        if len(listed) == 1 and not self._are_dispatched(runs):
            names, is_all = [name for name in names if name not in listed], False
        else:
            runs, is_all = [], True
        for name in names:
            more, has_all = await self._pages(name, before, after)
            runs, is_all = runs + more, is_all and has_all
        return runs, is_all

    async def _pages(
        self, queue: str, before: datetime, after: datetime | None
    ) -> tuple[list[FlowRun], bool]:
        """Return a page of runs of a queue, and further ones behind runs that are dispatched here.

        Prefect lists such runs again in each poll, and they would hide the next ones. Also return
        whether these are all runs. Late runs are mostly missed, so do not read further behind them.
        """
        runs, now, began = dict[UUID, FlowRun](), self._clock.now(), time.monotonic()
        most, page = PAGE_SIZE, await self._read([queue], before, after, PAGE_SIZE)
        while True:
            has_new = any(run.id not in runs for run in page)
            runs |= {run.id: run for run in page}
            if len(page) < min(most, self._largest_page):
                return list(runs.values()), True
            took = time.monotonic() - began
            if (
                self._has_late(page, now)
                or took > MAX_PAGING_SECONDS
                or not self._are_dispatched(page)
            ):
                return list(runs.values()), False
            # Prefect's bound is inclusive. If the last instant has more runs than Prefect lists,
            # list those behind it: they are due later, and have their turns after these.
            behind = timedelta(0) if has_new else timedelta(microseconds=1)
            last = max(scheduled_at(run, now) for run in page)
            most = self._largest_page
            page = await self._read([queue], before, last + behind, most)

    def _has_late(self, runs: list[FlowRun], now: datetime) -> bool:
        """Return whether a run is late that is not being dispatched, such as a held one."""
        return any(_is_late(run, now) for run in runs if run.id not in self._dispatching)

    def _are_dispatched(self, runs: list[FlowRun]) -> bool:
        """Return whether most of these runs are being dispatched, or were since the last poll."""
        here = sum(run.id in self._dispatching or run.id in self._dispatched for run in runs)
        return 2 * here > len(runs)

    async def _read_limits(self) -> None:
        """Find out whether Prefect limits the active runs of the pool or of a queue.

        Prefect lists no more runs than such a limit allows, so held runs would hide the others.
        """
        age = time.monotonic() - self._limits_read_at
        if not self._dispatching or age < QUEUES_INTERVAL_SECONDS:
            return
        self._limits_read_at = time.monotonic()
        try:
            pool = await self._client.read_work_pool(self._pool)
            queues = await self._client.read_work_queues(work_pool_name=self._pool)
        except Exception as error:  # also an answer that is no JSON
            self._is_limited = True
            log.warning("cannot read limits of Prefect: %r", error)
        else:
            limits = [pool.concurrency_limit, *(each.concurrency_limit for each in queues)]
            self._is_limited = any(each is not None for each in limits)

    @property
    def max_held(self) -> int:
        """Return how many runs the worker may hold (`remembered_runs`)."""
        largest = LARGE_PAGE_SIZE if self._has_large_page else PAGE_SIZE
        return 0 if self._is_limited else int(HELD_PART * largest)

    async def _find_queues(self) -> None:
        """Find the queues to poll, if this worker serves only some: its own, and those of labels.

        If none of its own exists, poll them nevertheless: Prefect's answer names a missing one.
        """
        age = time.monotonic() - self._queues_read_at
        if not self._served or age < QUEUES_INTERVAL_SECONDS:
            return
        found = await self._client.read_work_queues(work_pool_name=self._pool)
        names = [each.name for each in found]
        own = [each for each in self._served if each in names]
        labelled = [each for each in names if work_queues.is_of_label(each) and each not in own]
        self._queues = [*own, *labelled] if own else self._served
        self._queues_read_at = time.monotonic()
        for each in self._served:
            if each not in names:
                log.warning("the work queue %s does not exist", each)

    async def _read(
        self, queues: list[str], before: datetime, after: datetime | None, most: int
    ) -> list[FlowRun]:
        # The method of Prefect's client lacks two parameters of its API.
        body = {"work_queue_names": queues, "scheduled_before": str(before), "limit": most}
        if after is not None:
            body["scheduled_after"] = str(after)
        try:
            answer = await self._client.request(
                "POST",
                "/work_pools/{name}/get_scheduled_flow_runs",
                path_params={"name": self._pool},
                json=body,
            )
        except PrefectHTTPStatusError as error:
            if error.response.status_code == HTTPStatus.NOT_FOUND:
                raise ObjectNotFound(error) from error
            is_refused = error.response.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
            if not is_refused or most == PAGE_SIZE:
                raise
            # This server has Prefect's default limit.
            self._largest_page, self._has_large_page = PAGE_SIZE, False
            return await self._read(queues, before, after, PAGE_SIZE)
        self._has_large_page |= most == LARGE_PAGE_SIZE
        response = WorkerFlowRunResponse.model_validate_list(answer.json())
        return [each.flow_run for each in response]

    async def hand_out(self) -> NoReturn:
        """Dispatch each run at its scheduled time, in the order of `claim_order`, until cancelled.

        Runs with the same order are dispatched in the order of their queues' priorities, which is
        the order in which Prefect lists them.
        """
        while True:
            self._changed.clear()
            now = self._clock.now()
            due = [run for when, run in self._upcoming.values() if when <= now]
            for run in sorted(due, key=partial(claim_order, now=now)):
                del self._upcoming[run.id]
                self._start(run)
            first = min((when for when, _ in self._upcoming.values()), default=None)
            try:
                # Wait at most a second, so that no run starts late because the clock was changed.
                async with asyncio.timeout(
                    None if first is None else min((first - now).total_seconds(), 1.0)
                ):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _start(self, run: FlowRun) -> None:
        task = asyncio.create_task(self._dispatch(run))
        self._dispatching[run.id] = task
        task.add_done_callback(partial(self._done, run.id))

    def _done(self, run_id: UUID, task: asyncio.Task[None]) -> None:
        self._dispatching.pop(run_id)
        self._dispatched[run_id] = time.monotonic()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error(
                "cannot dispatch a run: %r",
                error,
                exc_info=error,
                extra={"action": "dispatch_failed"},
            )
        if (
            next_run := self._dispatch_again.pop(run_id, None)
        ) is not None and not task.cancelled():
            self._start(next_run)

    async def wait_until_dispatched(self) -> None:
        """Wait until every dispatch that has started is done."""
        while self._dispatching:
            await asyncio.wait(self._dispatching.values())


def scheduled_at(run: FlowRun, now: datetime) -> datetime:
    """Return when Prefect makes the run due, in UTC; ``now`` if Prefect does not say."""
    scheduled = run.next_scheduled_start_time or run.expected_start_time
    return now if scheduled is None else _in_utc(scheduled)


def claim_order(run: FlowRun, now: datetime) -> tuple[bool, datetime]:
    """Return the key by which due runs are sorted for their claims: by due time, late runs last.

    ``now`` is the ledger's time.
    """
    return _is_late(run, now), _due(run, now)


def _is_late(run: FlowRun, now: datetime) -> bool:
    """Return whether the run claims after the runs that are not late, including runs of its job.

    It is so late that it is missed, or is the only run of its job that may still run.
    """
    return may_be_missed(run, now, LATE_AFTER)


def may_be_missed(run: FlowRun, now: datetime, after: timedelta = ON_TIME_GRACE) -> bool:
    """Return whether a run that is so late may be missed (`lateness.judge`).

    Such a run is due by the schedule of a job and was never started or rescheduled. Its lateness
    exceeds ``after``, or the time for which its job catches up.
    """
    late = now - _due(run, now)
    if late <= after or not run.auto_scheduled or "policy" not in run.parameters:
        return False
    if not _is_untouched(run):
        return False
    policy = policy_from_parameters(run.parameters)
    grace = MAX_CATCH_UP_AGE if policy.catch_up == "all" else after
    return late > grace + (policy.stagger or timedelta(0))


def may_park(run: FlowRun, now: datetime) -> timedelta:
    """Return for how much longer the run need not claim while it could not start; 0 or less: it
    must claim.

    A run of a job may be parked from its due time until `MAX_PARKED`, or `MAX_PARKED_BRIEFLY` if a
    user requested the run, or if it may be missed sooner than others. A run that was started,
    ended or rescheduled before claims at once, and so does a run that cancels another one.
    """
    if run.start_time is not None or not _is_untouched(run) or "policy" not in run.parameters:
        return timedelta(0)
    policy = policy_from_parameters(run.parameters)
    if policy.overlap == "cancel_running":
        return timedelta(0)
    is_brief = not run.auto_scheduled or policy.catch_up == "none"
    return _due(run, now) + (MAX_PARKED_BRIEFLY if is_brief else MAX_PARKED) - now


def _is_untouched(run: FlowRun) -> bool:
    """Return whether the run was never started or rescheduled, according to Prefect."""
    return not run.run_count and (run.state is None or run.state.name != WAITING_NAME)


def _due(run: FlowRun, now: datetime) -> datetime:
    """Return when the run was due according to Prefect (UTC), even if it was rescheduled since."""
    expected = run.expected_start_time
    return scheduled_at(run, now) if expected is None else _in_utc(expected)


def _in_utc(instant: datetime) -> datetime:
    return datetime.fromtimestamp(instant.timestamp(), UTC)
