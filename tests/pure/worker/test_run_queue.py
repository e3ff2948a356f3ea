"""The queue of due runs: none is hidden by others, their order, and each run once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
import pytest
from anyio.lowlevel import checkpoint
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Scheduled

from daybook.clock import SYSTEM_CLOCK, Clock
from daybook.prefect.deployments import PAGE_SIZE
from daybook.prefect.states import waiting_state
from daybook.testing import ManualClock
from daybook.timing import TIMING
from daybook.worker import run_queue
from daybook.worker.run_queue import (
    LARGE_PAGE_SIZE,
    LATE_AFTER,
    RunQueue,
    claim_order,
    may_be_missed,
    may_park,
)

pytestmark = pytest.mark.anyio


def scheduled(name: str, at: datetime, **more: Any) -> FlowRun:
    times = {"expected_start_time": at, "next_scheduled_start_time": at, "auto_scheduled": True}
    fields = {"id": uuid4(), "flow_id": uuid4(), "name": name, "parameters": {"policy": {}}}
    return FlowRun.model_validate(fields | times | more)


OLD = SYSTEM_CLOCK.now() - timedelta(days=1)


POLL = "/work_pools/{name}/get_scheduled_flow_runs"


def _listed(runs: list[FlowRun]) -> httpx.Response:
    queue = {"work_pool_id": uuid4(), "work_queue_id": uuid4()}
    answers = [WorkerFlowRunResponse(flow_run=run, **queue) for run in runs]
    return httpx.Response(200, json=[each.model_dump(mode="json") for each in answers])


def _refusal(status: int) -> PrefectHTTPStatusError:
    request = httpx.Request("POST", "http://localhost")
    response = httpx.Response(status, request=request)
    return PrefectHTTPStatusError("refused", request=request, response=response)


class Pool:
    """Prefect with the runs of each queue, in the order of the queues' priorities."""

    def __init__(self, **queues: list[FlowRun]) -> None:
        self._queues = queues
        self.polled: list[list[str]] = []
        self.largest_page = LARGE_PAGE_SIZE
        self.limits = dict[str, int]()
        self.asked = list[int]()

    async def request(
        self, method: str, path: str, *, json: Any, path_params: Any
    ) -> httpx.Response:
        assert (path, path_params) == (POLL, {"name": "pool"})
        names, most = json["work_queue_names"], json["limit"]
        self.asked.append(most)
        if most > self.largest_page:
            raise _refusal(422)
        after = OLD
        if "scheduled_after" in json:
            after = datetime.fromisoformat(json["scheduled_after"])
        else:
            self.polled.append(names)
        if not set(names) <= self._queues.keys():
            raise _refusal(404)
        runs = [run for name in names or self._queues for run in self._queues[name]]
        listed = [run for run in runs if cast(Any, run).expected_start_time >= after][:most]
        return _listed(listed)

    async def read_work_queues(self, work_pool_name: str) -> list[Any]:
        limit = self.limits.get("queue")
        return [SimpleNamespace(name=name, concurrency_limit=limit) for name in self._queues]

    async def read_work_pool(self, name: str) -> Any:
        if self.limits.get("fails"):
            raise _refusal(500)
        return SimpleNamespace(concurrency_limit=self.limits.get("pool"))


NOT_DISPATCHED = cast(Any, None)


async def handed_out(pool: Pool, *queues: str, clock: Clock = SYSTEM_CLOCK) -> list[str]:
    names: list[str] = []

    async def dispatch(run: FlowRun) -> None:
        names.append(run.name)

    queue = RunQueue(cast(Any, pool), "pool", list(queues), dispatch, clock=clock)
    await queue.fetch()
    handing_out = asyncio.create_task(queue.hand_out())
    await checkpoint()
    handing_out.cancel()
    with suppress(asyncio.CancelledError):
        await handing_out
    await queue.wait_until_dispatched()
    return names


PAST = SYSTEM_CLOCK.now() - timedelta(minutes=1)
MANY = [
    scheduled("light", PAST + timedelta(milliseconds=n), work_queue_name="light")
    for n in range(PAGE_SIZE)
]


@pytest.mark.parametrize("queues", [(), ("light", "medium")])
async def test_many_runs_in_one_queue_do_not_hide_those_of_the_next(queues: tuple[str]) -> None:
    pool = Pool(light=MANY, medium=[scheduled("medium", PAST)])
    names = await handed_out(pool, *queues)
    assert names.count("light") == PAGE_SIZE
    assert names.count("medium") == 1
    assert pool.polled == [list(queues), ["medium"]]


async def test_runs_that_the_end_of_a_page_hides_are_read_by_queue() -> None:
    medium = [scheduled(name, PAST, work_queue_name="medium") for name in ("shown", "hidden")]
    names = await handed_out(Pool(light=MANY[1:], medium=medium, heavy=[scheduled("heavy", PAST)]))
    assert names.count("light") == PAGE_SIZE - 1
    assert set(names) == {"light", "shown", "hidden", "heavy"}


@pytest.mark.parametrize(
    ("busy", "is_all", "longest"),
    [(run_queue.BUSY - 1, True, 1.0), (run_queue.BUSY, True, 10.0), (run_queue.BUSY, False, 1.0)],
)
async def test_a_worker_polls_for_a_tenth_of_its_time_however_many_events_arrive(
    monkeypatch: pytest.MonkeyPatch, busy: int, is_all: bool, longest: float
) -> None:
    now, durations, rests = [100.0], [0.02, 0.1, 3.0], list[float]()

    async def read(*_: Any) -> tuple[list[FlowRun], bool]:
        await checkpoint()
        if len(rests) not in polls:  # a poll lists twice if it has not found all runs
            now[0] += durations.pop(0)
        polls.append(len(rests))
        queue.poll_soon()
        return [], is_all

    async def rest(seconds: float) -> None:
        rests.append(seconds)
        if not durations:
            await asyncio.Event().wait()

    polls = list[int]()
    queue = RunQueue(cast(Any, Pool(light=[])), "pool", [], NOT_DISPATCHED)
    monkeypatch.setattr(queue, "_list", read)
    monkeypatch.setattr(f"{run_queue.__name__}.time.monotonic", lambda: now[0])
    monkeypatch.setattr(f"{run_queue.__name__}.asyncio.sleep", rest)
    queue._dispatching = {uuid4(): NOT_DISPATCHED for _ in range(busy)}
    queue.poll_soon()
    polling = asyncio.create_task(queue.poll())
    for _ in range(50):
        await checkpoint()
    polling.cancel()
    assert rests == pytest.approx([0.0, 0.18, 0.9, longest])


async def test_the_rest_after_a_poll_is_a_part_of_the_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, waits, timeout = [100.0], list[float | None](), asyncio.timeout

    def watched_timeout(seconds: float | None) -> asyncio.Timeout:
        waits.append(seconds)
        return timeout(seconds)

    async def read(*_: Any, **__: Any) -> httpx.Response:
        now[0] += 0.1
        return httpx.Response(200, json=[])

    async def rest(_: float) -> None: ...

    pool = Pool(light=[])
    monkeypatch.setattr(pool, "request", read)
    monkeypatch.setattr(f"{run_queue.__name__}.time.monotonic", lambda: now[0])
    monkeypatch.setattr(f"{run_queue.__name__}.asyncio.sleep", rest)
    monkeypatch.setattr(f"{run_queue.__name__}.asyncio.timeout", watched_timeout)
    queue = RunQueue(cast(Any, pool), "pool", [], NOT_DISPATCHED)
    queue._dispatching = {uuid4(): NOT_DISPATCHED}
    queue.poll_soon()
    polling = asyncio.create_task(queue.poll())
    for _ in range(50):
        await checkpoint()
    polling.cancel()
    interval = TIMING.poll.total_seconds()
    assert waits == [interval, run_queue.POLL_TIMEOUT_SECONDS, pytest.approx(interval - 0.9)]


async def test_a_run_is_due_by_the_clock_of_the_ledger() -> None:
    now = SYSTEM_CLOCK.now()
    pool = Pool(light=[scheduled("light", now + timedelta(seconds=30))])
    assert await handed_out(pool) == []
    assert await handed_out(pool, clock=ManualClock(now + timedelta(seconds=31))) == ["light"]


async def test_a_worker_of_one_queue_polls_it_once() -> None:
    pool = Pool(light=MANY, medium=[scheduled("medium", PAST)])
    assert set(await handed_out(pool, "light")) == {"light"}
    assert pool.polled == [["light"]]


async def test_a_worker_of_some_queues_polls_also_the_labels_that_no_worker_may_have() -> None:
    gpu = scheduled("gpu", PAST)
    pool = Pool(**{"light": [], "medium": [scheduled("m", PAST)], "label-gpu": [gpu]})
    assert await handed_out(pool, "light") == ["gpu"]
    assert pool.polled[0] == ["light", "label-gpu"]


async def test_a_deleted_queue_does_not_keep_a_worker_from_its_other_queues() -> None:
    pool = Pool(**{"light": [scheduled("l", PAST)], "label-gpu": []})
    names = list[str]()

    async def dispatch(run: FlowRun) -> None:
        names.append(run.name)

    queue = RunQueue(cast(Any, pool), "pool", ["light", "label-gpu"], dispatch)
    await queue.fetch()
    del pool._queues["label-gpu"]
    with pytest.raises(ObjectNotFound):
        await queue.fetch()
    await queue.fetch()
    assert pool.polled[-2:] == [["light", "label-gpu"], ["light"]]
    # It never polls all queues instead of its own.
    pool._queues["medium"] = pool._queues.pop("light")
    for _ in range(2):
        with pytest.raises(ObjectNotFound):
            await queue.fetch()
    assert pool.polled[-1] == ["light", "label-gpu"]


@pytest.mark.parametrize("is_held", [True, False])
async def test_a_late_run_that_is_held_does_not_make_each_poll_read_twice(is_held: bool) -> None:
    late, goes_on = scheduled("late", OLD + timedelta(minutes=1)), asyncio.Event()

    async def dispatch(_: FlowRun) -> None:
        await goes_on.wait()

    pool = Pool(light=[late])
    queue = RunQueue(cast(Any, pool), "pool", [], dispatch)
    if is_held:
        queue.hand_out_now(late)
    await queue.fetch()
    assert len(pool.asked) == (1 if is_held else 2)
    goes_on.set()
    await queue.wait_until_dispatched()


async def test_runs_on_time_come_before_more_late_ones_than_prefect_lists_at_once() -> None:
    late = [scheduled("late", OLD + timedelta(minutes=n)) for n in range(PAGE_SIZE + 10)]
    now = SYSTEM_CLOCK.now()
    on_time = [scheduled(str(n), now - timedelta(seconds=30 - n)) for n in range(3)]
    names = await handed_out(Pool(light=late + on_time))
    assert names == ["0", "1", "2", *["late"] * PAGE_SIZE]


@pytest.mark.parametrize(
    ("largest_page", "of_instant", "all_started"),
    [
        (LARGE_PAGE_SIZE, PAGE_SIZE, True),
        (LARGE_PAGE_SIZE, LARGE_PAGE_SIZE, True),
        (PAGE_SIZE, PAGE_SIZE, True),
        (PAGE_SIZE, PAGE_SIZE + 1, False),  # Prefect lists no other runs of the instant
    ],
)
async def test_runs_behind_a_page_of_runs_that_are_being_dispatched_are_read(
    largest_page: int, of_instant: int, all_started: bool
) -> None:
    old = SYSTEM_CLOCK.now() - timedelta(minutes=5)
    listed = [scheduled("listed", old, work_queue_name="light") for _ in range(of_instant)]
    pool = Pool(light=[*listed, scheduled("behind", old + timedelta(seconds=1))])
    pool.largest_page = largest_page
    started, go_on = list[str](), asyncio.Event()

    async def dispatch(run: FlowRun) -> None:
        started.append(run.name)
        await go_on.wait()

    queue = RunQueue(cast(Any, pool), "pool", [], dispatch)
    handing_out = asyncio.create_task(queue.hand_out())
    for count in (PAGE_SIZE, of_instant, of_instant + 1) if all_started else (PAGE_SIZE,):
        await queue.fetch()
        while len(started) < count:
            await checkpoint()
    await queue.fetch()
    for _ in range(5):
        await checkpoint()
    assert started.count("listed") == (of_instant if all_started else PAGE_SIZE)
    assert started.count("behind") == 1
    assert queue.max_held == 0.8 * largest_page
    handing_out.cancel()
    go_on.set()
    await queue.wait_until_dispatched()


@pytest.mark.parametrize(
    ("limits", "max_held"), [({}, 160), ({"pool": 3}, 0), ({"queue": 3}, 0), ({"fails": 1}, 0)]
)
async def test_a_worker_holds_no_runs_if_prefect_limits_those_that_it_lists(
    limits: dict[str, int], max_held: int
) -> None:
    pool = Pool(light=[scheduled("light", SYSTEM_CLOCK.now())])
    pool.limits = limits
    queue = RunQueue(cast(Any, pool), "pool", [], NOT_DISPATCHED)
    assert queue.max_held == 0  # it does not know yet
    queue._dispatching = {uuid4(): NOT_DISPATCHED}
    await queue.fetch()
    assert queue.max_held == max_held
    assert [run.name for _, run in queue._upcoming.values()] == ["light"]


@pytest.mark.parametrize("others", [1, PAGE_SIZE])
async def test_runs_that_are_being_dispatched_hide_no_earlier_ones_of_another_queue(
    others: int,
) -> None:
    held = [scheduled("held", PAST, work_queue_name="light") for _ in range(150)]
    later = PAST + timedelta(seconds=10)
    next_ones = [scheduled("next", later, work_queue_name="light") for _ in range(100)]
    between = PAST + timedelta(seconds=5)
    medium = [scheduled("medium", between, work_queue_name="medium") for _ in range(others)]
    pool = Pool(light=[*held, *next_ones], medium=medium)
    queue = RunQueue(cast(Any, pool), "pool", [], NOT_DISPATCHED)
    queue._dispatching = {run.id: NOT_DISPATCHED for run in held}
    await queue.fetch()
    names = [run.name for _, run in queue._upcoming.values()]
    assert (names.count("next"), names.count("medium")) == (100, others)


async def test_a_short_page_is_the_last_one() -> None:
    pool = Pool(light=[scheduled("held", PAST, work_queue_name="light") for _ in range(300)])
    queue = RunQueue(cast(Any, pool), "pool", [], NOT_DISPATCHED)
    queue._dispatching = {run.id: NOT_DISPATCHED for run in pool._queues["light"]}
    await queue.fetch()
    assert pool.asked == [PAGE_SIZE, PAGE_SIZE, LARGE_PAGE_SIZE]  # of all queues, and of one


def test_a_run_is_late_only_if_it_may_be_missed() -> None:
    now = SYSTEM_CLOCK.now()
    assert claim_order(scheduled("", OLD), now) == (True, OLD)
    assert claim_order(scheduled("", OLD, state=Scheduled(name="Late")), now) == (True, OLD)

    almost = now - LATE_AFTER
    assert claim_order(scheduled("", almost), now) == (False, almost)
    assert claim_order(scheduled("", OLD, auto_scheduled=False), now) == (False, OLD)  # by hand
    assert claim_order(scheduled("", OLD, run_count=1), now) == (False, OLD)  # a retry
    assert claim_order(scheduled("", OLD, parameters={}), now) == (False, OLD)  # of no job
    waits = waiting_state(now, "for a slot")
    assert claim_order(scheduled("", OLD, state=waits), now) == (False, OLD)


def test_a_run_is_late_only_after_its_stagger_and_its_catch_up() -> None:
    def is_late(minutes: float, **policy: str) -> bool:
        run = scheduled("", OLD, parameters={"policy": policy})
        return claim_order(run, OLD + timedelta(minutes=minutes))[0]

    assert (is_late(20, stagger="10m"), is_late(20.1, stagger="10m")) == (False, True)
    assert (is_late(1440, catch_up="all"), is_late(1441, catch_up="all")) == (False, True)


def test_a_run_may_be_missed_after_the_time_in_which_it_is_on_time() -> None:
    def is_missed(seconds: float, **policy: str) -> bool:
        run = scheduled("", OLD, parameters={"policy": policy})
        return may_be_missed(run, OLD + timedelta(seconds=seconds))

    assert (is_missed(60), is_missed(60.1)) == (False, True)
    assert (is_missed(360, stagger="5m"), is_missed(361, stagger="5m")) == (False, True)
    assert not is_missed(500, catch_up="all")
    by_hand = scheduled("", OLD, auto_scheduled=False)
    assert not may_be_missed(by_hand, OLD + timedelta(days=1))


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 20),
        ({"parameters": {"policy": {"catch_up": "none"}}}, 10),  # it is missed after 60 s
        ({"auto_scheduled": False}, 10),  # a user waits for it
        ({"parameters": {"policy": {"overlap": "cancel_running"}}}, 0),
        ({"parameters": {}}, 0),  # of no job
        ({"state": Scheduled(name="Late")}, 20),
        ({"state": waiting_state(OLD, "for a slot")}, 0),
        ({"run_count": 1}, 0),
        ({"start_time": OLD}, 0),  # Prefect also sets it for a run that ended without a start
    ],
)
def test_a_due_run_is_parked_only_for_some_time(changes: dict[str, Any], seconds: int) -> None:
    run = scheduled("", OLD, **changes)
    for age in (0, 5) if seconds else (0,):
        now = OLD + timedelta(seconds=age)
        assert may_park(run, now) == timedelta(seconds=max(seconds - age, 0))


async def test_a_run_is_late_by_the_clock_of_the_ledger() -> None:
    now = SYSTEM_CLOCK.now() - timedelta(hours=1)  # this machine's clock is an hour ahead
    late = scheduled("late", now - LATE_AFTER - timedelta(seconds=1))
    on_time = scheduled("on time", now - LATE_AFTER + timedelta(seconds=1))
    pool = Pool(light=[late, on_time])
    assert await handed_out(pool, clock=ManualClock(now)) == ["on time", "late"]


async def test_the_priority_orders_only_runs_of_the_same_due_time() -> None:
    earlier = PAST - timedelta(seconds=1)
    pool = Pool(
        light=[scheduled("light", PAST)],
        medium=[scheduled("medium", PAST)],
        heavy=[scheduled("heavy, earlier", earlier), scheduled("heavy", PAST)],
    )
    assert await handed_out(pool) == ["heavy, earlier", "light", "medium", "heavy"]
    assert pool.polled == [[]]


class Polled:
    """Prefect client that lists one due run; it answers a poll when the test says so."""

    def __init__(self, run: FlowRun) -> None:
        self.asked, self.answers = asyncio.Event(), asyncio.Event()
        self._run = run

    async def request(self, *_: Any, **__: Any) -> httpx.Response:
        self.asked.set()
        await self.answers.wait()
        return _listed([self._run])


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

    queue = RunQueue(cast(Any, None), "pool", [], take)
    run = FlowRun(id=uuid4(), flow_id=uuid4())
    queue.hand_out_now(run)
    for _ in range(2):
        queue.hand_out_now(run)
    released.set()
    await queue.wait_until_dispatched()

    assert taken == [run.id] * 2


async def test_polls_are_rare_only_while_no_run_is_due_before_the_next_one() -> None:
    now = SYSTEM_CLOCK.now()

    async def pauses(*runs: FlowRun) -> list[float]:
        queue = RunQueue(cast(Any, Pool(light=list(runs))), "pool", [], cast(Any, None))
        await queue.fetch()
        return [queue.pause_after(wait) for wait in (2.0, 4.0, 8.0, 10.0)]

    assert await pauses() == [4.0, 8.0, 10.0, 10.0]
    # A run that is fetched at the end of the longest pause still starts at its time.
    assert await pauses(scheduled("later", now + timedelta(seconds=18))) == [4.0, 8.0, 10.0, 10.0]
    later, soon = (scheduled("one", now + timedelta(seconds=each)) for each in (18, 9))
    assert await pauses(later, soon) == [2.0] * 4
    assert await pauses(scheduled("late", PAST)) == [2.0] * 4


async def test_polling_goes_on_after_an_answer_that_is_no_json() -> None:
    """A proxy in front of Prefect may answer with a page."""
    answered = asyncio.Event()

    class Behind(Pool):
        async def request(self, *given: Any, **named: Any) -> httpx.Response:
            if not self.polled:
                self.polled.append([])
                queue.poll_soon()
                raise json.JSONDecodeError("Expecting value", "<html>", 0)
            answered.set()
            return await super().request(*given, **named)

    queue = RunQueue(cast(Any, Behind(light=[])), "pool", [], cast(Any, None))
    polling = asyncio.create_task(queue.poll())
    queue.poll_soon()
    async with asyncio.timeout(30):
        await asyncio.wait(
            {polling, asyncio.create_task(answered.wait())}, return_when="FIRST_COMPLETED"
        )
    assert not polling.done()
    polling.cancel()
    with suppress(asyncio.CancelledError):
        await polling


async def test_a_poll_that_takes_long_is_given_up_and_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After an outage, Prefect's client may sleep for half a minute before it tries again."""
    monkeypatch.setattr(run_queue, "POLL_TIMEOUT_SECONDS", 0.01)
    answered = asyncio.Event()

    class Hanging(Pool):
        async def request(self, *given: Any, **named: Any) -> httpx.Response:
            if not self.polled:
                self.polled.append([])
                queue.poll_soon()
                await asyncio.Event().wait()
            answered.set()
            return await super().request(*given, **named)

    queue = RunQueue(cast(Any, Hanging(light=[])), "pool", [], cast(Any, None))
    polling = asyncio.create_task(queue.poll())
    queue.poll_soon()
    async with asyncio.timeout(30):
        await answered.wait()
    polling.cancel()
    with suppress(asyncio.CancelledError):
        await polling
