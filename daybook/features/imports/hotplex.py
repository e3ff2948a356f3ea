"""Reader of the files of hotplex: `jobs.json` and `runs.json`, both in format version 1."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from daybook.errors import InvalidInput
from daybook.features.imports.records import (
    Record,
    go_cron,
    go_duration,
    phase,
    read_jobs,
    read_runs,
    started_run,
    versioned,
)
from daybook.features.imports.source import Source, SourceJob, SourceRun, file_in, parse_json
from daybook.jobs.model import JobFields
from daybook.jobs.notify import CALLBACK_FIELDS, DEFAULT_EVENTS, Event
from daybook.json_text import JsonObject
from daybook.names import default_name

JOBS_FILE, RUNS_FILE, VERSION = "jobs.json", "runs.json", 1

_EVENTS: dict[str, Event] = {"completed": "completed", "failed": "failed", "canceled": "cancelled"}
_FORMATS = ("text", "json", "structured")
_CLASSES = ("light", "medium", "resource-intensive")


def read(path: Path) -> Source:
    """Return the jobs of `jobs.json`, or of its folder, and the runs of `runs.json` next to it."""
    file = file_in(path, JOBS_FILE)
    found, notes = versioned(file, VERSION, "jobs")
    records = [Record(f"{file.name}, job {n}", values) for n, values in enumerate(found, 1)]
    jobs, refused, _ = read_jobs(records, _job)
    history = file.with_name(RUNS_FILE)
    found, more = versioned(history, VERSION, "runs") if history.exists() else ([], [])
    entries = [Record(f"{history.name}, run {n}", values) for n, values in enumerate(found, 1)]
    runs, unknown = read_runs(entries, _run)
    return Source.of("hotplex", jobs, runs, notes + more + unknown, refused)


def _job(record: Record) -> SourceJob:
    job_id = record.needed("id")
    record.where += f" ({job_id})"
    prompt, notes = record.needed("prompt"), list[str]()
    fields: JobFields = {
        "prompt": prompt,
        **go_cron(record, "cron_expr", record.needed("cron_expr")),
    }
    if key := record.text("session_key"):
        fields["session_key"] = key
    else:
        fields["session"] = "new"
    fields |= _policy(record, notes)
    fields |= _output(record, notes)
    fields["enabled"] = record.needed_flag("enabled")
    fields["silent"] = record.flag("silent")
    if events := [_EVENTS[each] for each in record.choices(_EVENTS, "notify_on")]:
        fields["events"] = events
    called = {CALLBACK_FIELDS[event] for event in events or DEFAULT_EVENTS}
    kept = JsonObject()
    for callback in ("on_complete", "on_fail"):
        if (url := record.text(callback)) and callback in called:
            fields[callback] = url
        elif url:
            kept[callback] = url
            notes.append(f"its notify_on never calls its {callback}, so it is left out")
    created = record.instant("created_at")
    last_run, next_run = record.instant("last_run"), record.instant("next_run")
    if by := record.text("created_by"):
        kept["created_by"] = by
    return SourceJob(
        id=job_id,
        name=default_name(prompt),
        where=record.where,
        fields=fields,
        anchor=phase(fields.get("every"), next_run, last_run, created),
        run_count=record.integer("run_count"),
        created_at=created,
        last_run_at=last_run,
        last_error=record.text("last_error"),
        kept=kept,
        notes=tuple(notes),
    )


def _policy(record: Record, notes: list[str]) -> JobFields:
    fields = JobFields()
    if work_dir := record.text("work_dir"):
        fields["work_dir"] = work_dir
    if run_class := record.choice(("", *_CLASSES), "type", "", ""):
        fields["class"] = run_class
    if minutes := record.integer("timeout_mins"):
        fields["timeout"] = f"{minutes}m"
    fields["retries"] = record.integer("retries")
    if delay := go_duration(record, "retry_delay", record.value("retry_delay")):
        fields["retry_delay"] = f"{max(1, round(delay))}s"
        if max(1, round(delay)) != delay:
            notes.append(f"its retry delay was {float(delay):g} seconds; here it has whole seconds")
    return fields


def _output(record: Record, notes: list[str]) -> JobFields:
    output_format = record.choice(_FORMATS, "output_format", "text", "text")
    schema = record.text("output_schema")
    if output_format != "structured":
        if schema:
            notes.append("its output schema had no effect there, and was left out")
        return {"output_format": output_format}
    wanted = None
    with suppress(InvalidInput):
        wanted = parse_json("output_schema", schema)
    if not isinstance(wanted, dict) or not wanted:
        notes.append("its output schema is not a JSON object, so any JSON is accepted")
        return {"output_format": "json"}
    return {"output_format": "structured", "output_schema": wanted}


def _run(record: Record) -> SourceRun:
    run = started_run(
        record, output=record.text("response"), attempts=record.integer("retry_count") + 1
    )
    record.ignore("duration")
    return run
