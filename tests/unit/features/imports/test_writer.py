"""The writer: one transaction, recognised source ids, conflicts, and due times of the past."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.features.imports import crontab, omniagent, shell, systemd, writer
from daybook.features.imports.readers import READERS
from daybook.features.imports.source import Source, SourceJob, System
from daybook.features.imports.writer import ImportReport, OnConflict
from daybook.jobs import prompts, store
from daybook.jobs.model import edit, new_job
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Status
from daybook.runs import audit, outcomes
from daybook.runs.claim_requests import Granted
from daybook.schedules.due import next_due
from daybook.schedules.schedule import At
from tests.unit.features.imports import files
from tests.unit.features.imports.files import valid, write_json
from tests.unit.features.imports.killed import COMMIT, killed
from tests.world import World

pytestmark = pytest.mark.anyio

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
TODAY = datetime(2026, 11, 25, 12, tzinfo=UTC)
SYSTEMS: list[System] = list(READERS)


@pytest.fixture(autouse=True)
def today(world: World) -> None:
    """Move the clock to a day after all times in the files."""
    world.clock.move(TODAY - world.clock.now())


async def write(
    world: World, source: Source, on_conflict: OnConflict = "skip", **options: Any
) -> ImportReport:
    async with world.ledger.write() as session:
        return await writer.write(
            session,
            source,
            world.ledger.now(),
            default_timezone="Europe/Berlin",
            on_conflict=on_conflict,
            **options,
        )


async def jobs(world: World) -> list[StoredJob]:
    async with world.ledger.read() as session:
        return await store.all_jobs(session)


def of_omniagent(tmp_path: Path, *changes: dict[str, Any]) -> Source:
    """Return a source with one job for each of the changes of a valid one."""
    made = {
        f"cron:job:{number}": files.OMNIAGENT | {"id": str(number)} | change
        for number, change in enumerate(changes)
    }
    return omniagent.read(write_json(tmp_path / "kv.json", made))


def webhook(**fields: Any) -> dict[str, Any]:
    return {"action": {"type": "call_webhook", "webhook_url": "https://x.example.org", **fields}}


@pytest.mark.parametrize("system", SYSTEMS)
async def test_a_repeated_import_adds_nothing(world: World, system: System, tmp_path: Path) -> None:
    source = READERS[system](valid(system, tmp_path))
    first = await write(world, source)
    assert [job.result for job in first.jobs] == ["added"]
    assert first.runs == len(source.runs)
    (stored,), runs = await jobs(world), await world.runs.rows()

    again = await write(world, source, "replace")

    assert [job.result for job in again.jobs] == ["unchanged"]
    assert again.runs == 0
    (same,) = await jobs(world)
    assert (same.id, same.row.updated_at) == (stored.id, stored.row.updated_at)
    assert [row.id for row in await world.runs.rows()] == [row.id for row in runs]
    assert stored.job.metadata["imported_from"]["system"] == system
    assert stored.job.metadata["imported_from"]["id"] == source.jobs[0].id
    created = source.jobs[0].created_at
    assert stored.job.metadata["imported_from"].get("created_at") == (
        created and created.isoformat()
    )


async def test_a_changed_job_keeps_the_change_and_gets_new_runs(
    world: World, tmp_path: Path
) -> None:
    read = READERS["hotplex"]
    await write(world, read(files.hotplex(tmp_path, runs=files.HOTPLEX_RUNS[:1])))
    (stored,) = await jobs(world)
    await world.jobs.edit(stored.id, prompt="Mine")

    report = await write(world, read(files.hotplex(tmp_path)))

    assert report.runs == 2
    (stored,) = await jobs(world)
    assert getattr(stored.job.action, "prompt", "") == "Mine"
    assert len(await world.runs.rows()) == 3


async def test_the_history_becomes_finished_runs(world: World, tmp_path: Path) -> None:
    long = files.HOTPLEX_RUNS[0] | {"response": "x" * 9000}
    source = READERS["hotplex"](files.hotplex(tmp_path, runs=[long, *files.HOTPLEX_RUNS[1:]]))
    await write(world, source)
    rows = await world.runs.rows()
    assert [(row.trigger, row.status) for row in rows] == [
        ("imported", Status.SUCCEEDED),
        ("imported", Status.FAILED),
        ("imported", Status.UNKNOWN),
    ]
    (stored,) = await jobs(world)
    for row in rows:
        assert (row.job_id, row.unmirrored, row.flow_run_id) == (stored.id, False, None)
        assert row.finished_at is not None
    assert [row.reason for row in rows] == ["", "", writer.UNKNOWN_REASON]
    assert rows[0].output is not None
    assert rows[0].output.startswith("x" * outcomes.MAX_OUTPUT_CHARACTERS + "\n… (1,000 more")
    assert (stored.row.last_run_id, stored.row.last_status) == (rows[2].id, "unknown")
    assert stored.row.run_count == 2


async def test_no_due_time_in_the_past_is_ever_due(world: World, tmp_path: Path) -> None:
    once = {"schedule": {"once": "2026-11-25T11:59:59Z"}, "name": "once"}
    source = of_omniagent(
        tmp_path, {"name": "interval"}, {"schedule": {"cron": "0 * * * *"}, "name": "cron"}, once
    )
    await write(world, source)
    world.clock.move(timedelta(minutes=5))

    for stored in await jobs(world):
        await audit.advance(world.ledger, stored.id, world.clock.now())
        due = next_due(stored.job.schedule, TODAY - 2 * HOUR)
        assert due is not None
        past = min(due, TODAY)
        claim = await world.runs.claim(world.runs.claim_request(stored, due=past))
        assert not isinstance(claim, Granted)
    assert await world.runs.rows() == []
    by_name = {stored.row.name: stored for stored in await jobs(world)}
    assert not by_name["once"].job.enabled
    assert by_name["once"].row.disabled_reason == store.PASSED_REASON
    # The interval keeps the phase of the source: every six hours, one of them at 07:00.
    assert next_due(by_name["interval"].job.schedule, TODAY) == TODAY + HOUR


async def test_a_future_time_fires_once_at_its_time(world: World, tmp_path: Path) -> None:
    await write(world, of_omniagent(tmp_path, {"schedule": {"once": "2026-11-25T14:00:00.9Z"}}))
    (stored,) = await jobs(world)
    assert stored.job.enabled
    granted = await world.runs.finished(stored, Status.SUCCEEDED)
    assert (await world.runs.row(granted.run_id)).due == TODAY + 2 * HOUR


async def test_names_that_are_taken(world: World, tmp_path: Path) -> None:
    other = await world.jobs.add("Report")
    source = of_omniagent(tmp_path, {}, {})

    skipped = await write(world, source, "skip")
    assert [job.result for job in skipped.jobs] == ["skipped", "skipped"]
    assert [stored.id for stored in await jobs(world)] == [other.id]

    renamed = await write(world, source, "rename")
    assert [job.name for job in renamed.jobs] == ["Report-2", "Report-3"]

    new = of_omniagent(tmp_path, {}, {}, {"id": "2"}, {"id": "3"})
    replaced = await write(world, new, "replace")
    assert [(job.name, job.result) for job in replaced.jobs] == [
        ("Report-2", "unchanged"),
        ("Report-3", "unchanged"),
        ("Report", "replaced"),
        ("Report-4", "added"),
    ]
    async with world.ledger.read() as session:
        archived = await store.get(session, other.id)
    assert archived is not None
    assert archived.row.archived_at is not None


async def test_a_removed_job_is_not_imported_again(world: World, tmp_path: Path) -> None:
    source = of_omniagent(tmp_path, {})
    await write(world, source)
    await world.jobs.archive("Report")
    report = await write(world, source)
    assert report.jobs[0].notes == ["it was imported before, and removed since"]
    assert await jobs(world) == []


async def test_a_dry_run_writes_nothing(world: World, tmp_path: Path) -> None:
    source = READERS["hotplex"](files.hotplex(tmp_path))
    report = await write(world, source, dry_run=True)
    assert (report.dry_run, report.runs, report.jobs[0].result) == (True, 3, "added")
    assert await jobs(world) == []
    assert await world.runs.rows() == []
    assert (await write(world, source)).jobs[0].name == report.jobs[0].name


async def test_one_invalid_job_refuses_all(world: World, tmp_path: Path) -> None:
    source = of_omniagent(tmp_path, {"name": "good"}, {"schedule": {"cron": "61 * * * *"}})
    with pytest.raises(InvalidInput) as refused:
        await write(world, source)
    assert refused.value.field == "path"
    assert refused.value.problem.startswith("kv.json, cron:job:1: cron: ")
    assert await jobs(world) == []


async def test_all_jobs_that_cannot_be_imported_are_named_at_once_and_can_be_left_out(
    world: World, tmp_path: Path
) -> None:
    source = of_omniagent(
        tmp_path,
        {"name": "good"},
        {"name": "no minute", "schedule": {"cron": "61 * * * *"}},
        {"name": "a dance", "action": {"type": "dance"}},
    )
    with pytest.raises(InvalidInput) as refused:
        await write(world, source)
    lines = refused.value.problem.splitlines()
    assert lines[0] == "2 jobs cannot be imported, so nothing was imported"
    assert sorted(line.partition(":job:")[2][0] for line in lines[1:]) == ["1", "2"]
    assert "--leave-out 1" in refused.value.hint
    assert "--leave-out 2" in refused.value.hint
    with pytest.raises(InvalidInput, match="--leave-out 1"):
        await write(world, source, leave_out=["a dance"])
    with pytest.raises(InvalidInput, match=r'leave_out: unknown "no minutes" \(did you mean'):
        await write(world, source, leave_out=["no minutes"])
    assert await jobs(world) == []

    report = await write(world, source, leave_out=["a dance", "1"])

    assert [job.name for job in report.jobs] == ["good"]
    assert set(report.notes) == {
        "left out no minute, as requested",
        "left out a dance, as requested",
    }


async def test_jobs_can_be_imported_as_disabled(world: World, tmp_path: Path) -> None:
    source = of_omniagent(tmp_path, {"name": "a"}, {"name": "b", "status": "disabled"})
    report = await write(world, source, disabled=True)
    assert [job.enabled for job in report.jobs] == [False, False]
    reasons = {each.row.name: each.row.disabled_reason for each in await jobs(world)}
    assert reasons == {"a": "imported as disabled", "b": "disabled in omniagent"}


async def test_a_job_with_an_unknown_value_of_its_schedule_is_disabled(
    world: World, tmp_path: Path
) -> None:
    """Without its zone, a job would be enabled at another hour than in the other system."""
    names = ("tz", "timeZone", "timezne", "tzName", "cronTz", "startsAt", "interval")
    others = ("profile", "attempts", "archivedAt", "format")
    jobs_ = [{"name": name, name: "x"} for name in names + others]
    report = await write(world, of_omniagent(tmp_path, *jobs_))
    reasons = {each.row.name: each.row.disabled_reason for each in await jobs(world)}
    notes = {job.name: job.notes for job in report.jobs}

    assert reasons == {
        name: f"Daybook does not know {name} = 'x', which may change its due times"
        for name in names
    } | dict.fromkeys(others, "")
    assert {job.name: job.enabled for job in report.jobs} == {
        name: not reason for name, reason in reasons.items()
    }
    assert any(note.startswith(f"it is disabled: {reasons['tz']}") for note in notes["tz"])


async def test_the_reason_does_not_quote_a_secret(world: World, tmp_path: Path) -> None:
    schedule = files.OMNIAGENT["schedule"] | {"api_key": "sk-0123456789abcdef"}
    await write(world, of_omniagent(tmp_path, {"schedule": schedule}))
    (stored,) = await jobs(world)
    assert "schedule.api_key, which may change" in stored.row.disabled_reason


async def test_unknown_values_are_kept_unless_they_are_secrets_or_too_large(
    world: World, tmp_path: Path
) -> None:
    unknown = {"profile": {"name": "finance"}, "auth": {"api_key": "k3y"}, "big": "x" * 9_000}
    report = await write(world, of_omniagent(tmp_path, unknown | {"metadata": {"x": "y" * 4_000}}))
    (stored,) = await jobs(world)
    assert stored.job.enabled
    assert stored.job.metadata["imported_from"]["unknown"] == {"profile": {"name": "finance"}}
    known, kept = report.jobs[0].notes
    assert known.endswith("so they have no effect: profile, auth, big")
    assert kept.endswith(": auth, big")
    assert "k3y" not in repr(report)


async def test_unknown_values_that_no_database_or_prefect_stores_are_only_named(
    world: World, tmp_path: Path
) -> None:
    deep: Any = 1
    for _ in range(98):
        deep = [deep]
    unknown = {"__prefect_kind": "x", "nul": "\0", "deep": deep, "fine": 1}
    unknown |= {f"field {number}": "y" * 40 for number in range(300)}
    report = await write(world, of_omniagent(tmp_path, unknown))
    (stored,) = await jobs(world)
    kept = stored.job.metadata["imported_from"]["unknown"]
    assert (kept["fine"], kept.keys() & {"__prefect_kind", "nul", "deep"}) == (1, set())
    assert 50 < len(kept) < 200
    known, lost = report.jobs[0].notes
    assert known.endswith("and 284 more")
    assert "__prefect_kind, nul, deep, field" in lost
    assert len(known) + len(lost) < 1_000


async def test_a_work_dir_that_no_run_could_use_is_left_out_and_the_job_disabled(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_ALLOWED_WORK_DIRS", str(tmp_path))
    folders = [str(tmp_path), "/etc", str(tmp_path / "none")]
    given = [files.HOTPLEX | {"id": str(n), "work_dir": each} for n, each in enumerate(folders)]
    report = await write(world, READERS["hotplex"](files.hotplex(tmp_path, jobs=given)))
    stored = {each.job.metadata["imported_from"]["id"]: each for each in await jobs(world)}
    assert [stored[id_].job.policy.work_dir for id_ in "012"] == [str(tmp_path), "", ""]
    assert [stored[id_].row.disabled_reason for id_ in "12"] == [writer.WORK_DIR_REASON] * 2
    assert [stored[id_].job.metadata["imported_from"].get("work_dir") for id_ in "012"] == [
        *(None, *folders[1:]),
    ]
    assert "/etc is outside the allowed folders" in " ".join(report.jobs[1].notes)
    assert [job.enabled for job in report.jobs] == [stored["0"].job.enabled, False, False]


async def test_a_job_without_its_work_dir_stays_disabled_if_it_gets_more_runs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_ALLOWED_WORK_DIRS", "/srv")
    fields = {"prompt": "x", "cron": "0 9 * * *", "work_dir": "/etc", "max_runs": 2}
    source = SourceJob("1", "tidy", "job 1", {**fields, "enabled": True}, run_count=2)
    await write(world, Source.of("hermes", [source]))
    (stored,) = await jobs(world)
    assert stored.row.disabled_reason == writer.WORK_DIR_REASON
    more = edit(stored.job, {"max_runs": 3}, now=world.ledger.now())
    assert not store.enable_again(stored, more).enabled


async def test_literal_secrets_are_left_out_and_the_job_is_disabled(
    world: World, tmp_path: Path
) -> None:
    headers = {"Authorization": "Bearer abcdefgh12345678", "X-Team": "blue"}
    tool = {"type": "call_tool", "tool_name": "t", "tool_params": {"api_key": "k3y", "q": "x"}}
    source = of_omniagent(tmp_path, webhook(webhook_headers=headers), {"action": tool})
    report = await write(world, source)
    first, second = await jobs(world)
    assert getattr(first.job.action, "headers", None) == {"X-Team": "blue"}
    assert getattr(second.job.action, "params", None) == {"q": "x"}
    for stored in (first, second):
        assert not stored.job.enabled
        assert stored.row.disabled_reason == shell.SECRET_REASON
    assert "headers.Authorization" in report.jobs[0].notes[0]


async def test_a_secret_in_a_command_is_named_without_its_value(world: World) -> None:
    read = crontab.read_text("crontab", b"@daily dump --password=hunter2\n")
    (job,) = (await write(world, read)).jobs
    (note,) = job.notes
    assert "a secret (--password), which each reader of the job can see" in note
    assert "hunter2" not in note
    assert "--env NAME" in note


async def test_a_job_that_was_disabled_stays_disabled(world: World, tmp_path: Path) -> None:
    await write(world, of_omniagent(tmp_path, {"status": "disabled"}))
    (stored,) = await jobs(world)
    assert not stored.job.enabled
    assert stored.row.disabled_reason == "disabled in omniagent"


async def test_a_prompt_is_stored_as_it_was(world: World, tmp_path: Path) -> None:
    text = "Hello {{ name }}"
    action = {"type": "send_message", "session_id": "s", "message": text}
    report = await write(world, of_omniagent(tmp_path, {"action": action}))
    (stored,) = await jobs(world)
    assert getattr(stored.job.action, "prompt", "") == text
    assert "it is sent as it is" in report.jobs[0].notes[0]


async def test_a_command_with_a_variable_of_a_prompt_is_refused(world: World) -> None:
    for command, variable in (("echo '{{job}}'", "{{job}}"), ("a {{payload.b}}", "{{payload.b}}")):
        source = crontab.read_text("crontab", f"@daily {command}\n".encode())
        with pytest.raises(InvalidInput, match="a variable of Daybook's prompts") as refused:
            await write(world, source)
        assert f"line 1: its command has {variable}," in str(refused.value)
    source = crontab.read_text("crontab", b"@daily docker ps --format '{{.ID}} {''{job}}'\n")
    await write(world, source)
    (stored,) = await jobs(world)
    assert prompts.render(prompt := stored.job.action.subject(), {"job": "x"}) == prompt


async def test_a_timer_that_is_due_once_is_due_in_its_zone(world: World, tmp_path: Path) -> None:
    times = {
        "past": "2026-11-25 12:59:59",  # noon in UTC is 13:00 in Berlin
        "later": "2026-11-25 13:00:01",
        "utc": "2026-11-25 13:00:00 UTC",
    }
    for name, time in times.items():
        files.systemd(tmp_path, timer=f"[Timer]\nOnCalendar={time}\n", name=name)
    await write(world, systemd.read(tmp_path))
    found = {each.job.name: (each.job.schedule, each.job.enabled) for each in await jobs(world)}
    assert found == {
        "past": (At(at=TODAY - SECOND, timezone="Europe/Berlin"), False),
        "later": (At(at=TODAY + SECOND, timezone="Europe/Berlin"), True),
        "utc": (At(at=TODAY + HOUR, timezone="UTC"), True),
    }


async def test_a_name_that_daybook_does_not_accept_is_changed(world: World, tmp_path: Path) -> None:
    report = await write(
        world, of_omniagent(tmp_path, {"name": "a\nb"}, {"name": "x" * 200}, {"name": "\u202e"})
    )
    assert [job.name for job in report.jobs] == ["a b", "x" * 100, "job"]
    assert all("its name was" in job.notes[0] for job in report.jobs)


async def test_a_job_that_had_all_its_runs_is_disabled(world: World, tmp_path: Path) -> None:
    row = files.SCHEDULE | {"execution_count": 5}
    path = files.database(tmp_path / "p.db", schedules=[row])
    await write(world, READERS["picobot"](path))
    (stored,) = await jobs(world)
    assert not stored.job.enabled
    assert stored.row.disabled_reason.startswith(store.MAX_RUNS_REASON)


@pytest.mark.parametrize("at", ["INSERT INTO runs", COMMIT])
@pytest.mark.floor("A", "The migration is one transaction")
async def test_a_killed_import_leaves_nothing_and_can_be_repeated(
    world: World, at: str, tmp_path: Path
) -> None:
    path = files.hotplex(tmp_path)
    code = killed(world.ledger.address, world.clock, "hotplex", path, at)
    assert code == -signal.SIGKILL
    assert await jobs(world) == []
    assert await world.runs.rows() == []

    report = await write(world, READERS["hotplex"](path))
    assert (len(report.jobs), report.runs) == (1, 3)
    assert len(await world.runs.rows()) == 3


async def test_a_job_of_a_source_does_not_replace_another_job_of_this_source(
    world: World, tmp_path: Path
) -> None:
    await write(world, of_omniagent(tmp_path, {}))
    (first,) = await jobs(world)

    report = await write(world, of_omniagent(tmp_path, {}, {}), "replace")

    assert [(job.name, job.result, job.enabled) for job in report.jobs] == [
        ("Report", "unchanged", True),
        ("Report-2", "added", True),
    ]
    assert first.id in {stored.id for stored in await jobs(world)}


async def test_an_imported_command_with_braces_can_be_exported_applied_and_edited(
    world: World, tmp_path: Path
) -> None:
    command = "docker ps --format '{{.Names}}'"
    await write(world, crontab.read(files.crontab(tmp_path, f"0 9 * * * {command}\n")))
    (stored,) = await jobs(world)
    assert command in getattr(stored.job.action, "prompt", "")
    edited = await world.jobs.edit(stored.id, prompt=f"{command} -a")
    fields: dict[str, Any] = {
        "prompt": f"{command} -a",
        "metadata": edited.job.metadata,
        "on_demand": True,
    }
    again = new_job(now=TODAY, **fields)  # as `apply` makes it from an exported file
    assert getattr(again.action, "prompt", "") == f"{command} -a"
    with pytest.raises(InvalidInput, match="unknown variable"):
        new_job(now=TODAY, prompt=command, on_demand=True)
    with pytest.raises(InvalidInput, match=r"unknown variable {{last_ouput}}"):
        await world.jobs.edit(stored.id, prompt=f"{command} {{{{last_ouput}}}}")
