"""Refused tool calls: the answer has a hint, nothing is stored, and the log has an entry."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlmodel import select

from daybook.api import runs
from daybook.errors import DaybookError
from daybook.ledger.engine import Ledger, open_ledger
from daybook.ledger.tables import JobRow, RevisionRow
from daybook.owners import Actor, acting_as
from daybook.prefect import client
from daybook.runs import rows
from daybook.toolbox import by_name, call, text
from tests.costs import one_in

ADD = {"prompt": "Sum up.", "schedule": "0 9 * * 1-5"}

LONG = "0," * 500_000 + "0 * * * *"

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (
        "cron_add",
        {"schedule": "@daily"},
        "prompt: is missing (write the prompt for the agent)",
    ),
    ("cron_add", ADD | {"prompt": " \n"}, "prompt: is missing (write the prompt"),
    (
        "cron_add",
        {"prompt": "Sum up."},
        'schedule: is missing (write a cron expression ("0 9 * * 1-5"',
    ),
    ("cron_add", ADD | {"schedule": "30m"}, 'schedule: "30m" is ambiguous (write `every 30m`'),
    (
        "cron_add",
        ADD | {"schedule": "every day at nine"},
        'write "every weekday at 9:00", "every 2h", "tomorrow at 9:00"',
    ),
    ("cron_add", ADD | {"schedule": "0 0 30 2 *"}, "schedule: "),
    ("cron_add", ADD | {"timezone": "Europe/Berln"}, "(did you mean Europe/Berlin"),
    ("cron_add", ADD | {"session": "fresh"}, "(use one of: reuse, new, chat)"),
    ("cron_add", ADD | {"chat_id": "42"}, "chat_id: needs a channel"),
    ("cron_add", ADD | {"promt": "x"}, "promt: unknown field (did you mean prompt?)"),
    ("cron_add", ADD | {"url": "https://a.example"}, "url: unknown field"),
    ("cron_add", ADD | {"name": ["a"]}, "name: ['a'] is not a string"),
    ("cron_add_webhook", {"schedule": "@daily"}, "url: is missing (write an https:// address)"),
    ("cron_add_webhook", {"url": "ftp://a.example", "schedule": "@daily"}, "is not a valid URL"),
    (
        "cron_add_webhook",
        {"url": "http://[/", "schedule": "@daily"},
        "url: is not a valid URL (use a URL such as",
    ),
    (
        "cron_add_webhook",
        {"url": "https://a.example", "schedule": "@daily", "headers": "X: y"},
        'headers: is not JSON (write a JSON object, such as {"full": true})',
    ),
    (
        "cron_add_tool",
        {"tool": "search.reindex", "schedule": "@daily", "params": "[1]"},
        "params: is not a JSON object",
    ),
    ("cron_list", {"status": "sleeping"}, "(use one of: all, enabled, disabled, failed)"),
    ("cron_get", {}, "job_id: is missing (see cron_list)"),
    ("cron_get", {"job_id": "nightly"}, 'job "nightly" not found; cron_list lists your jobs'),
    (
        "cron_get",
        {"job_id": "wekly"},
        '"wekly" not found (did you mean "weekly"?); cron_list lists',
    ),
    (
        "cron_get",
        {"job_id": "x\nERROR forged"},
        "job_id: is too long, or not one line (use one line of at most 200 characters)",
    ),
    (
        "cron_remove",
        {"job_id": "x" * 201},
        "job_id: is too long, or not one line (use one line of at most 200",
    ),
    ("cron_next", {"job_id": "x" * 201}, "job_id: is too long, or not one line"),
    ("cron_cancel", {"job_id": "\x1b[2J"}, "job_id: is too long, or not one line"),
    ("cron_update", {"job_id": "weekly"}, "(pass a field to change, such as schedule)"),
    ("cron_update", {"job_id": "nightly", "prompt": "x"}, 'job "nightly" not found'),
    ("cron_update", {"job_id": "weekly", "schedule": "61 * * * *"}, "schedule: "),
    (
        "cron_update",
        {"job_id": "weekly", "url": "https://a.example"},
        "url: applies only to webhooks",
    ),
    ("cron_remove", {"job_id": "nightly"}, 'job "nightly" not found; cron_list'),
    ("cron_enable", {"job_id": "nightly"}, 'job "nightly" not found; cron_list'),
    ("cron_disable", {"job_id": "nightly"}, 'job "nightly" not found; cron_list'),
    ("cron_trigger", {"job_id": "nightly"}, 'job "nightly" not found; cron_list'),
    (
        "cron_cancel",
        {"job_id": "nightly"},
        '"nightly" not found; cron_runs lists the runs of a job',
    ),
    ("cron_cancel", {"job_id": "export"}, 'job "export" has no active run; cron_runs lists'),
    ("cron_runs", {"job_id": "nightly"}, 'job "nightly" not found; cron_list'),
    ("cron_runs", {"job_id": "weekly", "limit": 51}, "limit: 51 is out of range (use 1 to 50)"),
    ("cron_runs", {"job_id": "weekly", "limit": "few"}, "limit: 'few' is not a whole number"),
    ("cron_runs", {"job_id": "weekly", "limit": True}, "limit: True is not a whole number"),
    ("cron_next", {}, "schedule: is missing (pass either job_id or schedule)"),
    ("cron_next", {"job_id": "weekly", "schedule": "@daily"}, "cannot be combined with job_id"),
    (
        "cron_next",
        {"job_id": "weekly", "timezone": "UTC"},
        "timezone: does not apply to a job, which has its own",
    ),
    ("cron_next", {"job_id": "nightly"}, 'job "nightly" not found; cron_list'),
    (
        "cron_next",
        {"schedule": LONG},
        "schedule: is too long, or not one line (use one line of at most 500 characters)",
    ),
    (
        "cron_next",
        {"schedule": "@daily", "timezone": LONG},
        "timezone: is too long, or not one line",
    ),
    ("cron_add", ADD | {"schedule": LONG}, "schedule: is too long, or not one line"),
    ("cron_add", ADD | {"timezone": LONG}, "timezone: is too long, or not one line"),
    ("cron_add", ADD | {"model": "a\nb"}, "model: is not valid"),
    (
        "cron_update",
        {"job_id": "weekly", "schedule": LONG},
        "schedule: is too long, or not one line",
    ),
    (
        "cron_update",
        {"job_id": "weekly", "timezone": LONG},
        "timezone: is too long, or not one line",
    ),
    (
        "cron_disable",
        {"job_id": "weekly", "note": "a\nERROR forged"},
        "note: is too long, or not one line (use one line of at most 200 characters)",
    ),
    ("cron_disable", {"job_id": "weekly", "note": "x" * 201}, "note: is too long, or not one line"),
    ("cron_nxt", {}, "there is no tool cron_nxt (known: cron_add, "),
]


async def held(file: Path) -> list[Any]:
    async with Ledger(f"sqlite+aiosqlite:///{file}") as ledger, ledger.read() as session:
        jobs = (await session.execute(select(JobRow))).scalars().all()
        revisions = (await session.execute(select(RevisionRow))).scalars().all()
        return [each.model_dump() for each in (*jobs, *revisions)]


@pytest.mark.parametrize(("name", "given", "expected"), one_in(4, REFUSED))
async def test_a_refusal_has_a_hint_is_logged_and_stores_nothing(
    stored: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    given: dict[str, Any],
    expected: str,
) -> None:
    before = await held(stored)
    with caplog.at_level(logging.WARNING, "daybook.toolbox"), acting_as(Actor(via="mcp")):
        answer = await call(name, given)
    assert answer.refused
    assert expected in answer.text
    assert await held(stored) == before
    (logged,) = [each for each in caplog.records if each.name.startswith("daybook.toolbox")]
    assert logged.__dict__["action"] == "agent_refused"
    assert logged.__dict__["owner"] == "user"
    assert logged.__dict__["tool"] == name
    assert logged.__dict__["error"] == answer.text


async def test_the_log_names_the_owner_of_a_refused_call(
    stored: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "daybook.toolbox"), acting_as(Actor("agent:cleo")):
        await call("cron_get", {"job_id": "nightly"})
    messages = [each.getMessage() for each in caplog.records if "toolbox" in each.name]
    assert messages == [
        'agent:cleo called cron_get, which was refused: job "nightly" not found; '
        "cron_list lists your jobs"
    ]


async def test_a_line_break_in_an_argument_cannot_forge_a_log_line(
    stored: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "daybook.toolbox"):
        await call("x\nERROR forged", {})
        await call("cron_get", {"job_id": "x\nERROR forged"})
    assert len(caplog.messages) == 2
    assert not any("\n" in each for each in caplog.messages)


async def test_a_tool_called_directly_raises_the_error_with_its_hint(stored: Path) -> None:
    with pytest.raises(DaybookError, match='job "nightly" not found; cron_list lists your jobs'):
        await by_name()["cron_get"].call({"job_id": "nightly"})


async def test_an_internal_error_is_logged_and_its_details_are_not_returned(
    stored: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "jobs", None)  # 'NoneType' object is not callable
    with caplog.at_level(logging.ERROR, "daybook.toolbox"):
        answer = await call("cron_list")
    assert answer.refused
    assert answer.text == "cron_list failed inside Daybook; the operator's log says why"
    (logged,) = caplog.records
    assert logged.__dict__["action"] == "tool_crashed"
    assert logged.exc_info is not None


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first check of Prefect pass, although nothing listens there."""

    async def passes(_: Any) -> None:
        """Answer as a Prefect that stops right after this check."""

    monkeypatch.setattr(client, "check_connection", passes)


@pytest.mark.usefixtures("unreachable")
async def test_a_call_that_failed_halfway_does_not_say_that_nothing_was_changed(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def listens(_: str, __: float) -> str:
        return ""

    monkeypatch.setattr(client, "local_problem", listens)
    before = await runs.history("export")
    answer = await call("cron_trigger", {"job_id": "export"})
    assert answer.refused
    assert answer.text.endswith("so check before you repeat it)")
    assert len(await runs.history("export")) == len(before) + 1


@pytest.mark.usefixtures("unreachable")
async def test_a_waiting_run_is_cancelled_without_prefect(stored: Path) -> None:
    (row,) = await runs.history("weekly")
    async with open_ledger() as ledger, ledger.write() as session:
        (await rows.get(session, row.id)).flow_run_id = str(uuid4())
    answer = await call("cron_cancel", {"job_id": "weekly"})
    assert not answer.refused, answer.text
    assert answer.text.startswith("Ended: ")
    assert (await runs.show(row.id)).status == "cancelled"
