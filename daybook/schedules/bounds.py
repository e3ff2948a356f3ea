"""Bounds on the due times of a schedule: start, end, excluded days, active and quiet hours.

An instant outside the bounds is not a due time: `daybook next` does not show it, and the ledger has
no row for it. All bounds follow the clocks of the job's zone, through daylight saving:

============  ===================================================================================
start, until  `2027-01-15`, or `2027-01-15T09:00` with or without an offset; both are inclusive, and
              a day without a time means the whole day
exclude       days (`2026-12-25`) or inclusive ranges of days (`2026-12-24..2027-01-01`)
active_hours  `09:00-17:00` includes its start and excludes its end; `22:00-06:00` is the night.
              They follow local time: hours that the clocks skip are never active, and hours that
              occur twice are active both times
quiet_hours   windows in the same form, such as `12:00-13:00`, in which nothing is due; they may lie
              inside or outside the active hours
============  ===================================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Protocol
from zoneinfo import ZoneInfo

from daybook.errors import InvalidInput
from daybook.schedules.cron import with_hyphens
from daybook.schedules.schedule import parse_instant as read_instant
from daybook.schedules.zones import check_year, next_change, to_instant, wall_time, zone

FIELDS = ("start", "until", "exclude", "active_hours", "quiet_hours")
"""Fields of a policy that are bounds."""

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
MAX_EXCLUDED = 400
MAX_QUIET_HOURS = 24

_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_HOURS = re.compile(r"(\d\d?):(\d\d)\s*-\s*(\d\d?):(\d\d)", re.ASCII)
_LEGAL_DAYS = "write 2026-12-25, or 2026-12-24..2027-01-01"
_LEGAL_HOURS = "write 09:00-17:00, or 22:00-06:00 for the night"
_LEGAL_MOMENT = "write 2027-01-15, 2027-01-15T09:00 or 2027-01-15T09:00:00+01:00"
_MINUTES = 24 * 60


@dataclass(frozen=True)
class Bounds:
    """Bounds of a policy in the time zone ``tz``; ``start`` and ``until`` are instants."""

    tz: ZoneInfo
    start: datetime | None = None
    until: datetime | None = None
    excluded: tuple[tuple[date, date], ...] = ()
    hours: tuple[int, int] | None = None
    """Start and end (exclusive) of the active hours, in minutes of the day.

    The start is at or after the end if the window spans midnight or is the whole day.
    """
    quiet: tuple[tuple[int, int], ...] = ()
    """Quiet windows, each in the form of ``hours``."""

    def __bool__(self) -> bool:
        return bool(self.start or self.until or self.excluded or self.hours or self.quiet)

    def exclusion_reason(self, instant: datetime) -> str:
        """Return why nothing is due at this instant (UTC), or "" if it is within the bounds."""
        if self.start is not None and instant < self.start:
            return "before the job's start"
        if self.until is not None and instant > self.until:
            return "after the job's end"
        local = wall_time(instant, self.tz)
        if self._last_excluded(local.date()) is not None:
            return f"{local:%Y-%m-%d} is excluded"
        if not self._active(local):
            return f"{local:%H:%M} is outside the active hours"
        if any(_is_within(local, window) for window in self.quiet):
            return f"{local:%H:%M} is within the quiet hours"
        return ""

    def next_candidate(self, instant: datetime) -> datetime | None:
        """Return the next instant to check after an excluded instant; None if there is none."""
        if self.until is not None and instant > self.until:
            return None
        if self.start is not None and instant < self.start:
            return self.start
        local = wall_time(instant, self.tz)
        last = self._last_excluded(local.date())
        if last is not None:
            return self._next(datetime.combine(last + DAY, time()), instant)
        if self.hours is not None and not self._active(local):
            minute = self.hours[0]
        else:
            minute = next(window[1] for window in self.quiet if _is_within(local, window))
        begin = time(*divmod(minute % _MINUTES, 60))
        day = local.date() if local.time() < begin else local.date() + DAY
        return self._next(datetime.combine(day, begin), instant)

    def _next(self, local: datetime, after: datetime) -> datetime:
        """Return the first instant later than ``after`` at which the clocks show ``local``.

        An earlier change of the offset comes first: after it, the clocks may show an hour within
        the bounds again. If the clocks skip ``local``, return the first instant after the gap; in a
        repeated hour, perhaps the second one. If no such instant is later than ``after``, return
        ``after`` plus a second.
        """
        second = local.replace(tzinfo=self.tz, fold=1).astimezone(UTC)
        found = next(
            (each for each in (to_instant(local, self.tz), second) if each > after), after + SECOND
        )
        # Only a jump within a day can pass such a change; a long excluded range is one step.
        return next_change(self.tz, after, min(found, after + 2 * DAY)) or found

    def _last_excluded(self, day: date) -> date | None:
        """Return the last day of the excluded range that contains ``day``, or None."""
        return max((last for first, last in self.excluded if first <= day <= last), default=None)

    def _active(self, local: datetime) -> bool:
        return self.hours is None or _is_within(local, self.hours)


def _is_within(local: datetime, window: tuple[int, int]) -> bool:
    begin, end = window
    minute = local.hour * 60 + local.minute
    return begin <= minute < end if begin < end else minute >= begin or minute < end


def quiet_minutes(window: str) -> int:
    """Return the length of a quiet window, as the clocks show it. Raise `InvalidInput`."""
    begin, end = _hours(window, "quiet_hours")
    return (end - begin) % _MINUTES or _MINUTES


def quiet_until(window: str, timezone: str, instant: datetime) -> datetime | None:
    """Return when the quiet window around ``instant`` ends (UTC), None if it is in no such window.

    It is the same for each instant of one window, which must be shorter than a day. Raise
    `InvalidInput` for a window or a zone.
    """
    bounds = _read("", "", (), ("", (window,)), timezone)
    end: datetime | None = instant.replace(microsecond=0)
    while end is not None and bounds.exclusion_reason(end):
        end = bounds.next_candidate(end)
    return end if end is None or end > instant else None


class BoundsTexts(Protocol):
    """Bounds as the user wrote them in a job's policy. An empty string means no bound."""

    @property
    def start(self) -> str: ...
    @property
    def until(self) -> str: ...
    @property
    def exclude(self) -> tuple[str, ...]: ...
    @property
    def active_hours(self) -> str: ...
    @property
    def quiet_hours(self) -> tuple[str, ...]: ...


def read_bounds(policy: BoundsTexts, timezone: str) -> Bounds:
    """Return the bounds of a policy, interpreted in the zone ``timezone``.

    Raise `InvalidInput` for invalid bounds; bounds that are valid in one zone are valid in all.
    """
    hours = policy.active_hours, policy.quiet_hours
    return _read(policy.start, policy.until, policy.exclude, hours, timezone)


@lru_cache(maxsize=256)
def _read(
    start: str,
    until: str,
    exclude: tuple[str, ...],
    hours: tuple[str, tuple[str, ...]],
    timezone: str,
) -> Bounds:
    tz = zone(timezone)
    return Bounds(
        tz,
        read_moment("start", start, timezone),
        read_moment("until", until, timezone, last=True),
        tuple(map(_days, exclude)),
        _hours(hours[0]) if hours[0] else None,
        tuple(_hours(each, "quiet_hours") for each in hours[1]),
    )


def check(policy: BoundsTexts) -> None:
    """Raise `InvalidInput` for invalid bounds, and for too many of them.

    The limits are `MAX_EXCLUDED` excluded days or ranges, and `MAX_QUIET_HOURS` quiet windows.
    """
    bounds = read_bounds(policy, "UTC")
    if len(bounds.excluded) > MAX_EXCLUDED:
        raise InvalidInput(
            "exclude", f"has {len(bounds.excluded)} days or ranges", f"use at most {MAX_EXCLUDED}"
        )
    if len(bounds.quiet) > MAX_QUIET_HOURS:
        raise InvalidInput(
            "quiet_hours", f"has {len(bounds.quiet)} ranges", f"use at most {MAX_QUIET_HOURS}"
        )


def read_moment(
    field: str, text: str, timezone: str, legal: str = _LEGAL_MOMENT, *, last: bool = False
) -> datetime | None:
    """Return the UTC instant of a time, or of a day's first (with ``last``, last) second.

    Return None for an empty string. Raise `InvalidInput` naming ``field``.
    """
    if not text:
        return None
    if not _DAY.fullmatch(text):
        return read_instant(text, field, timezone, legal)
    day = datetime.combine(_day(field, text, legal), time())
    tz = zone(timezone)
    return to_instant(day + DAY, tz) - SECOND if last else to_instant(day, tz)


def _days(text: str) -> tuple[date, date]:
    first, dots, last = (part.strip() for part in text.partition(".."))
    begin = _day("exclude", first, _LEGAL_DAYS)
    end = _day("exclude", last, _LEGAL_DAYS) if dots else begin
    if end < begin:
        raise InvalidInput("exclude", f'"{text}" ends before it starts', _LEGAL_DAYS)
    return begin, end


def _day(field: str, text: str, legal: str) -> date:
    if not _DAY.fullmatch(text):
        raise InvalidInput(field, f'"{text}" is not a date', legal)
    try:
        day = date.fromisoformat(text)
        check_year(day)
        return day
    except ValueError as error:
        raise InvalidInput(field, f'"{text}" does not exist: {error}', legal) from None


def _hours(text: str, field: str = "active_hours") -> tuple[int, int]:
    match = _HOURS.fullmatch(text.strip())
    if match is None and with_hyphens(text) != text:
        hint = f"it has another dash in place of the hyphen: write {with_hyphens(text)}"
        raise InvalidInput(field, f'"{text}" is not a range of hours', hint)
    if match is None:
        raise InvalidInput(field, f'"{text}" is not a range of hours', _LEGAL_HOURS)
    hour, minute, to_hour, to_minute = map(int, match.groups())
    begin, end = hour * 60 + minute, to_hour * 60 + to_minute
    if max(minute, to_minute) > 59 or begin >= _MINUTES or end > _MINUTES:
        raise InvalidInput(field, f'"{text}" is not a time of day', _LEGAL_HOURS)
    if begin == end:
        raise InvalidInput(field, f'"{text}" is an empty range', _LEGAL_HOURS)
    return begin, end % _MINUTES if end == _MINUTES and begin == 0 else end
