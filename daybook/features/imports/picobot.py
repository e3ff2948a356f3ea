"""Reader of the SQLite database of picobot.

The database has the tables of picobot's plan or those of picobot's code. In the plan, the tables
are `scheduled_jobs` and `job_runs`, and times and intervals are in milliseconds. In the code, they
are `schedules` and `schedule_executions`, intervals are in seconds, and times are RFC 3339 texts.
"""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

from daybook.features.imports.records import Record, interval, phase, read_jobs, read_runs
from daybook.features.imports.source import (
    COPY_HINT,
    Source,
    SourceJob,
    SourceRun,
    broken,
    read_tables,
)
from daybook.jobs.model import JobFields
from daybook.json_text import JsonObject
from daybook.names import default_name

_TABLES = {"scheduled_jobs": "job_runs", "schedules": "schedule_executions"}
_CLAIM = ("claimed_at", "claim_id", "claim_expires_at", "backoff_until")
"""Columns about the process that runs a job now."""
_KEPT = ("session_id", "channel", "channel_id", "chat_id")
_WEEKDAY = re.compile(r"(/\d+)|(\d+)")
_ANY = ("*", "?")


def read(path: Path) -> Source:
    """Return the jobs and runs of the database."""
    tables = read_tables(path, [*_TABLES, *_TABLES.values()], max_version=1)
    found = [name for name in _TABLES if name in tables]
    if not found:
        raise broken(path.name, f"has no table {' or '.join(_TABLES)}", COPY_HINT)
    records = [
        Record(f"{name}, row {number}", row)
        for name in found
        for number, row in enumerate(tables[name], 1)
    ]
    entries = [
        Record(f"{_TABLES[name]}, row {number}", row)
        for name in found
        for number, row in enumerate(tables.get(_TABLES[name], []), 1)
    ]
    jobs, refused, _ = read_jobs(records, _job)
    runs, notes = read_runs(entries, _run)
    return Source.of("picobot", jobs, runs, notes, refused)


def _id(record: Record, *names: str) -> str:
    found = record.value(*names)
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    return record.needed(*names)


def _job(record: Record) -> SourceJob:
    job_id = _id(record, "id", "job_id")
    record.where += f" ({job_id})"
    prompt, notes = record.needed("task_prompt", "prompt", "message", "payload"), list[str]()
    next_run = record.instant("next_run_at", "next_run_at_ms")
    last_run = record.instant("last_run_at", "last_run_at_ms")
    created = record.instant("created_at", "created_at_ms")
    fields: JobFields = {"prompt": prompt, **_schedule(record, notes)}
    disabled = fields.pop("disabled", "")
    if model := record.text("model"):
        fields["model"] = model
    if record.flag("delete_after_run") and "at" in fields:
        fields["delete_after_run"] = True
    fields["max_runs"] = record.integer("max_executions", "max_runs")
    fields["enabled"] = record.needed_flag("enabled")
    fields["description"] = record.text("description")
    fields["metadata"] = record.json_mapping("metadata_json", "metadata")
    kept: JsonObject = {
        name: str(value) for name in _KEPT if (value := record.value(name)) is not None
    }
    if principal := record.json_mapping("creator_principal", "creator"):
        kept["creator"] = principal
    if any(name in kept for name in ("channel", "channel_id", "chat_id")):
        notes.append("its answers go to no chat yet: set --channel and --chat-id")
    if record.text("capabilities_json", "capabilities") not in ("", "[]", "{}", "null"):
        notes.append("its capabilities are not imported: the agent's own tools apply")
    record.ignore("updated_at", "updated_at_ms", "last_status", "created_by_system", *_CLAIM)
    return SourceJob(
        id=job_id,
        name=record.text("name").strip() or default_name(prompt),
        where=record.where,
        fields=fields,
        anchor=phase(fields.get("every"), next_run, last_run, created),
        user_id=record.text("user_id"),
        disabled_reason=disabled,
        run_count=record.integer("execution_count", "run_count"),
        consecutive_failures=record.integer("consecutive_failures"),
        created_at=created,
        last_run_at=last_run,
        last_error=record.text("last_error"),
        kept=kept,
        notes=tuple(notes),
    )


def _schedule(record: Record, notes: list[str]) -> JobFields:
    """Return the schedule fields.

    If they have `disabled`, this is the reason to disable the job.
    """
    every, cron = record.integer("every_ms"), record.text("cron_expr", "cron")
    at, zone = record.instant("at_ms", "run_at_ms", "at"), record.text("timezone", "tz")
    kind, expr = record.text("schedule_type", "schedule_kind", "kind"), record.text("schedule_expr")
    fields: JobFields = {"timezone": zone} if zone else {}
    if expr and kind == "interval":
        if not expr.strip().isascii() or not expr.strip().isdigit():
            record.fail(f"schedule_expr is {expr!r} and not a number of seconds")
        every = int(expr) * 1000
    elif expr and kind == "once":  # the expression may be relative to the creation of the job
        at = record.instant("next_run_at")
    elif expr and kind == "cron":
        cron = expr
    if (given := bool(every) + bool(cron) + (at is not None)) != 1:
        record.fail(f"has {given} of an interval, a cron expression and a time, and needs one")
    if every:
        return fields | {"every": interval(record, "every_ms", Fraction(every, 1000))}
    if at is not None:
        return fields | {"at": at.replace(microsecond=0).isoformat()}
    return {"timezone": "UTC"} | fields | _cron(record, cron, notes)


def _cron(record: Record, expr: str, notes: list[str]) -> JobFields:
    """Return the fields of an expression of Rust's `cron`: `[zone|]seconds … weekday [year]`.

    In such an expression, Sunday is 1, and both the day of the month and the weekday have to match.
    """
    zone, bar, rest = expr.partition("|")
    fields = {"timezone": zone.strip()} if bar else {}
    parts = (rest if bar else expr).split()
    if len(parts) == 1:
        return fields | {"cron": parts[0]}
    year = parts.pop() if len(parts) == 7 else "*"
    if len(parts) not in (5, 6):
        record.fail(f"the cron expression {expr!r} has {len(parts)} fields, and needs 5 to 7")
    weekday = _WEEKDAY.sub(lambda found: found[1] or _shifted(record, found[2]), parts[-1])
    if weekday != parts[-1]:
        notes.append(f"its weekdays {parts[-1]} count from Sunday = 1; here they are {weekday}")
    if parts[-3] not in _ANY and weekday not in _ANY:
        fields["disabled"] = "imported: due only if both day of the month and weekday match"
    if year not in _ANY:
        fields["disabled"] = f"imported: due only in the year {year}"
    if "disabled" in fields:
        notes.append(f"it is disabled, because no schedule here is the same as {expr!r}")
    parts[-1] = weekday
    if len(parts) == 6 and parts[0] == "0":
        del parts[0]
    return fields | {"cron": " ".join(parts)}


def _shifted(record: Record, number: str) -> str:
    if not 1 <= int(number) <= 7:
        record.fail(f"the weekday {number} is not valid; it is 1 (Sunday) to 7")
    return str(int(number) - 1)


def _run(record: Record) -> SourceRun:
    started = record.instant("started_at", "started_at_ms")
    if started is None:
        record.fail("started_at is missing")
    finished = record.instant("completed_at", "finished_at", "finished_at_ms")
    run = SourceRun(
        id=_id(record, "id", "run_id"),
        job_id=_id(record, "job_id"),
        started_at=started,
        finished_at=max(started, finished or started),
        due=record.instant("scheduled_for", "scheduled_for_ms") or started,
        status=record.status("status"),
        output=record.text("result_summary", "output", "result"),
        error=record.text("error"),
        attempts=record.integer("attempt", "attempts") or 1,
    )
    record.ignore("execution_time_ms", "duration_ms", "session_id", "created_at", "delivered")
    return run
