"""Reader of the files of omniagent: a key–value store with each job as JSON under `cron:job:<id>`.

The store is an SQLite database (table `kv`), or an export of it. An export is a JSON object of keys
and values; a value is an object or its JSON text. Other keys belong to other parts of omniagent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from daybook.features.imports.records import (
    Record,
    go_cron,
    go_duration,
    interval,
    key_of_session,
    phase,
    read_jobs,
)
from daybook.features.imports.source import (
    COPY_HINT,
    UPDATE_HINT,
    Source,
    SourceJob,
    broken,
    is_sqlite,
    parse_json,
    read_json,
    read_tables,
)
from daybook.jobs.model import JobFields

KEY_PREFIX = "cron:job:"

_ACTIONS = ("send_message", "call_webhook", "call_tool")
_STATUSES, _UNKNOWN_STATUS = ("enabled", "disabled", "running"), "unknown"


def read(path: Path) -> Source:
    """Return the jobs of the store. The store has no history of runs."""
    records = dict[Record, str]()
    for key, value in _entries(path):
        where = f"{path.name}, {key}"
        values = parse_json(where, value) if isinstance(value, bytes | str) else value
        records[Record(where, values)] = key.removeprefix(KEY_PREFIX)
    jobs, refused, _ = read_jobs(records, lambda each: _job(each, records[each]))
    return Source.of("omniagent", jobs, refused=refused)


def _entries(path: Path) -> list[tuple[str, Any]]:
    if is_sqlite(path):
        tables = read_tables(path, ("kv",), max_version=0)
        if "kv" not in tables:
            raise broken(path.name, "has no table kv", COPY_HINT)
        entries = [(str(row.get("key")), row.get("value")) for row in tables["kv"]]
    else:
        content = read_json(path)
        if not isinstance(content, dict):
            raise broken(path.name, "is not an object of keys and values", UPDATE_HINT)
        if "version" in content:
            problem = "has a version, and the key-value store that Daybook knows has none"
            raise broken(path.name, problem, UPDATE_HINT)
        entries = list(content.items())
    return [(key, value) for key, value in entries if key.startswith(KEY_PREFIX)]


def _job(record: Record, id_in_key: str) -> SourceJob:
    job_id = record.needed("id")
    if job_id != id_in_key:
        record.fail(f"id is {job_id!r}, and the key says {id_in_key!r}")
    status = record.choice(_STATUSES, "status", "enabled", _UNKNOWN_STATUS)
    created, updated = record.instant("created_at"), record.instant("updated_at")
    last_run, next_run = record.instant("last_run_at"), record.instant("next_run_at")
    notes = list[str]()
    if status == "running":
        notes.append("it was running; the end of that run is not known to Daybook")
    fields = _action(record.record("action"), notes) | _schedule(record.record("schedule"))
    fields["description"] = record.text("description")
    fields["metadata"] = record.mapping("metadata")
    fields["enabled"] = status != "disabled"
    unknown = f"its status in omniagent was {record.text('status')!r}"
    kept = {"owner_principal": owner} if (owner := record.text("owner_principal")) else {}
    return SourceJob(
        id=job_id,
        name=record.needed("name"),
        where=record.where,
        fields=fields,
        anchor=phase(fields.get("every"), next_run, last_run, updated, created),
        disabled_reason=unknown if status == _UNKNOWN_STATUS else "",
        run_count=record.integer("run_count"),
        created_at=created,
        last_run_at=last_run,
        last_error=record.text("last_error"),
        kept=kept,
        notes=tuple(notes),
    )


def _schedule(record: Record) -> JobFields:
    cron, once = record.text("cron"), record.instant("once")
    every = go_duration(record, "interval", record.value("interval"))
    if (given := bool(cron) + (once is not None) + (every > 0)) != 1:
        record.fail(f"has {given} of cron, once and interval, and needs one")
    if cron:
        return dict(go_cron(record, "cron", cron))
    if once is not None:
        return {"at": once.replace(microsecond=0).isoformat()}
    return {"every": interval(record, "interval", every)}


def _action(record: Record, notes: list[str]) -> JobFields:
    kind = record.needed("type")
    if kind not in _ACTIONS:
        record.fail(f"type is {kind!r}, which Daybook does not know")
    if kind == "send_message":
        fields: JobFields = {
            "prompt": record.needed("message"),
            **key_of_session(record.text("session_id"), notes),
        }
    elif kind == "call_webhook":
        fields = {
            "url": record.needed("webhook_url"),
            "method": record.text("webhook_method") or "POST",
            "headers": record.mapping("webhook_headers"),
            "body": record.text("webhook_body"),
        }
    else:
        fields = {"tool": record.needed("tool_name"), "params": record.mapping("tool_params")}
    return fields
