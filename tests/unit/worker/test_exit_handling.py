"""Handling of process exits, also if another process has claimed the run since."""

from __future__ import annotations

import sqlite3
from contextlib import closing
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
from daybook.ledger import schema
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import Fact, RunRow
from daybook.policies.policy import Policy
from daybook.prefect import state_mirror
from daybook.runs import claim_requests, claims
from daybook.runs.claim_requests import ClaimRequest, Granted
from daybook.worker import exit_handling
from daybook.worker.supervision import ReportedFacts, StopCause, SupervisedRun

pytestmark = pytest.mark.anyio

HERE = "here:1"
FIRST, SECOND = "5a0b21ef-5a3c-4b3e-8c1c-1d9f0c9a0001", "5a0b21ef-5a3c-4b3e-8c1c-1d9f0c9a0002"
"""Two Prefect runs of one occurrence."""


@dataclass
class RecordingPrefect:
    """Prefect that has lost the runs, so no state is set, and records the artifacts."""

    artifacts: list[Any]
    problem: Exception | None = None

    async def create_artifact(self, artifact: Any) -> None:
        if self.problem:
            raise self.problem
        self.artifacts.append(artifact)


class UnreachableLedger:
    """Unreachable Prefect, so outcomes stay marked as unmirrored."""

    def __getattr__(self, name: str) -> Any:
        raise httpx.ConnectError("away")


@dataclass(frozen=True)
class FlowRun:
    id: str
    name: str = "a run"


@dataclass(frozen=True)
class Dead:
    """Process that has ended without output."""

    output: Path


async def claimed(ledger: Ledger, by: str, kind: str = "agent-prompt") -> Granted:
    """Claim the occurrence for this worker in the Prefect run ``by``."""
    claim_request = ClaimRequest(
        claim_requests.flow_key("f"), kind, "manual", SYSTEM_CLOCK.now(), HERE
    )
    parameters = {"prompt": "Do it"}
    if kind == "webhook":
        parameters = {"url": "https://hooks.example/", "body": "Do it"}
    claim_request = ClaimRequest(
        **(vars(claim_request) | {"flow_run_id": by, "parameters": parameters})
    )
    granted = await claims.claim(ledger, claim_request)
    assert isinstance(granted, Granted)
    return granted


async def row_of(ledger: Ledger, run_id: str) -> RunRow:
    async with ledger.read() as session:
        row = await session.get(RunRow, run_id)
    assert row is not None
    return row


@pytest.mark.parametrize(
    ("of", "cause", "expected"),
    [
        (FIRST, None, Status.RUNNING),
        (SECOND, None, Status.UNKNOWN),
        (SECOND, StopCause.LOST, Status.RUNNING),  # the lease reaper ends it
    ],
    ids=["old", "new", "lost"],
)
async def test_the_exit_of_a_process_ends_only_the_claim_of_its_own_flow_run(
    tmp_path: Path, of: str, cause: StopCause | None, expected: Status
) -> None:
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger:
        first = await claimed(ledger, FIRST)
        at_once = SYSTEM_CLOCK.now() - timedelta(seconds=1)
        await claims.postpone(ledger, first.run_id, first.fence, at_once, "given back")
        # The same worker claims the run again in another Prefect run, whose process is running.
        again = await claimed(ledger, SECOND)
        await claims.begin(ledger, again.run_id, again.fence)

        running = cast(Any, Dead(tmp_path / "nothing"))
        watched = SupervisedRun(FlowRun(of), running, first.run_id, HERE, exit_code=-9, cause=cause)
        await exit_handling.handle_exit(ledger, cast(Any, UnreachableLedger()), watched)

        row = await row_of(ledger, first.run_id)
    assert (row.state, row.fence) == (expected, again.fence)


async def killed_at_its_timeout(
    path: Path, kind: str, policy: Policy, facts: ReportedFacts
) -> RunRow:
    """Return the row of a run whose first attempt the worker has killed at its timeout."""
    async with Ledger(f"sqlite+aiosqlite:///{path / 'ledger.db'}") as ledger:
        granted = await claimed(ledger, FIRST, kind)
        await claims.begin(ledger, granted.run_id, granted.fence)
        watched = SupervisedRun(
            FlowRun(FIRST),
            cast(Any, Dead(path / "nothing")),
            granted.run_id,
            HERE,
            exit_code=-9,
            cause=StopCause.TIMEOUT,
            policy=policy,
            facts=facts,
        )
        await exit_handling.handle_exit(ledger, cast(Any, UnreachableLedger()), watched)
        return await row_of(ledger, granted.run_id)


@pytest.mark.parametrize(
    ("kind", "changed", "idempotent", "expected"),
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
async def test_a_killed_call_that_may_have_had_an_effect_is_retried_only_if_idempotent(
    tmp_path: Path, kind: str, changed: bool, idempotent: bool, expected: Status
) -> None:
    policy = Policy(retries=3, idempotent=idempotent)
    row = await killed_at_its_timeout(tmp_path, kind, policy, ReportedFacts(changed=changed))
    assert (row.state, row.attempts) == (expected, 1)


@pytest.mark.parametrize(("retries", "expected"), [(0, Status.TIMED_OUT), (1, Status.WAITING)])
async def test_a_killed_attempt_is_followed_by_another_while_retries_are_left(
    tmp_path: Path, retries: int, expected: Status
) -> None:
    row = await killed_at_its_timeout(
        tmp_path, "agent-prompt", Policy(retries=retries), ReportedFacts()
    )
    assert (row.state, row.attempts) == (expected, 1)


@pytest.mark.parametrize(
    ("cause", "facts", "retries", "expected"),
    [
        (StopCause.CANCEL, {}, 1, Status.CANCELLED),
        (StopCause.DEADLINE, {"attempt": 1}, 1, Status.TIMED_OUT),
        (StopCause.TIMEOUT, {"attempt": 1}, 0, Status.TIMED_OUT),
        (StopCause.TIMEOUT, {"attempt": 1}, 1, Status.WAITING),
        (StopCause.TIMEOUT, {"attempt": 1, "changed": True}, 1, Status.TIMED_OUT),
        (StopCause.TIMEOUT, {"attempt": 1, "ended": "succeeded"}, 0, Status.RUNNING),
        (None, {"attempt": 1}, 1, Status.RUNNING),  # the lease reaper ends it
    ],
)
async def test_the_worker_spools_its_outcome_if_a_newer_program_has_migrated_the_ledger(
    daybook_home: Home,
    cause: StopCause | None,
    facts: dict[str, Any],
    retries: int,
    expected: Status,
) -> None:
    tmp_path = daybook_home.path
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger:
        granted = await claimed(ledger, FIRST)
        await claims.begin(ledger, granted.run_id, granted.fence)
        async with ledger.write() as session:
            await session.merge(Fact(key=schema.OLDEST_FACT, value="29991231_0001"))
        watched = SupervisedRun(
            FlowRun(FIRST),
            cast(Any, Dead(tmp_path / "nothing")),
            granted.run_id,
            HERE,
            granted.fence,
            "agent-prompt",
            Policy(retries=retries),
            ReportedFacts(**facts),
            cause=cause,
            exit_code=-9,
        )
        await exit_handling.handle_exit(ledger, cast(Any, UnreachableLedger()), watched)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection, connection:
        connection.execute("DELETE FROM facts WHERE key = ?", (schema.OLDEST_FACT,))
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger:
        await outcome_spool.drain(ledger)
        row = await row_of(ledger, granted.run_id)
    assert (row.state, row.evidence) == (expected, [])


@pytest.mark.parametrize(
    ("cause", "ended", "status", "count"),
    [
        (StopCause.CANCEL, "", Status.CANCELLED, 1),
        (StopCause.DEADLINE, "", Status.TIMED_OUT, 1),
        (StopCause.TIMEOUT, "", Status.TIMED_OUT, 1),
        (StopCause.CANCEL, "succeeded", Status.CANCELLED, 0),  # it created its artifact itself
        (None, "", Status.UNKNOWN, 0),
    ],
)
async def test_a_run_that_the_worker_ends_gets_an_artifact(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    cause: StopCause | None,
    ended: str,
    status: Status,
    count: int,
) -> None:
    async def mirror_run(*_: object) -> None: ...

    monkeypatch.setattr(state_mirror, "mirror_run", mirror_run)
    prefect = RecordingPrefect([])
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger:
        granted = await claimed(ledger, FIRST, "webhook")
        await claims.begin(ledger, granted.run_id, granted.fence)
        watched = SupervisedRun(
            FlowRun(FIRST),
            cast(Any, Dead(tmp_path / "nothing")),
            granted.run_id,
            HERE,
            exit_code=-9,
            cause=cause,
            facts=ReportedFacts(ended=ended),
        )
        await exit_handling.handle_exit(ledger, cast(Any, prefect), watched)
        assert (await row_of(ledger, granted.run_id)).state is status
    assert len(prefect.artifacts) == count
    for made in prefect.artifacts:
        assert str(made.flow_run_id) == FIRST
        assert made.data.splitlines()[2].startswith(f"**{status}** · requested ")
        assert " · by hand · " in made.data and " · took " in made.data
        assert "```text\nDo it\n```" in made.data


async def test_a_refused_artifact_does_not_disturb_the_end_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def mirror_run(*_: object) -> None: ...

    monkeypatch.setattr(state_mirror, "mirror_run", mirror_run)
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger:
        granted = await claimed(ledger, FIRST)
        running = cast(Any, Dead(tmp_path / "nothing"))
        watched = SupervisedRun(
            FlowRun(FIRST), running, granted.run_id, HERE, exit_code=-9, cause=StopCause.CANCEL
        )
        prefect = RecordingPrefect([], ValueError("no artifacts here"))
        await exit_handling.handle_exit(ledger, cast(Any, prefect), watched)
        assert (await row_of(ledger, granted.run_id)).state is Status.CANCELLED
    assert "cannot create the artifact: no artifacts here" in caplog.text


@pytest.mark.parametrize(
    "cause", [None, *(each for each in StopCause if each is not StopCause.LOST)]
)
async def test_the_usage_that_a_process_reported_is_recorded_when_it_dies(
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
            facts=ReportedFacts(took={"input_tokens": 70, "output_tokens": 7}),
        )
        await exit_handling.handle_exit(ledger, cast(Any, UnreachableLedger()), watched)

        row = await row_of(ledger, granted.run_id)
    assert row.usage == {"input_tokens": 70, "output_tokens": 7}


@pytest.mark.parametrize(
    "cause",
    [None, StopCause.CANCEL, StopCause.TIMEOUT, StopCause.DEADLINE, StopCause.SHUTDOWN],
    ids=str,
)
async def test_a_spooled_outcome_is_recorded_however_its_process_ended(
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
        await exit_handling.handle_exit(ledger, cast(Any, UnreachableLedger()), watched)

        row = await row_of(ledger, granted.run_id)
    assert (row.state, row.output, row.evidence) == (Status.SUCCEEDED, "done", [])
    assert outcome_spool.pending_files() == []
