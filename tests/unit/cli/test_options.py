"""What `add` and `edit` hand to the service of what was typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daybook.cli.options import JobOptions
from daybook.service import jobs

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
