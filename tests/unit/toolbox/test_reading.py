"""The answers of the tools that only read the ledger."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from daybook.api import sessions
from daybook.delivery.views import RunDetails
from daybook.jobs import store
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import MessageRow, SessionRow, SummaryRow
from daybook.toolbox import call, calls, text
from tests.unit.conftest import view
from tests.unit.toolbox.conftest import MADE

pytestmark = pytest.mark.usefixtures("stored")


async def answered(name: str, **given: object) -> str:
    answer = await call(name, given)
    assert not answer.refused, answer.text
    return answer.text


async def test_spend_is_by_job_by_default(stored: Path) -> None:
    assert await answered("spend") == await answered("spend", by="job")


async def id_of(stored: Path, name: str) -> str:
    async with Ledger(f"sqlite+aiosqlite:///{stored}") as ledger, ledger.read() as session:
        return (await store.find(session, name)).id


async def test_cron_list_has_a_line_for_each_job(stored: Path) -> None:
    first, *lines = (await answered("cron_list")).splitlines()
    assert first == "3 jobs:"
    by_hand, export, weekly = lines
    assert by_hand == (
        f'- "by hand" (id {(await id_of(stored, "by hand"))[:8]}), disabled, on demand; '
        "next due: -; last: not run yet"
    )
    assert export.startswith('- "export" (id ')
    assert "enabled, every 1 hour 30 minutes; next due: " in export
    assert "at 09:00 on Mondays, Europe/Berlin; next due: Monday " in weekly


@pytest.mark.floor("E", "cron_list filters by status")
@pytest.mark.parametrize(
    ("status", "names"),
    [
        ("all", ["by hand", "export", "weekly"]),
        ("enabled", ["export", "weekly"]),
        ("disabled", ["by hand"]),
        ("failed", []),
    ],
)
async def test_cron_list_filters_by_status(status: str, names: list[str]) -> None:
    answer = await answered("cron_list", status=status)
    assert [line.split('"')[1] for line in answer.splitlines() if line.startswith("- ")] == names


async def test_an_empty_cron_list_says_that_there_are_no_jobs() -> None:
    answer = await answered("cron_list", status="failed")
    assert answer == "There are no jobs whose last run failed. cron_add adds one."


@pytest.mark.floor("B", "cron_get shows a job")
async def test_cron_get_shows_a_job_with_its_recipients(stored: Path) -> None:
    lines = (await answered("cron_get", job_id="weekly")).splitlines()
    assert lines[0] == f'Job "weekly", id {await id_of(stored, "weekly")}'
    assert lines[1:3] == ["is: enabled", "schedule: at 09:00 on Mondays, Europe/Berlin"]
    assert lines[3].startswith("next due: Monday ")
    assert lines[3].count("Monday") == text.MAX_DUE_TIMES
    assert lines[4:7] == ["prompt: Sum up the week.", "agent: default", "session: reuse"]
    assert "answer goes to: inbox" in lines
    assert "failures go to: inbox" in lines
    assert "owner: user" in lines


async def test_cron_get_finds_a_job_by_a_prefix_of_its_id(stored: Path) -> None:
    job_id = await id_of(stored, "export")
    answer = await answered("cron_get", job_id=job_id[:8])
    assert "calls: POST https://api.example.org/export" in answer
    assert "answer goes to: no channel; it is stored, and cron_runs shows it" in answer


async def test_cron_runs_lists_the_runs_of_a_job() -> None:
    first, run, *_ = (await answered("cron_runs", job_id="weekly")).splitlines()
    assert first == 'Runs of "weekly", newest first:'
    assert ": waiting, requested " in run
    assert run.endswith(", trigger manual")


async def test_a_failed_run_has_its_error_and_its_remark() -> None:
    failed = view(
        RunDetails,
        id="0123456789",
        status="failed",
        trigger="manual",
        scheduled_for=MADE,
        duration_seconds=None,
        reason="agent a: HTTP 503",
        error="exit code 1",
        delivery="not_requested",
        output=None,
    )
    _, *why = text.run(failed, "UTC", "").splitlines()
    assert why == ["why: exit code 1", "note: agent a: HTTP 503"]


async def test_cron_runs_says_that_a_job_has_not_run_yet() -> None:
    answer = await answered("cron_runs", job_id="export", limit=1)
    assert answer == '"export" has not run yet; cron_trigger runs it now.'


async def test_cron_next_lists_the_due_times_of_a_schedule() -> None:
    answer = await answered(
        "cron_next", schedule="at 2999-07-01T09:00", timezone="Europe/Berlin", count="3"
    )
    assert answer.splitlines() == [
        "once at 09:00 on Monday 1 July 2999, Europe/Berlin:",
        "- Monday 2999-07-01 09:00 +02:00 = 2999-07-01T07:00:00Z",
    ]


async def test_cron_next_without_a_time_zone_uses_that_of_the_settings() -> None:
    answer = await answered("cron_next", schedule="0 9 * * 1-5", count=2)
    assert answer.splitlines()[0] == "at 09:00 on weekdays, Europe/Berlin:"
    assert len(answer.splitlines()) == 3


async def test_cron_next_lists_the_due_times_of_a_job() -> None:
    answer = await answered("cron_next", job_id="weekly", count=2)
    assert answer.splitlines()[0] == "at 09:00 on Mondays, Europe/Berlin:"
    assert [line[:8] for line in answer.splitlines()[1:]] == ["- Monday", "- Monday"]


async def test_null_and_an_empty_string_count_as_not_given() -> None:
    given = {"schedule": "@daily", "job_id": None, "timezone": "", "count": None}
    assert len((await answered("cron_next", **given)).splitlines()) == 6


# --- sessions


@pytest.fixture
async def talked(stored: Path) -> None:
    """Add a session with two messages and a summary."""
    async with Ledger(f"sqlite+aiosqlite:///{stored}") as ledger, ledger.write() as session:
        now, run_id = ledger.now(), "r" * 32
        fields: dict[str, Any] = {
            "agent": "poet",
            "title": "Any news?",
            "created_at": now,
            "updated_at": now,
        }
        session.add(SessionRow(id="poet:ops", **fields))
        await session.flush()
        for number, role, content in ((7, "user", "And now?"), (8, "assistant", "No\nnews.")):
            given: dict[str, Any] = {
                "role": role,
                "content": content,
                "source": {},
                "run_id": run_id,
                "at": now,
            }
            session.add(MessageRow(session_id="poet:ops", number=number, **given))
        given = {"content": "Quiet.", "agent": "small", "run_id": run_id, "at": now}
        session.add(SummaryRow(session_id="poet:ops", through=6, **given))


@pytest.mark.usefixtures("talked")
async def test_session_list_and_session_get_show_titles_summary_and_messages() -> None:
    line = 'poet:ops "Any news?", 2 messages with poet'
    assert (await answered("session_list")).startswith(f"- {line}, last used ")
    assert (await answered("session_get", session="ops")).splitlines() == [
        f"Session {line}",
        "summary of the messages up to 6: Quiet.",
        "7 user: And now?",
        "8 assistant: No",
        "news.",
    ]


async def test_session_send_waits_only_a_short_time_for_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release, asked = asyncio.Event(), list[tuple[str, str]]()
    run = view(
        RunDetails,
        id="0123456789",
        status="succeeded",
        trigger="session",
        scheduled_for=MADE,
        duration_seconds=1.5,
        reason="",
        error=None,
        delivery="not_requested",
        output="No.",
    )

    async def send(ref: str, prompt: str) -> RunDetails:
        asked.append((ref, prompt))
        await release.wait()
        return run

    monkeypatch.setattr(sessions, "send", send)
    monkeypatch.setattr(calls, "_use_current_server", lambda: None)
    monkeypatch.setattr(calls, "WAIT_TIMEOUT_SECONDS", 0.01)
    later = await answered("session_send", session="ops", prompt="News?")
    assert later == "Sent, and not answered yet. session_get shows the answer later."
    (sending,) = calls._SENDING
    release.set()
    assert await sending is run
    answer = await answered("session_send", session="ops", prompt="Now?")
    assert answer.splitlines()[0].startswith("Answered: run 01234567: succeeded, requested Monday")
    assert answer.splitlines()[1:] == ["output: No."]
    assert asked == [("ops", "News?"), ("ops", "Now?")]
    assert not calls._SENDING
