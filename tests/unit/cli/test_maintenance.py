"""`daybook maintenance`, and the same through `Client`."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook import Client
from daybook.diagnosis.checks import late
from daybook.errors import InvalidInput
from daybook.finding import Finding, Severity
from tests.unit.cli.conftest import fill

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("DAYBOOK_TIMEZONE", "Europe/Berlin")
    asyncio.run(fill(tmp_path / "ledger.db"))
    return tmp_path


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_a_window_is_planned_listed_and_removed(daybook: Any) -> None:
    times = ("--from", "2099-01-15T22:00", "--until", "2099-01-15T23:30")
    planned = daybook("maintenance", "plan", *times, "--note", "upgrade", "--json").json

    assert planned["begin"] == "2099-01-15T21:00:00Z"
    assert planned["end"] == "2099-01-15T22:30:00Z"
    assert planned["active"] is False
    assert daybook("maintenance", "list", "--json").json == [planned]
    assert asyncio.run(Client().maintenance())[0].id == planned["id"]
    text = daybook("maintenance", "list")
    assert planned["id"][:8] in text.out
    assert "upgrade" in text.out
    following = daybook("next")
    assert "Maintenance: no job starts from" in following.out + following.err
    assert daybook("maintenance", "remove", planned["id"][:8], "--json").json == planned
    assert daybook("maintenance", "list", "--json").json == []


def test_a_time_that_the_clocks_skip_or_repeat_is_one_instant() -> None:
    skipped = asyncio.run(Client().plan_maintenance(begin="2099-03-29T02:30", duration="1h"))
    repeated = asyncio.run(Client().plan_maintenance(begin="2099-10-25T02:30", duration="1h"))

    assert skipped.begin == _instant("2099-03-29T03:00+02:00")
    assert repeated.begin == _instant("2099-10-25T02:30+02:00")


def test_doctor_warns_of_a_present_window_and_shows_a_planned_one() -> None:
    async def checked() -> tuple[list[Finding], list[Finding]]:
        planned = await Client().plan_maintenance("2099-01-15T23:00", begin="2099-01-15T22:00")
        before = await late.maintenance()
        await Client().remove_maintenance(planned.id)
        await Client().plan_maintenance(duration="1h", note="upgrade")
        return before, await late.maintenance()

    (planned,), (present,) = asyncio.run(checked())
    begin = "Thu 15 Jan 2099, 22:00 Europe/Berlin"
    assert (planned.severity, begin in planned.message) == (Severity.OK, True)
    assert (present.severity, "upgrade" in present.message) == (Severity.WARNING, True)


def test_an_agent_cannot_plan_maintenance() -> None:
    with pytest.raises(InvalidInput, match="ask the operator"):
        asyncio.run(Client(agent="helper").plan_maintenance(duration="1h"))


def test_a_window_from_now_is_active(daybook: Any) -> None:
    window = daybook("maintenance", "plan", "--for", "90m", "--json").json

    assert window["active"] is True
    assert _instant(window["end"]) - _instant(window["begin"]) == timedelta(minutes=90)


@pytest.mark.parametrize(
    ("begin", "until", "length"),
    [
        ("2099-03-28T22:00", "2099-03-29T04:00", timedelta(hours=5)),
        ("2099-10-24T22:00", "2099-10-25T04:00", timedelta(hours=7)),
        ("2099-01-15T22:00", "01:00", timedelta(hours=3)),
        ("2099-01-15T22:00", "23:30", timedelta(hours=1.5)),
    ],
    ids=["spring", "autumn", "next day", "same day"],
)
def test_a_window_has_the_length_of_the_wall_clock_of_its_zone(
    begin: str, until: str, length: timedelta
) -> None:
    window = asyncio.run(Client().plan_maintenance(until, begin=begin))

    assert window.end - window.begin == length


@pytest.mark.parametrize(
    ("given", "field", "problem"),
    [
        ({"begin": "2099-01-15T22:00", "until": "2099-01-15T21:00"}, "until", "not after"),
        ({"begin": "2099-01-15T22:00", "until": "2099-01-15T22:00"}, "until", "not after"),
        ({"begin": "2001-01-15T22:00", "duration": "1h"}, "from", "in the past"),
        ({"until": "2001-01-15T22:00"}, "until", "not after"),
        ({"begin": "soonish", "duration": "1h"}, "from", "soonish"),
        ({"duration": "5"}, "duration", ""),
        ({}, "until or duration", "exactly one"),
        ({"until": "23:30", "duration": "1h"}, "until or duration", "exactly one"),
        ({"until": "23:30", "timezone": "Mars/Base"}, "timezone", "Mars/Base"),
    ],
)
def test_an_invalid_window_is_refused_and_not_stored(
    given: dict[str, str], field: str, problem: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        asyncio.run(Client().plan_maintenance(**given))

    assert refused.value.field == field
    assert problem in refused.value.problem
    assert asyncio.run(Client().maintenance()) == []


def test_removing_an_unknown_window_is_an_error(daybook: Any) -> None:
    assert daybook("maintenance", "remove", "nothing").code == 3
