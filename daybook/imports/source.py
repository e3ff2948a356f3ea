"""The result of a reader, and functions that readers share: files, records, times, durations.

A reader raises `InvalidInput` if a file is incomplete, has fields or a version that Daybook does
not support, or contains an impossible value. So it never imports only a part of a broken file. It
leaves out whole jobs, such as those without due times, only with a note.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NoReturn

from daybook import owners
from daybook.errors import InvalidInput
from daybook.files.documents import MAX_DEPTH
from daybook.jobs.action_fields import MAX_KEY_LENGTH, RESERVED_KEY_PREFIXES
from daybook.ledger.states import Status

System = Literal[
    "anna", "omniagent", "hotplex", "picobot", "openclaw", "hermes", "crontab", "systemd"
]
"""A scheduler whose jobs can be imported."""

COPY_HINT = "nothing was imported; stop the other system, copy its file again, and import the copy"
UPDATE_HINT = (
    "nothing was imported; the file is from a version that Daybook does not know: update Daybook"
)
FIX_HINT = "nothing was imported; correct it in the other system, or in a copy of its file"

_SQLITE_HEADER = b"SQLite format 3\0"
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


@dataclass(frozen=True)
class SourceJob:
    """One job: its name, and its flat ``fields``, as `new_job` takes them.

    ``where`` names the job in errors. The interval of the job counts from ``anchor``. ``kept`` has
    the values for which Daybook has no field; they are stored in the job's metadata. ``notes`` name
    the settings that are lost. If ``disabled_reason`` is not empty, the job is disabled.
    """

    id: str
    name: str
    where: str
    fields: dict[str, Any]
    anchor: datetime | None = None
    owner: str = owners.USER
    user_id: str = ""
    disabled_reason: str = ""
    run_count: int = 0
    consecutive_failures: int = 0
    created_at: datetime | None = None
    last_run_at: datetime | None = None
    last_error: str = ""
    kept: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceRun:
    """One finished run of a job's history."""

    id: str
    job_id: str
    started_at: datetime
    finished_at: datetime
    due: datetime
    status: Status
    output: str = ""
    error: str = ""
    attempts: int = 1


@dataclass(frozen=True)
class Source:
    """The jobs and runs of a file, and notes about the parts that are not imported."""

    system: System
    jobs: tuple[SourceJob, ...] = ()
    runs: tuple[SourceRun, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        system: System,
        jobs: Iterable[SourceJob],
        runs: Iterable[SourceRun] = (),
        notes: Iterable[str] = (),
    ) -> Source:
        """Return the source.

        Omit the runs of jobs that are not in ``jobs``, and add a note about them. Raise
        `InvalidInput` if two jobs, or two runs of one job, have the same id.
        """
        all_jobs, all_runs = tuple(jobs), tuple(runs)
        _check_unique("job", [(job.id, job.where) for job in all_jobs])
        _check_unique("run", [((run.job_id, run.id), f"run {run.id}") for run in all_runs])
        known = {job.id for job in all_jobs}
        kept = tuple(run for run in all_runs if run.job_id in known)
        more = list(notes)
        if len(kept) < len(all_runs):
            more.append(
                f"left out {len(all_runs) - len(kept)} runs of jobs that are not in the file"
            )
        return cls(system, all_jobs, kept, tuple(more))


def _check_unique(what: str, ids: list[tuple[Any, str]]) -> None:
    seen: dict[Any, str] = {}
    for each, where in ids:
        if each in seen:
            raise broken(where, f"has the same id as {seen[each]}: two {what}s share it")
        seen[each] = where


def broken(where: str, problem: str, hint: str = FIX_HINT) -> InvalidInput:
    """Return the error for a ``problem`` at the place ``where`` in a file."""
    return InvalidInput("path", f"{where}: {problem}", hint)


class Record:
    """One object of a file, whose fields are read by name.

    Each method accepts several names, because versions of the system may name a field differently.
    If the field is missing or null, the method returns the empty value of its type; `needed`,
    `needed_flag`, `record` and `status` raise `InvalidInput` instead. Each method except `value`
    raises `InvalidInput` for a value of another type. `close` refuses a record with fields that
    no method has read. A time without an offset is in ``zone``.
    """

    def __init__(self, where: str, values: object, zone: tzinfo = UTC) -> None:
        if not isinstance(values, Mapping):
            raise broken(where, f"is {_kind(values)} and not an object")
        self.where, self._values, self._read = where, values, set[str]()
        self._zone = zone

    def fail(self, problem: str, hint: str = FIX_HINT) -> NoReturn:
        raise broken(self.where, problem, hint)

    def value(self, *names: str) -> Any:
        """Return the value of the first field that is neither missing nor null.

        If there is none, return None.
        """
        self._read.update(names)
        return next(
            (self._values[name] for name in names if self._values.get(name) is not None), None
        )

    def text(self, *names: str) -> str:
        found = self.value(*names)
        if found is not None and not isinstance(found, str):
            self.fail(f"{names[0]} is {_kind(found)} and not a text")
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
            self.fail(f"{names[0]} is {_kind(found)} and not an integer")
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

    def mapping(self, *names: str) -> dict[str, Any]:
        found = self.value(*names)
        if found is not None and not isinstance(found, Mapping):
            self.fail(f"{names[0]} is {_kind(found)} and not an object")
        return dict(found or {})

    def json_mapping(self, *names: str) -> dict[str, Any]:
        """Return an object that the field contains as JSON text; {} if it is missing or blank.

        Raise `InvalidInput` if the text is not a JSON object or null.
        """
        found = self.text(*names)
        values = parse_json(f"{self.where}: {names[0]}", found) if found.strip() else {}
        if values is not None and not isinstance(values, dict):
            self.fail(f"{names[0]} is {_kind(values)} and not an object")
        return values or {}

    def record(self, *names: str) -> Record:
        found = self.value(*names)
        if found is None:
            self.fail(f"{names[0]} is missing")
        return Record(f"{self.where}, {names[0]}", found, self._zone)

    def status(self, *names: str) -> Status:
        found = self.needed(*names)
        if found not in STATUSES:
            self.fail(f"{names[0]} is {found!r}, which Daybook does not know", UPDATE_HINT)
        return STATUSES[found]

    def ignore(self, *names: str) -> None:
        """Mark fields that mean nothing for Daybook as read."""
        self._read.update(names)

    def close(self) -> None:
        """Raise `InvalidInput` if the record has a field with a value that was not read.

        Such a field may change the effect of the job, so Daybook must not ignore it.
        """
        unread = [
            name
            for name, value in self._values.items()
            if name not in self._read and value not in (None, "", 0, False, [], {}, "{}", "[]")
        ]
        if unread:
            self.fail(f"has fields that Daybook does not know: {', '.join(unread)}", UPDATE_HINT)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a text", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")


def read_bytes(path: Path, limit: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        problem = f"{path}: cannot be read: {error.strerror or error}"
        raise InvalidInput("path", problem, "name the file or folder of the other system") from None


def is_sqlite(path: Path) -> bool:
    """Return whether the file is an SQLite database. Raise `InvalidInput` if it cannot be read."""
    return read_bytes(path, len(_SQLITE_HEADER)) == _SQLITE_HEADER


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raise `InvalidInput` if the file cannot be read, is empty, or is not complete JSON, and if the
    JSON is nested too deeply (`parse_json`).
    """
    content = read_bytes(path)
    if not content.strip():
        raise broken(path.name, "is empty", COPY_HINT)
    return parse_json(path.name, content)


def parse_json(where: str, text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raise `InvalidInput` if the text is incomplete or invalid, or has more than `MAX_DEPTH` levels.
    """
    too_deep = broken(where, f"is nested too deeply: Daybook reads {MAX_DEPTH} levels")
    try:
        value = json.loads(text.decode() if isinstance(text, bytes) else text)
    except ValueError as error:  # a UnicodeDecodeError is a ValueError
        raise broken(where, f"is not complete JSON: {error}", COPY_HINT) from None
    except RecursionError:
        raise too_deep from None
    if _has_depth(value, MAX_DEPTH + 1):
        raise too_deep
    return value


def _has_depth(value: Any, depth: int) -> bool:
    """Return whether the value has at least ``depth`` levels of nested arrays and objects."""
    level = [value]
    for _ in range(depth):
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return False
        level = [
            inner for each in level for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return True


def array(where: str, found: object) -> list[Any]:
    """Return the elements of a JSON array.

    Null means an empty array, because Go may write it so. Raise `InvalidInput` for any other value.
    """
    if found is not None and not isinstance(found, list):
        raise broken(where, f"is {_kind(found)} and not an array", UPDATE_HINT)
    return found or []


def versioned(path: Path, version: int, key: str) -> list[Any]:
    """Return the array ``key`` of a file ``{"version": …, key: […]}``.

    Raise the errors of `read_json`, and `InvalidInput` if the file has another version or other
    keys with values.
    """
    content = Record(path.name, read_json(path))
    found = content.value("version")
    if found != version or isinstance(found, bool):
        content.fail(f"has the version {found!r}, and Daybook knows {version}", UPDATE_HINT)
    elements = array(f"{path.name}, {key}", content.value(key))
    content.close()
    return elements


def read_tables(
    path: Path, names: Collection[str], max_version: int | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the named tables, read in one transaction. Omit missing tables.

    Raise `InvalidInput` if the file is not a complete and intact SQLite database, or if its
    `user_version` is above ``max_version``.
    """
    if not is_sqlite(path):
        raise broken(path.name, "is not an SQLite database", COPY_HINT)
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as database:
            database.row_factory = sqlite3.Row
            database.execute("BEGIN")
            page_size = database.execute("PRAGMA page_size").fetchone()[0]
            if path.stat().st_size % page_size:
                # SQLite would read zeros in place of the missing bytes.
                raise broken(path.name, "is not complete: its last page is cut", COPY_HINT)
            found = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                raise broken(path.name, f"is damaged: {found}", COPY_HINT)
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if max_version is not None and version > max_version:
                problem = f"has the version {version}, and Daybook knows {max_version}"
                raise broken(path.name, problem, UPDATE_HINT)
            tables = {
                row[0]
                for row in database.execute("SELECT name FROM sqlite_master WHERE type='table'")
            }
            return {
                name: [dict(row) for row in database.execute(f'SELECT * FROM "{name}"')]
                for name in names
                if name in tables
            }
    except sqlite3.Error as error:
        raise broken(path.name, f"is damaged: {error}", COPY_HINT) from None


def file_in(path: Path, name: str) -> Path:
    """Return ``path``; if it is a folder, return the path of the file ``name`` in it."""
    return path / name if path.is_dir() else path


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
    """Return an interval in Daybook's format.

    Raise `InvalidInput` for an interval below one second or with fractions of a second.
    """
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
    """Return the anchor with which an interval is due at ``next_run``.

    If ``next_run`` is None, return the first known instant of ``earlier``. Return None if there is
    no interval, or if no instant is known.
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
