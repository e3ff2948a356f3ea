"""The timeline of the last and the next 24 hours, and pages of jobs."""

from __future__ import annotations

from datetime import date, timedelta
from zoneinfo import ZoneInfo

import pytest

from daybook import api
from daybook.api.job_pages import Choice
from daybook.ledger.engine import open_ledger, sharing
from daybook.ledger.states import Status
from daybook.runs import daily
from daybook.runs.daily import DailyTotals, Total
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("shared_ledger")]
HOUR = timedelta(hours=1)


async def test_operations_use_a_shared_ledger_and_leave_it_open(world: World) -> None:
    with sharing(world.ledger):
        async with open_ledger() as ledger:
            assert ledger is world.ledger
    async with world.ledger.read():
        pass


async def test_a_row_has_past_live_and_future_due_times_but_no_skipped_ones(world: World) -> None:
    hourly = await world.jobs.add("hourly", prompt="x", cron="0 * * * *")
    usage = {"input_tokens": 10, "output_tokens": 2, "cost_usd": 0.25}
    done = await world.runs.finished(hourly, Status.SUCCEEDED, usage=usage)
    active = await world.runs.running(hourly)
    now = world.ledger.now()
    following = now.replace(minute=0, second=0, microsecond=0) + HOUR
    async with world.ledger.write() as session:
        row = await session.get_one(type(hourly.row), hourly.id)
        row.skips = [following.isoformat()]
        session.add(row)
    (found,) = (await api.timeline.read(Choice())).rows
    assert [(mark.run_id, mark.status) for mark in found.marks] == [
        (active.run_id, "running"),
        (done.run_id, "succeeded"),
    ]
    assert found.marks[1].cost_usd == 0.25
    assert found.upcoming == [following + number * HOUR for number in range(1, 24)]


async def test_due_times_leave_the_timeline_as_the_clock_moves(world: World) -> None:
    job = await world.jobs.add("hourly", prompt="x", cron="0 * * * *")
    await world.runs.finished(job, Status.FAILED)
    before = await api.timeline.read(Choice())
    world.passes(hours=25, minutes=30)
    after = await api.timeline.read(Choice())
    assert len(before.rows[0].marks) == 1
    assert before.ended == {"failed": 1}
    assert after.rows[0].marks == []
    assert after.ended == {}
    assert before.rows[0].upcoming[0] < after.rows[0].upcoming[0]
    assert all(after.now < each <= after.end for each in after.rows[0].upcoming)


async def test_a_job_with_many_due_times_shows_the_first_and_says_that_there_are_more(
    world: World,
) -> None:
    await world.jobs.add("often", prompt="x", cron="* * * * *")
    (row,) = (await api.timeline.read(Choice())).rows
    assert len(row.upcoming) == api.timeline.MAX_UPCOMING
    assert row.more


async def test_a_job_that_is_due_every_few_seconds_shows_due_times_all_the_time(
    world: World,
) -> None:
    await world.jobs.add("often", prompt="x", every="10s")
    for _ in range(6):
        world.passes(minutes=9)
        (row,) = (await api.timeline.read(Choice())).rows
        assert len(row.upcoming) == api.timeline.MAX_UPCOMING
        assert row.more


async def test_failing_jobs_are_first_and_paused_ones_last(world: World) -> None:
    for name in ("a", "b", "c"):
        await world.jobs.add(name, prompt="x", cron="0 * * * *")
    await world.jobs.edit("a", enabled=False)
    await world.runs.finished(await world.jobs.get("c"), Status.FAILED)
    rows = (await api.timeline.read(Choice())).rows
    assert [row.name for row in rows] == ["c", "b", "a"]
    assert rows[2].upcoming == []


async def test_a_page_of_jobs_has_the_counts_of_all_pages(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.job_pages, "PER_PAGE", 2)
    for name in ("a", "b", "c"):
        await world.jobs.add(name, prompt="x", cron="0 * * * *", tags=[f"tag-{name}"])
    last = await api.job_pages.list_page(Choice(), 9)
    assert [each.name for each in last.jobs] == ["c"]
    assert (last.number, last.pages, last.matching, last.total) == (2, 2, 3, 3)
    assert last.tags == ["tag-a", "tag-b", "tag-c"]


async def test_revisions_say_what_changed_and_who_changed_it(world: World) -> None:
    await world.jobs.add("brief", prompt="one", cron="0 8 * * *")
    await world.jobs.edit("brief", prompt="two", source="prefect")
    newest, first = (await api.job_pages.overview("brief", runs=1, due_times=1)).revisions
    assert [(each.field, each.old, each.new) for each in newest.changes] == [
        ("prompt", "one", "two")
    ]
    assert (newest.number, newest.author) == (2, "Prefect's UI")
    # A target, and a field that is none, have the same author: the writer.
    await world.jobs.edit("brief", retries=2, writer="web")
    await world.jobs.edit("brief", on_complete="https://example.org/a", writer="web")
    found = (await api.job_pages.overview("brief", runs=1, due_times=1)).revisions
    assert [each.author for each in found] == ["web", "web", "Prefect's UI", "cli"]
    assert (first.number, first.author, first.changes) == (1, "cli", [])


async def test_totals_are_those_of_days_in_the_zone_and_a_past_day_is_read_once(
    world: World,
) -> None:
    # The clock of the tests is at noon in UTC: half past eleven in the evening is a day later here.
    tokyo = ZoneInfo("Asia/Tokyo")
    job = await world.jobs.add("hourly", prompt="x", cron="0 * * * *")
    totals = DailyTotals(world.ledger, tokyo)
    await world.runs.finished(job, Status.SUCCEEDED, usage={"cost_usd": 0.5, "input_tokens": 7})
    today = world.ledger.now().astimezone(tokyo).date()
    (found,) = await totals.read()
    expected = (today, job.id, "succeeded", 1, 0.5, 0, 7)
    assert _values(found) == expected
    world.passes(days=3)
    assert [_values(each) for each in await totals.read()] == [expected]
    row = await world.runs.row(job)
    await world.runs.set_row(row, status="failed")
    assert [each.status for each in await totals.read()] == ["succeeded"]  # kept for a while
    world.passes(days=daily.DAYS)
    assert await totals.read() == []


@pytest.mark.parametrize("name", ["UTC", "Asia/Tokyo"])
@pytest.mark.dialect
async def test_totals_of_some_jobs_are_those_of_all_jobs(world: World, name: str) -> None:
    tz, shown = ZoneInfo(name), await world.jobs.add("shown", prompt="x", cron="0 * * * *")
    other = await world.jobs.add("other", prompt="x", cron="0 * * * *")
    for hours, status in enumerate((Status.SUCCEEDED, Status.FAILED, Status.SUCCEEDED) * 2):
        for job in (shown, other):
            usage = {"cost_usd": 0.5, "input_tokens": 7 + hours}
            await world.runs.finished(job, status, usage=usage)
        world.passes(hours=7 * hours)
    await world.runs.running(shown)
    world.passes(days=1)
    days = daily.days(world.ledger.now(), tz)
    expected = [each for each in await DailyTotals(world.ledger, tz).read() if each.job_id]
    both = await api.job_pages.totals([shown.id, other.id], days, tz)
    assert sorted(map(_values, both)) == sorted(map(_values, expected))
    assert len({each.day for each in both}) > 2
    assert await api.job_pages.totals([shown.id], days, tz) == [
        each for each in both if each.job_id == shown.id
    ]
    assert await api.job_pages.totals([shown.id], days[:1], tz) == []


def _values(total: Total) -> tuple[date, str | None, str, int, float, int, int]:
    return (
        total.day,
        total.job_id,
        total.status,
        total.count,
        total.cost_usd,
        total.unpriced,
        total.input_tokens,
    )
