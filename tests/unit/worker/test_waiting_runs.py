"""Waiting runs: a worker sets them back in Prefect once and remembers them until they wake."""

from __future__ import annotations

import asyncio
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from anyio.lowlevel import checkpoint
from prefect.exceptions import Abort
from prefect.states import Cancelled

from daybook import home
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import LedgerUnreachable
from daybook.execution import claim
from daybook.execution.claim_effects import Effect, Suspend, WakeEarlier
from daybook.ledger.states import Status
from daybook.prefect import occurrence, unmirrored
from daybook.prefect import states as prefect_states
from daybook.runs import claims, rows, slots
from daybook.runs.claim_requests import ClaimRequest, Waiting
from daybook.worker import dispatcher
from tests.unit.worker.one_job import DEPLOYMENT, one_job

pytestmark = pytest.mark.anyio


async def test_a_waiting_run_is_set_back_and_remembered_until_another_worker_claims_it(
    tmp_path: Path,
) -> None:
    async with one_job(tmp_path) as there:
        assert await there.taker.dispatch(there.run)

        row = await there.row()
        assert (row.status, row.waits_for) == ("waiting", "slot")
        assert there.prefect.requests == ["set AwaitingConcurrencySlot"]
        assert there.taker.waiting(row) is there.run
        # Another worker claimed it in between, so the remembered run is out of date.
        row.fence += 2
        assert there.taker.waiting(row) is None


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
        assert there.taker.waiting(row) is there.run
        there.taker.hand_out(there.run)
        monkeypatch.setattr(home, "full_disk", lambda _: "the disk of /data is full")
        assert await there.taker.dispatch(there.run)

        assert there.prefect.requests == ["set AwaitingConcurrencySlot"]
        assert there.taker.handed_out == set()
        assert there.taker.waiting(row) is None


async def test_a_run_that_is_woken_while_its_wait_is_shown_is_not_set_back(tmp_path: Path) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        for _ in range(4):  # as many as may be set back at the same time
            await there.taker._setting_back.acquire()
        taking = asyncio.create_task(there.taker.dispatch(there.run))
        while not there.taker._waiting:
            await checkpoint()
        there.taker.handed_out.add(there.run.id)
        there.taker._setting_back.release()
        assert await taking

        assert there.prefect.requests == []


async def test_a_run_that_is_woken_before_it_is_set_back_is_not_set_back(tmp_path: Path) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        for _ in range(4):  # as many as may be set back at the same time
            await there.taker._setting_back.acquire()
        taking = asyncio.create_task(there.taker.dispatch(there.run))
        while not there.taker._waiting:
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
        assert there.taker.waiting(called) is there.run
        there.taker._setting_back.release()
        assert await taking

        assert there.prefect.requests == []


async def test_a_run_that_waits_is_not_rescheduled_while_other_runs_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "START_PAUSE_SECONDS", 0.0)
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        there.taker.starting += 1
        taking = asyncio.create_task(there.taker.dispatch(there.run))
        while not there.taker._deferred:
            await checkpoint()
        row = await there.row()
        assert (row.status, row.waits_for) == ("waiting", "slot")
        assert there.taker.waiting(row) is there.run  # the next free slot starts it
        assert there.prefect.requests == []
        there.taker.start_ended()
        assert await taking
        assert there.prefect.requests == ["set AwaitingConcurrencySlot"]


async def test_a_deferred_run_is_rescheduled_at_last_although_others_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "MAX_DEFERRAL_SECONDS", 0.05)
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        there.taker.starting += 1
        assert await there.taker.dispatch(there.run)
        assert there.prefect.requests == ["set AwaitingConcurrencySlot"]


async def test_a_run_that_claims_again_and_again_is_rescheduled_before_it_is_late(
    tmp_path: Path,
) -> None:
    """Prefect calls a run late that is still due after 15 s, however short its waits are."""
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        there.taker.starting += 1
        due = SYSTEM_CLOCK.now() - timedelta(seconds=11)
        run = there.run.model_copy(update={"next_scheduled_start_time": due})
        async with asyncio.timeout(5):
            assert await there.taker.dispatch(run)
        assert there.prefect.requests == ["set AwaitingConcurrencySlot"]


@pytest.mark.parametrize(
    ("since_due", "requests"), [(1, []), (11, ["set AwaitingConcurrencySlot"])]
)
async def test_a_run_whose_wait_is_over_stays_due_unless_it_would_be_late(
    tmp_path: Path, since_due: int, requests: list[str]
) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        assert await there.taker.dispatch(there.run)
        there.prefect.requests.clear()
        now = there.ledger.now()
        row = await there.row()
        async with there.ledger.write() as session:
            (await rows.get(session, row.id)).until = now
        due = {"next_scheduled_start_time": now - timedelta(seconds=since_due)}
        over = Waiting(now, "it is its turn", row.id, for_slot=True)
        await there.taker._show_wait(there.run.model_copy(update=due), over, None)
        assert there.prefect.requests == requests


async def test_a_deferred_run_that_gets_a_slot_is_not_rescheduled(tmp_path: Path) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        there.taker.starting += 1
        taking = asyncio.create_task(there.taker.dispatch(there.run))
        while not there.taker._deferred:
            await checkpoint()
        held = there.held
        now = SYSTEM_CLOCK.now()
        await claims.postpone(there.ledger, held.run_id, held.fence, now, "its slot is free")
        async with there.ledger.write() as session:
            await slots.wake_next(session, there.ledger.now(), 1, {})
        there.taker.end_deferral(there.run.id)  # as the queue does if it has to dispatch it again
        async with asyncio.timeout(5):
            assert await taking
        assert there.prefect.requests == []


async def test_a_deferred_run_that_is_woken_waits_for_no_other_that_is_rescheduled(
    tmp_path: Path,
) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        for _ in range(4):  # as many as may be set back at the same time
            await there.taker._setting_back.acquire()
        there.taker.starting += 1
        taking = asyncio.create_task(there.taker.dispatch(there.run))
        while not there.taker._deferred:
            await checkpoint()
        there.taker.hand_out(there.run)
        there.taker.end_deferral(there.run.id)
        async with asyncio.timeout(5):
            assert await taking
        assert there.prefect.requests == []


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
        there.taker.starting += 1
        assert await there.taker.dispatch(there.run)
        assert filled.is_set()


async def test_a_run_that_may_run_elsewhere_is_not_forced_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> bool:
        raise LedgerUnreachable("ledger", "a failover")

    async with one_job(tmp_path) as there:
        monkeypatch.setattr(there.taker, "_still_waits", away)
        assert await there.taker.dispatch(there.run)
        assert there.prefect.requests == []


async def test_only_some_runs_are_deferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "MAX_DEFERRED_RUNS", 0)
    async with one_job(tmp_path) as there, asyncio.timeout(5):
        there.taker.starting += 1
        assert await there.taker.dispatch(there.run)
        assert there.prefect.requests == ["set AwaitingConcurrencySlot"]


async def test_a_worker_that_stops_defers_no_run(tmp_path: Path) -> None:
    """Nothing would start the run, which Prefect would show as late."""
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        there.taker.starting += 1
        taking = asyncio.create_task(there.taker.dispatch(there.run))
        while not there.taker._deferred:
            await checkpoint()
        there.taker.end_deferral()
        async with asyncio.timeout(5):
            assert await taking
            assert there.prefect.requests == ["set AwaitingConcurrencySlot"]
            assert await there.taker.dispatch(there.run)


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
