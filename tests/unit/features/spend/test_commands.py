"""What runs cost: the sum, the column of `list`, and the line of `show`."""

from __future__ import annotations

import asyncio
import re
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from daybook.cli import formatting
from daybook.clock import SYSTEM_CLOCK
from daybook.home import Home
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.views import Spending
from daybook.testing import ManualClock
from tests.commands import Daybook
from tests.world import World

PRICED = {"cost_usd": 0.25, "input_tokens": 1_000, "output_tokens": 20}
UNPRICED = {"cost_usd": None, "input_tokens": 400, "output_tokens": 5}

RUNS: dict[str, list[dict[str, Any] | None]] = {
    "priced": [PRICED, PRICED, None],
    "partly": [PRICED, UNPRICED],
    "unknown": [UNPRICED],
    "unused": [None],
}


async def fill(home: Home, runs: dict[str, list[dict[str, Any] | None]]) -> date:
    """Store a job for each key, with a run 31 days ago and a run of each usage yesterday.

    Return the date of yesterday in UTC.
    """
    clock = ManualClock(SYSTEM_CLOCK.now() - timedelta(days=31))
    async with Ledger(f"sqlite+aiosqlite:///{home.path / 'ledger.db'}", clock) as ledger:
        world = World(ledger, clock)
        jobs = {name: await world.jobs.add(name, on_demand=True) for name in runs}
        for job in jobs.values():
            row = await world.runs.request(job)
            await world.runs.finished(row, Status.SUCCEEDED, usage=PRICED)
        clock.set(SYSTEM_CLOCK.now() - timedelta(days=1))
        for name, usages in runs.items():
            for usage in usages:
                row = await world.runs.request(jobs[name])
                await world.runs.finished(row, Status.FAILED, usage=usage)
    return clock.now().date()


@pytest.mark.parametrize(
    ("usages", "cost", "unpriced", "in_words", "short"),
    [
        ([], None, 0, "", "-"),
        ([None, {}], None, 0, "", "-"),
        ([PRICED, None], 0.25, 0, "$0.2500, 1,000 tokens in, 20 out", "$0.2500"),
        ([UNPRICED], None, 1, "1 run of unknown price, 400 tokens in, 5 out", "-"),
        (
            [UNPRICED, PRICED],
            0.25,
            1,
            "$0.2500 and 1 run of unknown price, 1,400 tokens in, 25 out",
            "$0.2500+",
        ),
        (
            [{"cost_usd": 0.0}, UNPRICED],
            0.0,
            1,
            "$0.0000 and 1 run of unknown price, 400 tokens in, 5 out",
            "$0.0000+",
        ),
        (
            [{"cost_usd": "2", "input_tokens": "many"}],
            None,
            1,
            "1 run of unknown price, 0 tokens in, 0 out",
            "-",
        ),
    ],
)
def test_an_unknown_cost_is_never_counted_as_zero(
    usages: list[dict[str, Any] | None],
    cost: float | None,
    unpriced: int,
    in_words: str,
    short: str,
) -> None:
    spent = Spending.of(usages)
    assert (spent.cost_usd, spent.unpriced_runs) == (cost, unpriced)
    assert formatting.spending(spent) == in_words
    assert formatting.short_spending(spent) == short


def test_list_has_the_cost_of_the_last_30_days(daybook: Daybook, daybook_home: Home) -> None:
    asyncio.run(fill(daybook_home, RUNS))
    header, *rows = daybook("list").out.splitlines()
    begin = header.index("COST (30 D)")
    shown = {row.split()[0]: row[begin:].split()[0] for row in rows}
    assert shown == {"priced": "$0.5000", "partly": "$0.2500+", "unknown": "-", "unused": "-"}
    listed = {job["name"]: job["spent_30_days"] for job in daybook("list", "--json").json}
    assert listed["priced"] == {
        "cost_usd": 0.5,
        "input_tokens": 2_000,
        "output_tokens": 40,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "unpriced_runs": 0,
    }
    assert listed["unknown"]["cost_usd"] is None
    assert listed["unknown"]["unpriced_runs"] == 1
    assert daybook("show", "priced", "--json").json["spent_30_days"] == listed["priced"]


def test_one_query_reads_the_costs_of_all_jobs(daybook: Daybook, daybook_home: Home) -> None:
    asyncio.run(fill(daybook_home, RUNS))
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *more: Any) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        daybook("list")
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert len([each for each in statements if "runs.usage" in each]) == 1


def test_show_says_what_a_job_cost(daybook: Daybook, daybook_home: Home) -> None:
    asyncio.run(fill(daybook_home, RUNS))
    expected = r"  spent +\$0\.2500 and 1 run of unknown price, .*, in the last 30 days\n"
    assert re.search(expected, daybook("show", "partly").out)
    assert "  spent " not in daybook("show", "unused").out


def test_list_without_known_costs_has_no_column_for_them(
    daybook: Daybook, daybook_home: Home
) -> None:
    asyncio.run(fill(daybook_home, {"unknown": [UNPRICED], "unused": [None]}))
    assert "COST" not in daybook("list").out


def test_spend_adds_up_by_job_agent_model_and_day(
    daybook: Daybook, daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_TIMEZONE", "UTC")
    yesterday = asyncio.run(fill(daybook_home, RUNS))
    found = daybook("spend", "--json").json
    costs = [(each["name"], each["cost_usd"], each["unpriced_runs"]) for each in found["groups"]]
    assert costs == [("priced", 0.5, 0), ("partly", 0.25, 1), ("unknown", None, 1)]
    assert (found["total"]["cost_usd"], found["total"]["runs"]) == (0.75, 5)
    for by in ("agent", "model", "day"):
        (group,) = daybook("spend", "--by", by, "--json").json["groups"]
        assert (group["cost_usd"], group["unpriced_runs"], group["runs"]) == (0.75, 2, 5)
    assert group["name"] == str(yesterday)
    days = daybook("spend", "--by", "day", "--since", "40d", "--json").json["groups"]
    assert [each["cost_usd"] for each in days] == [1.0, 0.75]


def test_an_answer_without_a_job_is_named(daybook: Daybook, daybook_home: Home) -> None:
    """A question of `ask`, or a message in a session, has no job."""

    async def asked() -> None:
        clock = ManualClock(SYSTEM_CLOCK.now() - timedelta(hours=1))
        async with Ledger(
            f"sqlite+aiosqlite:///{daybook_home.path / 'ledger.db'}", clock
        ) as ledger:
            world = World(ledger, clock)
            granted = await world.runs.finished(
                await world.jobs.add(), Status.SUCCEEDED, usage=PRICED
            )
            await world.runs.set_row(await world.runs.row(granted.run_id), job_id=None)

    asyncio.run(asked())
    assert "without a job" in daybook("spend").out
    assert "unknown" in daybook("spend", "--by", "model").out


def test_spend_shows_an_unknown_price_as_unknown(daybook: Daybook, daybook_home: Home) -> None:
    asyncio.run(fill(daybook_home, RUNS))
    lines = daybook("spend").out.splitlines()
    rows = {line.split()[0]: line for line in lines}
    assert rows["unknown"].endswith("unknown")
    assert rows["partly"].endswith("$0.2500 + 1 unpriced")
    assert "$0.7500 and 2 runs of unknown price" in lines[-1]
    assert daybook("spend", "--since", "1h").out.startswith("Nothing was spent since")


def test_spend_separates_the_tokens_of_the_prompt_cache(
    daybook: Daybook, daybook_home: Home
) -> None:
    cached = PRICED | {"cache_read_tokens": 800, "cache_write_tokens": 64}
    asyncio.run(fill(daybook_home, {"cached": [cached, cached], "plain": [PRICED]}))
    head, first, second, last = daybook("spend").out.splitlines()
    assert re.split(r"  +", head)[2:6] == ["TOKENS IN", "FROM CACHE", "TO CACHE", "TOKENS OUT"]
    assert first.split()[2:6] == ["2,000", "1,600", "128", "40"]
    assert second.split()[2:6] == ["1,000", "0", "0", "20"]
    assert "3,000 tokens in (1,600 from cache, 128 to cache), 60 out" in last
    groups = daybook("spend", "--json").json["groups"]
    assert [each["cache_read_tokens"] for each in groups] == [1_600, 0]
    assert [each["cache_write_tokens"] for each in groups] == [128, 0]


def test_spend_refuses_what_it_does_not_know(daybook: Daybook) -> None:
    for arguments, expected in (
        (("--by", "week"), "use job, agent, model, day"),
        (("--since", "401d"), "use 400d or less"),
    ):
        refused = daybook("spend", *arguments)
        assert (refused.code, expected in refused.err) == (2, True)


@pytest.mark.parametrize("since", ["today", "yesterday", "2027-01-15"])
def test_a_day_begins_at_midnight_in_daybooks_own_zone(
    daybook: Daybook, monkeypatch: pytest.MonkeyPatch, since: str
) -> None:
    zone = "Asia/Kathmandu"  # its midnight is 18:15 UTC
    monkeypatch.setenv("DAYBOOK_TIMEZONE", zone)
    begin = datetime.fromisoformat(daybook("spend", "--since", since, "--json").json["since"])
    assert begin.astimezone(ZoneInfo(zone)).time() == time()
