"""After `begin`: one effect, and its outcome written for sure."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import datetime, timedelta

import pytest
from anyio.lowlevel import checkpoint

from daybook.clock import SYSTEM_CLOCK
from daybook.errors import AgentFailed, AgentTemporary, AgentTimeout, IllegalTransition
from daybook.execution import attempt, outcome_spool
from daybook.execution import recording as settling
from daybook.execution.lease import LeaseLost
from daybook.execution.recording import OutcomeUnwritten
from daybook.jobs.policy import JITTER_FRACTION, MAX_RETRIES
from daybook.ledger.states import Outcome, Status
from daybook.testing import ManualClock
from daybook.timing import TIMING
from tests.timings import change
from tests.unit.execution.conftest import Begun

pytestmark = pytest.mark.anyio


class Effect:
    """The flow's own part: counts how often it was had, then answers or raises."""

    def __init__(self, answer: Outcome | BaseException | None = None) -> None:
        self.answer = answer or Outcome(Status.SUCCEEDED, output="done")
        self.had = 0

    async def __call__(self) -> Outcome:
        self.had += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class Held(Effect):
    """Has its effect and then waits until it is ended."""

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


async def _carry(begun: Begun, act: attempt.Act, clock: ManualClock | None = None) -> Outcome:
    outcome = await attempt.run_attempt(
        begun.ledger, begun.granted, LAST, act, clock or ManualClock()
    )
    assert isinstance(outcome, Outcome)
    return outcome


@pytest.mark.parametrize(
    ("answer", "least"),
    [
        (AgentTimeout(90, "so far"), timedelta(seconds=1)),
        (AgentTemporary("429"), timedelta(seconds=1)),
        (AgentTemporary("429", retry_after=40), timedelta(seconds=40)),
        (AgentTemporary("429", retry_after=86_400), timedelta(hours=1)),
        (AgentTemporary("429", retry_after=1e15), timedelta(hours=1)),
    ],
)
async def test_a_temporary_error_waits_for_the_next_attempt(
    begun: Begun, answer: BaseException, least: timedelta
) -> None:
    clock = ManualClock()

    again = await attempt.run_attempt(begun.ledger, begun.granted, 1, Effect(answer), clock)

    assert isinstance(again, attempt.RetryAt)
    assert least <= again.until - clock.now() <= least * (1 + JITTER_FRACTION)
    row = await begun.row()
    assert (row.status, row.until, row.holder, row.fence) == ("waiting", again.until, "", 2)
    assert row.reason.startswith("attempt 1 ")
    assert row.reason.endswith(str(answer))


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
async def test_how_it_went_is_written(
    begun: Begun,
    answer: Outcome | BaseException,
    status: str,
    error: str | None,
    output: str | None,
) -> None:
    outcome = await _carry(begun, Effect(answer))

    row = await begun.row()
    assert row.status == outcome.status == status
    assert (row.error, row.output) == (error, output)


class Freeing(ManualClock):
    """Ends the other writer's transaction at the third wait."""

    def __init__(self, other: sqlite3.Connection) -> None:
        super().__init__()
        self.other = other

    async def wait_until(self, instant: datetime) -> None:
        await super().wait_until(instant)
        if len(self.waits) == 3:
            self.other.execute("ROLLBACK")


async def test_an_outcome_waits_for_the_ledger_and_the_effect_is_had_once(begun: Begun) -> None:
    effect = Effect()
    with begun.locked() as other:
        clock = Freeing(other)
        start = clock.now()

        await _carry(begun, effect, clock)

    assert effect.had == 1
    assert (await begun.row()).status == "succeeded"
    waited = [(instant - start).total_seconds() for instant in clock.waits]
    assert waited == [1, 3, 7]


async def test_it_is_tried_until_the_lease_is_lost_and_not_repeated(begun: Begun) -> None:
    effect, clock = Effect(), ManualClock()
    start = clock.now()
    with begun.locked(), pytest.raises(OutcomeUnwritten) as unwritten:
        await _carry(begun, effect, clock)

    assert effect.had == 1
    assert unwritten.value.outcome == effect.answer
    assert "ended as succeeded, but its outcome could not be recorded" in str(unwritten.value)
    assert unwritten.value.spooled
    tried = clock.now() - start
    assert 2 * TIMING.run_lease - settling.MAX_RETRY_DELAY <= tried < 2 * TIMING.run_lease
    assert (await begun.row()).status == "running"
    # Whoever reaches the ledger next writes it.
    await outcome_spool.drain(begun.ledger)
    assert (await begun.row()).status == "succeeded"


async def test_who_is_killed_while_the_ledger_is_away_has_left_the_outcome(begun: Begun) -> None:
    waiting, go = asyncio.Event(), asyncio.Event()

    class Held(ManualClock):
        async def wait_until(self, instant: datetime) -> None:
            waiting.set()
            await go.wait()

    with begun.locked():
        task = asyncio.create_task(_carry(begun, Effect(), Held()))
        await waiting.wait()
        # A process that is killed goes no further than this.
        assert [each.name for each in outcome_spool.pending_files()] == [
            f"{begun.granted.run_id}-1-1.json"
        ]
    assert await outcome_spool.drain(begun.ledger) == outcome_spool.DrainResult(written=1)
    written = await begun.row()
    assert written.status == "succeeded"
    # One that was not killed writes it once more, and changes nothing.
    go.set()
    await task
    assert await begun.row() == written


async def test_what_is_written_after_all_leaves_nothing_in_the_spool(begun: Begun) -> None:
    with begun.locked() as other:
        await _carry(begun, Effect(), Freeing(other))

    assert outcome_spool.pending_files() == []


async def test_a_full_disk_is_told(begun: Begun) -> None:
    outcome_spool.folder().write_text("no folder can be made here")
    with begun.locked(), pytest.raises(OutcomeUnwritten) as unwritten:
        await _carry(begun, Effect())

    assert not unwritten.value.spooled


async def test_a_temporary_failure_that_was_kept_leads_to_the_next_attempt(begun: Begun) -> None:
    clock = ManualClock(SYSTEM_CLOCK.now())
    with begun.locked(), pytest.raises(OutcomeUnwritten):
        await attempt.run_attempt(
            begun.ledger, begun.granted, 1, Effect(AgentTemporary("429")), clock
        )

    await outcome_spool.drain(begun.ledger)

    row = await begun.row()
    assert (row.status, row.fence) == ("waiting", 2)
    assert row.reason == "attempt 1 failed: 429"


async def test_a_refused_lease_ends_the_agent_and_what_is_known_is_kept(
    begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, attempt, run_lease_renewal=0.02)
    held = Held()
    task = asyncio.create_task(_carry(begun, held))
    await held.acting.wait()

    begun.take_over()
    with pytest.raises(LeaseLost):
        await task

    row = await begun.row()
    assert (row.status, row.holder, row.fence) == ("running", "there:2", 2)
    (known,) = row.evidence
    assert (known["fence"], known["status"]) == (1, "unknown")
    assert known["reason"] == "the lease was lost, so the agent was stopped"


async def test_judged_unknown_meanwhile_it_stays_so_when_nothing_better_is_known(
    begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, attempt, run_lease_renewal=0.02)
    held = Held()
    task = asyncio.create_task(_carry(begun, held))
    await held.acting.wait()

    begun.query("UPDATE runs SET status = 'unknown', reason = 'the lease was lost'")
    with pytest.raises(LeaseLost):
        await task

    row = await begun.row()
    assert (row.status, row.reason, row.evidence) == ("unknown", "the lease was lost", [])


async def test_judged_unknown_meanwhile_the_outcome_corrects_it(begun: Begun) -> None:
    async def act() -> Outcome:
        begun.query("UPDATE runs SET status = 'unknown', reason = 'the lease was lost'")
        return Outcome(Status.SUCCEEDED, output="late")

    await _carry(begun, act)

    row = await begun.row()
    assert (row.status, row.reason, row.output) == ("succeeded", "", "late")


async def test_decided_otherwise_meanwhile_nothing_is_overwritten(begun: Begun) -> None:
    async def act() -> Outcome:
        begun.query("UPDATE runs SET status = 'cancelled'")
        return Outcome(Status.SUCCEEDED, output="all the same")

    with pytest.raises(IllegalTransition):
        await _carry(begun, act)

    row = await begun.row()
    assert (row.status, row.output) == ("cancelled", None)
    assert row.evidence[0]["output"] == "all the same"


@pytest.mark.parametrize("cancels", [1, 5])
async def test_who_is_cancelled_while_settling_settles_first(begun: Begun, cancels: int) -> None:
    effect = Effect()

    class Stuck(ManualClock):
        """Waits in earnest, until the test lets go."""

        waiting, go = asyncio.Event(), asyncio.Event()

        async def wait_until(self, instant: datetime) -> None:
            self.waiting.set()
            await self.go.wait()
            await super().wait_until(instant)

    clock = Stuck()
    with begun.locked() as other:
        task = asyncio.create_task(_carry(begun, effect, clock))
        await clock.waiting.wait()
        for _ in range(cancels):
            task.cancel()
            await checkpoint()
        other.execute("ROLLBACK")
    clock.go.set()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await begun.row()).status == "succeeded"
    assert effect.had == 1


async def test_a_loop_that_is_torn_down_settles_first(begun: Begun) -> None:
    # As asyncio does it at the end of `run`: every task is cancelled once, the settling one too.
    settling = asyncio.Event()

    class Slow(ManualClock):
        async def wait_until(self, instant: datetime) -> None:
            settling.set()
            await asyncio.Event().wait()

    mine = asyncio.all_tasks()
    with begun.locked() as other:
        task = asyncio.create_task(_carry(begun, Effect(), Slow()))
        await settling.wait()
        other.execute("ROLLBACK")
    for each in asyncio.all_tasks() - mine:
        each.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await begun.row()).status == "succeeded"


async def test_the_waits_grow_to_a_quarter_of_a_minute(begun: Begun) -> None:
    clock = ManualClock()
    with begun.locked(), pytest.raises(OutcomeUnwritten):
        await _carry(begun, Effect(), clock)

    steps = [b - a for a, b in zip(clock.waits, clock.waits[1:], strict=False)]
    assert steps == sorted(steps)
    assert steps[-1] == timedelta(seconds=15)
