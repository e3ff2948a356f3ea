"""From an offer to a claim: who waits where, who compares, who leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from prefect.exceptions import Abort

from daybook.errors import InvalidInput
from daybook.execution import claim
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.runs import claim_requests, claims, history, leases, sessions
from daybook.runs.claim_requests import ClaimRequest, Finished, Granted
from daybook.testing import ManualClock

pytestmark = pytest.mark.anyio


class Prefect:
    """A reconciler that only remembers what it was asked."""

    def __init__(self, foreign: str = "") -> None:
        self.compared: list[str] = []
        self.foreign = frozenset({foreign} - {""})

    async def compare(self, job_id: str, deployment_id: str) -> frozenset[str]:
        self.compared.append(job_id)
        return self.foreign

    async def recognise(self, deployment_id: str) -> None:
        raise AssertionError

    async def push(self, job_id: str) -> None:
        raise AssertionError


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def ledger(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Ledger]:
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path}/ledger.db", clock) as ledger:
        yield ledger


async def _hourly(ledger: Ledger) -> ClaimRequest:
    """The next due time of an hourly job."""
    now = ledger.now()
    job = new_job(now=now, name="brief", prompt="What is new?", cron="0 * * * *")
    async with ledger.write() as session:
        stored = await store.add(session, job, "brief", now)
    due = now + timedelta(hours=1)
    key = claim_requests.due_key(stored.id, due)
    parameters = job.parameters()
    return ClaimRequest(key, "agent-prompt", "schedule", due, "here:1", parameters, stored.id, "f")


@pytest.mark.parametrize("early", [timedelta(seconds=30), timedelta(microseconds=1)])
async def test_a_run_that_comes_early_waits_for_its_due_time(
    ledger: Ledger, clock: ManualClock, early: timedelta
) -> None:
    offer = await _hourly(ledger)
    clock.set(offer.due - early)

    answer = await claim.wait_for_claim(ledger, offer, Prefect(), clock, deployment_id="d")

    assert isinstance(answer, Granted)
    assert clock.waits == [offer.due]
    assert clock.now() == offer.due


class Fast(ManualClock):
    """A machine's clock that is ahead of the ledger's by five seconds."""

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
    offer = await _hourly(ledger)
    clock.set(offer.due - timedelta(seconds=3))
    machines = Fast(clock)

    assert isinstance(await claim.wait_for_claim(ledger, offer, Prefect(), machines), Granted)
    assert machines.waits == [offer.due + timedelta(seconds=5)]
    assert clock.now() == offer.due


async def test_a_run_of_no_deployment_waits_however_long(
    ledger: Ledger, clock: ManualClock
) -> None:
    due = clock.now() + timedelta(days=2)
    offer = ClaimRequest(
        claim_requests.flow_key("f"), "agent-prompt", "direct", due, "here:1", flow_run_id="f"
    )

    assert isinstance(await claim.wait_for_claim(ledger, offer, Prefect(), clock), Granted)
    assert clock.waits == [due]


async def test_it_compares_once_and_no_more(ledger: Ledger, clock: ManualClock) -> None:
    offer = replace(await _hourly(ledger), parameters={"prompt": "Edited in Prefect"})
    clock.set(offer.due)
    prefect = Prefect()

    answer = await claim.wait_for_claim(ledger, offer, prefect, clock, deployment_id="d")

    assert isinstance(answer, Granted)
    assert answer.parameters["prompt"] == "What is new?"
    assert prefect.compared == [offer.job_id]


async def test_still_not_due_after_comparing_it_ends_without_a_row(
    ledger: Ledger, clock: ManualClock
) -> None:
    offer = await _hourly(ledger)
    wrong = offer.due + timedelta(minutes=1)
    clock.set(wrong)
    offer = replace(offer, due=wrong, occurrence=claim_requests.due_key(str(offer.job_id), wrong))

    answer = await claim.wait_for_claim(ledger, offer, Prefect(), clock, deployment_id="d")

    assert answer == Finished(Status.SKIPPED, "not due")


async def test_what_a_schedule_of_prefects_own_made_runs_by_its_flow_key(
    ledger: Ledger, clock: ManualClock
) -> None:
    offer = await _hourly(ledger)
    wrong = offer.due + timedelta(minutes=1)
    clock.set(wrong)
    offer = replace(offer, due=wrong, occurrence=claim_requests.due_key(str(offer.job_id), wrong))

    answer = await claim.wait_for_claim(
        ledger, offer, Prefect("s"), clock, deployment_id="d", made_by="s"
    )

    assert isinstance(answer, Granted)
    assert answer.occurrence == "flow:f"


async def test_taken_by_another_run_it_is_skipped(ledger: Ledger, clock: ManualClock) -> None:
    offer = await _hourly(ledger)
    clock.set(offer.due)
    held = await claim.wait_for_claim(ledger, offer, Prefect(), clock, deployment_id="d")
    assert isinstance(held, Granted)

    other = replace(offer, flow_run_id="g")
    answer = await claim.wait_for_claim(ledger, other, Prefect(), clock, deployment_id="d")

    assert isinstance(answer, Finished)
    assert (answer.status, answer.run_id) == (Status.SKIPPED, held.run_id)
    assert answer.reason == f"run {held.run_id[:8]} already has it"


async def test_taken_by_another_process_of_the_same_run_it_leaves(
    ledger: Ledger, clock: ManualClock
) -> None:
    offer = await _hourly(ledger)
    clock.set(offer.due)
    await claim.wait_for_claim(ledger, offer, Prefect(), clock, deployment_id="d")

    with pytest.raises(Abort, match="is held by here:1"):
        again = replace(offer, holder="here:2")
        await claim.wait_for_claim(ledger, again, Prefect(), clock, deployment_id="d")


async def test_a_run_whose_session_is_busy_looks_again_until_it_is_its_turn(
    ledger: Ledger, clock: ManualClock
) -> None:
    parameters = {"prompt": "What is new?", "session_key": "ops"}
    one = ClaimRequest(
        claim_requests.flow_key("one"), "agent-prompt", "direct", clock.now(), "h", parameters
    )
    two = replace(one, occurrence=claim_requests.flow_key("two"))
    held = await claim.wait_for_claim(ledger, one, Prefect(), clock)
    assert isinstance(held, Granted)
    await claims.begin(ledger, held.run_id, held.fence)

    class Watched(ManualClock):
        """Ends the other run at the fiftieth look, and keeps its lease until then."""

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
    answer = await claim.wait_for_claim(ledger, two, Prefect(), Watched(), deployment_id="d")

    assert isinstance(answer, Granted)
    assert [each.content for each in answer.history] == ["What is new?", "Fine."]
    every = sessions.RETRY_INTERVAL
    assert clock.waits == [start + every * look for look in range(1, 51)]


async def test_a_run_that_waits_for_its_session_can_be_cancelled_and_is_not_lost(
    ledger: Ledger, clock: ManualClock
) -> None:
    parameters = {"prompt": "What is new?", "session_key": "ops"}
    offer = ClaimRequest(
        claim_requests.flow_key("one"), "agent-prompt", "direct", clock.now(), "h", parameters
    )
    await claim.wait_for_claim(ledger, offer, Prefect(), clock)
    waits = asyncio.Event()

    class Stopped(ManualClock):
        async def wait_until(self, instant: datetime) -> None:
            waits.set()
            await asyncio.Event().wait()

    second = replace(offer, occurrence=claim_requests.flow_key("two"))
    task = asyncio.create_task(
        claim.wait_for_claim(ledger, second, Prefect(), Stopped(clock.now()), deployment_id="d")
    )
    await waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async with ledger.read() as session:
        (row,) = [each for each in await history.live(session) if each.status == "waiting"]
    assert row.occurrence == "flow:two"
    assert row.reason.startswith("session default:ops is busy")


async def test_the_operators_rules_are_those_of_the_moment(
    ledger: Ledger, clock: ManualClock, daybook_home: Home
) -> None:
    """The file is read at each claim; one that is wrong is named, and nothing is decided by it."""
    offer = await _hourly(ledger)
    clock.set(offer.due)
    file = daybook_home.path / "config.toml"
    file.write_text("[limits]\nbudget = 3\n")
    with pytest.raises(InvalidInput, match=r"config.toml: limits: limits.budget: unknown field"):
        await claim.decide(ledger, offer, Prefect())
    file.write_text("user_jobs = false\n")
    answer = await claim.decide(ledger, offer, Prefect())
    assert isinstance(answer, Finished)
    assert answer.reason == "user jobs are switched off"
