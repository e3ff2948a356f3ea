"""The reader of OpenClaw: its files, its database, and what Daybook has no field for."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.features.imports import openclaw
from daybook.features.imports.source import SourceJob
from daybook.ledger.states import Status
from tests import rows
from tests.unit.features.imports import files
from tests.unit.features.imports.files import checked, utc, write_json

JOB = files.OPENCLAW


def read(folder: Path, **changes: Any) -> SourceJob:
    """Return the job of a file whose fields have these values."""
    (job,) = checked(openclaw.read(files.openclaw(folder, jobs=[JOB | changes], runs=[]))).jobs
    return job


def test_a_job_and_its_history(tmp_path: Path) -> None:
    source = openclaw.read(files.openclaw(tmp_path))
    (job,) = source.jobs
    assert (job.id, job.name) == ("7d1c", "Morning brief")
    assert job.fields == {
        "prompt": "Summarise the night",
        "timeout": "600s",
        "session": "new",
        "cron": "0 7 * * *",
        "timezone": "Europe/Berlin",
        "stagger": "300s",
        "description": "What is new",
        "enabled": True,
    }
    assert (job.last_run_at, job.last_error) == (utc("2026-02-25T10:00:00"), "no answer")
    assert job.consecutive_failures == 2
    assert job.kept["model"] == "anthropic/claude-opus-4-6"
    assert (job.kept["channel"], job.kept["to"]) == ("telegram", "42")
    assert [note.partition(":")[0] for note in job.notes] == [
        "it used the model anthropic/claude-opus-4-6",
        "its answers go to no chat yet",
    ]
    assert [(run.status, run.output, run.error) for run in source.runs] == [
        (Status.SUCCEEDED, "All is well", ""),
        (Status.FAILED, "", "no answer"),
        (Status.SKIPPED, "", "disabled"),
    ]
    assert source.runs[0].due == utc("2026-02-25T10:00:00")
    assert source.runs[0].finished_at - source.runs[0].started_at == timedelta(seconds=9)


def test_the_state_beside_the_jobs_and_the_database_are_the_same(tmp_path: Path) -> None:
    inside = openclaw.read(files.openclaw(tmp_path))
    files.openclaw(tmp_path, jobs=[{**JOB, "state": {}}])
    write_json(
        tmp_path / "jobs-state.json",
        {"version": 1, "jobs": {"7d1c": {"updatedAtMs": 1, "state": JOB["state"]}}},
    )
    assert openclaw.read(tmp_path) == inside

    stored = openclaw.read(files.openclaw_database(tmp_path / "openclaw.sqlite"))
    (job,) = stored.jobs
    assert job.fields == inside.jobs[0].fields | {"enabled": False}
    assert stored.runs == inside.runs


def test_schedules(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"kind": "at", "at": "2027-01-15T14:30:00"}, {"at": "2027-01-15T14:30:00+00:00"}),
        ({"kind": "at", "at": "2027-01-15T14:30:00.5+01:00"}, {"at": "2027-01-15T13:30:00+00:00"}),
        ({"kind": "at", "atMs": 1_800_000_000_000}, {"at": "2027-01-15T08:00:00+00:00"}),
        ({"kind": "every", "everyMs": 1_800_000}, {"every": "1800s"}),
        ({"kind": "cron", "expr": "*/5 * * * *"}, {"cron": "*/5 * * * *"}),
    ]
    for (schedule, wanted), trying in rows.each(cases):
        with trying:
            job = read(tmp_path, schedule=schedule, deleteAfterRun=True)
            names = ("at", "every", "cron", "timezone", "stagger")
            assert {k: v for k, v in job.fields.items() if k in names} == wanted
            assert job.fields.get("delete_after_run", False) == ("at" in wanted)


def test_an_interval_keeps_its_phase(tmp_path: Path) -> None:
    anchored = {"kind": "every", "everyMs": 3_600_000, "anchorMs": 1_772_000_100_000}
    assert read(tmp_path, schedule=anchored).anchor == utc("2026-02-25T06:15:00")
    plain = {"kind": "every", "everyMs": 3_600_000}
    assert read(tmp_path, schedule=plain).anchor == utc("2026-02-26T09:00:00")


def test_sessions_and_agents(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"sessionTarget": "main"}, {"session": "reuse"}),
        ({"sessionTarget": "isolated"}, {"session": "new"}),
        ({"sessionTarget": "current"}, {"session": "reuse"}),
        ({"sessionTarget": "session:daily"}, {"session_key": "daily"}),
        ({"sessionTarget": "session:job:1"}, {}),
        ({"agentId": "ops"}, {"session": "new", "agent": "ops"}),
    ]
    for (changes, wanted), trying in rows.each(cases):
        with trying:
            fields = read(tmp_path, **changes).fields
            names = ("session", "session_key", "agent")
            assert {k: v for k, v in fields.items() if k in names} == wanted


def test_webhooks_become_callbacks(tmp_path: Path) -> None:
    url = "https://ops.example.org/done"
    failed = {"mode": "webhook", "to": "https://ops.example.org/failed"}
    job = read(tmp_path, delivery={"mode": "webhook", "to": url, "failureDestination": failed})
    assert (job.fields["on_complete"], job.fields["on_fail"]) == (url, failed["to"])
    both = {"mode": "announce", "channel": "slack", "threadId": 7}
    destination = {"completionDestination": {"mode": "webhook", "to": url}}
    job = read(tmp_path, delivery=both | destination)
    assert job.fields["on_complete"] == url
    assert (job.kept["channel"], job.kept["threadId"]) == ("slack", "7")


def test_a_system_event_is_a_prompt_and_a_command_a_job_of_the_shell(tmp_path: Path) -> None:
    event = read(tmp_path, sessionTarget="main", payload={"kind": "systemEvent", "text": "Hello"})
    assert (event.fields["prompt"], event.fields["session"]) == ("Hello", "reuse")
    payload = {
        "kind": "command",
        "argv": ["backup", "--to", "my disk"],
        "cwd": "/srv/data",
        "env": {"LEVEL": "9", "API_TOKEN": "t0p"},
        "input": "yes",
        "timeoutSeconds": 60,
    }
    command = read(tmp_path, payload=payload)
    assert command.fields["prompt"] == (
        "export LEVEL=9\ncd /srv/data || exit 1\n{ backup --to 'my disk'\n} <<'END'\nyes\nEND"
    )
    assert (command.fields["agent"], command.fields["session"]) == ("shell", "new")
    assert command.disabled_reason == "imported without its secrets"
    assert "API_TOKEN" in command.notes[0]
    assert "t0p" not in repr(command)
    for name in ("npm-config", "A B;touch /tmp/x #", ""):
        with pytest.raises(InvalidInput, match="which no shell can export"):
            read(tmp_path, payload=payload | {"env": {name: "x"}})


def test_jobs_that_only_openclaw_can_run(tmp_path: Path) -> None:
    jobs = [
        JOB | {"id": "a", "schedule": {"kind": "on-exit", "command": "make"}},
        JOB | {"id": "b", "payload": {"kind": "heartbeat"}},
        JOB | {"id": "c", "trigger": {"script": "return {fire: true}"}},
    ]
    source = openclaw.read(files.openclaw(tmp_path, jobs=jobs, runs=[]))
    assert [(job.id, job.disabled_reason) for job in source.jobs] == [
        ("c", "imported without its trigger script")
    ]
    assert source.notes == (
        "left out a: a schedule 'on-exit' has no due times",
        "left out b: only OpenClaw runs a 'heartbeat'",
    )


def test_entries_of_the_history_that_are_no_runs_or_have_no_status(tmp_path: Path) -> None:
    started = {"ts": 1, "jobId": "7d1c", "action": "started"}
    first, second, _ = files.OPENCLAW_RUNS
    without = {name: value for name, value in second.items() if name != "status"}
    runs = [started, first | {"new": 1}, first, without]
    source = openclaw.read(files.openclaw(tmp_path, runs=runs))
    assert [(run.id, run.status) for run in source.runs] == [
        (str(first["ts"]), Status.SUCCEEDED),
        (str(second["ts"]), Status.UNKNOWN),
    ]


def test_values_that_daybook_does_not_know_change_nothing_and_are_kept(tmp_path: Path) -> None:
    known = read(tmp_path)
    job = read(
        tmp_path,
        timezone="Europe/Berlin",
        payload=JOB["payload"] | {"modelFallbacks": ["small"]},
        schedule=JOB["schedule"] | {"jitter": {"ms": 5}},
        delivery=JOB["delivery"] | {"mode": "pigeon", "style": "loud"},
        sessionTarget="moon",
        empty=[],
    )
    assert job.unknown == {
        "timezone": "Europe/Berlin",
        "payload.modelFallbacks": ["small"],
        "schedule.jitter": {"ms": 5},
        "delivery.mode": "pigeon",
        "delivery.style": "loud",
        "sessionTarget": "moon",
    }
    assert (job.fields, known.unknown) == (known.fields | {"session": "new"}, {})


def test_broken_and_future_files(tmp_path: Path) -> None:
    def jobs(**changes: Any) -> Callable[[Path], object]:
        return lambda folder: files.openclaw(folder, jobs=[JOB | changes])

    def half_a_run(folder: Path) -> None:
        files.openclaw(folder)
        history = folder / "runs" / "7d1c.jsonl"
        history.write_text(history.read_text()[:-30])

    def half_a_state(folder: Path) -> None:
        files.openclaw(folder)
        (folder / "jobs-state.json").write_text('{"version": 1, "jobs": {"7d1c"')

    def future_state(folder: Path) -> None:
        files.openclaw(folder)
        write_json(folder / "jobs-state.json", {"version": 2, "jobs": {}})

    cases: list[tuple[Callable[[Path], object], str]] = [
        (lambda folder: files.openclaw(folder, version=2), "has the version 2"),
        (half_a_run, r"runs/7d1c\.jsonl, line 3: is not complete JSON"),
        (half_a_state, r"jobs-state\.json: is not complete JSON"),
        (future_state, r"jobs-state\.json: has the version 2"),
        (jobs(payload={"kind": "dance"}), "payload: kind is 'dance'"),
        (jobs(schedule={"kind": "lunar"}), "schedule: kind is 'lunar'"),
        (jobs(schedule={"kind": "every", "everyMs": 1500}), "everyMs is 1.5 seconds"),
        (jobs(schedule={"kind": "every", "everyMs": "5m"}), "everyMs is a text and not an integer"),
        (jobs(schedule={"kind": "at"}), "schedule: at is missing"),
        (jobs(schedule={"kind": "at", "at": "soon"}), "at is 'soon' and not a time"),
        (jobs(payload={"kind": "command", "argv": "ls"}), "argv is not a list of texts"),
        (jobs(payload={"kind": "agentTurn", "message": " "}), "message is missing"),
        (jobs(id=""), "job 1: id is missing"),
    ]
    for number, ((write, problem), trying) in enumerate(rows.each(cases)):
        with trying:
            folder = tmp_path / str(number)
            folder.mkdir()
            write(folder)
            with pytest.raises(InvalidInput, match=problem):
                checked(openclaw.read(folder))


def test_a_database_without_the_table_or_with_half_a_job(tmp_path: Path) -> None:
    other = files.database(tmp_path / "other.sqlite", kv=[{"key": "a"}])
    with pytest.raises(InvalidInput, match="has no table cron_jobs"):
        openclaw.read(other)
    row = {"job_id": "7d1c", "job_json": json.dumps(JOB)[:-9], "state_json": "{}"}
    half = files.database(tmp_path / "half.sqlite", cron_jobs=[row])
    with pytest.raises(InvalidInput, match="cron_jobs, row 1, job_json: is not complete JSON"):
        openclaw.read(half)
