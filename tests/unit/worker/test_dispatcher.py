"""Dispatch: the order of claims, what counts as starting, and runs that are not this worker's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast
from uuid import UUID, uuid4

import pytest
from anyio.lowlevel import checkpoint
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled
from sqlmodel import select

from daybook import home
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import InvalidInput, LedgerUnreachable
from daybook.execution.claim_effects import Effect, ShowEnd
from daybook.jobs import store, upcoming
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.policies.policy import Policy
from daybook.prefect import flow_runs, links, occurrence, reconcile, run_names
from daybook.prefect import states as prefect_states
from daybook.prefect.client import CLAIM_TIMEOUT_SECONDS
from daybook.runs.claim_requests import ClaimRequest, Finished, Granted, Waiting
from daybook.worker import prefect_updates
from daybook.worker.dispatcher import Dispatcher
from daybook.worker.prefect_updates import MAX_CONCURRENT_ENDS, PrefectUpdates
from tests.timings import expire_timeout
from tests.unit.worker.one_job import DEPLOYMENT, OneJob, one_job

pytestmark = pytest.mark.anyio

NOT_ASKED = cast(Any, None)
"""Prefect and the parent of the runs: each claim here is another worker's already."""


class Quiet(PrefectUpdates):
    """Updates that name no run, as there is no Prefect server."""

    async def name(self, run: FlowRun, job_id: str | None) -> None: ...


class Asking(Dispatcher):
    """Dispatcher that records the runs in the order of their claims."""

    claimed: list[UUID]

    @classmethod
    def of(cls, ledger: Ledger) -> Self:
        taker = cls(
            *(ledger, NOT_ASKED, NOT_ASKED),
            holder="here:1",
            most=4,
            free=lambda _: True,
            watch=lambda watched: None,
        )
        taker.claimed = []
        taker.updates = Quiet(ledger, NOT_ASKED, ())
        return taker

    async def _claim(self, run: FlowRun, claim_request: ClaimRequest) -> Sequence[Effect]:
        self.claimed.append(run.id)
        return ()


async def test_the_earliest_run_is_claimed_first_although_its_request_takes_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = SYSTEM_CLOCK.now().replace(microsecond=0)
    runs = [
        FlowRun(
            id=uuid4(),
            flow_id=uuid4(),
            deployment_id=DEPLOYMENT,
            auto_scheduled=True,
            expected_start_time=cast(Any, now + timedelta(seconds=number)),
        )
        for number in range(2)
    ]
    later_asked, plain = asyncio.Event(), occurrence.build_claim_request

    async def slow_for_the_first(
        ledger: Ledger, run: FlowRun, *given: Any, **named: Any
    ) -> ClaimRequest:
        if run.id == runs[0].id:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await later_asked.wait()
        found = await plain(ledger, run, *given, **named)
        if run.id == runs[1].id:
            later_asked.set()
        return found

    monkeypatch.setattr(occurrence, "build_claim_request", slow_for_the_first)
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger:
        async with ledger.write() as session:
            job = new_job(now=now, name="often", prompt="Do it", every="1s")
            stored = await store.add(session, job, "often", now)
            await links.record_agreement(session, stored.id, str(DEPLOYMENT), None, now)
        taker = Asking.of(ledger)
        assert await asyncio.gather(*map(taker.dispatch, runs)) == [True, True]
    assert taker.claimed == [each.id for each in runs]


async def test_a_due_time_that_is_missed_meanwhile_claims_after_runs_that_may_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = SYSTEM_CLOCK.now().replace(microsecond=0) - timedelta(seconds=65)
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger:

        async def add(name: str, **policy: Any) -> Callable[[int], FlowRun]:
            """Add a job; return a function that returns its run due so many seconds later."""
            deployment = uuid4()
            async with ledger.write() as session:
                job = new_job(now=first, name=name, prompt="Do it", every="1s", **policy)
                stored = await store.add(session, job, name, first)
                await links.record_agreement(session, stored.id, str(deployment), None, first)
            return lambda seconds: FlowRun(
                id=uuid4(),
                flow_id=uuid4(),
                deployment_id=deployment,
                auto_scheduled=True,
                parameters=stored.job.parameters(),
                expected_start_time=cast(Any, first + timedelta(seconds=seconds)),
            )

        often, all_of, other = await add("often"), await add("all", catch_up="all"), await add("b")
        missed, caught_up, on_time = often(0), all_of(0), other(10)
        later, later_of_all = often(60), all_of(60)
        taker = Asking.of(ledger)
        runs = [missed, caught_up, on_time, later, later_of_all]
        monkeypatch.setattr(ledger, "now", lambda: first + timedelta(seconds=60))
        async with taker._claim_lock.turn((False, first, False)):
            tasks = [asyncio.create_task(taker.dispatch(run)) for run in runs]
            while len(taker._claim_lock._on_time) < len(runs):
                await checkpoint()
            monkeypatch.setattr(ledger, "now", lambda: first + timedelta(seconds=61))
        assert await asyncio.gather(*tasks) == [True] * len(runs)
    assert taker.claimed[0] != missed.id
    expected = [caught_up, on_time, later, later_of_all]
    assert [each for each in taker.claimed if each != missed.id] == [each.id for each in expected]


@pytest.mark.parametrize(
    ("policy", "seconds", "missed"),
    [
        ({}, 120, False),  # half the gap
        ({}, 121, True),
        ({"stagger": "5m"}, 120, False),  # counted from the staggered start
        ({"stagger": "5m"}, 121, True),
    ],
)
async def test_a_late_run_is_judged_as_its_claim_judges_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    policy: dict[str, Any],
    seconds: int,
    missed: bool,
) -> None:
    due = SYSTEM_CLOCK.now().replace(microsecond=0) - timedelta(hours=1)
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger:
        async with ledger.write() as session:
            job = new_job(
                now=due - timedelta(minutes=4), name="j", prompt="-", every="4m", **policy
            )
            stored = await store.add(session, job, "j", due - timedelta(minutes=4))
            await links.record_agreement(session, stored.id, str(DEPLOYMENT), None, due)
        # An edit that came into force later does not decide about this due time.
        async with ledger.write() as session:
            yearly = new_job(now=due, name="j", prompt="-", cron="0 0 1 1 *")
            await store.change(session, stored, yearly, due + timedelta(seconds=1))
        start = due + upcoming.stagger_offset(stored.id, stored.job.policy.stagger)
        monkeypatch.setattr(ledger, "now", lambda: start + timedelta(seconds=seconds))
        run = FlowRun(
            id=uuid4(),
            flow_id=uuid4(),
            deployment_id=DEPLOYMENT,
            auto_scheduled=True,
            expected_start_time=cast(Any, due),
        )
        assert await occurrence.is_missed(ledger, run) is missed


async def test_a_late_run_that_waits_in_the_ledger_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill, a worker does not remember the runs that it held."""
    async with one_job(tmp_path) as there:
        assert await there.taker.dispatch(there.run)
        due = (await there.row()).due
        next_due, later = due + timedelta(hours=1), due + timedelta(hours=3)
        monkeypatch.setattr(there.ledger, "now", lambda: later)
        late = there.run.model_copy(update={"expected_start_time": next_due})
        assert not await occurrence.is_missed(there.ledger, late)
        assert await occurrence.is_missed(there.ledger, late.model_copy(update={"id": uuid4()}))


class Ending(Dispatcher):
    """Dispatcher whose claims are all duplicates."""

    async def _claim(self, run: FlowRun, claim_request: ClaimRequest) -> Sequence[Effect]:
        return (ShowEnd(Finished(Status.SKIPPED, "run 1 is already in progress")),)


class SlowUpdates(Quiet):
    """Updates whose ends in Prefect wait for `go_on`."""

    ending = 0
    go_on: asyncio.Event

    async def _show_end(self, run: FlowRun, answer: Finished) -> None:
        self.ending += 1
        await self.go_on.wait()


async def test_ends_of_many_runs_leave_connections_to_prefect_for_starts(tmp_path: Path) -> None:
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        taker = Ending(
            *(there.ledger, NOT_ASKED, NOT_ASKED),
            holder="here:1",
            most=1,
            free=lambda _: True,
            watch=lambda watched: None,
        )
        taker.updates = slow = SlowUpdates(there.ledger, NOT_ASKED, ())
        slow.go_on, claimed = asyncio.Event(), 3 + MAX_CONCURRENT_ENDS
        runs = [there.run.model_copy(update={"id": uuid4()}) for _ in range(claimed)]
        tasks = [asyncio.create_task(taker.dispatch(run)) for run in runs]
        while not slow._ending.locked() or taker._claim_lock._busy:
            await checkpoint()
        assert slow.ending == MAX_CONCURRENT_ENDS

        slow.go_on.set()
        assert await asyncio.gather(*tasks) == [True] * claimed
        assert slow.ending == claimed


async def test_a_run_counts_as_starting_from_its_claim_until_it_is_supervised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "skew", lambda _: timedelta(seconds=30))
    async with one_job(tmp_path, most=2) as there:
        seen = list[int]()
        there.starts.during = lambda: seen.append(there.taker.starting)

        assert await there.taker.dispatch(there.run)

        assert (seen, there.taker.starting) == ([1], 0)
        assert [watched.run_id for watched in there.watched] == [(await there.row()).id]
        (task,) = there.starts.tasks
        assert task.handover is not None
        assert (task.mode, task.handover["fence"]) == ("ours", (await there.row()).fence)
        assert task.handover["skew_seconds"] == 30.0


def _refuse(there: OneJob) -> None:
    there.prefect.refuses = True


def _cannot_fork(there: OneJob) -> None:
    def fail() -> None:
        raise OSError("out of memory")

    there.starts.during = fail


def _delete(there: OneJob) -> None:
    there.prefect.is_deleted = True


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the deployments whose jobs are reconciled with Prefect."""
    deployments = list[str]()

    async def compare(job_id: str, deployment_id: str) -> frozenset[str]:
        deployments.append(deployment_id)
        return frozenset()

    monkeypatch.setattr(reconcile, "compare", compare)
    return deployments


@pytest.mark.parametrize(
    ("make_fail", "reason", "reconciled"),
    [
        (_refuse, "Prefect refused the start", []),
        (_cannot_fork, "out of memory", []),
        # The job is perhaps paused or deleted in Prefect.
        (_delete, "Prefect refused the start", [str(DEPLOYMENT)]),
    ],
)
async def test_a_run_that_cannot_start_gives_its_claim_back(
    tmp_path: Path,
    compared: list[str],
    make_fail: Callable[[OneJob], None],
    reason: str,
    reconciled: list[str],
) -> None:
    async with one_job(tmp_path, most=2) as there:
        make_fail(there)

        assert await there.taker.dispatch(there.run)

        row = await there.row()
        assert (row.state, there.watched, there.taker.starting) == (Status.WAITING, [], 0)
        assert reason in row.reason
        assert (row.holder, row.fence) == ("", 2)
        assert compared == reconciled


async def test_a_run_that_ended_in_prefect_before_its_start_gets_this_end(
    tmp_path: Path, compared: list[str]
) -> None:
    async with one_job(tmp_path, most=2) as there:
        _refuse(there)
        there.prefect.ended = [there.run.model_copy(update={"state": Cancelled()})]

        assert await there.taker.dispatch(there.run)

        row = await there.row()
        assert (row.state, row.reason) == (Status.CANCELLED, "cancelled in Prefect")
        assert compared == []


async def test_a_claim_that_was_lost_before_its_release_is_left_to_its_holder(
    tmp_path: Path, compared: list[str]
) -> None:
    async with one_job(tmp_path, most=2) as there:
        async with there.ledger.read() as session:
            (job,) = await store.all_jobs(session)
        lost = replace(there.held, fence=there.held.fence - 1, job=job)

        await there.taker._give_back(there.run, lost, "refused", is_deleted=True)

        async with there.ledger.read() as session:
            row = await session.get(RunRow, lost.run_id)
        assert row is not None and (row.state, row.holder) == (Status.CLAIMED, "h")
        assert compared == []


async def test_a_run_of_another_ledger_is_neither_claimed_nor_changed_in_prefect(
    tmp_path: Path,
) -> None:
    async with one_job(tmp_path, most=2) as there:
        there.run.tags = ["daybook:another"]

        assert await there.taker.dispatch(there.run)

        assert (there.prefect.requests, there.starts.tasks) == ([], [])
        async with there.ledger.read() as session:
            rows = (await session.execute(select(RunRow))).scalars().all()
        assert [row.id for row in rows] == [there.held.run_id]


async def test_a_run_of_no_job_is_left_to_the_caller(tmp_path: Path) -> None:
    async with one_job(tmp_path, most=2) as there:
        there.run.deployment_id = uuid4()

        assert not await there.taker.dispatch(there.run)

        assert (there.prefect.requests, there.starts.tasks) == ([], [])


async def test_a_second_prefect_run_of_an_occurrence_ends_as_skipped(tmp_path: Path) -> None:
    async with one_job(tmp_path, most=3) as there:
        there.run.idempotency_key = f"{there.ledger.id}:by-hand:1"
        again = there.run.model_copy(update={"id": uuid4()})

        assert await there.taker.dispatch(there.run)
        assert await there.taker.dispatch(again)

        assert [state.name for state in there.prefect.states[-2:]] == ["Pending", "Skipped"]
        assert len(there.watched) == 1


async def _unreachable(*_: object, **__: object) -> ClaimRequest:
    raise LedgerUnreachable("there", "locked")


async def test_without_a_ledger_a_run_waits_in_prefect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(occurrence, "build_claim_request", _unreachable)
    async with one_job(tmp_path, most=2) as there:
        now = SYSTEM_CLOCK.now()
        assert await there.taker.dispatch(there.run)

        (_, waiting) = there.prefect.states
        assert waiting.name == prefect_states.WAITING_NAME
        assert waiting.state_details.scheduled_time is not None
        assert waiting.state_details.scheduled_time > now
        assert "locked" in (waiting.message or "")
        assert there.starts.tasks == []


async def test_a_run_of_a_job_whose_due_times_cannot_be_computed_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*given: Any, **named: Any) -> ClaimRequest:
        raise InvalidInput("timezone", 'unknown zone "Mars/Olympus"')

    monkeypatch.setattr(occurrence, "build_claim_request", broken)
    async with one_job(tmp_path, most=2) as there:
        assert await there.taker.dispatch(there.run)

        (_, waiting) = there.prefect.states
        assert waiting.name == prefect_states.WAITING_NAME
        assert "Mars/Olympus" in (waiting.message or "")


async def test_a_run_has_its_name_before_its_process_starts(tmp_path: Path) -> None:
    async with one_job(tmp_path, most=2) as there:
        assert not run_names.is_own_name(there.run.name)

        assert await there.taker.dispatch(there.run)

        (task,) = there.starts.tasks
        assert run_names.is_own_name(task.flow_run["name"])


async def test_no_run_starts_while_a_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tmp_path / "full"
    monkeypatch.setattr(home, "free_bytes", lambda path: 4096 if path == full else 2**30)
    async with one_job(tmp_path, most=2) as there:
        there.taker._folders = (tmp_path, full)
        assert await there.taker.dispatch(there.run)

        (_, waiting) = there.prefect.states
        assert waiting.name == prefect_states.WAITING_NAME
        assert f"the disk of {full} is full" in (waiting.message or "")
        assert there.starts.tasks == []

        there.taker._folders = (tmp_path,)
        await there.taker.dispatch(there.run)
        assert len(there.starts.tasks) == 1


class Hanging(Dispatcher):
    """Dispatcher whose requests to Prefect are never answered."""

    given_back = ""

    @staticmethod
    def _part_of_lease(part: float) -> asyncio.Timeout:
        return asyncio.timeout(0.1 * part)

    async def _propose_pending(self, run: FlowRun) -> None:
        await asyncio.Event().wait()

    async def _give_back(
        self, run: FlowRun, granted: Granted, why: str, *, is_deleted: bool = False
    ) -> None:
        self.given_back = why


async def test_a_claimed_run_is_given_back_if_prefect_does_not_answer() -> None:
    """Nothing renews its lease before its process starts."""
    hanging = Hanging(
        *(NOT_ASKED, NOT_ASKED, NOT_ASKED),
        holder="here:1",
        most=4,
        free=lambda _: True,
        watch=lambda watched: None,
    )
    granted = SimpleNamespace(policy=Policy(), run_id="r", fence=1, job=None)
    run = FlowRun(id=uuid4(), flow_id=uuid4())
    async with asyncio.timeout(30):
        await hanging._start_claimed(run, cast(Any, granted), "agent-prompt")
    assert hanging.given_back == "Prefect did not answer in time"


async def test_a_run_without_a_ledger_or_an_answer_of_prefect_is_soon_dispatched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(occurrence, "build_claim_request", _unreachable)
    monkeypatch.setattr(prefect_updates, "PREFECT_TIMEOUT_SECONDS", 0.01)
    client = HangingClient()
    async with one_job(tmp_path) as there, asyncio.timeout(30):
        there.taker.updates = PrefectUpdates(there.ledger, cast(Any, client), ())
        assert await there.taker.dispatch(there.run)
    assert client.requests == 1
    assert not there.taker.updates._rescheduling.locked()


@pytest.mark.parametrize("asked", ["compare", "read_retry_starts"])
async def test_a_claim_for_which_prefect_does_not_answer_in_time_is_given_up(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile this worker claims no other run."""

    async def hang(*_: object, **__: object) -> Any:
        await asyncio.Event().wait()

    async with one_job(tmp_path, most=2) as there, asyncio.timeout(30):
        if asked == "compare":
            monkeypatch.setattr(reconcile, "reconcile_by_id", hang)
            monkeypatch.setattr("daybook.prefect.client.connected", nullcontext)
            monkeypatch.setenv("DAYBOOK_LEDGER_URL", there.ledger.address)
            there.run.parameters = {**there.run.parameters, "prompt": "Edited in Prefect"}
            there.run.auto_scheduled = True
        else:
            monkeypatch.setattr(flow_runs, "read_states", hang)
            there.run.run_count = 1
        dispatching = asyncio.create_task(there.taker.dispatch(there.run))
        await expire_timeout(CLAIM_TIMEOUT_SECONDS)
        assert await dispatching

        (_, waiting) = there.prefect.states
        assert "no answer within 20 s" in (waiting.message or "")


class HangingClient:
    """Prefect that answers no request."""

    def __init__(self) -> None:
        self.requests = 0

    async def set_flow_run_state(self, run_id: UUID, state: Any, force: bool = False) -> None:
        self.requests += 1
        await asyncio.Event().wait()


async def test_a_run_whose_state_prefect_does_not_take_can_soon_be_dispatched_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While it is being dispatched, no poll and no free slot dispatches it."""
    monkeypatch.setattr(prefect_updates, "PREFECT_TIMEOUT_SECONDS", 0.01)
    client = HangingClient()
    ledger = cast(Any, SimpleNamespace(skew=lambda: timedelta(0)))
    updates = PrefectUpdates(ledger, cast(Any, client), ())
    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="brief 2026-11-27 09:00:00 UTC")
    async with asyncio.timeout(30):
        until = SYSTEM_CLOCK.now() + timedelta(minutes=1)
        await updates.show_wait(run, Waiting(until, "full"), "job")
        await updates.show_end(run, Finished(Status.SKIPPED, "overlap", "r"), "job")
    assert client.requests == 2
    assert not updates._rescheduling.locked() and not updates._ending.locked()


async def test_a_run_that_waits_can_be_dispatched_again_while_many_runs_end(
    tmp_path: Path,
) -> None:
    """Its turn may come before a slow Prefect has taken the ends of all other runs."""
    async with one_job(tmp_path) as there, asyncio.timeout(60):
        for _ in range(MAX_CONCURRENT_ENDS):
            await there.taker.updates._ending.acquire()
        assert await there.taker.dispatch(there.run)
        assert (await there.row()).waits_for == "slot"
        assert run_names.is_own_name(there.run.name)
