"""Audit: each due time gets its row, whatever became of its Prefect run (`docs/promise.md` 10).

::

    observed since when?  ── not in this pass ─────────► not audited
           │
    next due time known, and later than that ──────────► nothing, not even a look at the job
           │
    up to a minute ago and to the observation's start ─► `ledger.audit.advance`, the oldest first

A job that was not observed may have been edited in Prefect, and what it was edited to decides what
was due. Removed jobs have no deployment left, so they are audited to their removal as they are.
Nothing is asked in Prefect here; `ensure` makes the runs of the rows that wait.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from daybook.jobs.lateness import ON_TIME
from daybook.ledger.engine import Ledger
from daybook.runs import audit as book
from daybook.runs.audit import Audited, Mark

IDLE = timedelta(hours=1)
"""How far the watermark of a job of which nothing is due may stay behind: it costs no writing."""


@dataclass
class Memory:
    """What a keeper keeps of its jobs from pass to pass: revision, and the next due time by it."""

    following: dict[str, tuple[int, datetime | None]] = field(default_factory=dict)


@dataclass
class Audit:
    """How many due times became what, of how many jobs; ``left`` says that the time was up."""

    jobs: int = 0
    missed: int = 0
    waiting: int = 0
    skipped: int = 0
    left: bool = False
    cpu_seconds: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.missed or self.waiting or self.skipped)

    def add(self, done: Audited) -> None:
        self.missed += done.missed
        self.waiting += done.waiting
        self.skipped += done.skipped


async def audit(
    ledger: Ledger,
    observed: Mapping[str, datetime],
    *,
    memory: Memory | None = None,
    most_seconds: float = 1.0,
) -> Audit:
    """One pass, of about ``most_seconds`` (it ends with the transaction in which they are up).

    ``observed`` are the jobs that were compared with Prefect completely, and when that began (the
    ledger's time). ``memory`` saves looking at jobs of which nothing is due.
    """
    began, cpu = time.monotonic(), time.process_time()
    known = (memory or Memory()).following
    async with ledger.read() as session:
        marks = await book.marks(session)
    for gone in known.keys() - {each.job_id for each in marks}:
        del known[gone]
    done, now = Audit(), ledger.now()
    for mark in marks:
        up_to = _up_to(mark, observed, now)
        if up_to is None or _is_idle(mark, known.get(mark.job_id), up_to):
            continue
        if time.monotonic() - began >= most_seconds:
            done.left = True
            break
        done.jobs += 1
        said = await book.advance(ledger, mark.job_id, up_to)
        if said is None:
            continue
        done.add(said)
        done.left |= said.more
        if said.revision:
            known[mark.job_id] = (said.revision, said.following)
    done.cpu_seconds = time.process_time() - cpu
    return done


def _up_to(mark: Mark, observed: Mapping[str, datetime], now: datetime) -> datetime | None:
    """Up to when the job can be audited; None when that is no further than it was."""
    until = mark.archived_at or observed.get(mark.job_id)
    if until is None:
        return None
    up_to = min(until, now - ON_TIME)
    return up_to if up_to > mark.until else None


def _is_idle(mark: Mark, known: tuple[int, datetime | None] | None, up_to: datetime) -> bool:
    if known is None or known[0] != mark.revision or mark.since > mark.until:
        return False
    if mark.archived_at is not None:
        return False  # its removal comes no later: it would never be reached
    following = known[1]
    nothing_due = following is None or following > up_to
    return nothing_due and up_to - mark.until < IDLE
