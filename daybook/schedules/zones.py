"""Time zones, and wall-clock times as instants.

The rule for a wall-clock time that the zone's clocks skip or show twice is requirement 7's: one
that does not exist is the first instant after the gap, one that occurs twice is the first of the
two. `due.py` applies it to schedules, `schedule.py` to an `at` that is written without an offset.
"""

from __future__ import annotations

import difflib
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from zoneinfo import ZoneInfo, available_timezones

from daybook.errors import InvalidInput

LONGEST = 100
"""Characters of a name that is looked for: the longest zone's has 32."""

_SECOND = timedelta(seconds=1)
# No zone has changed its offset twice within 167 hours (looked up in all of tzdata's transitions,
# 1850 to 2100; a test looks again). So a stride of five days passes over at most one change.
_STRIDE = timedelta(days=5)


@cache
def _shipped() -> frozenset[str]:
    """The names in the tzdata package; reading its list is faster than walking the folders."""
    return frozenset(resources.files("tzdata").joinpath("zones").read_text("utf-8").split())


@cache
def _names() -> frozenset[str]:
    return _shipped() | (available_timezones() - {"localtime", "posixrules"})


@cache
def zone(name: str, field: str = "timezone") -> ZoneInfo:
    """The IANA zone of this name, upper and lower case as IANA writes it.

    Raises `InvalidInput` naming ``field``, with the nearest names, when there is no such zone.
    """
    if name in _shipped() or name in _names():
        return ZoneInfo(name)
    if len(name) > LONGEST:  # to tell what it is like would take long
        raise InvalidInput(field, "is too long", f"legal: at most {LONGEST} characters")
    raise InvalidInput(field, f'unknown zone "{name}"', _advice(name))


def _advice(name: str) -> str:
    lower = {known.lower(): known for known in sorted(_names())}
    asked = name.strip().replace(" ", "_").lower()
    if asked in lower:
        return f"did you mean {lower[asked]}?"
    cities: dict[str, str] = {}
    for known in sorted(_names()):
        cities.setdefault(known.rpartition("/")[2].lower(), known)
    near = [lower[match] for match in difflib.get_close_matches(asked, lower, n=3, cutoff=0.7)]
    by_city = difflib.get_close_matches(asked.rpartition("/")[2], cities, n=3, cutoff=0.75)
    near += [cities[match] for match in by_city if cities[match] not in near]
    if near:
        return f"did you mean {' or '.join(near[:3])}?"
    return "write an IANA name such as Europe/Berlin or UTC"


def wall(instant: datetime, tz: ZoneInfo) -> datetime:
    """What the zone's clocks show at an instant; naive."""
    return instant.astimezone(tz).replace(tzinfo=None, fold=0)


def resolve(local: datetime, tz: ZoneInfo) -> datetime:
    """The instant, in UTC, of a naive wall-clock time of whole seconds (requirement 7).

    A time that occurs twice is the first of the two; one in a gap is the first instant after it.
    """
    earlier = local.replace(tzinfo=tz, fold=0).astimezone(UTC)
    if wall(earlier, tz) == local:
        return earlier
    # In a gap the two folds lie on either side of it (PEP 495): find where the clocks jump over
    # ``local``. There is one jump between them, so what the clocks show only grows.
    before, after = local.replace(tzinfo=tz, fold=1).astimezone(UTC), earlier
    while after - before > _SECOND:
        middle = before + (after - before) // 2 // _SECOND * _SECOND
        if wall(middle, tz) > local:
            after = middle
        else:
            before = middle
    return after


def next_change(tz: ZoneInfo, after: datetime, until: datetime) -> datetime | None:
    """The first instant in (after, until] from which the zone has another offset than before it.

    Instants are in UTC and whole seconds. None when the offset stays the same.
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
