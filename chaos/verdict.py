"""Comparison of the ledger after the chaos test with results computed without the tested code."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from prefect.client.orchestration import PrefectClient
from sqlalchemy import func
from sqlmodel import col, select

from chaos import callbacks, restarts
from chaos.backlog import Backlog, Left
from chaos.callbacks import Callbacks
from chaos.faults import KILLS_RUNS, Struck
from chaos.restarts import Restart
from chaos.work import Work, is_due, seconds_until
from daybook.ledger.engine import Ledger
from daybook.ledger.states import LIVE, Delivery
from daybook.ledger.tables import JobRow, OutboxRow, RevisionRow, RunRow
from daybook.prefect import flow_runs
from daybook.runs.claim_requests import due_key

SHOWN = {
    "succeeded": ("COMPLETED", "Completed"),
    "failed": ("FAILED", "Failed"),
    "timed_out": ("FAILED", "TimedOut"),
    "cancelled": ("CANCELLED", "Cancelled"),
    "unknown": ("CRASHED", "Unknown"),
    "skipped": ("CANCELLED", "Skipped"),
    "missed": ("FAILED", "Missed"),
}
"""State type and name in Prefect for each outcome (docs/promise.md, rule 13)."""
NOT_BEGUN = frozenset({"skipped", "missed", "cancelled"})
FAILED = frozenset({"failed", "timed_out", "unknown"})
_SLACK = 12.0
"""Seconds after the end of a fault in which a run that it hit may still have started: the parent
process of a killed worker ends its runs within its grace period.
"""


@dataclass
class Verdict:
    """``wrong`` lists the broken promises as sentences; the rest are numbers for the report."""

    due: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    effects: int = 0
    settled_after: float = 0.0
    wrong: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    """The ledger's messages of failed runs, for a reader: nothing has to fail in a chaos test."""


async def settled(ledger: Ledger, work: Work, slots: int) -> tuple[float, str]:
    """Wait until each due time has its outcome, and Prefect and all recipients know it.

    Return the seconds it took, and the reason if it gave up. ``slots`` is the limit of concurrent
    runs.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    backlog = Backlog(slots, began)
    while True:
        rows = await _rows(ledger)
        lacking, _ = _counted(await _due(ledger, work), rows)
        left = Left.of(rows, len(lacking), await _unsent(ledger))
        if not backlog.goes_on(left, loop.time()):
            return loop.time() - began, backlog.wrong
        await asyncio.sleep(1.0)


async def judge(
    ledger: Ledger,
    client: PrefectClient,
    work: Work,
    effects: Counter[str],
    struck: Sequence[Struck],
) -> Verdict:
    """Read the ledger and Prefect, and report what is wrong."""
    rows, due = await _rows(ledger), await _due(ledger, work)
    lacking, twice = _counted(due, rows)
    found = Verdict(due=len(due), effects=sum(effects.values()))
    found.outcomes.update(row.status for row in rows for _ in range(row.count))
    found.ends += [
        f"{row.status}: {row.error or row.reason}" for row in rows if row.status in FAILED
    ]
    found.wrong += [f"no outcome: {key}" for key in sorted(lacking)]
    found.wrong += [f"two outcomes: {key}" for key in sorted(twice)]
    found.wrong += [f"live: {_told(row)}" for row in rows if row.state in LIVE]
    found.wrong += [
        f"nobody asked: {_told(row)}" for row in rows if _began(row) and not _covers(row) & due
    ]
    found.wrong += _effects(rows, Counter({work.occurrence(k): n for k, n in effects.items()}))
    found.wrong += [
        f"unknown, and nothing died: {_told(row)}" for row in _unexplained(rows, struck)
    ]
    found.wrong += await _prefect(client, rows)
    return found


async def catch_ups_of(
    ledger: Ledger, work: Work, restart: Restart, healthy_at: datetime
) -> list[str]:
    """Return what is wrong with the catch-ups after everything was killed at once."""
    async with ledger.read() as session:
        newest = select(RevisionRow).order_by(col(RevisionRow.number))
        schedules = {
            each.job_id: each.schedule for each in (await session.execute(newest)).scalars()
        }
    return restarts.wrong(work, schedules, await _rows(ledger), restart, healthy_at)


async def callbacks_of(ledger: Ledger, called: Callbacks) -> list[str]:
    """Return what is wrong with the callbacks."""
    async with ledger.read() as session:
        outbox = (await session.execute(select(OutboxRow))).scalars().all()
    return callbacks.wrong(called, await _rows(ledger), outbox)


async def _unsent(ledger: Ledger) -> int:
    """Count the callbacks that are still to be sent, and the alerts whose time has come."""
    pending = col(OutboxRow.status) == Delivery.PENDING.value
    due = (col(OutboxRow.purpose) == "callback") | (col(OutboxRow.next_at) <= ledger.now())
    unsent = select(func.count()).select_from(OutboxRow).where(pending, due)
    async with ledger.read() as session:
        count: int = (await session.execute(unsent)).scalar_one()
    return count


async def _rows(ledger: Ledger) -> list[RunRow]:
    """Return all occurrences; all are due times, because no test step requests a run."""
    async with ledger.read() as session:
        return list((await session.execute(select(RunRow))).scalars())


async def _due(ledger: Ledger, work: Work) -> set[str]:
    """Return the keys of all due times: second by second, by the revision in force."""
    async with ledger.read() as session:
        every = select(RevisionRow).order_by(col(RevisionRow.effective_from))
        revisions = defaultdict[str, list[RevisionRow]](list)
        for revision in (await session.execute(every)).scalars():
            revisions[revision.job_id].append(revision)
        gone = {
            job.id: job.archived_at for job in (await session.execute(select(JobRow))).scalars()
        }
    return {
        due_key(job_id, second)
        for job_id, history in revisions.items()
        for second in seconds_until(
            history[0].effective_from, min(work.end, gone[job_id] or work.end)
        )
        if _in_force(history, second) and is_due(_in_force(history, second), second)
    }


def _in_force(history: list[RevisionRow], second: datetime) -> dict[str, Any]:
    """Return the schedule in force at this second; empty while the job is off."""
    of_then = [each for each in history if each.effective_from <= second]
    return of_then[-1].schedule if of_then and of_then[-1].enabled else {}


def _began(row: RunRow) -> bool:
    """Return whether the run started: false if an edit made a waiting run obsolete (skipped)."""
    return bool(row.attempts) or row.status != "skipped"


def _covers(row: RunRow) -> set[str]:
    """Return the keys of the due times that a row covers; a range is stored as its two ends."""
    if row.due_to is None or row.job_id is None:
        return {row.occurrence}
    before = row.due - timedelta(seconds=1)
    return {due_key(row.job_id, second) for second in seconds_until(before, row.due_to)}


def _counted(due: set[str], rows: Sequence[RunRow]) -> tuple[set[str], set[str]]:
    """Return the due times without an outcome, and those with two."""
    count = Counter(key for row in rows for key in _covers(row) & due)
    return due - count.keys(), {key for key, times in count.items() if times > 1}


def _effects(rows: Sequence[RunRow], effects: Counter[str]) -> list[str]:
    by_key = {row.occurrence: row for row in rows}
    unknown = effects.keys() - by_key.keys()
    wrong = [f"an effect without a run in the ledger: {key}" for key in unknown]
    for key, row in by_key.items():
        times = effects[key]
        if times > row.attempts:
            wrong.append(f"{times} effects of {row.attempts} attempts: {_told(row)}")
        if row.status == "succeeded" and not times:
            wrong.append(f"succeeded without an effect: {_told(row)}")
        if row.status in NOT_BEGUN and times and not row.attempts:
            wrong.append(f"{times} effects of what never began: {_told(row)}")
    return wrong


def _unexplained(rows: Sequence[RunRow], struck: Sequence[Struck]) -> list[RunRow]:
    """Return the unknown runs for which nothing died between their start and their end."""

    def explained(row: RunRow) -> bool:
        assert row.started_at is not None and row.finished_at is not None
        began, ended = row.started_at.timestamp(), row.finished_at.timestamp()
        return any(
            each.whom
            and each.fault.kind in KILLS_RUNS
            and began - _SLACK <= each.ended
            and each.began <= ended
            for each in struck
        )

    return [
        row
        for row in rows
        if row.status == "unknown" and (not row.started_at or not explained(row))
    ]


async def _prefect(client: PrefectClient, rows: Sequence[RunRow]) -> list[str]:
    """Return where Prefect shows something else than the ledger."""
    there = await flow_runs.read(client, [row.flow_run_id for row in rows])
    wrong = list[str]()
    for row in rows:
        run = there.get(row.flow_run_id or "")
        if run is None or run.state is None:
            continue  # deleted with its deployment, or it never existed
        shown = (run.state.type.value, str(run.state.name))
        if shown != SHOWN.get(row.status):
            wrong.append(f"Prefect shows {shown}: {_told(row)}")
    return wrong


def _told(row: RunRow) -> str:
    return f"{row.occurrence} {row.status} after {row.attempts} attempts ({row.reason})"
