"""Schedules of a job: four kinds, and the text form that a user writes.

Every schedule carries its IANA zone, so that a job does not move if the machine's zone changes.
Errors name the field as the user wrote it: `cron`, `every`, `at`, `on_demand` and `timezone` for
`make`, `schedule` and `timezone` for `parse`.

A new kind of schedule is handled here, in `due` and `descriptions`, in `jobs.model.ScheduleFields`,
and in `prefect.projection`, which translates schedules from and to Prefect.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from daybook.errors import InvalidInput
from daybook.schedules import cron as expressions
from daybook.schedules import durations
from daybook.schedules.durations import Duration
from daybook.schedules.zones import to_instant, zone
from daybook.validation import raising_pydantic_error

__all__ = [
    "At",
    "Cron",
    "Every",
    "OnDemand",
    "Schedule",
    "in_zone",
    "make",
    "parse",
    "to_text",
    "zone",
]

SYNTAX_HINT = (
    'write a cron expression ("0 9 * * 1-5", @daily), "every 30m", '
    '"at 2027-01-15T14:30:00+01:00", "in 30m" or "on demand"'
)
_LEGAL_AT = "use 2027-01-15T14:30:00+01:00 (the offset is optional) or in 30m"
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d(?::\d\d)?)(?:\.(\d+))?\s?([Zz]|[+-]\d\d:\d\d)?", re.ASCII
)
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?(?:\D|$)", re.ASCII)
_BARE = re.compile(r"-?[\d.]+\s*[a-z]+(?:\s*\d+\s*[a-z]+)*", re.ASCII | re.IGNORECASE)


def _check_zone(name: str) -> str:
    with raising_pydantic_error():
        zone(name)
    return name


def _canonical(expr: str) -> str:
    with raising_pydantic_error():
        return expressions.canonical(expr)


def _whole_second_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("an instant needs an offset")
    if value.microsecond:
        raise ValueError("an instant must be a whole second")
    return value.astimezone(UTC)


Zone = Annotated[str, AfterValidator(_check_zone)]
Instant = Annotated[datetime, AfterValidator(_whole_second_utc)]
"""Aware datetime in whole seconds, converted to UTC; naive ones and fractions are refused."""


class _Schedule(BaseModel):
    """What the kinds of schedules share; each kind overrides what differs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    follows_wall_clock: ClassVar[bool] = False
    """Whether a change of the zone's clocks moves its due times."""

    @property
    def only_due(self) -> datetime | None:
        """Return the due time of a schedule that is due once; None for other schedules."""
        return None

    @property
    def prefect_describes_it(self) -> bool:
        """Return whether Prefect's UI describes such a schedule well."""
        return False

    def has_passed(self, now: datetime) -> bool:
        """Return whether its only due time is not after ``now``."""
        return self.only_due is not None and self.only_due <= now

    def to_json(self) -> dict[str, Any]:
        """Return `{"kind", "expr" | "every" | "at", "timezone"}`, as `--json` prints it."""
        return self.model_dump(mode="json")


class Cron(_Schedule):
    """Due by the wall clock of its zone; ``expr`` is as written, with single spaces."""

    follows_wall_clock = True

    kind: Literal["cron"] = "cron"
    expr: Annotated[str, AfterValidator(_canonical)]
    timezone: Zone

    @property
    def prefect_describes_it(self) -> bool:
        return len(self.expr.split()) < 6  # it misreads seconds


class Every(_Schedule):
    """Due at anchor + n * every, n ≥ 1: the phase stays, however long the runs take.

    The zone affects only the display of due times.
    """

    kind: Literal["every"] = "every"
    every: Duration
    anchor: Instant
    timezone: Zone

    @property
    def prefect_describes_it(self) -> bool:
        return True


class At(_Schedule):
    """Due once, at a whole second. The zone affects only the display."""

    kind: Literal["at"] = "at"
    at: Instant
    timezone: Zone

    @property
    def only_due(self) -> datetime:
        return self.at

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"at": self.at.astimezone(zone(self.timezone)).isoformat()}


class OnDemand(_Schedule):
    """Never due by itself: run by hand, hook or API."""

    kind: Literal["on_demand"] = "on_demand"
    timezone: Zone


Schedule = Annotated[Cron | Every | At | OnDemand, Field(discriminator="kind")]


def make(
    *,
    cron: str | None = None,
    every: str | None = None,
    at: str | None = None,
    on_demand: bool = False,
    timezone: str,
    now: datetime,
    current: Schedule | None = None,
) -> Schedule:
    """Build a schedule from separate fields, exactly one of which is given.

    ``now`` is an aware instant. The anchor of an `every` is ``now`` floored to the second. An `at`
    without an offset is read in ``timezone``; `in 30m` counts from ``now`` rounded up to the
    second. ``current`` is the schedule in force when a job is edited: an equal `every` keeps its
    anchor, an equal `at` its time, even if it has passed.

    Raises `InvalidInput` naming the field.
    """
    zone(timezone)
    given = [
        name for name, value in (("cron", cron), ("every", every), ("at", at)) if value is not None
    ] + (["on_demand"] if on_demand else [])
    if not given:
        raise InvalidInput("schedule", "is missing", "set one of cron, every, at or on_demand")
    if len(given) > 1:
        raise InvalidInput(
            " and ".join(given), "only one of these can be given", "cron, every, at or on_demand"
        )
    if cron is not None:
        return Cron(expr=expressions.canonical(cron), timezone=timezone)
    if every is not None:
        return _every(every, "every", timezone, now, current)
    if at is not None:
        return one_time(at, "at", timezone, now, current)
    return OnDemand(timezone=timezone)


def parse(
    text: str,
    *,
    timezone: str,
    now: datetime,
    current: Schedule | None = None,
) -> Schedule:
    """Parse the schedule from one text; the inverse of `to_text`.

    ``now`` and ``current`` are as for `make`. Raises `InvalidInput` naming `schedule` or
    `timezone`.
    """
    zone(timezone)
    if len(text) > expressions.MAX_TEXT_LENGTH:
        legal = f"use at most {expressions.MAX_TEXT_LENGTH} characters"
        raise InvalidInput("schedule", "is too long", legal)
    word = " ".join(text.split())
    first, _, rest = word.partition(" ")
    lower = first.lower()
    if word.lower() in ("on demand", "on-demand", "on_demand"):
        return OnDemand(timezone=timezone)
    if lower == "every" and rest:
        return _every(rest, "schedule", timezone, now, current)
    if lower == "at" and rest:
        return one_time(rest, "schedule", timezone, now, current)
    if (lower == "in" and rest) or _DATE.match(word):
        return one_time(word, "schedule", timezone, now, current)
    if _BARE.fullmatch(word):
        raise _ambiguous("schedule", word)
    if word.startswith("@") or " " in word:
        return Cron(expr=expressions.canonical(word, "schedule"), timezone=timezone)
    raise InvalidInput(
        "schedule", f'"{text}" is not a schedule' if word else "is empty", SYNTAX_HINT
    )


def to_text(schedule: Schedule) -> str:
    """Return the text that `parse` reads as this schedule.

    For an `every`, ``now`` must be its anchor.
    """
    match schedule:
        case Cron():
            return schedule.expr
        case Every():
            return f"every {durations.to_text(schedule.every)}"
        case At():
            local = schedule.at.astimezone(zone(schedule.timezone))
            offset = local.utcoffset()
            if offset is None or offset % timedelta(minutes=1):  # RFC 3339 has no such offset
                local = schedule.at
            return f"at {local.isoformat()}"
        case OnDemand():
            return "on demand"


def in_zone(schedule: Schedule, timezone: str) -> Schedule:
    """Return the same schedule in another zone.

    A cron expression is read by the new zone's clocks; the instants of the others stay, and only
    their display changes. Raises `InvalidInput` for an unknown zone.
    """
    zone(timezone)
    return schedule.model_copy(update={"timezone": timezone})


def _every(
    text: str,
    field: str,
    timezone: str,
    now: datetime,
    current: Schedule | None,
) -> Every:
    every = durations.parse(text, field)
    if isinstance(current, Every) and current.every == every:
        return current.model_copy(update={"timezone": timezone})
    return Every(
        every=every, anchor=_whole_second_utc(now.replace(microsecond=0)), timezone=timezone
    )


def one_time(
    text: str,
    field: str,
    timezone: str,
    now: datetime,
    current: Schedule | None = None,
) -> At:
    """Return the schedule of an RFC 3339 time, or of `in 30m`; the arguments are as for `make`.

    Raises `InvalidInput` naming ``field``, also for a time in the past.
    """
    word = " ".join(text.split())
    if word.lower().startswith("in "):
        whole = now.replace(microsecond=0)
        start = whole if whole == now else whole + timedelta(seconds=1)
        return At(at=start + durations.parse(word[3:], field), timezone=timezone)
    if _BARE.fullmatch(word):
        raise _ambiguous(field, word)
    due = parse_instant(word, field, timezone)
    if due <= now and (current is None or current.only_due != due):
        local = due.astimezone(zone(timezone)).isoformat()
        raise InvalidInput(field, f"{local} ({timezone}) is in the past", "use a future time")
    return At(at=due, timezone=timezone)


def parse_instant(word: str, field: str, timezone: str, legal: str = _LEGAL_AT) -> datetime:
    """Return the instant, in UTC, of an RFC 3339 time; without an offset it is read in
    ``timezone``.

    Raises `InvalidInput` naming ``field``.
    """
    match = _RFC3339.fullmatch(word)
    if match is None:
        raise InvalidInput(field, f'"{word}" is not an RFC 3339 time', legal)
    date, time, fraction, offset = match.groups()
    if fraction and fraction.strip("0"):
        raise InvalidInput(field, f'"{word}" has a fraction of a second', "use whole seconds")
    try:
        local = datetime.fromisoformat(f"{date}T{time}")
        if offset is None:
            return to_instant(local, zone(timezone))
        sign = "+00:00" if offset in "Zz" else offset
        return datetime.fromisoformat(f"{date}T{time}{sign}").astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(field, f'"{word}" does not exist: {error}', legal) from None


def _ambiguous(field: str, word: str) -> InvalidInput:
    return InvalidInput(field, f'"{word}" is ambiguous', f"write `every {word}` or `in {word}`")
