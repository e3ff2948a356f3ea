"""`daybook task scheduler`: pause, drain, backlog, cycle, and what is told of them."""

from __future__ import annotations

import json

import pytest

from daybook.cli import formatting
from tests.unit.cli.conftest import TaskCommands

TITLE = "Review pull request 12"


def test_paused_nothing_is_claimed_and_status_says_why(tasks: TaskCommands) -> None:
    tasks.json("session", "register", "alpha")
    tasks.json("add", TITLE)
    found = tasks.json("scheduler", "pause", "--reason", "the repository moves")
    assert (found["paused"], found["actor"]) == (True, "user")
    said = tasks("next", "--session", "alpha")
    assert said.code == 3 and "paused: the repository moves" in said.err
    status = tasks.json("scheduler", "status")
    assert (status["switch"]["paused"], status["tasks"]["paused"]) == (True, True)
    (problem,) = status["problems"]
    assert "the repository moves" in problem and "daybook task scheduler resume" in problem
    assert "the repository moves" in tasks("scheduler", "status").out
    assert tasks.json("scheduler", "resume")["paused"] is False
    backlog = tasks.json("scheduler", "backlog")
    assert (backlog["paused"], backlog["at"], backlog["actor"]) == (False, None, "")
    assert tasks.json("next", "--session", "alpha")["task"]["title"] == TITLE


def test_a_flag_that_cannot_be_read_is_a_pause_that_doctor_calls_a_problem(
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


def test_a_drain_whose_time_is_over_ends_with_1_and_what_is_left(tasks: TaskCommands) -> None:
    held = tasks.claimed()
    said = tasks("scheduler", "drain", "--timeout", "1s", "--json")
    assert said.code == 1
    found = said.json
    assert found["drained"] is False and found["waited_seconds"] >= 1
    (left,) = found["left"]
    assert (left["run_id"], left["session"], left["title"]) == (held["run_id"], "alpha", TITLE)
    assert f"waits for {TITLE} (alpha, until" in said.err
    said = tasks("scheduler", "drain", "--timeout", "1s")
    assert said.code == 1 and held["run_id"][:8] in said.out and "stays paused" in said.err
    switch = tasks.json("scheduler", "status")["switch"]
    assert (switch["paused"], switch["reason"]) == (True, "draining")


def test_a_drain_of_what_is_free_is_over_at_once_and_keeps_the_reason(tasks: TaskCommands) -> None:
    held = tasks.claimed()
    tasks.json("complete", held["run_id"])
    tasks.json("scheduler", "pause", "--reason", "mine")
    found = tasks.json("scheduler", "drain")
    assert (found["drained"], found["left"]) == (True, [])
    assert tasks.json("scheduler", "status")["switch"]["reason"] == "mine"
    tasks.json("scheduler", "drain", "--reason", "another")
    assert tasks.json("scheduler", "status")["switch"]["reason"] == "another"


def test_a_lease_that_is_over_holds_no_drain_up(tasks: TaskCommands) -> None:
    tasks.claimed()
    tasks.execute("UPDATE task_runs SET lease_until = '2026-01-01 00:00:00.000000'")
    assert tasks.json("scheduler", "drain")["drained"] is True


def test_backlog_says_in_order_why_nobody_has_it(tasks: TaskCommands) -> None:
    tasks.json("session", "register", "alpha", "--capability", "python", "--workspace", "shop")
    wanted = [
        (("any", "--priority", "low"), "alpha could claim it"),
        (("eu", "--capability", "deploy:eu", "--capability", "python"), "no session has deploy:eu"),
        (("paused", "--paused", "--priority", "urgent"), "the task is paused"),
        (("call", "--owner", "user", "--priority", "high"), "it is a person's to do"),
        (
            ("other", "--workspace", "bank"),
            'no session fits: alpha: the task is of the workspace "b',
        ),
    ]
    for typed, _ in wanted:
        tasks.json("add", *typed)
    found = tasks.json("scheduler", "backlog")
    assert [each["title"] for each in found["runs"]] == ["paused", "call", "eu", "other", "any"]
    why = {each["title"]: each["why"] for each in found["runs"]}
    assert all(why[typed[0]].startswith(expected) for typed, expected in wanted), why
    assert found["by_priority"] == {"urgent": 1, "high": 1, "medium": 2, "low": 1}
    assert (found["pending"], found["starving"]) == (5, 0)
    assert len(tasks.json("scheduler", "backlog", "--limit", "2")["runs"]) == 2
    tasks.json("session", "report", "alpha", "--state", "active")
    last = tasks.json("scheduler", "backlog")["runs"][-1]
    assert last["why"] == "alpha: the session is active"
    said = tasks("scheduler", "backlog")
    assert "no session has deploy:eu" in said.out and "5 queued (1 urgent, 1 high" in said.err
    tasks.json("session", "remove", "alpha")
    assert tasks.json("scheduler", "backlog")["runs"][-1]["why"] == "no session is there"


def test_a_cycle_tells_its_counters_and_they_are_kept(tasks: TaskCommands) -> None:
    tasks.json("session", "register", "alpha", "--capability", "python")
    mine = tasks.json("add", TITLE, "--capability", "python")["run_id"]
    other = tasks.json("add", "deploy", "--capability", "deploy:eu")["run_id"]
    report = tasks.json("scheduler", "cycle")
    assert (report["pending"], report["active"], report["unclaimable"]) == (2, 0, 1)
    assert report["runs"]["unclaimable"] == [other]
    # No MCP server is connected to alpha, and no address is set.
    assert (report["wakes_tried"], report["wakes_failed"]) == (1, 1)
    assert report["runs"]["woken"] == [mine]
    kept = tasks.json("scheduler", "status")["statistics"]
    assert kept["last_cycle"]["at"] == report["at"] and report["at"].endswith("Z")
    assert kept["cycles"] == 1 and kept["last_cycle"]["runs"]["unclaimable"] == [other]
    said = tasks("scheduler", "status").out
    assert f"unclaimable        1    {other[:8]}" in said
    assert "No keeper leads" in said
    assert tasks.json("scheduler", "rebuild")["rebuilds"] == 1
    assert tasks.json("scheduler", "status")["statistics"]["last_rebuild_at"]


def test_what_failed_is_told_with_its_time_and_not_as_if_it_still_did(tasks: TaskCommands) -> None:
    tasks.json("session", "register", "alpha")
    run = tasks.json("add", TITLE)["run_id"]
    tasks.json("scheduler", "cycle")
    tasks.json("cancel", run)
    assert tasks.json("scheduler", "cycle")["errors"] == []
    (error,) = tasks.json("scheduler", "status")["statistics"]["errors"]
    told = tasks("scheduler", "status").out.split("What failed last, and when")[1]
    assert told.split() == [*formatting.local_time(error["at"]).split(), *error["error"].split()]


def test_thresholds_out_of_order_are_refused_by_the_cycle_and_told_by_doctor(
    tasks: TaskCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.json("add", TITLE)
    monkeypatch.setenv("DAYBOOK_TASKS", json.dumps({"starved": 4}))
    said = tasks("scheduler", "cycle")
    assert said.code == 2
    assert "4 is not more than request_worker, 4" in said.err
    checks = {each["check"]: each for each in tasks.say("doctor", "--json").json}
    assert checks["settings"]["ok"] is False
    assert "request_worker" in checks["settings"]["problem"]
    for told in (tasks.json("scheduler", "status"), tasks.say("status", "--json").json):
        assert [each for each in told["problems"] if "4 is not more than request_worker" in each]


def test_status_tells_of_tasks_where_there_are_any(tasks: TaskCommands) -> None:
    assert "  tasks " not in tasks.say("status").out
    tasks.claimed()
    tasks.json("add", "another")
    shown = tasks.say("status")
    assert "tasks     1 queued, 1 claimed; sessions: 1 busy" in shown.out
    statement = (
        "UPDATE task_runs SET starved_cycles = 3, attention = 'nobody came' WHERE status = ?"
    )
    tasks.execute(statement, "queued")
    found = tasks.say("status", "--json").json
    assert (found["tasks"]["starving"], found["tasks"]["attention"]) == (1, 1)
    told = "\n".join(found["problems"])
    assert "a task needs attention; fix: daybook task list" in told
    assert "a task starves: nobody claims it; fix: daybook task scheduler backlog" in told
    assert "! nobody came" in tasks("list").out
    checks = [each for each in tasks.say("doctor", "--json").json if each["check"] == "tasks"]
    assert [each["ok"] for each in checks] == [True, True]
    assert [each["fix"] for each in checks] == [
        "daybook task list",
        "daybook task scheduler backlog",
    ]
