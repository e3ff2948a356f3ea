"""Maintenance windows: no run starts in one, and each due time still has exactly one outcome."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from daybook.ledger.states import Status
from daybook.runs import audit, claims, maintenance, overdue
from daybook.runs.claim_requests import Finished, Granted, Waiting
from daybook.runs.maintenance import Window, Windows
from tests.world import World

pytestmark = pytest.mark.anyio

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
SECOND = timedelta(seconds=1)
TEN = datetime(2026, 1, 15, 10, tzinfo=UTC)


async def _plan(world: World, begin: datetime, end: datetime) -> Window:
    window = Window(id=f"{begin:%H%M}", begin=begin, end=end)
    async with world.ledger.write() as session:
        await maintenance.add(session, window, world.clock.now())
    return window


def test_a_window_contains_its_beginning_and_not_its_end() -> None:
    windows = Windows((Window(id="1", begin=TEN, end=TEN + HOUR),))

    assert windows.end_at(TEN - SECOND) is None
    assert windows.end_at(TEN) == TEN + HOUR
    assert windows.end_at(TEN + HOUR - SECOND) == TEN + HOUR
    assert windows.end_at(TEN + HOUR) is None


def test_overlapping_and_adjacent_windows_count_as_one() -> None:
    windows = Windows(
        (
            Window(id="1", begin=TEN, end=TEN + HOUR),
            Window(id="2", begin=TEN + 30 * MINUTE, end=TEN + 40 * MINUTE),
            Window(id="3", begin=TEN + HOUR, end=TEN + 2 * HOUR),
            Window(id="4", begin=TEN + 3 * HOUR, end=TEN + 4 * HOUR),
        )
    )

    assert windows.end_at(TEN) == windows.end_at(TEN + 35 * MINUTE) == TEN + 2 * HOUR
    assert windows.start_after(TEN - MINUTE, TEN + 5 * MINUTE) == TEN + 2 * HOUR
    assert windows.start_after(TEN - MINUTE, TEN - SECOND) == TEN - MINUTE
    assert windows.start_after(TEN + 2 * HOUR, TEN + 2 * HOUR) == TEN + 2 * HOUR


@pytest.mark.parametrize("claimed", [True, False], ids=["claims", "audit"])
@pytest.mark.parametrize(
    ("catch_up", "outcomes"),
    [
        ("none", ["skipped"] * 4 + ["succeeded"]),
        ("latest", ["skipped"] * 4 + ["succeeded"]),
        ("all", ["succeeded"] * 5),
    ],
)
async def test_each_due_time_of_a_window_has_one_outcome(
    world: World, catch_up: str, outcomes: list[str], claimed: bool
) -> None:
    """The window contains four due times, and a fifth is due exactly at its end."""
    stored = await world.jobs.add(cron="0 * * * *", timezone="UTC", catch_up=catch_up)
    first = world.runs.claim_request(stored)
    requests = [world.runs.claim_request(stored, due=first.due + n * HOUR) for n in range(5)]
    end = requests[-1].due
    await _plan(world, first.due, end)

    for request in requests[:-1]:
        world.clock.set(request.due)
        if claimed:
            assert not isinstance(await world.runs.claim(request), Granted)
        world.clock.move(2 * MINUTE)
        await audit.advance(world.ledger, stored.id, world.clock.now())
        async with world.ledger.read() as session:
            memory = overdue.DueTimeCache()
            assert await overdue.find_all(session, memory, world.clock.now()) == []
    world.clock.set(end)
    for request in requests:
        answer = await world.runs.claim(request)
        if isinstance(answer, Granted):
            await claims.begin(world.ledger, answer.run_id, answer.fence)
            await world.runs.finish(answer, Status.SUCCEEDED)

    found: list[str] = []
    for row in await world.runs.rows():
        found += [row.status] * row.count
        if row.status == "skipped":
            assert row.reason == f"maintenance until {end:%Y-%m-%d %H:%M:%S} UTC"
    assert found == outcomes


@pytest.mark.parametrize("catch_up", ["latest", "none"])
async def test_a_daily_job_catches_up_after_the_window_if_its_policy_says_so(
    world: World, catch_up: str
) -> None:
    stored = await world.jobs.add(cron="30 22 * * *", timezone="UTC", catch_up=catch_up)
    request = world.runs.claim_request(stored)
    end = request.due + HOUR
    await _plan(world, request.due - HOUR, end)
    world.clock.set(request.due)

    answer = await world.runs.claim(request)

    if catch_up == "none":
        assert isinstance(answer, Finished)
        assert answer.status is Status.SKIPPED
    else:
        assert isinstance(answer, Waiting)
        assert answer.until == end
        world.clock.set(end - SECOND)
        assert isinstance(await world.runs.claim(request), Waiting)
        world.clock.set(end)
        assert isinstance(await world.runs.claim(request), Granted)


async def test_a_due_time_that_no_process_saw_in_the_window_is_skipped_and_not_missed(
    world: World,
) -> None:
    """The whole server was off during the window."""
    stored = await world.jobs.add(cron="30 22 * * *", timezone="UTC", catch_up="none")
    request = world.runs.claim_request(stored)
    await _plan(world, request.due - HOUR, request.due + HOUR)
    world.clock.set(request.due + 3 * HOUR)

    result = await audit.advance(world.ledger, stored.id, world.clock.now())

    assert result is not None
    assert (result.skipped, result.missed, result.waiting) == (1, 0, 0)


async def test_runs_by_hand_and_running_runs_go_on_in_a_window(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *", timezone="UTC", overlap="allow", session="new")
    request = world.runs.claim_request(stored)
    world.clock.set(request.due)
    running = await world.runs.running(request)
    await _plan(world, request.due, request.due + HOUR)

    by_hand = await world.runs.claim(await world.runs.request(stored))

    assert isinstance(by_hand, Granted)
    assert await world.runs.finish(running, Status.SUCCEEDED) is Status.SUCCEEDED


async def test_a_waiting_run_starts_when_the_window_is_removed(world: World) -> None:
    stored = await world.jobs.add(cron="0 22 * * *", timezone="UTC", deadline="30m")
    request = world.runs.claim_request(stored)
    window = await _plan(world, request.due, request.due + HOUR)
    world.clock.set(request.due)
    assert isinstance(await world.runs.claim(request), Waiting)
    world.clock.move(40 * MINUTE)
    async with world.ledger.write() as session:
        await maintenance.remove(session, window, world.clock.now())

    assert isinstance(await world.runs.claim(request), Granted)


@pytest.mark.parametrize("overlap", ["skip", "queue_all"])
async def test_a_catch_up_that_waits_for_its_turn_starts_when_the_window_is_removed(
    world: World, overlap: str
) -> None:
    stored = await world.jobs.add(cron="0 * * * *", catch_up="all", overlap=overlap)
    request = world.runs.claim_request(stored)
    window = await _plan(world, request.due - MINUTE, request.due + 8 * HOUR)
    world.clock.set(request.due + 5 * MINUTE)
    await audit.advance(world.ledger, stored.id, world.clock.now())
    world.clock.move(20 * MINUTE)
    async with world.ledger.write() as session:
        await maintenance.remove(session, window, world.clock.now())

    (row,) = await world.runs.rows()
    assert row.until == row.queued_at == world.clock.now()
    assert isinstance(await world.runs.claim(row), Granted)


async def test_a_chained_run_waits_for_the_end_of_the_window(world: World) -> None:
    first = await world.jobs.add("brief", cron="0 * * * *")
    second = await world.jobs.add("report", after="brief")
    request = world.runs.claim_request(first)
    world.clock.set(request.due)
    running = await world.runs.running(request)
    await _plan(world, world.clock.now(), world.clock.now() + HOUR)
    await world.runs.finish(running, Status.SUCCEEDED)
    (row,) = [each for each in await world.runs.rows() if each.job_id == second.id]

    assert isinstance(await world.runs.claim(row), Waiting)
    world.clock.set(request.due + HOUR + MINUTE)
    assert isinstance(await world.runs.claim(row), Granted)


async def test_a_due_time_that_nothing_claims_after_the_window_is_overdue(world: World) -> None:
    stored = await world.jobs.add(cron="0 22 * * *", timezone="UTC")
    due = world.runs.claim_request(stored).due
    await _plan(world, due - HOUR, due + HOUR)
    late = {}
    for after in (30 * MINUTE, HOUR + MINUTE, HOUR + 2 * MINUTE):
        world.clock.set(due + after)
        async with world.ledger.read() as session:
            memory = overdue.DueTimeCache()
            late[after] = await overdue.find_all(session, memory, world.clock.now())

    assert [[each.due for each in found] for found in late.values()] == [[], [], [due]]
