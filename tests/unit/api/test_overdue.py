"""Why something is late, in words: the nearest cause first (requirement 59)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook.api import overdue
from daybook.api.overdue import DelayFacts
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.jobs.store import StoredJob
from daybook.keeper.leader_lease import Leader
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import RunRow
from daybook.prefect.work_pool import WorkPool
from daybook.runs import claims, slots
from daybook.runs.overdue import Overdue
from daybook.testing import ManualClock
from daybook.timing import TIMING

pytestmark = pytest.mark.anyio

NOW = ManualClock().now()
MINE = {"name": "here-1", "last_heartbeat": None, "ours": True}
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
    return Overdue(stored, NOW - timedelta(minutes=5), row)


PAUSED = replace(POOL, paused=("the work pool daybook",))
NOBODY = replace(POOL, workers=[])
AFAR = timedelta(seconds=90)


@pytest.mark.parametrize(
    ("known", "why"),
    [
        (replace(WELL, away="refused", pool=None), "Prefect does not answer"),
        (replace(WELL, pool=PAUSED), "paused in Prefect: the work pool daybook"),
        (replace(WELL, pool=NOBODY), "no worker is online, so nothing runs"),
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
        (WELL, "nobody has come for it, as yet"),
    ],
    ids=[
        "away", "paused", "no worker", "clock", "ledger", "never led", "not led", "unseen", "well"
    ],
)  # fmt: skip
async def test_what_keeps_a_due_time(
    job: tuple[Ledger, StoredJob], known: DelayFacts, why: str
) -> None:
    assert overdue.delay_reason(await late(job), known) == why


async def test_a_turn_is_waited_for_whatever_else_is_wrong(job: tuple[Ledger, StoredJob]) -> None:
    waits = await late(job, waits_for=slots.SLOT, reason="4 of 4 runs are at work")
    assert (
        overdue.delay_reason(waits, replace(WELL, leader=None))
        == "it waits: 4 of 4 runs are at work"
    )


async def test_a_worker_that_is_full_is_told_of_where_one_is(
    job: tuple[Ledger, StoredJob],
) -> None:
    waits = await late(job, waits_for=slots.WORKER, reason="the worker has no free slot")
    assert overdue.delay_reason(waits, WELL) == "it waits: the worker has no free slot"
    assert (
        overdue.delay_reason(waits, replace(WELL, pool=NOBODY))
        == "no worker is online, so nothing runs"
    )


async def test_a_job_that_is_not_in_prefect_yet(job: tuple[Ledger, StoredJob]) -> None:
    one = await late(job)
    one.stored.row.sync_pending = True
    assert overdue.delay_reason(one, WELL) == "the job is not in Prefect yet"


async def test_it_is_told_in_a_sentence(job: tuple[Ledger, StoredJob]) -> None:
    (told,) = overdue.overdue_views([await late(job)], WELL)
    assert told == {
        "job": "brief",
        "due": "2026-01-15T11:55:00Z",
        "late_seconds": 300.0,
        "run": None,
        "missed": False,
        "why": "nobody has come for it, as yet",
    }
    assert overdue.as_sentence(told) == (
        "brief was due at 2026-01-15T11:55:00Z, 5 minutes ago, and has not begun: "
        "nobody has come for it, as yet"
    )


async def test_what_was_missed_is_told_as_that(job: tuple[Ledger, StoredJob]) -> None:
    (told,) = overdue.overdue_views([await late(job, status="missed")], WELL)
    assert (told["missed"], told["why"]) == (True, "nobody came for it")
    assert overdue.as_sentence(told) == (
        "brief was due at 2026-01-15T11:55:00Z, 5 minutes ago, and was missed: nobody came for it"
    )


def test_the_keeper_is_shown_as_it_told_of_itself() -> None:
    passes = {"observe": {"seconds": 0.1}}
    leader = Leader("here:1:a", NOW + TIMING.leader_lease, SEEN | {"passes": passes})
    assert overdue.keeper_view(leader, NOW) == {
        "running": True,
        "holder": "here:1:a",
        "until": "2026-01-15T12:00:30Z",
        "observed_at": "2026-01-15T11:59:50Z",
        "passes": passes,
    }
    assert overdue.keeper_view(leader, NOW + TIMING.leader_lease)["running"] is False
    assert overdue.keeper_view(None, NOW) == {
        "running": False,
        "holder": "",
        "until": None,
        "observed_at": None,
        "passes": {},
    }
