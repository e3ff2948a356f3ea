"""Waiting runs: a worker sets them back in Prefect once and remembers them until they wake."""

from __future__ import annotations

import asyncio
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from anyio.lowlevel import checkpoint
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Abort
from prefect.states import Cancelled
from sqlmodel import select

from daybook import home
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import LedgerUnreachable
from daybook.execution import claim
from daybook.execution.claim_effects import Effect, Suspend, WakeEarlier
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.prefect import occurrence, unmirrored
from daybook.prefect import states as prefect_states
from daybook.runs import claims, outcomes, rows, slots, waiting_runs, workers
from daybook.runs.claim_requests import ClaimRequest, Granted, Waiting
from daybook.worker import dispatcher, run_queue
from daybook.worker.remembered_runs import HoldEnd
from daybook.worker.run_queue import RunQueue
from tests.unit.worker.one_job import DEPLOYMENT, OneJob, one_job

pytestmark = pytest.mark.anyio


async def test_a_waiting_run_is_set_back_and_remembered_until_another_worker_claims_it(
    tmp_path: Path,
) -> None:
    async with one_job(tmp_path) as there:
        assert await there.taker.dispatch(there.run)

        row = await there.row()
        assert (row.status, row.waits_for) == ("waiting", "slot")
        assert there.prefect.requests == ["set AwaitingConcurrencySlot"]
        assert there.taker.remembered.of(row) is there.run
        # Another worker claimed it in between, so the remembered run is out of date.
        row.fence += 2
        assert there.taker.remembered.of(row) is None


async def test_a_run_that_is_handed_out_needs_no_room_beside_its_own(tmp_path: Path) -> None:
    async with one_job(tmp_path, most=2) as there:
        during = list[set[UUID]]()

        def free(run_id: UUID) -> bool:
            during.append(set(there.taker.handed_out))
            return there.taker.handed_out <= {run_id}

        there.taker._free = free
        there.taker.handed_out.add(there.run.id)
        assert await there.taker.dispatch(there.run)

        assert during == [{there.run.id}]  # meanwhile no other run gets its room
        assert len(there.starts.tasks) == 1
        assert there.taker.handed_out == set()


async def test_a_run_that_is_handed_out_is_woken_once_and_waits_while_a_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with one_job(tmp_path) as there:
        assert await there.taker.dispatch(there.run)
        there.prefect.requests.clear()
        row = await there.row()
        assert there.taker.remembered.of(row) is there.run
        there.taker.hand_out(there.run)
        monkeypatch.setattr(home, "full_disk", lambda _: "the disk of /data is full")
        assert await there.taker.dispatch(there.run)

        assert there.prefect.requests == ["set AwaitingConcurrencySlot"]
        assert there.taker.handed_out == set()
        assert there.taker.remembered.of(row) is None


async def test_a_run_that_is_woken_while_its_wait_is_shown_is_not_set_back(tmp_path: Path) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        for _ in range(4):  # as many as may be set back at the same time
            await there.taker.updates._rescheduling.acquire()
        taking = asyncio.create_task(there.taker.dispatch(there.run))
        while not there.taker.remembered.ids:
            await checkpoint()
        there.taker.handed_out.add(there.run.id)
        there.taker.updates._rescheduling.release()
        assert await taking

        assert there.prefect.requests == []


async def test_a_run_that_is_woken_before_it_is_set_back_is_not_set_back(tmp_path: Path) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        for _ in range(4):  # as many as may be set back at the same time
            await there.taker.updates._rescheduling.acquire()
        taking = asyncio.create_task(there.taker.dispatch(there.run))
        while not there.taker.remembered.ids:
            await checkpoint()
        await claims.postpone(
            there.ledger,
            there.held.run_id,
            there.held.fence,
            SYSTEM_CLOCK.now(),
            "its slot is free",
        )
        async with there.ledger.write() as session:
            (called,) = await slots.wake_next(session, there.ledger.now(), 1, {})
        assert there.taker.remembered.of(called) is there.run
        there.taker.updates._rescheduling.release()
        assert await taking

        assert there.prefect.requests == []


@pytest.mark.parametrize("fits", [True, False])
async def test_a_worker_remembers_only_waiting_runs_that_it_may_start(
    tmp_path: Path, fits: bool
) -> None:
    async with one_job(tmp_path) as there:
        there.taker._fits = lambda run: fits and run.id == there.run.id
        assert await there.taker.dispatch(there.run)
        assert list(there.taker.remembered.ids) == [str(there.run.id)] * fits


async def _all_blocked() -> None:
    """Let all tasks run until they block."""
    for _ in range(50):
        await checkpoint()


async def _parked(there: OneJob) -> asyncio.Task[bool]:
    """Return the dispatch of the run, which does not claim while another run starts."""
    there.taker.may_get_slot = lambda: False
    there.taker.starting += 1
    taking = asyncio.create_task(there.taker.dispatch(there.run))
    while not there.taker._claim_lock.parked:
        assert not taking.done()
        await checkpoint()
    return taking


async def _rows_of(there: OneJob) -> int:
    async with there.ledger.read() as session:
        of_run = select(RunRow).where(RunRow.flow_run_id == str(there.run.id))
        return len((await session.execute(of_run)).all())


async def test_a_run_that_could_not_start_claims_when_a_slot_is_free(tmp_path: Path) -> None:
    async with one_job(tmp_path, most=2) as there, asyncio.timeout(60):
        taking = await _parked(there)
        there.taker.unpark()  # without a free slot
        there.taker.may_get_slot = lambda: True
        await _all_blocked()
        assert (await _rows_of(there), there.prefect.requests) == (0, [])
        there.taker.unpark()
        assert await taking
        assert len(there.starts.tasks) == 1


async def test_a_parked_run_claims_when_no_other_run_starts_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has to wait with its reason while long runs have all slots."""
    monkeypatch.setattr(dispatcher, "START_PAUSE_SECONDS", 0.0)
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        taking = await _parked(there)
        there.taker.start_ended()
        assert await taking
        assert (await there.row()).waits_for == "slot"
        assert there.prefect.requests == ["set AwaitingConcurrencySlot"]


async def test_a_parked_run_claims_at_last_although_others_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it might be missed, because nothing has claimed it a minute after its due time."""
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        age = there.ledger.now() - cast(datetime, there.run.expected_start_time)
        monkeypatch.setattr(run_queue, "MAX_PARKED_BRIEFLY", age + timedelta(seconds=1))
        taking = await _parked(there)
        while not there.taker.remembered.ids:
            await checkpoint()
        assert (await there.row()).waits_for == "slot"
        there.taker.end_parking()
        await taking


async def test_a_worker_that_stops_parks_no_run(tmp_path: Path) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        taking = await _parked(there)
        there.taker.end_parking()
        assert await taking
        assert there.prefect.requests == ["set AwaitingConcurrencySlot"]


async def _held(there: OneJob) -> asyncio.Task[bool]:
    """Return the dispatch of the run, which has claimed in vain while another run starts."""
    there.taker.max_held = lambda: 1
    there.taker.starting += 1
    taking = asyncio.create_task(there.taker.dispatch(there.run))
    while not there.taker.remembered.all_held:
        assert not taking.done()
        await checkpoint()
    return taking


@pytest.fixture
def unparked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs claim at once, although other runs start."""
    monkeypatch.setattr(run_queue, "MAX_PARKED_BRIEFLY", timedelta(0))


@pytest.mark.usefixtures("unparked")
async def test_a_run_that_waits_while_others_start_is_not_rescheduled_before_it_is_woken(
    tmp_path: Path,
) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        taking = await _held(there)
        row = await there.row()
        assert (row.status, row.waits_for) == ("waiting", "slot")
        assert there.taker.remembered.of(row) is there.run
        there.taker.hand_out(there.run)
        assert await taking
        assert there.prefect.requests == []


@pytest.mark.usefixtures("unparked")
async def test_a_held_run_that_is_woken_claims_and_starts(tmp_path: Path) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):

        async def dispatch(run: FlowRun) -> None:
            await there.taker.dispatch(run)

        queue = RunQueue(cast(Any, there.prefect), "pool", [], dispatch)
        there.taker.max_held = lambda: 1
        there.taker.starting += 1
        queue.hand_out_now(there.run)
        while not there.taker.remembered.all_held:
            await checkpoint()
        await claims.postpone(
            there.ledger, there.held.run_id, there.held.fence, SYSTEM_CLOCK.now(), "it waits too"
        )
        there.taker.hand_out(there.run)
        queue.hand_out_now(there.run)
        await queue.wait_until_dispatched()
        assert (await there.row()).status == "claimed"
        assert len(there.starts.tasks) == 1


async def _claimed_in_vain_elsewhere(there: OneJob, **changes: Any) -> Waiting:
    """Let another worker claim the run, which waits for a slot then, and change its row."""
    other = await occurrence.build_claim_request(
        there.ledger, there.run, there.run.parameters, holder="other:1", starts=1, most=1
    )
    waiting = await claims.claim(there.ledger, other)
    assert isinstance(waiting, Waiting)
    async with there.ledger.write() as session:
        found = await rows.get(session, str(waiting.run_id))
        for name, value in changes.items():
            setattr(found, name, value)
    return waiting


@pytest.fixture
def claimed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which each claim of the worker adds its run, and let all claims wait."""
    found = list[str]()
    monkeypatch.setattr(dispatcher, "KNOWN_AFTER", timedelta(0))

    async def decide(ledger: Ledger, request: ClaimRequest, *_: Any, **__: Any) -> list[Effect]:
        found.append(str(request.flow_run_id))
        until = ledger.now() + timedelta(minutes=1)
        return [Suspend(Waiting(until, "full", "r", for_slot=True))]

    monkeypatch.setattr(claim, "decide", decide)
    return found


@pytest.mark.usefixtures("unparked")
@pytest.mark.parametrize("waits", ["slot", "worker"])
@pytest.mark.parametrize("may_start", [True, False])
async def test_a_run_that_another_worker_has_claimed_in_vain_is_held_without_a_claim(
    tmp_path: Path, claimed: list[str], may_start: bool, waits: str
) -> None:
    """It is not shown in Prefect. If it waits for room, only a worker that may start it claims."""
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        await _claimed_in_vain_elsewhere(there, waits_for=waits)
        there.taker._fits = lambda _: may_start
        there.taker.may_get_slot = lambda: not may_start
        there.taker.max_held = lambda: 1
        taking = asyncio.create_task(there.taker.dispatch(there.run))
        while not there.taker.remembered.all_held and not taking.done():
            await checkpoint()
        there.taker.show_held()
        is_remembered = there.taker.remembered.of(await there.row()) is there.run
        assert is_remembered == may_start
        there.taker.hand_out(there.run)
        assert await taking
        assert bool(claimed) == (may_start and waits == "worker")
        if not claimed:
            assert there.prefect.requests == []


@pytest.mark.usefixtures("unparked")
@pytest.mark.parametrize(
    "why", ["it polls only once", "it holds too many", "no other worker may start it"]
)
async def test_a_worker_claims_a_waiting_run_if_it_cannot_hold_it(
    tmp_path: Path, claimed: list[str], why: str
) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        await _claimed_in_vain_elsewhere(there)
        there.taker.may_get_slot = lambda: False
        there.taker.max_held = lambda: int(why != "it holds too many")
        if why == "it polls only once":
            there.taker.end_parking(claims_all=True)
        elif why == "no other worker may start it":
            there.taker._fits = lambda _: False

            async def never(_: FlowRun) -> bool:
                return False

            there.taker.may_start_elsewhere = never
        assert await there.taker.dispatch(there.run)
        assert claimed == [str(there.run.id)]


@pytest.mark.usefixtures("unparked")
@pytest.mark.parametrize("leaves", ["restarts for its memory", "stops", "stops at this moment"])
async def test_a_worker_that_leaves_holds_and_claims_no_waiting_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claimed: list[str], leaves: str
) -> None:
    found = waiting_runs.wait_for_slot

    async def wait_for_slot(*given: Any, **named: Any) -> Waiting | None:
        there.taker.max_held = lambda: 0
        there.taker.end_parking()
        return await found(*given, **named)

    async with one_job(tmp_path) as there, asyncio.timeout(60):
        await _claimed_in_vain_elsewhere(there)
        there.taker.may_get_slot = lambda: False
        there.taker.max_held = lambda: 1
        if leaves == "restarts for its memory":
            there.taker.may_hold = lambda: False
        elif leaves == "stops":
            there.taker.max_held = lambda: 0
            there.taker.end_parking()
        else:
            monkeypatch.setattr(waiting_runs, "wait_for_slot", wait_for_slot)
        assert await there.taker.dispatch(there.run)
        assert (claimed, there.prefect.requests) == ([], [])


@pytest.mark.usefixtures("unparked")
@pytest.mark.parametrize("why", ["a slot", "due", "not due", "worker", "just due"])
async def test_a_run_that_waits_in_the_ledger_claims_if_it_may_start_or_its_wait_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claimed: list[str], why: str
) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        changes: dict[str, Any] = {
            "due": {"until": there.ledger.now()},
            "worker": {"waits_for": "worker"},
        }
        await _claimed_in_vain_elsewhere(there, **changes.get(why, {}))
        there.taker.may_get_slot = lambda: why == "a slot"
        if why == "just due":
            monkeypatch.setattr(dispatcher, "KNOWN_AFTER", timedelta(hours=1))
        taking = await _held(there)
        there.taker.end_parking()
        assert await taking
        assert claimed == [str(there.run.id)] * (why != "not due")


@pytest.mark.usefixtures("unparked")
async def test_other_workers_have_time_to_claim_a_run_that_this_one_may_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claimed: list[str]
) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        since = there.ledger.now()
        await _claimed_in_vain_elsewhere(there, until=since)
        there.taker._fits = lambda _: False
        monkeypatch.setattr(workers, "HANDOVER_INTERVAL", timedelta(seconds=1))
        taking = asyncio.create_task(there.taker.dispatch(there.run))
        while not claimed:
            await checkpoint()
        assert there.ledger.now() - since >= timedelta(seconds=1)
        there.taker.end_parking()
        assert await taking


@pytest.mark.usefixtures("unparked")
async def test_a_held_run_does_not_start_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        taking = await _held(there)
        await claims.postpone(
            there.ledger, there.held.run_id, there.held.fence, SYSTEM_CLOCK.now(), "it waits too"
        )
        monkeypatch.setattr(home, "full_disk", lambda _: "the disk of /data is full")
        there.taker.unpark()  # it may get a slot, so it claims before the end of its wait
        there.taker.remembered.end_hold(str(there.run.id), HoldEnd.DUE)
        assert await taking
        assert (await there.row()).status == "waiting"
        assert there.prefect.requests == ["set AwaitingConcurrencySlot"]


@pytest.mark.usefixtures("unparked")
async def test_a_run_that_waits_is_rescheduled_when_no_other_run_starts_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        taking = await _held(there)
        there.taker.starting += 1
        monkeypatch.setattr(dispatcher, "START_PAUSE_SECONDS", 0.0)
        there.taker.start_ended()  # one of two
        await _all_blocked()
        assert not taking.done()
        there.taker.start_ended()
        assert await taking
        assert there.prefect.requests == ["set AwaitingConcurrencySlot"]
        assert there.taker.remembered.of(await there.row()) is there.run


@pytest.mark.usefixtures("unparked")
async def test_a_worker_that_stops_leaves_the_runs_that_it_holds_as_they_are_in_prefect(
    tmp_path: Path,
) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        taking = await _held(there)
        there.taker.end_parking()
        assert await taking
        assert there.prefect.requests == []


@pytest.mark.usefixtures("unparked")
async def test_a_run_that_is_held_claims_again_when_its_wait_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "MIN_RETRY_INTERVAL", timedelta(seconds=0.5))
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        taking = await _held(there)
        until = cast(datetime, (await there.row()).until)
        while (await there.row()).until == until:
            await checkpoint()
        await claims.postpone(  # it waits again, until the slot is free
            there.ledger, there.held.run_id, there.held.fence, SYSTEM_CLOCK.now(), "it waits too"
        )
        assert await taking
        assert (len(there.starts.tasks), there.prefect.requests) == (1, ["set Pending"])


@pytest.mark.usefixtures("unparked")
async def test_a_held_run_whose_row_has_changed_does_not_claim_again(tmp_path: Path) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        taking = await _held(there)
        await claims.cancel(there.ledger, (await there.row()).id)
        there.taker.remembered.end_hold(str(there.run.id), HoldEnd.DUE)
        assert await taking
        assert there.prefect.requests == []


@pytest.mark.usefixtures("unparked")
@pytest.mark.parametrize("max_held", [1, 2])
async def test_a_worker_holds_only_so_many_runs(tmp_path: Path, max_held: int) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        there.taker.max_held = lambda: max_held
        other = asyncio.create_task(there.taker.remembered.hold("other", 3600))
        await checkpoint()
        there.taker.starting += 1
        taking = asyncio.create_task(there.taker.dispatch(there.run))
        while not there.taker.remembered.ids:
            await checkpoint()
        await _all_blocked()
        is_held = len(there.taker.remembered.all_held) == 2
        there.taker.end_parking()
        await asyncio.gather(taking, other)
        assert is_held == (max_held == 2)
        assert there.prefect.requests == ["set AwaitingConcurrencySlot"] * (not is_held)


async def test_the_waits_of_held_runs_are_shown_some_at_a_time_while_none_starts(
    tmp_path: Path,
) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        taker, names = there.taker, "abcdef"
        taker.max_held = lambda: len(names)
        holds = [asyncio.create_task(taker.remembered.hold(name, 3600)) for name in names]
        await checkpoint()
        taker.starting += 1
        taker.show_held()
        assert len(taker.remembered.all_held) == len(names)
        taker.max_held = lambda: len(names) - 1
        taker.show_held()
        assert len(taker.remembered.all_held) == len(names) - 1
        taker.starting -= 1
        taker._started_at = float("-inf")
        taker.show_held()
        assert (len(taker.remembered.all_held), taker._showing) == (2, set("cdef"))
        taker._showing.clear()
        taker.end_parking()
        await asyncio.gather(*holds)


@pytest.mark.usefixtures("unparked")
async def test_when_the_wait_of_a_run_is_shown_the_next_one_is(tmp_path: Path) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        there.taker._showing |= {"b", "c", "d"}  # of the four that may be shown at a time
        taking = await _held(there)
        earlier = asyncio.create_task(there.taker.remembered.hold("a", 3600))
        await checkpoint()
        held = there.taker.remembered._held
        held[str(there.run.id)] = held.pop(str(there.run.id))  # it was held last
        there.taker.starting -= 1
        there.taker.show_held()
        assert await taking
        assert await earlier is HoldEnd.NO_STARTS
        assert there.prefect.requests == ["set AwaitingConcurrencySlot"]
        assert there.taker._showing == {"a", "b", "c", "d"}


@pytest.mark.parametrize(("is_old", "has_ended"), [(True, False), (False, False), (True, True)])
async def test_a_run_that_another_worker_has_executed_since_the_poll_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_old: bool, has_ended: bool
) -> None:
    """A run that has ended in Prefect before, or was polled just now, may be a Retry."""
    monkeypatch.setattr(dispatcher, "OLD_SECONDS", 0.0 if is_old else 3600.0)
    async with one_job(tmp_path, most=2) as there, asyncio.timeout(60):
        taking = await _parked(there)
        if has_ended:
            there.run.start_time = cast(Any, SYSTEM_CLOCK.now())
        other = await occurrence.build_claim_request(
            there.ledger, there.run, there.run.parameters, holder="other:1", starts=1, most=2
        )
        granted = await claims.claim(there.ledger, other)
        assert isinstance(granted, Granted)
        await claims.begin(there.ledger, granted.run_id, granted.fence)
        done = Outcome(Status.SUCCEEDED, "")
        await claims.finish(there.ledger, granted.run_id, granted.fence, done)
        there.taker.may_get_slot = lambda: True
        there.taker.unpark()
        assert await taking
        assert there.prefect.requests == ([] if is_old and not has_ended else ["set Completed"])


async def test_after_a_claim_that_found_no_free_slot_parked_runs_claim_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other workers may have all slots."""
    monkeypatch.setattr(dispatcher, "FULL_PAUSE_SECONDS", 3600.0)
    monkeypatch.setattr(run_queue, "MAX_PARKED_BRIEFLY", timedelta(days=1))
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        there.taker.starting += 1
        assert await there.taker.dispatch(there.run)  # all slots are in use
        parked = [there.run.model_copy(update={"id": uuid4()}) for _ in range(2)]
        first, second = (asyncio.create_task(there.taker.dispatch(run)) for run in parked)
        await _all_blocked()
        assert there.taker._claim_lock.parked == 2
        monkeypatch.setattr(dispatcher, "FULL_PAUSE_SECONDS", 0.05)
        there.taker.unpark()  # a run of this worker has ended
        assert await first
        assert await second  # after the pause


async def test_a_run_with_a_slot_claims_before_a_new_one_of_its_due_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = list[str]()

    async def decide(_: Any, request: ClaimRequest, *__: Any, **___: Any) -> list[Effect]:
        claimed.append(str(request.flow_run_id))
        return []

    monkeypatch.setattr(claim, "decide", decide)
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        lock, woken = there.taker._claim_lock, there.run
        new = woken.model_copy(update={"id": uuid4()})
        there.taker.hand_out(woken)
        async with lock.turn((False, SYSTEM_CLOCK.now(), True)):
            tasks = list[asyncio.Task[bool]]()
            for run in (new, woken):
                tasks.append(asyncio.create_task(there.taker.dispatch(run)))
                while len(lock._on_time) < len(tasks):
                    await checkpoint()
        await asyncio.gather(*tasks)
        assert claimed == [str(woken.id), str(new.id)]


async def test_a_run_that_waits_although_a_slot_is_free_wakes_the_earlier_ones_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(5):
        filled = asyncio.Event()

        async def fill_slot() -> None:
            filled.set()

        async def decide(*_: Any, **__: Any) -> list[Effect]:
            return [Suspend(waiting), WakeEarlier()]

        until = there.ledger.now() + timedelta(minutes=1)
        waiting = Waiting(until, "reserved", "r", free=True, for_slot=True)
        monkeypatch.setattr(claim, "decide", decide)
        monkeypatch.setattr(there.taker, "_fill_slot", fill_slot)
        there.taker.max_held = lambda: 1
        there.taker.starting += 1
        taking = asyncio.create_task(there.taker.dispatch(there.run))
        await filled.wait()
        assert not taking.done()  # it is held
        there.taker.end_parking()
        assert await taking


async def test_a_run_that_may_run_elsewhere_is_not_forced_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> bool:
        raise LedgerUnreachable("ledger", "a failover")

    async with one_job(tmp_path) as there:
        monkeypatch.setattr(waiting_runs, "still_waits", away)
        assert await there.taker.dispatch(there.run)
        assert there.prefect.requests == []


async def test_an_end_that_was_overwritten_by_setting_back_is_shown_when_its_time_has_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that made the run wait was killed before it read the row again."""

    async def no_retries(*_: object) -> tuple[int, ...]:
        return ()

    monkeypatch.setattr(occurrence, "read_retry_starts", no_retries)
    async with one_job(tmp_path) as there:
        assert await there.taker.dispatch(there.run)
        row = await there.row()
        async with there.ledger.write() as session:
            found = await rows.get(session, row.id)
            await outcomes.record(
                session, found, Outcome(Status.SKIPPED, "replaced"), there.ledger.now()
            )
        await unmirrored.clear_mark(there.ledger, row.id, Status.SKIPPED)
        there.prefect.requests.clear()
        waits = there.run.model_copy(update={"state": there.prefect.states[-1]})
        assert await there.taker.dispatch(waits)
        assert there.prefect.requests == ["set Skipped"]


async def test_a_cancellation_that_was_overwritten_by_setting_back_takes_effect(
    tmp_path: Path,
) -> None:
    async with one_job(tmp_path) as there:
        there.prefect.states.append(Cancelled())  # after the worker's last poll

        assert await there.taker.dispatch(there.run)

        row = await there.row()
        assert (row.status, row.reason) == ("cancelled", "cancelled in Prefect")


@pytest.mark.parametrize("who", ["worker", "process"])
async def test_an_end_set_in_prefect_while_the_run_is_set_back_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Of both states, Prefect keeps the one that was requested first."""
    async with one_job(tmp_path) as there:

        async def another() -> None:
            row = await there.row()
            await claims.cancel(there.ledger, row.id, "not needed")
            await there.prefect.set_flow_run_state(there.run.id, Cancelled())
            await unmirrored.clear_mark(there.ledger, row.id, Status.CANCELLED)

        there.prefect.meanwhile = another
        if who == "worker":
            assert await there.taker.dispatch(there.run)
        else:
            monkeypatch.setattr(prefect_states, "get_client", lambda: nullcontext(there.prefect))
            run = there.run
            claim_request = await occurrence.build_claim_request(
                there.ledger, run, run.parameters, holder="here:2", starts=1, most=1
            )
            entering = claim.wait_for_claim(
                *(there.ledger, claim_request, SYSTEM_CLOCK),
                deployment_id=str(DEPLOYMENT),
                patience=timedelta(0),
            )
            with pytest.raises(Abort):
                await entering

        assert there.prefect.requests[:2] == ["set AwaitingConcurrencySlot", "set Cancelled"]
        assert there.prefect.states[-1].name == "Cancelled"
        assert there.prefect.states[-1].message == "not needed"


async def test_the_deadline_of_a_run_that_has_waited_counts_from_its_request(
    tmp_path: Path,
) -> None:
    async with one_job(tmp_path) as there:
        waited = replace(
            there.held,
            parameters={"policy": {"deadline": "1h"}},
            queued_at=there.ledger.now() - timedelta(minutes=40),
        )
        before = time.monotonic()
        await there.taker._start_claimed(there.run, waited, "agent-prompt")
        after = time.monotonic()

        (run,) = there.watched
        assert run.ends_at is not None
        assert before + 1199 < run.ends_at <= after + 1200
