"""Calls of listeners that are sync, async, failing, hanging or killed."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

import daybook
from daybook import registry
from daybook.api import listening as programs
from daybook.delivery import history, listener_calls, listeners, sending
from daybook.errors import Temporary
from daybook.home import Home
from daybook.keeper import listeners as listen
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery, Outcome, Status
from daybook.ledger.tables import OutboxRow
from daybook.runs import claims
from daybook.timing import TIMING
from tests.world import World

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def nobody_else() -> Iterator[None]:
    with registry.isolated():
        yield


@pytest.fixture
async def world(tmp_path: Path, clock: Any) -> AsyncIterator[World]:
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path}/ledger.db", clock) as ledger:
        yield World(ledger, clock)


async def ended(world: World, status: Status = Status.SUCCEEDED, name: str = "brief") -> str:
    """Run a job to this outcome; return the run's id."""
    job = await world.jobs.add(name, prompt="x", cron="0 * * * *")
    return (await world.runs.finished(job, status, output="Forty-two.")).run_id


async def call_listeners(world: World, *names: str, **more: Any) -> int:
    return await listener_calls.call_listeners(world.ledger, "here", names, **more)


async def every(world: World) -> list[OutboxRow]:
    async with world.ledger.read() as session:
        return await history.recent(session)


async def rows(world: World) -> dict[str, OutboxRow]:
    return {row.address: row for row in await every(world)}


@pytest.mark.floor("A", "All listeners are called, even if one fails")
@pytest.mark.floor("C", "CronCallback: code of the program is called at the end of a run")
async def test_all_listeners_are_called_although_one_fails_and_the_outcome_stays(
    world: World,
) -> None:
    calls: list[tuple[str, Any, bool]] = []

    @registry.listener(name="a.fails")
    def fails(run: dict[str, Any]) -> None:
        run.clear()
        raise ValueError("the disk is full")

    @registry.listener(name="b.sync")
    def sync(run: dict[str, Any]) -> None:
        calls.append(("sync", run, threading.current_thread() is threading.main_thread()))

    @registry.listener(name="c.async")
    async def later(run: dict[str, Any]) -> None:
        await asyncio.get_running_loop().run_in_executor(None, int)
        calls.append(("async", run, threading.current_thread() is threading.main_thread()))

    @registry.listener(name="d.leaves")
    def leaves(run: dict[str, Any]) -> None:
        sys.exit("bye")

    run_id = await ended(world)
    assert await call_listeners(world, "a.fails", "b.sync", "c.async", "d.leaves") == 4
    assert sorted(kind for kind, _, _ in calls) == ["async", "sync"]
    for _, run, in_main in calls:
        assert (run["id"], run["status"], run["output"]) == (run_id, "succeeded", "Forty-two.")
        assert not in_main
    found = await rows(world)
    assert {name: (row.status, row.error) for name, row in found.items()} == {
        "a.fails": ("failed", "ValueError: the disk is full"),
        "b.sync": ("delivered", None),
        "c.async": ("delivered", None),
        "d.leaves": ("failed", "RuntimeError: SystemExit: bye"),
        "inbox": ("delivered", None),  # the operator's alert about failed listeners, once an hour
    }
    run = await world.runs.row(run_id)
    assert (run.status, run.error, run.delivery) == ("succeeded", None, "not_requested")
    assert await call_listeners(world, *found) == 0  # no second call


async def test_a_hanging_listener_blocks_neither_other_listeners_nor_its_caller(
    world: World,
) -> None:
    release, calls = threading.Event(), []
    registry.listener(name="async.hangs")(lambda run: asyncio.Event().wait())
    registry.listener(name="sync.hangs")(lambda run: release.wait())
    registry.listener(name="works")(lambda run: calls.append(run["job"]))
    await ended(world)
    await ended(world, name="later")
    try:
        assert await call_listeners(world, "async.hangs", "sync.hangs", "works", within=0.2) == 6
    finally:
        release.set()
    assert calls == ["brief", "later"]
    found = [row for row in await every(world) if row.address != "works"]
    assert {(row.address, row.status, row.attempts, row.error) for row in found} == {
        ("async.hangs", "pending", 1, "it did not end within 0.2 s and was cancelled"),
        ("sync.hangs", "pending", 1, "it did not end within 0.2 s and still runs in a thread"),
    }
    assert len(found) == 4 and all(row.next_at > world.clock.now() for row in found)


async def test_a_listener_with_a_temporary_error_is_called_again_later(world: World) -> None:
    results = [Temporary("busy", retry_after=90), None]

    @registry.listener(name="later")
    def later(run: dict[str, Any]) -> None:
        if (error := results.pop(0)) is not None:
            raise error

    await ended(world)
    assert await call_listeners(world, "later") == 1
    row = (await rows(world))["later"]
    assert (row.status, row.error) == ("pending", "Temporary: busy")
    assert row.next_at == world.clock.now() + timedelta(seconds=90)
    assert await call_listeners(world, "later") == 0
    world.clock.move(timedelta(seconds=90))
    assert await call_listeners(world, "later") == 1
    assert (await rows(world))["later"].status == "delivered"


async def test_the_row_of_a_listener_waits_for_a_process_that_registered_it(world: World) -> None:
    await listeners.announce(world.ledger, ["elsewhere"])
    await ended(world)
    assert await call_listeners(world) == 0
    # A callback sender ignores the row and does not poll for it.
    assert (
        await sending.next_due(world.ledger, lambda queue: not queue.startswith("listener:"))
        is None
    )
    calls: list[str] = []
    registry.listener(name="elsewhere")(lambda run: calls.append(run["status"]))
    assert await call_listeners(world, "elsewhere") == 1
    assert calls == ["succeeded"]


async def test_with_in_this_loop_an_async_listener_runs_in_the_programs_loop(world: World) -> None:
    loop, calls = asyncio.get_running_loop(), []

    @registry.listener(name="mine")
    async def listener(run: dict[str, Any]) -> None:
        calls.append(asyncio.get_running_loop() is loop)
        raise asyncio.CancelledError

    await ended(world)
    assert await call_listeners(world, "mine", in_this_loop=True) == 1
    assert calls == [True]
    assert (await rows(world))["mine"].error == "CancelledError: "


async def test_a_cancelled_caller_releases_the_row_of_a_hanging_listener(world: World) -> None:
    started, release = threading.Event(), threading.Event()

    def hangs(run: dict[str, Any]) -> None:
        started.set()
        release.wait()

    registry.listener(name="hangs")(hangs)
    await ended(world)
    task = asyncio.create_task(call_listeners(world, "hangs"))
    await asyncio.to_thread(started.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    row = (await rows(world))["hangs"]
    assert (row.status, row.attempts, row.lease_until) == ("pending", 0, None)
    release.set()


class Held:
    """Listener, and one step of its call that blocks until `go`."""

    def __init__(self, where: str, patch: pytest.MonkeyPatch) -> None:
        self.there, self.received_ids = asyncio.Event(), list[str]()
        self._goes, self._thread_goes = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        async def hears(run: dict[str, Any]) -> None:
            self.received_ids.append(run["id"])
            if where in ("listener", "release"):
                await self._hold()

        def hears_in_thread(run: dict[str, Any]) -> None:
            self.received_ids.append(run["id"])
            loop.call_soon_threadsafe(self.there.set)
            self._thread_goes.wait()

        registry.listener(name="held")(hears_in_thread if where == "thread" else hears)
        if where in ("claim", "record", "release"):
            verb = getattr(sending, where)

            async def held_up(*given: Any, **more: Any) -> Any:
                if where != "claim":
                    await self._hold()
                found = await verb(*given, **more)
                if where == "claim":  # claimed in the ledger; the caller has no answer yet
                    await self._hold()
                return found

            patch.setattr(sending, where, held_up)

    async def _hold(self) -> None:
        self.there.set()
        await self._goes.wait()

    def go(self) -> None:
        self._goes.set()
        self._thread_goes.set()


async def test_a_caller_cancelled_during_its_claim_releases_the_row(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held("claim", monkeypatch)
    await ended(world)
    task = asyncio.create_task(call_listeners(world, "held"))
    await held.there.wait()
    task.cancel()
    held.go()
    with pytest.raises(asyncio.CancelledError):
        await task
    row = (await rows(world))["held"]
    assert (row.status, row.attempts, row.lease_until, held.received_ids) == (
        "pending",
        0,
        None,
        [],
    )


async def test_a_caller_cancelled_while_recording_still_records_the_delivery(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held("record", monkeypatch)
    run_id = await ended(world)
    task = asyncio.create_task(call_listeners(world, "held"))
    await held.there.wait()
    task.cancel()
    held.go()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ((await rows(world))["held"].status, held.received_ids) == ("delivered", [run_id])


async def test_a_caller_cancelled_twice_still_releases_its_row(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held("release", monkeypatch)
    await ended(world)
    task = asyncio.create_task(call_listeners(world, "held", in_this_loop=True))
    await held.there.wait()
    held.there.clear()
    task.cancel()
    await held.there.wait()
    task.cancel()
    held.go()
    with pytest.raises(asyncio.CancelledError):
        await task
    row = (await rows(world))["held"]
    assert (row.status, row.attempts, row.lease_until) == ("pending", 0, None)


@pytest.fixture
def program(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `daybook.listening` open the test's ledger."""
    monkeypatch.setattr(programs, "open_ledger", lambda: Ledger(world.ledger.address, world.clock))


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize("end", ["returns", "raises", "is cancelled"])
@pytest.mark.parametrize("where", ["claim", "listener", "thread", "record"])
async def test_a_program_that_ends_during_a_call_delivers_the_outcome_once(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str, end: str
) -> None:
    held = Held(where, monkeypatch)
    run_id = await ended(world)
    with anyio.CancelScope() as scope, suppress(ZeroDivisionError):
        async with daybook.listening():
            await held.there.wait()
            asyncio.get_running_loop().call_soon(held.go)  # once the end of the block has begun
            if end == "raises":
                raise ZeroDivisionError
            if end == "is cancelled":
                scope.cancel()
    row = (await rows(world))["held"]
    assert (row.status, row.lease_until, held.received_ids) == ("delivered", None, [run_id])


@pytest.mark.usefixtures("program")
async def test_a_program_delivers_all_due_rows_before_it_ends(world: World) -> None:
    calls: list[str] = []
    registry.listener(name="later")(lambda run: calls.append(run["id"]))
    run_id = await ended(world)
    async with daybook.listening():
        pass
    assert calls == [run_id]


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize("where", ["listener", "thread"])
async def test_a_hanging_listener_does_not_delay_a_program_beyond_its_shutdown_timeout(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(programs, "SHUTDOWN_TIMEOUT_SECONDS", 0.0)
    held = Held(where, monkeypatch)
    run_id = await ended(world)
    async with daybook.listening():
        await held.there.wait()
    row = (await rows(world))["held"]
    assert (row.status, row.attempts, row.lease_until) == ("pending", 0, None)
    assert held.received_ids == [run_id]
    held.go()


@pytest.mark.usefixtures("program")
async def test_a_listener_that_ignores_its_cancellation_gets_no_further_outcome(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "SHUTDOWN_TIMEOUT_SECONDS", 0.0)
    started, calls = asyncio.Event(), list[str]()

    @registry.listener(name="stays")
    async def stays(run: dict[str, Any]) -> None:
        calls.append(run["id"])
        started.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    first = await ended(world)
    await ended(world, name="later")
    async with daybook.listening():
        await started.wait()
    assert calls == [first]
    found = {row.run_id == first: row for row in await every(world)}
    assert (found[True].status, found[False].status) == ("delivered", "pending")
    assert found[False].lease_until is None


@pytest.mark.usefixtures("program")
async def test_the_shutdown_of_a_program_can_be_cancelled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "SHUTDOWN_TIMEOUT_SECONDS", 600.0)
    held = Held("listener", monkeypatch)

    async def runs() -> None:
        async with daybook.listening():
            await held.there.wait()
            asyncio.get_running_loop().call_soon(task.cancel)  # once the end has begun

    run_id = await ended(world)
    task = asyncio.create_task(runs())
    with pytest.raises(asyncio.CancelledError):
        await task
    row = (await rows(world))["held"]
    assert (row.status, row.attempts, row.lease_until) == ("pending", 0, None)
    assert held.received_ids == [run_id]


DIES = """
import asyncio, os, signal, sys
from daybook import registry
from daybook.ledger.engine import Ledger
from daybook.delivery import listener_calls
from daybook.testing import ManualClock
from datetime import datetime

@registry.listener(name="dies")
def dies(run):
    with open(sys.argv[3], "a") as calls:
        calls.write(run["id"] + "\\n")
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with Ledger(sys.argv[1], ManualClock(datetime.fromisoformat(sys.argv[2]))) as ledger:
        await listener_calls.call_listeners(ledger, "dies", ["dies"])
asyncio.run(main())
"""


async def test_a_process_killed_in_a_listener_leaves_its_row_to_the_next_process(
    world: World, tmp_path: Path
) -> None:
    await listeners.announce(world.ledger, ["dies"])
    run_id = await ended(world)
    report_file, again = tmp_path / "report", list[str]()
    given = [world.ledger.address, world.clock.now().isoformat(), str(report_file)]
    died = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", DIES, *given])
    assert died.returncode == -signal.SIGKILL
    registry.listener(name="dies")(lambda run: again.append(run["id"]))
    assert await call_listeners(world, "dies") == 0  # the lease has not expired
    world.clock.move(TIMING.delivery_lease + timedelta(seconds=1))
    assert await call_listeners(world, "dies") == 1
    assert (report_file.read_text().split(), again) == ([run_id], [run_id])
    assert (await world.runs.row(run_id)).status == "succeeded"


async def test_a_listener_is_given_up_after_five_callers_died(world: World) -> None:
    calls: list[str] = []
    registry.listener(name="kills")(lambda run: calls.append(run["id"]))
    run_id = await ended(world)
    for _ in range(5):
        assert len(await sending.claim(world.ledger, "killed", most=1)) == 1
        world.clock.move(TIMING.delivery_lease + timedelta(seconds=1))
    assert await call_listeners(world, "kills") == 1
    row = (await rows(world))["kills"]
    why = "gave up: 5 calls ended without a result, because their process died or was stopped"
    assert (row.status, row.error, calls) == ("failed", why, [])
    await sending.retry(world.ledger, [row.id])  # as the operator does
    assert await call_listeners(world, "kills") == 1
    assert ((await rows(world))["kills"].status, calls) == ("delivered", [run_id])


PLUGIN = """
import daybook, os
@daybook.listener
async def heard(run):
    with open(os.environ["HEARD"], "a") as file:
        file.write(run["job"] + " " + run["status"] + "\\n")
"""


async def test_the_leader_calls_the_listeners_of_the_plugins_setting(
    world: World, daybook_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin that cannot be imported does not affect the others."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/plugin_of_a_test.py").write_text(PLUGIN)
    (tmp_path / "site/broken_of_a_test.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("DAYBOOK_PLUGINS", "broken_of_a_test, plugin_of_a_test")
    monkeypatch.setenv("HEARD", str(tmp_path / "heard"))
    monkeypatch.delitem(sys.modules, "plugin_of_a_test", raising=False)
    memory = listen.ListenersState()
    assert await listen.call_listeners(world.ledger, "here", memory) is None
    assert memory.names == ["plugin_of_a_test.heard"]
    assert list(registry.failed_plugins()) == ["broken_of_a_test"]
    await ended(world)
    assert await listen.call_listeners(world.ledger, "here", memory) == listen.BUSY_INTERVAL_SECONDS
    assert (tmp_path / "heard").read_text() == "brief succeeded\n"
    assert await listen.call_listeners(world.ledger, "here", memory) is None


async def test_entry_point_listeners_are_called_and_looked_up_once(
    world: World, daybook_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "site/listening_of_a_test-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: l\nVersion: 1.0\n")
    lines = "heard = installed_of_a_test:heard\nlost = not_there_at_all:heard\n"
    (about / "entry_points.txt").write_text("[daybook.listeners]\n" + lines)
    source = PLUGIN.replace("@daybook.listener\n", "")
    (tmp_path / "site/installed_of_a_test.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("HEARD", str(tmp_path / "heard"))
    memory = listen.ListenersState()
    await listen.call_listeners(world.ledger, "here", memory)
    assert memory.names == ["heard", "lost"]
    (about / "entry_points.txt").unlink()
    assert registry.names(registry.LISTENERS) == ["heard", "lost"]  # no second lookup
    await ended(world, Status.FAILED)
    await listen.call_listeners(world.ledger, "here", memory)
    assert (tmp_path / "heard").read_text() == "brief failed\n"
    lost = (await rows(world))["lost"]
    why = "cannot load not_there_at_all:heard: ModuleNotFoundError: "
    assert (lost.status, str(lost.error).startswith(why)) == ("pending", True)


IMPORTED = """
import os, threading
from pathlib import Path

heard_in = Path(os.environ["HEARD"])
if heard_in.exists():
    raise SystemExit("no licence")
heard_in.write_text(threading.current_thread().name)

def heard(run):
    pass
"""


@pytest.mark.parametrize("in_this_loop", [False, True])
async def test_a_listener_is_imported_in_a_thread_where_its_exit_ends_no_process(
    world: World,
    daybook_home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_this_loop: bool,
) -> None:
    """The import must not block the worker's loop, which renews leases."""
    module = f"imported_of_a_test_{in_this_loop}".lower()
    about = tmp_path / "site/imported_of_a_test-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: s\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[daybook.listeners]\nslow.one = {module}:heard\n")
    (tmp_path / f"site/{module}.py").write_text(IMPORTED)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("HEARD", str(tmp_path / "heard"))
    await listeners.announce(world.ledger, ["slow.one"])
    await ended(world)
    assert await call_listeners(world, "slow.one", in_this_loop=in_this_loop) == 1
    assert (tmp_path / "heard").read_text() == "daybook-listener"
    assert (await rows(world))["slow.one"].status == "delivered"

    del sys.modules[module]
    await ended(world, name="later")
    assert await call_listeners(world, "slow.one", in_this_loop=in_this_loop) == 1
    [row] = [row for row in await every(world) if row.status == "pending"]
    assert row.error == f"cannot load {module}:heard: SystemExit: no licence"


async def test_a_leader_without_a_due_listener_row_rests_and_writes_nothing(
    world: World, daybook_home: Home, tmp_path: Path
) -> None:
    registry.listener(name="records")(lambda run: None)
    registry.listener(name="rests")(lambda run: None)
    memory = listen.ListenersState()
    await listen.call_listeners(world.ledger, "here", memory)
    await ended(world)
    assert await call_listeners(world, "records") == 1
    for _ in range(sending.FAILURES_BEFORE_PAUSE):
        [row] = await sending.claim(world.ledger, "here", most=1)
        again = sending.DeliveryResult(row.id, row.fence, Delivery.PENDING, world.clock.now(), 0.1)
        await sending.record(world.ledger, [again])
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")  # blocks all other writers
        assert await listen.call_listeners(world.ledger, "here", memory) is None
    world.clock.move(sending.MIN_PAUSE)
    assert await listen.call_listeners(world.ledger, "here", memory) == listen.BUSY_INTERVAL_SECONDS
    assert (await rows(world))["rests"].status == "delivered"


async def test_without_listeners_the_leader_rests(world: World, daybook_home: Home) -> None:
    memory = listen.ListenersState()
    assert (
        await listen.call_listeners(world.ledger, "here", memory)
        == listen.NO_LISTENERS_INTERVAL_SECONDS
    )
    job = await world.jobs.add(prompt="x", cron="0 * * * *")
    granted = await world.runs.running(job)
    await claims.finish(world.ledger, granted.run_id, granted.fence, Outcome(Status.SUCCEEDED))
    assert await rows(world) == {}
