"""Records: objects of a file, whose fields readers read by name. Also durations and intervals."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

from daybook.errors import InvalidInput
from daybook.features.imports.source import (
    FIX_HINT,
    UPDATE_HINT,
    RefusedJob,
    SourceJob,
    SourceRun,
    array,
    broken,
    kind_of,
    parse_json,
    read_json,
)
from daybook.jobs.action_fields import MAX_KEY_LENGTH, RESERVED_KEY_PREFIXES
from daybook.json_text import JsonObject
from daybook.ledger.states import Status
from daybook.short_text import first_names, one_line

MAX_SHOWN_NAME = 60
"""Maximum number of characters of the name of an unknown field in a note."""
MAX_SHOWN_NAMES = 20
"""Maximum number of fields that a note names."""

_GO_UNITS = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),
    "μs": Fraction(1, 10**6),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
}
_GO_DURATION = re.compile(r"(?<!\d)(\d++(?:\.\d*+)?|\.\d++)(ns|us|µs|μs|ms|s|m|h)")
_GO_ZONE = re.compile(r"(?:CRON_)?TZ=(\S+)\s+(.*)", re.DOTALL)

_STATUSES = {
    Status.SUCCEEDED: ("completed", "success", "succeeded", "ok"),
    Status.FAILED: ("failed", "failure", "error"),
    Status.TIMED_OUT: ("timeout", "timed_out"),
    Status.CANCELLED: ("canceled", "cancelled"),
    Status.SKIPPED: ("skipped",),
    Status.UNKNOWN: ("running", "claimed"),
}
STATUSES = {name: status for status, names in _STATUSES.items() for name in names}
"""Outcome of a run, by the words of other systems. A run that had not ended is `unknown`."""


class Record:
    """One object of a file, whose fields are read by name.

    Each method accepts several names, because versions of the system may name a field differently.
    If the field is missing or null, the method returns the empty value of its type; `needed`,
    `needed_flag`, `record` and `status` raise `InvalidInput` instead. Each method except `value`
    raises `InvalidInput` for a value of another type. A time without an offset is in ``zone``.
    """

    def __init__(self, where: str, values: object, zone: tzinfo = UTC) -> None:
        if not isinstance(values, Mapping):
            raise broken(where, f"is {kind_of(values)} and not an object")
        self.where, self._values, self._read = where, values, set[str]()
        self._zone = zone
        self._inner, self._unknown = list[tuple[str, Record]](), JsonObject()

    def fail(self, problem: str, hint: str = FIX_HINT) -> NoReturn:
        raise broken(self.where, problem, hint)

    def value(self, *names: str) -> Any:
        """Return the value of the first field that is neither missing nor null, or None."""
        self._read.update(names)
        return next(
            (self._values[name] for name in names if self._values.get(name) is not None), None
        )

    def text(self, *names: str) -> str:
        found = self.value(*names)
        if found is not None and not isinstance(found, str):
            self.fail(f"{names[0]} is {kind_of(found)} and not a text")
        return found or ""

    def needed(self, *names: str) -> str:
        """Return a text. Raise `InvalidInput` if it is missing, blank or not a text."""
        found = self.text(*names)
        if not found.strip():
            self.fail(f"{names[0]} is missing")
        return found

    def integer(self, *names: str) -> int:
        found = self.value(*names)
        if found is not None and (isinstance(found, bool) or not isinstance(found, int)):
            self.fail(f"{names[0]} is {kind_of(found)} and not an integer")
        if found is not None and found < 0:
            self.fail(f"{names[0]} is negative")
        if found is not None and found >= 2**53:
            self.fail(f"{names[0]} is too large")
        return found or 0

    def flag(self, *names: str) -> bool:
        found = self.value(*names)
        if found not in (None, False, True):  # SQLite stores 0 and 1
            self.fail(f"{names[0]} is {found!r} and not true or false")
        return bool(found)

    def needed_flag(self, *names: str) -> bool:
        if self.value(*names) is None:
            self.fail(f"{names[0]} is missing")
        return self.flag(*names)

    def instant(self, *names: str) -> datetime | None:
        """Return a time in UTC, from RFC 3339 or Unix milliseconds.

        Return None for a missing or empty value, for 0, and for Go's zero time. Raise
        `InvalidInput` for any other value that is not a time.
        """
        found = self.value(*names)
        if found is None or found in ("", 0):
            return None
        try:
            if isinstance(found, str):
                moment = datetime.fromisoformat(found.strip())
                if moment.year == 1:
                    return None
                moment = moment if moment.tzinfo else moment.replace(tzinfo=self._zone)
                return moment.astimezone(UTC)
            if isinstance(found, int) and not isinstance(found, bool):
                return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=found)
        except (ValueError, OverflowError):
            pass
        self.fail(f"{names[0]} is {found!r} and not a time")

    def mapping(self, *names: str) -> JsonObject:
        found = self.value(*names)
        if found is not None and not isinstance(found, Mapping):
            self.fail(f"{names[0]} is {kind_of(found)} and not an object")
        return dict(found or {})

    def json_mapping(self, *names: str) -> JsonObject:
        """Return an object that the field contains as JSON text; {} if it is missing or blank.

        Raise `InvalidInput` if the text is not a JSON object or null.
        """
        found = self.text(*names)
        values = parse_json(f"{self.where}: {names[0]}", found) if found.strip() else {}
        if values is not None and not isinstance(values, dict):
            self.fail(f"{names[0]} is {kind_of(values)} and not an object")
        return values or {}

    def record(self, *names: str) -> Record:
        found = self.value(*names)
        if found is None:
            self.fail(f"{names[0]} is missing")
        return self.inner(names[0], found)

    def inner(self, name: str, values: object) -> Record:
        """Return the record of ``values``, which belong to the field ``name``."""
        inner = Record(f"{self.where}, {name}", values, self._zone)
        self._inner.append((name, inner))
        return inner

    def choice(self, known: Collection[str], name: str, default: str, unknown: str) -> str:
        """Return a text in ``known``, or ``default`` for a missing or empty field.

        Another text becomes ``unknown``, and is one of the `unknown` values.
        """
        found = self.text(name) or default
        if found in known:
            return found
        self._unknown[name] = found
        return unknown

    def choices(self, known: Collection[str], name: str) -> list[str]:
        """Return the texts of a list in ``known``, each once; the others are `unknown` values."""
        found = array(f"{self.where}, {name}", self.value(name))
        if unknown := [each for each in found if each not in known]:
            self._unknown[name] = unknown
        return [each for each in known if each in found]

    def status(self, name: str) -> Status:
        """Return the outcome of a run. An unknown word means the outcome `unknown`."""
        return STATUSES[self.choice(STATUSES, name, self.needed(name), "running")]

    def ignore(self, *names: str) -> None:
        """Mark fields that mean nothing for Daybook as read."""
        self._read.update(names)

    def unknown(self) -> JsonObject:
        """Return the unknown values of this record and of its inner records, by path.

        These are the texts that `choice` does not know, and the values that no method has read,
        except empty values.
        """
        unread = {
            name: value
            for name, value in self._values.items()
            if name not in self._read and value not in (None, "", 0, False, [], {}, "{}", "[]")
        }
        inner = {
            f"{name}.{path}": value
            for name, record in self._inner
            for path, value in record.unknown().items()
        }
        return unread | self._unknown | inner


def read_jobs(
    records: Iterable[Record], read: Callable[[Record], SourceJob | str]
) -> tuple[list[SourceJob], list[RefusedJob], list[str]]:
    """Return the jobs of the records, the jobs that ``read`` refuses, and notes.

    ``read`` raises `InvalidInput` for a job that it refuses. If it returns a text, the job is left
    out, and the text is a note.
    """
    jobs, refused, notes = list[SourceJob](), list[RefusedJob](), list[str]()
    for record in records:
        try:
            found = read(record)
        except InvalidInput as error:
            job_id, name = record.value("id", "jobId", "job_id"), record.value("name")
            refused.append(RefusedJob(str(job_id or ""), str(name or ""), error))
            continue
        if isinstance(found, str):
            notes.append(found)
        else:
            jobs.append(replace(found, unknown=record.unknown()))
    return jobs, refused, notes


def read_runs(
    records: Iterable[Record], read: Callable[[Record], SourceRun]
) -> tuple[list[SourceRun], list[str]]:
    """Return the runs of the records, and a note about values that Daybook does not know."""
    runs, unknown = list[SourceRun](), dict[str, None]()
    for record in records:
        runs.append(read(record))
        unknown |= dict.fromkeys(record.unknown())
    return runs, unknown_note("the history has", unknown)


def unknown_note(what: str, names: Iterable[str]) -> list[str]:
    """Return the note about unknown values that are not kept; [] if there are none."""
    given = list(names)
    note = f"{what} values that Daybook does not know, which are lost: {in_words(given)}"
    return [note] if given else []


def in_words(names: Sequence[str]) -> str:
    """Return the names of fields for a note: the first `MAX_SHOWN_NAMES`, each shortened."""
    return first_names([one_line(name, MAX_SHOWN_NAME) for name in names], MAX_SHOWN_NAMES)


def versioned(path: Path, version: int, key: str) -> tuple[list[Any], list[str]]:
    """Return the array ``key`` of a file ``{"version": …, key: […]}``, and notes on other keys.

    Raise the errors of `read_json`, and `InvalidInput` if the file has another version.
    """
    content = Record(path.name, read_json(path))
    found = content.value("version")
    if found != version or isinstance(found, bool):
        content.fail(f"has the version {found!r}, and Daybook knows {version}", UPDATE_HINT)
    elements = array(f"{path.name}, {key}", content.value(key))
    return elements, unknown_note(f"{path.name} has", content.unknown())


def go_duration(record: Record, field_name: str, value: object) -> Fraction:
    """Return the seconds of a Go duration: a text such as `1h30m`, or nanoseconds.

    A missing or empty value is 0. Raise `InvalidInput` for any other value.
    """
    if value is None or value == "":
        return Fraction(0)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Fraction(value) / 10**9
    if isinstance(value, str):
        units = _GO_DURATION.findall(value)
        if units and "".join(number + unit for number, unit in units) == value:
            return sum((Fraction(n) * _GO_UNITS[unit] for n, unit in units), Fraction(0))
        if value == "0":
            return Fraction(0)
    record.fail(f"{field_name} is {value!r} and not a duration such as 1h30m")


def key_of_session(key: str, notes: list[str]) -> dict[str, str]:
    """Return the field for a session's name; {} if the name is empty.

    If Daybook cannot use the name, return {}, and add a note.
    """
    key = key.strip()
    if len(key) > MAX_KEY_LENGTH or key.startswith(RESERVED_KEY_PREFIXES):
        notes.append(f"its session {key!r} is no name in Daybook; it has one of its own")
        return {}
    return {"session_key": key} if key else {}


def interval(record: Record, field_name: str, seconds: Fraction) -> str:
    """Return an interval in Daybook's format; raise `InvalidInput` unless it has whole seconds."""
    if seconds < 1 or seconds.denominator != 1:
        record.fail(f"{field_name} is {float(seconds):g} seconds; an interval has whole seconds")
    return f"{seconds.numerator}s"


def go_cron(record: Record, field_name: str, expr: str) -> dict[str, str]:
    """Return the schedule fields of a cron expression of Go's schedulers.

    These schedulers also accept `CRON_TZ=Europe/Berlin` before the fields, and `@every 1h`. Raise
    `InvalidInput` for an interval that Daybook does not support.
    """
    expr, fields = expr.strip(), dict[str, str]()
    if found := _GO_ZONE.fullmatch(expr):
        fields["timezone"], expr = found[1], found[2].strip()
    if expr.startswith("@every "):
        seconds = go_duration(record, field_name, expr.removeprefix("@every ").strip())
        return fields | {"every": interval(record, field_name, seconds)}
    return fields | {"cron": expr}


def phase(
    every: str | None, next_run: datetime | None, *earlier: datetime | None
) -> datetime | None:
    """Return the anchor with which an interval is due at ``next_run``, or None.

    Without ``next_run``, it is the first known instant of ``earlier``.
    """
    if every is None:
        return None
    if next_run is not None:
        return next_run - timedelta(seconds=int(every.removesuffix("s")))
    return next(filter(None, earlier), None)


def started_run(record: Record, *, output: str = "", attempts: int = 1) -> SourceRun:
    """Return the run of a record whose fields have the same names as those of `SourceRun`.

    The due time of the run is its start. A run without an end ends at its start. Raise
    `InvalidInput` if the id, the job's id, the start or the status is missing.
    """
    started = record.instant("started_at")
    if started is None:
        record.fail("started_at is missing")
    return SourceRun(
        id=record.needed("id"),
        job_id=record.needed("job_id"),
        started_at=started,
        finished_at=max(started, record.instant("finished_at") or started),
        due=started,
        status=record.status("status"),
        output=output,
        error=record.text("error"),
        attempts=attempts,
    )
