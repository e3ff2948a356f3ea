"""Many processes in one conversation take turns, and one that is killed says all or nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.runs import claim_requests as offers
from daybook.runs import claims, rows, sessions
from daybook.runs.claim_requests import ClaimRequest, Granted
from daybook.testing import ManualClock
from tests import side_by_side
from tests.databases import Database
from tests.unit.runs import claimers, talkers

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

MANY = 20


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> Iterator[None]:
    """The process that all others are forked from: it has imported the ledger."""
    side_by_side.CONTEXT.set_forkserver_preload(["tests.unit.runs.talkers"])
    yield
    from multiprocessing import forkserver

    forkserver._forkserver._stop()  # type: ignore[attr-defined]


def offer(number: int) -> ClaimRequest:
    """One of many runs of no job that share a session, each due a second after the last."""
    given = {"prompt": f"{number}?", "agent": "default", "session_key": "ops"}
    due = SYSTEM_CLOCK.now() - timedelta(seconds=MANY - number)
    key = offers.flow_key(f"f{number}")
    return ClaimRequest(
        key, "agent-prompt", "direct", due, f"p:{number}", given, flow_run_id=f"f{number}"
    )


@pytest.mark.slow
async def test_twenty_processes_that_wait_take_turns_by_due_time(
    database: Database, tmp_path: Path
) -> None:
    address = database.address
    async with Ledger(address) as ledger:
        first = await claims.claim(ledger, offer(0))
        assert isinstance(first, Granted)
        await claims.begin(ledger, first.run_id, first.fence)
        # The last due comes first.
        offers = [offer(number) for number in range(MANY, 0, -1)]
        with talkers.waiting(address, offers, tmp_path / "place") as turns:
            outcome = Outcome(Status.SUCCEEDED, output="answer to 0?", prompt="0?")
            await claims.finish(ledger, first.run_id, first.fence, outcome)
            took = [turn.recv() for turn in reversed(turns)]
        async with ledger.read() as session:
            said = await sessions.history(session, "default:ops", 1000)
            ended = [await rows.get(session, each.run_id) for each in took]

    assert all(each.alone for each in took)
    assert [(row.status, row.attempts, row.fence) for row in ended] == [("succeeded", 1, 1)] * MANY
    assert [each.number for each in said] == list(range(1, 2 * MANY + 3))
    contents = [f"{start}{n}?" for n in range(MANY + 1) for start in ("", "answer to ")]
    assert [each.content for each in said] == contents
    assert [each.run_id for each in said[2:]] == [each.run_id for each in took for _ in range(2)]
    for turn, each in enumerate(took, start=1):
        assert list(each.given) == contents[: 2 * turn][-sessions.MAX_HISTORY_MESSAGES :]


async def test_killed_while_it_settles_neither_outcome_nor_words_are_there(
    database: Database,
) -> None:
    address = database.address
    async with Ledger(address) as ledger:
        granted = await claims.claim(ledger, offer(1))
        assert isinstance(granted, Granted)
        await claims.begin(ledger, granted.run_id, granted.fence)
        with talkers.settling(address, granted) as child:
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
            said = await sessions.history(session, "default:ops")
    assert [each.content for each in said] == ["1?", "kept"]


async def test_one_killed_at_work_holds_the_session_until_its_lease_is_lost(
    database: Database,
) -> None:
    address = database.address
    clock = ManualClock(SYSTEM_CLOCK.now())
    async with Ledger(address, clock) as ledger:
        with claimers.walked(address, offer(1), clock, "running") as (child, run_id):
            child.kill()
            child.join(60)
        second = replace(offer(2), due=clock.now())
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
