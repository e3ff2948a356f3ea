"""What the end of a process means for a run that may be somebody else's by now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.execution import outcome_spool
from daybook.execution.outcome_spool import SpooledOutcome
from daybook.home import Home
from daybook.jobs.policy import Policy
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.runs import claim_requests, claims
from daybook.runs.claim_requests import ClaimRequest, Granted
from daybook.worker import exit_handling
from daybook.worker.supervision import Facts, StopCause, SupervisedRun

pytestmark = pytest.mark.anyio

HERE = "here:1"
FIRST, SECOND = "5a0b21ef-5a3c-4b3e-8c1c-1d9f0c9a0001", "5a0b21ef-5a3c-4b3e-8c1c-1d9f0c9a0002"
"""Two Prefect runs of one occurrence."""


class Away:
    """A Prefect that is not to be reached: what it is to be told stays marked."""

    def __getattr__(self, name: str) -> Any:
        raise httpx.ConnectError("away")


@dataclass(frozen=True)
class FlowRun:
    id: str
    name: str = "a run"


@dataclass(frozen=True)
class Dead:
    """A process that has ended; it printed nothing."""

    output: Path


async def claimed(ledger: Ledger, by: str, kind: str = "agent-prompt") -> Granted:
    """The occurrence, claimed by this worker in the Prefect run ``by``, and begun."""
    offer = ClaimRequest(claim_requests.flow_key("f"), kind, "manual", SYSTEM_CLOCK.now(), HERE)
    offer = ClaimRequest(**(vars(offer) | {"flow_run_id": by, "parameters": {"prompt": "Do it"}}))
    granted = await claims.claim(ledger, offer)
    assert isinstance(granted, Granted)
    return granted


async def row_of(ledger: Ledger, run_id: str) -> RunRow:
    async with ledger.read() as session:
        row = await session.get(RunRow, run_id)
    assert row is not None
    return row


@pytest.mark.parametrize(
    ("of", "becomes"), [(FIRST, Status.RUNNING), (SECOND, Status.UNKNOWN)], ids=["old", "new"]
)
async def test_an_end_settles_the_claim_of_its_own_process_only(
    tmp_path: Path, of: str, becomes: Status
) -> None:
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger:
        first = await claimed(ledger, FIRST)
        at_once = SYSTEM_CLOCK.now() - timedelta(seconds=1)
        await claims.postpone(ledger, first.run_id, first.fence, at_once, "given back")
        # The same worker has the run again, in another Prefect run, whose process is at work.
        again = await claimed(ledger, SECOND)
        await claims.begin(ledger, again.run_id, again.fence)

        running = cast(Any, Dead(tmp_path / "nothing"))
        watched = SupervisedRun(FlowRun(of), running, first.run_id, HERE, exit_code=-9)
        await exit_handling.handle_exit(ledger, cast(Any, Away()), watched)

        row = await row_of(ledger, first.run_id)
    assert (row.state, row.fence) == (becomes, again.fence)


@pytest.mark.parametrize(
    ("kind", "changed", "idempotent", "becomes"),
    [
        ("agent-prompt", False, False, Status.WAITING),
        ("heartbeat", False, False, Status.WAITING),
        ("agent-prompt", True, False, Status.TIMED_OUT),
        ("agent-prompt", True, True, Status.WAITING),
        ("tool-call", False, False, Status.TIMED_OUT),
        ("webhook", False, False, Status.TIMED_OUT),
        ("tool-call", False, True, Status.WAITING),
    ],
)
async def test_what_was_called_and_had_to_be_killed_is_not_called_again_unbidden(
    tmp_path: Path, kind: str, changed: bool, idempotent: bool, becomes: Status
) -> None:
    policy = Policy(retries=3, idempotent=idempotent)
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger:
        granted = await claimed(ledger, FIRST, kind)
        await claims.begin(ledger, granted.run_id, granted.fence)

        running = cast(Any, Dead(tmp_path / "nothing"))
        watched = SupervisedRun(
            FlowRun(FIRST),
            running,
            granted.run_id,
            HERE,
            exit_code=-9,
            cause=StopCause.TIMEOUT,
            policy=policy,
            facts=Facts(changed=changed),
        )
        await exit_handling.handle_exit(ledger, cast(Any, Away()), watched)

        row = await row_of(ledger, granted.run_id)
    assert (row.state, row.attempts) == (becomes, 1)


@pytest.mark.parametrize(
    "cause", [None, *(each for each in StopCause if each is not StopCause.LOST)]
)
async def test_what_the_process_told_that_it_took_is_in_the_book(
    tmp_path: Path, cause: StopCause | None
) -> None:
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger:
        granted = await claimed(ledger, FIRST)
        await claims.begin(ledger, granted.run_id, granted.fence)
        watched = SupervisedRun(
            FlowRun(FIRST),
            cast(Any, Dead(tmp_path / "nothing")),
            granted.run_id,
            HERE,
            exit_code=-9,
            cause=cause,
            facts=Facts(took={"input_tokens": 70, "output_tokens": 7}),
        )
        await exit_handling.handle_exit(ledger, cast(Any, Away()), watched)

        row = await row_of(ledger, granted.run_id)
    assert row.usage == {"input_tokens": 70, "output_tokens": 7}


@pytest.mark.parametrize(
    "cause",
    [None, StopCause.CANCEL, StopCause.TIMEOUT, StopCause.DEADLINE, StopCause.SHUTDOWN],
    ids=str,
)
async def test_an_outcome_in_the_spool_is_the_runs(
    tmp_path: Path, daybook_home: Home, cause: StopCause | None
) -> None:
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger:
        granted = await claimed(ledger, FIRST)
        await claims.begin(ledger, granted.run_id, granted.fence)
        done = Outcome(Status.SUCCEEDED, output="done")
        outcome_spool.put(SpooledOutcome(ledger.id, granted.run_id, granted.fence, done))

        running = cast(Any, Dead(tmp_path / "nothing"))
        watched = SupervisedRun(
            FlowRun(FIRST), running, granted.run_id, HERE, exit_code=-9, cause=cause
        )
        await exit_handling.handle_exit(ledger, cast(Any, Away()), watched)

        row = await row_of(ledger, granted.run_id)
    assert (row.state, row.output, row.evidence) == (Status.SUCCEEDED, "done", [])
    assert outcome_spool.pending_files() == []
