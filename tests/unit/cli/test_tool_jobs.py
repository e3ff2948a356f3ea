"""Jobs that call a tool, on the command line, without Prefect."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daybook.cli.tools import _of_type as of_type
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from tests.unit.cli.conftest import MADE
from tests.unit.cli.test_error_text import check, rows

pytestmark = pytest.mark.usefixtures("home")

EVERY = ("--every", "5m")
PARAMS = {"full": True, "key": "{{secret:ops}}"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a home whose ledger has the job `renew`."""
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("DAYBOOK_TIMEZONE", "Europe/Berlin")

    async def fill() -> None:
        job = new_job(now=MADE, name="renew", tool="search.reindex", params=PARAMS, every="1h")
        async with (
            Ledger(f"sqlite+aiosqlite:///{tmp_path}/ledger.db") as ledger,
            ledger.write() as session,
        ):
            await store.add(session, job, "renew", MADE)

    asyncio.run(fill())
    yield tmp_path


def test_show_prints_the_tool_and_its_params(daybook: Any) -> None:
    found = daybook("show", "renew", "--json").json
    assert (found["kind"], found["tool"], found["params"]) == (
        "tool-call",
        "search.reindex",
        PARAMS,
    )
    assert found["deployment"] == "tool-call/renew"
    assert "agent" not in found
    output = daybook("show", "renew").out
    assert "\n  tool        search.reindex\n" in output
    assert '\n  params      {"full": true, "key": "{{secret:ops}}"}\n' in output


def test_a_dry_run_shows_the_call_without_the_secret(daybook: Any) -> None:
    found = daybook("run", "renew", "--dry-run", "--json").json
    assert found["does"] == {"tool": "search.reindex", "params": PARAMS}
    assert (found["kind"], found["session_id"], found["history"]) == ("tool-call", None, 0)
    assert '{"full": true, "key": "{{secret:ops}}"}' in daybook("run", "renew", "--dry-run").out


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "integer", "title": "Count"}, "integer"),
        ({"type": "boolean", "default": False}, "boolean, default false"),
        (
            {"type": "string", "enum": ["words", "letters"], "default": "words"},
            'one of "words", "letters", default "words"',
        ),
        ({"type": "string", "description": "Where."}, "string: Where."),
        ({"type": "integer", "minimum": 1}, '{"type": "integer", "minimum": 1}'),
        ({"anyOf": [{"type": "string"}]}, '{"anyOf": [{"type": "string"}]}'),
        ({"type": ["string", "null"]}, '{"type": ["string", "null"]}'),
        (True, "True"),
        ({}, "anything"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_simple_schema_of_a_tool_is_described_in_words(schema: Any, expected: str) -> None:
    assert of_type(schema) == expected


@pytest.mark.parametrize(
    ("typed", "option", "words"),
    [
        (["x", "--tool", "a.b"], "PROMPT and --tool", ["only one"]),
        (["--tool", "a.b", "--webhook", "https://x.example"], "--webhook and --tool", ["only one"]),
        (["--tool", "a.b", "--params", "{"], "--params", ["not valid JSON", "@params.json"]),
        (["--tool", "a.b", "--params", "[]"], "--params", ["not a JSON object"]),
        (["--tool", "a.b", "--params", "@/none"], "--params", ["/none", "No such file"]),
        (["--tool", "a.b", "--params", '{"a": NaN}'], "--params", ["NaN is not JSON"]),
        (["--tool", "a.b", "--params", "[" * 100_000], "--params", ["not valid JSON"]),
        (["--tool", "a.b", "--agent", "a"], "--agent", ["tool call"]),
        (["--tool", " "], "--tool", ["blank"]),
        (["--tool", "https://x.example/mcp"], "--tool", ["a URL without a tool"]),
        (["x", "--params", "{}"], "--params", ["tool call"]),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value)[:40],
)
def test_add_names_the_invalid_option_and_stores_nothing(
    daybook: Any, home: Path, typed: list[str], option: str, words: list[str]
) -> None:
    before = rows(home)
    check(daybook("add", *typed, *EVERY), option, words)
    assert rows(home) == before


@pytest.mark.parametrize(
    ("typed", "option", "words"),
    [
        (["--tool", "a\nb"], "--tool", ["invalid characters"]),
        (["--params", "{"], "--params", ["not valid JSON"]),
        (["Say hello."], "PROMPT", ["tool call"]),
        (["--webhook", "https://x.example"], "--webhook", ["tool call"]),
    ],
    ids=["tool", "params", "prompt", "webhook"],
)
def test_an_edit_that_is_refused_leaves_the_job_untouched(
    daybook: Any, home: Path, typed: list[str], option: str, words: list[str]
) -> None:
    before = rows(home)
    check(daybook("edit", "renew", *typed), option, words)
    assert rows(home) == before
