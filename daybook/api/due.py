"""The next due times of a job, or of a bare schedule (which needs no server and no ledger)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from daybook.api import views
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import InvalidInput
from daybook.schedules.descriptions import describe
from daybook.schedules.schedule import Schedule, make, parse, zone

MAX_COUNT = 1_000


def of_schedule(
    *,
    cron: str | None = None,
    every: str | None = None,
    at: str | None = None,
    timezone: str | None = None,
    after: str | None = None,
    count: int = views.DUE_TIMES_SHOWN,
) -> dict[str, Any]:
    """Return the next due times of a bare schedule: `{"schedule", "words", "due": [{"utc",
    "local"}, …]}`.

    An interval (`every`) counts from ``after``, else from now.
    """
    name = timezone or _default_zone()
    start = _after(after, name)
    now = start if every is not None else SYSTEM_CLOCK.now()
    if at is not None and after is not None:
        now = min(start, now)
    schedule = make(cron=cron, every=every, at=at, timezone=name, now=now)
    return _view(schedule, views.due(schedule, start, _valid_count(count)))


def of_text(
    text: str, timezone: str | None = None, count: int = views.DUE_TIMES_SHOWN
) -> dict[str, Any]:
    """Return the same, from now on, for a schedule written as one text (`schedule.parse`)."""
    now = SYSTEM_CLOCK.now()
    schedule = parse(text, timezone=timezone or _default_zone(), now=now)
    return _view(schedule, views.due(schedule, now, _valid_count(count)))


async def of_job(
    ref: str, *, after: str | None = None, count: int = views.DUE_TIMES_SHOWN
) -> dict[str, Any]:
    """Return the same for a stored job; for a disabled one, as if it were enabled."""
    from daybook.api import authorization
    from daybook.ledger.engine import open_ledger

    async with open_ledger() as ledger, ledger.read() as session:
        stored = await authorization.find_job(session, ref)
    schedule = stored.job.schedule
    start = _after(after, schedule.timezone)
    return _view(schedule, views.due_of_job(stored, start, _valid_count(count)))


def _default_zone() -> str:
    from daybook import settings

    return settings.load().timezone


def _after(text: str | None, timezone: str) -> datetime:
    if text is None:
        return SYSTEM_CLOCK.now()
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        legal = "use a time such as 2027-01-15T14:30:00+01:00 (the offset is optional)"
        raise InvalidInput("after", f'"{text}" is not an RFC 3339 time', legal) from None
    return instant if instant.tzinfo else instant.replace(tzinfo=zone(timezone))


def _valid_count(count: int) -> int:
    if not 1 <= count <= MAX_COUNT:
        raise InvalidInput("count", f"{count} is out of range", f"use 1 to {MAX_COUNT}")
    return count


def _view(schedule: Schedule, due: list[dict[str, str]]) -> dict[str, Any]:
    return {"schedule": schedule.to_json(), "words": describe(schedule), "due": due}
