"""Commands that use Prefect, with a real server: both sides agree after each command.

No worker runs here; the tests with `daybook up` cover runs.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from daybook.feature import features
from daybook.home import Home
from daybook.operations import setup
from tests.at_prefect import typed, with_client
from tests.commands import DaybookJson
from tests.world.prefect import forget_workers

pytestmark = pytest.mark.e2e


def deployment(name: str) -> Any:
    """Return the deployment `agent-prompt/<slug>`, or None if Prefect has none."""
    from prefect.exceptions import ObjectNotFound

    with suppress(ObjectNotFound):
        return with_client(lambda client: client.read_deployment_by_name(name))
    return None


def stored_jobs(home: Home) -> int:
    with sqlite3.connect(home.path / "ledger.db") as connection:
        return int(connection.execute("SELECT count(*) FROM jobs").fetchone()[0])


ADD = ("add", "Summarise open pull requests", "--tz", "Europe/Berlin")


def test_an_added_cron_job_is_deployed_with_the_typed_fields(daybook_json: DaybookJson) -> None:
    job = daybook_json(
        *ADD, "--cron", "0 9 * * 1-5", "--tag", "team", "--description", "For the team."
    )
    assert job["name"] == "summarise-open-pull-requests"
    assert job["deployment"] == "agent-prompt/summarise-open-pull-requests"
    assert job["sync"] == "synced"
    found = deployment(job["deployment"])
    (schedule,) = found.schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 9 * * 1-5", "Europe/Berlin")
    assert not found.paused
    assert "team" in found.tags
    assert found.parameters["prompt"] == "Summarise open pull requests"
    assert "at 09:00 on weekdays, Europe/Berlin" in found.description
    assert "For the team." in found.description
    assert [each["id"] for each in daybook_json("list")] == [job["id"]]
    assert daybook_json("show", job["name"])["last_run"] is None


@pytest.mark.slow
def test_a_taken_name_gets_a_number_if_derived_and_is_refused_if_typed(
    daybook_json: DaybookJson, daybook_home: Home
) -> None:
    daybook_json(*ADD, "--every", "1h")
    assert daybook_json(*ADD, "--every", "2h")["name"] == "summarise-open-pull-requests-2"
    taken = daybook_json(*ADD, "--every", "1h", "--name", "summarise-open-pull-requests", code=2)
    assert taken["error"]["field"] == "name"
    assert taken["error"]["message"].startswith("--name: ")
    assert "taken" in taken["error"]["message"]
    assert stored_jobs(daybook_home) == 2


@pytest.mark.slow
def test_an_unknown_agent_is_refused_with_the_known_ones(
    daybook_json: DaybookJson, daybook_home: Home
) -> None:
    refused = daybook_json(*ADD, "--every", "1h", "--agent", "nobody", code=2)["error"]
    assert (refused["code"], refused["field"]) == ("unknown_name", "agent")
    assert "default" in refused["message"].partition("known: ")[2]
    assert stored_jobs(daybook_home) == 0
    job = daybook_json(*ADD, "--every", "1h")
    daybook_json("edit", job["id"], "--agent", "nobody", code=2)
    assert daybook_json("show", job["id"])["agent"] == "default"


@pytest.mark.floor("B", "DisableJob clears the next run")
@pytest.mark.floor("B", "EnableJob computes the next run")
@pytest.mark.floor("B", "DisableJob twice is the same as once")
@pytest.mark.floor("B", "EnableJob twice is the same as once")
@pytest.mark.floor("B", "RemoveJob removes the job from schedule and list")
@pytest.mark.floor("C", "Pausing a job clears its next run")
@pytest.mark.floor("C", "Resuming a job computes its next run")
@pytest.mark.floor("C", "Resuming a job twice is the same as once")
@pytest.mark.floor("A", "A command line adds, changes, switches and removes jobs")
@pytest.mark.floor("C", "A command line adds, changes, switches and removes jobs")
@pytest.mark.slow
def test_edit_pause_resume_and_remove_change_the_deployment(daybook_json: DaybookJson) -> None:
    job = daybook_json(*ADD, "--cron", "0 9 * * 1-5", "--name", "brief")
    edited = daybook_json("edit", "brief", "--cron", "30 8 * * 1-5", "--timeout", "5m")
    assert (edited["prompt"], edited["policy"]["timeout"]) == (job["prompt"], "5m")
    found = deployment(job["deployment"])
    assert found.schedules[0].schedule.cron == "30 8 * * 1-5"
    assert found.parameters["policy"]["timeout"] == "5m"

    paused = daybook_json("pause", "brief", "--note", "on holiday")
    assert (paused["enabled"], paused["next_due"]) == (False, [])
    assert "on holiday" in paused["disabled_reason"]
    again = daybook_json("pause", "brief", "--note", "on holiday")
    assert again == {**paused, "changes": []}  # pausing twice is pausing once
    assert deployment(job["deployment"]).paused

    resumed = daybook_json("resume", "brief")
    assert (resumed["enabled"], resumed["disabled_reason"]) == (True, "")
    assert len(resumed["next_due"]) == 5
    assert daybook_json("resume", "brief") == {**resumed, "changes": []}
    assert not deployment(job["deployment"]).paused

    renamed = daybook_json("edit", "brief", "--name", "morning brief")
    assert (renamed["id"], renamed["deployment"]) == (job["id"], job["deployment"])

    assert daybook_json("remove", job["id"], "--yes")["name"] == "morning brief"
    assert deployment(job["deployment"]) is None
    assert daybook_json("list") == []
    assert daybook_json("show", "morning brief")["removed_at"]
    assert daybook_json("resume", job["id"], code=3)["error"]["code"] == "not_found"


@pytest.mark.slow
def test_a_second_pause_without_a_note_keeps_the_first_note(daybook_json: DaybookJson) -> None:
    daybook_json(*ADD, "--every", "1h", "--name", "noted")
    reasons = [
        daybook_json("pause", "noted", *note)["disabled_reason"]
        for note in ([], ["--note", "holiday"], [], ["--note", "still"])
    ]
    assert reasons == ["paused", "paused: holiday", "paused: holiday", "paused: still"]
    assert daybook_json("resume", "noted")["disabled_reason"] == ""


@pytest.mark.parametrize(
    ("typed", "on"),
    [(["--every", "1h"], True), (["--every", "1h", "--disabled"], False), (["--tag", "a"], False)],
)
@pytest.mark.slow
def test_a_new_schedule_enables_a_job_that_has_fired(
    daybook_json: DaybookJson, daybook_home: Home, typed: list[str], on: bool
) -> None:
    job = daybook_json("add", "Say hello.", "--at", "in 1h", "--name", "once", "--disabled")
    with sqlite3.connect(daybook_home.path / "ledger.db") as connection:
        connection.execute("UPDATE jobs SET disabled_reason = 'fired, succeeded'")
    edited = daybook_json("edit", "once", *typed)
    assert edited["enabled"] is on
    assert deployment(job["deployment"]).paused is not on


@pytest.mark.floor("C", "enabled: a job can be made disabled")
@pytest.mark.slow
def test_a_job_added_as_disabled_has_a_paused_deployment(daybook_json: DaybookJson) -> None:
    job = daybook_json(*ADD, "--every", "90m", "--disabled")
    assert (job["enabled"], job["next_due"], job["schedule"]["every"]) == (False, [], "1h30m")
    assert deployment(job["deployment"]).paused
    on_demand = daybook_json(*ADD, "--on-demand")
    assert on_demand["schedule"]["kind"] == "on_demand"
    assert deployment(on_demand["deployment"]).schedules == []


def test_sync_writes_nothing_without_changes_and_imports_a_pause_in_the_ui(
    daybook_json: DaybookJson,
) -> None:
    from prefect.client.schemas.actions import DeploymentUpdate

    job = daybook_json(*ADD, "--every", "1h", "--name", "hourly")
    assert daybook_json("sync")["writes"] == 0
    found = deployment(job["deployment"])
    with_client(lambda client: client.update_deployment(found.id, DeploymentUpdate(paused=True)))
    report = daybook_json("sync")
    assert (report["pulled"], report["writes"]) == (["hourly"], 0)
    assert not daybook_json("show", "hourly")["enabled"]


@pytest.mark.floor("C", "A command line runs a job and shows its runs")
def test_a_repeated_request_id_is_one_run_in_the_ledger_and_in_prefect(
    daybook_json: DaybookJson,
) -> None:
    job = daybook_json(*ADD, "--on-demand", "--name", "by hand")
    run = daybook_json("run", "by hand", "--request-id", "seven")
    assert (run["job"], run["trigger"], run["status"]) == ("by hand", "manual", "waiting")
    assert daybook_json("run", "by hand", "--request-id", "seven")["id"] == run["id"]
    assert [each["id"] for each in daybook_json("runs", "by hand")] == [run["id"]]
    flow_runs = with_client(lambda client: client.read_flow_runs())
    found = deployment(job["deployment"])
    assert [str(each.id) for each in flow_runs if each.deployment_id == found.id] == [
        run["flow_run_id"]
    ]
    assert daybook_json("logs", run["id"]) == []


def test_run_creates_the_deployment_again_if_it_was_deleted_in_prefect(
    daybook_json: DaybookJson,
) -> None:
    job = daybook_json(*ADD, "--on-demand", "--name", "deleted")
    found = deployment(job["deployment"])
    with_client(lambda client: client.delete_deployment(found.id))
    run = daybook_json("run", "deleted")
    again = deployment(job["deployment"])
    assert again.id != found.id
    flow_runs = with_client(lambda client: client.read_flow_runs())
    assert [str(each.id) for each in flow_runs if each.deployment_id == again.id] == [
        run["flow_run_id"]
    ]


@pytest.mark.floor("E", "cleanup_disabled by hand")
@pytest.mark.slow
def test_prune_removes_jobs_disabled_for_long_with_their_deployments(
    daybook_json: DaybookJson, daybook_home: Home
) -> None:
    for name in ("off", "lately", "on"):
        daybook_json(*ADD, "--cron", "0 9 * * *", "--name", name)
    off, lately = daybook_json("pause", "off"), daybook_json("pause", "lately")
    with closing(sqlite3.connect(daybook_home.path / "ledger.db")) as book, book:
        long_ago = "2026-01-01 00:00:00.000000"
        of_job = "WHERE job_id = ? AND enabled = 0"
        book.execute(f"UPDATE revisions SET effective_from = ? {of_job}", (long_ago, off["id"]))
        book.execute("UPDATE jobs SET updated_at = ? WHERE id = ?", (long_ago, off["id"]))

    would = daybook_json("ledger", "prune", "--disabled-for", "90d", "--dry-run")
    assert (would["removed"], would["dry_run"]) == (["off"], True)
    assert deployment(off["deployment"]) is not None

    done = daybook_json("ledger", "prune", "--disabled-for", "90d")

    counts = dict.fromkeys(("runs", "messages", "deliveries", "tasks", "steps"), 0)
    of_features = {each.name: 0 for each in features() if each.retention}
    assert done == {"removed": ["off"], **counts, **of_features, "jobs": [], "dry_run": False}
    assert deployment(off["deployment"]) is None
    assert deployment(lately["deployment"]) is not None
    assert [each["name"] for each in daybook_json("list")] == ["lately", "on"]
    assert "removed_at" in daybook_json("show", "off")
    assert daybook_json("ledger", "prune")["removed"] == []
    refused = daybook_json("ledger", "prune", "--disabled-for", "90", code=2)["error"]["message"]
    assert "--disabled-for" in refused


def test_an_agent_is_added_tested_shown_and_removed(daybook_json: DaybookJson) -> None:
    there = daybook_json("agents", "list")
    can = ("--capability", "python", "--capability", "deploy:eu")
    made = daybook_json("agents", "add", "echo", "--env", "EDITOR", *can, "--command", "cat")
    assert made.pop("notes") == []
    assert (made["kind"], made["settings"]["command"]) == ("command", [shutil.which("cat")])
    assert made["settings"]["capabilities"] == ["deploy:eu", "python"]
    assert {"PATH", "EDITOR"} <= set(made["settings"]["environment"])
    try:
        listed = daybook_json("agents", "list")
        assert [each for each in listed if each not in there] == [made | {"jobs": []}]
        assert daybook_json("agents", "test", "echo", "Hello there")["output"] == "Hello there"
        job = daybook_json(*ADD, "--on-demand", "--agent", "echo", "--name", "echoing")
        assert daybook_json("agents", "show", "echo") == made | {"jobs": ["echoing"]}
        assert "echoing" in daybook_json("agents", "remove", "echo", code=2)["error"]["message"]
        daybook_json("remove", job["id"], "--yes")
    finally:
        assert daybook_json("agents", "remove", "echo") == {"removed": "echo"}
    absent = daybook_json("agents", "add", "echo", "--command", "no-such-program -x")
    assert absent["settings"]["command"] == ["no-such-program", "-x"]
    assert 'no program "no-such-program"' in absent["notes"][0]
    (shown,) = [each for each in daybook_json("agents", "list") if each["name"] == "echo"]
    assert [shown["problem"]] == absent["notes"]
    daybook_json("agents", "remove", "echo")
    for verb in ("show", "test", "remove"):
        assert daybook_json("agents", verb, "echo", code=3)["error"]["code"] == "not_found"


@pytest.mark.slow
def test_an_invalid_agent_is_refused_with_the_option_at_fault(daybook_json: DaybookJson) -> None:
    there = daybook_json("agents", "list")
    for tokens, option in (
        (["Loud", "--offline"], "NAME: "),
        (["default", "--offline"], "NAME: "),
        (["new", "--output", "xml", "--", "cat"], "--output: "),
        (["new", "--work-dir", "here", "--", "cat"], "--work-dir: "),
        (["new", "--env", "DAYBOOK_HOME", "--", "cat"], "--env: "),
        (["new", "--", "cat", "{who}"], "--command: "),
        (["new", "--offline", "--capability", "a b"], "--capability: "),
    ):
        message = daybook_json("agents", "add", *tokens, code=2)["error"]["message"]
        assert message.startswith(option)
    assert daybook_json("agents", "list") == there
    assert "default" in [each["name"] for each in there]


@pytest.mark.slow
def test_commands_without_json_print_sentences_only(
    prefect_server: Any, daybook_home: Home
) -> None:
    with_client(setup.prepare)
    with_client(forget_workers)

    def process(*tokens: str) -> tuple[str, str]:
        done = typed(*tokens)
        assert done.returncode == 0
        return done.stdout, done.stderr

    out, err = process(*ADD, "--cron", "0 9 * * 1-5", "--name", "brief")
    assert "at 09:00 on weekdays, Europe/Berlin" in out
    assert out.count(" UTC") == 5
    assert "offline, so no job runs" in out
    assert "agent-prompt/brief" in out
    offline, unread, try_it = err.splitlines()
    assert offline.startswith("the agent default is offline: it only repeats the prompt")
    assert unread.startswith("its answers are not sent anywhere; to get them: ")
    assert try_it == "Try it now: daybook run brief --wait"
    out, err = process("pause", "brief", "--note", "on holiday")
    assert "brief is off (paused: on holiday)" in out
    assert err == ""
    out, err = process("sync")
    assert (out, err) == ("", "1 unchanged, 0 written to Prefect.\n")
    out, err = process("remove", "brief", "--yes")
    assert out.startswith("Removed brief (")
    assert err == ""


def test_apply_with_wait_returns_when_prefect_has_the_changes(
    daybook_json: DaybookJson, tmp_path: Path
) -> None:
    file = tmp_path / "team.yaml"
    jobs = [{"name": name, "prompt": "Sum up.", "cron": "0 9 * * *"} for name in "abc"]
    file.write_text(json.dumps({"jobs": jobs}))
    first = daybook_json("apply", "-f", str(file), "--wait")
    assert (first["pending"], first["failed"], first["notes"]) == ([], {}, [])
    assert [each["sync"] for each in daybook_json("list")] == ["synced"] * 3
    assert deployment("agent-prompt/b").parameters["prompt"] == "Sum up."

    file.write_text(json.dumps({"jobs": [{**jobs[0], "prompt": "Hello."}, jobs[2]]}))
    daybook_json("apply", "-f", str(file), "--wait", "--prune")
    assert deployment("agent-prompt/a").parameters["prompt"] == "Hello."
    assert deployment("agent-prompt/b") is None

    file.write_text(json.dumps({"jobs": [{**jobs[0], "agent": "nobody"}, {**jobs[2], "agent": 5}]}))
    refused = daybook_json("apply", "-f", str(file), "--wait", code=2)
    found = [(each["job"], each["field"]) for each in refused["error"]["mistakes"]]
    assert found == [("a", "agent"), ("c", "agent")]
