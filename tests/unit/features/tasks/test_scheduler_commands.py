"""`daybook task scheduler`: pause, drain, backlog, cycle and status."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from daybook.cli import formatting
from tests import sentences
from tests.unit.features.tasks.conftest import TaskCommands

TITLE = "Review pull request 12"


@pytest.mark.floor("D", "Resume ends the pause")
def test_a_paused_scheduler_refuses_claims_and_status_has_the_reason(tasks: TaskCommands) -> None:
    tasks.json("session", "register", "alpha")
    tasks.json("add", TITLE)
    found = tasks.json("scheduler", "pause", "--reason", "the repository moves")
    assert (found["paused"], found["actor"]) == (True, "user")
    result = tasks("next", "--session", "alpha")
    assert result.code == 3 and "paused: the repository moves" in result.err
    status = tasks.json("scheduler", "status")
    assert (status["switch"]["paused"], status["tasks"]["paused"]) == (True, True)
    (problem,) = status["problems"]
    assert "the repository moves" in problem and "daybook task scheduler resume" in problem
    assert "the repository moves" in tasks("scheduler", "status").out
    assert tasks.json("scheduler", "resume")["paused"] is False
    backlog = tasks.json("scheduler", "backlog")
    assert (backlog["paused"], backlog["at"], backlog["actor"]) == (False, None, "")
    assert tasks.json("next", "--session", "alpha")["task"]["title"] == TITLE


def test_an_unreadable_pause_state_counts_as_a_pause_and_doctor_reports_it(
    tasks: TaskCommands,
) -> None:
    tasks.json("session", "register", "alpha")
    tasks.json("add", TITLE)
    tasks.execute("INSERT INTO facts (key, value) VALUES ('tasks.switch', ?)", '{"paused": tr')
    assert tasks("next", "--session", "alpha").code == 3
    assert "cannot be read" in tasks.json("scheduler", "status")["switch"]["reason"]
    checks = {each["check"]: each for each in tasks.say("doctor", "--json").json}
    assert (checks["tasks"]["ok"], checks["tasks"]["fix"]) == (
        False,
        "daybook task scheduler resume",
    )
    tasks.json("scheduler", "resume")
    assert tasks.json("next", "--session", "alpha")["task"]["title"] == TITLE


def test_a_drain_that_times_out_exits_with_1_and_lists_the_claimed_runs(
    tasks: TaskCommands,
) -> None:
    held = tasks.claimed()
    result = tasks("scheduler", "drain", "--timeout", "1s", "--json")
    assert result.code == 1
    found = result.json
    assert found["drained"] is False and found["waited_seconds"] >= 1
    (left,) = found["left"]
    assert (left["run_id"], left["session"], left["title"]) == (held["run_id"], "alpha", TITLE)
    assert f"Waiting for {TITLE} (alpha, until" in result.err
    result = tasks("scheduler", "drain", "--timeout", "1s")
    assert result.code == 1 and held["run_id"][:8] in result.out and "stays paused" in result.err
    switch = tasks.json("scheduler", "status")["switch"]
    assert (switch["paused"], switch["reason"]) == (True, "draining")


def test_a_drain_without_claimed_runs_ends_at_once_and_keeps_the_reason(
    tasks: TaskCommands,
) -> None:
    held = tasks.claimed()
    tasks.json("complete", held["run_id"])
    tasks.json("scheduler", "pause", "--reason", "mine")
    found = tasks.json("scheduler", "drain")
    assert (found["drained"], found["left"]) == (True, [])
    assert tasks.json("scheduler", "status")["switch"]["reason"] == "mine"
    tasks.json("scheduler", "drain", "--reason", "another")
    assert tasks.json("scheduler", "status")["switch"]["reason"] == "another"


def test_an_expired_lease_does_not_delay_a_drain(tasks: TaskCommands) -> None:
    tasks.claimed()
    tasks.execute("UPDATE task_runs SET lease_until = '2026-01-01 00:00:00.000000'")
    assert tasks.json("scheduler", "drain")["drained"] is True


def test_backlog_lists_runs_in_claim_order_with_why_each_is_unclaimed(tasks: TaskCommands) -> None:
    tasks.json("session", "register", "alpha", "--capability", "python", "--workspace", "shop")
    tasks_to_add = [
        (("any", "--priority", "low"), "alpha could claim it"),
        (("eu", "--capability", "deploy:eu", "--capability", "python"), "no session has deploy:eu"),
        (("paused", "--paused", "--priority", "urgent"), "the task is paused"),
        (("call", "--owner", "user", "--priority", "high"), "the task is for the user"),
        (
            ("other", "--workspace", "bank"),
            'no session fits: alpha: the task is for the workspace "',
        ),
    ]
    for typed, _ in tasks_to_add:
        tasks.json("add", *typed)
    found = tasks.json("scheduler", "backlog")
    assert [each["title"] for each in found["runs"]] == ["paused", "call", "eu", "other", "any"]
    why = {each["title"]: each["why"] for each in found["runs"]}
    assert all(why[typed[0]].startswith(expected) for typed, expected in tasks_to_add), why
    assert found["by_priority"] == {"urgent": 1, "high": 1, "medium": 2, "low": 1}
    assert (found["pending"], found["starving"]) == (5, 0)
    assert len(tasks.json("scheduler", "backlog", "--limit", "2")["runs"]) == 2
    tasks.json("session", "report", "alpha", "--state", "active")
    last = tasks.json("scheduler", "backlog")["runs"][-1]
    assert last["why"] == "alpha: the session is active"
    result = tasks("scheduler", "backlog")
    assert "no session has deploy:eu" in result.out and "5 queued (1 urgent, 1 high" in result.err
    tasks.json("session", "remove", "alpha")
    assert tasks.json("scheduler", "backlog")["runs"][-1]["why"] == "there is no live session"


@pytest.mark.floor("D", "A cycle can be run on demand")
def test_cycle_prints_its_counters_and_status_shows_them(tasks: TaskCommands) -> None:
    tasks.json("session", "register", "alpha", "--capability", "python")
    first = tasks.json("add", TITLE, "--capability", "python")["run_id"]
    other = tasks.json("add", "deploy", "--capability", "deploy:eu")["run_id"]
    report = tasks.json("scheduler", "cycle")
    assert (report["pending"], report["active"], report["unclaimable"]) == (2, 0, 1)
    assert report["runs"]["unclaimable"] == [other]
    # No MCP server is connected to alpha, and no address is set.
    assert (report["wakes_tried"], report["wakes_failed"]) == (1, 1)
    assert report["runs"]["woken"] == [first]
    statistics = tasks.json("scheduler", "status")["statistics"]
    assert statistics["last_cycle"]["at"] == report["at"] and report["at"].endswith("Z")
    assert statistics["cycles"] == 1 and statistics["last_cycle"]["runs"]["unclaimable"] == [other]
    output = tasks("scheduler", "status").out
    assert f"unclaimable        1    {other[:8]}" in output
    assert "No keeper is the leader" in output
    rebuilt = tasks.json("scheduler", "rebuild")
    assert (rebuilt["pending"], rebuilt["active"], rebuilt["cleared"]) == (2, 0, 0)
    assert rebuilt["statistics"]["rebuilds"] == 1
    assert tasks.json("scheduler", "status")["statistics"]["last_rebuild_at"]


def test_a_past_error_is_listed_by_status_with_its_time(tasks: TaskCommands) -> None:
    tasks.json("session", "register", "alpha")
    run = tasks.json("add", TITLE)["run_id"]
    tasks.json("scheduler", "cycle")
    tasks.json("cancel", run)
    assert tasks.json("scheduler", "cycle")["errors"] == []
    (error,) = tasks.json("scheduler", "status")["statistics"]["errors"]
    text = tasks("scheduler", "status").out.split("Last errors")[1]
    assert text.split() == [
        *formatting.local_time(datetime.fromisoformat(error["at"])).split(),
        *error["error"].split(),
    ]


def test_a_policy_with_steps_out_of_order_fails_cycle_and_doctor(
    tasks: TaskCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.json("add", TITLE)
    monkeypatch.setenv("DAYBOOK_TASKS", json.dumps({"starved": 4}))
    result = tasks("scheduler", "cycle")
    assert result.code == 2
    assert "4 is not greater than request_worker (4)" in result.err
    checks = {each["check"]: each for each in tasks.say("doctor", "--json").json}
    assert checks["settings"]["ok"] is False
    assert "request_worker" in checks["settings"]["title"]
    problems = tasks.json("scheduler", "status")["problems"]
    problems += sentences.of(tasks.say("status", "--json").json["problems"])
    assert sum("4 is not greater than request_worker" in each for each in problems) == 2


def test_status_and_doctor_report_tasks_only_if_there_are_any(tasks: TaskCommands) -> None:
    assert "  tasks " not in tasks.say("status").out
    tasks.claimed()
    tasks.json("add", "another")
    shown = tasks.say("status")
    assert "tasks     1 queued, 1 claimed; sessions: 1 busy" in shown.out
    statement = (
        "UPDATE task_runs SET starved_cycles = 3, attention = 'no agent came' WHERE status = ?"
    )
    tasks.execute(statement, "queued")
    found = tasks.say("status", "--json").json
    assert (found["tasks"]["starving"], found["tasks"]["attention"]) == (1, 1)
    problems = sentences.of(found["problems"])
    assert "A task needs attention; fix: daybook task list" in problems
    starving = "A task is starving: no session claims it; fix: daybook task scheduler backlog"
    assert starving in problems
    assert "! no agent came" in tasks("list").out
    checks = [each for each in tasks.say("doctor", "--json").json if each["check"] == "tasks"]
    assert [each["ok"] for each in checks] == [True, True]
    assert [each["fix"] for each in checks] == [
        "daybook task list",
        "daybook task scheduler backlog",
    ]
