"""The auditor, which makes sure that each past due time has a row, whatever happened in Prefect.

Promise 10: each job has a watermark, up to which all due times have a row.

::

    observed since the leader started? ── no ────────────► not audited
           │
    next due time is known, and later than the end ────► the job is not read; its watermark advances
           │                                             once an hour
    up to the end ─────────────────────────────────────► `runs.audit.advance`, the oldest first

The end is one minute ago, or the instant up to which the job was observed in Prefect, if this
instant is earlier.

A user may have changed the due times of a job in Prefect, so the auditor waits until the job is
observed. Removed jobs have no deployment any more, so the auditor audits them up to their removal
without an observation. The auditor sends no request to Prefect; `scheduled_runs` creates the
Prefect runs of waiting rows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from daybook.errors import LedgerUnreachable
from daybook.jobs.lateness import ON_TIME_GRACE
from daybook.ledger.engine import Ledger
from daybook.runs import audit as run_audit
from daybook.runs.audit import AuditResult, Watermark

IDLE_WATERMARK_MAX_AGE = timedelta(hours=1)
"""Maximum lag of a job's watermark while nothing is due; the lag saves writes."""


@dataclass
class AuditorState:
    """State between two cycles: by job id, the job's revision and its next due time or None."""

    following: dict[str, tuple[int, datetime | None]] = field(default_factory=dict)


@dataclass
class AuditReport:
    """Result of one cycle: numbers of audited jobs, and of recorded due times by status.

    ``left`` is true if the cycle ended before the audit was complete.
    """

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
    """Run one cycle, which starts no further job after ``most_seconds`` of auditing.

    ``observed`` maps a job id to the instant (ledger time) up to which the ledger has the job's
    edits and the ends of its runs from Prefect. A live job that ``observed`` lacks is not audited.
    If ``memory`` is given, skip jobs without a new due time, and update ``memory``. Raise
    `LedgerUnreachable`, and an `ExceptionGroup` if some jobs cannot be audited; the other jobs are
    audited all the same.
    """
    cpu = time.process_time()
    known = (memory or AuditorState()).following
    async with ledger.read() as session:
        marks = await run_audit.watermarks(session)
    for removed in known.keys() - {each.job_id for each in marks}:
        del known[removed]
    done, now, failed = AuditReport(), ledger.now(), list[Exception]()
    began = time.monotonic()  # not before: the time to read many jobs must not leave none to audit
    for mark in marks:
        up_to = _up_to(mark, observed, now)
        if up_to is None or _is_idle(mark, known.get(mark.job_id), up_to):
            continue
        if time.monotonic() - began >= most_seconds:
            done.left = True
            break
        done.jobs += 1
        try:
            advanced = await run_audit.advance(ledger, mark.job_id, up_to)
        except LedgerUnreachable:
            raise
        except Exception as error:  # a broken row of one job must not stop the audit of the others
            error.add_note(f"in the audit of job {mark.job_id}")
            failed.append(error)
            continue
        if advanced is None:
            continue
        done.add(advanced)
        done.left |= advanced.more
        if advanced.revision:
            known[mark.job_id] = (advanced.revision, advanced.following)
    done.cpu_seconds = time.process_time() - cpu
    if failed:
        raise ExceptionGroup("some jobs cannot be audited", failed)
    return done


def _up_to(mark: Watermark, observed: Mapping[str, datetime], now: datetime) -> datetime | None:
    """Return the instant up to which to audit the job; None if it is unknown or already reached."""
    until = mark.archived_at or observed.get(mark.job_id)
    if until is None:
        return None
    up_to = min(until, now - ON_TIME_GRACE)
    return up_to if up_to > mark.until else None


def _is_idle(mark: Watermark, known: tuple[int, datetime | None] | None, up_to: datetime) -> bool:
    if known is None or known[0] != mark.revision:
        return False
    if mark.archived_at is not None:
        return False  # the watermark has to reach the time of the removal
    following = known[1]
    nothing_due = following is None or following > up_to
    return nothing_due and up_to - mark.until < IDLE_WATERMARK_MAX_AGE
