"""What `add` and `edit` hand to the service of what was typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daybook.api import jobs
from daybook.cli.job_options import JobOptions
from daybook.errors import InvalidInput

SCHEMA = {"type": "object", "properties": {"größe": {"type": "integer"}}}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The changes that `edit` asked for."""
    asked: dict[str, Any] = {}

    async def edit_job(ref: str, changes: dict[str, Any]) -> dict[str, Any]:
        asked.update({name: value for name, value in changes.items() if value is not None})
        return await jobs.show(ref)

    monkeypatch.setattr(jobs, "edit_job", edit_job)
    return asked


@pytest.mark.usefixtures("stored")
def test_only_what_was_typed_is_given_and_zero_is_something(
    daybook: Any, given: dict[str, Any]
) -> None:
    typed = ["--model", "", "--retries", "0", "--retry-delay", "2s", "--output-format", "json"]
    assert daybook("edit", "weekly", *typed).code == 0
    assert given == {"model": "", "retries": 0, "retry_delay": "2s", "output_format": "json"}


@pytest.mark.usefixtures("stored")
def test_deadline_and_what_to_do_with_a_lost_run_are_typed(
    daybook: Any, given: dict[str, Any]
) -> None:
    assert daybook("edit", "weekly", "--deadline", "2h", "--on-lost", "rerun").code == 0
    assert given == {"deadline": "2h", "on_lost": "rerun"}
    given.clear()
    assert daybook("edit", "weekly", "--deadline", "").code == 0  # none any more
    assert given == {"deadline": ""}


def test_a_schema_is_typed_or_read_from_a_file(tmp_path: Path) -> None:
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
def test_a_check_is_one_field(typed: dict[str, Any], check: dict[str, Any]) -> None:
    assert JobOptions(**typed, retries=1).fields() == {"retries": 1, "check": check}


def test_a_command_that_is_not_closed_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"check_command: .*No closing quotation"):
        JobOptions(check_command="test 'x").fields()


def test_quiet_hours_and_tokens_are_typed() -> None:
    typed = JobOptions(quiet_hours=["12:00-13:00"], tokens_per_run=5, tokens_per_day=0)
    assert typed.fields() == {
        "quiet_hours": ["12:00-13:00"],
        "tokens_per_run": 5,
        "tokens_per_day": 0,
    }


def test_metadata_are_names_and_values() -> None:
    typed = JobOptions(metadata=["team=blue", "query=a=b"])
    assert typed.fields() == {"metadata": {"team": "blue", "query": "a=b"}}
    assert JobOptions(metadata=[""]).fields() == {"metadata": {}}
    typed = JobOptions(metadata=['{"team": {"size": 3}, "on": true}', "query=1"])
    assert typed.fields() == {"metadata": {"team": {"size": 3}, "on": True, "query": "1"}}
    with pytest.raises(InvalidInput, match=r"^metadata: is not valid JSON"):
        JobOptions(metadata=['{"team"']).fields()
    with pytest.raises(InvalidInput, match=r'^metadata: "blue" has no name \(write name=value\)'):
        JobOptions(metadata=["blue"]).fields()
