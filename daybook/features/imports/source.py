"""The result of a reader, and the functions that read files and tables.

A reader raises `InvalidInput` if a file is incomplete or has a version that Daybook does not
support. So it never imports only a part of a broken file. A job that cannot become a job of
Daybook is in `Source.refused`, and the writer refuses the file unless the user leaves that job
out. A field that Daybook does not know has no effect; it is in `SourceJob.unknown`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from daybook import json_text, owners
from daybook.errors import InvalidInput
from daybook.files.documents import MAX_DEPTH
from daybook.jobs.model import JobFields
from daybook.json_text import JsonObject
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

MAX_VALUE_BYTES = 2**24
"""Maximum size of a value that SQLite reads or computes."""
MAX_READ_SECONDS = 60.0
"""Maximum time to read a database."""

_SQLITE_HEADER = b"SQLite format 3\0"
_STEPS_PER_CHECK = 100_000
"""Number of instructions of SQLite between two checks of the time."""


@dataclass(frozen=True)
class SourceJob:
    """One job: its name, and its flat ``fields``, as `new_job` takes them.

    ``where`` names the job in errors. The interval of the job counts from ``anchor``. ``kept`` has
    the values for which Daybook has no field, and ``unknown`` the values that Daybook does not
    know, by the path of their field; both are stored in the job's metadata. ``notes`` name the
    settings that are lost. If ``disabled_reason`` is not empty, the job is disabled.
    """

    id: str
    name: str
    where: str
    fields: JobFields
    anchor: datetime | None = None
    owner: str = owners.USER
    user_id: str = ""
    disabled_reason: str = ""
    run_count: int = 0
    consecutive_failures: int = 0
    created_at: datetime | None = None
    last_run_at: datetime | None = None
    last_error: str = ""
    kept: JsonObject = field(default_factory=dict)
    unknown: JsonObject = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RefusedJob:
    """A job that cannot be imported, with the reason. Its id or name may be empty."""

    id: str
    name: str
    error: InvalidInput


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
    refused: tuple[RefusedJob, ...] = ()

    @classmethod
    def of(
        cls,
        system: System,
        jobs: Iterable[SourceJob],
        runs: Iterable[SourceRun] = (),
        notes: Iterable[str] = (),
        refused: Iterable[RefusedJob] = (),
    ) -> Source:
        """Return the source.

        Omit the runs of jobs that are not in ``jobs``, and add a note about them. Raise
        `InvalidInput` if two jobs, or two runs of one job, have the same id.
        """
        all_jobs, all_runs = tuple(jobs), tuple(runs)
        _check_unique("job", [(job.id, job.where) for job in all_jobs])
        _check_unique("run", [((run.job_id, run.id), f"run {run.id}") for run in all_runs])
        all_refused = tuple(refused)
        known = {job.id for job in all_jobs} | {job.id for job in all_refused}
        kept = tuple(run for run in all_runs if run.job_id in known)
        more = list(notes)
        if len(kept) < len(all_runs):
            more.append(
                f"left out {len(all_runs) - len(kept)} runs of jobs that are not in the file"
            )
        return cls(system, all_jobs, kept, tuple(more), all_refused)


def _check_unique(what: str, ids: list[tuple[Any, str]]) -> None:
    seen: dict[Any, str] = {}
    for each, where in ids:
        if each in seen:
            raise broken(where, f"has the same id as {seen[each]}: two {what}s share it")
        seen[each] = where


def broken(where: str, problem: str, hint: str = FIX_HINT) -> InvalidInput:
    """Return the error for a ``problem`` at the place ``where`` in a file."""
    return InvalidInput("path", f"{where}: {problem}", hint)


def kind_of(value: object) -> str:
    """Return the kind of a JSON value, for messages."""
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

    Raise `InvalidInput` if it cannot be read, is empty or incomplete, or is nested too deeply.
    """
    content = read_bytes(path)
    if not content.strip():
        raise broken(path.name, "is empty", COPY_HINT)
    return parse_json(path.name, content)


def parse_json(where: str, text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raise `InvalidInput` if the text is incomplete or invalid, or has more than `MAX_DEPTH` levels.
    """
    try:
        return json_text.read(text, MAX_DEPTH)
    except json_text.TooDeep:
        problem = f"is nested too deeply: Daybook reads {MAX_DEPTH} levels"
        raise broken(where, problem) from None
    except ValueError as error:  # a UnicodeDecodeError is a ValueError
        raise broken(where, f"is not complete JSON: {error}", COPY_HINT) from None


def array(where: str, found: object) -> list[Any]:
    """Return the elements of a JSON array, or of null, as Go may write an empty one.

    Raise `InvalidInput` for any other value.
    """
    if found is not None and not isinstance(found, list):
        raise broken(where, f"is {kind_of(found)} and not an array", UPDATE_HINT)
    return found or []


def read_tables(
    path: Path, names: Collection[str], max_version: int | None = None
) -> dict[str, list[JsonObject]]:
    """Return the rows of the named tables, read in one transaction. Omit missing tables.

    Omit also computed columns, which could need any amount of memory. Raise `InvalidInput` if the
    file is not a complete and intact SQLite database, if its `user_version` is above
    ``max_version``, and if this takes more than `MAX_READ_SECONDS`.
    """
    if not is_sqlite(path):
        raise broken(path.name, "is not an SQLite database", COPY_HINT)
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as database:
            database.row_factory = sqlite3.Row
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
            end = time.monotonic() + MAX_READ_SECONDS
            database.set_progress_handler(lambda: time.monotonic() > end, _STEPS_PER_CHECK)
            database.execute("PRAGMA trusted_schema = OFF")
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
            return {name: _rows(database, name) for name in names if name in tables}
    except sqlite3.Error as error:
        raise broken(path.name, f"is damaged: {error}", COPY_HINT) from None


def _rows(database: sqlite3.Connection, table: str) -> list[JsonObject]:
    columns = [
        '"{}"'.format(each["name"].replace('"', '""'))
        for each in database.execute(f'PRAGMA table_xinfo("{table}")')
        if not each["hidden"]
    ]
    found = database.execute(f'SELECT {", ".join(columns)} FROM "{table}"')
    return [dict(row) for row in found]


def file_in(path: Path, name: str) -> Path:
    """Return ``path``; if it is a folder, return the path of the file ``name`` in it."""
    return path / name if path.is_dir() else path
