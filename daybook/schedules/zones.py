"""Time zones, and wall-clock times as instants.

A wall-clock time that the zone's clocks skip becomes the first instant after the gap. A wall-clock
time that occurs twice becomes the first of the two instants. `due` applies these rules to the fixed
times of cron expressions; `schedule` and `bounds` apply them to a time without an offset.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from daybook import zone_names
from daybook.errors import InvalidInput

FIRST_YEAR, LAST_YEAR = 1000, 9000
"""Years of the earliest and the latest legal time; conversions overflow only far outside."""

_SECOND = timedelta(seconds=1)
# No zone has changed its offset twice within 167 hours (all transitions in tzdata, 1850 to 2100).
# So a stride of five days spans at most one change; a test checks that.
_STRIDE = timedelta(days=5)


@cache
def zone(name: str, field: str = "timezone") -> ZoneInfo:
    """Return the IANA zone with exactly this name, which is case-sensitive.

    Raise `InvalidInput` naming ``field``, with the nearest names, if there is no such zone.
    """
    if is_known(name):
        return ZoneInfo(name)
    if len(name) > zone_names.MAX_LENGTH:
        raise InvalidInput(field, "is too long", f"use at most {zone_names.MAX_LENGTH} characters")
    raise InvalidInput(field, f'unknown zone "{name}"', zone_names.hint(name))


def is_known(name: str) -> bool:
    """Return whether the zone is known here; the zone of a stored job may not be."""
    return name in zone_names.names()


def display_zone(name: str) -> ZoneInfo:
    """Return the zone in which to show times of a stored job: UTC if its zone is missing here."""
    return zone(name if is_known(name) else "UTC")


def local_text(instant: datetime, timezone: str) -> str:
    """Return an instant in the zone of a job: `2026-11-20 09:00:00 +01:00`."""
    local = instant.astimezone(display_zone(timezone)).isoformat(" ", "seconds")
    return f"{local[:19]} {'UTC' if timezone == 'UTC' else local[19:]}"


def time_text(instant: datetime, tz: ZoneInfo, now: datetime | None, form: str = "full") -> str:
    """Return an instant as text in ``tz``. ``form`` is `full`, `second`, `clock`, `time` or `day`.

    With `full` and `second`, the text has the year if it is not the year of ``now``. With `day`, it
    never has the year; `clock` has only hours and minutes, and `time` also seconds.
    """
    local = instant.astimezone(tz)
    if form in ("clock", "time"):
        return f"{local:%H:%M:%S}" if form == "time" else f"{local:%H:%M}"
    if form == "day":
        return f"{local:%a} {local.day} {local:%b}"
    is_this_year = now is not None and local.year == now.astimezone(tz).year
    year = "" if is_this_year else f" {local.year}"
    clock = "%H:%M:%S" if form == "second" else "%H:%M"
    return f"{local:%a} {local.day} {local:%b}{year}, {local.strftime(clock)}"


def time_with_zone(instant: datetime, timezone: str, now: datetime | None = None) -> str:
    """Return an instant for a sentence, such as `Fri 20 Nov, 09:00 Europe/Berlin`.

    ``timezone`` is the zone of a job, or that of the settings. The text has the year if it is not
    the year of ``now``.
    """
    tz = display_zone(timezone)
    return f"{time_text(instant, tz, now)} {tz.key}"


def check_year(day: date) -> None:
    """Raise ValueError for a year before `FIRST_YEAR` or after `LAST_YEAR`."""
    if day.year < FIRST_YEAR:
        raise ValueError(f"the first year is {FIRST_YEAR}")
    if day.year > LAST_YEAR:
        raise ValueError(f"the last year is {LAST_YEAR}")


def midnight(day: date, tz: ZoneInfo) -> datetime:
    """Return the instant, in UTC, at which ``day`` begins in ``tz``."""
    return to_instant(datetime.combine(day, time()), tz)


def wall_time(instant: datetime, tz: ZoneInfo) -> datetime:
    """Return the naive time that the zone's clocks show at an instant."""
    return instant.astimezone(tz).replace(tzinfo=None, fold=0)


def to_instant(local: datetime, tz: ZoneInfo) -> datetime:
    """Return the instant, in UTC, of a naive wall-clock time in whole seconds.

    For a time that occurs twice, return the first of the two instants; for a skipped time, return
    the first instant after the gap.
    """
    earlier = local.replace(tzinfo=tz, fold=0).astimezone(UTC)
    if wall_time(earlier, tz) == local:
        return earlier
    # ``local`` is in a gap, and its two folds lie on either side of the gap (PEP 495). Find where
    # the clocks jump over ``local``. There is only one jump between the folds, so the time that the
    # clocks show only increases.
    before, after = local.replace(tzinfo=tz, fold=1).astimezone(UTC), earlier
    while after - before > _SECOND:
        middle = before + (after - before) // 2 // _SECOND * _SECOND
        if wall_time(middle, tz) > local:
            after = middle
        else:
            before = middle
    return after


def next_change(tz: ZoneInfo, after: datetime, until: datetime) -> datetime | None:
    """Return the first instant in (after, until] at which the zone's offset changes.

    Instants are in UTC and whole seconds. Return None if the offset stays the same.
    """
    low = after
    offset = low.astimezone(tz).utcoffset()
    while low < until:
        high = min(low + _STRIDE, until)
        if high.astimezone(tz).utcoffset() == offset:
            low = high
            continue
        while high - low > _SECOND:
            middle = low + (high - low) // 2 // _SECOND * _SECOND
            if middle.astimezone(tz).utcoffset() == offset:
                low = middle
            else:
                high = middle
        return high
    return None
