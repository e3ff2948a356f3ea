"""Maintenance windows: times in which Daybook starts no job by itself.

::

    ──────── begin ───────────────────────────── end ────────► time
               │ running runs continue            │
               ├─ due, not caught up on at `end` ─┼─► skipped
               └─ any other automatic run ────────┴─► waits, and starts at `end`

A run that a person started by hand (except a backfill), and a run that has had an attempt, start in
a window too.

A window contains its beginning but not its end. Overlapping and adjacent windows count as one. The
ledger stores all windows in one row of the table `Fact`, so that they outlive every process and all
machines see them. A transaction that reads the windows sees no later change. The ledger keeps a
window for at least `KEPT_AFTER_END` after its end, because the audit may still have to decide about
due times in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import AwareDatetime, BaseModel, TypeAdapter
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from daybook.jobs import lateness
from daybook.jobs.store import StoredJob
from daybook.ledger import waits
from daybook.ledger.states import Status
from daybook.ledger.tables import Fact, RunRow

FACT_KEY = "maintenance.windows"

KEPT_AFTER_END = timedelta(days=30)


class Window(BaseModel, frozen=True):
    """A maintenance window, [``begin``, ``end``)."""

    id: str
    begin: AwareDatetime
    end: AwareDatetime
    note: str = ""


_STORED = TypeAdapter(tuple[Window, ...])


@dataclass(frozen=True)
class Windows:
    """All windows in the ledger, earliest first."""

    windows: tuple[Window, ...] = ()

    def end_at(self, instant: datetime) -> datetime | None:
        """Return when the maintenance at ``instant`` ends; None if there is no maintenance then."""
        end = None
        for each in self.windows:  # sorted, so one loop joins adjacent windows
            if each.begin <= (end or instant) < each.end:
                end = each.end
        return end

    def start_after(self, instant: datetime, now: datetime) -> datetime:
        """Return the time from which a run that could start at ``instant`` is expected to start.

        This is the end of the last maintenance that ends after ``instant`` and has begun by
        ``now``, or ``instant``.
        """
        ends = [self.end_at(each.begin) for each in self.windows if each.begin <= now]
        return max([instant, *(end for end in ends if end is not None and end > instant)])

    def skip_reason(self, stored: StoredJob, due: datetime) -> str:
        """Return why a due time in a window is skipped; empty if the job may run it.

        It is skipped if the job would not catch up on it at the end of the window.
        """
        end = self.end_at(due)
        if end is None or lateness.judge_at(stored, due, end).runs:
            return ""
        return reason(end)


def reason(end: datetime) -> str:
    return f"maintenance until {end:%Y-%m-%d %H:%M:%S} UTC"


async def read(session: AsyncSession) -> Windows:
    """Return the windows, including windows that have ended recently."""
    fact = await session.get(Fact, FACT_KEY, populate_existing=True)
    return parse(fact.value if fact else None)


def parse(value: str | None) -> Windows:
    """Return the windows from the fact's ``value``; None stands for no windows."""
    return Windows() if value is None else Windows(_STORED.validate_json(value))


async def add(session: AsyncSession, window: Window, now: datetime) -> None:
    """Store a window, and delete windows that ended more than `KEPT_AFTER_END` ago."""
    known = [each for each in (await read(session)).windows if each.end > now - KEPT_AFTER_END]
    await _write(session, [*known, window])


async def remove(session: AsyncSession, window: Window, now: datetime) -> None:
    """Remove a window that has not ended; if it has begun, set its end to ``now`` instead.

    Runs that wait for its end may start now, or at the end of a window that remains. Skipped due
    times stay skipped.
    """
    ended = [window.model_copy(update={"end": now})] if window.begin < now else []
    others = [each for each in (await read(session)).windows if each.id != window.id]
    await _write(session, [*others, *ended])
    # A catch-up that waits for its turn (`audit`) waits for the end too: it is queued only then.
    waiting = (
        (col(RunRow.status) == Status.WAITING)
        & col(RunRow.waits_for).in_(waits.names(lambda each: each.ends_with_window))
        & (col(RunRow.attempts) == 0)
        & (col(RunRow.queued_at) > now)
    )
    await session.execute(update(RunRow).where(waiting).values(until=now, queued_at=now))


async def _write(session: AsyncSession, windows: list[Window]) -> None:
    ordered = tuple(sorted(windows, key=lambda each: (each.begin, each.end)))
    value = _STORED.dump_json(ordered).decode()
    await session.merge(Fact(key=FACT_KEY, value=value))
