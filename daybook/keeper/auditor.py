"""The auditor: makes sure that each past due time has a row, whatever its Prefect run did.

Promise 10: the audit is a watermark for each job.

::

    observed since the leader started? ── no ────────────► not audited
           │
    next due time is known, and later than the end ────► the job is not read; its watermark advances
           │                                             once an hour
    up to the end ─────────────────────────────────────► `runs.audit.advance`, the oldest first

The end is a minute ago, or the instant up to which Prefect was observed, if that is earlier.

A job that was not observed may have been edited in Prefect, which changes its due times. Removed
jobs have no deployment any more, so they are audited up to their removal without an observation.
The auditor sends no request to Prefect; `scheduled_runs` creates the Prefect runs of waiting rows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from daybook.jobs.lateness import ON_TIME_GRACE
from daybook.ledger.engine import Ledger
from daybook.runs import audit as book
from daybook.runs.audit import AuditResult, Watermark

IDLE_WATERMARK_MAX_AGE = timedelta(hours=1)
"""How far a job's watermark may lag behind while nothing is due. The lag saves writes."""


@dataclass
class AuditorState:
    """State between two cycles: each job's revision, and its next due time or None."""

    following: dict[str, tuple[int, datetime | None]] = field(default_factory=dict)


@dataclass
class AuditReport:
    """Numbers of jobs and of due times by status; ``left`` is true if the audit is not complete."""

    jobs: int = 0
    missed: int = 0
    waiting: int = 0
    skipped: int = 0
    left: bool = False
    cpu_seconds: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.missed or self.waiting or self.skipped)

    def add(self, done: AuditResult) -> None:
        self.missed += done.missed
        self.waiting += done.waiting
        self.skipped += done.skipped


async def audit(
    ledger: Ledger,
    observed: Mapping[str, datetime],
    *,
    memory: AuditorState | None = None,
    most_seconds: float = 1.0,
) -> AuditReport:
    """Run one cycle of about ``most_seconds``; complete the transaction that reaches the limit.

    ``observed`` has, by job id, the instant up to which the ledger has the edits and ends made in
    Prefect (ledger time); live jobs that are not in it are not audited. With ``memory``, which is
    updated, jobs without a new due time are not read.
    """
    began, cpu = time.monotonic(), time.process_time()
    known = (memory or AuditorState()).following
    async with ledger.read() as session:
        marks = await book.watermarks(session)
    for removed in known.keys() - {each.job_id for each in marks}:
        del known[removed]
    done, now = AuditReport(), ledger.now()
    for mark in marks:
        up_to = _up_to(mark, observed, now)
        if up_to is None or _is_idle(mark, known.get(mark.job_id), up_to):
            continue
        if time.monotonic() - began >= most_seconds:
            done.left = True
            break
        done.jobs += 1
        advanced = await book.advance(ledger, mark.job_id, up_to)
        if advanced is None:
            continue
        done.add(advanced)
        done.left |= advanced.more
        if advanced.revision:
            known[mark.job_id] = (advanced.revision, advanced.following)
    done.cpu_seconds = time.process_time() - cpu
    return done


def _up_to(mark: Watermark, observed: Mapping[str, datetime], now: datetime) -> datetime | None:
    """Return the instant up to which to audit the job; None if it is unknown or already reached."""
    until = mark.archived_at or observed.get(mark.job_id)
    if until is None:
        return None
    up_to = min(until, now - ON_TIME_GRACE)
    return up_to if up_to > mark.until else None


def _is_idle(mark: Watermark, known: tuple[int, datetime | None] | None, up_to: datetime) -> bool:
    if known is None or known[0] != mark.revision or mark.since > mark.until:
        return False
    if mark.archived_at is not None:
        return False  # its end is fixed, and the watermark has to reach it
    following = known[1]
    nothing_due = following is None or following > up_to
    return nothing_due and up_to - mark.until < IDLE_WATERMARK_MAX_AGE
