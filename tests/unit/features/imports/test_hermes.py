"""The reader of Hermes agent: its three forms of a file, and what Daybook has no field for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.features.imports import hermes
from daybook.features.imports.source import SourceJob
from tests import rows
from tests.unit.features.imports import files
from tests.unit.features.imports.files import checked, utc, write_json

JOB = files.HERMES


def read(folder: Path, **changes: Any) -> SourceJob:
    (job,) = checked(hermes.read(files.hermes(folder, JOB | changes))).jobs
    return job


def test_a_job(tmp_path: Path) -> None:
    source = hermes.read(files.hermes(tmp_path))
    (job,) = source.jobs
    assert (job.id, job.name) == ("a1b2c3d4e5f6", "Standup")
    assert job.fields == {
        "prompt": "Ask for the standup",
        "session": "new",
        "cron": "0 9 * * 1-5",
        "max_runs": 10,
        "enabled": True,
    }
    assert (job.run_count, job.last_run_at) == (3, utc("2026-03-09T08:00:12"))
    assert (job.notes, source.runs) == ((), ())
    assert "DAYBOOK_TIMEZONE" in source.notes[0]


def test_the_older_forms_of_the_file(tmp_path: Path) -> None:
    wanted = hermes.read(files.hermes(tmp_path))
    assert hermes.read(write_json(tmp_path / "jobs.json", [JOB])) == wanted
    without_id = {name: value for name, value in JOB.items() if name != "id"}
    by_id = {"jobs": {"a1b2c3d4e5f6": without_id}}
    assert hermes.read(write_json(tmp_path / "jobs.json", by_id)) == wanted
    assert hermes.read(write_json(tmp_path / "jobs.json", {"jobs": []})).jobs == ()


def test_schedules(tmp_path: Path) -> None:
    once = {"kind": "once", "run_at": "2027-01-15T14:30:00+01:00", "display": "once"}
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"schedule": once, "repeat": {"times": 1}}, {"at": "2027-01-15T13:30:00+00:00"}),
        (
            {"schedule": {"kind": "interval", "minutes": 90}, "repeat": None},
            {"every": "5400s"},
        ),
        # croniter reads the seconds at the end.
        ({"schedule": {"kind": "cron", "expr": "0 9 * * 1 30"}}, {"cron": "30 0 9 * * 1"}),
    ]
    for (changes, wanted), trying in rows.each(cases):
        with trying:
            fields = read(tmp_path, **changes).fields
            assert {k: v for k, v in fields.items() if k in ("at", "every", "cron")} == wanted
            assert ("max_runs" in fields) == ("cron" in wanted)
    interval = {"kind": "interval", "minutes": 90}
    assert read(tmp_path, schedule=interval).anchor == utc("2026-03-10T06:30:00")


def test_times_without_an_offset_are_in_the_default_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Hermes reads them in the zone of its machine; it has written the offset since they were naive.
    monkeypatch.setenv("DAYBOOK_TIMEZONE", "Asia/Tokyo")
    once = {"kind": "once", "run_at": "2027-01-15T14:30:00"}
    given = {"schedule": once, "created_at": "2026-03-01T08:00:00", "last_run_at": None}
    source = hermes.read(files.hermes(tmp_path, JOB | given))
    (job,) = source.jobs
    assert (job.fields["at"], job.created_at) == (
        *("2027-01-15T05:30:00+00:00", utc("2026-02-28T23:00:00")),
    )
    assert "without an offset" in source.notes[0]


def test_paused_and_completed_jobs(tmp_path: Path) -> None:
    paused = {"enabled": False, "state": "paused", "paused_reason": "too loud"}
    job = read(tmp_path, **paused)
    assert (job.fields["enabled"], job.disabled_reason) == (False, "paused in hermes: too loud")
    half_paused = read(tmp_path, paused_at="2026-03-01T08:00:00+01:00")
    assert (half_paused.fields["enabled"], half_paused.disabled_reason) == (
        *(False, "paused in hermes"),
    )
    assert not read(tmp_path, enabled=False, state="completed").fields["enabled"]


def test_a_script_without_an_agent_is_a_job_of_the_shell(tmp_path: Path) -> None:
    folder = tmp_path / "cron"
    folder.mkdir()
    scripts = tmp_path / "scripts"
    job = read(folder, no_agent=True, script="disk.sh", prompt="")
    assert job.fields["prompt"] == f"cd {scripts} || exit 1\nbash {scripts}/disk.sh"
    assert (job.fields["agent"], job.fields["timeout"]) == ("shell", "1h")
    python = read(folder, no_agent=True, script="sub/check it.py", workdir="/srv")
    assert python.fields["prompt"] == f"python3 '{scripts}/sub/check it.py'"
    assert python.fields["work_dir"] == "/srv"


def test_what_a_job_depended_on_is_kept_and_said(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"script": "collect.py"}, "its script is not imported", "imported without its script"),
        ({"monitor_url": "https://x.example.org"}, "its monitor_url", "without its monitor_url"),
        ({"skills": ["arxiv"]}, "skills of Hermes: arxiv", ""),
        ({"model": "opus", "provider": "anthropic"}, "it used the model opus", ""),
        ({"deliver": "telegram:42"}, "its answers go to no chat yet", ""),
        ({"context_from": ["other"]}, "{{output:JOB}}", ""),
        ({"enabled_toolsets": ["web"]}, "its list of tools", ""),
    ]
    for (changes, note, reason), trying in rows.each(cases):
        with trying:
            job = read(tmp_path, **changes)
            assert note in job.notes[0]
            assert job.disabled_reason.endswith(reason)
            assert bool(job.disabled_reason) == bool(reason)
            assert changes.items() <= job.kept.items()


def test_values_that_daybook_does_not_know_are_kept(tmp_path: Path) -> None:
    job = read(tmp_path, profile="finance", state="dreaming", repeat={"times": 2, "pause": 3})
    assert job.unknown == {"profile": "finance", "state": "dreaming", "repeat.pause": 3}
    assert (job.fields["max_runs"], job.disabled_reason) == (
        *(2, "its state in hermes was 'dreaming'"),
    )
    without_state = {name: value for name, value in JOB.items() if name != "state"}
    (job,) = hermes.read(files.hermes(tmp_path, without_state)).jobs
    assert (job.unknown, job.disabled_reason) == ({}, "")
    file = write_json(tmp_path / "jobs.json", {"jobs": [JOB], "mood": "good"})
    assert hermes.read(file).notes[0].endswith("which are lost: mood")


def test_broken_and_future_files(tmp_path: Path) -> None:
    cases: list[tuple[object, str]] = [
        ({"jobs": [JOB], "version": 2}, "has the version 2"),
        ([JOB | {"schedule": {"kind": "lunar"}}], "schedule: kind is 'lunar'"),
        ([JOB | {"schedule": "0 9 * * *"}], "schedule: is a text and not an object"),
        ([JOB | {"schedule": None}], "schedule is missing"),
        ([JOB | {"schedule": {"kind": "once"}}], "run_at is missing"),
        ([JOB | {"schedule": {"kind": "interval", "minutes": 0}}], "minutes is 0 seconds"),
        ([JOB | {"prompt": " "}], "prompt is missing"),
        ([JOB | {"no_agent": True}], "script is missing"),
        ([JOB | {"repeat": {"times": "often"}}], "repeat: times is a text and not an integer"),
        ([JOB, JOB], "has the same id as"),
        ("jobs", "is a text and not an object"),
        ({"jobs": "none"}, "is a text and not an array"),
    ]
    for (content, problem), trying in rows.each(cases):
        with trying, pytest.raises(InvalidInput, match=problem):
            checked(hermes.read(write_json(tmp_path / "jobs.json", content)))
