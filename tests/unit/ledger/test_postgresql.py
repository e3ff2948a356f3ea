"""PostgreSQL: a server that is unreachable, full or cuts connections; its lock and its clock."""

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
    """Return a ledger's database, with its tables."""
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


# --- unreachable


@pytest.fixture
def nobody() -> Iterator[int]:
    """Yield a port on which nothing listens, and which no other process can use."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def _refused(address: str) -> str:
    with pytest.raises(LedgerUnreachable) as error:
        async with Ledger(address):
            pass
    return str(error.value)


async def test_the_error_for_a_port_without_a_server_hides_the_password(nobody: int) -> None:
    query = "?passfile=/secret&password=secret"
    message = await _refused(f"postgresql+asyncpg://me:secret@127.0.0.1:{nobody}/book{query}")
    assert f"postgresql+asyncpg://me:***@127.0.0.1:{nobody}/book cannot be reached" in message
    assert "secret" not in message
    assert "DAYBOOK_LEDGER_URL" in message


async def test_the_error_names_an_unknown_host_database_user_or_option(there: Postgresql) -> None:
    assert "Name or service not known" in await _refused("postgresql+asyncpg://nowhere.invalid/b")
    host = there.address.rpartition("/")[0]
    assert '"nothing" does not exist' in await _refused(f"{host}/nothing")
    assert "nothing" in await _refused(f"{there.address}?nothing=1")
    user = there.address.replace("root@", "nobody_at_all@")
    assert "nobody_at_all" in await _refused(user)


async def test_a_server_that_accepts_no_more_connections_is_unreachable(there: Postgresql) -> None:
    name = there.url.rpartition("/")[2]
    there.query(f"ALTER DATABASE {name} CONNECTION LIMIT 0")
    there.query("CREATE ROLE daybook_test_limited LOGIN")
    try:
        limited = there.address.replace("root@", "daybook_test_limited@")
        assert "too many connections" in await _refused(limited)
    finally:
        there.query("DROP ROLE daybook_test_limited")
        there.query(f"ALTER DATABASE {name} CONNECTION LIMIT -1")


async def test_a_read_only_server_can_be_read_and_refuses_writes(
    ledger: Ledger, there: Postgresql
) -> None:
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


async def test_a_connection_that_is_cut_while_idle_is_replaced_without_an_error(
    ledger: Ledger, there: Postgresql
) -> None:
    for number in range(3):
        for first in (_writes(ledger, f"write {number}"), _facts(ledger)):
            assert await asyncio.to_thread(there.cut_off) == 1
            # The event loop runs meanwhile, and notices.
            await asyncio.to_thread(there.query, "SELECT 1")
            await first
    assert await _facts(ledger) == {"write 0", "write 1", "write 2"}


async def test_a_cut_connection_is_replaced_before_the_event_loop_has_noticed(
    ledger: Ledger, there: Postgresql
) -> None:
    # The event loop has not noticed yet that the connection is gone.
    await _writes(ledger, "before")
    assert there.cut_off() == 1
    await _writes(ledger, "after")
    there.cut_off()
    assert await _facts(ledger) == {"before", "after"}


async def test_a_transaction_whose_connection_is_cut_is_rolled_back(
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


async def test_a_commit_whose_answer_is_lost_is_known_to_be_made(there: Postgresql) -> None:
    async with between(there.address) as way, Ledger(way.address) as ledger:
        way.breaks = "after"
        await _writes(ledger, "kept")
        assert way.broken.is_set()
        assert await _facts(ledger) == {"kept"}


async def test_a_commit_before_a_crash_is_not_taken_for_another_one_with_its_id(
    there: Postgresql,
) -> None:
    # After a crash or a failover, another transaction may have the id of the lost one.
    async with between(there.address) as way, Ledger(way.address) as ledger:
        way.breaks = "after"
        way.then = lambda: there.query("CHECKPOINT")  # as recovery does
        with pytest.raises(LedgerUnreachable, match="checkpoint, restart or failover"):
            await _writes(ledger, "unknown")
        assert await _facts(ledger) == {"unknown"}


_RAISING = """
CREATE FUNCTION {function}() RETURNS {type} LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'not here' USING ERRCODE = '{state}';
END $$
"""


@pytest.fixture
def replacing(postgresql: databases.Server) -> Iterator[Postgresql]:
    """Yield an empty database whose own functions replace those of PostgreSQL."""
    empty = postgresql.empty()
    name = empty.url.rpartition("/")[2]
    empty.query(f"ALTER DATABASE {name} SET search_path = public, pg_catalog")
    yield empty
    empty.query(f"ALTER DATABASE {name} RESET search_path")


async def test_on_a_server_that_hides_its_log_a_commit_without_an_answer_is_unknown(
    replacing: Postgresql,
) -> None:
    # As on Amazon Aurora.
    raising = {"function": "pg_current_wal_lsn", "type": "pg_lsn", "state": "55000"}
    replacing.query(_RAISING.format(**raising))
    async with between(replacing.address) as way, Ledger(way.address) as ledger:
        await _writes(ledger, "kept")
        way.breaks = "before"
        with pytest.raises(LedgerUnreachable, match="lost"):
            await _writes(ledger, "lost")
        way.breaks = "after"
        with pytest.raises(LedgerUnreachable, match="result is unknown"):
            await _writes(ledger, "unknown")
        assert {"kept", "lost", "unknown"} & await _facts(ledger) == {"kept", "unknown"}


async def test_the_error_names_a_standby(replacing: Postgresql) -> None:
    raising = {"function": "pg_current_xact_id", "type": "xid8", "state": "25006"}
    replacing.query(_RAISING.format(**raising))
    answer = "RETURNS boolean LANGUAGE sql AS 'SELECT true'"
    replacing.query(f"CREATE FUNCTION pg_is_in_recovery() {answer}")
    assert "it is a standby" in await _refused(replacing.address)


async def test_an_id_that_the_server_has_not_assigned_yet_was_not_committed(
    ledger: Ledger,
) -> None:
    database = ledger._database
    assert isinstance(database, postgresql.Postgresql)
    assert not await database._was_committed(str(10**12), "")


async def test_a_connection_to_a_silent_machine_is_closed(ledger: Ledger) -> None:
    async with ledger.read() as session:
        raw = await (await session.connection()).get_raw_connection()
        assert raw.driver_connection is not None
        connected = raw.driver_connection._transport.get_extra_info("socket")
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000


async def test_a_commit_that_never_reaches_the_server_raises_an_error(there: Postgresql) -> None:
    async with between(there.address) as way, Ledger(way.address) as ledger:
        way.breaks = "before"
        with pytest.raises(LedgerUnreachable, match="lost"):
            await _writes(ledger, "lost")
        assert way.broken.is_set()
        assert await _facts(ledger) == set()


async def test_a_writer_knows_whether_its_write_was_made_whenever_it_is_cut(
    there: Postgresql,
) -> None:
    # Another thread cuts the connections, at random moments with respect to the writes.
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


async def test_errors_of_a_statement_or_the_caller_are_not_ledger_unreachable(
    ledger: Ledger,
) -> None:
    await _writes(ledger, "once")
    with pytest.raises(Exception, match="unique") as twice:
        await _writes(ledger, "once")
    assert not isinstance(twice.value, LedgerUnreachable)
    for error in (OSError("mine"), TimeoutError("mine"), ConnectionResetError("mine")):
        with pytest.raises(type(error), match="mine"):
            async with ledger.write() as session:
                session.add(Fact(key="undone", value="here"))
                raise error
    assert await _facts(ledger) == {"once"}


async def test_a_server_that_does_not_answer_in_time_is_unreachable(
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


async def test_a_writer_gives_up_if_the_lock_is_held_longer_than_it_waits(
    ledger: Ledger, there: Postgresql
) -> None:
    async with Ledger(there.address, busy=SHORT) as other:
        async with ledger.write():
            with pytest.raises(LedgerUnreachable, match="locked"):
                await _writes(other, "two writers at once")
            assert await _facts(other) == set()  # a reader does not wait
        await _writes(other, "it was nothing lasting")


async def test_a_writer_sees_commits_that_were_made_while_it_waited(
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


async def test_a_read_transaction_sees_one_snapshot(ledger: Ledger) -> None:
    async with ledger.read() as session:
        count = text("SELECT count(*) FROM facts")
        before = (await session.execute(count)).scalar_one()
        await _writes(ledger, "meanwhile")
        assert (await session.execute(count)).scalar_one() == before
    assert await _facts(ledger) == {"meanwhile"}


async def test_a_read_transaction_refuses_writes(ledger: Ledger) -> None:
    with pytest.raises(LedgerUnreachable, match="read-only"):
        async with ledger.read() as session:
            session.add(Fact(key="x", value="y"))
            await session.flush()


async def test_two_ledgers_on_one_server_do_not_wait_for_each_other(
    there: Postgresql, postgresql: databases.Server
) -> None:
    empty = postgresql.empty()
    async with Ledger(there.address) as one, Ledger(empty.address, busy=SHORT) as two:
        async with one.write():
            await _writes(two, "at once")
        assert one.id != two.id


async def test_a_writer_suspended_in_its_write_loses_the_lock_and_its_changes(
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


async def test_a_killed_writer_does_not_block_the_next_writer(there: Postgresql) -> None:
    async with Ledger(there.address, busy=timedelta(seconds=10)) as ledger:
        with still.writer(there.address, "killed") as child:
            os.kill(child.pid, signal.SIGKILL)
            await _writes(ledger, "went on")
        assert await _facts(ledger) == {"went on"}


# --- the clock


async def _database_time(ledger: Ledger) -> datetime:
    async with ledger.read() as session:
        database_time: datetime = (
            await session.execute(text("SELECT clock_timestamp()"))
        ).scalar_one()
        return database_time


async def test_a_ledgers_time_is_the_databases_time(ledger: Ledger) -> None:
    before, database_time, after = ledger.now(), await _database_time(ledger), ledger.now()
    assert before - timedelta(seconds=1) <= database_time <= after + timedelta(seconds=1)
    assert abs(ledger.skew()) < timedelta(seconds=5)


async def test_a_ledger_whose_connections_are_all_in_use_is_unreachable(ledger: Ledger) -> None:
    pool: Any = ledger._engine.pool
    pool._timeout = 0.01
    async with AsyncExitStack() as readers:
        while pool.checkedout() < pool.size() + pool._max_overflow:
            await readers.enter_async_context(ledger.read())
        with pytest.raises(LedgerUnreachable, match="all connections are in use"):
            await _facts(ledger)


async def test_one_process_can_open_a_new_ledger_several_times_at_once(
    there: Postgresql, postgresql: databases.Server
) -> None:
    empty = postgresql.empty()
    ledgers = [Ledger(empty.address) for _ in range(4)]
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(each) for each in ledgers))
        assert len({each.id for each in ledgers}) == 1
    assert SYSTEM_CLOCK.now() - ledgers[0].now() < timedelta(seconds=5)


async def test_a_pool_without_prepared_statements_is_named_with_what_to_set(ledger: Ledger) -> None:
    with pytest.raises(LedgerUnreachable, match="max_prepared_statements"):
        async with ledger.write() as session:
            await session.execute(text("EXECUTE of_another_connection"))
