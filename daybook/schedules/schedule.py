"""Schedules of a job: five kinds, and the text form that a user writes.

Every schedule carries its IANA zone, so that a job's due times do not move if the machine's zone
changes. Errors name the field as the user wrote it. `make` names an argument such as `cron`; it
names all arguments that exclude each other, and `schedule` if none is given. `parse` names
`schedule` or `timezone`.

To add a kind of schedule, write:

- its model here, with its due times and words, in `Schedule`, `make`, `parse`, `SYNTAX_HINT` and
  `FIELD_NAMES`
- its field in `schedules.fields.ScheduleFields`, which `daybook add` offers as an option
- its translation to and from Prefect in `prefect.projection`, if Prefect has such schedules; if
  not, `prefect.corrections` has to queue its runs
- its form in a jobs file (`files.jobs_file`, `files.schema`), if it has several fields
- a line in the guides jobs.md and mcp.md, and in concepts/job.md; tests quote the hints of `make`

The options of `daybook add`, `edit` and `next` and the arguments of agents' tools follow from
`ScheduleFields`. `cli.job_options` names only flags, such as `on_demand`, and the schedules that
`daybook heartbeat on` offers; `cli.due` names the schedules that have no due times.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal, cast, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

from daybook.duration_text import duration_in_words
from daybook.errors import InvalidInput
from daybook.names import validate_name
from daybook.schedules import cron as expressions
from daybook.schedules import descriptions, due, durations, phrases
from daybook.schedules.durations import Duration
from daybook.schedules.zones import (
    FIRST_YEAR,
    LAST_YEAR,
    check_year,
    display_zone,
    is_known,
    to_instant,
    wall_time,
    zone,
)
from daybook.validation import STORED, raising_pydantic_error

__all__ = [
    "After",
    "At",
    "Cron",
    "Every",
    "OnDemand",
    "Schedule",
    "in_zone",
    "make",
    "parse",
    "zone",
]

SYNTAX_HINT = (
    'write a cron expression ("0 9 * * 1-5", @daily), "every 30m", "every weekday at 9:00", '
    '"tomorrow at 9:00", "at 2027-01-15T14:30:00+01:00", "in 30m", "after morning-brief" or '
    '"on demand"'
)
FIELD_NAMES = "schedule, cron, every, at, after or on_demand"
"""The fields that hints list; the command line shows them as options."""
_LEGAL_AT = "use 2027-01-15T14:30:00+01:00 (the offset is optional), tomorrow at 9:00 or in 30m"
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d(?::\d\d)?)(?:\.(\d+))?\s?([Zz]|[+-]\d\d:\d\d)?", re.ASCII
)
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?(?:\D|$)", re.ASCII)
_BARE = re.compile(
    r"(?!\d+\s*[ap]\.?m\b)-?[\d.]+\s*[a-z]+(?:\s*\d+\s*[a-z]+)*", re.ASCII | re.IGNORECASE
)
_ONE_TIME = re.compile(
    rf"in .|\+|once at .|(?:at )?(?:{_DATE.pattern})|at (?:{_BARE.pattern})$",
    re.ASCII | re.IGNORECASE,
)
_INTERVAL = re.compile(
    r"(?!\d\d?(?::\d\d|\s?[ap]\.?m\b))[-\d.](?!\d?(?:st|nd|rd|th)\b)(?!.*\b(?:at|between|from|of)\b)",
    re.ASCII | re.IGNORECASE,
)


class InPast(InvalidInput):
    """The only due time of ``schedule`` has passed."""

    def __init__(self, field: str, problem: str, schedule: At) -> None:
        self.schedule = schedule
        super().__init__(field, problem, "use a future time")


def _check_zone(name: str, info: ValidationInfo) -> str:
    if info.context is STORED:
        return name
    with raising_pydantic_error():
        zone(name)
    return name


def _canonical(expr: str, info: ValidationInfo) -> str:
    with raising_pydantic_error():
        if info.context is STORED:
            expressions.read_fields(expr)
            return expr
        return expressions.canonical(expr)


def _whole_second_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("an instant needs an offset")
    if value.microsecond:
        raise ValueError("an instant must be a whole second")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("is out of range in UTC") from None


def _instant(value: datetime, info: ValidationInfo) -> datetime:
    """Return the instant in UTC; move a stored instant into the legal years.

    A conversion of a later one to a zone would overflow, and no job is due then.
    """
    instant = _whole_second_utc(value)
    if info.context is STORED:
        return min(max(instant, _FIRST_INSTANT), _LAST_INSTANT)
    check_year(instant)
    return instant


def _job_name(name: str) -> str:
    with raising_pydantic_error():
        return validate_name(name, stored=True)


Zone = Annotated[str, AfterValidator(_check_zone)]
Instant = Annotated[datetime, AfterValidator(_instant)]
"""Aware datetime in whole seconds, converted to UTC. Naive datetimes and fractions are refused."""
_FIRST_INSTANT = datetime(FIRST_YEAR, 1, 2, tzinfo=UTC)
_LAST_INSTANT = datetime(LAST_YEAR, 12, 30, tzinfo=UTC)
"""The bounds of stored instants, a day inside of the legal years, which count in each zone."""


class _Schedule(BaseModel, ABC):
    """Base class of the kinds of schedule, with defaults that a kind may override."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    follows_wall_clock: ClassVar[bool] = False
    """Whether a change of daylight saving shifts the due times of such a schedule."""

    def due_after(self, floor: datetime) -> Iterator[datetime]:
        """Return the due times after ``floor``; all of them are in UTC and in whole seconds."""
        return iter(())

    @abstractmethod
    def describe(self) -> str:
        """Return the schedule in words, with its zone if the zone matters.

        For example "every 15 seconds", "at 09:00 on weekdays, Europe/Berlin", "on demand". `parse`
        reads it as a schedule with the same due times.
        """

    @abstractmethod
    def to_text(self) -> str:
        """Return the text that `parse` reads as this schedule.

        To get the same `every`, pass its anchor to `parse` as ``now``.
        """

    @property
    def only_due(self) -> datetime | None:
        """Return the due time of a schedule that is due once; None for other schedules."""
        return None

    @property
    def prefect_describes_it(self) -> bool:
        """Return whether Prefect's UI describes this schedule well."""
        return False

    def has_passed(self, now: datetime) -> bool:
        """Return whether the schedule is due once and its due time is not after ``now``."""
        return self.only_due is not None and self.only_due <= now

    def to_json(self) -> dict[str, Any]:
        """Return the fields as `--json` prints them.

        Every kind has `kind` and `timezone`. The other fields are `expr` for `cron`; `every` and
        `anchor` (UTC) for `every`; `at` (with the offset of the zone) for `at`; and `job` and `on`
        for `after`.
        """
        return self.model_dump(mode="json")


class Cron(_Schedule):
    """Schedule that is due at wall-clock times of its zone; ``expr`` has single spaces."""

    follows_wall_clock = True

    kind: Literal["cron"] = "cron"
    expr: Annotated[str, AfterValidator(_canonical)]
    timezone: Zone

    def due_after(self, floor: datetime) -> Iterator[datetime]:
        return due.cron_times(self.expr, self.timezone, floor)

    def describe(self) -> str:
        return f"{descriptions.cron_in_words(self.expr)}, {self.timezone}"

    def to_text(self) -> str:
        return self.expr

    @property
    def prefect_describes_it(self) -> bool:
        return len(self.expr.split()) < 6  # Prefect's UI misreads seconds


class Every(_Schedule):
    """Schedule that is due at anchor + n * every, n ≥ 1, however long the runs take.

    The zone affects only the display of due times.
    """

    kind: Literal["every"] = "every"
    every: Duration
    anchor: Instant
    timezone: Zone

    def due_after(self, floor: datetime) -> Iterator[datetime]:
        return due.interval_times(self.anchor, self.every, floor)

    def describe(self) -> str:
        return f"every {duration_in_words(self.every)}"

    def to_text(self) -> str:
        return f"every {durations.to_text(self.every)}"

    @property
    def prefect_describes_it(self) -> bool:
        return True


class At(_Schedule):
    """Schedule that is due once, at a whole second. The zone affects only the display."""

    kind: Literal["at"] = "at"
    at: Instant
    timezone: Zone

    def due_after(self, floor: datetime) -> Iterator[datetime]:
        return iter([self.at] if self.at > floor else [])

    def describe(self) -> str:
        return f"once at {descriptions.instant_in_words(self.at, self.timezone)}"

    def to_text(self) -> str:
        local = self.at.astimezone(display_zone(self.timezone))
        offset = local.utcoffset()
        if offset is None or offset % timedelta(minutes=1):  # RFC 3339 has no such offset
            local = self.at
        return f"at {local.isoformat()}"

    @property
    def only_due(self) -> datetime:
        return self.at

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {
            "at": self.at.astimezone(display_zone(self.timezone)).isoformat()
        }


class OnDemand(_Schedule):
    """Schedule that is never due: runs are started by hand or through the API."""

    kind: Literal["on_demand"] = "on_demand"
    timezone: Zone

    def describe(self) -> str:
        return "on demand"

    def to_text(self) -> str:
        return "on demand"


AfterOutcome = Literal["succeeded", "failed", "any"]
"""Outcomes of a job that start the jobs after it; skipped, missed and cancelled runs never do."""
_HAS_ENDED: dict[AfterOutcome, str] = {
    "any": "succeeds or fails",
    "succeeded": "succeeds",
    "failed": "fails",
}
"""Outcomes in words; of two words with the same end, the longer one is first."""


class After(_Schedule):
    """Schedule that is due once after each run of another job with the outcome ``on``.

    ``job`` is the name of a job in the same namespace (`daybook.jobs.store.taken_names`).
    `daybook.runs.chains` has the rules. The zone affects only the display.
    """

    kind: Literal["after"] = "after"
    job: Annotated[str, AfterValidator(_job_name)]
    on: AfterOutcome = "succeeded"
    timezone: Zone

    def describe(self) -> str:
        return f"after {self.job} {_HAS_ENDED[self.on]}"

    def to_text(self) -> str:
        return f"after {self.job} ({self.on})"


Schedule = Annotated[Cron | Every | At | After | OnDemand, Field(discriminator="kind")]


def make(
    *,
    cron: str | None = None,
    every: str | None = None,
    at: str | None = None,
    after: str | None = None,
    on: str | None = None,
    on_demand: bool = False,
    timezone: str,
    now: datetime,
    current: Schedule | None = None,
) -> Schedule:
    """Build a schedule from separate fields, exactly one of which is given; ``on`` needs ``after``.

    ``now`` is an aware instant. The anchor of an `every` is ``now`` floored to the second. An `at`
    without an offset is interpreted in ``timezone``; `in 30m` counts from ``now`` rounded up to the
    second. ``current`` is the schedule of the job before an edit: an unchanged `every` keeps its
    anchor, and an unchanged `at` keeps its time, even if it has passed. If ``current`` is of the
    kind `after`, ``on`` may be given alone.

    Raise `InvalidInput` naming the field.
    """
    zone(timezone)
    texts = {"cron": cron, "every": every, "at": at, "after": after}
    given = [name for name, value in texts.items() if value is not None]
    given += ["on_demand"] if on_demand else []
    if on is not None and after is None and isinstance(current, After) and not given:
        return _after(current.job, on, "on", timezone)
    if on is not None and given != ["after"]:
        raise InvalidInput("on", "needs a job to run after", "set after to the name of a job")
    if not given:
        raise InvalidInput("schedule", "is missing", f"set one of {FIELD_NAMES}")
    if len(given) > 1:
        raise InvalidInput(" and ".join(given), "only one of these can be given", FIELD_NAMES)
    if cron is not None:
        return Cron(expr=expressions.canonical(cron), timezone=timezone)
    if every is not None:
        return _every(every, "every", timezone, now, current)
    if at is not None:
        return one_time(at, "at", timezone, now, current)
    if after is not None:
        kept = current.on if isinstance(current, After) else "succeeded"
        return _after(after, on or kept, "after", timezone)
    return OnDemand(timezone=timezone)


def parse(
    text: str,
    *,
    timezone: str,
    now: datetime,
    current: Schedule | None = None,
    is_zone_given: bool = False,
) -> Schedule:
    """Parse the schedule from one text; the inverse of a schedule's `to_text` and `describe`.

    Besides these texts, accept `in 30m`, `+30m` and the English of `phrases`. A zone at the end of
    the text, as in `at 09:00 on weekdays, Europe/Berlin`, replaces ``timezone``; if the user gave
    ``timezone`` (``is_zone_given``), the two must be equal. ``now`` and ``current`` are as for
    `make`. Raise `InvalidInput` naming `schedule` or `timezone`.
    """
    zone(timezone)
    if len(text) > expressions.MAX_TEXT_LENGTH:
        legal = f"use at most {expressions.MAX_TEXT_LENGTH} characters"
        raise InvalidInput("schedule", "is too long", legal)
    word = " ".join(text.split())
    head, comma, tail = word.rpartition(", ")
    if comma and is_known(tail) and not word.lower().startswith("after "):
        if is_zone_given and tail != timezone:
            raise InvalidInput("timezone", f"differs from {tail} in the schedule", "give one zone")
        word, timezone = head, tail
    first, _, rest = word.partition(" ")
    lower = first.lower()
    if word.lower() in ("on demand", "on-demand", "on_demand"):
        return OnDemand(timezone=timezone)
    if lower == "after" and rest:
        return _after(*_job_and_outcome(rest), "schedule", timezone)
    if lower == "cron" and rest:
        return Cron(expr=expressions.canonical(rest.strip('"'), "schedule"), timezone=timezone)
    if lower == "every" and _INTERVAL.match(rest):
        return _every(rest, "schedule", timezone, now, current)
    if _ONE_TIME.match(word):
        return one_time(rest if lower == "once" else word, "schedule", timezone, now, current)
    if _BARE.fullmatch(word):
        raise _ambiguous("schedule", word)
    if phrases.is_like_one(word):
        return _of_phrase(word, "schedule", timezone, now, current)
    if word.startswith("@") or " " in word:
        return Cron(expr=expressions.canonical(word, "schedule"), timezone=timezone)
    raise InvalidInput(
        "schedule", f'"{text}" is not a schedule' if word else "is empty", SYNTAX_HINT
    )


def _job_and_outcome(text: str) -> tuple[str, str]:
    """Return the job's name and the outcome in `brief (failed)`, `brief fails` or `brief`."""
    for outcome, has_ended in _HAS_ENDED.items():
        for end in (f" ({outcome})", f" {has_ended}"):
            if text.endswith(end):
                return text.removesuffix(end), outcome
    return text, "succeeded"


def is_schedule(text: str) -> bool:
    """Return whether ``text``, at some time of day, is a schedule, and cannot be a prompt.

    "After lunch, …" may be a prompt, so a schedule of the kind `after` does not count.
    """
    try:
        found = parse(text, timezone="UTC", now=datetime(FIRST_YEAR, 1, 1, tzinfo=UTC))
    except InPast:  # such as `today at 0:00`, which is a schedule at another time of day
        return True
    except InvalidInput:
        return False
    return not isinstance(found, After)


def in_zone(schedule: Schedule, timezone: str) -> Schedule:
    """Return the same schedule in another zone, in which a cron expression is then interpreted.

    Other schedules keep their instants. The bounds of the job, which the schedule does not contain,
    apply in the new zone. Raise `InvalidInput` for an unknown zone.
    """
    zone(timezone)
    return schedule.model_copy(update={"timezone": timezone})


def _after(job: str, on: str, field: str, timezone: str) -> After:
    if on not in get_args(AfterOutcome):
        raise InvalidInput("on", f'"{on}" is not valid', "use succeeded, failed or any")
    try:
        name = validate_name(job)
    except InvalidInput as error:
        raise InvalidInput(field, f"the job's name {error.problem}", error.hint) from None
    return After(job=name, on=cast(AfterOutcome, on), timezone=timezone)


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
    """Return the schedule for an RFC 3339 time, `in 30m`, `+30m`, or `tomorrow at 9:00`.

    ``timezone``, ``now`` and ``current`` are as for `make`. Raise `InvalidInput` naming ``field``
    for any other text, and for a time in the past unless ``current`` is due at that time.
    """
    word = " ".join(text.split())
    if word[:3].lower() == "at " and (_DATE.match(word[3:]) or _BARE.fullmatch(word[3:])):
        word = word[3:]
    if word.lower().startswith("in ") or word.startswith("+"):
        whole = now.replace(microsecond=0)
        start = whole if whole == now else whole + timedelta(seconds=1)
        delay = word[1:] if word.startswith("+") else word[3:]
        if digits := phrases.interval_in_digits(delay):
            raise InvalidInput(field, f'"{word}" is not a schedule', f'write "in {digits}"')
        return At(at=start + durations.parse(delay, field), timezone=timezone)
    if _BARE.fullmatch(word):
        raise _ambiguous(field, word)
    if not _RFC3339.fullmatch(word) and phrases.is_like_one(word):
        schedule = _of_phrase(word, field, timezone, now, current)
        if not isinstance(schedule, At):
            raise InvalidInput(field, f'"{word}" is due more than once', _LEGAL_AT)
        return schedule
    return _at(parse_instant(word, field, timezone), field, timezone, now, current)


def _of_phrase(
    phrase: str, field: str, timezone: str, now: datetime, current: Schedule | None
) -> Cron | At:
    local_now = wall_time(now, zone(timezone))
    # The field `at` replaces the word `at`, so `--at 17:00` means `at 17:00`.
    given = f"at {phrase}" if field == "at" and phrases.is_time(phrase) else phrase
    found = phrases.read(given, local_now, field)
    if isinstance(found, str):
        return Cron(expr=expressions.canonical(found, field), timezone=timezone)
    try:
        check_year(found.local)
    except ValueError as error:
        raise InvalidInput(field, f'"{phrase}" does not exist: {error}', _LEGAL_AT) from None
    return _at(to_instant(found.local, zone(timezone)), field, timezone, now, current)


def _at(due: datetime, field: str, timezone: str, now: datetime, current: Schedule | None) -> At:
    found = At(at=due, timezone=timezone)
    if due <= now and (current is None or current.only_due != due):
        local = due.astimezone(zone(timezone)).isoformat()
        raise InPast(field, f"{local} ({timezone}) is in the past", found)
    return found


def parse_instant(word: str, field: str, timezone: str, legal: str = _LEGAL_AT) -> datetime:
    """Return the UTC instant of an RFC 3339 time.

    A time without an offset is interpreted in ``timezone``. Raise `InvalidInput` naming ``field``.
    """
    match = _RFC3339.fullmatch(word)
    if match is None:
        raise InvalidInput(field, f'"{word}" is not an RFC 3339 time', legal)
    date, time, fraction, offset = match.groups()
    if fraction and fraction.strip("0"):
        raise InvalidInput(field, f'"{word}" has a fraction of a second', "use whole seconds")
    try:
        local = datetime.fromisoformat(f"{date}T{time}")
        check_year(local)
        if offset is None:
            return to_instant(local, zone(timezone))
        sign = "+00:00" if offset in "Zz" else offset
        return datetime.fromisoformat(f"{date}T{time}{sign}").astimezone(UTC)
    except ValueError as error:
        raise InvalidInput(field, f'"{word}" does not exist: {error}', legal) from None


def _ambiguous(field: str, word: str) -> InvalidInput:
    hint = f"write `in {word}`" if field == "at" else f"write `every {word}` or `in {word}`"
    return InvalidInput(field, f'"{word}" is ambiguous', hint)
