"""Invalid input on the command line: exit code 2, one sentence, and nothing is stored."""

from __future__ import annotations

import getpass
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from daybook.cli.job_options import JobOptions
from daybook.jobs.model import FIELDS

pytestmark = pytest.mark.usefixtures("stored")

CRON = "--cron"
EVERY = "--every"

# For each case: the requirement, the arguments after `daybook add "Say hello."`, the option in the
# error, and other words of the error. `tests/unit/spec` tests all invalid values.
ADD: list[tuple[int, list[str], str, list[str]]] = [
    (1, [], "SCHEDULE", ["is missing", "every weekday at 9:00", "--on-demand"]),
    (1, ["every 5m"], "SCHEDULE", ["comes after the prompt"]),
    (1, ["Say it.", "--schedule", "@daily"], "SCHEDULE and --schedule", ["quote a prompt"]),
    (1, ["--schedule", "@daily", EVERY, "5m"], "--every and --schedule", ["only one"]),
    (1, ["--schedule", "whenever"], "--schedule", ["is not a schedule"]),
    (1, ["--schedule=whenever"], "--schedule", ["is not a schedule"]),
    (1, [CRON, "0 9 * * *", EVERY, "5m"], "--cron and --every", ["only one"]),
    (1, [EVERY, "5m", "--on-demand"], "--every and --on-demand", ["only one"]),
    (1, [CRON, "@daily", EVERY, "5m", "--at", "in 5m"], "--cron and --every and --at", ["only"]),
    (2, [CRON, "0 0 30 2 *"], CRON, ["never fires"]),
    (2, [CRON, "every day"], CRON, ["five fields"]),
    (3, [CRON, "0 9 * * *", "--tz", "Europe/Berln"], "--tz", ["Europe/Berlin"]),
    (4, ["--every=-5m"], EVERY, ["negative", "30m"]),
    (4, [EVERY, "500ms"], EVERY, ["shorter than 1 s"]),
    (5, ["--at", "2020-01-15T14:30:00+01:00"], "--at", ["in the past"]),
    (5, ["--at=in -5m"], "--at", ["negative"]),
    (10, [EVERY, "5m", "--name", " "], "--name", ["blank", "1 to 100"]),
    (11, [EVERY, "5m", "--timeout", "0s"], "--timeout", ["zero"]),
    (11, [EVERY, "5m", "--overlap", "maybe"], "--overlap", ["'skip'", "'queue_all'"]),
    (11, [EVERY, "5m", "--retries", "11"], "--retries", ["10"]),
    (11, [EVERY, "5m", "--retries=-1"], "--retries", ["0"]),
    (11, [EVERY, "5m", "--retry-delay", "6m"], "--retry-delay", ["longer than 5m", "1s to 5m"]),
    (26, [EVERY, "5m", "--session", "chat"], "--session", ["set the channel too"]),
    (28, [EVERY, "5m", "--output-format", "xml"], "--output-format", ["'structured'"]),
    (28, [EVERY, "5m", "--output-format", "structured"], "--output-schema", ["is missing"]),
    (28, [EVERY, "5m", "--output-schema", '{"type": 1}'], "--output-schema", ["--output-format"]),
    (
        28,
        [EVERY, "5m", "--output-schema", "{"],
        "--output-schema",
        ["not valid JSON", "@schema.json"],
    ),
    (28, [EVERY, "5m", "--output-schema", "[]"], "--output-schema", ["not a JSON object"]),
    (28, [EVERY, "5m", "--output-schema", "@/none"], "--output-schema", ["/none", "No such file"]),
    (9, [EVERY, "5m", "--tag", "daybook:mine"], "--tag", ["daybook:"]),
]


def rows(home: Path) -> list[list[Any]]:
    """Return all rows of jobs, revisions and runs."""
    with sqlite3.connect(home / "ledger.db") as connection:
        return [
            connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
            for table in ("jobs", "revisions", "runs")
        ]


def check(result: Any, option: str, words: list[str]) -> None:
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith(f"daybook: {option}: ")
    assert result.err.count("\n") == 1
    for each in words:
        assert each in result.err


@pytest.mark.parametrize(("_number", "typed", "option", "words"), ADD)
def test_add_names_the_invalid_option_and_stores_nothing(
    daybook: Any, stored: Path, _number: int, typed: list[str], option: str, words: list[str]
) -> None:
    before = rows(stored)
    check(daybook("add", "Say hello.", *typed), option, words)
    assert rows(stored) == before


@pytest.mark.floor("A", "AddJob refuses a blank message")
@pytest.mark.floor("B", "A message without content is refused")
@pytest.mark.floor("C", "A job without a prompt is refused")
@pytest.mark.parametrize(
    ("prompt", "option"),
    [([], "PROMPT"), ([""], "PROMPT"), (["  \n"], "PROMPT"), (["--prompt", ""], "--prompt")],
)
def test_a_blank_or_missing_prompt_is_refused(
    daybook: Any, stored: Path, prompt: list[str], option: str
) -> None:
    before = rows(stored)
    check(daybook("add", *prompt, EVERY, "5m"), option, ["write a prompt for the agent"])
    assert rows(stored) == before


def test_an_unknown_variable_in_the_prompt_is_refused(daybook: Any, stored: Path) -> None:
    before = rows(stored)
    result = daybook("add", "Dear {{nobody}}", EVERY, "5m")
    check(result, "PROMPT", ["unknown variable {{nobody}}", "known: {{due}}, {{job}}"])
    assert rows(stored) == before


@pytest.mark.parametrize(
    ("typed", "option", "words"),
    [
        ([CRON, "0 0 30 2 *"], CRON, ["never fires"]),
        (["--every=-5m"], EVERY, ["negative", "30m"]),
        (["--at", "2020-01-15T14:30:00+01:00"], "--at", ["in the past"]),
        ([CRON, "0 9 * * *", EVERY, "5m"], "--cron and --every", ["only one"]),
        (["--tz", "Europe/Berln"], "--tz", ["Europe/Berlin"]),
        (["--overlap", "maybe"], "--overlap", ["'skip'", "'queue_all'"]),
        (["--output-schema", "{"], "--output-schema", ["not valid JSON", "@schema.json"]),
        (["--tag", "daybook:mine"], "--tag", ["daybook:"]),
        (["--name", "often"], "--name", ["taken"]),
        (["--prompt", " "], "--prompt", ["blank"]),
        ([" "], "PROMPT", ["blank"]),
        (["Dear {{nobody}}"], "PROMPT", ["unknown variable {{nobody}}", "{{last_output}}"]),
        (["every 2h"], "PROMPT", ["is a schedule", "--schedule"]),
        ([], "options", ["nothing to change"]),
    ],
)
def test_an_edit_that_is_refused_leaves_the_job_untouched(
    daybook: Any, stored: Path, typed: list[str], option: str, words: list[str]
) -> None:
    before = rows(stored)
    check(daybook("edit", "weekly", *typed), option, words)
    assert rows(stored) == before


def test_every_field_of_a_job_has_an_option() -> None:
    typed = {name.rstrip("_") for name in JobOptions.__annotations__} | {"prompt"}
    typed = {name for name in typed if not name.startswith("check_")} | {"check"}
    elsewhere = {"file", "gate_agent"}  # `daybook heartbeat on`
    assert typed == set(FIELDS) - {"kind", "notify", "policy"} - elsewhere


@pytest.mark.floor("B", "A webhook without a valid URL is refused")
def test_a_webhook_excludes_a_prompt_and_its_options_are_checked(daybook: Any) -> None:
    check(
        daybook("add", "x", "--webhook", "https://x.example", EVERY, "5m"),
        "PROMPT and --webhook",
        ["one"],
    )
    check(daybook("add", "--webhook", "ftp://x.example", EVERY, "5m"), "--webhook", ["https://"])
    check(
        daybook("add", "--webhook", "https://x.example", "--agent", "a", EVERY, "5m"),
        "--agent",
        ["webhook"],
    )
    result = daybook("add", "--webhook", "https://x.example", "--header", "hunter-2", EVERY, "5m")
    check(result, "--header", ["Name: value"])
    assert "hunter-2" not in result.err
    check(
        daybook("add", "--webhook", "https://x.example", "--body", "@/nowhere", EVERY, "5m"),
        "--body",
        ["cannot be read"],
    )
    check(daybook("add", "x", "--method", "GET", EVERY, "5m"), "--method", ["prompt"])


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["add", "a", "--bogus"], ["--bogus"]),
        (["add", "--cron"], ["--cron"]),
        (["add", "--every", "-5m"], ["--every", "=-"]),
        (["add", "one", "two", "--every", "5m"], ["SCHEDULE and --every", "quote"]),
        (["add", "one", "two", "three"], ['"three"', "quote"]),
        (["add", "every 2h"], ["PROMPT", "is missing"]),
        (["add", "a", "--every", "5m", "--every", "6m"], ["--every", "multiple"]),
        (["lst"], ['"lst"', '"list"']),
        (["show"], ["JOB"]),
        (["runs", "--limit", "many"], ["--limit", "many"]),
        (["runs", "--limit", "0"], ["--limit", "1 or more"]),
        (["next", "--cron", "@daily", "--count", "0", "--tz", "UTC"], ["--count", "1 to"]),
        (["next", "--cron", "@daily", "--after", "later", "--tz", "UTC"], ["--after", "later"]),
        (["next", "--tz", "UTC"], ["--schedule", "pass a job or a schedule"]),
        (["next", "weekly", "--cron", "@daily"], ["JOB and --cron"]),
        (["next", "weekly", "--tz", "UTC"], ["--tz"]),
        (["agents", "add", "a"], ["--command", "--offline"]),
        (["agents", "add", "a", "--offline", "--", "ls"], ["--command and --offline"]),
        (["agents", "add", "a", "--spec", "a.yaml", "--offline"], ["--offline and --spec"]),
        (["agents", "add", "a", "--spec", "gone.yaml"], ["--spec: gone.yaml cannot be read"]),
        (["agents", "add", "a", "--command", "ls", "--", "-l"], ["--command and ARGUMENTS"]),
        (["agents", "add", "a", "--command", "'ls"], ["--command", "quot"]),
        (["agents", "test", "default", "--timeout", "never"], ["--timeout", "30m"]),
    ],
)
def test_an_invalid_command_line_is_refused_in_one_line(
    daybook: Any, typed: list[str], words: list[str]
) -> None:
    result = daybook(*typed)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("daybook: ")
    assert result.err.count("\n") == 1
    for each in words:
        assert each in result.err


def test_with_json_an_error_is_printed_as_json_and_as_a_sentence(daybook: Any) -> None:
    result = daybook("add", "Say hello.", "--tz", "Nowhere", "--on-demand", "--json")
    assert result.code == 2
    error = result.json["error"]
    assert result.err == f"daybook: {error['message']}\n"
    assert (error["code"], error["field"]) == ("invalid_input", "timezone")
    assert error["message"].startswith("--tz: ")
    assert daybook("add", "--bogus", "--json").json["error"]["code"] == "invalid_input"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--url", "https://a.example/mcp"], "--env: applies only to a program"),
        ([], "--command and --url: set either"),
    ],
)
def test_an_environment_variable_of_a_tool_server_needs_a_program(
    daybook: Any, given: list[str], words: str
) -> None:
    result = daybook("tools", "add", "time", *given, "--env", "TOKEN")
    assert (result.code, words in result.err) == (2, True), result.err


def test_a_blank_value_at_the_prompt_is_not_called_standard_input(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(getpass, "getpass", lambda _: " ")
    result = daybook("secrets", "add", "ops", "--host", "a.example")
    assert result.code == 2
    assert "nothing was typed (type it at the prompt, or redirect a file" in result.err
