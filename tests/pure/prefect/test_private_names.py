"""Patches of Prefect's private names: the names still exist and the patch works."""

from __future__ import annotations

import asyncio
import importlib
import queue
import zoneinfo
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiosqlite
import pytest
from prefect import flow_engine as engine_of_flows
from prefect.client.schemas.schedules import CronSchedule
from prefect.server.api import workers as workers_of_server
from prefect.types import _datetime
from prefect.utilities.schema_tools import is_valid_schema, validation
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_cursor
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine

from daybook.ledger import sqlite_driver
from daybook.ledger.sqlite_driver import BEGIN_WRITING
from daybook.prefect import private_names

flow_engine: Any = engine_of_flows
workers: Any = workers_of_server
PubSub: Any = importlib.import_module("burner_redis.pubsub").PubSub


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Count the reads of the time zone database, starting without Daybook's patch."""
    found: list[None] = []

    def counted(own: Callable[[], set[str]] = zoneinfo.available_timezones) -> set[str]:
        found.append(None)
        return own()

    monkeypatch.setattr(zoneinfo, "available_timezones", counted)
    monkeypatch.setattr(_datetime, "available_timezones", counted)
    private_names._time_zones.cache_clear()
    # Prefect 3.9 reads the time zones only once, so it needs no patch.
    getattr(_datetime.get_timezones, "cache_clear", lambda: None)()
    return found


def test_the_time_zones_are_read_only_once(walks: list[None]) -> None:
    CronSchedule(cron="0 9 * * *", timezone="Europe/Berlin")
    before = len(walks)
    assert before >= 1  # without the patch
    for _ in range(2):
        assert private_names.cache_time_zones()
    for name in ("Europe/Berlin", "Asia/Tokyo", "UTC"):
        assert CronSchedule(cron="0 9 * * *", timezone=name).timezone == name
    with pytest.raises(ValidationError, match="Mars/Base"):
        CronSchedule(cron="0 9 * * *", timezone="Mars/Base")
    assert len(walks) <= before + 1


def test_a_prefect_version_with_another_function_is_not_patched(
    walks: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def other() -> set[str]:
        return {"Europe/Berlin"}

    monkeypatch.setattr(_datetime, "available_timezones", other)
    assert not private_names.cache_time_zones()
    assert vars(_datetime)["available_timezones"] is other


async def statements(path: Path | None = None) -> list[Any]:
    """Return what statements of each kind answer; in a file, in a transaction that writes."""
    engine, found = create_async_engine(f"sqlite+aiosqlite:///{path or ''}"), list[Any]()
    async with engine.connect() as connection:
        if path is not None:
            await connection.exec_driver_sql(BEGIN_WRITING)

        async def run(statement: str, **parameters: Any) -> None:
            result = await connection.execute(text(statement), parameters)
            rows = result.all() if result.returns_rows else None
            found.append((rows, result.rowcount, list(result.keys()) if rows is not None else []))

        await run("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT UNIQUE)")
        await run("INSERT INTO t (b) VALUES (:b)", b="x")
        await run("INSERT INTO t (b) VALUES ('y') RETURNING a, b")
        await run("SELECT a, b AS c FROM t WHERE a < :most ORDER BY a", most=9)
        await run("SELECT a FROM t WHERE a = 7")
        await run("UPDATE t SET b = b || '!'")
        with pytest.raises(IntegrityError, match="UNIQUE"):
            await run("INSERT INTO t (b) VALUES ('x!')")
        found += [list(each) async for each in await connection.stream(text("SELECT a FROM t"))]
        await run("SAVEPOINT s")
        await run("INSERT INTO t (b) VALUES ('z')")
        await run("ROLLBACK TO s")
        await run("SELECT count(*) FROM t")
        await connection.commit()
    await engine.dispose()
    return found


async def test_a_statement_is_passed_to_the_thread_of_sqlite_at_most_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    passed = list[str]()
    own: Any = aiosqlite.Connection._execute

    async def counted(connection: Any, function: Any, *given: Any, **named: Any) -> Any:
        passed.append(function.__name__)
        return await own(connection, function, *given, **named)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
    monkeypatch.setattr(AsyncAdapt_aiosqlite_cursor, "execute", AsyncAdapt_aiosqlite_cursor.execute)
    expected, before = await statements(), passed.count("execute")
    own_writer = await statements(tmp_path / "own.db")
    passed.clear()

    assert private_names.execute_in_one_step()

    assert await statements() == expected
    assert (passed.count("executed"), passed.count("execute")) == (before - 1, 1)
    assert passed.count("fetchall") == 0
    passed.clear()
    monkeypatch.setattr(sqlite_driver, "MAX_STEP_SECONDS", 60.0)
    assert await statements(tmp_path / "one.db") == own_writer
    first = passed.index("rollback")  # the end of SQLAlchemy's own first look at the database
    # BEGIN IMMEDIATE, CREATE, SAVEPOINT, ROLLBACK TO; all others need no thread
    assert passed[first:].count("executed") == 4


def test_another_version_of_the_driver_is_not_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(cursor: Any, statement: str) -> None: ...

    monkeypatch.setattr(AsyncAdapt_aiosqlite_cursor, "execute", other)
    assert not private_names.execute_in_one_step()
    assert vars(AsyncAdapt_aiosqlite_cursor)["execute"] is other


@pytest.mark.anyio
@pytest.mark.slow
async def test_a_connection_of_prefects_server_caches_little_of_the_database(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from prefect.server.database import dependencies
    from prefect.server.database.configurations import AioSqliteConfiguration

    async def cached_kib(configuration: Any) -> int:
        engine = await configuration.engine()
        async with engine.connect() as connection:
            (size,) = (await connection.execute(text("PRAGMA cache_size"))).one()
            (page,) = (await connection.execute(text("PRAGMA page_size"))).one()
        await engine.dispose()
        return int(-size if size < 0 else size * page // 1024)

    address = f"sqlite+aiosqlite:///{tmp_path}/prefect.db"
    own = AioSqliteConfiguration(connection_url=address)
    assert await cached_kib(own) == 80_000  # if this fails, the patch is no longer needed
    slots: Any = dependencies.MODELS_DEPENDENCIES
    monkeypatch.setitem(slots, "database_config", None)
    assert private_names.configure_sqlite(f"{address}?other")
    assert await cached_kib(slots["database_config"]) == private_names.SQLITE_CACHE_KIB


async def test_the_server_looks_for_cancelled_background_tasks_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PubSub, "_queue_get", PubSub._queue_get)
    messages, pauses = queue.Queue[str](), list[float]()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        messages.put("second")

    monkeypatch.setattr(asyncio, "sleep", pause)
    assert private_names.listen_rarely(timedelta(hours=1))
    take: Any = PubSub._queue_get
    subscription = SimpleNamespace(_queue=messages)

    messages.put("first")
    assert await take(subscription, 0.1) == "first"
    assert await take(subscription, 0.0) is None
    assert pauses == []
    assert await take(subscription, None) == "second"
    assert pauses == [3600.0]


def test_another_driver_of_background_tasks_is_not_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(subscription: Any) -> None: ...

    monkeypatch.setattr(PubSub, "_queue_get", other)
    assert not private_names.listen_rarely(timedelta(hours=1))
    assert vars(PubSub)["_queue_get"] is other


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the queues whose deployments are written, starting without Daybook's patch."""
    found = list[Any]()

    async def mark_deployments_ready(
        *, db: Any = None, deployment_ids: Any = None, work_queue_ids: Any = None, retry: Any = None
    ) -> None:
        found.append(work_queue_ids)

    monkeypatch.setattr(workers, "mark_deployments_ready", mark_deployments_ready)
    return found


async def test_polls_of_the_same_queues_write_their_deployments_rarely(polls: list[Any]) -> None:
    assert private_names.record_polls_rarely(timedelta(hours=1))
    task: Any = vars(workers)["mark_deployments_ready"]
    for queues in (["a", "b"], ["b", "a"], ["a"], ["a", "b"], ["a"]):
        await task(db=None, work_queue_ids=queues, retry=None)
    assert polls == [["a", "b"], ["a"]]


async def test_polls_after_the_interval_write_the_deployments_again(polls: list[Any]) -> None:
    assert private_names.record_polls_rarely(timedelta(0))
    for _ in range(2):
        await vars(workers)["mark_deployments_ready"](work_queue_ids=["a"])
    assert polls == [["a"], ["a"]]


async def test_a_poll_that_could_not_be_recorded_is_recorded_next_time(
    polls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, fails = vars(workers)["mark_deployments_ready"], True

    async def mark_deployments_ready(
        *, db: Any = None, deployment_ids: Any = None, work_queue_ids: Any = None, retry: Any = None
    ) -> None:
        if fails:
            raise OSError("database is locked")
        await own(work_queue_ids=work_queue_ids)

    monkeypatch.setattr(workers, "mark_deployments_ready", mark_deployments_ready)
    assert private_names.record_polls_rarely(timedelta(hours=1))
    task: Any = vars(workers)["mark_deployments_ready"]
    with pytest.raises(OSError, match="locked"):
        await task(work_queue_ids=["a"])
    fails = False
    await task(work_queue_ids=["a"])
    assert polls == [["a"]]


def test_the_servers_own_task_is_as_the_patch_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    own: Any = workers.mark_deployments_ready
    monkeypatch.setattr(workers, "mark_deployments_ready", own)
    assert private_names.record_polls_rarely(timedelta(hours=1))
    patched: Any = vars(workers)["mark_deployments_ready"]
    assert patched is not own
    assert (patched.__name__, signature(patched)) == (own.__name__, signature(own))

    def other(work_queue_ids: Any) -> None: ...

    monkeypatch.setattr(workers, "mark_deployments_ready", other)
    assert not private_names.record_polls_rarely(timedelta(hours=1))
    assert vars(workers)["mark_deployments_ready"] is other


class Watches:
    """Replacements of the engine's own watches, which record when they are entered and left."""

    def __init__(self) -> None:
        self.seen = queue.SimpleQueue[str]()

    @contextmanager
    def observe(
        self, flow_run_id: Any, suspension_request: Any, polling_interval: Any = 1
    ) -> Iterator[None]:
        self.seen.put("entered")
        yield
        self.seen.put("left")

    @contextmanager
    def send(self, engine: Any, join_on_exit: Any = True) -> Iterator[None]:
        self.seen.put("entered")
        yield


@pytest.fixture
def watches(monkeypatch: pytest.MonkeyPatch) -> Watches:
    found = Watches()
    monkeypatch.setattr(flow_engine, "observe_flow_run_suspension", found.observe)
    monkeypatch.setattr(flow_engine, "_send_heartbeats", found.send)
    private_names.watch_runs_later.cache_clear()
    return found


def test_a_short_run_is_not_watched(watches: Watches) -> None:
    assert private_names.watch_runs_later()
    with flow_engine.observe_flow_run_suspension("id", None), flow_engine._send_heartbeats(None):
        pass
    assert watches.seen.empty()


def test_a_longer_run_is_watched_until_its_end(
    watches: Watches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_names, "WATCH_DELAY_SECONDS", 0.0)
    assert private_names.watch_runs_later()
    with flow_engine.observe_flow_run_suspension("id", None):
        assert watches.seen.get(timeout=10) == "entered"
        assert watches.seen.empty()
    assert watches.seen.get(timeout=10) == "left"


def test_an_engine_that_watches_otherwise_is_not_patched(
    watches: Watches, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(run: Any) -> None: ...

    own = flow_engine._send_heartbeats
    monkeypatch.setattr(flow_engine, "observe_flow_run_suspension", other)
    assert not private_names.watch_runs_later()
    assert flow_engine._send_heartbeats == own


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the schemas that Prefect's own validator checks, starting without Daybook's patch."""
    found, own = list[Any](), validation._VALIDATOR.check_schema

    def counted(schema: Any, format_checker: Any = None) -> None:
        found.append(schema)
        own(schema, format_checker=format_checker)

    monkeypatch.setattr(validation._VALIDATOR, "check_schema", staticmethod(counted))
    return found


def test_the_server_checks_a_schema_only_once(checks: list[Any]) -> None:
    def schema() -> dict[str, Any]:
        return {"type": "object", "properties": {"n": {"type": "integer", "maximum": 1}}}

    is_valid_schema(schema())
    is_valid_schema(schema())
    assert len(checks) == 2  # without the patch

    assert private_names.check_schemas_once()
    for _ in range(3):
        is_valid_schema(schema())
        assert [error.json_path for error in validation.validate({"n": 2}, schema())] == ["$.n"]
        validation.validate({"n": 1}, schema(), raise_on_error=True)
    assert len(checks) == 4  # `validate` does not check formats


def test_a_schema_that_is_refused_is_refused_again(checks: list[Any]) -> None:
    assert private_names.check_schemas_once()
    is_valid_schema({"maximum": 1, "required": ["a"]})
    for wrong in ({"maximum": True, "required": ["a"]}, {"maximum": 1, "required": ("a",)}):
        for _ in range(2):
            with pytest.raises(ValueError, match="Invalid schema"):
                is_valid_schema(wrong)
    assert len(checks) == 5


def test_the_server_remembers_a_limited_number_of_schemas(
    checks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_names, "MAX_CHECKED_SCHEMAS", 2)
    assert private_names.check_schemas_once()
    for minimum in (1, 2, 3, 3, 1):
        is_valid_schema({"minimum": minimum})
    assert [schema["minimum"] for schema in checks] == [1, 2, 3, 1]


def test_another_validator_is_not_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(schema: Any) -> None: ...

    monkeypatch.setattr(validation._VALIDATOR, "check_schema", staticmethod(other))
    assert not private_names.check_schemas_once()
    assert vars(validation._VALIDATOR)["check_schema"].__func__ is other
