"""The outcomes that `up` shows, with a ledger that is available and with one that is not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from sqlalchemy import AsyncAdaptedQueuePool
from sqlalchemy.exc import TimeoutError as PoolTimeout

from daybook.api.sync import SyncReport
from daybook.errors import DaybookError
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import RunRow
from daybook.ledger.views import Run
from daybook.operations import home_lock, prefect_selection, preparation, setup, up
from daybook.operations.service_manager import ServiceManager
from daybook.prefect import reconcile
from daybook.prefect.report import ReconcileReport
from daybook.runs import claims
from tests.world import World

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)


class Talk:
    """An `up.UpReporter` that records its lines and outcomes."""

    def __init__(self) -> None:
        self.shown_lines: asyncio.Queue[str] = asyncio.Queue()
        self.outcomes: asyncio.Queue[Run] = asyncio.Queue()

    def say(self, line: str) -> None:
        self.shown_lines.put_nowait(line)

    def progress(self, line: str) -> None:
        self.shown_lines.put_nowait(line)

    def synced(self, report: SyncReport) -> None:
        raise AssertionError(report)

    def ready(self, facts: preparation.UpFacts) -> None:
        raise AssertionError(facts)

    def outcome(self, run: Run) -> None:
        self.outcomes.put_nowait(run)


async def _ended(ledger: Ledger, request: str) -> str:
    async with ledger.write() as session:
        job = new_job(now=ledger.now(), name=request, prompt="What is new?", every="1h")
        stored = await store.add(session, job, request, ledger.now())
    row = await claims.request(ledger, stored, request, "manual")
    await claims.cancel(ledger, row.id, "enough")
    return row.id


async def test_up_survives_an_unavailable_ledger_and_then_shows_missed_outcomes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "POLL_INTERVAL_SECONDS", 0.01)
    address, talk = f"sqlite+aiosqlite:///{tmp_path}/ledger.db", Talk()
    async with Ledger(address) as ledger, Ledger(address) as other, AsyncExitStack() as readers:
        pool = ledger._engine.pool
        assert isinstance(pool, AsyncAdaptedQueuePool)
        pool._timeout = 0.01
        watching = asyncio.create_task(up._watch(ledger, talk, ledger.now()))
        readers.callback(watching.cancel)
        async with asyncio.timeout(30):
            first = await _ended(other, "first")
            assert (await talk.outcomes.get()).id == first

            async with AsyncExitStack() as taken:
                held = 0
                while held < pool.size() + pool._max_overflow:
                    session = await taken.enter_async_context(ledger.read())
                    with suppress(
                        PoolTimeout
                    ):  # the watcher may hold the last connection for a moment
                        await session.connection()
                        held += 1
                assert "Cannot show outcomes now" in await talk.shown_lines.get()
                second = await _ended(other, "second")

            assert (await talk.outcomes.get()).id == second
        assert await talk.shown_lines.get() == "Showing outcomes again"
        assert talk.shown_lines.empty()
        assert not watching.done()


async def test_a_range_that_grows_is_shown_again_when_it_has_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "POLL_INTERVAL_SECONDS", 0.01)
    talk, shown = Talk(), list[int]()
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path}/ledger.db") as ledger:
        watching = asyncio.create_task(up._watch(ledger, talk, ledger.now()))
        try:
            async with asyncio.timeout(30):
                growing = await _ended(ledger, "growing")
                assert (await talk.outcomes.get()).id == growing
                for count in range(2, 10):
                    async with ledger.write() as session:
                        row = await session.get(RunRow, growing)
                        assert row is not None
                        row.count, row.due_to = count, row.due + (count - 1) * HOUR
                        row.finished_at = ledger.now()
                        session.add(row)
                    next_run = await _ended(ledger, f"after-{count}")
                    while (run := await talk.outcomes.get()).id != next_run:
                        shown.append(run.count)
        finally:
            watching.cancel()
    assert shown == [2, 4, 8]


async def test_the_example_job_is_added_together_with_its_first_run(
    world: World, daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    since = world.ledger.now()

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(claims, "new_requested_row", dies)
        with pytest.raises(KeyboardInterrupt):
            await preparation.add_example(world.ledger)
    assert [each.name for each in await preparation.add_example(world.ledger)] == ["first-light"]
    found = await up._first_run(world.ledger, since)
    assert found is not None
    assert (found[0].status, found[1].name) == ("waiting", "first-light")
    assert await preparation.add_example(world.ledger) == []


@pytest.mark.parametrize("when", ["before", "after", "never"])
async def test_up_shows_the_outcome_of_the_example_run_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(up, "POLL_INTERVAL_SECONDS", 0.01)
    talk = Talk()
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path}/ledger.db") as ledger:
        since = ledger.now()
        assert await up._first_run(ledger, since) is None
        async with ledger.write() as session:
            job = new_job(now=since, name="first-light", prompt="Good morning", every="1h")
            stored = await store.add(session, job, "first-light", since)
        row = await claims.request(ledger, stored, preparation.EXAMPLE_REQUEST_ID, "manual")
        await claims.request(ledger, stored, "another", "manual")
        if when == "before":
            await claims.cancel(ledger, row.id, "enough")
        if when == "never":
            monkeypatch.setattr(up, "EXAMPLE_TIMEOUT_SECONDS", 0.05)
        found = await up._first_run(ledger, since)
        assert found is not None
        assert (found[0].id, found[1].name) == (row.id, "first-light")

        showing = asyncio.create_task(up._show_first_run(ledger, talk, since))
        if when == "after":
            assert (await talk.shown_lines.get()).startswith("Waiting for the answer")
            await claims.cancel(ledger, row.id, "enough")
        async with asyncio.timeout(30):
            await showing
    if when == "never":
        assert talk.outcomes.empty()
    else:
        assert talk.outcomes.get_nowait().id == row.id


async def test_a_long_first_sync_is_left_to_the_keeper(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, talk, limits = world.ledger, Talk(), list[float]()

    async def prepare(client: object) -> list[str]:
        return []

    async def reconcile_all(*given: object, most_seconds: float) -> ReconcileReport:
        limits.append(most_seconds)
        return ReconcileReport(left=1_990)

    async with ledger.write() as session:
        job = new_job(now=ledger.now(), name="one", prompt="What is new?", every="1h")
        await store.add(session, job, "one", ledger.now())
    monkeypatch.setattr(setup, "prepare", prepare)
    monkeypatch.setattr(reconcile, "reconcile_all", reconcile_all)
    monkeypatch.setattr(talk, "synced", lambda report: None)
    assert await preparation.prepare(ledger, cast("PrefectClient", None), talk) is None
    assert limits == [preparation.SYNC_SECONDS]
    expected = "The keeper syncs 1990 more jobs with Prefect in the background"
    assert talk.shown_lines.get_nowait() == expected


async def test_up_reports_an_interrupted_move_of_the_ledger(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise DaybookError("no Prefect")

    monkeypatch.setattr(prefect_selection, "find_or_start", fail)
    daybook_home.moving.write_text('{"old": "sqlite+aiosqlite:///old.db", "new": "elsewhere"}')
    talk = Talk()
    with home_lock.hold(daybook_home) as record, pytest.raises(DaybookError, match="no Prefect"):
        await up._run(
            daybook_home,
            record,
            talk,
            ServiceManager.take_from_environment(),
            link=False,
            upgraded=asyncio.Event(),
        )
    assert "`daybook ledger move` to elsewhere was interrupted" in talk.shown_lines.get_nowait()


@pytest.mark.parametrize("is_stopped", [False, True])
async def test_up_restarts_on_another_version_unless_it_is_stopped_meanwhile(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_stopped: bool
) -> None:
    stop, ended = asyncio.Event(), list[str]()

    @contextmanager
    def stop_requested() -> Iterator[asyncio.Event]:
        yield stop

    async def run(*_: object, upgraded: asyncio.Event, **__: object) -> None:
        try:
            upgraded.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.to_thread(ended.append, "ended")
            if is_stopped:
                stop.set()

    monkeypatch.setattr(up, "_stop_requested", stop_requested)
    monkeypatch.setattr(up, "_run", run)
    talk = Talk()

    assert await up.up(talk) is not is_stopped
    assert ended == ["ended"]
    assert talk.shown_lines.get_nowait() == "Restarting"
    assert talk.shown_lines.empty() is not is_stopped
    assert daybook_home.running() is None
