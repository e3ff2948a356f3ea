"""Lease renewal for the runs of a worker, and the limit of its memory."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from anyio.lowlevel import checkpoint
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled, Running

from daybook.errors import LedgerNewer, LedgerUnreachable
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.prefect import ended_runs
from daybook.processes.ending import cancel_all
from daybook.runs import leases
from daybook.worker import worker_loop
from daybook.worker.supervision import StopCause, SupervisedRun
from daybook.worker.worker_loop import WorkerConfig, WorkerLoop
from tests.timings import change
from tests.waiting import becomes_true

pytestmark = pytest.mark.anyio


class Run:
    """Supervised run; ``looks`` counts the reads of ``is_in_ledger``."""

    def __init__(self, run_id: str = "r", on_lost: str = "rerun") -> None:
        self.run_id = run_id
        self.policy = SimpleNamespace(on_lost=on_lost)
        self.looks = 0
        self.statuses = list[Status | None]()
        self.stopped = list[object]()
        self.flow_run_id = ""

    @property
    def is_in_ledger(self) -> bool:
        self.looks += 1
        return True

    def stop(self, cause: object) -> None:
        self.stopped.append(cause)

    def renewed(self, status: Status | None) -> None:
        self.statuses.append(status)


@pytest.fixture
async def at_work(tmp_path: Path) -> AsyncIterator[WorkerLoop]:
    unused = cast(Any, SimpleNamespace())
    config = WorkerConfig("here", "pool", None, [], None, 1, 1.0)
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger:
        yield WorkerLoop(ledger, unused, unused, config, sync=unused, configure=unused)


@asynccontextmanager
async def renewing(at_work: WorkerLoop) -> AsyncIterator[None]:
    task = asyncio.create_task(at_work._renew())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until(true: Callable[[], object]) -> None:
    async def is_true() -> object:
        return true()

    assert await becomes_true(is_true, 30.0)


async def test_the_record_of_a_worker_has_the_name_that_its_runs_show(at_work: WorkerLoop) -> None:
    config = replace(at_work._config, name="a worker")
    unused = cast(Any, None)
    loop = WorkerLoop(at_work._ledger, unused, unused, config, sync=unused, configure=unused)
    assert loop._own_record().name == loop._holder.split(":")[3] == "a_worker"


async def test_the_first_run_after_an_idle_hour_is_not_declared_lost(
    at_work: WorkerLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, worker_loop, lease_check=0.01)
    run = Run()
    idle_since = at_work._renewed = at_work._renewed - 3600.0
    async with renewing(at_work):
        await until(lambda: at_work._renewed > idle_since)
        at_work._watched["f"] = cast(SupervisedRun, run)
        await until(lambda: run.looks >= 2)
    assert run.stopped == []


@pytest.mark.parametrize(("since", "stopped"), [(55.0, []), (60.0, [StopCause.LOST])])
async def test_a_late_worker_renews_leases_and_stops_reruns_only_if_these_may_have_expired(
    at_work: WorkerLoop, monkeypatch: pytest.MonkeyPatch, since: float, stopped: list[StopCause]
) -> None:
    change(monkeypatch, worker_loop, lease_check=0.01)
    run = Run()

    async def renew_all(*args: object) -> dict[str, Status | None]:
        return {"f": Status.RUNNING}

    monkeypatch.setattr(leases, "renew_all", renew_all)
    at_work._watched["f"] = cast(SupervisedRun, run)
    at_work._renewed -= since  # the lease lasts 60 s, and such a run is stopped after 45 s
    async with renewing(at_work):
        await until(lambda: run.statuses)
    assert run.statuses == [Status.RUNNING]
    assert run.stopped == stopped


@pytest.mark.parametrize("is_hanging", [False, True])
@pytest.mark.parametrize(("on_lost", "stopped"), [("rerun", StopCause.LOST), ("unknown", None)])
async def test_only_a_run_with_on_lost_rerun_is_stopped_if_its_lease_cannot_be_renewed(
    at_work: WorkerLoop,
    monkeypatch: pytest.MonkeyPatch,
    on_lost: str,
    stopped: StopCause | None,
    is_hanging: bool,
) -> None:
    change(monkeypatch, worker_loop, lease_check=0.01)
    watched = {name: Run(name, policy) for name, policy in (("a", on_lost), ("b", "rerun"))}
    tried = list[float]()

    async def renew_all(*args: object) -> dict[str, Status | None]:
        tried.append(time.monotonic() - at_work._renewed)
        if is_hanging:
            await asyncio.Event().wait()
        raise LedgerUnreachable("here", "locked")

    monkeypatch.setattr(leases, "renew_all", renew_all)
    at_work._watched |= cast(Any, watched)
    at_work._renewed -= 44.5
    async with renewing(at_work):
        await until(lambda: watched["b"].stopped)
    assert tried[0] < 45.0
    assert set(watched["b"].stopped) == {StopCause.LOST}
    assert set(watched["a"].stopped) == ({stopped} if stopped else set())


async def test_a_worker_that_waits_for_its_runs_to_end_renews_their_leases(
    at_work: WorkerLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, worker_loop, lease_check=0.01)
    flow_run_id, run, renewed = str(uuid4()), Run(on_lost="unknown"), asyncio.Event()

    async def renew_all(*args: object) -> dict[str, Status | None]:
        renewed.set()
        return {flow_run_id: Status.RUNNING}

    async def ends_after_its_renewal() -> None:
        await renewed.wait()
        del at_work._watched[flow_run_id]
        at_work._exits.clear()

    async def read_flow_runs(**_: object) -> list[object]:
        return []

    monkeypatch.setattr(leases, "renew_all", renew_all)
    at_work._client = cast(Any, SimpleNamespace(read_flow_runs=read_flow_runs))
    at_work._watched[flow_run_id] = cast(SupervisedRun, run)
    at_work._renewed -= 30.0
    async with asyncio.timeout(20):
        at_work._exits.add(asyncio.create_task(ends_after_its_renewal()))
        await at_work.shutdown()
    assert (run.stopped, run.statuses) == ([], [Status.RUNNING])


@pytest.mark.parametrize("being_started", [False, True])
@pytest.mark.parametrize(("now", "stopped"), [(Running(), []), (Cancelled(), [StopCause.CANCEL])])
async def test_the_event_of_a_cancellation_before_a_retry_does_not_stop_the_retry(
    at_work: WorkerLoop,
    monkeypatch: pytest.MonkeyPatch,
    being_started: bool,
    now: State,
    stopped: list[StopCause],
) -> None:
    flow_run_id, run, polls = str(uuid4()), Run(), list[int]()

    async def read_flow_runs(*, flow_run_filter: FlowRunFilter, **_: object) -> list[object]:
        assert flow_run_filter.state is not None
        assert flow_run_filter.state.type is not None
        is_match = now.type in (flow_run_filter.state.type.any_ or ())
        return [SimpleNamespace(id=flow_run_id, state=now)] if is_match else []

    async def stop_cancelled() -> None:
        await look()
        polls.append(len(at_work._watched))

    async def supervise(_: object) -> None:
        await asyncio.Event().wait()

    async def record_end(*_: object) -> None: ...

    look = at_work._stop_cancelled
    monkeypatch.setattr(at_work, "_stop_cancelled", stop_cancelled)
    monkeypatch.setattr(at_work, "_supervise", supervise)
    monkeypatch.setattr(ended_runs, "record_end", record_end)
    at_work._client = cast(Any, SimpleNamespace(read_flow_runs=read_flow_runs))
    polling = asyncio.create_task(at_work._poll_cancellations())
    await until(lambda: polls)  # it had no run yet, and waits for its interval
    if being_started:
        at_work._dispatching[flow_run_id] = False
        await at_work._on_event(flow_run_id, "Cancelling")
        run.flow_run_id = flow_run_id
        at_work._watch(cast(SupervisedRun, run))
    else:
        at_work._watched[flow_run_id] = cast(SupervisedRun, run)
        await at_work._on_event(flow_run_id, "Cancelling")
    await until(lambda: polls == [0, 1])
    assert run.stopped == stopped
    tasks = {polling, *at_work._exits}
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.mark.parametrize(
    ("cause", "level"), [(StopCause.CANCEL, logging.INFO), (StopCause.TIMEOUT, logging.ERROR)]
)
def test_only_an_end_that_no_person_asked_for_is_logged_as_an_error(
    monkeypatch: pytest.MonkeyPatch, cause: StopCause, level: int
) -> None:
    logged = list[int]()
    logger = SimpleNamespace(log=lambda level, *_: logged.append(level))
    monkeypatch.setattr(worker_loop, "flow_run_logger", lambda _: logger)
    ended = SimpleNamespace(exit_code=-15, cause=cause, flow_run=None, tail=lambda: "the output")
    WorkerLoop._log_tail(cast(Any, None), cast(SupervisedRun, ended))
    assert logged == [level]


async def test_a_worker_that_uses_too_much_memory_stops_when_no_run_is_active(
    at_work: WorkerLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_loop, "MEMORY_CHECK_INTERVAL_SECONDS", 0.01)
    stopped = asyncio.Event()
    monkeypatch.setattr(os, "kill", lambda pid, number: stopped.set())
    at_work._config = replace(at_work._config, max_memory=1)
    ends = asyncio.Event()
    run = asyncio.create_task(ends.wait())
    at_work._exits.add(cast(Any, run))
    run.add_done_callback(cast(Any, at_work._exits.discard))
    limiting = asyncio.create_task(at_work._limit_memory())
    try:
        await until(lambda: not at_work._has_room())  # no further run starts
        assert not stopped.is_set()
        ends.set()
        async with asyncio.timeout(30):
            await stopped.wait()
        assert at_work.used_too_much_memory
    finally:
        limiting.cancel()
        await asyncio.wait({limiting})


async def test_a_worker_that_uses_too_much_memory_starts_runs_again_if_one_does_not_end(
    at_work: WorkerLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_loop, "MEMORY_CHECK_INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(worker_loop, "DRAIN_SECONDS", 0.01)
    filled = asyncio.Event()

    async def fill_slot() -> None:
        filled.set()

    monkeypatch.setattr(at_work, "_fill_slot", fill_slot)
    at_work._config = replace(at_work._config, max_memory=1)
    endless = asyncio.create_task(asyncio.Event().wait())
    at_work._exits.add(cast(Any, endless))
    limiting = asyncio.create_task(at_work._limit_memory())
    try:
        async with asyncio.timeout(30):
            await filled.wait()
        assert at_work._has_room()
    finally:
        for task in (limiting, endless):
            task.cancel()
        await asyncio.wait({limiting, endless})


async def test_a_run_that_is_handed_out_keeps_its_room_only_until_its_dispatch_has_ended(
    at_work: WorkerLoop,
) -> None:
    at_work._config = replace(at_work._config, limit=1)
    run = cast(Any, SimpleNamespace(id=uuid4()))
    at_work._dispatcher.handed_out.add(run.id)
    assert not at_work._has_room()
    assert at_work._has_room(run.id)
    at_work._draining = True
    assert not at_work._has_room(run.id)
    at_work._draining = False

    at_work.run_queue._dispatch_again[run.id] = run  # its wait is being shown in Prefect
    at_work._stopping = True
    await at_work._dispatch(run)
    assert at_work._dispatcher.handed_out == {run.id}

    del at_work.run_queue._dispatch_again[run.id]
    await at_work._dispatch(run)
    assert not at_work._has_room()  # it stops
    at_work._stopping = False
    assert at_work._has_room()


async def test_the_upkeep_ends_with_the_calls_in_the_background(at_work: WorkerLoop) -> None:
    filling = asyncio.create_task(asyncio.Event().wait())
    at_work._free_slots.tasks.add(cast(Any, filling))
    async with at_work._keep_up():
        await checkpoint()
    assert filling.cancelled()


async def test_a_run_that_is_handed_out_and_does_not_start_leaves_its_room_to_the_next(
    at_work: WorkerLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = list[str]()
    monkeypatch.setattr(at_work._free_slots, "fill_soon", lambda: filled.append("filled"))
    run = cast(Any, SimpleNamespace(id=uuid4()))

    async def dispatch_once(_: object) -> None:
        """Claim, and do not get the run."""

    monkeypatch.setattr(at_work, "_dispatch_once", dispatch_once)
    await at_work._dispatch(run)
    assert filled == []  # it took no room
    at_work._dispatcher.handed_out.add(run.id)
    await at_work._dispatch(run)
    assert filled == ["filled"]
    at_work._dispatcher.handed_out.add(run.id)
    at_work._watched[str(run.id)] = cast(Any, run)
    await at_work._dispatch(run)
    assert filled == ["filled"]


async def test_the_end_of_a_run_fills_its_slot_before_its_process_ends_if_there_is_room(
    at_work: WorkerLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = list[str]()
    monkeypatch.setattr(at_work._free_slots, "fill_soon", lambda: filled.append("filled"))
    reported = asyncio.Event()

    async def facts() -> AsyncIterator[dict[str, Any]]:
        for fact in ({"running": 1}, {"waiting": None}, {"ended": "succeeded"}):
            yield fact
        reported.set()

    async def never_ends() -> int:
        await asyncio.Event().wait()
        return 0

    process = SimpleNamespace(facts=facts, ended=never_ends, output=tmp_path / "output")
    watched = SupervisedRun(cast(Any, SimpleNamespace(id=uuid4())), cast(Any, process))
    at_work._watch(watched)
    async with asyncio.timeout(30):
        await reported.wait()
    assert filled == ["filled", "filled"]  # the run waited, and then it ended
    at_work._config = replace(at_work._config, limit=1)
    watched.on_release()
    assert filled == ["filled", "filled"]  # its own process has the only room
    await cancel_all(*at_work._exits)


async def test_a_worker_holds_runs_while_it_works_and_remembers_those_of_its_labels(
    at_work: WorkerLoop,
) -> None:
    dispatcher, run = at_work._dispatcher, FlowRun(id=uuid4(), flow_id=uuid4())
    at_work.run_queue._is_limited = False
    assert dispatcher.max_held() == 0
    at_work._running = True
    assert dispatcher.max_held() == at_work.run_queue.max_held > 0
    assert dispatcher.may_hold()
    at_work._draining = True
    assert (dispatcher.max_held(), dispatcher.may_hold()) == (0, False)
    assert dispatcher._fits(run)
    at_work._membership.is_draining = True
    assert not dispatcher._fits(run)
    at_work._membership.is_draining = False
    run.parameters = {"policy": {"worker_label": "gpu"}}
    assert not dispatcher._fits(run)


@pytest.mark.parametrize(
    ("state", "is_held", "is_remembered"),
    [
        ("Late", True, True),
        ("AwaitingConcurrencySlot", False, True),
        ("Pending", False, False),  # another worker starts it
        ("Cancelled", False, False),
    ],
)
async def test_a_run_that_somebody_changes_in_prefect_is_held_no_longer(
    at_work: WorkerLoop,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    is_held: bool,
    is_remembered: bool,
) -> None:
    async def record_end(*_: object) -> None: ...

    monkeypatch.setattr(ended_runs, "record_end", record_end)
    remembered, run = at_work._dispatcher.remembered, FlowRun(id=uuid4(), flow_id=uuid4())
    remembered.add(run, 0)
    held = asyncio.create_task(remembered.hold(str(run.id), 3600))
    await checkpoint()
    await at_work._on_event(str(run.id), state)
    assert (bool(remembered.all_held), bool(remembered.ids)) == (is_held, is_remembered)
    held.cancel()
    await asyncio.wait({held})


async def test_a_parked_run_may_get_the_slot_of_an_active_one_that_waits_or_has_ended(
    at_work: WorkerLoop,
) -> None:
    """The worker may have two runs; all runs of the ledger together may use one slot."""
    at_work._config = replace(at_work._config, limit=2)
    at_work._running = True
    answers = list[bool]()

    async def facts() -> AsyncIterator[dict[str, Any]]:
        for fact in ({"running": 1}, {"waiting": None}, {"claimed": 2}, {"ended": "succeeded"}):
            yield fact
            answers.append(at_work._dispatcher.may_get_slot())

    flow_run = cast(Any, SimpleNamespace(id=uuid4()))
    watched = SupervisedRun(flow_run, cast(Any, SimpleNamespace(facts=facts)), "r")
    at_work._watched[watched.flow_run_id] = watched
    await watched._read_facts()
    assert answers == [False, True, False, True]


async def test_an_outdated_worker_claims_no_run_while_its_active_runs_end(
    at_work: WorkerLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def until_newer() -> None:
        raise LedgerNewer("29991231_0001", "1")

    monkeypatch.setattr(at_work._ledger, "until_newer", until_newer)
    monkeypatch.setattr(at_work, "_membership", None)  # no claim gets so far
    ends = asyncio.Event()
    run = asyncio.create_task(ends.wait())
    at_work._exits.add(cast(Any, run))
    run.add_done_callback(cast(Any, at_work._exits.discard))
    ending = asyncio.create_task(at_work._end_if_outdated())
    await until(lambda: at_work._stopping)
    await at_work._dispatch(cast(Any, SimpleNamespace(id=uuid4())))
    assert not ending.done()

    ends.set()
    with pytest.raises(LedgerNewer):
        await ending


async def test_the_error_of_an_outdated_worker_is_raised_from_nested_groups(
    at_work: WorkerLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hand_out() -> None:
        raise ExceptionGroup("outer", [ExceptionGroup("inner", [LedgerNewer("2", "1")])])

    monkeypatch.setattr(at_work.run_queue, "hand_out", hand_out)
    with pytest.raises(LedgerNewer):
        await at_work.run_until_cancelled()
