"""The reasons why a run is late: the most direct cause first (requirement 59)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook.api import overdue
from daybook.api.overdue import DelayFacts, KeeperStatus, OverdueRun
from daybook.jobs import scheduled, store
from daybook.jobs.model import new_job
from daybook.jobs.store import StoredJob
from daybook.keeper.leader_lease import Leader
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.prefect.work_pool import OnlineWorker, WorkPool
from daybook.runs import claims
from daybook.runs.overdue import Overdue
from daybook.testing import ManualClock
from daybook.timing import TIMING

pytestmark = pytest.mark.anyio

NOW = ManualClock().now()
MINE = OnlineWorker(name="here-1", last_heartbeat=None, ours=True)
POOL = WorkPool("daybook", [MINE], has_ours=True, others=[])
SEEN = {"observed_at": (NOW - timedelta(seconds=10)).isoformat()}
WELL = DelayFacts(NOW, pool=POOL, leader=Leader("here:1:a", NOW + TIMING.leader_lease, SEEN))


@pytest.fixture
async def job(tmp_path: Path) -> AsyncIterator[tuple[Ledger, StoredJob]]:
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path}/ledger.db", ManualClock()) as ledger:
        job = new_job(now=NOW, name="brief", prompt="Hello?", cron="0 * * * *")
        async with ledger.write() as session:
            stored = await store.add(session, job, "brief", NOW)
            stored.row.sync_pending = False
        yield ledger, stored


async def late(job: tuple[Ledger, StoredJob], **fields: Any) -> Overdue:
    ledger, stored = job
    row: RunRow | None = None
    if fields:
        row = await claims.request(ledger, stored, "one", "manual")
        row.sqlmodel_update(fields)
    async with ledger.read() as session:
        jobs = await scheduled.read(session)
    return Overdue(jobs[stored.id], NOW - timedelta(minutes=5), row)


PAUSED = replace(POOL, paused=("the work pool daybook",))
NOBODY = replace(POOL, workers=[])
AFAR = timedelta(seconds=90)


@pytest.mark.parametrize(
    ("known", "why"),
    [
        (replace(WELL, prefect_error="refused", pool=None), "Prefect does not answer"),
        (replace(WELL, pool=PAUSED), "paused in Prefect: the work pool daybook"),
        (replace(WELL, pool=NOBODY), "no worker is online, so nothing runs"),
        (replace(WELL, pool=replace(POOL, unserved=("light",))), "no worker has claimed it yet"),
        (
            replace(WELL, pool=replace(POOL, unserved=("light", "medium"))),
            "no worker serves the work queue medium; start `daybook worker --queue medium`",
        ),
        (replace(WELL, prefect_ahead=-AFAR), "Prefect's clock is 90.0 s behind this machine's"),
        (replace(WELL, ledger_ahead=AFAR), "the ledger's clock is 90.0 s ahead of this machine's"),
        (replace(WELL, leader=None), overdue.NO_KEEPER),
        (
            replace(WELL, leader=Leader("", NOW - 2 * TIMING.leader_lease, SEEN)),
            overdue.NO_KEEPER,
        ),
        (
            replace(WELL, now=NOW + timedelta(hours=1), leader=Leader("a", NOW + AFAR * 90, SEEN)),
            "Prefect was last observed 1 hour 10 seconds ago",
        ),
        (WELL, "no worker has claimed it yet"),
    ],
    ids=[
        "away", "paused", "no worker", "other queue", "queue", "clock", "ledger",
        "never a leader", "no leader", "unseen", "well"
    ],
)  # fmt: skip
async def test_delay_reason_names_the_cause_of_an_unclaimed_due_time(
    job: tuple[Ledger, StoredJob], known: DelayFacts, why: str
) -> None:
    assert overdue.delay_reason(await late(job), known) == why


async def test_a_run_that_waits_for_a_slot_reports_that_before_other_causes(
    job: tuple[Ledger, StoredJob],
) -> None:
    waits = await late(job, waits_for="slot", reason="4 of 4 runs are active")
    assert (
        overdue.delay_reason(waits, replace(WELL, leader=None)) == "waiting: 4 of 4 runs are active"
    )


async def test_a_full_worker_is_the_reason_only_if_a_worker_is_online(
    job: tuple[Ledger, StoredJob],
) -> None:
    waits = await late(job, waits_for="worker", reason="the worker has no free slot")
    assert overdue.delay_reason(waits, WELL) == "waiting: the worker has no free slot"
    assert (
        overdue.delay_reason(waits, replace(WELL, pool=NOBODY))
        == "no worker is online, so nothing runs"
    )


async def test_a_job_that_is_not_in_prefect_yet_is_the_reason(
    job: tuple[Ledger, StoredJob],
) -> None:
    one = await late(job)
    one = replace(one, job=replace(one.job, sync_pending=True))
    assert overdue.delay_reason(one, WELL) == "the job's last change is not in Prefect yet"


async def test_an_overdue_run_is_described_in_a_sentence(job: tuple[Ledger, StoredJob]) -> None:
    view = OverdueRun.of(await late(job), WELL)
    assert view.model_dump(mode="json") == {
        "job": "brief",
        "due": "2026-01-15T11:55:00Z",
        "late_seconds": 300.0,
        "run": None,
        "missed": False,
        "retries": False,
        "why": "no worker has claimed it yet",
    }
    assert view.as_sentence() == (
        "brief was due on Thu 15 Jan, 11:55 UTC, 5 minutes ago, and has not started: "
        "no worker has claimed it yet"
    )


async def test_a_missed_run_is_described_as_missed(job: tuple[Ledger, StoredJob]) -> None:
    view = OverdueRun.of(await late(job, status="missed"), WELL)
    assert (view.missed, view.why) == (True, "no worker claimed it")
    assert view.as_sentence() == (
        "brief was due on Thu 15 Jan, 11:55 UTC, 5 minutes ago, and was missed: "
        "no worker claimed it"
    )


def test_keeper_status_has_the_facts_that_the_leader_recorded() -> None:
    cost = {"at": "2026-01-15T11:59:51+00:00", "seconds": 0.1, "cpu_seconds": 0.05}
    passes = {"observe": cost | {"requests": 3, "error": ""}}
    leader = Leader("here:1:a", NOW + TIMING.leader_lease, SEEN | {"passes": passes})
    assert KeeperStatus.of(leader, NOW).model_dump(mode="json") == {
        "running": True,
        "holder": "here:1:a",
        "until": "2026-01-15T12:00:15Z",
        "observed_at": "2026-01-15T11:59:50Z",
        "passes": passes,
    }
    assert KeeperStatus.of(leader, NOW + TIMING.leader_lease).running is False
    nobody = KeeperStatus(running=False, holder="", until=None, observed_at=None, passes={})
    assert KeeperStatus.of(None, NOW) == nobody


async def test_due_times_of_an_outage_that_is_over_are_not_overdue(
    job: tuple[Ledger, StoredJob],
) -> None:
    open_one, missed = await late(job), await late(job, status=Status.MISSED)

    def left(began: timedelta, **leads: datetime) -> list[Overdue]:
        until = leads.get("until", NOW + TIMING.leader_lease)
        leader = Leader("here:1:a", until, SEEN, NOW - began)
        return overdue.without_catch_up([open_one, missed], leader, NOW)

    # Both were due five minutes ago.
    assert left(timedelta(seconds=30)) == []
    assert left(overdue.CATCH_UP_GRACE) == [open_one]
    assert left(timedelta(minutes=6)) == [open_one, missed]
    assert left(timedelta(seconds=30), until=NOW) == [open_one, missed]  # there is no leader
    assert overdue.without_catch_up([missed], None, NOW) == [missed]
