"""The readers: what they find in a file, and the files that they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.features.imports import anna, hermes, hotplex, omniagent, openclaw, picobot
from daybook.features.imports.readers import READERS
from daybook.features.imports.source import Source
from daybook.files.documents import MAX_DEPTH
from daybook.ledger.states import Status
from tests import rows
from tests.unit.features.imports import files
from tests.unit.features.imports.files import checked, database, emptied, utc, valid, write_json


@pytest.mark.floor("A", "jobs.json, an array of jobs")
def test_anna_reads_its_file_and_the_folder_of_it(tmp_path: Path) -> None:
    file = write_json(tmp_path / "jobs.json", [files.ANNA])
    (job,) = anna.read(file).jobs
    assert anna.read(tmp_path) == anna.read(file)
    assert (job.id, job.name) == ("a1b2c3d4", "Email check")
    assert job.fields == {
        "prompt": "Check my email",
        "session": "new",
        "every": "5400s",
        "description": "",
        "enabled": True,
    }
    assert job.anchor == utc("2026-03-01T00:00:00.123456")


@pytest.mark.floor("A", "The table scheduler_jobs")
def test_anna_reads_its_table_with_the_runs(tmp_path: Path) -> None:
    source = anna.read(valid("anna", tmp_path))
    (job,), (run,) = source.jobs, source.runs
    assert job.fields["cron"] == "0 9 * * 1-5"
    assert (job.fields["agent"], job.user_id, job.fields["description"]) == (
        *("default", "u-7", "The morning"),
    )
    assert (run.status, run.job_id) == (Status.SUCCEEDED, "e5f6")
    assert run.finished_at - run.started_at == timedelta(seconds=5)


@pytest.mark.floor("A", "Plugin messages with the prefix __anna_plugin_job__: are decoded")
def test_a_job_of_a_plugin_is_read_from_its_message_and_from_its_columns(tmp_path: Path) -> None:
    message = "__anna_plugin_job__:" + json.dumps(files.ENVELOPE)
    old = files.ANNA_ROW | {"message": message}
    new = files.ANNA_ROW | {
        "message": "",
        "owner_kind": "plugin",
        "plugin_id": "rss",
        "job_key": "poll",
        "runtime_name": "main",
        "payload": '{"feeds": [1, 2]}',
        "description": "Polls feeds",
    }
    for number, row in enumerate((old, new)):
        (job,) = anna.read(database(tmp_path / f"{number}.db", scheduler_jobs=[row])).jobs
        assert (job.name, job.owner) == ("rss: poll", "plugin")
        assert job.fields["tool"] == "rss"
        assert job.fields["description"] == "Polls feeds"
        assert job.fields["params"] == {
            name: files.ENVELOPE[name] for name in ("plugin_id", "key", "runtime_name", "payload")
        }


def test_jobs_of_anna_itself_are_left_out_with_a_note(tmp_path: Path) -> None:
    rows_ = [files.ANNA_ROW, files.ANNA_ROW | {"id": "s", "owner_kind": "system", "name": "RSS"}]
    source = anna.read(database(tmp_path / "anna.db", scheduler_jobs=rows_))
    assert [job.id for job in source.jobs] == ["e5f6"]
    assert source.notes == ("left out RSS: it is a job of anna's own",)


@pytest.mark.floor("B", "Jobs are JSON values under cron:job:<id>")
@pytest.mark.floor("B", "A duration is a text or integer nanoseconds, and empty is none")
def test_omniagent_reads_its_actions_and_schedules(tmp_path: Path) -> None:
    hook = {
        "type": "call_webhook",
        "webhook_url": "https://api.example.org/x",
        "webhook_method": "PUT",
        "webhook_headers": {"X-A": "b"},
        "webhook_body": "{}",
    }
    tool = {"type": "call_tool", "tool_name": "search", "tool_params": {"q": "x"}}
    jobs = {
        "m1": files.OMNIAGENT,
        "m2": files.OMNIAGENT | {"id": "m2", "action": hook, "schedule": {"cron": "@daily"}},
        "m3": files.OMNIAGENT
        | {"id": "m3", "action": tool, "status": "disabled"}
        | {"schedule": {"once": "2027-01-01T00:00:00.5Z", "interval": ""}},
        "m4": files.OMNIAGENT | {"id": "m4", "schedule": {"interval": 90_000_000_000}},
    }
    exported = write_json(
        tmp_path / "kv.json",
        {f"cron:job:{key}": json.dumps(job) for key, job in jobs.items()} | {"memory:1": "x"},
    )
    stored = database(
        tmp_path / "kv.db",
        kv=[
            {"key": f"cron:job:{key}", "value": json.dumps(job).encode(), "expires_at": None}
            for key, job in jobs.items()
        ],
    )
    source = omniagent.read(exported)
    assert [job.fields for job in omniagent.read(stored).jobs] == [j.fields for j in source.jobs]
    message, webhook, call, numbers = source.jobs
    assert message.fields | {"metadata": {}} == {
        "prompt": "Write the report",
        "session_key": "main",
        "every": "21600s",
        "description": "Weekly",
        "metadata": {},
        "enabled": True,
    }
    assert message.fields["metadata"] == {"team": "blue"}
    assert message.anchor == utc("2026-11-20T01:00:00")
    assert (message.run_count, message.last_error) == (4, "once")
    assert (webhook.fields["method"], webhook.fields["cron"]) == ("PUT", "@daily")
    assert (call.fields["tool"], call.fields["params"]) == ("search", {"q": "x"})
    assert (call.fields["at"], call.fields["enabled"]) == ("2027-01-01T00:00:00+00:00", False)
    assert numbers.fields["every"] == "90s"


@pytest.mark.floor("C", "jobs.json with its version, and runs.json")
def test_hotplex_reads_jobs_and_runs(tmp_path: Path) -> None:
    source = hotplex.read(files.hotplex(tmp_path))
    (job,) = source.jobs
    assert job.name == "review-the-code"
    assert job.fields == {
        "prompt": "Review the code",
        "cron": "0 8 * * 1",
        "session": "new",
        "class": "medium",
        "timeout": "20m",
        "retries": 2,
        "retry_delay": "5s",
        "output_format": "structured",
        "output_schema": {"type": "object"},
        "enabled": True,
        "silent": False,
        "events": ["completed", "cancelled"],
        "on_complete": "https://ops.example.org/done",
    }
    assert [(run.status, run.attempts) for run in source.runs] == [
        (Status.SUCCEEDED, 2),
        (Status.FAILED, 3),
        (Status.UNKNOWN, 4),
    ]


def test_runs_of_jobs_that_the_file_does_not_have_are_counted(tmp_path: Path) -> None:
    source = hotplex.read(files.hotplex(tmp_path, jobs=[]))
    assert (source.jobs, source.runs) == ((), ())
    assert source.notes == ("left out 3 runs of jobs that are not in the file",)


@pytest.mark.floor("E", "The tables scheduled_jobs and job_runs")
@pytest.mark.floor("E", "every_ms is an interval in milliseconds")
def test_picobot_reads_the_tables_of_its_plan(tmp_path: Path) -> None:
    path = database(
        tmp_path / "pico.db", scheduled_jobs=[files.PLAN_JOB], job_runs=[files.PLAN_RUN]
    )
    source = picobot.read(path)
    (job,), (run,) = source.jobs, source.runs
    assert (job.id, job.fields["every"], job.fields["model"]) == ("7", "1800s", "some-model")
    assert (job.kept["channel"], job.kept["chat_id"]) == ("telegram", "42")
    assert job.notes == ("its answers go to no chat yet: set --channel and --chat-id",)
    assert (run.job_id, run.output) == ("7", "Tea")


def test_picobot_reads_the_tables_of_its_code(tmp_path: Path) -> None:
    source = picobot.read(valid("picobot", tmp_path))
    (job,), (run,) = source.jobs, source.runs
    assert (job.fields["cron"], job.fields["timezone"]) == ("30 9 * * 1-5", "Europe/Berlin")
    assert (job.fields["max_runs"], job.run_count, job.consecutive_failures) == (5, 2, 1)
    assert job.kept["creator"] == {"principal_type": "user", "id": "u-1"}
    assert (run.status, run.error) == (Status.TIMED_OUT, "no answer")


def test_picobot_counts_weekdays_from_one_and_has_schedules_that_daybook_has_not(
    tmp_path: Path,
) -> None:
    cases = (
        ("0 30 9 * * MON-FRI", "30 9 * * MON-FRI", ""),
        ("0 0 9 * * 1,7", "0 9 * * 0,6", ""),
        ("15 0 9 * * 1-7/2", "15 0 9 * * 0-6/2", ""),
        (
            "0 0 9 1 * 2",
            "0 9 1 * 1",
            "imported: due only if both day of the month and weekday match",
        ),
        ("0 0 9 1 1 * 2030", "0 9 1 1 *", "imported: due only in the year 2030"),
    )
    for (expr, wanted, reason), trying in rows.each(cases):
        with trying:
            file = tmp_path / f"{cases.index((expr, wanted, reason))}.db"
            row = files.SCHEDULE | {"schedule_expr": expr}
            (job,) = picobot.read(database(file, schedules=[row])).jobs
            assert (job.fields["cron"], job.disabled_reason) == (wanted, reason)


def test_empty_files_are_valid(tmp_path: Path) -> None:
    write_json(tmp_path / "jobs.json", [])
    assert anna.read(tmp_path).jobs == ()
    assert omniagent.read(write_json(tmp_path / "kv.json", {})).jobs == ()
    assert hotplex.read(write_json(tmp_path / "c.json", {"version": 1, "jobs": None})).jobs == ()
    for name, table in (("anna", "scheduler_jobs"), ("picobot", "schedules")):
        path = emptied(valid(name, tmp_path), table)  # type: ignore[arg-type]
        assert READERS[name](path).jobs == ()  # type: ignore[index]


@pytest.mark.parametrize("system", list(READERS))
def test_a_file_that_ends_in_the_middle_is_refused(system: Any, tmp_path: Path) -> None:
    path = valid(system, tmp_path)
    file = path / "jobs.json" if path.is_dir() else path
    content = file.read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 3):
        file.write_bytes(content[:length])
        if system == "crontab" and length == len(content) - 3:  # its last command is only shorter
            assert READERS[system](path).jobs[-1].disabled_reason
            continue
        with pytest.raises(InvalidInput) as refused:
            checked(READERS[system](path))
        assert refused.value.field == "path"
        assert "nothing was imported" in str(refused.value)


def test_a_file_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    def anna_file(where: Path, deep: str) -> Source:
        return anna.read(written(where, f'[{{"id": {deep}}}]'))

    def anna_message(where: Path, deep: str) -> Source:
        row = files.ANNA_ROW | {"message": f"{anna.PLUGIN_PREFIX}{deep}"}
        return anna.read(database(where / "a.db", scheduler_jobs=[row]))

    def anna_payload(where: Path, deep: str) -> Source:
        row = files.ANNA_ROW | {"owner_kind": "plugin", "payload": deep}
        return anna.read(database(where / "a.db", scheduler_jobs=[row]))

    def omniagent_value(where: Path, deep: str) -> Source:
        return omniagent.read(database(where / "kv.db", kv=[{"key": "cron:job:a", "value": deep}]))

    def hotplex_file(where: Path, deep: str) -> Source:
        return hotplex.read(written(where, f'{{"version": 1, "jobs": {deep}}}'))

    def hermes_file(where: Path, deep: str) -> Source:
        return hermes.read(written(where, deep))

    def openclaw_row(where: Path, deep: str) -> Source:
        row = {"job_json": deep, "state_json": "{}", "enabled": 1}
        return openclaw.read(database(where / "o.sqlite", cron_jobs=[row]))

    def openclaw_run(where: Path, deep: str) -> Source:
        written(where, json.dumps({"version": 1, "jobs": []}))
        (where / "runs").mkdir(exist_ok=True)
        (where / "runs" / "a.jsonl").write_text(deep)
        return openclaw.read(where)

    def picobot_column(where: Path, deep: str) -> Source:
        row = files.SCHEDULE | {"metadata_json": deep}
        return picobot.read(database(where / "p.db", schedules=[row]))

    def written(where: Path, text: str) -> Path:
        (where / "jobs.json").write_text(text)
        return where / "jobs.json"

    readers: list[Callable[[Path, str], Source]] = [
        *(anna_file, anna_message, anna_payload, omniagent_value, hotplex_file, hermes_file),
        *(openclaw_row, openclaw_run, picobot_column),
    ]
    for depth in (MAX_DEPTH + 1, 100_000):
        deep = '{"a":[' * (depth // 2 + 1) + "]}" * (depth // 2 + 1)
        for read, trying in rows.each(readers):
            with trying:
                where = tmp_path / f"{read.__name__}-{depth}"
                where.mkdir()
                with pytest.raises(InvalidInput, match="nested too deeply") as refused:
                    checked(read(where, deep))
                assert len(str(refused.value)) < 500


def test_an_output_schema_that_is_nested_too_deeply_is_none(tmp_path: Path) -> None:
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    job = files.HOTPLEX | {"output_schema": deep}
    (read,) = hotplex.read(files.hotplex(tmp_path, jobs=[job])).jobs
    assert read.fields["output_format"] == "json"


def test_a_history_that_ends_in_the_middle_refuses_the_jobs_too(tmp_path: Path) -> None:
    folder = files.hotplex(tmp_path)
    history = (folder / "runs.json").read_text()
    (folder / "runs.json").write_text(history[: len(history) // 2])
    with pytest.raises(InvalidInput, match=r"runs\.json: is not complete JSON"):
        hotplex.read(folder)


def test_a_damaged_page_of_a_database_is_refused(tmp_path: Path) -> None:
    path = valid("picobot", tmp_path)
    content = bytearray(path.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="is damaged"):
        picobot.read(path)


@pytest.mark.floor("C", "A file of a future version is refused")
def test_files_of_a_future_version_are_refused(tmp_path: Path) -> None:
    def anna_object(where: Path) -> Source:
        return anna.read(write_json(where / "jobs.json", {"version": 2, "jobs": []}))

    def omniagent_version(where: Path) -> Source:
        return omniagent.read(write_json(where / "kv.json", {"version": 2}))

    def omniagent_action(where: Path) -> Source:
        job = files.OMNIAGENT | {"action": {"type": "dance"}}
        return omniagent.read(write_json(where / "kv.json", {"cron:job:m1": job}))

    def hotplex_version(where: Path) -> Source:
        return hotplex.read(files.hotplex(where, version=2))

    def picobot_version(where: Path) -> Source:
        return picobot.read(database(where / "p.db", version=2, schedules=[files.SCHEDULE]))

    readers: list[tuple[Callable[[Path], Source], str]] = [
        (anna_object, "is an object and not an array .*update Daybook"),
        (omniagent_version, "has a version, .*update Daybook"),
        (omniagent_action, "type is 'dance'"),
        (hotplex_version, "has the version 2, .*update Daybook"),
        (picobot_version, "has the version 2, .*update Daybook"),
    ]
    for (read, problem), trying in rows.each(readers):
        with trying:
            where = tmp_path / read.__name__
            where.mkdir()
            with pytest.raises(InvalidInput, match=problem):
                checked(read(where))


def test_values_that_daybook_does_not_know_are_kept_or_in_a_note(tmp_path: Path) -> None:
    def anna_file(where: Path) -> Source:
        job = files.ANNA | {"mood": "good", "session_mode": "old", "empty": ""}
        job["schedule"] = {"every": "1h", "jitter": "5s"}
        return anna.read(write_json(where / "jobs.json", [job]))

    def anna_message(where: Path) -> Source:
        message = anna.PLUGIN_PREFIX + json.dumps(files.ENVELOPE | {"mood": "good"})
        return anna.read(write_json(where / "jobs.json", [files.ANNA | {"message": message}]))

    def anna_table(where: Path) -> Source:
        job = files.ANNA_ROW | {"mood": "good"}
        run = files.ANNA_RUN | {"mood": "bad", "status": "dreaming"}
        file = database(where / "a.db", scheduler_jobs=[job], scheduler_job_runs=[run])
        return anna.read(file)

    def omniagent_store(where: Path) -> Source:
        action = files.OMNIAGENT["action"] | {"mood": "good"}
        job = files.OMNIAGENT | {"action": action, "status": "asleep"}
        return omniagent.read(write_json(where / "kv.json", {"cron:job:m1": job}))

    def hotplex_files(where: Path) -> Source:
        changes = {"type": "huge", "output_format": "song", "notify_on": ["failed", "late"]}
        job = files.HOTPLEX | changes | {"on_complete": "", "on_fail": ""}
        folder = files.hotplex(where, jobs=[job])
        content = json.loads((folder / "jobs.json").read_text())
        write_json(folder / "jobs.json", content | {"mood": "good"})
        return hotplex.read(folder)

    def picobot_table(where: Path) -> Source:
        job = files.SCHEDULE | {"mood": "good"}
        run = files.EXECUTION | {"status": "dreaming"}
        path = database(where / "p.db", schedules=[job], schedule_executions=[run])
        return picobot.read(path)

    lost = "values that Daybook does not know, which are lost"
    cases: list[tuple[Callable[[Path], Source], dict[str, Any], list[str]]] = [
        (anna_file, {"mood": "good", "session_mode": "old", "schedule.jitter": "5s"}, []),
        (anna_message, {"message.mood": "good"}, []),
        (anna_table, {"mood": "good"}, [f"the history has {lost}: mood, status"]),
        (omniagent_store, {"action.mood": "good", "status": "asleep"}, []),
        (
            hotplex_files,
            {"type": "huge", "output_format": "song", "notify_on": ["late"]},
            [f"jobs.json has {lost}: mood"],
        ),
        (picobot_table, {"mood": "good"}, [f"the history has {lost}: status"]),
    ]
    for (read, unknown, notes), trying in rows.each(cases):
        with trying:
            where = tmp_path / read.__name__
            where.mkdir()
            source = checked(read(where))
            (job,) = source.jobs
            assert job.unknown == unknown
            assert list(source.notes) == notes
            if read is omniagent_store:
                assert job.disabled_reason == "its status in omniagent was 'asleep'"
            if any("status" in note for note in notes):
                assert [run.status for run in source.runs] == [Status.UNKNOWN]


def test_a_callback_that_hotplex_never_calls_is_left_out(tmp_path: Path) -> None:
    urls = {"on_complete": "https://x.example.org/a", "on_fail": "https://x.example.org/b"}
    cases: list[tuple[list[str] | None, list[str]]] = [
        (["failed"], ["on_fail"]),
        (["canceled", "canceled"], ["on_fail"]),
        (["completed"], ["on_complete"]),
        (None, ["on_complete", "on_fail"]),
    ]
    for (notify_on, called), trying in rows.each(cases):
        with trying:
            job = files.HOTPLEX | urls | {"notify_on": notify_on}
            (found,) = checked(hotplex.read(files.hotplex(tmp_path, jobs=[job]))).jobs
            assert [name for name in urls if name in found.fields] == called
            left = urls.keys() - called
            assert {name: urls[name] for name in left}.items() <= found.kept.items()
            assert bool(left) == any("notify_on never calls" in note for note in found.notes)


def test_values_that_cannot_be_right_are_refused_with_their_place(tmp_path: Path) -> None:
    broken: list[tuple[dict[str, Any], str]] = [
        ({"schedule": {"every": "5"}}, "every is '5' and not a duration"),
        ({"schedule": {"every": "500ms"}}, "every is 0.5 seconds"),
        ({"schedule": {}}, "has 0 of cron, every and at"),
        ({"schedule": {"every": "5m", "cron": "* * * * *"}}, "has 2 of cron, every and at"),
        ({"schedule": {"at": "tomorrow"}}, "at is 'tomorrow' and not a time"),
        ({"schedule": None}, "schedule is missing"),
        ({"message": " "}, "message is missing"),
        ({"enabled": "yes"}, "enabled is 'yes' and not true or false"),
        ({"enabled": None}, "enabled is missing"),
        ({"id": 3}, "id is a number and not a text"),
        ({"message": '__anna_plugin_job__:{"plugin'}, "message: is not complete JSON"),
    ]
    for (change, problem), trying in rows.each(broken):
        with trying:
            jobs = [files.ANNA, files.ANNA | {"id": "b"} | change]
            with pytest.raises(InvalidInput) as refused:
                checked(anna.read(write_json(tmp_path / "jobs.json", jobs)))
            assert problem in refused.value.problem
            assert "jobs.json, job 2" in refused.value.problem


def test_two_jobs_with_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has the same id as"):
        anna.read(write_json(tmp_path / "jobs.json", [files.ANNA, files.ANNA]))


def test_a_zone_and_an_interval_in_a_cron_expression_of_go(tmp_path: Path) -> None:
    cases = {
        "CRON_TZ=Asia/Tokyo 0 6 * * *": {"timezone": "Asia/Tokyo", "cron": "0 6 * * *"},
        "@every 1h": {"every": "3600s"},
    }
    for expr, wanted in cases.items():
        job = files.HOTPLEX | {"cron_expr": expr}
        (found,) = hotplex.read(files.hotplex(tmp_path, jobs=[job])).jobs
        assert {k: found.fields[k] for k in wanted} == wanted
        assert ("cron" in found.fields) == ("cron" in wanted)
