"""The fields that `add` and `edit` pass to the service for their options."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daybook.api import jobs
from daybook.cli import options
from daybook.cli.job_options import JobOptions
from daybook.errors import InvalidInput
from daybook.home import Home
from daybook.jobs.action_fields import MAX_BODY_LENGTH
from daybook.jobs.model import edit, new_job
from daybook.jobs.views import ChangedJob
from tests.unit.cli.conftest import MADE, InterruptedTerminal

SCHEMA = {"type": "object", "properties": {"größe": {"type": "integer"}}}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Record the changes that `edit` passes to the service."""
    asked: dict[str, Any] = {}

    async def edit_job(ref: str, changes: dict[str, Any]) -> ChangedJob:
        asked.update({name: value for name, value in changes.items() if value is not None})
        return ChangedJob.model_construct(**dict(await jobs.show(ref)), changes=[], notes=[])

    monkeypatch.setattr(jobs, "edit_job", edit_job)
    return asked


@pytest.mark.usefixtures("stored")
def test_edit_passes_only_given_options_including_zero_and_empty_values(
    daybook: Any, given: dict[str, Any]
) -> None:
    typed = ["--model", "", "--retries", "0", "--retry-delay", "2s", "--output-format", "json"]
    assert daybook("edit", "weekly", *typed).code == 0
    assert given == {"model": "", "retries": 0, "retry_delay": "2s", "output_format": "json"}


@pytest.mark.parametrize("tags", [[""], ""])  # an option, and the editor
def test_an_empty_value_clears_the_tags_and_the_headers(tags: object) -> None:
    fields = {"headers": JobOptions(headers=[""]).given()["headers"], "tags": tags}
    assert (JobOptions(tags=[""]).given(), fields["headers"]) == ({"tags": [""]}, {})
    given: dict[str, Any] = {"url": "https://x.example", "headers": {"A": "b"}, "tags": ["team"]}
    job = edit(new_job(now=MADE, on_demand=True, **given), fields, now=MADE)
    assert (job.tags, job.parameters()["headers"]) == ((), {})


def test_ctrl_c_ends_a_prompt_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", InterruptedTerminal("y\n"))
    answers = []

    async def ask() -> None:
        answers.append(options.is_confirmed("Remove all jobs", yes=False))

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(ask())
    assert answers == []


@pytest.mark.parametrize(
    ("typed", "fields"),
    [
        (["every 2h", "Check"], {"schedule": "every 2h", "prompt": "Check"}),
        (["every 2h", "--prompt", "Check"], {"schedule": "every 2h", "prompt": "Check"}),
        (["--schedule", "every 2h", "Check"], {"schedule": "every 2h", "prompt": "Check"}),
        (["Check", "--every", "2h"], {"every": "2h", "prompt": "Check"}),
        (["Check", "--on-demand"], {"on_demand": True, "prompt": "Check"}),
        (["every 2h", "--webhook", "https://x.example"], {"schedule": "every 2h"}),
        # A prompt that reads like a schedule, next to an option for the schedule.
        (["every 2h", "--cron", "@daily"], {"cron": "@daily", "prompt": "every 2h"}),
    ],
)
def test_the_arguments_of_add_are_the_schedule_and_the_prompt(
    daybook: Any, monkeypatch: pytest.MonkeyPatch, typed: list[str], fields: dict[str, object]
) -> None:
    asked: dict[str, Any] = {}

    async def add(given: dict[str, Any]) -> None:
        asked.update({name: value for name, value in given.items() if value is not None})
        raise InvalidInput("name", "is recorded")

    monkeypatch.setattr(jobs, "add", add)
    assert "is recorded" in daybook("add", *typed).err
    asked.pop("url", None)
    assert asked == fields


@pytest.mark.usefixtures("stored")
def test_edit_passes_deadline_and_on_lost(daybook: Any, given: dict[str, Any]) -> None:
    assert daybook("edit", "weekly", "--deadline", "2h", "--on-lost", "rerun").code == 0
    assert given == {"deadline": "2h", "on_lost": "rerun"}
    given.clear()
    assert daybook("edit", "weekly", "--deadline", "").code == 0  # removes the deadline
    assert given == {"deadline": ""}


def test_an_output_schema_is_given_inline_or_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA, ensure_ascii=False), encoding="utf-8")
    for text in (json.dumps(SCHEMA), f"@{file}"):
        assert JobOptions(output_schema=text).fields() == {"output_schema": SCHEMA}
    assert JobOptions(output_schema="{}").fields() == {"output_schema": {}}


@pytest.mark.parametrize(
    ("typed", "check"),
    [
        ({"check_tool": "mail.any"}, {"tool": "mail.any"}),
        (
            {"check_tool": "mail.any", "check_params": '{"box": "in"}'},
            {"tool": "mail.any", "params": {"box": "in"}},
        ),
        ({"check_prompt": "New?", "check_agent": "fast"}, {"prompt": "New?", "agent": "fast"}),
        (
            {"check_command": "test -e '/tmp/a flag'"},
            {"command": ["test", "-e", "/tmp/a flag"]},
        ),
        ({"check_command": ""}, {"command": []}),
        ({"check_tool": ""}, {"tool": ""}),
    ],
)
def test_the_check_options_become_one_field(typed: dict[str, Any], check: dict[str, Any]) -> None:
    assert JobOptions(**typed, retries=1).fields() == {"retries": 1, "check": check}


def test_a_check_command_with_an_open_quotation_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"check_command: .*No closing quotation"):
        JobOptions(check_command="test 'x").fields()


def test_quiet_hours_and_token_limits_are_passed_on() -> None:
    typed = JobOptions(quiet_hours=["12:00-13:00"], tokens_per_run=5, tokens_per_day=0)
    assert typed.fields() == {
        "quiet_hours": ["12:00-13:00"],
        "tokens_per_run": 5,
        "tokens_per_day": 0,
    }


def test_metadata_is_given_as_name_value_pairs_or_json() -> None:
    typed = JobOptions(metadata=["team=blue", "query=a=b"])
    assert typed.fields() == {"metadata": {"team": "blue", "query": "a=b"}}
    assert JobOptions(metadata=[""]).fields() == {"metadata": {}}
    typed = JobOptions(metadata=['{"team": {"size": 3}, "on": true}', "query=1"])
    assert typed.fields() == {"metadata": {"team": {"size": 3}, "on": True, "query": "1"}}
    with pytest.raises(InvalidInput, match=r"^metadata: is not valid JSON"):
        JobOptions(metadata=['{"team"']).fields()
    with pytest.raises(
        InvalidInput,
        match=r'^metadata: "blue" has no name or no "=" \(write name=value, or a JSON object\)',
    ):
        JobOptions(metadata=["blue"]).fields()


@pytest.fixture
def stdin() -> Iterator[Callable[[bytes], None]]:
    """Return a function that puts bytes on standard input."""
    saved = os.dup(0)

    def put(content: bytes) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.seek(0)
            os.dup2(file.fileno(), 0)

    yield put
    os.dup2(saved, 0)
    os.close(saved)


@pytest.mark.usefixtures("stored")
def test_a_prompt_is_read_from_a_file_or_standard_input(
    daybook: Any, given: dict[str, Any], tmp_path: Path, stdin: Callable[[bytes], None]
) -> None:
    file = tmp_path / "prompt.md"
    file.write_text("# Résumé\n\nSay hello.\n", encoding="utf-8")
    stdin(b"Say hello\nagain.\n\n")
    for typed, prompt in (
        (f"@{file}", "# Résumé\n\nSay hello."),
        ("@-", "Say hello\nagain.\n"),
        ("@@channel: hello", "@channel: hello"),
        ("mail@example.org", "mail@example.org"),
    ):
        assert daybook("edit", "weekly", typed).code == 0
        assert given.pop("prompt") == prompt


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b" \n", "is empty"),
        (b"\xff\xfe", "cannot be read: it is not UTF-8 text"),
        (b"x" * (MAX_BODY_LENGTH + 1), "is too long (use at most 500,000 characters)"),
    ],
)
def test_a_prompt_file_that_cannot_be_used_is_refused(
    daybook: Any, tmp_path: Path, stdin: Callable[[bytes], None], content: bytes, problem: str
) -> None:
    file = tmp_path / "prompt.md"
    file.write_bytes(content)
    stdin(content)
    for typed, label in ((f"@{file}", str(file)), ("@-", "standard input")):
        for command in (["edit", "weekly", typed], ["add", typed, "--on-demand"]):
            result = daybook(*command)
            assert (result.code, result.out) == (2, "")
            assert result.err.startswith(f"daybook: PROMPT: {label} {problem}")
            os.lseek(0, 0, os.SEEK_SET)


@pytest.mark.usefixtures("stored")
def test_an_absent_prompt_file_is_named_and_at_signs_are_explained(daybook: Any) -> None:
    result = daybook("add", "@nowhere.md", "--on-demand")
    assert result.code == 2
    expected = "PROMPT: nowhere.md cannot be read: No such file or directory (write @@ for a text"
    assert expected in result.err


def test_edit_prints_each_changed_field_old_and_new(daybook: Any, daybook_home: Home) -> None:
    daybook("add", "every day at 9", "Hi", "--name", "brief", "--tz", "UTC")
    edited = daybook("edit", "brief", "--cron", "30 8 * * *", "--retries", "5").out
    assert "schedule: at 09:00 every day, UTC → at 08:30 every day, UTC" in edited
    assert "retries: 3 → 5" in edited
