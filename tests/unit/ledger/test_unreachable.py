"""Errors of an unreachable ledger, the queue of its writers, and the permissions of its files."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from anyio.lowlevel import checkpoint
from sqlalchemy import AsyncAdaptedQueuePool, text

from daybook.errors import LedgerUnreachable
from daybook.jobs import store
from daybook.ledger import engine
from daybook.ledger.engine import Ledger
from tests.costs import one_in
from tests.databases import Database

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]


def _address(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def _open(path: Path) -> None:
    async with Ledger(_address(path)):
        pass


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock the ledger as another writer does, until the block ends."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def test_a_folder_in_place_of_the_ledger_is_reported_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnreachable, match="it is not a file") as error:
        await _open(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "DAYBOOK_HOME" in str(error.value)


async def test_a_file_in_place_of_the_ledgers_folder_makes_it_unreachable(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(LedgerUnreachable):
        await _open(tmp_path / "home" / "ledger.db")


def test_a_failed_connection_leaves_no_thread_that_needs_the_loop(tmp_path: Path) -> None:
    # A renewal does not enter the ledger, so nothing is checked before it connects.
    async def write() -> set[threading.Thread]:
        ledger, before = Ledger(_address(tmp_path)), set(threading.enumerate())
        with pytest.raises(LedgerUnreachable, match="unable to open"):
            async with ledger.write():
                pass
        return {each for each in threading.enumerate() if "worker_thread" in each.name} - before

    for _ in range(20):  # without the wait, the thread has often ended by itself
        assert asyncio.run(write()) == set()


def test_an_unreachable_ledger_prints_nothing_to_stderr(tmp_path: Path) -> None:
    # The driver's thread would complain about a closed loop only sometimes: try it often.
    script = """
import asyncio, sys
from daybook.errors import LedgerUnreachable
from daybook.ledger.engine import Ledger
async def main():
    async with Ledger(sys.argv[1]):
        pass
for _ in range(50):
    try:
        asyncio.run(main())
    except LedgerUnreachable as error:
        print(error.code)
"""
    command = [sys.executable, "-c", script, _address(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    assert ended.stderr == ""
    assert ended.stdout == "ledger_unreachable\n" * 50


async def test_a_file_that_is_not_a_database_is_unreachable(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"Dear diary, " * 1000)
    with pytest.raises(LedgerUnreachable, match="not a database"):
        await _open(path)


async def test_a_corrupt_database_is_unreachable(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    await _open(path)
    path.write_bytes(path.read_bytes()[:4096] + os.urandom(16 * 4096))
    with pytest.raises(LedgerUnreachable):
        async with Ledger(_address(path)) as ledger, ledger.read() as session:
            await store.all_jobs(session)


READ_ONLY = """
import asyncio, os, sys
from daybook.errors import LedgerUnreachable
from daybook.ledger.engine import Ledger
async def main(address):
    async with Ledger(address) as ledger, ledger.write():
        pass
asyncio.run(main(sys.argv[1]))  # all is imported now
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)  # root may write anywhere
try:
    asyncio.run(main(sys.argv[2]))
except LedgerUnreachable as error:
    print(error)
"""


@pytest.mark.parametrize("there", one_in(2, [False, True]))
def test_a_ledger_in_a_read_only_folder_is_unreachable(tmp_path: Path, there: bool) -> None:
    # Not under `tmp_path`, which another user cannot enter.
    folder = Path(tempfile.mkdtemp(prefix="daybook-read-only-"))
    try:
        if there:
            asyncio.run(_open(folder / "ledger.db"))
            (folder / "ledger.db").chmod(0o444)
        folder.chmod(0o555)
        command = [sys.executable, "-c", READ_ONLY]
        addresses = [_address(tmp_path / "good.db"), _address(folder / "ledger.db")]
        ended = subprocess.run(
            command + addresses, capture_output=True, text=True, timeout=60, check=False
        )
    finally:
        folder.chmod(0o700)
        shutil.rmtree(folder)
    assert ended.stderr == ""
    assert f"{folder}/ledger.db cannot be reached" in ended.stdout


async def test_a_writer_gives_up_if_the_lock_is_held_longer_than_it_waits(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with Ledger(_address(path), busy=timedelta(milliseconds=20)) as ledger:
        with locked(path), pytest.raises(LedgerUnreachable, match="locked"):
            async with ledger.write():
                pytest.fail("two writers at once")
        async with ledger.write() as session:  # the error was temporary
            assert await store.taken_names(session, "user") == set()


async def test_a_reader_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with Ledger(_address(path), busy=timedelta(milliseconds=20)) as ledger:
        with locked(path):
            async with ledger.read() as session:
                assert await store.taken_names(session, "user") == set()


async def test_many_waiting_writers_all_give_up_in_time_while_reads_continue(
    tmp_path: Path,
) -> None:
    path, many = tmp_path / "ledger.db", 24
    async with Ledger(_address(path), busy=timedelta(seconds=2)) as ledger:

        async def writes() -> None:
            async with ledger.write():
                pytest.fail("two writers at once")

        with locked(path):
            async with asyncio.timeout(30):  # not one after the other
                writing = [asyncio.create_task(writes()) for _ in range(many)]
                async with ledger.read() as session:
                    await session.connection()
                    assert await store.taken_names(session, "user") == set()
                assert not any(each.done() for each in writing)  # the read waited for none of them
                results = await asyncio.gather(*writing, return_exceptions=True)
        assert [type(each) for each in results] == [LedgerUnreachable] * many
        assert any("other writers" in str(each) for each in results)
        async with ledger.write() as session:
            assert await store.taken_names(session, "user") == set()


async def test_a_ledger_whose_connections_are_all_in_use_is_unreachable(tmp_path: Path) -> None:
    async with Ledger(_address(tmp_path / "ledger.db")) as ledger, AsyncExitStack() as readers:
        pool = ledger._engine.pool
        assert isinstance(pool, AsyncAdaptedQueuePool)
        pool._timeout = 0.01
        while pool.checkedout() < pool.size() + pool._max_overflow:
            session = await readers.enter_async_context(ledger.read())
            await session.connection()

        with pytest.raises(LedgerUnreachable, match="all connections are in use"):
            async with ledger.read() as session:
                await session.connection()


async def test_writers_get_the_lock_in_the_order_in_which_they_arrive(database: Database) -> None:
    order: list[int] = []
    async with Ledger(database.address) as ledger:

        async def writes(number: int) -> None:
            async with ledger.write():
                order.append(number)

        async with asyncio.timeout(30):
            await asyncio.gather(*map(writes, range(40)))

    assert order == list(range(40))


async def test_the_time_in_the_write_queue_counts_towards_the_wait_for_the_file_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, advanced = tmp_path / "ledger.db", 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + advanced)
    monkeypatch.setattr(engine, "time", clock)
    held, entered = asyncio.Event(), asyncio.Event()
    async with Ledger(_address(path), busy=timedelta(seconds=30)) as ledger:

        async def holds() -> None:
            async with ledger.write():
                entered.set()
                await held.wait()

        async def writes() -> None:
            async with ledger.write():
                pytest.fail("two writers at once")

        holding = asyncio.create_task(holds())
        await entered.wait()
        waiting = asyncio.create_task(writes())
        while not ledger._turn._waiters:
            await checkpoint()
        advanced = 29.7
        since = time.monotonic()
        held.set()
        await holding
        with locked(path), pytest.raises(LedgerUnreachable, match="locked"):
            await waiting
        assert time.monotonic() - since < 20

        async with ledger.read() as session:
            assert (await session.execute(text("PRAGMA busy_timeout"))).scalar_one() == 30_000


async def test_a_writer_cancelled_in_the_write_queue_does_not_block_the_next(
    database: Database,
) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()
    order: list[str] = []
    async with Ledger(database.address) as ledger:

        async def writes(name: str) -> None:
            async with ledger.write():
                order.append(name)
                entered.set()
                await leave.wait()

        first, second, third = (asyncio.create_task(writes(name)) for name in "abc")
        await entered.wait()
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        leave.set()
        async with asyncio.timeout(10):
            await asyncio.gather(first, third)

    assert order == ["a", "c"]


async def test_a_writer_cancelled_while_it_waits_for_the_lock_does_not_block_the_next(
    database: Database,
) -> None:
    async with Ledger(database.address) as ledger, Ledger(database.address) as other:
        async with other.write():
            waiting = asyncio.create_task(jobs_there(ledger))
            async with ledger.read() as session:  # by now the task waits for the lock
                assert await store.taken_names(session, "user") == set()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        async with asyncio.timeout(10):
            assert await jobs_there(ledger) == set()


async def jobs_there(ledger: Ledger) -> set[str]:
    async with ledger.write() as session:
        return await store.taken_names(session, "user")


async def test_only_the_owner_can_read_the_ledgers_files(tmp_path: Path) -> None:
    path = tmp_path / "new" / "home" / "ledger.db"
    before = os.umask(0)
    try:
        async with Ledger(_address(path)) as ledger, ledger.write():
            files = {each.name: _mode(each) for each in path.parent.iterdir()}
    finally:
        os.umask(before)

    assert files == {"ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600}
    assert _mode(path.parent) == 0o700


async def test_the_id_of_a_ledger_is_created_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with Ledger(_address(path)) as first, Ledger(_address(path)) as second:
        assert first.id == second.id
    async with Ledger(_address(tmp_path / "other.db")) as other:
        assert other.id not in ("", first.id)
