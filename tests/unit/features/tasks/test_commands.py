"""`daybook task`: its output, its exit codes, and a token that is printed only once."""

from __future__ import annotations

import json
from itertools import product

import pytest

from tests import rows
from tests.unit.features.tasks.conftest import TaskCommands

TITLE = "Review pull request 12"


def test_add_returns_the_task_and_its_run(tasks: TaskCommands) -> None:
    wants = ["--capability", "python", "--capability", "deploy:eu", "--prefer-capability", "fast"]
    where = ["--workspace", "shop", "--channel", "ops", "--owner", "agent:eva"]
    made = tasks.json("add", TITLE, "--priority", "urgent", *wants, *where)
    assert made["title"] == TITLE and made["status"] == "queued"
    assert made["run"]["run_id"] == made["run_id"] != made["id"]
    assert made["capabilities"] == ["deploy:eu", "python"] and made["preferred"] == ["fast"]
    assert (made["priority"], made["owner"]) == ("urgent", "agent:eva")
    assert (made["workspace"], made["channel"]) == ("shop", "ops")
    assert tasks.json("show", made["id"][:8])["title"] == TITLE
    assert tasks.json("show", made["run_id"])["id"] == made["id"]


def test_instructions_are_read_from_a_file(tasks: TaskCommands) -> None:
    file = tasks.home / "todo.md"
    file.write_text("Read it.\nSay what you think.\n")
    made = tasks.json("add", TITLE, "--instructions", f"@{file}")
    assert made["instructions"] == "Read it.\nSay what you think.\n"
    result = tasks("add", TITLE, "--instructions", "@nowhere.md")
    assert (result.code, result.out) == (2, "")
    assert "--instructions: nowhere.md cannot be read" in result.err


INVALID: list[tuple[tuple[str, ...], str, str]] = [
    (("add", TITLE, "--priority", "soon"), "--priority", "urgent, high, medium, low"),
    (("add", TITLE, "--owner", "nobody"), "--owner", "agent:NAME"),
    (("add", TITLE, "--capability", "a b"), "--capability", "up to 64 letters, digits"),
    (("add", TITLE, "--prefer-capability", "é"), "--prefer-capability", "up to 64 letters"),
    (
        ("add", TITLE, "--prefer-capability", "a,b"),
        "--prefer-capability",
        "once for each value",
    ),
    (
        ("session", "register", "x", "--capability", "a,b"),
        "--capability",
        "once for each value",
    ),
    (("add", " "), "TITLE", "1 to 200 characters"),
    (("next", "--session", "x", "--lease", "25h"), "--lease", "1s to 1d"),
    (("next", "--session", "x", "--lease", "5"), "--lease", "write one of 5s"),
    (("list", "--status", "done"), "--status", "queued, claimed, needs_attention, completed"),
    (("list", "--limit", "0"), "--limit", "1 or more"),
    (("session", "register", "a", "--agent", "x:y"), "--agent", "without a colon"),
    (("session", "report", "x", "--state", "busy"), "--state", "idle"),
    (("scheduler", "drain", "--timeout", "soon"), "--timeout", "whole number of seconds"),
    (("scheduler", "backlog", "--limit", "0"), "--limit", "1 or more"),
]


def test_an_invalid_option_is_refused_with_its_name_and_the_legal_values(
    tasks: TaskCommands,
) -> None:
    for (typed, option, legal), row in rows.each(INVALID):
        with row:
            result = tasks(*typed)
            assert (result.code, result.out) == (2, "")
            assert option in result.err and legal in result.err, result.err
            assert tasks.json("list") == [] and tasks.json("session", "list") == []


def test_next_returns_run_token_lease_and_task(tasks: TaskCommands) -> None:
    found = tasks.claimed("--lease", "60s")
    assert set(found) == {"run_id", "token", "lease_until", "task"}
    assert found["task"]["title"] == TITLE
    held = tasks.json("show", TITLE)["run"]
    assert (held["session"], held["lease_until"]) == ("alpha", found["lease_until"])
    assert held["run_id"] == found["run_id"]


def test_next_exits_with_3_if_it_claims_nothing(tasks: TaskCommands) -> None:
    assert tasks.json("next", "--session", "alpha", code=3)["error"]["code"] == "not_found"
    tasks.json("session", "register", "alpha")
    tasks.json("add", TITLE, "--capability", "python")
    assert tasks.json("next", "--session", "alpha", code=3)["error"]["code"] == "nothing_claimable"
    tasks.json("session", "register", "alpha", "--capability", "python")
    tasks.json("next", "--session", "alpha")
    result = tasks("next", "--session", "alpha")
    assert (result.code, result.out) == (3, "")
    assert "holds run" in result.err


@pytest.mark.parametrize(
    ("typed", "status"),
    [
        (("complete", "--output", "two remarks"), "completed"),
        (("fail", "--error", "the branch is gone"), "failed"),
        (("release", "--reason", "no access"), "queued"),
        (("heartbeat", "--lease", "10m"), "claimed"),
    ],
)
@pytest.mark.parametrize("way", ["environment", "standard input"])
def test_the_token_is_read_from_the_environment_or_standard_input(
    tasks: TaskCommands, typed: tuple[str, ...], status: str, way: str
) -> None:
    found = tasks.claimed()
    if way == "standard input":
        tasks.shows(stdin=found["token"] + "\n")
    run = tasks.json(typed[0], found["run_id"], *typed[1:])
    assert run["status"] == status
    shown = tasks.json("show", TITLE)
    assert shown["status"] == status
    if status != "queued":  # the given text is stored
        assert typed[-1] in (run["output"], run["error"], "10m")


@pytest.mark.parametrize("verb", ["heartbeat", "complete", "fail", "release"])
def test_a_command_with_a_missing_or_wrong_token_changes_nothing(
    tasks: TaskCommands, verb: str
) -> None:
    found = tasks.claimed()
    before = tasks.execute("SELECT * FROM task_runs"), tasks.execute("SELECT * FROM task_events")
    typed = (verb, found["run_id"], *(("--error", "no") if verb == "fail" else ()))
    wrong = found["token"][:-1] + ("A" if found["token"][-1] != "A" else "B")
    for token, why in (
        ("", "DAYBOOK_TASK_TOKEN: is missing"),
        (wrong, "token"),
        ("dbt_é", "token"),
    ):
        tasks.shows(token)
        result = tasks(*typed)
        assert (result.code, result.out) == (2, ""), result
        assert why in result.err and (not token or token not in result.err)
    after = tasks.execute("SELECT * FROM task_runs"), tasks.execute("SELECT * FROM task_events")
    assert after == before


def test_a_token_as_an_argument_is_refused_and_not_repeated(tasks: TaskCommands) -> None:
    verbs = ("heartbeat", "complete", "fail", "release")
    tokens = (("dbt_secret",), ("--token", "dbt_secret"), ("--token=dbt_secret",))
    tasks.claimed()
    for (verb, typed), row in rows.each(product(verbs, tokens)):
        error = ("--error", "no") if verb == "fail" else ()
        with row:
            result = tasks(verb, "0f3a", *typed, *error)
            assert (result.code, result.out) == (2, "")
            assert "cannot be passed on the command line" in result.err
            assert "DAYBOOK_TASK_TOKEN" in result.err
            assert "dbt_secret" not in result.err
            assert tasks.json("show", TITLE)["status"] == "claimed"


def test_the_token_is_printed_once_and_never_stored(tasks: TaskCommands) -> None:
    token = tasks.claimed()["token"]
    run = tasks.json("show", TITLE)["run_id"]
    events = [
        tasks(*typed)
        for command in (
            ("list",),
            ("show", TITLE),
            ("session", "list"),
            ("next", "--session", "alpha"),
            ("heartbeat", run),
            ("scheduler", "status"),
            ("scheduler", "backlog"),
            ("scheduler", "cycle"),
            ("scheduler", "drain", "--timeout", "1s"),
            ("release", run),
            ("complete", run),
        )
        for typed in (command, (*command, "--json"))
    ]
    assert {each.code for each in events} == {0, 1, 2, 3}
    stored = b"".join(file.read_bytes() for file in tasks.home.rglob("*") if file.is_file())
    assert len(stored) > 1000
    for part in (token, token.removeprefix("dbt_"), token[-20:]):
        assert not [each for each in events if part in each.out + each.err]
        assert part.encode() not in stored


@pytest.mark.parametrize(("verb", "option"), [("complete", "output"), ("fail", "error")])
def test_a_token_in_an_output_or_error_is_masked_before_it_is_stored(
    tasks: TaskCommands, verb: str, option: str
) -> None:
    found = tasks.claimed()
    run = tasks.json(verb, found["run_id"], f"--{option}", f"done with {found['token']}")
    assert run[option] == "done with dbt_…"
    stored = b"".join(file.read_bytes() for file in tasks.home.rglob("*") if file.is_file())
    assert b"done with dbt_" in stored
    assert found["token"].removeprefix("dbt_").encode() not in stored


def test_next_without_json_prints_the_token_once(tasks: TaskCommands) -> None:
    tasks.json("session", "register", "alpha")
    tasks.json("add", TITLE)
    result = tasks("next", "--session", "alpha")
    assert result.out.count("dbt_") == 1 and "dbt_" not in result.err


def test_an_expired_lease_is_shown_and_its_token_is_refused(tasks: TaskCommands) -> None:
    found = tasks.claimed()
    tasks.execute("UPDATE task_runs SET lease_until = '2026-01-01 00:00:00.000000'")
    run = tasks.json("show", TITLE)["run"]
    assert (run["session"], run["lease_over"]) == ("alpha", True)
    assert "alpha, lease expired" in tasks("list").out
    assert tasks.json("complete", found["run_id"], code=2)["error"]["code"] == "token_refused"
    assert tasks.json("scheduler", "cycle")["recovered"] == 1
    assert tasks.json("show", TITLE)["run"]["expiries"] == 1


def test_retry_adds_a_run_and_show_lists_all_runs(tasks: TaskCommands) -> None:
    found = tasks.claimed()
    tasks.json("fail", found["run_id"], "--error", "no disk")
    again = tasks.json("retry", TITLE)
    assert again["id"] == found["task"]["id"] and again["run_id"] != found["run_id"]
    shown = tasks.json("show", TITLE)
    assert [each["number"] for each in shown["runs"]] == [2, 1]
    assert [each["event"] for each in shown["history"]] == ["added", "claimed", "failed", "retried"]
    assert {each["actor"] for each in shown["history"]} == {"user"}
    listed = tasks.json("list")
    assert [(each["run"]["number"], each["status"]) for each in listed] == [(2, "queued")]
    assert tasks.json("list", "--status", "failed") == []
    output = tasks("show", TITLE).out
    assert "run 2 of at most 10" in output and "RUN" in output
    assert tasks("retry", TITLE).code == 2


def test_recover_takes_a_run_from_its_session(tasks: TaskCommands) -> None:
    found = tasks.claimed()
    back = tasks.json("recover", found["run_id"], "--reason", "alpha hangs")
    assert (back["status"], back["run"]["session"]) == ("queued", None)
    assert tasks.json("complete", found["run_id"], code=2)["error"]["code"] == "token_refused"
    (last,) = [each for each in tasks.json("show", TITLE)["history"] if each["reason"]]
    assert (last["event"], last["session"], last["reason"]) == (
        "recovered",
        "alpha",
        "alpha hangs",
    )
    assert "alpha hangs" in tasks("show", TITLE).out


def test_cancel_ends_a_claimed_task_and_its_token_is_refused(tasks: TaskCommands) -> None:
    found = tasks.claimed()
    assert tasks.json("cancel", TITLE, "--reason", "done by hand")["status"] == "cancelled"
    assert tasks.json("heartbeat", found["run_id"], code=2)["error"]["code"] == "token_refused"
    assert tasks("cancel", TITLE).code == 2


def test_a_paused_task_is_not_claimed_until_it_is_resumed(tasks: TaskCommands) -> None:
    tasks.json("session", "register", "alpha")
    made = tasks.json("add", TITLE)
    assert tasks.json("pause", made["id"], "--reason", "wait for the release")["paused"] is True
    assert tasks("next", "--session", "alpha").code == 3
    assert "paused: wait for the release" in tasks("list").out
    assert tasks.json("resume", TITLE)["paused"] is False
    assert tasks.json("next", "--session", "alpha")["run_id"] == made["run_id"]


def test_list_has_live_tasks_in_claim_order_and_then_ended_ones(tasks: TaskCommands) -> None:
    for title, priority in (("a", "low"), ("b", "urgent"), ("c", "medium"), ("d", "urgent")):
        tasks.json("add", title, "--priority", priority)
    tasks.json("session", "register", "alpha")
    first = tasks.json("next", "--session", "alpha")
    tasks.shows(first["token"])
    tasks.json("complete", first["run_id"], "--output", "fine\nindeed")
    assert [each["title"] for each in tasks.json("list")] == ["d", "c", "a", "b"]
    assert [each["title"] for each in tasks.json("list", "--limit", "2")] == ["d", "c"]
    assert [each["title"] for each in tasks.json("list", "--status", "completed")] == ["b"]
    lines = tasks("list").out.splitlines()
    assert lines[0].split() == ["TASK", "TITLE", "PRIORITY", "STATUS", "SINCE", "NOTE"]
    assert lines[-1].endswith("alpha: fine")


def test_an_unknown_task_run_or_session_gives_exit_code_3(tasks: TaskCommands) -> None:
    for typed in (("show", "x"), ("pause", "x"), ("retry", "x"), ("session", "remove", "x")):
        assert tasks(*typed).code == 3
    tasks.shows("dbt_x")
    assert tasks("heartbeat", "x").code == 3


def test_a_session_is_registered_reported_and_removed(tasks: TaskCommands) -> None:
    where = ["--workspace", "shop", "--channel", "ops", "--type", "terminal"]
    made = tasks.json("session", "register", "alpha", "--agent", "eva", *where)
    assert (made["state"], made["prompting"], made["expired"]) == ("idle", False, False)
    assert (made["agent"], made["type"]) == ("eva", "terminal")
    tasks.json("add", TITLE)
    reported = tasks.json("session", "report", "alpha", "--state", "idle", "--prompting")
    assert (reported["state"], reported["prompting"]) == ("idle", True)
    assert "prompt" in tasks("next", "--session", "alpha").err
    assert "prompting" in tasks("session", "list").out
    tasks.json("session", "report", "alpha", "--state", "active")
    assert tasks("next", "--session", "alpha").code == 3
    assert tasks.json("session", "report", "alpha", "--state", "idle")["prompting"] is False
    held = tasks.json("next", "--session", "alpha")["run_id"]
    assert f"holds {held[:8]}" in tasks("session", "list").out
    assert tasks.json("session", "show", "alpha") == tasks.json("session", "list")[0]
    output = tasks("session", "show", "alpha").out
    assert f"alpha (holds {held[:8]})" in output and "woken by       nothing" in output
    reported = tasks("session", "report", "alpha", "--state", "idle").out
    assert reported == f"alpha (holds {held[:8]})\n"
    assert tasks.json("session", "remove", "alpha")["run_id"] == held
    assert tasks.json("session", "list") == []
    assert tasks.json("show", TITLE)["status"] == "queued"


def test_a_session_shows_whether_a_stream_or_a_webhook_wakes_it(
    tasks: TaskCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tasks("session", "register", "a b/c")
    assert "daybook task next --session 'a b/c'" in result.err
    assert tasks.json("session", "show", "a b/c")["woken_by"] is None
    tasks.json("add", TITLE)
    (waits,) = tasks.json("scheduler", "backlog")["runs"]
    assert waits["why"] == "a b/c could claim it, but cannot be woken"
    monkeypatch.setenv("DAYBOOK_TASKS", json.dumps({"wake_url": "https://example.org/wake"}))
    assert tasks.json("session", "show", "a b/c")["woken_by"] == "webhook"
    (waits,) = tasks.json("scheduler", "backlog")["runs"]
    assert waits["why"] == "a b/c could claim it"
    tasks.execute("UPDATE task_sessions SET connected_until = '2999-01-01 00:00:00.000000'")
    monkeypatch.delenv("DAYBOOK_TASKS")
    assert tasks.json("session", "show", "a b/c")["woken_by"] == "stream"
    assert tasks.json("scheduler", "backlog")["runs"][0]["why"] == "a b/c could claim it"


def test_a_failed_run_is_not_shown_as_done(tasks: TaskCommands) -> None:
    found = tasks.claimed()
    tasks.json("fail", found["run_id"], "--error", "no disk\n\n")
    output = tasks("show", TITLE).out
    assert "failed by  alpha" in output and "done by" not in output
    assert "\n\n\n" not in output
    again = tasks.json("retry", TITLE)
    tasks.execute("UPDATE task_runs SET status = 'needs_attention' WHERE id = ?", again["run_id"])
    tasks.json("recover", TITLE)
    found = tasks.json("next", "--session", "alpha")
    tasks.shows(found["token"])
    tasks.json("complete", found["run_id"], "--output", "\n")
    assert "output" not in tasks("show", TITLE).out


def test_the_help_of_each_task_command_has_an_example(tasks: TaskCommands) -> None:
    texts = [
        (path, tasks(*path, name, "--help").out)
        for path, names in (
            ((), "add list show next heartbeat complete fail release retry recover cancel"),
            ((), "pause resume"),
            (("session",), "register report list show remove"),
            (("scheduler",), "status pause resume drain backlog cycle rebuild"),
        )
        for name in names.split()
    ]
    assert len(texts) == 25
    assert all("Example: daybook task" in text for _, text in texts)
    assert not any("--token" in text for _, text in texts)


def test_with_json_the_output_is_only_json(tasks: TaskCommands) -> None:
    tasks.json("session", "register", "alpha")
    for typed in (("add", TITLE), ("next", "--session", "alpha"), ("list",), ("show", TITLE)):
        json.loads(tasks(*typed, "--json").out)
