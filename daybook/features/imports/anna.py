"""Reader of the files of anna: `jobs.json` (an array), or its database (`scheduler_jobs`).

In an older database, the message of a plugin's job is the prefix `__anna_plugin_job__:`, followed
by a JSON object. A newer database has columns for the plugin.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from daybook import owners
from daybook.features.imports.records import (
    Record,
    go_cron,
    go_duration,
    interval,
    phase,
    read_jobs,
    read_runs,
    started_run,
)
from daybook.features.imports.source import (
    COPY_HINT,
    Source,
    SourceJob,
    SourceRun,
    array,
    broken,
    file_in,
    is_sqlite,
    parse_json,
    read_json,
    read_tables,
)
from daybook.jobs.model import JobFields
from daybook.json_text import JsonObject

JOBS_FILE = "jobs.json"
PLUGIN_PREFIX = "__anna_plugin_job__:"

_JOB_TABLES = ("scheduler_jobs", "sched_jobs")
_RUN_TABLES = ("scheduler_job_runs", "sched_job_runs")
_TABLES = {"scheduler_jobs": "scheduler_job_runs", "sched_jobs": "sched_job_runs"}
_PLUGIN_COLUMNS = ("plugin_id", "job_key", "runtime_name")
SYSTEM_OWNER = "system"


def read(path: Path) -> Source:
    """Return the jobs and runs of `jobs.json`, of the folder that contains it, or of a database.

    `jobs.json` has no runs. Leave out anna's own jobs, with a note.
    """
    file = file_in(path, JOBS_FILE)
    if not is_sqlite(file):
        records = [
            Record(f"{file.name}, job {number}", values)
            for number, values in enumerate(array(file.name, read_json(file)), 1)
        ]
        return _source(records, [], lambda record: record.record("schedule"))
    tables = read_tables(file, (*_JOB_TABLES, *_RUN_TABLES))
    found = [name for name in _JOB_TABLES if name in tables]
    if not found:
        raise broken(file.name, f"has no table {' or '.join(_JOB_TABLES)}", COPY_HINT)
    name = found[-1]
    jobs = [Record(f"{name}, row {n}", row) for n, row in enumerate(tables[name], 1)]
    runs = [
        Record(f"{_TABLES[name]}, row {number}", row)
        for number, row in enumerate(tables.get(_TABLES[name], []), 1)
    ]
    return _source(jobs, runs, lambda record: record)


def _source(
    records: list[Record], runs: list[Record], schedule_of: Callable[[Record], Record]
) -> Source:
    """Return the source. ``schedule_of`` returns the record with the schedule of a job."""
    jobs, refused, notes = read_jobs(records, lambda each: _job(each, schedule_of))
    history, more = read_runs(runs, _run)
    return Source.of("anna", jobs, history, notes + more, refused)


def _job(record: Record, schedule_of: Callable[[Record], Record]) -> SourceJob | str:
    if record.text("owner_kind") == SYSTEM_OWNER:
        return f"left out {record.needed('name')}: it is a job of anna's own"
    record.where += f" ({record.needed('id')})"
    message, payload = record.text("message"), record.value("payload")
    plugin = _plugin(record, message, payload)
    fields = plugin if plugin is not None else {"prompt": message, **_session(record)}
    if plugin is None and not message.strip():
        record.fail("message is missing")
    created = record.instant("created_at")
    last_run = record.instant("last_run_at")
    fields |= _schedule(schedule_of(record), record)
    description = record.text("description")
    fields["description"] = fields.pop("description", "") or description
    fields["enabled"] = record.needed_flag("enabled")
    agent, name = record.text("agent_id"), record.needed("name")
    if agent and plugin is None:
        fields["agent"] = agent
    if plugin is not None:  # Daybook gives the same name to a job that a plugin saves
        fields["description"] = fields["description"] or name
        name = f"{plugin['params']['plugin_id']}: {plugin['params']['key']}"
    kept = {each: value for each in ("exec_scope", "org_id") if (value := record.text(each))}
    record.ignore("updated_at", "session_mode", *_PLUGIN_COLUMNS)
    return SourceJob(
        id=record.needed("id"),
        name=name,
        where=record.where,
        fields=fields,
        anchor=phase(fields.get("every"), None, last_run, created),
        owner=owners.PLUGIN if plugin is not None else owners.USER,
        user_id=record.text("user_id"),
        created_at=created,
        last_run_at=last_run,
        last_error=record.text("last_error"),
        kept=kept,
    )


def _session(record: Record) -> JsonObject:
    return {"session": record.choice(("reuse", "new"), "session_mode", "reuse", "new")}


def _plugin(record: Record, message: str, payload: Any) -> JobFields | None:
    """Return the action fields of a plugin's job. Return None if the job is not a plugin's."""
    if isinstance(payload, str):
        payload = record.json_mapping("payload")
    source = record
    if message.startswith(PLUGIN_PREFIX):
        where = f"{record.where}, message"
        source = record.inner("message", parse_json(where, message.removeprefix(PLUGIN_PREFIX)))
        payload = source.mapping("payload")
    elif record.text("owner_kind") != owners.PLUGIN:
        return None
    plugin_id, key = source.needed("plugin_id"), source.needed("key", "job_key")
    runtime_name, description = source.text("runtime_name"), source.text("description")
    params = {
        "plugin_id": plugin_id,
        "key": key,
        "runtime_name": runtime_name,
        "payload": payload or {},
    }
    return {"kind": "tool-call", "tool": plugin_id, "params": params, "description": description}


def _schedule(schedule: Record, record: Record) -> JobFields:
    cron = schedule.text("cron", "schedule_cron")
    every = schedule.text("every", "schedule_every")
    at = schedule.text("at", "schedule_at")
    if len(given := [name for name in (cron, every, at) if name]) != 1:
        schedule.fail(f"has {len(given)} of cron, every and at, and needs one")
    if cron:
        return dict(go_cron(record, "cron", cron))
    if every:
        seconds: Fraction = go_duration(record, "every", every)
        return {"every": interval(record, "every", seconds)}
    moment = schedule.instant("at", "schedule_at")
    assert moment is not None or at
    if moment is None:
        schedule.fail(f"at is {at!r} and not a time")
    return {"at": moment.replace(microsecond=0).isoformat(), "delete_after_run": True}


def _run(record: Record) -> SourceRun:
    record.where += f" ({record.needed('id')})"
    run = started_run(record)
    record.ignore("session_id", "user_id")
    return run
