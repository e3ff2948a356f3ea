"""Uses of private names of Prefect, and of private names of its server's SQLite driver.

Some modules use other private names themselves: `server_requests` (of the server),
`tasks.notifier` (of the client), `worker.prefect_worker` (of its base class), `resources.store` and
`delivery.channels.prefect_blocks` (of blocks), and `operations.preload` (a module).

Each function checks the names when it uses them. If the check fails, the function logs a warning.
Its docstring names the fallback, if there is one: the own behaviour of Prefect or SQLAlchemy, a
missing feature, or no server.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import importlib
import inspect
import logging
import os
import queue
import ssl
import threading
import time
import zoneinfo
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import cache, partial, wraps
from math import inf
from types import SimpleNamespace
from typing import Any, NoReturn, cast

logger = logging.getLogger(__name__)


SQLITE_CACHE_KIB = 8_000
"""Maximum size of the page cache of each connection of Prefect's server to SQLite, in KiB."""
TASK_WORKER_SIGNAL = timedelta(seconds=30)
"""Interval at which the worker of the server's background tasks records that it is alive."""


def configure_sqlite(connection_url: str) -> bool:
    """Make this process's server begin SQLite's write transactions as IMMEDIATE, and cache less.

    Prefect begins deferred transactions. Two deferred transactions that read first and write later
    collide. SQLite cannot wait for such a lock, so the server answers many requests with 503.
    Immediate transactions queue up instead.

    Prefect lets each connection cache 82 MB of the database. Five connections stay open, so the
    server grew with its database, by up to 410 MB, although the operating system caches the file.

    Return whether the change succeeded; for a database other than SQLite, return False without a
    warning. Fallback: Prefect's own behaviour; clients retry after a 503.
    """
    if not connection_url.startswith("sqlite"):
        return False
    try:
        from prefect.server.database import dependencies
        from prefect.server.database.configurations import AioSqliteConfiguration

        slots: Any = dependencies.MODELS_DEPENDENCIES
        parameters = inspect.signature(AioSqliteConfiguration.begin_transaction).parameters
        at_connect = inspect.signature(AioSqliteConfiguration.setup_sqlite).parameters
        if (
            slots["database_config"] is not None
            or "with_for_update" not in parameters
            or list(at_connect) != ["self", "conn", "record"]
        ):
            raise LookupError("the database configuration is not as expected")

        class ImmediateConfiguration(AioSqliteConfiguration):
            def setup_sqlite(self, conn: Any, record: Any) -> None:
                super().setup_sqlite(conn, record)
                with closing(conn.cursor()) as cursor:
                    cursor.execute(f"PRAGMA cache_size = -{SQLITE_CACHE_KIB}")

            def begin_transaction(self, session: Any, with_for_update: bool = False) -> Any:
                return super().begin_transaction(session, with_for_update=True)

        slots["database_config"] = ImmediateConfiguration(connection_url=connection_url)
    except (ImportError, AttributeError, LookupError, TypeError) as error:
        logger.warning("Prefect's SQLite keeps deferred transactions and its cache: %s", error)
        return False
    return True


def execute_in_one_step() -> bool:
    """Make this process pass a statement to SQLite's thread at most once, not each part of it.

    The creation of a deployment has 40 statements; `ledger.sqlite_driver` has the cost of each. A
    cursor whose rows are read later keeps its own method. Return whether the change succeeded.
    Fallback: SQLAlchemy's own behaviour.
    """
    from daybook.ledger import sqlite_driver

    if difference := sqlite_driver.unlike_expected():
        logger.warning("SQLAlchemy passes the parts of a statement one by one: %s", difference)
        return False
    from sqlalchemy.dialects.sqlite import aiosqlite

    cursor_class: Any = aiosqlite.AsyncAdapt_aiosqlite_cursor
    own = cursor_class.execute

    def execute(cursor: Any, operation: Any, parameters: Any = None) -> None:
        (own if cursor.server_side else sqlite_driver.execute)(cursor, operation, parameters)

    cursor_class.execute = execute
    return True


DATABASE_PREPARATIONS = (
    "PREFECT_API_DATABASE_MIGRATE_ON_START",
    "PREFECT_API_BLOCKS_REGISTER_ON_START",
    "PREFECT_MEMOIZE_BLOCK_AUTO_REGISTRATION",
)
"""Settings with which Prefect's server prepares its database whenever it starts."""


def prepare_database() -> NoReturn:
    """Prepare the database as a server does when it starts with the settings of this process.

    End this process with exit code 0, because its connections have threads that do not end, and the
    services of a server that has just started do not always stop. Fallback: exit code 1.
    """
    try:
        from prefect.server.api.server import create_app

        application = create_app(webserver_only=True)
    except (ImportError, TypeError) as error:
        logger.warning("cannot prepare the database in a process of its own: %s", error)
        os._exit(1)

    async def start() -> None:
        async with application.router.lifespan_context(application):
            os._exit(0)

    asyncio.run(start())
    os._exit(1)


def slow_down_background_tasks(interval: timedelta) -> bool:
    """Make this process's server look for due background tasks once in ``interval``.

    By default, the server looks for due tasks four times a second, and for new tasks ten times,
    which takes one percent of a core. After the change, new tasks still start at once. The worker
    of the tasks, which no other process observes, records that it is alive every
    `TASK_WORKER_SIGNAL` instead of every 2 s. Return whether the change succeeded. Fallback:
    Prefect's own behaviour.
    """
    try:
        from prefect.server.api import background_workers

        module: Any = background_workers
        parameters = inspect.signature(module.Worker).parameters
        if not {"minimum_check_interval", "scheduling_resolution"} <= parameters.keys():
            raise LookupError("its worker has no such intervals")
        if "heartbeat_interval" not in inspect.signature(module.Docket).parameters:
            raise LookupError("its worker has no interval of signals")
        make = partial(
            module.Worker, minimum_check_interval=interval, scheduling_resolution=interval
        )

        def worker(docket: Any, **options: Any) -> Any:
            docket.heartbeat_interval = TASK_WORKER_SIGNAL
            return make(docket, **options)

        module.Worker = worker
    except (ImportError, AttributeError, LookupError, TypeError, ValueError) as error:
        logger.warning("Prefect's server looks for background tasks often: %s", error)
        return False
    return True


def record_polls_rarely(interval: timedelta) -> bool:
    """Make this process's server record at most once in ``interval`` that queues were polled.

    By default, each poll of a worker writes all deployments in the polled queues, several times a
    second while runs start: with 200 jobs, a minute of PostgreSQL left 50 MB of old rows. The
    server calls a deployment not ready only if its queue was not polled for 60 s either, which it
    still records at each poll. A new deployment is shown as ready after at most ``interval``.
    Return whether the change succeeded. Fallback: Prefect's own behaviour.
    """
    try:
        from prefect.server.api import workers

        module: Any = workers
        own = module.mark_deployments_ready
        expected = ["db", "deployment_ids", "work_queue_ids", "retry"]
        if list(inspect.signature(own).parameters) != expected:
            raise LookupError("it does not record polls as expected")
    except (ImportError, AttributeError, LookupError, TypeError, ValueError) as error:
        logger.warning("Prefect's server writes all deployments at each poll: %s", error)
        return False
    recorded = dict[frozenset[Any], float]()

    @wraps(own)  # the server finds a background task by its name, and its dependencies
    async def mark_deployments_ready(**named: Any) -> None:
        queues = frozenset(named.get("work_queue_ids") or ())
        at = time.monotonic()
        if at - recorded.get(queues, -inf) >= interval.total_seconds():
            await own(**named)
            if len(recorded) >= MAX_POLLED_SETS:
                recorded.clear()
            recorded[queues] = at

    module.mark_deployments_ready = mark_deployments_ready
    return True


MAX_POLLED_SETS = 1_000
"""Maximum number of sets of queues that the server remembers as polled."""


def listen_rarely(interval: timedelta) -> bool:
    """Make this process's server look for cancelled background tasks once in ``interval``.

    By default, the server waits for cancellation messages in another thread, ten times a second,
    which takes 0.4 percent of a core, although Prefect cancels no background task. Return whether
    the change succeeded. Fallback: Prefect's own behaviour.
    """
    try:
        subscription: Any = importlib.import_module("burner_redis.pubsub").PubSub
        if list(inspect.signature(subscription._queue_get).parameters) != ["self", "timeout"]:
            raise LookupError("it does not take messages as expected")
        if "_queue" not in subscription.__init__.__code__.co_names:
            raise LookupError("it keeps no messages in a queue")

        async def take(subscription: Any, timeout: float | None) -> Any:
            end = None if timeout is None else time.monotonic() + timeout
            while True:
                with suppress(queue.Empty):
                    return subscription._queue.get_nowait()
                if end is not None and time.monotonic() >= end:
                    return None
                await asyncio.sleep(interval.total_seconds())

        subscription._queue_get = take
    except (ImportError, AttributeError, LookupError, TypeError, ValueError) as error:
        logger.warning("Prefect's server looks for cancelled tasks often: %s", error)
        return False
    return True


def check_schemas_once() -> bool:
    """Make this process's server check a JSON schema against its metaschema only once.

    By default, the server checks the schema of the work pool and of the flow's parameters whenever
    it creates a run, and whenever it creates or changes a deployment, which is a quarter of its
    time in a burst of one-time jobs. A schema that is refused is checked again. Return whether the
    change succeeded. Fallback: Prefect's own behaviour.
    """
    try:
        from prefect.utilities.schema_tools import validation

        validator: Any = validation._VALIDATOR
        own = validator.check_schema
        if list(inspect.signature(own).parameters) != ["schema", "format_checker"]:
            raise LookupError("its validator does not check a schema as expected")
    except (ImportError, AttributeError, LookupError, TypeError, ValueError) as error:
        logger.warning("Prefect's server checks the same schemas again and again: %s", error)
        return False
    validator.check_schema = staticmethod(_checked_once(own))
    return True


MAX_CHECKED_SCHEMAS = 1_000
"""Maximum number of schemas that the server remembers as checked."""


def _checked_once(check: Callable[..., None]) -> Callable[..., None]:
    checked: set[bytes] = set()

    def check_schema(schema: Any, **options: Any) -> None:
        # `repr` distinguishes what the metaschema distinguishes: 1 from True, a list from a tuple.
        digest = hashlib.sha256(repr((schema, options)).encode()).digest()
        if digest in checked:
            return
        check(schema, **options)
        if len(checked) >= MAX_CHECKED_SCHEMAS:
            checked.clear()
        checked.add(digest)

    return check_schema


def server_application() -> Any | None:
    """Return Prefect's server as an ASGI application: API, UI and services.

    Return None if its creation fails. Then no middleware can be put in front of the server, so the
    server is not started.
    """
    try:
        from prefect.server.api.server import create_app

        return create_app(final=True)
    except (ImportError, TypeError) as error:
        logger.warning("cannot create Prefect's server in this process: %s", error)
        return None


def reload_settings() -> None:
    """Make an already imported Prefect read its environment again.

    If this fails, a `PREFECT_API_URL` that is set after the import has no effect. So callers also
    pass the address where they can.
    """
    try:
        from prefect.context import refresh_global_settings_context
    except ImportError as error:
        logger.warning("cannot make Prefect reread its environment: %s", error)
        return
    refresh_global_settings_context()


def reload_logging() -> None:
    """Make an already imported Prefect configure its loggers again, for the current settings.

    Fallback: the loggers stay as they are, and write to the same streams as before.
    """
    try:
        from prefect.logging import configuration

        configuration.PROCESS_LOGGING_CONFIG.clear()
        configuration.setup_logging()
    except (ImportError, AttributeError) as error:
        logger.warning("cannot make Prefect configure its loggers again: %s", error)


def worker_healthcheck(polling: Callable[[], bool]) -> AbstractContextManager[Any]:
    """Return Prefect's health check server; ``polling`` returns whether the worker is healthy.

    Fallback: log a warning, and serve no health check.
    """
    try:
        from prefect.workers.server import _run_healthcheck_server

        return cast(AbstractContextManager[Any], _run_healthcheck_server(polling))
    except (ImportError, TypeError) as error:
        logger.warning("cannot serve a health check: %s", error)
        return nullcontext()


WATCH_DELAY_SECONDS = 5.0
"""How long a run is executed before its process sends heartbeats and observes suspensions."""
_WATCH_END_SECONDS = 2.0


@cache
def watch_runs_later() -> bool:
    """Make Prefect's engine in this process watch a run only after `WATCH_DELAY_SECONDS`.

    By default, each run of a deployment observes whether it is suspended, and sends heartbeats: at
    its start, it opens two websockets in threads, reads four records, and waits for the first
    websocket, which is most of the time and of the CPU of a short run. The observer first reads the
    run's state, so it also finds an earlier suspension. A repeated call does nothing. Return
    whether the change succeeded. Fallback: Prefect's own behaviour.
    """
    try:
        from prefect import flow_engine

        module: Any = flow_engine
        watches = {
            "observe_flow_run_suspension": "flow_run_id suspension_request polling_interval",
            "_send_heartbeats": "engine join_on_exit",
        }
        for name, parameters in watches.items():
            found = inspect.signature(getattr(module, name)).parameters
            if list(found) != parameters.split():
                raise LookupError(f"the engine's {name} is not as expected")
    except (ImportError, AttributeError, LookupError, TypeError, ValueError) as error:
        logger.warning("each run is watched from its start: %s", error)
        return False
    for name in watches:
        setattr(module, name, _entered_later(getattr(module, name)))
    return True


def _entered_later(
    watch: Callable[..., AbstractContextManager[Any]],
) -> Callable[..., AbstractContextManager[None]]:
    """Return a context manager that enters ``watch``, in a thread, after `WATCH_DELAY_SECONDS`."""

    @contextmanager
    def later(*given: Any, **named: Any) -> Iterator[None]:
        ended, context = threading.Event(), contextvars.copy_context()

        def enter() -> None:
            if not ended.wait(WATCH_DELAY_SECONDS):
                with watch(*given, **named):
                    ended.wait()

        watching = threading.Thread(target=context.run, args=(enter,), daemon=True)
        watching.start()
        try:
            yield
        finally:
            ended.set()
            watching.join(_WATCH_END_SECONDS)

    return later


@cache
def share_tls_contexts() -> bool:
    """Make Prefect's clients of this process, and of processes forked from it, share TLS contexts.

    By default, each client loads all CA certificates, which takes 40 ms, three times in a run. With
    this change, a process loads the certificates once, and again only if their file changes. A
    repeated call does nothing. Return whether the change succeeded. Fallback: Prefect's own
    behaviour.
    """
    try:
        from prefect.client import orchestration
        from prefect.settings import get_current_settings

        clients: Any = orchestration
        if clients.ssl is not ssl:
            raise LookupError("the client does not create its TLS context as expected")
        shared: dict[tuple[str, int, int], ssl.SSLContext] = {}

        def create_default_context(*given: Any, **named: Any) -> ssl.SSLContext:
            cafile = named.get("cafile")
            if given or named.keys() != {"cafile"} or cafile is None:
                return ssl.create_default_context(*given, **named)
            status = os.stat(cafile)
            key = (str(cafile), status.st_mtime_ns, status.st_size)
            if key not in shared:
                shared[key] = ssl.create_default_context(cafile=cafile)
            return shared[key]

        everything = {**vars(ssl), "create_default_context": create_default_context}
        create_default_context(cafile=get_current_settings().api.ssl_cert_file)
        clients.ssl = SimpleNamespace(**everything)
    except (ImportError, AttributeError, LookupError, OSError) as error:
        logger.warning("each Prefect client loads the certificates itself: %s", error)
        return False
    return True


def cache_time_zones() -> bool:
    """Make Prefect in this process read the time zone database only once.

    By default, Prefect reads the database for each schedule that it parses or checks. This takes
    3 ms, twice for each deployment that the server lists, which is most of the time for a list of a
    thousand deployments. Return whether the change succeeded. Fallback: Prefect's own behaviour.
    """
    try:
        from prefect.types import _datetime

        module: Any = _datetime
        if module.available_timezones not in (zoneinfo.available_timezones, _time_zones):
            raise LookupError("Prefect does not look up time zones as expected")
        module.available_timezones = _time_zones
    except (ImportError, AttributeError, LookupError) as error:
        logger.warning("Prefect reads the time zones for each schedule: %s", error)
        return False
    return True


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())
