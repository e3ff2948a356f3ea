"""Maintenance windows: times in which no job starts by itself. Operations: plan, list, remove.

A person can still run a job by hand in a window. The operations work without Prefect.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from daybook import names, settings
from daybook.api import authorization
from daybook.errors import InvalidInput, NotFound
from daybook.instants import UtcTime
from daybook.ledger.engine import open_ledger
from daybook.ledger.tables import new_id
from daybook.runs import maintenance
from daybook.runs.maintenance import Window
from daybook.schedules import durations, phrases
from daybook.schedules.schedule import one_time, zone

MAX_WINDOWS = 100
_LEGAL = "use a time such as 22:00, 2027-01-15T22:00, or in 2h"


class MaintenanceWindow(BaseModel, frozen=True):
    """A maintenance window that has not ended. ``active`` is true if the window has started."""

    id: str
    begin: UtcTime
    end: UtcTime
    note: str
    active: bool

    @classmethod
    def of(cls, window: Window, now: datetime) -> MaintenanceWindow:
        return cls(**dict(window), active=window.begin <= now)


async def plan(
    until: str | None = None,
    *,
    begin: str | None = None,
    duration: str | None = None,
    timezone: str | None = None,
    note: str = "",
) -> MaintenanceWindow:
    """Plan a window in which no job starts by itself, from ``begin`` (default: now). Return it.

    Exactly one of ``until`` and ``duration`` is required: the end of the window, or its length.
    Times are RFC 3339 times, `22:00`, `tomorrow at 22:00`, or `in 2h`. ``timezone`` (default: the
    setting) is the zone of times without an offset. An ``until`` such as `22:00` or `in 2h` counts
    from ``begin``. Raise `InvalidInput`, also for an agent, and if `MAX_WINDOWS` windows are
    planned.
    """
    authorization.require_operator()
    if (until is None) is (duration is None):
        raise InvalidInput("until or duration", "exactly one is required", _LEGAL)
    name, note = timezone or settings.load().timezone, names.validate_line(note, "note")
    zone(name)
    length = durations.parse(duration, "duration") if duration is not None else None
    async with open_ledger() as ledger, ledger.write() as session:
        now = ledger.now()
        start = now if begin is None else _instant(begin, "from", name, now)
        end = start + length if length is not None else _end(str(until), name, start)
        if end <= start:
            raise InvalidInput("until", "is not after the beginning", "use a later time")
        known = await maintenance.read(session)
        if sum(each.end > now for each in known.windows) >= MAX_WINDOWS:
            problem = f"{MAX_WINDOWS} windows are planned"
            raise InvalidInput("maintenance", problem, "remove one first")
        window = Window(id=new_id(), begin=start, end=end, note=note)
        await maintenance.add(session, window, now)
        return MaintenanceWindow.of(window, now)


async def list_windows() -> list[MaintenanceWindow]:
    """Return the windows that have not ended, earliest first."""
    async with open_ledger() as ledger, ledger.read() as session:
        now = ledger.now()
        return views(await maintenance.read(session), now)


async def remove(ref: str) -> MaintenanceWindow:
    """Remove a planned window, or end the present one now. Return the window.

    ``ref`` is the window's id or a unique id prefix. Raise `NotFound`. Raise `InvalidInput` for a
    prefix of several ids, and for an agent.
    """
    authorization.require_operator()
    async with open_ledger() as ledger, ledger.write() as session:
        now = ledger.now()
        coming = [each for each in (await maintenance.read(session)).windows if each.end > now]
        found = [each for each in coming if ref and each.id.startswith(ref)]
        if not found:
            raise NotFound("maintenance window", ref)
        if len(found) > 1:
            raise InvalidInput("window", f'"{ref}" begins several ids', "use more characters")
        await maintenance.remove(session, found[0], now)
        return MaintenanceWindow.of(found[0], now)


def views(windows: maintenance.Windows, now: datetime) -> list[MaintenanceWindow]:
    return [MaintenanceWindow.of(each, now) for each in windows.windows if each.end > now]


def _end(text: str, timezone: str, start: datetime) -> datetime:
    try:
        return _instant(text, "until", timezone, start)
    except InvalidInput as error:
        if not error.problem.endswith("is in the past"):
            raise
        local = start.astimezone(zone(timezone)).replace(microsecond=0).isoformat()
        problem = f'"{text}" is not after the beginning, {local}'
        raise InvalidInput("until", problem, "use a later time") from error


def _instant(text: str, field: str, timezone: str, now: datetime) -> datetime:
    given = f"today at {text}" if phrases.is_time(text) else text
    try:
        return one_time(given, field, timezone, now).at
    except InvalidInput as error:
        if phrases.is_time(text) and error.problem.endswith("is in the past"):
            return one_time(f"tomorrow at {text}", field, timezone, now).at
        raise
