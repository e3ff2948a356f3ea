"""A PostgreSQL server that is away, full or cuts off; who has the lock, and whose clock it is."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from daybook.clock import SYSTEM_CLOCK
from daybook.errors import LedgerUnreachable
from daybook.jobs import store
from daybook.ledger import postgresql
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact
from tests import databases
from tests.databases import Postgresql
from tests.unit.ledger import still
from tests.unit.ledger.between import between

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

SHORT = timedelta(milliseconds=50)
ENOUGH = 100
_SOMEBODY_WAITS = """
DO $$ BEGIN
    WHILE NOT EXISTS (
        SELECT 1 FROM pg_locks JOIN pg_database ON oid = database
        WHERE NOT granted AND datname = current_database()
    ) LOOP PERFORM pg_sleep(0.01); END LOOP;
END $$
"""


@pytest.fixture
def there(postgresql: databases.Server) -> Postgresql:
    """A ledger's database, with its tables."""
    return postgresql.prepared()


@pytest.fixture
async def ledger(there: Postgresql) -> AsyncIterator[Ledger]:
    async with Ledger(there.address) as ledger:
        yield ledger


async def _writes(ledger: Ledger, key: str) -> None:
    async with ledger.write() as session:
        session.add(Fact(key=key, value="here"))


async def _facts(ledger: Ledger) -> set[str]:
    async with ledger.read() as session:
        rows = await session.execute(text("SELECT key FROM facts WHERE key <> 'id'"))
        return set(rows.scalars())


# --- not to be reached


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port on which nobody listens, and nobody else will."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def _refused(address: str) -> str:
    with pytest.raises(LedgerUnreachable) as error:
        async with Ledger(address):
            pass
    return str(error.value)


async def test_nobody_listens_and_the_password_is_not_told(nobody: int) -> None:
    query = "?passfile=/secret&password=secret"
    said = await _refused(f"postgresql+asyncpg://me:secret@127.0.0.1:{nobody}/book{query}")
    assert f"postgresql+asyncpg://me:***@127.0.0.1:{nobody}/book cannot be reached" in said
    assert "secret" not in said
    assert "DAYBOOK_LEDGER_URL" in said


async def test_no_such_host_database_user_and_option(there: Postgresql) -> None:
    assert "Name or service not known" in await _refused("postgresql+asyncpg://nowhere.invalid/b")
    host = there.address.rpartition("/")[0]
    assert '"nothing" does not exist' in await _refused(f"{host}/nothing")
    assert "nothing" in await _refused(f"{there.address}?nothing=1")
    user = there.address.replace("root@", "nobody_at_all@")
    assert "nobody_at_all" in await _refused(user)


async def test_a_server_that_takes_no_more_connections(there: Postgresql) -> None:
    name = there.url.rpartition("/")[2]
    there.query(f"ALTER DATABASE {name} CONNECTION LIMIT 0")
    there.query("CREATE ROLE daybook_test_limited LOGIN")
    try:
        limited = there.address.replace("root@", "daybook_test_limited@")
        assert "too many connections" in await _refused(limited)
    finally:
        there.query("DROP ROLE daybook_test_limited")
        there.query(f"ALTER DATABASE {name} CONNECTION LIMIT -1")


async def test_a_server_that_only_reads(ledger: Ledger, there: Postgresql) -> None:
    name = there.url.rpartition("/")[2]
    there.query(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    try:
        async with Ledger(there.address) as other:
            assert await _facts(other) == set()
            with pytest.raises(LedgerUnreachable, match="read-only"):
                await _writes(other, "x")
    finally:
        there.query("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE")
        there.query(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert await _facts(ledger) == set()


async def test_connections_that_were_cut_while_idle_cost_nothing(
    ledger: Ledger, there: Postgresql
) -> None:
    for number in range(3):
        for first in (_writes(ledger, f"write {number}"), _facts(ledger)):
            assert await asyncio.to_thread(there.cut_off) == 1
            # The loop runs on meanwhile, and is told.
            await asyncio.to_thread(there.query, "SELECT 1")
            await first
    assert await _facts(ledger) == {"write 0", "write 1", "write 2"}


async def test_cut_while_this_process_looked_away(ledger: Ledger, there: Postgresql) -> None:
    # Nothing has told the loop yet that the connection is gone.
    await _writes(ledger, "before")
    assert there.cut_off() == 1
    await _writes(ledger, "after")
    there.cut_off()
    assert await _facts(ledger) == {"before", "after"}


async def test_cut_in_a_transaction_it_is_undone_and_the_next_is_whole(
    ledger: Ledger, there: Postgresql
) -> None:
    with pytest.raises(LedgerUnreachable):
        async with ledger.write() as session:
            session.add(Fact(key="lost", value="here"))
            await session.flush()
            there.cut_off()
            session.add(Fact(key="lost too", value="here"))
    with pytest.raises(LedgerUnreachable):
        async with ledger.read() as session:
            await store.taken_names(session, "user")
            there.cut_off()
            await store.taken_names(session, "user")
    await _writes(ledger, "kept")
    assert await _facts(ledger) == {"kept"}


async def test_a_commit_whose_answer_was_lost_was_made(there: Postgresql) -> None:
    async with between(there.address) as way, Ledger(way.address) as ledger:
        way.breaks = "after"
        await _writes(ledger, "kept")
        assert way.broken.is_set()
        assert await _facts(ledger) == {"kept"}


async def test_a_commit_that_never_came_was_not(there: Postgresql) -> None:
    async with between(there.address) as way, Ledger(way.address) as ledger:
        way.breaks = "before"
        with pytest.raises(LedgerUnreachable, match="lost"):
            await _writes(ledger, "lost")
        assert way.broken.is_set()
        assert await _facts(ledger) == set()


async def test_cut_at_any_moment_a_write_is_known_to_be_made_or_not(there: Postgresql) -> None:
    # Who cuts is another process's matter: at random, with respect to what is done here.
    made: set[str] = set()
    lost: set[str] = set()
    enough = threading.Event()
    async with Ledger(there.address) as ledger:
        cutting = asyncio.create_task(asyncio.to_thread(_cut_until, enough, there))
        while len(made) < ENOUGH or not lost:
            key = f"write {len(made | lost)}"
            try:
                await _writes(ledger, key)
                made.add(key)
            except LedgerUnreachable:
                lost.add(key)
        enough.set()
        await cutting
        assert await _facts(ledger) == made


def _cut_until(enough: threading.Event, there: Postgresql) -> None:
    pause = 0
    while not enough.wait(pause / 25):
        pause = (pause + 7) % 20
        there.cut_off()


async def test_an_error_of_the_statement_or_the_caller_is_no_unreachable_ledger(
    ledger: Ledger,
) -> None:
    await _writes(ledger, "once")
    with pytest.raises(Exception, match="unique") as twice:
        await _writes(ledger, "once")
    assert not isinstance(twice.value, LedgerUnreachable)
    for mine in (OSError("mine"), TimeoutError("mine"), ConnectionResetError("mine")):
        with pytest.raises(type(mine), match="mine"):
            async with ledger.write() as session:
                session.add(Fact(key="undone", value="here"))
                raise mine
    assert await _facts(ledger) == {"once"}


async def test_a_server_that_does_not_answer(
    there: Postgresql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "ANSWER_TIMEOUT", timedelta(seconds=2))
    async with Ledger(there.address, busy=SHORT) as ledger:
        async with asyncio.timeout(20):
            with pytest.raises(LedgerUnreachable, match="no answer in time"):
                async with ledger.read() as session:
                    await session.execute(text("SELECT pg_sleep(30)"))
        assert await _facts(ledger) == set()


# --- the lock


async def test_locked_for_longer_than_a_writer_waits(ledger: Ledger, there: Postgresql) -> None:
    async with Ledger(there.address, busy=SHORT) as other:
        async with ledger.write():
            with pytest.raises(LedgerUnreachable, match="locked"):
                await _writes(other, "two writers at once")
            assert await _facts(other) == set()  # who reads does not wait
        await _writes(other, "it was nothing lasting")


async def test_a_writer_reads_what_was_committed_while_it_waited(
    ledger: Ledger, there: Postgresql
) -> None:
    async with Ledger(there.address) as other:
        async with ledger.write() as session:
            session.add(Fact(key="first", value="here"))
            reads = asyncio.create_task(_reads_as_writer(other))
            await asyncio.to_thread(there.query, _SOMEBODY_WAITS)
        assert await reads == {"first"}


async def _reads_as_writer(ledger: Ledger) -> set[str]:
    async with ledger.write() as session:
        rows = await session.execute(text("SELECT key FROM facts WHERE key <> 'id'"))
        return set(rows.scalars())


async def test_a_read_sees_one_moment(ledger: Ledger) -> None:
    async with ledger.read() as session:
        count = text("SELECT count(*) FROM facts")
        before = (await session.execute(count)).scalar_one()
        await _writes(ledger, "meanwhile")
        assert (await session.execute(count)).scalar_one() == before
    assert await _facts(ledger) == {"meanwhile"}


async def test_a_read_writes_nothing(ledger: Ledger) -> None:
    with pytest.raises(LedgerUnreachable, match="read-only"):
        async with ledger.read() as session:
            session.add(Fact(key="x", value="y"))
            await session.flush()


async def test_two_ledgers_of_one_server_do_not_wait_for_each_other(
    there: Postgresql, postgresql: databases.Server
) -> None:
    empty = postgresql.empty()
    async with Ledger(there.address) as one, Ledger(empty.address, busy=SHORT) as two:
        async with one.write():
            await _writes(two, "at once")
        assert one.id != two.id


async def test_who_stands_still_in_a_write_loses_the_lock_and_what_it_wrote(
    there: Postgresql,
) -> None:
    async with Ledger(there.address) as ledger:
        with still.writer(there.address, "stopped") as child:
            os.kill(child.pid, signal.SIGSTOP)
            began = time.monotonic()
            await _writes(ledger, "went on")
            assert time.monotonic() - began < still.STANDS_STILL.total_seconds() + 10
            assert await _facts(ledger) == {"went on"}
            os.kill(child.pid, signal.SIGCONT)
            assert still.end_of(child) == "LedgerUnreachable"
        assert await _facts(ledger) == {"went on"}


async def test_a_killed_writer_keeps_nobody_waiting(there: Postgresql) -> None:
    async with Ledger(there.address, busy=timedelta(seconds=10)) as ledger:
        with still.writer(there.address, "killed") as child:
            os.kill(child.pid, signal.SIGKILL)
            await _writes(ledger, "went on")
        assert await _facts(ledger) == {"went on"}


# --- the clock


async def _database_time(ledger: Ledger) -> datetime:
    async with ledger.read() as session:
        told: datetime = (await session.execute(text("SELECT clock_timestamp()"))).scalar_one()
        return told


async def test_it_tells_the_database_s_time(ledger: Ledger) -> None:
    before, told, after = ledger.now(), await _database_time(ledger), ledger.now()
    assert before - timedelta(seconds=1) <= told <= after + timedelta(seconds=1)
    assert abs(ledger.skew()) < timedelta(seconds=5)


async def test_all_connections_taken_is_not_to_be_reached(ledger: Ledger) -> None:
    pool: Any = ledger._engine.pool
    pool._timeout = 0.01
    async with AsyncExitStack() as readers:
        while pool.checkedout() < pool.size() + pool._max_overflow:
            await readers.enter_async_context(ledger.read())
        with pytest.raises(LedgerUnreachable, match="all connections are in use"):
            await _facts(ledger)


async def test_two_ledgers_entered_at_once_in_one_process(
    there: Postgresql, postgresql: databases.Server
) -> None:
    empty = postgresql.empty()
    ledgers = [Ledger(empty.address) for _ in range(4)]
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(each) for each in ledgers))
        assert len({each.id for each in ledgers}) == 1
    assert SYSTEM_CLOCK.now() - ledgers[0].now() < timedelta(seconds=5)
