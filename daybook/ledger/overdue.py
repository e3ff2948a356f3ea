"""Due times that passed and of which nothing has begun (requirement 59).

Either nobody has offered the due time to the claim, or its row waits although nothing of its own
keeps it: no backoff, no time that was given to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.ledger import offers, slots, wanted
from daybook.ledger.jobs import StoredJob
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.spec import lateness, upcoming

LATE = lateness.ON_TIME + timedelta(seconds=30)
"""So long after its due time it is told of: by then a run has begun, or the audit has judged."""
LOOKED_AT = 200
"""So many due times of a job are looked at, from its watermark on."""
_AT_ONCE = 500


@dataclass(frozen=True)
class Overdue:
    """A due time of a job; ``run`` is its row, None where it has none."""

    stored: StoredJob
    due: datetime
    run: RunRow | None


async def find(
    session: AsyncSession, stored: Sequence[StoredJob], live: Sequence[RunRow], now: datetime
) -> list[Overdue]:
    """What is overdue at ``now`` of these jobs, whose live runs are ``live``, the earliest first.

    Of each job one due time without a row at most: the first.
    """
    by_id = {each.id: each for each in stored}
    found = [
        Overdue(by_id[str(row.job_id)], row.due, row)
        for row in live
        if row.job_id in by_id and _waits_too_long(row, now)
    ]
    dues = {
        offers.due_key(each.id, due): (each, due) for each in stored for due in _passed(each, now)
    }
    have = await _with_a_row(session, list(dues))
    first: dict[str, Overdue] = {}
    for key, (each, due) in dues.items():
        if key not in have:
            first.setdefault(each.id, Overdue(each, due, None))
    return sorted([*found, *first.values()], key=lambda each: each.due)


def _waits_too_long(row: RunRow, now: datetime) -> bool:
    if row.state is not Status.WAITING or row.attempts or row.trigger == slots.BACKFILL:
        return False
    # Who waits for a turn asks again and again; what is waited for else, `until` says.
    since = row.due if row.waits_for in slots.TURNS else max(row.due, row.until or row.due)
    return since + LATE < now


def _passed(stored: StoredJob, now: datetime) -> list[datetime]:
    if not stored.job.enabled:
        return []
    # By an earlier revision something else may have been due; the audit knows.
    start = max(stored.row.audited_until, stored.revision.effective_from)
    passed = upcoming.between(stored.job.schedule, stored.job.policy, start, now - LATE)
    return [due for due in islice(passed, LOOKED_AT) if not wanted.put_off(stored, due)]


async def _with_a_row(session: AsyncSession, keys: list[str]) -> set[str]:
    have: set[str] = set()
    for start in range(0, len(keys), _AT_ONCE):
        some = col(RunRow.occurrence).in_(keys[start : start + _AT_ONCE])
        have |= set((await session.execute(select(RunRow.occurrence).where(some))).scalars())
    return have
