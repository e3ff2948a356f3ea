"""The attempt of a run after `begin`: one effect, whose outcome is recorded or spooled."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import pytest
from anyio.lowlevel import checkpoint
from sqlalchemy.ext.asyncio import AsyncSession

from daybook.clock import SYSTEM_CLOCK
from daybook.errors import (
    AgentFailed,
    AgentTemporary,
    AgentTimeout,
    IllegalTransition,
    LedgerNewer,
)
from daybook.execution import attempt, held_writes, lease, outcome_spool, recording
from daybook.execution.lease import LeaseLost, LeaseNotRenewed
from daybook.execution.recording import OutcomeUnwritten
from daybook.ledger.engine import Ledger, sharing
from daybook.ledger.states import Outcome, Status
from daybook.policies.policy import JITTER_FRACTION, MAX_RETRIES
from daybook.runs.approvals import Question
from daybook.testing import ManualClock
from daybook.timing import TIMING
from tests.timings import change
from tests.unit.execution.conftest import ActiveRun

pytestmark = pytest.mark.anyio


class Effect:
    """Effect of a flow that counts its calls, then returns or raises the answer."""

    def __init__(self, answer: Outcome | BaseException | None = None) -> None:
        self.answer = answer or Outcome(Status.SUCCEEDED, output="done")
        self.effect_count = 0

    async def __call__(self) -> Outcome:
        self.effect_count += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class Held(Effect):
    """Effect that happens and then waits until it is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.acting = asyncio.Event()

    async def __call__(self) -> Outcome:
        await super().__call__()
        self.acting.set()
        await asyncio.Event().wait()
        raise AssertionError


LAST = MAX_RETRIES + 1
"""An attempt after which none is left."""


async def _carry(active: ActiveRun, act: attempt.Act, clock: ManualClock | None = None) -> Outcome:
    outcome = await attempt.run_attempt(
        active.ledger, active.granted, LAST, act, clock or ManualClock()
    )
    assert isinstance(outcome, Outcome)
    return outcome


@pytest.mark.parametrize(
    ("answer", "least"),
    [
        (AgentTimeout(90, "so far"), timedelta(seconds=1)),
        (AgentTemporary("429"), timedelta(seconds=1)),
        (AgentTemporary("429", retry_after=40), timedelta(seconds=40)),
        (AgentTemporary("429", retry_after=6.5), timedelta(seconds=6.5)),
        (AgentTemporary("429", retry_after=3_600), timedelta(hours=1)),
    ],
)
async def test_after_a_temporary_error_the_run_waits_for_its_next_attempt(
    active: ActiveRun, answer: BaseException, least: timedelta
) -> None:
    clock = ManualClock()

    again = await attempt.run_attempt(active.ledger, active.granted, 1, Effect(answer), clock)

    assert isinstance(again, attempt.RetryAt)
    assert least <= again.until - clock.now() <= least * (1 + JITTER_FRACTION)
    row = await active.row()
    assert (row.status, row.until, row.holder, row.fence) == ("waiting", again.until, "", 2)
    assert row.reason.startswith("attempt 1 ")
    assert row.reason.endswith(str(answer))


@pytest.mark.parametrize("retry_after", [3_601, 86_400, 1e15, float("inf")])
async def test_a_provider_that_asks_for_more_than_an_hour_gets_no_further_attempt(
    active: ActiveRun, retry_after: float
) -> None:
    error = AgentTemporary("429", retry_after=retry_after)

    ended = await attempt.run_attempt(
        active.ledger, active.granted, 1, Effect(error), ManualClock()
    )

    assert isinstance(ended, Outcome)
    row = await active.row()
    assert row.status == "failed"
    assert row.error is not None
    assert row.error.startswith("429; no further attempt: the provider asked to wait until 20")
    assert row.error.endswith(" UTC, which is more than 1h")


@pytest.mark.floor("C", "A run has its status and its error")
@pytest.mark.parametrize(
    ("answer", "status", "error", "output"),
    [
        (Outcome(Status.SUCCEEDED, output="done"), "succeeded", None, "done"),
        (AgentFailed("exit code 3", "so far"), "failed", "exit code 3", "so far"),
        (AgentFailed("exit code 3"), "failed", "exit code 3", None),
        (
            AgentTimeout(90, "so far"),
            "timed_out",
            "no answer within 90 s; Daybook ended the agent",
            "so far",
        ),
        (ZeroDivisionError("by what?"), "failed", "ZeroDivisionError: by what?", None),
    ],
)
async def test_an_outcome_is_recorded_with_error_and_output(
    active: ActiveRun,
    answer: Outcome | BaseException,
    status: str,
    error: str | None,
    output: str | None,
) -> None:
    outcome = await _carry(active, Effect(answer))

    row = await active.row()
    assert row.status == outcome.status == status
    assert (row.error, row.output) == (error, output)


class Freeing(ManualClock):
    """Clock that ends the other writer's transaction at the third wait."""

    def __init__(self, other: sqlite3.Connection) -> None:
        super().__init__()
        self.other = other

    async def wait_until(self, instant: datetime) -> None:
        await super().wait_until(instant)
        if len(self.waits) == 3:
            self.other.execute("ROLLBACK")


async def test_an_outcome_waits_for_the_ledger_and_the_effect_happens_once(
    active: ActiveRun,
) -> None:
    effect = Effect()
    with active.locked() as other:
        clock = Freeing(other)
        start = clock.now()

        await _carry(active, effect, clock)

    assert effect.effect_count == 1
    assert (await active.row()).status == "succeeded"
    waited = [(instant - start).total_seconds() for instant in clock.waits]
    assert waited == [1, 3, 7]


async def test_recording_is_tried_until_the_lease_is_lost_and_the_outcome_is_spooled(
    active: ActiveRun,
) -> None:
    effect, clock = Effect(), ManualClock()
    start = clock.now()
    with active.locked(), pytest.raises(OutcomeUnwritten) as unwritten:
        await _carry(active, effect, clock)

    assert effect.effect_count == 1
    assert unwritten.value.outcome == effect.answer
    assert "ended as succeeded, but its outcome could not be recorded" in str(unwritten.value)
    assert unwritten.value.spooled
    tried = clock.now() - start
    assert 2 * TIMING.run_lease - recording.MAX_RETRY_DELAY <= tried < 2 * TIMING.run_lease
    assert (await active.row()).status == "running"
    # The next process that reaches the ledger records it.
    await outcome_spool.drain(active.ledger)
    assert (await active.row()).status == "succeeded"


async def test_an_outcome_is_spooled_at_once_if_a_newer_program_has_migrated_the_ledger(
    active: ActiveRun,
) -> None:
    effect, clock = Effect(), ManualClock()
    active.migrate_incompatibly()
    with pytest.raises(OutcomeUnwritten, match="29991231_0001") as unwritten:
        await _carry(active, effect, clock)

    assert (effect.effect_count, clock.waits) == (1, [])
    assert unwritten.value.spooled
    # A process of the newer program records it.
    active.undo_migration()
    await outcome_spool.drain(active.ledger)
    assert (await active.row()).status == "succeeded"


async def test_an_attempt_whose_steps_a_newer_ledger_refuses_is_unknown(active: ActiveRun) -> None:
    active.migrate_incompatibly()
    with pytest.raises(OutcomeUnwritten) as unwritten:
        await _carry(active, Effect(LedgerNewer("29991231_0001", "1")))

    assert unwritten.value.spooled
    active.undo_migration()
    await outcome_spool.drain(active.ledger)
    row = await active.row()
    assert (row.status, "29991231_0001" in (row.error or "")) == ("unknown", True)


async def test_a_rerun_whose_steps_a_newer_ledger_refuses_is_left_to_its_lease(
    active: ActiveRun,
) -> None:
    active.granted.parameters["policy"] |= {"on_lost": "rerun"}
    active.migrate_incompatibly()
    with pytest.raises(LeaseNotRenewed, match="29991231_0001"):
        await _carry(active, Effect(LedgerNewer("29991231_0001", "1")))

    assert outcome_spool.pending_files() == []


async def test_a_newer_ledger_ends_a_write_and_a_question_at_once(active: ActiveRun) -> None:
    async def never(session: AsyncSession, ledger: Ledger) -> None:
        raise AssertionError

    active.migrate_incompatibly()
    clock = ManualClock()
    with sharing(active.ledger), pytest.raises(LedgerNewer):
        async with asyncio.timeout(30):
            await held_writes.write(active.granted, never)
    question = Question.of_answer(Outcome(Status.SUCCEEDED, output="x"), timedelta(hours=1))
    with pytest.raises(OutcomeUnwritten):
        await recording.ask(active.ledger, active.granted, question, clock)
    assert clock.waits == []


async def test_a_process_waiting_for_the_ledger_has_already_spooled_its_outcome(
    active: ActiveRun,
) -> None:
    waiting, go = asyncio.Event(), asyncio.Event()

    class Held(ManualClock):
        async def wait_until(self, instant: datetime) -> None:
            waiting.set()
            await go.wait()

    with active.locked():
        task = asyncio.create_task(_carry(active, Effect(), Held()))
        await waiting.wait()
        # This is all that a killed process leaves.
        assert [each.name for each in outcome_spool.pending_files()] == [
            f"{active.granted.run_id}-1-1.json"
        ]
    assert await outcome_spool.drain(active.ledger) == outcome_spool.SpoolResult(written=1)
    written = await active.row()
    assert written.status == "succeeded"
    # A process that survives records it again without a change.
    go.set()
    await task
    assert await active.row() == written


async def test_a_recorded_outcome_leaves_no_spool_file(active: ActiveRun) -> None:
    with active.locked() as other:
        await _carry(active, Effect(), Freeing(other))

    assert outcome_spool.pending_files() == []


async def test_an_outcome_that_cannot_be_spooled_is_reported(active: ActiveRun) -> None:
    outcome_spool.folder().write_text("no folder can be made here")
    with active.locked(), pytest.raises(OutcomeUnwritten) as unwritten:
        await _carry(active, Effect())

    assert not unwritten.value.spooled


async def test_a_spooled_temporary_failure_leads_to_the_next_attempt(active: ActiveRun) -> None:
    clock = ManualClock(SYSTEM_CLOCK.now())
    with active.locked(), pytest.raises(OutcomeUnwritten):
        await attempt.run_attempt(
            active.ledger, active.granted, 1, Effect(AgentTemporary("429")), clock
        )

    await outcome_spool.drain(active.ledger)

    row = await active.row()
    assert (row.status, row.fence) == ("waiting", 2)
    assert row.reason == "attempt 1 failed: 429"


async def test_a_refused_renewal_stops_the_agent_and_keeps_evidence(
    active: ActiveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, attempt, run_lease_renewal=0.02)
    held = Held()
    task = asyncio.create_task(_carry(active, held))
    await held.acting.wait()

    active.take_over()
    with pytest.raises(LeaseLost):
        await task

    row = await active.row()
    assert (row.status, row.holder, row.fence) == ("running", "there:2", 2)
    (known,) = row.evidence
    assert (known["fence"], known["status"]) == (1, "unknown")
    assert known["reason"] == "the lease was lost, so the agent was stopped"


async def test_a_run_that_is_stopped_for_its_rerun_gets_no_outcome(
    active: ActiveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {
        "run_lease_renewal": 0.02,
        "run_lease": 0.4,
        "worker_signal": 0.1,
        "worker_record": 0.1,
    }
    change(monkeypatch, lease, run_lease_renewal_delay=0.1, stop_grace=0.1, **times)
    change(monkeypatch, attempt, run_lease_renewal=0.02)
    # A renewal hangs for longer than the run may; the end of the attempt waits for it.
    half_a_second = partial(Ledger, busy=timedelta(seconds=0.5))
    monkeypatch.setattr(lease, "Ledger", half_a_second)
    granted = replace(active.granted, parameters={"policy": {"on_lost": "rerun"}})
    with active.locked(), pytest.raises(LeaseNotRenewed):
        async with asyncio.timeout(20):
            await attempt.run_attempt(active.ledger, granted, 1, Held(), ManualClock())

    row = await active.row()
    assert (row.status, row.fence, row.evidence) == ("running", 1, [])
    assert outcome_spool.pending_files() == []


async def test_a_run_declared_unknown_stays_unknown_if_its_lease_is_refused(
    active: ActiveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, attempt, run_lease_renewal=0.02)
    held = Held()
    task = asyncio.create_task(_carry(active, held))
    await held.acting.wait()

    active.query("UPDATE runs SET status = 'unknown', reason = 'the lease was lost'")
    with pytest.raises(LeaseLost):
        await task

    row = await active.row()
    assert (row.status, row.reason, row.evidence) == ("unknown", "the lease was lost", [])


async def test_a_late_outcome_corrects_a_run_declared_unknown(active: ActiveRun) -> None:
    async def act() -> Outcome:
        active.query("UPDATE runs SET status = 'unknown', reason = 'the lease was lost'")
        return Outcome(Status.SUCCEEDED, output="late")

    await _carry(active, act)

    row = await active.row()
    assert (row.status, row.reason, row.output) == ("succeeded", "", "late")


async def test_an_outcome_of_a_cancelled_run_is_kept_only_as_evidence(
    active: ActiveRun,
) -> None:
    async def act() -> Outcome:
        active.query("UPDATE runs SET status = 'cancelled'")
        return Outcome(Status.SUCCEEDED, output="all the same")

    with pytest.raises(IllegalTransition):
        await _carry(active, act)

    row = await active.row()
    assert (row.status, row.output) == ("cancelled", None)
    assert row.evidence[0]["output"] == "all the same"


@pytest.mark.parametrize("cancels", [1, 5])
async def test_a_task_cancelled_while_recording_records_the_outcome_first(
    active: ActiveRun, cancels: int
) -> None:
    effect = Effect()

    class Stuck(ManualClock):
        """Clock whose wait really blocks until the test sets ``go``."""

        waiting, go = asyncio.Event(), asyncio.Event()

        async def wait_until(self, instant: datetime) -> None:
            self.waiting.set()
            await self.go.wait()
            await super().wait_until(instant)

    clock = Stuck()
    with active.locked() as other:
        task = asyncio.create_task(_carry(active, effect, clock))
        await clock.waiting.wait()
        for _ in range(cancels):
            task.cancel()
            await checkpoint()
        other.execute("ROLLBACK")
    clock.go.set()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await active.row()).status == "succeeded"
    assert effect.effect_count == 1


async def test_a_loop_that_is_torn_down_records_the_outcome_first(active: ActiveRun) -> None:
    # Like the end of `asyncio.run`: it cancels each task once, also the one that records.
    recording = asyncio.Event()

    class Slow(ManualClock):
        async def wait_until(self, instant: datetime) -> None:
            recording.set()
            await asyncio.Event().wait()

    tasks = asyncio.all_tasks()
    with active.locked() as other:
        task = asyncio.create_task(_carry(active, Effect(), Slow()))
        await recording.wait()
        other.execute("ROLLBACK")
    for each in asyncio.all_tasks() - tasks:
        each.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await active.row()).status == "succeeded"


async def test_the_waits_for_the_ledger_grow_to_15_seconds(active: ActiveRun) -> None:
    clock = ManualClock()
    with active.locked(), pytest.raises(OutcomeUnwritten):
        await _carry(active, Effect(), clock)

    steps = [b - a for a, b in zip(clock.waits, clock.waits[1:], strict=False)]
    assert steps == sorted(steps)
    assert steps[-1] == timedelta(seconds=15)
