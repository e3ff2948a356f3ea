"""Comparison of the ledger after the chaos test with due times and effects counted elsewhere."""

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

from chaos import callbacks, leaders, messages, restarts, steps
from chaos.callbacks import Receiver
from chaos.chats import Chats
from chaos.faults import KILLS_RUNS, InjectedFault
from chaos.progress import ProgressCheck, Remaining
from chaos.restarts import Restart
from chaos.steps import CountedSteps
from chaos.workload import FAILED, Workload, is_due, seconds_until
from daybook.clock import SYSTEM_CLOCK
from daybook.ledger.engine import Ledger
from daybook.ledger.states import LIVE, Delivery
from daybook.ledger.tables import JobRow, OutboxRow, RevisionRow, RunRow, StepRow
from daybook.prefect import flow_runs
from daybook.prefect.states import WAITING_NAME
from daybook.runs.claim_requests import due_key

PREFECT_STATES = {
    "succeeded": ("COMPLETED", "Completed"),
    "failed": ("FAILED", "Failed"),
    "timed_out": ("FAILED", "TimedOut"),
    "cancelled": ("CANCELLED", "Cancelled"),
    "unknown": ("CRASHED", "Unknown"),
    "skipped": ("CANCELLED", "Skipped"),
    "missed": ("FAILED", "Missed"),
}
"""State type and name in Prefect for each outcome (docs/promise.md, rule 13)."""
NOT_STARTED = frozenset({"skipped", "missed", "cancelled"})
_SHOW_AFTER = timedelta(seconds=45)
"""Time from the claim of a run that has ended until Prefect shows its end; the clock of a host may
be 30 s behind (`hosts`).
"""
_SLACK_SECONDS = 12.0
"""Time after the end of a fault in which a run that it hit may still have started: the parent
process of a killed worker ends its runs within its grace period.
"""


@dataclass
class Verdict:
    """``broken`` lists the broken promises as sentences; the rest are numbers for the report."""

    due: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    effects: int = 0
    finished_after_seconds: float = 0.0
    takeovers: list[float] = field(default_factory=list)
    failovers: list[float] = field(default_factory=list)
    """Seconds as `chaos.leaders` measures them."""
    broken: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Errors of the failed runs, for a reader: a chaos test has no job that is meant to fail."""


async def wait_until_finished(ledger: Ledger, workload: Workload, slots: int) -> tuple[float, str]:
    """Wait until each due time has its outcome, and Prefect and all recipients have it too.

    Return the seconds that it took, and the reason if the work stood still. ``slots`` is the limit
    of concurrent runs.
    """
    loop = asyncio.get_running_loop()
    start = loop.time()
    check = ProgressCheck(slots, start)
    while True:
        rows = await _rows(ledger)
        due = await _due(ledger, workload) | _chained(workload, rows) | workload.all_messages
        lacking, _ = _compare(due, rows)
        remaining = Remaining.of(rows, len(lacking), await _unsent(ledger))
        if not check.must_wait(remaining, loop.time()):
            return loop.time() - start, check.standstill
        await asyncio.sleep(1.0)


async def judge(
    ledger: Ledger,
    client: PrefectClient,
    workload: Workload,
    effects: Counter[str],
    faults: Sequence[InjectedFault],
) -> Verdict:
    """Check the ledger and Prefect; report the broken promises."""
    rows = await _rows(ledger)
    due = await _due(ledger, workload) | _chained(workload, rows) | workload.all_messages
    lacking, twice = _compare(due, rows)
    found = Verdict(due=len(due), effects=sum(effects.values()))
    found.failovers = leaders.restarts(rows, faults)
    found.outcomes.update(row.status for row in rows for _ in range(row.count))
    found.failures += [
        f"{row.status}: {row.error or row.reason}" for row in rows if row.status in FAILED
    ]
    found.broken += [f"no outcome: {key}" for key in sorted(lacking)]
    found.broken += [f"two outcomes: {key}" for key in sorted(twice)]
    found.broken += [f"still live: {_describe(row)}" for row in rows if row.state in LIVE]
    found.broken += [
        f"started, but was not due: {_describe(row)}"
        for row in rows
        if _started(row) and not _covers(row) & due
    ]
    effects_by_run = Counter({workload.occurrence(key): n for key, n in effects.items()})
    found.broken += _wrong_effects(rows, effects_by_run)
    found.broken += [
        f"an outcome of another job without its run: {_describe(row)}"
        for row in rows
        if row.trigger == "after" and row.status == "skipped"
    ]
    found.broken += [
        f"unknown, although nothing was killed: {_describe(row)}"
        for row in _unexplained(rows, faults)
    ]
    found.broken += await _wrong_in_prefect(client, rows)
    return found


async def wrong_catch_ups(
    ledger: Ledger, workload: Workload, restart: Restart, healthy_at: datetime
) -> list[str]:
    """Return what is wrong with the catch-ups after everything was killed at once."""
    async with ledger.read() as session:
        newest = select(RevisionRow).order_by(col(RevisionRow.number))
        schedules = {
            each.job_id: each.schedule for each in (await session.execute(newest)).scalars()
        }
    return restarts.violations(workload, schedules, await _rows(ledger), restart, healthy_at)


async def wrong_callbacks(ledger: Ledger, receiver: Receiver) -> list[str]:
    """Return what is wrong with the callbacks."""
    async with ledger.read() as session:
        outbox = (await session.execute(select(OutboxRow))).scalars().all()
    of_jobs = [row for row in await _rows(ledger) if row.job_id is not None]
    return callbacks.violations(receiver, of_jobs, outbox)


async def wrong_messages(ledger: Ledger, chat: Chats) -> list[str]:
    """Return what is wrong with the messages of sessions, and with those of chats."""
    await chat.wait_until_finished(ledger)
    rows = await _rows(ledger)
    return [*await messages.violations(ledger, rows), *await chat.violations(ledger, rows)]


async def wrong_steps(ledger: Ledger, counted: CountedSteps) -> list[str]:
    """Return what is wrong with the steps of agents."""
    async with ledger.read() as session:
        made = (await session.execute(select(StepRow))).scalars().all()
    return steps.violations(counted, await _rows(ledger), made)


async def _unsent(ledger: Ledger) -> int:
    """Count the callbacks and answers that are not sent yet, and the unsent alerts that are due."""
    pending = col(OutboxRow.status) == Delivery.PENDING.value
    is_awaited = col(OutboxRow.purpose).in_(("callback", "message"))
    due = is_awaited | (col(OutboxRow.next_at) <= ledger.now())
    unsent = select(func.count()).select_from(OutboxRow).where(pending, due)
    async with ledger.read() as session:
        count: int = (await session.execute(unsent)).scalar_one()
    return count


async def _rows(ledger: Ledger) -> list[RunRow]:
    """Return all occurrences: due times, runs of chained jobs, and answers to messages."""
    async with ledger.read() as session:
        return list((await session.execute(select(RunRow))).scalars())


async def _due(ledger: Ledger, workload: Workload) -> set[str]:
    """Return the keys of all due times, found second by second from the revisions in force."""
    async with ledger.read() as session:
        in_order = select(RevisionRow).order_by(col(RevisionRow.effective_from))
        revisions = defaultdict[str, list[RevisionRow]](list)
        for revision in (await session.execute(in_order)).scalars():
            revisions[revision.job_id].append(revision)
        removed = {
            job.id: job.archived_at for job in (await session.execute(select(JobRow))).scalars()
        }
    return {
        due_key(job_id, second)
        for job_id, history in revisions.items()
        for second in seconds_until(
            history[0].effective_from, min(workload.end, removed[job_id] or workload.end)
        )
        if _in_force(history, second) and is_due(_in_force(history, second), second)
    }


def _chained(workload: Workload, rows: Sequence[RunRow]) -> set[str]:
    """Return the keys of the chained runs that the outcomes in ``rows`` start."""
    return {
        f"after:{job_id}:{row.id}"
        for job_id, chain in workload.chained.items()
        for row in rows
        if row.job_id == chain.before and row.status in chain.outcomes
        if row.finished_at is not None and row.finished_at > chain.added_at
    }


def _in_force(history: list[RevisionRow], second: datetime) -> dict[str, Any]:
    """Return the schedule in force at this second; empty while the job is disabled."""
    past = [each for each in history if each.effective_from <= second]
    return past[-1].schedule if past and past[-1].enabled else {}


def _started(row: RunRow) -> bool:
    """Return whether the run started; an edit may have skipped a waiting run."""
    return bool(row.attempts) or row.status != "skipped"


def _covers(row: RunRow) -> set[str]:
    """Return the keys of the due times that a row covers; one row may cover a range."""
    if row.due_to is None or row.job_id is None:
        return {row.occurrence}
    before = row.due - timedelta(seconds=1)
    return {due_key(row.job_id, second) for second in seconds_until(before, row.due_to)}


def _compare(due: set[str], rows: Sequence[RunRow]) -> tuple[set[str], set[str]]:
    """Return the due times without an outcome, and those with two."""
    count = Counter(key for row in rows for key in _covers(row) & due)
    return due - count.keys(), {key for key, times in count.items() if times > 1}


def _wrong_effects(rows: Sequence[RunRow], effects: Counter[str]) -> list[str]:
    by_key = {row.occurrence: row for row in rows}
    unknown = effects.keys() - by_key.keys()
    wrong = [f"an effect without a run in the ledger: {key}" for key in unknown]
    for key, row in by_key.items():
        count = effects[key]
        if count > row.attempts:
            wrong.append(f"{count} effects of {row.attempts} attempts: {_describe(row)}")
        if row.status == "succeeded" and not count:
            wrong.append(f"succeeded without an effect: {_describe(row)}")
        if row.status in NOT_STARTED and count and not row.attempts:
            wrong.append(f"{count} effects of a run that never started: {_describe(row)}")
    return wrong


def _unexplained(rows: Sequence[RunRow], faults: Sequence[InjectedFault]) -> list[RunRow]:
    """Return the unknown runs for which nothing was killed between their start and their end."""

    def explained(row: RunRow) -> bool:
        assert row.started_at is not None and row.finished_at is not None
        started, finished = row.started_at.timestamp(), row.finished_at.timestamp()
        return any(
            each.target
            and each.fault.kind in KILLS_RUNS
            and started - _SLACK_SECONDS <= each.ended
            and each.started <= finished
            for each in faults
        )

    return [
        row
        for row in rows
        if row.status == "unknown" and (not row.started_at or not explained(row))
    ]


async def _wrong_in_prefect(client: PrefectClient, rows: Sequence[RunRow]) -> list[str]:
    """Return the runs whose state in Prefect does not match the ledger.

    A process that was killed while it made a run wait may leave the run waiting after its end. It
    must show its end when its time has come, because a worker has claimed it in vain.
    """
    wrong = await _differences(client, rows)
    claims = [due for due in wrong.values() if due is not None]
    if claims:
        await SYSTEM_CLOCK.wait_until(max(claims) + _SHOW_AFTER)
        wrong = await _differences(client, rows)
    return list(wrong)


async def _differences(client: PrefectClient, rows: Sequence[RunRow]) -> dict[str, datetime | None]:
    """Return the wrong states in Prefect, mapped to when each run that waits there is due."""
    found = await flow_runs.read(client, [row.flow_run_id for row in rows])
    wrong = dict[str, datetime | None]()
    for row in rows:
        run = found.get(row.flow_run_id or "")
        if run is None or run.state is None:
            continue  # deleted with its deployment, or it never existed
        state = (run.state.type.value, str(run.state.name))
        if state != PREFECT_STATES.get(row.status):
            due = run.next_scheduled_start_time if run.state.name == WAITING_NAME else None
            wrong[f"Prefect shows {state}: {_describe(row)}"] = due
    return wrong


def _describe(row: RunRow) -> str:
    return f"{row.occurrence} {row.status} after {row.attempts} attempts ({row.reason})"
