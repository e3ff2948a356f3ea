"""`daybook inbox`: its messages, and marking them as read, from the ledger alone."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook.delivery import outbox
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from tests.commands import Daybook
from tests.costs import one_in
from tests.unit.cli.conftest import MADE
from tests.unit.cli.test_callbacks import row
from tests.unit.cli.test_reading import on_a_terminal

ONE = {
    *("id", "event", "alert", "job", "job_removed", "run_id", "subject", "text", "created_at"),
    "read_at",
}
ANSWER = "Two pull requests are open.\nBoth wait for you."


async def _fill(file: Path) -> list[str]:
    """Add an answer, two alerts and a callback; return the ids of the first three, oldest first."""
    async with Ledger(f"sqlite+aiosqlite:///{file}") as ledger, ledger.write() as session:
        job = new_job(now=MADE, prompt="Any news?", name="brief", on_demand=True)
        of_job = (await store.add(session, job, "brief", MADE)).id
        messages = [
            ("completed", outbox.MESSAGE, of_job, "brief: succeeded", ANSWER),
            ("failed", outbox.ALERT, of_job, "brief: failed", "brief failed: no answer"),
            ("undelivered", outbox.ALERT, None, "undelivered: 2", "Last error: 500"),
        ]
        ids = []
        for minute, (event, purpose, job_id, subject, body) in enumerate(messages):
            made = await outbox.enqueue_message(
                session,
                key=subject,
                purpose=purpose,
                event=event,
                channel="inbox",
                subject=subject,
                body=body,
                job_id=job_id,
                now=MADE + timedelta(minutes=minute),
            )
            assert made is not None
            ids.append(made.id)
        session.add(row(f"msg_{'f' * 32}", 9, job_id=of_job))
        return ids


@pytest.fixture
def ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("DAYBOOK_TIMEZONE", "UTC")
    return asyncio.run(_fill(tmp_path / "ledger.db"))


@pytest.fixture
def unread(tmp_path: Path) -> Callable[[], set[str]]:
    """Return a query for the ids of the unread messages in the ledger."""

    def unread_ids() -> set[str]:
        asked = "SELECT id FROM outbox WHERE address = 'inbox' AND read_at IS NULL"
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as file:
            return {each for (each,) in file.execute(asked)}

    return unread_ids


def test_inbox_lists_unread_messages_newest_first(daybook: Daybook, ids: list[str]) -> None:
    found = daybook("inbox", "--json").json
    assert [each["id"] for each in found] == ids[::-1]
    assert all(each.keys() == ONE for each in found)
    assert [each["alert"] for each in found] == [True, True, False]
    assert [each["job"] for each in found] == [None, "brief", "brief"]
    assert (found[2]["text"], found[2]["read_at"]) == (ANSWER, None)
    assert [each["id"] for each in daybook("inbox", "--limit", "1", "--json").json] == ids[2:]


def test_the_table_has_a_line_per_message_and_marks_alerts(
    daybook: Daybook, ids: list[str]
) -> None:
    result = daybook("inbox")
    head, undelivered, failed, answer = result.out.splitlines()
    assert head.split() == ["ID", "WHEN", "JOB", "ABOUT", "MESSAGE"]
    assert re.fullmatch(
        rf"{ids[2][4:12]}  \d+ days ago  - +! undelivered  undelivered: 2\. Last error: 500",
        undelivered,
    )
    assert re.search(r" brief +! failed +brief failed: no answer$", failed)
    assert re.search(r" brief +completed +Two pull requests are open\.$", answer)
    assert "daybook inbox --read" in result.err


@pytest.mark.parametrize("columns", one_in(3, [60, 80, 120]))
@pytest.mark.usefixtures("ids")
def test_each_message_is_one_line_on_a_terminal(columns: int) -> None:
    lines = on_a_terminal(columns, "inbox")
    assert len(lines) == 1 + 3
    assert max(map(len, lines)) <= columns


@pytest.mark.parametrize("written", [slice(None), slice(12), slice(4, 12)])
def test_showing_one_message_prints_its_text_and_keeps_it_unread(
    daybook: Daybook, ids: list[str], unread: Callable[[], set[str]], written: slice
) -> None:
    (found,) = daybook("inbox", ids[0][written], "--json").json
    assert (found["id"], found["text"]) == (ids[0], ANSWER)
    out = daybook("inbox", ids[0][written]).out
    assert out.startswith("brief: succeeded\n")
    assert out.endswith("\n  Two pull requests are open.\n  Both wait for you.\n")
    assert re.search(r"^  read +no$", out, re.MULTILINE)
    assert unread() == set(ids)


def test_read_marks_the_named_messages_or_all(
    daybook: Daybook, ids: list[str], unread: Callable[[], set[str]]
) -> None:
    assert daybook("inbox", "--read", ids[0], ids[1][4:12], "--json").json == {"read": 2}
    assert unread() == {ids[2]}
    assert [each["id"] for each in daybook("inbox", "--json").json] == [ids[2]]
    assert [each["id"] for each in daybook("inbox", "--all", "--json").json] == ids[::-1]
    assert daybook("inbox", "--read").out == "Marked as read: 1 message\n"
    assert unread() == set()
    assert daybook("inbox", "--read", ids[0], "--json").json == {"read": 0}
    result = daybook("inbox")
    assert (result.code, result.out) == (0, "")
    assert "daybook inbox --all" in result.err


def test_inbox_filters_by_job(daybook: Daybook, ids: list[str]) -> None:
    found = daybook("inbox", "--job", "brief", "--json").json
    assert [each["id"] for each in found] == [ids[1], ids[0]]


@pytest.mark.parametrize(
    ("typed", "refused"),
    [
        (["no-id"], (3, "not found")),
        (["f" * 32], (3, "not found")),  # a callback
        (["--read", "{0}", "no-id"], (3, "not found")),
        (["--job", "nobody"], (3, 'job "nobody" not found')),
        (["--limit", "0"], (2, "--limit: 0 is too small (use 1 or more)")),
        (["--read", "--job", "brief"], (2, "--job: ")),
        (["{0}", "--all"], (2, "--all: ")),
    ],
)
def test_an_invalid_command_is_refused_and_marks_nothing_as_read(
    daybook: Daybook,
    ids: list[str],
    unread: Callable[[], set[str]],
    typed: list[str],
    refused: tuple[int, str],
) -> None:
    result = daybook("inbox", *(each.format(ids[0]) for each in typed))
    assert (result.code, result.out) == (refused[0], "")
    assert refused[1] in result.err
    assert unread() == set(ids)


def test_an_empty_inbox_says_that_there_are_no_messages(
    daybook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    result = daybook("inbox", "--all")
    assert (result.code, result.out, result.err) == (0, "", "There are no messages.\n")
    assert daybook("inbox", "--json").json == []
