"""Files of the other systems, written as their published types write them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from daybook.imports.source import System

ZERO = "0001-01-01T00:00:00Z"
"""Go's zero time."""

ANNA = {
    "id": "a1b2c3d4",
    "name": "Email check",
    "schedule": {"every": "1h30m"},
    "message": "Check my email",
    "session_mode": "new",
    "enabled": True,
    "created_at": "2026-03-01T08:00:00.123456789+08:00",
}
ENVELOPE = {
    "plugin_id": "rss",
    "key": "poll",
    "runtime_name": "main",
    "payload": {"feeds": [1, 2]},
    "description": "Polls feeds",
}
ANNA_ROW = {
    "id": "e5f6",
    "owner_kind": "user",
    "exec_scope": "user",
    "plugin_id": "",
    "job_key": "",
    "runtime_name": "",
    "name": "Digest",
    "description": "The morning",
    "schedule_cron": "0 9 * * 1-5",
    "schedule_every": "",
    "schedule_at": "",
    "message": "Summarise the news",
    "payload": "{}",
    "session_mode": "reuse",
    "enabled": 1,
    "agent_id": "default",
    "user_id": "u-7",
    "org_id": "",
    "created_at": "2026-03-01 08:00:00",
    "updated_at": "2026-03-02 08:00:00",
    "last_run_at": "2026-03-03 09:00:00",
    "last_error": "",
}
ANNA_RUN = {
    "id": "r-1",
    "job_id": "e5f6",
    "session_id": "s",
    "status": "success",
    "started_at": "2026-03-03 09:00:00",
    "finished_at": "2026-03-03 09:00:05",
    "error": "",
    "user_id": None,
}
OMNIAGENT: dict[str, Any] = {
    "id": "m1",
    "name": "Report",
    "description": "Weekly",
    "schedule": {"interval": "6h0m0s"},
    "action": {"type": "send_message", "session_id": "main", "message": "Write the report"},
    "status": "enabled",
    "created_at": "2026-03-01T08:00:00Z",
    "updated_at": "2026-03-01T08:00:00Z",
    "last_run_at": "2026-11-20T01:00:00Z",
    "next_run_at": "2026-11-20T07:00:00Z",
    "run_count": 4,
    "last_error": "once",
    "metadata": {"team": "blue"},
}
HOTPLEX: dict[str, Any] = {
    "id": "c1",
    "cron_expr": "0 8 * * 1",
    "prompt": "Review the code",
    "session_key": "",
    "work_dir": "",
    "type": "medium",
    "timeout_mins": 20,
    "retries": 2,
    "retry_delay": 5_000_000_000,
    "output_format": "structured",
    "output_schema": '{"type": "object"}',
    "enabled": True,
    "silent": False,
    "notify_on": ["completed", "canceled"],
    "created_by": "ou_1",
    "created_at": "2026-03-01T08:00:00Z",
    "last_run": "2026-03-09T08:00:00Z",
    "next_run": "2026-03-16T08:00:00Z",
    "run_count": 2,
    "on_complete": "https://ops.example.org/done",
}
HOTPLEX_RUNS: list[dict[str, Any]] = [
    {
        "id": f"run-{number}",
        "job_id": "c1",
        "started_at": f"2026-03-0{number}T08:00:00Z",
        "finished_at": finished,
        "duration": 1_000_000_000,
        "status": status,
        "retry_count": number,
        "response": "Fine",
        "error": "",
    }
    for number, status, finished in (
        (1, "completed", "2026-03-01T08:00:01Z"),
        (2, "failed", "2026-03-02T08:00:01Z"),
        (3, "running", ZERO),
    )
]
PLAN_JOB = {
    "id": 7,
    "name": "Tea",
    "enabled": 1,
    "every_ms": 1_800_000,
    "cron_expr": None,
    "at_ms": None,
    "timezone": "Europe/Berlin",
    "prompt": "Make tea",
    "model": "some-model",
    "channel": "telegram",
    "chat_id": "42",
    "user_id": "u-1",
    "created_at": 1_772_000_000_000,
    "next_run_at": None,
}
PLAN_RUN = {
    "id": 1,
    "job_id": 7,
    "started_at": 1_772_001_800_000,
    "finished_at": 1_772_001_801_000,
    "status": "completed",
    "output": "Tea",
    "error": None,
}
SCHEDULE = {
    "id": "p-1",
    "name": "Standup",
    "schedule_type": "cron",
    "schedule_expr": "Europe/Berlin|0 30 9 * * 2-6",
    "task_prompt": "Ask for the standup",
    "session_id": "telegram:42",
    "user_id": "u-1",
    "channel_id": "telegram",
    "capabilities_json": "[]",
    "creator_principal": '{"principal_type": "user", "id": "u-1"}',
    "enabled": 1,
    "max_executions": 5,
    "execution_count": 2,
    "created_by_system": 0,
    "claim_id": "claim",
    "last_run_at": "2026-03-09T08:30:00+00:00",
    "next_run_at": "2026-03-10T08:30:00+00:00",
    "created_at": "2026-03-01T08:00:00+00:00",
    "updated_at": "2026-03-09T08:30:00+00:00",
    "consecutive_failures": 1,
    "last_error": "no answer",
    "metadata_json": None,
}
EXECUTION = {
    "id": "x-1",
    "job_id": "p-1",
    "started_at": "2026-03-09T08:30:00+00:00",
    "completed_at": "2026-03-09T08:30:09+00:00",
    "status": "timeout",
    "result_summary": None,
    "error": "no answer",
    "execution_time_ms": 9000,
}

Rows = Sequence[Mapping[str, Any]]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content, indent=2))
    return path


def database(path: Path, version: int = 0, **tables: Rows) -> Path:
    """Write an SQLite database; the first row of a table has all of its columns."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for name, rows in tables.items():
            columns = list(rows[0])
            connection.execute(f"CREATE TABLE {name} ({', '.join(columns)})")
            marks = ", ".join("?" * len(columns))
            connection.executemany(
                f"INSERT INTO {name} VALUES ({marks})",
                [[row[column] for column in columns] for row in rows],
            )
        connection.execute(f"PRAGMA user_version = {version}")
    return path


def emptied(path: Path, *tables: str) -> Path:
    with closing(sqlite3.connect(path)) as connection, connection:
        for table in tables:
            connection.execute(f"DELETE FROM {table}")
    return path


def hotplex(
    folder: Path, jobs: Rows = (HOTPLEX,), runs: Rows = HOTPLEX_RUNS, version: int = 1
) -> Path:
    write_json(folder / "jobs.json", {"version": version, "jobs": list(jobs)})
    write_json(folder / "runs.json", {"version": 1, "runs": list(runs)})
    return folder


def valid(system: System, folder: Path) -> Path:
    """Write a valid file of the system, with a history if it has one; return the path to import."""
    match system:
        case "anna":
            return database(
                folder / "anna.db", scheduler_jobs=[ANNA_ROW], scheduler_job_runs=[ANNA_RUN]
            )
        case "omniagent":
            return write_json(folder / "kv.json", {"cron:job:m1": OMNIAGENT, "other": 1})
        case "hotplex":
            return hotplex(folder)
        case "picobot":
            return database(
                folder / "picobot.db", schedules=[SCHEDULE], schedule_executions=[EXECUTION]
            )
