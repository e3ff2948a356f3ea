"""`daybook conflicts`, and how a conflict shows elsewhere; none of it needs Prefect."""

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
    """`weekly` has lost a schedule and a prompt of Prefect's; `often` has a schedule there."""
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
def test_both_versions_are_shown(daybook: Any) -> None:
    (found,) = daybook("conflicts", "--json").json
    assert (found["job"], found["at"]) == ("weekly", AT.isoformat())
    assert found["fields"]["schedule"] == {
        "ledger": {"cron": "0 9 * * 1", "timezone": "Europe/Berlin"},
        "prefect": LOST,
    }
    both = found["fields"]["parameters"]
    assert (both["ledger"]["prompt"], both["prefect"]["prompt"]) == ("Say hello.", "Say goodbye.")
    said = daybook("conflicts")
    assert said.code == 0
    assert said.out.startswith("weekly (")
    # Of parameters only what differs.
    assert '  parameters in ledger   {"prompt": "Say hello."}\n' in said.out
    assert '  parameters in Prefect  {"prompt": "Say goodbye."}\n' in said.out
    assert '"cron": "0 7 * * 1"' in said.out


@pytest.mark.usefixtures("disputed")
def test_it_is_told_wherever_the_job_is(daybook: Any) -> None:
    by_name = {job["name"]: job for job in daybook("list", "--json").json}
    assert by_name["weekly"]["conflicts"] == ["parameters", "schedule"]
    assert by_name["often"]["conflicts"] == []
    weekly = next(line for line in daybook("list").out.splitlines() if "weekly" in line)
    assert "on, conflict" in weekly
    assert "see `daybook conflicts`" in daybook("show", "weekly").out
    assert "rrule FREQ=MONTHLY" in daybook("show", "often").out
    assert daybook("show", "often", "--json").json["prefect_own"] == ["rrule FREQ=MONTHLY"]


@pytest.mark.usefixtures("stored")
def test_without_any_it_says_so(daybook: Any) -> None:
    said = daybook("conflicts")
    assert (said.code, said.out, said.err) == (0, "", "No conflicts.\n")
    assert daybook("conflicts", "--json").json == []


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    ("tokens", "word"),
    [
        (("sync", "--prefer", "both"), "ledger or prefect"),
        (("sync", "weekly"), "--prefer"),
    ],
)
def test_a_preference_that_is_none_is_refused_before_prefect_is_asked(
    daybook: Any, tokens: tuple[str, ...], word: str
) -> None:
    said = daybook(*tokens)
    assert said.code == 2
    assert word in said.err
