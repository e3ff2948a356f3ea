"""`/health`: status 503 if and only if the scheduler does not work."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import Any

import httpx
import pytest

from daybook.api import overdue as causes
from daybook.diagnosis import health as monitor
from daybook.home import Home
from daybook.keeper import leader_lease
from daybook.keeper.leader_lease import LEADERSHIP_NAME
from daybook.ledger.states import Status
from daybook.operations import server
from daybook.runs import audit, overdue
from daybook.runs.overdue import MISSED_MAX_AGE, OVERDUE_GRACE
from daybook.timing import TIMING
from tests import sentences
from tests.servers import free_port
from tests.unit.web.conftest import Served, served
from tests.world import World

pytestmark = pytest.mark.anyio

MINUTE = timedelta(minutes=1)
NO_KEEPER = f"{causes.NO_KEEPER}; fix: daybook keeper"


async def health(page: httpx.AsyncClient, *, well: bool) -> dict[str, Any]:
    answer = await page.get("/health")
    view: dict[str, Any] = answer.json()
    assert answer.status_code == (200 if well else 503), view
    assert view["status"] == ("ok" if well else "failing")
    assert bool(view["problems"]) is not well
    return view


async def lead(world: World) -> None:
    assert await leader_lease.acquire(world.ledger, LEADERSHIP_NAME, "here:1:a") is not None


async def test_health_is_ok_with_a_leader_and_no_overdue_run(
    world: World, pages: Callable[[], Served]
) -> None:
    await world.jobs.add()
    await lead(world)
    world.clock.move(timedelta(seconds=4))
    async with pages() as page:
        view = await health(page, well=True)
    skew = view["ledger"]["clock_ahead_seconds"]
    assert view == {
        "status": "ok",
        "problems": [],
        "ledger": {"answers": True, "id": world.ledger.id, "clock_ahead_seconds": skew},
        "keeper": {"leads": True, "renewed_seconds_ago": 4.0, "observed_seconds_ago": None},
        "late": 0,
        "overdue": 0,
        "outbox": {"pending": 0, "failed": 0, "paused": 0},
        "conversations": {"accounts": []},
        "workers": {"online": 0, "draining": []},
        "tasks": {
            **dict.fromkeys(("queued", "claimed", "needs_attention"), 0),
            **dict.fromkeys(("starving", "attention", "free", "busy"), 0),
            "oldest_seconds": None,
            "paused": False,
        },
        "prefect": {"answers": False, "silent_seconds": 0.0},
    }


async def test_health_fails_while_no_keeper_is_the_leader(
    world: World, pages: Callable[[], Served]
) -> None:
    async with pages() as page:
        view = await health(page, well=False)
        assert sentences.of(view["problems"]) == [NO_KEEPER]
        await lead(world)
        await health(page, well=True)

        world.clock.move(TIMING.leader_lease + 7 * MINUTE)  # the leader was killed
        view = await health(page, well=False)
        expected = NO_KEEPER.replace(";", "; the last lease expired 7 minutes ago;", 1)
        assert sentences.of(view["problems"]) == [expected]

        fence = await leader_lease.acquire(world.ledger, LEADERSHIP_NAME, "there:1:b")
        await health(page, well=True)
        assert fence is not None
        await leader_lease.release(world.ledger, LEADERSHIP_NAME, fence)
        await health(page, well=False)


async def test_health_is_ok_after_an_outage_from_the_moment_at_which_a_keeper_leads(
    world: World, pages: Callable[[], Served]
) -> None:
    await world.jobs.add(cron="0 * * * *", catch_up="none")
    world.clock.move(timedelta(hours=5))
    await lead(world)
    async with pages() as page:
        assert (await health(page, well=True))["late"] == 1
        world.clock.move(causes.CATCH_UP_GRACE)
        assert await leader_lease.renew(world.ledger, LEADERSHIP_NAME, 1)
        await health(page, well=False)  # the keeper has not judged it


async def test_health_fails_while_a_run_is_overdue(
    world: World, pages: Callable[[], Served]
) -> None:
    stored = [await world.jobs.add(f"job {n}", cron="0 * * * *", catch_up="none") for n in range(5)]
    await lead(world)
    world.clock.move(timedelta(hours=1) + OVERDUE_GRACE - timedelta(seconds=1))
    assert await leader_lease.renew(world.ledger, LEADERSHIP_NAME, 1)
    async with pages() as page:
        await health(page, well=True)
        world.clock.move(timedelta(seconds=1))
        view = await health(page, well=False)
        assert view["overdue"] == view["late"] == 5
        problems = sentences.of(view["problems"])
        assert len(problems) == 4
        assert problems[0] == (
            "job 0 was due on Thu 15 Jan, 13:00 UTC, 1 minute 30 seconds ago, and has not started: "
            "the job's last change is not in Prefect yet"
        )
        assert problems[3] == "2 more runs are overdue; fix: daybook status"

        for each in stored:
            await audit.advance(world.ledger, each.id, world.clock.now() - MINUTE)
        problems = sentences.of((await health(page, well=False))["problems"])
        assert (
            "job 0 was due on Thu 15 Jan, 13:00 UTC, 1 minute 30 seconds ago, and was missed"
            in (problems[0])
        )
        world.clock.move(MISSED_MAX_AGE)
        await lead(world)
        await health(page, well=True)


async def test_health_is_ok_if_a_job_fails(world: World, pages: Callable[[], Served]) -> None:
    stored = await world.jobs.add(cron="0 * * * *")
    await world.runs.finished(stored, Status.FAILED, error="no")
    await lead(world)
    async with pages() as page:
        await health(page, well=True)


async def test_a_run_that_waits_for_a_slot_is_late_but_not_overdue(
    world: World, pages: Callable[[], Served]
) -> None:
    stored = await world.jobs.add()
    claim_request = world.runs.claim_request(stored, most=0)
    world.clock.set(claim_request.due)
    for _ in range(12):
        await world.runs.claim(claim_request)
        world.clock.move(timedelta(seconds=15))
    await lead(world)
    async with pages() as page:
        view = await health(page, well=True)
    assert (view["late"], view["overdue"]) == (1, 0)


async def test_the_page_starts_without_a_ledger_and_connects_later(daybook_home: Home) -> None:
    in_the_way = daybook_home.path / "books"
    in_the_way.write_text("")
    async with served(f"sqlite+aiosqlite:///{in_the_way}/ledger.db") as page:
        view = await health(page, well=False)
        assert view["ledger"] == {"answers": False, "id": None, "clock_ahead_seconds": None}
        assert "cannot be reached" in str(view["problems"])
        in_the_way.unlink()
        view = await health(page, well=False)
        assert sentences.of(view["problems"]) == [NO_KEEPER]


async def test_a_ledger_that_hangs_is_reported_in_time_and_queried_once(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, limit = 0, 0.5
    monkeypatch.setattr(monitor, "ANSWER_TIMEOUT_SECONDS", limit)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read()  # until the client closes the connection
        writer.close()

    hanging = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = hanging.sockets[0].getsockname()[1]
    address = f"postgresql+asyncpg://root@127.0.0.1:{port}/book"
    async with hanging, served(address, patience=limit) as page:
        began = time.monotonic()
        views = await asyncio.gather(*(health(page, well=False) for _ in range(20)))
        again = await health(page, well=False)
        duration = time.monotonic() - began
        metrics = await page.get("/metrics")
    assert duration < 21 * limit / 2  # the requests share one query
    for view in (*views, again):
        assert "no answer within 0.5 s" in str(view["problems"])
    assert "daybook_ledger_up 0.0" in metrics.text.splitlines()
    assert asked == 1


async def test_a_slow_query_does_not_delay_the_answer(
    world: World, daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lead(world)
    computing, done = threading.Event(), threading.Event()
    find_all = overdue.find_all

    async def blocks(*given: Any) -> list[overdue.Overdue]:
        computing.set()
        done.wait(60)
        return await find_all(*given)

    async with served(world.ledger.address, world.clock, patience=0.2) as page:
        await eventually_well(page)
        monkeypatch.setattr(overdue, "find_all", blocks)
        await health(page, well=True)  # the last answer: this is the first timeout
        assert computing.is_set()
        view = await health(page, well=False)
        assert "no answer within 0.2 s" in str(view["problems"])
        assert not done.is_set()
        done.set()
        await eventually_well(page)


async def eventually_well(page: httpx.AsyncClient) -> None:
    async with asyncio.timeout(60):
        while (await page.get("/health")).status_code != 200:
            pass


async def test_a_locked_ledger_is_reported_instead_of_a_missing_keeper(
    daybook_home: Home,
) -> None:
    path = daybook_home.path / "ledger.db"
    async with served(f"sqlite+aiosqlite:///{path}") as page:
        assert sentences.of((await health(page, well=False))["problems"]) == [NO_KEEPER]
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            locked = await health(page, well=False)
            other.execute("ROLLBACK")
        assert sentences.of(locked["problems"]) == [
            "the ledger is not writable: database is locked; "
            "fix: end the process that holds its lock"
        ]
        assert locked["ledger"]["answers"] is True


async def test_a_deleted_ledger_is_reported(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = daybook_home.path / "ledger.db"
    async with served(f"sqlite+aiosqlite:///{path}") as page:
        await health(page, well=False)
        path.unlink()
        view = await health(page, well=False)
    assert view["ledger"] == {"answers": False, "id": None, "clock_ahead_seconds": None}
    assert "was deleted or moved away while it was in use" in str(view["problems"])
    assert not path.exists()


async def test_an_answer_is_cached_while_it_is_fresh(world: World, daybook_home: Home) -> None:
    await lead(world)
    async with served(world.ledger.address, world.clock, fresh=3600.0) as page:
        await health(page, well=True)
        world.clock.move(TIMING.leader_lease)
        await health(page, well=True)


async def test_prefect_that_is_silent_is_shown_at_once_and_a_problem_after_a_while(
    world: World,
    pages: Callable[[], Served],
    daybook_home: Home,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def healthy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        status = b"200 OK" if asked.startswith(b"GET /api/health ") else b"404 Not Found"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    await lead(world)
    there = await asyncio.start_server(healthy, "127.0.0.1", 0)
    port = there.sockets[0].getsockname()[1]
    messages: list[Any] = []
    silence = monitor.MAX_PREFECT_SILENCE_SECONDS
    async with there:
        wrong = (server.api_url(free_port()), "http://[bad/api")
        for address in (f"http://127.0.0.1:{port}/api", *wrong, ""):
            monkeypatch.setenv("PREFECT_API_URL", address)
            async with pages() as page:
                messages.append((await health(page, well=True))["prefect"])
                if messages[-1]["answers"] is False:
                    monkeypatch.setattr(monitor, "MAX_PREFECT_SILENCE_SECONDS", 0.0)
                    view = await health(page, well=False)
                    monkeypatch.setattr(monitor, "MAX_PREFECT_SILENCE_SECONDS", silence)
                    shown: Any = view["prefect"]
                    silent = f"{shown['silent_seconds']:.0f} s"
                    assert sentences.of(view["problems"]) == [
                        f"Prefect has not answered for {silent}, so no run can start; "
                        "fix: daybook doctor"
                    ]
    assert messages == [
        {"answers": answers, "silent_seconds": seconds}
        for answers, seconds in ((True, None), (False, 0.0), (False, 0.0), (None, None))
    ]
