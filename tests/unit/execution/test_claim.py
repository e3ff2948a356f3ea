"""From a claim request to its result: waits, reconciliation and aborts in the flow's process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import Abort

from daybook.errors import InvalidInput
from daybook.execution import claim
from daybook.execution.claim_effects import Flow, ShowEnd, Start, Suspend, Worker
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.prefect import reconcile
from daybook.runs import claim_requests, claims, history, leases, sessions
from daybook.runs.claim_requests import ClaimRequest, Finished, Granted
from daybook.testing import ManualClock

pytestmark = pytest.mark.anyio

DIRECT = Flow("f", timedelta.max)


@dataclass
class Compared:
    """What the claim asks of Prefect: the compared jobs, and the schedules that stay Prefect's."""

    jobs: list[str] = field(default_factory=list)
    prefect_schedules: frozenset[str] = frozenset()


@pytest.fixture(autouse=True)
def compared(monkeypatch: pytest.MonkeyPatch) -> Compared:
    """Compare no job with a real Prefect."""
    there = Compared()

    async def compare(job_id: str, deployment_id: str) -> frozenset[str]:
        there.jobs.append(job_id)
        return there.prefect_schedules

    monkeypatch.setattr(reconcile, "compare", compare)
    return there


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def ledger(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Ledger]:
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path}/ledger.db", clock) as ledger:
        yield ledger


async def _hourly(ledger: Ledger, **fields: Any) -> ClaimRequest:
    """Return a claim request for the next due time of an hourly job."""
    now = ledger.now()
    job = new_job(now=now, name="brief", prompt="What is new?", cron="0 * * * *", **fields)
    async with ledger.write() as session:
        stored = await store.add(session, job, "brief", now)
    due = now + timedelta(hours=1)
    key = claim_requests.due_key(stored.id, due)
    parameters = job.parameters()
    return ClaimRequest(key, "agent-prompt", "schedule", due, "here:1", parameters, stored.id, "f")


@pytest.mark.parametrize("early", [timedelta(seconds=30), timedelta(microseconds=1)])
async def test_a_run_that_starts_early_waits_for_its_due_time(
    ledger: Ledger, clock: ManualClock, early: timedelta
) -> None:
    claim_request = await _hourly(ledger)
    clock.set(claim_request.due - early)

    answer = await claim.wait_for_claim(ledger, claim_request, clock, deployment_id="d")

    assert isinstance(answer, Granted)
    assert clock.waits == [claim_request.due]
    assert clock.now() == claim_request.due


class Fast(ManualClock):
    """Machine clock that is five seconds ahead of the ledger's clock."""

    def __init__(self, ledgers: ManualClock) -> None:
        super().__init__()
        self._ledgers = ledgers

    def now(self) -> datetime:
        return self._ledgers.now() + timedelta(seconds=5)

    async def wait_until(self, instant: datetime) -> None:
        self.waits.append(instant)
        self._ledgers.move(max(instant - self.now(), timedelta(0)))


async def test_a_process_whose_clock_is_ahead_waits_once(
    ledger: Ledger, clock: ManualClock
) -> None:
    claim_request = await _hourly(ledger)
    clock.set(claim_request.due - timedelta(seconds=3))
    machines = Fast(clock)

    assert isinstance(await claim.wait_for_claim(ledger, claim_request, machines), Granted)
    assert machines.waits == [claim_request.due + timedelta(seconds=5)]
    assert clock.now() == claim_request.due


async def test_a_run_without_a_deployment_waits_in_its_process_for_two_days(
    ledger: Ledger, clock: ManualClock
) -> None:
    due = clock.now() + timedelta(days=2)
    claim_request = ClaimRequest(
        claim_requests.flow_key("f"), "agent-prompt", "direct", due, "here:1", flow_run_id="f"
    )

    assert isinstance(await claim.wait_for_claim(ledger, claim_request, clock), Granted)
    assert clock.waits == [due]


async def test_a_claim_reconciles_its_job_only_once(
    ledger: Ledger, clock: ManualClock, compared: Compared
) -> None:
    claim_request = replace(await _hourly(ledger), parameters={"prompt": "Edited in Prefect"})
    clock.set(claim_request.due)

    answer = await claim.wait_for_claim(ledger, claim_request, clock, deployment_id="d")

    assert isinstance(answer, Granted)
    assert answer.parameters["prompt"] == "What is new?"
    assert compared.jobs == [claim_request.job_id]


async def test_a_run_that_is_not_due_after_reconciling_is_skipped(
    ledger: Ledger, clock: ManualClock
) -> None:
    claim_request = await _hourly(ledger)
    wrong = claim_request.due + timedelta(minutes=1)
    clock.set(wrong)
    claim_request = replace(
        claim_request,
        due=wrong,
        occurrence=claim_requests.due_key(str(claim_request.job_id), wrong),
    )

    answer = await claim.wait_for_claim(ledger, claim_request, clock, deployment_id="d")

    assert answer == Finished(Status.SKIPPED, "not due")


async def test_a_run_of_an_external_schedule_is_claimed_by_its_flow_key(
    ledger: Ledger, clock: ManualClock, compared: Compared
) -> None:
    compared.prefect_schedules = frozenset({"s"})
    claim_request = await _hourly(ledger)
    wrong = claim_request.due + timedelta(minutes=1)
    clock.set(wrong)
    claim_request = replace(
        claim_request,
        due=wrong,
        occurrence=claim_requests.due_key(str(claim_request.job_id), wrong),
    )

    answer = await claim.wait_for_claim(
        ledger, claim_request, clock, deployment_id="d", made_by="s"
    )

    assert isinstance(answer, Granted)
    assert answer.occurrence == "flow:f"


async def test_an_occurrence_held_by_another_flow_run_is_skipped(
    ledger: Ledger, clock: ManualClock
) -> None:
    claim_request = await _hourly(ledger)
    clock.set(claim_request.due)
    held = await claim.wait_for_claim(ledger, claim_request, clock, deployment_id="d")
    assert isinstance(held, Granted)

    other = replace(claim_request, flow_run_id="g")
    answer = await claim.wait_for_claim(ledger, other, clock, deployment_id="d")

    assert isinstance(answer, Finished)
    assert (answer.status, answer.run_id) == (Status.SKIPPED, held.run_id)
    assert answer.reason == f"run {held.run_id[:8]} is already in progress"


async def test_a_process_aborts_if_another_one_holds_its_flow_run(
    ledger: Ledger, clock: ManualClock
) -> None:
    claim_request = await _hourly(ledger)
    clock.set(claim_request.due)
    await claim.wait_for_claim(ledger, claim_request, clock, deployment_id="d")

    with pytest.raises(Abort, match="is held by here:1"):
        again = replace(claim_request, holder="here:2")
        await claim.wait_for_claim(ledger, again, clock, deployment_id="d")


async def test_a_run_whose_session_is_busy_retries_its_claim_until_it_is_free(
    ledger: Ledger, clock: ManualClock
) -> None:
    parameters = {"prompt": "What is new?", "session_key": "ops"}
    one = ClaimRequest(
        claim_requests.flow_key("one"), "agent-prompt", "direct", clock.now(), "h", parameters
    )
    two = replace(one, occurrence=claim_requests.flow_key("two"))
    held = await claim.wait_for_claim(ledger, one, clock)
    assert isinstance(held, Granted)
    await claims.begin(ledger, held.run_id, held.fence)

    class Watched(ManualClock):
        """Clock that renews the other run's lease, and finishes that run at the 50th wait."""

        async def wait_until(self, instant: datetime) -> None:
            await clock.wait_until(instant)
            assert isinstance(held, Granted)
            if len(clock.waits) < 50:
                assert await leases.renew(ledger, held.run_id, held.fence)
            else:
                outcome = Outcome(Status.SUCCEEDED, output="Fine.", prompt="What is new?")
                await claims.finish(ledger, held.run_id, held.fence, outcome)

        def now(self) -> datetime:
            return clock.now()

    start = clock.now()
    answer = await claim.wait_for_claim(ledger, two, Watched(), deployment_id="d")

    assert isinstance(answer, Granted)
    assert [each.content for each in answer.history] == ["What is new?", "Fine."]
    every = sessions.RETRY_INTERVAL
    assert clock.waits == [start + every * number for number in range(1, 51)]


async def test_cancelling_a_process_that_waits_for_its_session_keeps_the_run_waiting(
    ledger: Ledger, clock: ManualClock
) -> None:
    parameters = {"prompt": "What is new?", "session_key": "ops"}
    claim_request = ClaimRequest(
        claim_requests.flow_key("one"), "agent-prompt", "direct", clock.now(), "h", parameters
    )
    await claim.wait_for_claim(ledger, claim_request, clock)
    waits = asyncio.Event()

    class Stopped(ManualClock):
        async def wait_until(self, instant: datetime) -> None:
            waits.set()
            await asyncio.Event().wait()

    second = replace(claim_request, occurrence=claim_requests.flow_key("two"))
    task = asyncio.create_task(
        claim.wait_for_claim(ledger, second, Stopped(clock.now()), deployment_id="d")
    )
    await waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async with ledger.read() as session:
        (row,) = [each for each in await history.live(session) if each.status == "waiting"]
    assert row.occurrence == "flow:two"
    assert row.reason.startswith("session default:ops is busy")


async def test_the_operators_limits_are_read_at_each_claim(
    ledger: Ledger, clock: ManualClock, daybook_home: Home
) -> None:
    """An invalid configuration file raises an error that names the field; nothing is claimed."""
    claim_request = await _hourly(ledger)
    clock.set(claim_request.due)
    file = daybook_home.path / "config.toml"
    file.write_text("[limits]\nbudget = 3\n")
    with pytest.raises(InvalidInput, match=r"config.toml: limits: limits.budget: unknown field"):
        await claim.decide(ledger, claim_request, DIRECT)
    file.write_text("user_jobs = false\n")
    (effect,) = await claim.decide(ledger, claim_request, DIRECT)
    assert isinstance(effect, ShowEnd)
    assert effect.end.reason == "user jobs are disabled"


async def test_a_due_time_waits_until_invalid_settings_are_repaired(
    ledger: Ledger, clock: ManualClock, daybook_home: Home
) -> None:
    """Without the row that waits, a job without catch-up would miss the due time."""
    claim_request = await _hourly(ledger, catch_up="none")
    clock.set(claim_request.due)
    file = daybook_home.path / "config.toml"
    file.write_text("max_concurrent = = 7\n")
    (effect,) = await claim.decide(ledger, claim_request, Worker("f"), deployment_id="d")
    assert isinstance(effect, Suspend)
    assert "config.toml" in effect.waiting.why

    clock.move(timedelta(minutes=10))
    file.write_text("max_concurrent = 7\n")
    (effect,) = await claim.decide(ledger, claim_request, Worker("f"), deployment_id="d")
    assert isinstance(effect, Start)
