"""Files of the other systems, written as their published types write them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from daybook.features.imports.source import Source, System

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

OPENCLAW: dict[str, Any] = {
    "id": "7d1c",
    "agentId": "main",
    "sessionKey": "agent:main:telegram:dm:42",
    "name": "Morning brief",
    "description": "What is new",
    "enabled": True,
    "createdAtMs": 1_772_000_000_000,
    "updatedAtMs": 1_772_000_500_000,
    "schedule": {"kind": "cron", "expr": "0 7 * * *", "tz": "Europe/Berlin", "staggerMs": 300_000},
    "sessionTarget": "isolated",
    "wakeMode": "now",
    "payload": {
        "kind": "agentTurn",
        "message": "Summarise the night",
        "model": "anthropic/claude-opus-4-6",
        "thinking": "low",
        "timeoutSeconds": 600,
        "lightContext": True,
    },
    "delivery": {"mode": "announce", "channel": "telegram", "to": "42", "bestEffort": True},
    "failureAlert": False,
    "state": {
        "nextRunAtMs": 1_772_100_000_000,
        "lastRunAtMs": 1_772_013_600_000,
        "lastRunStatus": "error",
        "lastStatus": "error",
        "lastError": "no answer",
        "lastDurationMs": 9000,
        "consecutiveErrors": 2,
        "lastDeliveryStatus": "not-delivered",
    },
}
OPENCLAW_RUNS: list[dict[str, Any]] = [
    {
        "ts": 1_772_013_609_000 + number * 86_400_000,
        "jobId": "7d1c",
        "action": "finished",
        "status": status,
        "error": error,
        "summary": summary,
        "delivered": False,
        "deliveryStatus": "not-requested",
        "sessionId": "s-1",
        "sessionKey": "agent:main:cron:7d1c",
        "runAtMs": 1_772_013_600_000 + number * 86_400_000,
        "durationMs": 9000,
        "nextRunAtMs": 1_772_100_000_000,
        "model": "claude-opus-4-6",
        "provider": "anthropic",
        "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
    }
    for number, (status, summary, error) in enumerate(
        (("ok", "All is well", None), ("error", None, "no answer"), ("skipped", None, "disabled"))
    )
]
HERMES: dict[str, Any] = {
    "id": "a1b2c3d4e5f6",
    "name": "Standup",
    "prompt": "Ask for the standup",
    "skills": [],
    "skill": None,
    "model": None,
    "provider": None,
    "provider_snapshot": "anthropic",
    "model_snapshot": "claude-opus-4-6",
    "base_url": None,
    "script": None,
    "no_agent": False,
    "monitor_script": None,
    "monitor_url": None,
    "monitor_state": None,
    "context_from": None,
    "schedule": {"kind": "cron", "expr": "0 9 * * 1-5", "display": "every weekday at 9am"},
    "schedule_display": "every weekday at 9am",
    "repeat": {"times": 10, "completed": 3},
    "enabled": True,
    "state": "scheduled",
    "paused_at": None,
    "paused_reason": None,
    "created_at": "2026-03-01T08:00:00+01:00",
    "next_run_at": "2026-03-10T09:00:00+01:00",
    "last_run_at": "2026-03-09T09:00:12+01:00",
    "last_status": "ok",
    "last_error": None,
    "last_delivery_error": None,
    "last_delivery_unverified": None,
    "failure_streak": 0,
    "deliver": "local",
    "origin": None,
    "enabled_toolsets": None,
    "workdir": None,
    "run_claim": None,
    "fire_claim": None,
}
CRONTAB = """\
# Edit this file to introduce tasks to be run by cron.
MAILTO="ops@example.org"
CRON_TZ=Europe/Berlin
GREETING = 'good morning'

0 9 * * 1-5 ~/bin/report.sh --team "$TEAM"  # for all
"""

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


def openclaw(
    folder: Path,
    jobs: Rows = (OPENCLAW,),
    runs: Rows = OPENCLAW_RUNS,
    version: int = 1,
) -> Path:
    """Write the files of 2026.5: the jobs with their state, and one line of JSON for each run."""
    write_json(folder / "jobs.json", {"version": version, "jobs": list(jobs)})
    (folder / "runs").mkdir(exist_ok=True)
    for job_id in {str(run["jobId"]) for run in runs}:
        lines = [json.dumps(run) + "\n" for run in runs if run["jobId"] == job_id]
        (folder / "runs" / f"{job_id}.jsonl").write_text("".join(lines))
    return folder


def openclaw_database(path: Path) -> Path:
    """Write the tables of 2026.6, where the JSON of a job has no state."""
    job = {**OPENCLAW, "state": {}}
    del job["updatedAtMs"]
    row = {
        "store_key": "/home/u/.openclaw/cron/jobs.json",
        "job_id": "7d1c",
        "name": "Morning brief",
        "enabled": 0,
        "job_json": json.dumps(job),
        "state_json": json.dumps(OPENCLAW["state"]),
        "sort_order": 0,
    }
    runs = [
        {"job_id": "7d1c", "seq": number, "ts": run["ts"], "entry_json": json.dumps(run)}
        for number, run in enumerate(OPENCLAW_RUNS)
    ]
    return database(path, version=5, cron_jobs=[row], cron_run_logs=runs)


def hermes(folder: Path, *jobs: Mapping[str, Any]) -> Path:
    content = {"jobs": list(jobs or (HERMES,)), "updated_at": "2026-03-09T09:00:12+01:00"}
    return write_json(folder / "jobs.json", content)


def crontab(folder: Path, text: str = CRONTAB) -> Path:
    path = folder / "crontab.txt"
    path.write_text(text)
    return path


def systemd(
    folder: Path,
    timer: str = "[Timer]\nOnCalendar=Mon..Fri 09:00\n",
    service: str = "[Service]\nExecStart=/bin/true\n",
    name: str = "backup",
) -> Path:
    """Write a timer and its service; return the timer's path."""
    path = folder / f"{name}.timer"
    path.write_text(timer)
    path.with_suffix(".service").write_text(service)
    return path


def checked(source: Source) -> Source:
    """Return the source. Raise the error of a job that it refuses, as the writer does."""
    for job in source.refused:
        raise job.error
    return source


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
        case "openclaw":
            return openclaw(folder)
        case "hermes":
            return hermes(folder)
        case "crontab":
            return crontab(folder)
        case "systemd":
            return systemd(folder)
        case "picobot":
            return database(
                folder / "picobot.db", schedules=[SCHEDULE], schedule_executions=[EXECUTION]
            )
