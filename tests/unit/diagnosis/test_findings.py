"""The findings that `doctor`, `status` and `/health` share, computed from given facts."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from daybook.api import overdue
from daybook.api.overdue import DelayFacts, OverdueRun
from daybook.diagnosis import findings
from daybook.finding import Severity
from daybook.home import Home
from daybook.keeper.leader_lease import Leader
from daybook.ledger.tables import ApprovalRow, RunRow
from daybook.policies.policy import ANSWER
from daybook.prefect.work_pool import OnlineWorker, WorkPool
from daybook.testing import ManualClock
from daybook.timing import TIMING

NOW = ManualClock().now()
WORKER = OnlineWorker(name="here-1", last_heartbeat=None, ours=True)
POOL = WorkPool("daybook", [WORKER], has_ours=True, others=[])
OBSERVED = {"observed_at": NOW.isoformat()}
LEADER = Leader("here:1:a", NOW + TIMING.leader_lease, OBSERVED)
WELL = DelayFacts(NOW, pool=POOL, leader=LEADER)
EXPIRED = Leader("here:1:a", NOW - timedelta(minutes=7), OBSERVED)


@pytest.mark.parametrize(
    "known",
    [
        WELL,
        replace(WELL, leader=None),
        replace(WELL, leader=Leader("here:1:a", NOW - TIMING.leader_lease / 2, OBSERVED)),
        replace(WELL, leader=EXPIRED, pool=None),
        replace(WELL, leader=EXPIRED, pool=replace(POOL, workers=[])),
    ],
    ids=["leads", "never a leader", "just expired", "no Prefect", "no worker"],
)
def test_a_missing_keeper_is_reported_only_if_a_worker_is_online(known: DelayFacts) -> None:
    assert findings.keeper(known) == []


def test_a_missing_keeper_gives_the_finding_of_no_keeper() -> None:
    found = findings.no_keeper(EXPIRED, NOW)
    assert findings.keeper(replace(WELL, leader=EXPIRED)) == [found]
    assert found.message.endswith("; the last lease expired 7 minutes ago")
    assert str(found) == f"{found.message}; fix: daybook keeper"
    assert findings.no_keeper(None, NOW).message == overdue.NO_KEEPER


def test_a_leader_that_has_not_observed_prefect_lately_is_a_problem() -> None:
    late = overdue.MAX_OBSERVATION_AGE + timedelta(minutes=1)
    leader = replace(LEADER, until=NOW + 2 * late)
    (found,) = findings.keeper(replace(WELL, now=NOW + late, leader=leader))
    assert (found.check, found.severity) == ("keeper", Severity.PROBLEM)
    assert found.message == "Prefect was last observed 11 minutes ago"


@pytest.mark.parametrize(
    ("runs", "last"), [(3, None), (4, "1 more run is"), (6, "3 more runs are")]
)
def test_at_most_three_overdue_runs_are_described(runs: int, last: str | None) -> None:
    late = OverdueRun(
        job="brief",
        due=NOW - timedelta(minutes=5),
        late_seconds=300.0,
        run=None,
        missed=False,
        why="it rains",
    )
    found = findings.late([late] * min(runs, 3), runs)
    assert [each.message.startswith("brief was due on") for each in found[:3]] == [True] * 3
    assert [str(each) for each in found[3:]] == (
        [f"{last} overdue; fix: daybook status"] if last else []
    )


def waiting_run(seconds: int, waits_for: str = "slot", **changes: Any) -> RunRow:
    begins = NOW - timedelta(seconds=seconds)
    fields: dict[str, Any] = {
        "due": begins - timedelta(days=1),
        "queued_at": begins,
        "status": "waiting",
        "waits_for": waits_for,
        "until": NOW + timedelta(seconds=30),
        "reason": "4 of 4 runs are active",
        "trigger": "schedule",
        "attempts": 0,
    }
    return RunRow(**fields | changes)


def test_more_runs_than_slots_are_a_warning() -> None:
    runs = [waiting_run(5), waiting_run(45, "worker"), waiting_run(31)]
    (found,) = findings.waiting(runs, NOW, POOL)
    assert (found.check, found.severity) == ("waiting", Severity.WARNING)
    assert found.message == (
        "3 runs wait for a slot (4 of 4 runs are active); the first one began to wait 45 seconds "
        "ago"
    )
    assert found.fix.startswith("raise `max_concurrent`")
    (found,) = findings.waiting([waiting_run(60, "worker")], NOW, POOL)
    assert found.message.startswith("A run waits for a slot (")
    assert found.fix.startswith("add a worker")


def test_runs_that_no_worker_has_had_time_to_claim_are_a_warning() -> None:
    (found,) = findings.waiting([], NOW, replace(POOL, unclaimed=1_264))
    assert (found.check, found.severity) == ("waiting", Severity.WARNING)
    assert found.message == (
        "1,264 runs have been due for more than 30 seconds, and no worker has started or ended "
        "them yet"
    )
    assert found.fix.startswith("add a worker")
    one = replace(POOL, unclaimed=1)
    assert findings.waiting([], NOW, one)[0].message.startswith("a run has been due")
    assert findings.waiting([], NOW, replace(one, workers=[])) == []
    both = findings.waiting([waiting_run(60)], NOW, one)
    assert [each.message.split(" (")[0] for each in both] == [
        "A run waits for a slot",
        findings.waiting([], NOW, one)[0].message,
    ]


@pytest.mark.parametrize(
    "run",
    [
        waiting_run(30),
        waiting_run(3600, "overlap"),
        waiting_run(3600, "due"),
        waiting_run(3600, attempts=1),
        waiting_run(3600, until=NOW),
        waiting_run(3600, trigger="backfill"),
    ],
    ids=["short", "overlap", "not due", "second attempt", "called", "backfill"],
)
def test_a_run_that_waits_as_it_should_is_no_warning(run: RunRow) -> None:
    assert findings.waiting([run], NOW, POOL) == []


@pytest.mark.parametrize(
    "state",
    [None, replace(POOL, workers=[]), replace(POOL, paused=("the work pool daybook",))],
    ids=["unknown", "no worker", "paused"],
)
def test_runs_that_no_worker_may_start_are_not_too_many(state: WorkPool | None) -> None:
    assert findings.waiting([waiting_run(60)], NOW, state) == []


def test_a_paused_pool_is_a_warning_and_the_pool_of_another_daybook_a_problem(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://there/api")
    paused = replace(POOL, paused=("the work pool daybook",))
    (found,) = findings.pool(paused, "http://there/api", has_jobs=True)
    assert (found.severity, found.message) == (
        Severity.WARNING,
        "the work pool daybook is paused in Prefect",
    )
    foreign = replace(POOL, has_ours=False, others=["0123456789ab"])
    assert findings.pool(foreign, "http://there/api", has_jobs=False) == []
    (found,) = findings.pool(foreign, "http://there/api", has_jobs=True)
    assert found.severity is Severity.PROBLEM
    assert found.fix.startswith("unset PREFECT_API_URL")


def test_a_failed_job_is_a_warning_with_its_error() -> None:
    def job(failures: int, error: str | None) -> Any:
        facts = {"owner": "user", "consecutive_failures": failures, "last_error": error}
        return SimpleNamespace(id="1", name="brief", **facts)

    jobs = [job(0, None), job(1, "no answer\nat all"), job(2, None)]
    found = findings.failing_jobs(jobs, NOW)
    assert [str(each) for each in found] == [
        "brief failed 2 times in a row; fix: daybook show brief",
        "brief failed once: no answer at all; fix: daybook show brief",
    ]
    assert {each.severity for each in found} == {Severity.WARNING}


@pytest.mark.parametrize(
    ("position", "text", "quoted", "unquoted"),
    [
        (ANSWER, "The key is 1234", "The key is 1234 (until ", "until "),
        ("3", '{"to": "ann@example.com"}', "with to (until ", "with to (until "),
        ("3", '{"to": "ann@exa', '{"to": "ann@exa (until ', "until "),
    ],
    ids=["answer", "call", "damaged call"],
)
def test_only_a_reader_who_may_see_an_answer_gets_it_before_its_approval(
    position: str, text: str, quoted: str, unquoted: str
) -> None:
    run = RunRow(
        occurrence="o", kind="agent-prompt", trigger="manual", due=NOW, status="", queued_at=NOW
    )
    row = ApprovalRow(
        run_id=run.id,
        number=1,
        position=position,
        digest="",
        after=0,
        tool="mail",
        input=text,
        status="",
        asked_at=NOW,
        deadline=NOW,
    )
    for quotes, start in ((True, quoted), (False, unquoted)):
        (found,) = findings.approvals([(row, run, None)], quotes=quotes)
        assert found.why.startswith(start)
        assert found.why.count("until") == 1
