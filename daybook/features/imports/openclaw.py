"""Reader of OpenClaw: `cron/jobs.json` with its state and run history, or its database.

===========  ========================================  ===========================================
until        jobs                                      history
===========  ========================================  ===========================================
2026.5       `jobs.json`, with the state of each job   `runs/<job>.jsonl`
             in it or in `jobs-state.json`
since then   `cron_jobs`: `job_json`, `state_json`     `cron_run_logs`: `entry_json`
===========  ========================================  ===========================================

The reader ignores unknown fields of a state or of a run without a note, because OpenClaw adds such
fields often, and they do not change the effect of a job.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

from daybook.features.imports import shell
from daybook.features.imports.records import (
    Record,
    interval,
    key_of_session,
    phase,
    read_jobs,
    versioned,
)
from daybook.features.imports.source import (
    COPY_HINT,
    UPDATE_HINT,
    Source,
    SourceJob,
    SourceRun,
    broken,
    file_in,
    is_sqlite,
    parse_json,
    read_bytes,
    read_json,
    read_tables,
)
from daybook.jobs.model import JobFields
from daybook.json_text import JsonObject
from daybook.ledger.states import Status
from daybook.processes import environment

JOBS_FILE, STATE_SUFFIX, RUNS_FOLDER, VERSION = "jobs.json", "-state.json", "runs", 1
_JOBS_TABLE, _RUNS_TABLE = "cron_jobs", "cron_run_logs"

MAIN_AGENT = "main"
"""The agent of OpenClaw that gets the jobs without an agent."""

_WITHOUT_DUE_TIMES = ("on-exit", "stream")
_PROGRAMS_OF_OPENCLAW = ("script", "heartbeat", "skillCollectionReview")
_MEANINGLESS = (
    *("wakeMode", "suspendWake", "updatedAtMs", "declarationKey", "displayName", "owner"),
    *("scheduledToolPolicy", "failureAlert", "isolation", "notify"),
)
_OF_PAYLOADS = (
    *("thinking", "fallbacks", "lightContext", "allowUnsafeExternalContent", "toolsAllow"),
    *("externalContentSource", "toolsAllowIsDefault", "noOutputTimeoutSeconds", "outputMaxBytes"),
    *("deliver", "bestEffortDeliver", "channel", "to", "provider"),
)
_DESTINATIONS = {"completionDestination": "on_complete", "failureDestination": "on_fail"}


def read(path: Path) -> Source:
    """Return the jobs and runs of `jobs.json`, of the folder that contains it, or of a database.

    Leave out, with a note, the jobs without due times, and those that only OpenClaw can run.
    """
    file = file_in(path, JOBS_FILE)
    if is_sqlite(file):
        return _of_database(file)
    states = _states(file.with_name(file.name.removesuffix(".json") + STATE_SUFFIX))
    found, notes = versioned(file, VERSION, "jobs")
    records = [Record(f"{file.name}, job {n}", values) for n, values in enumerate(found, 1)]
    runs = [
        run for each in sorted(file.parent.glob(f"{RUNS_FOLDER}/*.jsonl")) for run in _lines(each)
    ]
    return _source(records, states, runs, notes)


def _states(file: Path) -> JsonObject:
    """Return the states in `jobs-state.json` by the jobs' ids.

    Return {} if there is no such file.
    """
    if not file.exists():
        return {}
    content = Record(file.name, read_json(file))
    if (found := content.value("version")) != VERSION:
        content.fail(f"has the version {found!r}, and Daybook knows {VERSION}", UPDATE_HINT)
    return {
        job_id: Record(f"{file.name}, {job_id}", entry).mapping("state")
        for job_id, entry in content.mapping("jobs").items()
    }


def _lines(file: Path) -> Iterable[Record]:
    where = f"{RUNS_FOLDER}/{file.name}"
    for number, line in enumerate(read_bytes(file).splitlines(), 1):
        if line.strip():
            yield Record(f"{where}, line {number}", _json(f"{where}, line {number}", line))


def _json(where: str, text: object) -> Any:
    return parse_json(where, text if isinstance(text, str | bytes) else "")


def _of_database(file: Path) -> Source:
    tables = read_tables(file, (_JOBS_TABLE, _RUNS_TABLE))
    if _JOBS_TABLE not in tables:
        raise broken(file.name, f"has no table {_JOBS_TABLE}", COPY_HINT)
    records, states = list[Record](), JsonObject()
    for number, row in enumerate(tables[_JOBS_TABLE], 1):
        where = f"{_JOBS_TABLE}, row {number}"
        values = _json(f"{where}, job_json", row.get("job_json"))
        record = Record(where, values)
        if isinstance(enabled := row.get("enabled"), int):
            # This column is newer than the JSON text.
            record = Record(where, {**values, "enabled": bool(enabled)})
        states[str(record.value("id", "jobId"))] = Record(where, row).json_mapping("state_json")
        records.append(record)
    runs = []
    for number, row in enumerate(tables.get(_RUNS_TABLE, []), 1):
        where = f"{_RUNS_TABLE}, row {number}"
        runs.append(Record(where, _json(f"{where}, entry_json", row.get("entry_json"))))
    return _source(records, states, runs, [])


def _source(
    records: list[Record], states: JsonObject, runs: Iterable[Record], notes: list[str]
) -> Source:
    jobs, refused, more = read_jobs(records, lambda each: _job(each, states))
    found = {(run.job_id, run.id): run for each in runs if (run := _run(each)) is not None}
    return Source.of("openclaw", jobs, found.values(), notes + more, refused)


def _job(record: Record, states: JsonObject) -> SourceJob | str:
    job_id = record.needed("id", "jobId")
    record.where += f" ({job_id})"
    own = record.mapping("state")
    state = Record(f"{record.where}, state", {**own, **states.get(job_id, {})})
    schedule, payload = record.record("schedule"), record.record("payload")
    if (kind := schedule.needed("kind")) in _WITHOUT_DUE_TIMES:
        return f"left out {job_id}: a schedule {kind!r} has no due times"
    if (kind := payload.needed("kind")) in _PROGRAMS_OF_OPENCLAW:
        return f"left out {job_id}: only OpenClaw runs a {kind!r}"
    notes, kept = list[str](), JsonObject()
    created = record.instant("createdAtMs")
    last_run, next_run = state.instant("lastRunAtMs"), state.instant("nextRunAtMs")
    if state.instant("runningAtMs"):
        notes.append("it was running; the end of that run is not known to Daybook")
    fields = _payload(payload, notes, kept)
    reason = fields.pop("disabled", "")
    if fields.get("agent") != shell.AGENT:
        fields |= _session(record, notes)
        if (agent := record.text("agentId")) and agent != MAIN_AGENT:
            fields["agent"] = agent
    record.ignore("sessionTarget", "agentId")
    anchor = schedule.instant("anchorMs")
    fields |= _schedule(schedule, record, notes) | _delivery(record, notes, kept)
    fields["description"] = record.text("description")
    fields["enabled"] = record.value("enabled") is None or record.flag("enabled")
    if record.mapping("trigger"):
        reason = reason or "imported without its trigger script"
        notes.append("a script decided whether it runs, so it is disabled: see `--check`")
    if record.mapping("pacing"):
        notes.append("its agent chose the next due time; here the schedule alone does")
    if session_key := record.text("sessionKey"):
        kept["session_key"] = session_key
    record.ignore(*_MEANINGLESS)
    return SourceJob(
        id=job_id,
        name=record.text("name").strip() or "job",
        where=record.where,
        fields=fields,
        anchor=phase(fields.get("every"), None if anchor else next_run, anchor, last_run, created),
        disabled_reason=reason,
        consecutive_failures=state.integer("consecutiveErrors"),
        created_at=created,
        last_run_at=last_run,
        last_error=state.text("lastError"),
        kept=kept,
        notes=tuple(notes),
    )


def _session(record: Record, notes: list[str]) -> JsonObject:
    target = record.text("sessionTarget") or MAIN_AGENT
    prefix, colon, key = target.partition(":")
    if prefix == "session" and colon:
        return key_of_session(key, notes)
    known = (MAIN_AGENT, "current", "isolated")
    target = record.choice(known, "sessionTarget", MAIN_AGENT, "isolated")
    return {"session": "new" if target == "isolated" else "reuse"}


def _schedule(schedule: Record, record: Record, notes: list[str]) -> JobFields:
    kind, fields = schedule.needed("kind"), JobFields()
    if kind == "at":
        if (moment := schedule.instant("at", "atMs")) is None:
            schedule.fail("at is missing")
        fields = {"at": moment.replace(microsecond=0).isoformat()}
        if record.flag("deleteAfterRun"):
            fields["delete_after_run"] = True
    elif kind == "every":
        every = Fraction(schedule.integer("everyMs"), 1000)
        fields = {"every": interval(schedule, "everyMs", every)}
    elif kind == "cron":
        fields = {"cron": schedule.needed("expr", "cron")}
        if zone := schedule.text("tz"):
            fields["timezone"] = zone
        if stagger := schedule.integer("staggerMs"):
            fields["stagger"] = f"{max(1, stagger // 1000)}s"
    else:
        schedule.fail(f"kind is {kind!r}, which Daybook does not know")
    schedule.ignore("anchorMs")
    record.ignore("deleteAfterRun")
    return fields


def _payload(payload: Record, notes: list[str], kept: JsonObject) -> JsonObject:
    kind = payload.needed("kind")
    if kind == "systemEvent":
        fields: JobFields = {"prompt": payload.needed("text", "message")}
    elif kind == "agentTurn":
        fields = {"prompt": payload.needed("message", "text")}
    elif kind == "command":
        fields = _command(payload, notes)
    else:
        payload.fail(f"kind is {kind!r}, which Daybook does not know")
    seconds = payload.integer("timeoutSeconds")
    if seconds:
        fields["timeout"] = f"{seconds}s"
    if model := payload.text("model"):
        kept["model"] = model
        notes.append(f"it used the model {model}: choose an agent with it, or set --model")
    for name in ("thinking", "fallbacks", "toolsAllow"):
        if value := payload.value(name):
            kept[name] = value
    if payload.value("toolsAllow"):
        notes.append("its list of tools is not imported: the agent's own tools apply")
    payload.ignore(*_OF_PAYLOADS)
    return fields


def _command(payload: Record, notes: list[str]) -> JobFields:
    """Return the fields of a command. `disabled` is the reason to disable the job, or ""."""
    argv = payload.value("argv")
    if not isinstance(argv, list) or not argv or not all(isinstance(each, str) for each in argv):
        payload.fail("argv is not a list of texts")
    variables = {name: str(value) for name, value in payload.mapping("env").items()}
    if wrong := [name for name in variables if not environment.VARIABLE_NAME.fullmatch(name)]:
        payload.fail(f"env has {wrong[0]!r}, which no shell can export")
    kept, reason = shell.without_secrets(variables, notes)
    fields = shell.fields(
        shlex.join(argv),
        variables=kept,
        folder=payload.text("cwd"),
        stdin=payload.text("input") or None,
    )
    return fields | {"retries": 0, "disabled": reason}


def _delivery(record: Record, notes: list[str], kept: JsonObject) -> JsonObject:
    fields = JobFields()
    if record.value("delivery") is None:
        return fields
    delivery = record.record("delivery")
    mode = delivery.choice(("none", "announce", "webhook"), "mode", "none", "none")
    to = delivery.text("to")
    if mode == "webhook" and to:
        fields["on_complete"] = to
    elif mode == "announce":
        kept |= {
            name: str(value)
            for name in ("channel", "to", "threadId", "accountId")
            if (value := delivery.value(name)) is not None
        }
        notes.append("its answers go to no chat yet: set --channel and --chat-id")
    for name, callback in _DESTINATIONS.items():
        destination = delivery.mapping(name)
        if destination.get("mode") == "webhook" and destination.get("to"):
            fields[callback] = destination["to"]
        elif destination:
            notes.append(f"its {name} is not imported: set --channel")
    if fields:
        notes.append("its webhook gets the callbacks of Daybook, with another body")
    delivery.ignore("channel", "to", "threadId", "accountId", "bestEffort")
    return fields


def _run(record: Record) -> SourceRun | None:
    """Return the run of an entry. Return None if the entry does not report the end of a run."""
    if record.text("action") not in ("", "finished"):
        return None
    finished = record.instant("ts")
    if finished is None:
        record.fail("ts is missing")
    duration = timedelta(milliseconds=record.integer("durationMs"))
    started = record.instant("runAtMs") or finished - duration
    return SourceRun(
        id=str(record.integer("ts")),
        job_id=record.needed("jobId"),
        started_at=started,
        finished_at=max(started, finished),
        due=started,
        status=record.status("status") if record.value("status") else Status.UNKNOWN,
        output=record.text("summary"),
        error=record.text("error"),
    )
