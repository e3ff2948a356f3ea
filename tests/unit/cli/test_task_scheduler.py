"""`daybook task scheduler`: pause, drain, backlog, cycle, and what is told of them."""

from __future__ import annotations

import json

import pytest

from daybook.cli import words
from tests.unit.cli.conftest import Floor

TITLE = "Review pull request 12"


def test_paused_nothing_is_claimed_and_status_says_why(floor: Floor) -> None:
    floor.json("session", "register", "alpha")
    floor.json("add", TITLE)
    found = floor.json("scheduler", "pause", "--reason", "the repository moves")
    assert (found["paused"], found["actor"]) == (True, "user")
    said = floor("next", "--session", "alpha")
    assert said.code == 3 and "paused: the repository moves" in said.err
    status = floor.json("scheduler", "status")
    assert (status["switch"]["paused"], status["tasks"]["paused"]) == (True, True)
    (problem,) = status["problems"]
    assert "the repository moves" in problem and "daybook task scheduler resume" in problem
    assert "the repository moves" in floor("scheduler", "status").out
    assert floor.json("scheduler", "resume")["paused"] is False
    backlog = floor.json("scheduler", "backlog")
    assert (backlog["paused"], backlog["at"], backlog["actor"]) == (False, None, "")
    assert floor.json("next", "--session", "alpha")["task"]["title"] == TITLE


def test_a_flag_that_cannot_be_read_is_a_pause_that_doctor_calls_a_problem(floor: Floor) -> None:
    floor.json("session", "register", "alpha")
    floor.json("add", TITLE)
    floor.execute("INSERT INTO facts (key, value) VALUES ('tasks.switch', ?)", '{"paused": tr')
    assert floor("next", "--session", "alpha").code == 3
    assert "cannot be read" in floor.json("scheduler", "status")["switch"]["reason"]
    checks = {each["check"]: each for each in floor.say("doctor", "--json").json}
    assert (checks["tasks"]["ok"], checks["tasks"]["mend"]) == (
        False,
        "daybook task scheduler resume",
    )
    floor.json("scheduler", "resume")
    assert floor.json("next", "--session", "alpha")["task"]["title"] == TITLE


def test_a_drain_whose_time_is_over_ends_with_1_and_what_is_left(floor: Floor) -> None:
    held = floor.claimed()
    said = floor("scheduler", "drain", "--timeout", "1s", "--json")
    assert said.code == 1
    found = said.json
    assert found["drained"] is False and found["waited_seconds"] >= 1
    (left,) = found["left"]
    assert (left["run_id"], left["session"], left["title"]) == (held["run_id"], "alpha", TITLE)
    assert f"waits for {TITLE} (alpha, until" in said.err
    said = floor("scheduler", "drain", "--timeout", "1s")
    assert said.code == 1 and held["run_id"][:8] in said.out and "stays paused" in said.err
    switch = floor.json("scheduler", "status")["switch"]
    assert (switch["paused"], switch["reason"]) == (True, "draining")


def test_a_drain_of_what_is_free_is_over_at_once_and_keeps_the_reason(floor: Floor) -> None:
    held = floor.claimed()
    floor.json("complete", held["run_id"])
    floor.json("scheduler", "pause", "--reason", "mine")
    found = floor.json("scheduler", "drain")
    assert (found["drained"], found["left"]) == (True, [])
    assert floor.json("scheduler", "status")["switch"]["reason"] == "mine"
    floor.json("scheduler", "drain", "--reason", "another")
    assert floor.json("scheduler", "status")["switch"]["reason"] == "another"


def test_a_lease_that_is_over_holds_no_drain_up(floor: Floor) -> None:
    floor.claimed()
    floor.execute("UPDATE task_runs SET lease_until = '2026-01-01 00:00:00.000000'")
    assert floor.json("scheduler", "drain")["drained"] is True


def test_backlog_says_in_order_why_nobody_has_it(floor: Floor) -> None:
    floor.json("session", "register", "alpha", "--capability", "python", "--workspace", "shop")
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
        floor.json("add", *typed)
    found = floor.json("scheduler", "backlog")
    assert [each["title"] for each in found["runs"]] == ["paused", "call", "eu", "other", "any"]
    why = {each["title"]: each["why"] for each in found["runs"]}
    assert all(why[typed[0]].startswith(expected) for typed, expected in wanted), why
    assert found["by_priority"] == {"urgent": 1, "high": 1, "medium": 2, "low": 1}
    assert (found["pending"], found["starving"]) == (5, 0)
    assert len(floor.json("scheduler", "backlog", "--limit", "2")["runs"]) == 2
    floor.json("session", "report", "alpha", "--state", "active")
    last = floor.json("scheduler", "backlog")["runs"][-1]
    assert last["why"] == "alpha: the session is active"
    said = floor("scheduler", "backlog")
    assert "no session has deploy:eu" in said.out and "5 queued (1 urgent, 1 high" in said.err
    floor.json("session", "remove", "alpha")
    assert floor.json("scheduler", "backlog")["runs"][-1]["why"] == "no session is there"


def test_a_cycle_tells_its_counters_and_they_are_kept(floor: Floor) -> None:
    floor.json("session", "register", "alpha", "--capability", "python")
    mine = floor.json("add", TITLE, "--capability", "python")["run_id"]
    other = floor.json("add", "deploy", "--capability", "deploy:eu")["run_id"]
    report = floor.json("scheduler", "cycle")
    assert (report["pending"], report["active"], report["unclaimable"]) == (2, 0, 1)
    assert report["runs"]["unclaimable"] == [other]
    # No MCP server is connected to alpha, and no address is set.
    assert (report["wakes_tried"], report["wakes_failed"]) == (1, 1)
    assert report["runs"]["woken"] == [mine]
    kept = floor.json("scheduler", "status")["statistics"]
    assert kept["last_cycle"]["at"] == report["at"] and report["at"].endswith("Z")
    assert kept["cycles"] == 1 and kept["last_cycle"]["runs"]["unclaimable"] == [other]
    said = floor("scheduler", "status").out
    assert f"unclaimable        1    {other[:8]}" in said
    assert "No keeper leads" in said
    assert floor.json("scheduler", "rebuild")["rebuilds"] == 1
    assert floor.json("scheduler", "status")["statistics"]["last_rebuild_at"]


def test_what_failed_is_told_with_its_time_and_not_as_if_it_still_did(floor: Floor) -> None:
    floor.json("session", "register", "alpha")
    run = floor.json("add", TITLE)["run_id"]
    floor.json("scheduler", "cycle")
    floor.json("cancel", run)
    assert floor.json("scheduler", "cycle")["errors"] == []
    (error,) = floor.json("scheduler", "status")["statistics"]["errors"]
    told = floor("scheduler", "status").out.split("What failed last, and when")[1]
    assert told.split() == [*words.local(error["at"]).split(), *error["error"].split()]


def test_thresholds_out_of_order_are_refused_by_the_cycle_and_told_by_doctor(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.json("add", TITLE)
    monkeypatch.setenv("DAYBOOK_TASKS", json.dumps({"starved": 4}))
    said = floor("scheduler", "cycle")
    assert said.code == 2
    assert "4 is not more than request_worker, 4" in said.err
    checks = {each["check"]: each for each in floor.say("doctor", "--json").json}
    assert checks["settings"]["ok"] is False
    assert "request_worker" in checks["settings"]["problem"]
    for told in (floor.json("scheduler", "status"), floor.say("status", "--json").json):
        assert [each for each in told["problems"] if "4 is not more than request_worker" in each]


def test_status_tells_of_tasks_where_there_are_any(floor: Floor) -> None:
    assert "  tasks " not in floor.say("status").out
    floor.claimed()
    floor.json("add", "another")
    shown = floor.say("status")
    assert "tasks     1 queued, 1 claimed; sessions: 1 busy" in shown.out
    statement = (
        "UPDATE task_runs SET starved_cycles = 3, attention = 'nobody came' WHERE status = ?"
    )
    floor.execute(statement, "queued")
    found = floor.say("status", "--json").json
    assert (found["tasks"]["starving"], found["tasks"]["attention"]) == (1, 1)
    told = "\n".join(found["problems"])
    assert "a task needs attention; `daybook task list`" in told
    assert "a task starves: nobody claims it; `daybook task scheduler backlog`" in told
    assert "! nobody came" in floor("list").out
    checks = [each for each in floor.say("doctor", "--json").json if each["check"] == "tasks"]
    assert [each["ok"] for each in checks] == [True, True]
    assert [each["mend"] for each in checks] == [
        "daybook task list",
        "daybook task scheduler backlog",
    ]
