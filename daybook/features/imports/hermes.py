"""Reader of the file of Hermes agent: `cron/jobs.json`. The file has no version.

The file is an object with the list `jobs`. An older file is the list itself, or its `jobs` is an
object that maps ids to jobs. The times of a cron expression are in the time zone of Hermes'
settings, which the file does not contain. A time without an offset, from an old version, is in the
time zone of Hermes' machine. Daybook reads both in its own default zone.
"""

from __future__ import annotations

import shlex
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from daybook import settings
from daybook.features.imports import shell
from daybook.features.imports.records import Record, interval, phase, read_jobs, unknown_note
from daybook.features.imports.source import (
    UPDATE_HINT,
    Source,
    SourceJob,
    array,
    file_in,
    read_json,
)
from daybook.jobs.model import JobFields
from daybook.names import default_name

JOBS_FILE, SCRIPTS_FOLDER = "jobs.json", "scripts"
SCRIPT_TIMEOUT = "1h"
"""Timeout of a script. It is the same as Hermes' default."""

_SHELLS = (".sh", ".bash")
_STATES, _UNKNOWN_STATE = ("", "scheduled", "paused", "completed", "error"), "unknown"
_OF_RUNS = (
    *("last_status", "last_delivery_error", "last_delivery_unverified", "last_fire_error"),
    *("run_claim", "fire_claim", "pending_slot", "manual_run_at", "manual_run_prompt"),
    *("preflight_alerted", "monitor_state", "latest_execution", "unreachable_retry"),
)
_MEANINGLESS = (
    *("schedule_display", "updated_at", "paused_at", "provider_snapshot", "model_snapshot"),
    *("attach_to_session", "failure_deliver", "skill", "base_url"),
)
_KEPT = ("provider", "model", "deliver", "origin", "skills", "context_from", "enabled_toolsets")
_KEPT_TOO = ("reasoning_effort", "script", "monitor_script", "monitor_url")
_ZONE_NOTE = (
    "cron expressions, and times without an offset, are in the time zone of DAYBOOK_TIMEZONE: "
    "compare it with that of Hermes"
)


def read(path: Path) -> Source:
    """Return the jobs of `jobs.json`, or of the folder that contains it.

    The file has no history.
    """
    file = file_in(path, JOBS_FILE)
    return _source(file, file.resolve().parent.parent / SCRIPTS_FOLDER)


def read_copy(path: Path) -> Source:
    """Return the jobs of a copy of `jobs.json`, whose scripts are in `~/.hermes/scripts`."""
    return _source(file_in(path, JOBS_FILE), Path.home() / ".hermes" / SCRIPTS_FOLDER)


def _source(file: Path, scripts: Path) -> Source:
    zone = ZoneInfo(settings.load().timezone)
    found, notes = _jobs(file)
    records = [
        Record(f"{file.name}, job {number}", values, zone) for number, values in enumerate(found, 1)
    ]
    jobs, refused, _ = read_jobs(records, lambda each: _job(each, scripts))
    if any({"cron", "at"} & job.fields.keys() for job in jobs):
        notes.append(_ZONE_NOTE)
    return Source.of("hermes", jobs, notes=notes, refused=refused)


def _jobs(file: Path) -> tuple[list[Any], list[str]]:
    """Return the objects of the jobs, and notes on other keys of the file."""
    content = read_json(file)
    if isinstance(content, list):
        return content, []
    whole = Record(file.name, content)
    if (version := whole.value("version")) is not None:
        whole.fail(
            f"has the version {version!r}, and Daybook knows only files without", UPDATE_HINT
        )
    jobs = whole.value("jobs")
    whole.ignore("updated_at")
    notes = unknown_note(f"{file.name} has", whole.unknown())
    if isinstance(jobs, dict):
        jobs = [
            {**job, "id": job.get("id") or job_id} if isinstance(job, dict) else job
            for job_id, job in jobs.items()
        ]
    return array(f"{file.name}, jobs", jobs), notes


def _job(record: Record, scripts: Path) -> SourceJob:
    job_id = record.needed("id")
    record.where += f" ({job_id})"
    notes, reason = list[str](), ""
    last_run, next_run = record.instant("last_run_at"), record.instant("next_run_at")
    created = record.instant("created_at")
    if record.flag("no_agent"):
        fields = _script(record, scripts)
    else:
        fields, reason = _prompt(record, notes)
    fields |= _schedule(record.record("schedule"))
    repeat = record.inner("repeat", record.mapping("repeat"))
    times, completed = repeat.integer("times"), repeat.integer("completed")
    if times and "at" not in fields:
        fields["max_runs"] = times
    if work_dir := record.text("workdir"):
        fields["work_dir"] = work_dir
    fields["enabled"] = record.value("enabled") is None or record.flag("enabled")
    state = record.choice(_STATES, "state", "", _UNKNOWN_STATE)
    paused = record.text("paused_reason").strip()
    if state == _UNKNOWN_STATE:
        reason = reason or f"its state in hermes was {record.text('state')!r}"
    if state == "paused" or record.value("paused_at"):
        fields["enabled"] = False
        reason = reason or f"paused in hermes{': ' if paused else ''}{paused}"
    kept = {name: value for name in (*_KEPT, *_KEPT_TOO) if (value := record.value(name))}
    if str(kept.get("deliver", "local")) != "local":
        notes.append("its answers go to no chat yet: set --channel and --chat-id")
    record.ignore(*_OF_RUNS, *_MEANINGLESS)
    return SourceJob(
        id=job_id,
        name=record.text("name").strip() or default_name(record.text("prompt")),
        where=record.where,
        fields=fields,
        anchor=phase(fields.get("every"), next_run, last_run, created),
        disabled_reason=reason,
        run_count=completed,
        created_at=created,
        consecutive_failures=record.integer("failure_streak"),
        last_run_at=last_run,
        last_error=record.text("last_error"),
        kept=kept,
        notes=tuple(notes),
    )


def _prompt(record: Record, notes: list[str]) -> tuple[JobFields, str]:
    """Return the fields of an agent's job, and the reason to disable the job, or ""."""
    skills = record.value("skills") or ([skill] if (skill := record.text("skill")) else [])
    prompt = record.text("prompt").strip()
    if not prompt and not skills:
        record.fail("prompt is missing")
    if skills:
        notes.append(f"it used skills of Hermes: {', '.join(map(str, skills))}")
    if model := record.text("model"):
        notes.append(f"it used the model {model}: choose an agent with it, or set --model")
    if record.value("context_from"):
        notes.append("its prompt had the answers of other jobs: write {{output:JOB}}")
    if record.value("enabled_toolsets"):
        notes.append("its list of tools is not imported: the agent's own tools apply")
    fields = {"prompt": prompt or f"Use the skill {skills[0]}.", "session": "new"}
    for name in ("script", "monitor_script", "monitor_url"):
        if record.text(name).strip():
            notes.append(f"its {name} is not imported, so it is disabled: see `--check`")
            return fields, f"imported without its {name}"
    return fields, ""


def _script(record: Record, scripts: Path) -> JobFields:
    """Return the fields of a job that runs a script in Hermes' folder of scripts."""
    path = scripts / record.needed("script")
    record.ignore("prompt")
    program = "bash" if path.suffix in _SHELLS else "python3"
    command = shlex.join([program, str(path)])
    # A job's work directory takes precedence over the agent's, so the script needs no `cd` to it.
    folder = "" if record.text("workdir") else str(path.parent)
    return shell.fields(command, folder=folder) | {"timeout": SCRIPT_TIMEOUT, "retries": 0}


def _schedule(schedule: Record) -> JobFields:
    kind = schedule.needed("kind")
    if kind == "once":
        if (moment := schedule.instant("run_at")) is None:
            schedule.fail("run_at is missing")
        fields: JobFields = {"at": moment.replace(microsecond=0).isoformat()}
    elif kind == "interval":
        fields = {
            "every": interval(schedule, "minutes", Fraction(schedule.integer("minutes") * 60))
        }
    elif kind == "cron":
        parts = schedule.needed("expr").split()
        if len(parts) == 6:
            # croniter reads the last field as seconds, but Daybook reads the first one.
            parts = [parts[-1], *parts[:-1]]
        fields = {"cron": " ".join(parts)}
    else:
        schedule.fail(f"kind is {kind!r}, which Daybook does not know")
    schedule.ignore("display", "value")
    return fields
