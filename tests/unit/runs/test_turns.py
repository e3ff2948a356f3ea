"""Many real processes take turns in one session; one that is killed writes all or nothing."""

from __future__ import annotations

import signal
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.policies.compression import KEPT_MESSAGES
from daybook.runs import claim_requests as offers
from daybook.runs import claims, rows, sessions
from daybook.runs.claim_requests import ClaimRequest, Granted
from daybook.testing import ManualClock
from tests.databases import Database
from tests.unit.runs import claimers, talkers

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

MANY = 20


def claim_request(number: int) -> ClaimRequest:
    """Return the request of one of many runs without a job that share a session, by due time."""
    given = {"prompt": f"{number}?", "agent": "default", "session_key": "ops"}
    due = SYSTEM_CLOCK.now() - timedelta(seconds=MANY - number)
    key = offers.flow_key(f"f{number}")
    return ClaimRequest(
        key, "agent-prompt", "direct", due, f"p:{number}", given, flow_run_id=f"f{number}"
    )


@pytest.mark.slow
async def test_twenty_waiting_processes_take_turns_in_a_session_by_due_time(
    database: Database, tmp_path: Path
) -> None:
    address = database.address
    async with Ledger(address) as ledger:
        first = await claims.claim(ledger, claim_request(0))
        assert isinstance(first, Granted)
        await claims.begin(ledger, first.run_id, first.fence)
        # The run that is due last claims first.
        claim_requests = [claim_request(number) for number in range(MANY, 0, -1)]
        with talkers.waiting(address, claim_requests, tmp_path / "place") as turns:
            outcome = Outcome(Status.SUCCEEDED, output="answer to 0?", prompt="0?")
            await claims.finish(ledger, first.run_id, first.fence, outcome)
            reports = [turn.recv() for turn in reversed(turns)]
        async with ledger.read() as session:
            messages = await sessions.history(session, "default:ops", 1000)
            ended = [await rows.get(session, each.run_id) for each in reports]

    assert all(each.alone for each in reports)
    assert [(row.status, row.attempts, row.fence) for row in ended] == [("succeeded", 1, 1)] * MANY
    assert [each.number for each in messages] == list(range(1, 2 * MANY + 3))
    contents = [f"{start}{n}?" for n in range(MANY + 1) for start in ("", "answer to ")]
    assert [each.content for each in messages] == contents
    assert [each.run_id for each in messages[2:]] == [
        each.run_id for each in reports for _ in range(2)
    ]
    for turn, each in enumerate(reports, start=1):
        assert list(each.given) == contents[: 2 * turn][-KEPT_MESSAGES:]


async def test_a_process_killed_while_it_finishes_writes_neither_outcome_nor_messages(
    database: Database,
) -> None:
    address = database.address
    async with Ledger(address) as ledger:
        granted = await claims.claim(ledger, claim_request(1))
        assert isinstance(granted, Granted)
        await claims.begin(ledger, granted.run_id, granted.fence)
        with talkers.finishing(address, granted) as child:
            child.kill()
            child.join(60)
            assert child.exitcode == -signal.SIGKILL

        async with ledger.read() as session:
            assert (await rows.get(session, granted.run_id)).status == "running"
            assert await sessions.history(session, "default:ops") == ()
            assert await sessions.recent(session, 10) == []

        outcome = Outcome(Status.SUCCEEDED, output="kept", prompt="1?")
        await claims.finish(ledger, granted.run_id, granted.fence, outcome)
        async with ledger.read() as session:
            messages = await sessions.history(session, "default:ops")
    assert [each.content for each in messages] == ["1?", "kept"]


async def test_a_killed_run_holds_its_session_until_its_lease_is_declared_lost(
    database: Database,
) -> None:
    address = database.address
    clock = ManualClock(SYSTEM_CLOCK.now())
    async with Ledger(address, clock) as ledger:
        with claimers.walked(address, claim_request(1), clock, "running") as (child, run_id):
            child.kill()
            child.join(60)
        second = replace(claim_request(2), due=clock.now())
        answers = []
        while not isinstance(answer := await claims.claim(ledger, second), Granted):
            assert isinstance(answer, offers.Waiting)
            answers.append(answer)
            clock.set(answer.until)

        assert answer.history == ()
        assert {each.why for each in answers} == {
            f"session default:ops is busy: run {run_id[:8]} holds it"
        }
        waited = len(answers) * sessions.RETRY_INTERVAL
        assert timedelta(minutes=2) <= waited <= timedelta(minutes=2) + 2 * sessions.RETRY_INTERVAL
        async with ledger.read() as session:
            assert (await rows.get(session, run_id)).status == "unknown"
