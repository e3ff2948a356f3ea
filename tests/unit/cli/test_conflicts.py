"""`daybook conflicts`, and how other commands show a conflict, without Prefect."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook.jobs import store
from daybook.ledger.engine import Ledger
from daybook.prefect import links as records
from tests.unit.cli.conftest import MADE, fill

LOST = {"cron": "0 7 * * 1", "timezone": "UTC"}
AT = MADE + timedelta(hours=1)


@pytest.fixture
def disputed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record two lost edits of `weekly` in Prefect, and an extra schedule of `often` there."""
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    asyncio.run(fill(tmp_path / "ledger.db"))

    async def write() -> None:
        async with (
            Ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger,
            ledger.write() as session,
        ):
            weekly = await store.find(session, "weekly")
            theirs = weekly.job.parameters() | {"prompt": "Say goodbye."}
            records.record_conflict(weekly.row, {"schedule": LOST}, MADE)
            records.record_conflict(weekly.row, {"parameters": theirs}, AT)
            often = await store.find(session, "often")
            often.row.synced = {"foreign": ["rrule FREQ=MONTHLY"]}
            session.add_all([weekly.row, often.row])

    asyncio.run(write())


@pytest.mark.usefixtures("disputed")
def test_conflicts_shows_both_versions_of_each_field(daybook: Any) -> None:
    (found,) = daybook("conflicts", "--json").json
    assert (found["job"], found["at"]) == ("weekly", AT.isoformat())
    assert found["fields"]["schedule"] == {
        "ledger": {"cron": "0 9 * * 1", "timezone": "Europe/Berlin"},
        "prefect": LOST,
        "invalid": "",
    }
    both = found["fields"]["parameters"]
    assert (both["ledger"]["prompt"], both["prefect"]["prompt"]) == ("Say hello.", "Say goodbye.")
    result = daybook("conflicts")
    assert result.code == 0
    assert result.out.startswith("weekly (")
    # Of the parameters, only those that differ are shown.
    assert '  parameters in ledger   {"prompt": "Say hello."}\n' in result.out
    assert '  parameters in Prefect  {"prompt": "Say goodbye."}\n' in result.out
    assert '"cron": "0 7 * * 1"' in result.out


@pytest.mark.usefixtures("disputed")
def test_list_and_show_mark_a_job_with_a_conflict(daybook: Any) -> None:
    by_name = {job["name"]: job for job in daybook("list", "--json").json}
    assert by_name["weekly"]["conflicts"] == ["parameters", "schedule"]
    assert by_name["often"]["conflicts"] == []
    weekly = next(line for line in daybook("list").out.splitlines() if "weekly" in line)
    assert "on, conflict" in weekly
    assert "see `daybook conflicts`" in daybook("show", "weekly").out
    assert "rrule FREQ=MONTHLY" in daybook("show", "often").out
    assert daybook("show", "often", "--json").json["prefect_own"] == ["rrule FREQ=MONTHLY"]


@pytest.mark.usefixtures("stored")
def test_conflicts_says_that_there_are_none(daybook: Any) -> None:
    result = daybook("conflicts")
    assert (result.code, result.out, result.err) == (0, "", "No conflicts.\n")
    assert daybook("conflicts", "--json").json == []


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    ("tokens", "word"),
    [
        (("sync", "--prefer", "both"), "ledger or prefect"),
        (("sync", "weekly"), "--prefer"),
    ],
)
def test_sync_refuses_an_invalid_preference_without_prefect(
    daybook: Any, tokens: tuple[str, ...], word: str
) -> None:
    result = daybook(*tokens)
    assert result.code == 2
    assert word in result.err
