"""Changes of Prefect's server: the names still exist, and requests have the same answers."""

from __future__ import annotations

import asyncio
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from inspect import signature
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import Request, params
from fastapi.dependencies import utils as utils_of_fastapi
from prefect.server import models as models_of_server
from prefect.server.api import dependencies
from prefect.server.api import server as api_server
from prefect.server.database import orm_models
from prefect.server.schemas.states import State, StateType
from prefect.settings import PREFECT_SERVER_API_AUTH_STRING, temporary_settings
from sqlalchemy import event, select
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from starlette.middleware.base import BaseHTTPMiddleware

from daybook.operations import server as own_server
from daybook.prefect import private_names, server_requests
from daybook.prefect.server_requests import DirectMiddleware

flow_runs: Any = models_of_server.flow_runs
deployments: Any = models_of_server.deployments
utils: Any = utils_of_fastapi
server: Any = api_server
rows: Any = orm_models


@pytest.fixture(autouse=True)
def unpatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the names after each test."""
    monkeypatch.setattr(flow_runs, "read_flow_run", flow_runs.read_flow_run)
    monkeypatch.setattr(deployments, "read_deployment", deployments.read_deployment)
    monkeypatch.setattr(utils, "run_in_threadpool", utils.run_in_threadpool)
    monkeypatch.setattr(server, "create_api_app", server.create_api_app)


TABLES = (
    *("flow", "flow_run", "flow_run_state", "deployment", "deployment_schedule"),
    *("work_queue", "work_pool", "concurrency_limit_v2"),
)


@pytest.fixture
async def session() -> AsyncIterator[AsyncSession]:
    """Return a session of a database in memory that has the tables of Prefect's server."""
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        tables = [rows.Base.metadata.tables[name] for name in TABLES]
        await connection.run_sync(
            lambda sync: [each.create(sync, checkfirst=True) for each in tables]
        )
    async with AsyncSession(engine) as found:
        yield found
    await engine.dispose()


async def _add_run(session: AsyncSession) -> tuple[Any, Any]:
    """Add a run of a deployment in a queue; return the ids of both."""
    pool = rows.WorkPool(name="pool", type="process")
    flow = rows.Flow(name="flow")
    session.add_all([pool, flow])
    await session.flush()
    queue = rows.WorkQueue(name="queue", work_pool_id=pool.id, priority=1)
    session.add(queue)
    await session.flush()
    deployment = rows.Deployment(name="deployment", flow_id=flow.id, work_queue_id=queue.id)
    session.add(deployment)
    await session.flush()
    run = rows.FlowRun(
        flow_id=flow.id, deployment_id=deployment.id, work_queue_id=queue.id, name="run"
    )
    session.add(run)
    await session.flush()
    run.set_state(rows.FlowRunState(**State(type=StateType.PENDING).orm_dict()))
    await session.flush()
    ids = run.id, deployment.id
    session.expunge_all()
    return ids


class Statements:
    """Counter of the statements of a session's engine."""

    def __init__(self, session: AsyncSession) -> None:
        self.count = 0
        bind: Any = session.bind
        event.listen(bind.sync_engine, "before_cursor_execute", self._seen)

    def _seen(self, *_: Any) -> None:
        self.count += 1

    def since(self, before: int) -> int:
        return self.count - before


async def test_a_run_is_read_with_its_queue_in_one_statement(session: AsyncSession) -> None:
    run_id, _ = await _add_run(session)
    statements = Statements(session)

    async def read() -> tuple[tuple[Any, ...], int]:
        before = statements.count
        run = await flow_runs.read_flow_run(session=session, flow_run_id=run_id, for_update=True)
        found = run.id, run.state.type, run.work_queue.name, run.work_queue.work_pool.name
        session.expunge_all()
        return found, statements.since(before)

    own = await read()
    assert server_requests.read_in_one_statement()
    assert own == ((run_id, StateType.PENDING, "queue", "pool"), 4)
    assert await read() == (own[0], 1)


async def test_a_deployment_is_read_with_its_queue(session: AsyncSession) -> None:
    _, deployment_id = await _add_run(session)
    statements = Statements(session)

    async def read() -> tuple[tuple[Any, ...], int]:
        before = statements.count
        found = await deployments.read_deployment(session, deployment_id=deployment_id)
        names = found.name, found.work_queue.name, found.work_queue.work_pool.name
        schedules = found.schedules
        session.expunge_all()
        return (*names, schedules), statements.since(before)

    own = await read()
    assert server_requests.read_in_one_statement()
    assert own == (("deployment", "queue", "pool", []), 4)
    assert await read() == (own[0], 2)


async def test_a_missing_run_or_deployment_is_none(session: AsyncSession) -> None:
    run_id, deployment_id = await _add_run(session)
    assert server_requests.read_in_one_statement()
    assert await flow_runs.read_flow_run(session, deployment_id) is None
    assert await deployments.read_deployment(session, run_id) is None


async def test_a_run_without_a_queue_is_read(session: AsyncSession) -> None:
    run_id, _ = await _add_run(session)
    run = (await session.execute(select(rows.FlowRun))).scalar_one()
    run.work_queue_id = run.deployment_id = None
    await session.flush()
    session.expunge_all()
    assert server_requests.read_in_one_statement()
    run = await flow_runs.read_flow_run(session, run_id)
    assert (run.work_queue, run.state.type) == (None, StateType.PENDING)


async def test_on_postgresql_a_run_to_be_changed_is_read_by_prefects_own_function() -> None:
    """A joined row that changed while the statement waited for the lock would be missing."""
    driver: Any = PGDialect_asyncpg
    read, dialect = list[str](), driver()

    class Session:
        def get_bind(self) -> Any:
            return SimpleNamespace(dialect=dialect)

        async def execute(self, statement: Any) -> Any:
            read.append(str(statement.compile(dialect=dialect)))
            return SimpleNamespace(scalar=lambda: None)

    assert server_requests.read_in_one_statement()
    for for_update in (True, False):
        await flow_runs.read_flow_run(Session(), "a run", for_update=for_update)
    locking, reading = read
    assert "JOIN" not in locking
    assert locking.endswith("FOR UPDATE")
    assert reading.count("JOIN") == 3


def test_another_function_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async def other(session: Any, deployment_id: Any, lock: bool) -> None: ...

    async def does_more(db: Any, session: Any, deployment_id: Any) -> Any:
        found = await session.get(db.Deployment, deployment_id)
        return found if found.paused is False else None

    own = flow_runs.read_flow_run
    for different in (other, does_more):
        monkeypatch.setattr(deployments, "read_deployment", different)
        assert not server_requests.read_in_one_statement()
        assert deployments.read_deployment is different
        assert flow_runs.read_flow_run is own


async def test_quick_dependencies_are_called_in_the_event_loop() -> None:
    def slow() -> int:
        return threading.get_ident()

    def quick() -> int:
        return threading.get_ident()

    quick.__module__ = dependencies.__name__
    assert await utils.run_in_threadpool(quick) != threading.get_ident()
    assert server_requests.call_dependencies_directly()
    assert await utils.run_in_threadpool(quick) == threading.get_ident()
    assert await utils.run_in_threadpool(slow) != threading.get_ident()


def test_the_quick_modules_have_the_dependencies_of_a_change_of_state() -> None:
    """If Prefect moves them, they are called in threads again."""
    route = next(
        each for each in server.api.flow_runs.router.routes if each.path.endswith("/set_state")
    )
    defaults = [each.default for each in signature(route.endpoint).parameters.values()]
    calls = [each.dependency for each in defaults if isinstance(each, params.Depends)]
    in_threads = [each for each in calls if not asyncio.iscoroutinefunction(each)]
    assert len(in_threads) >= 3
    assert {each.__module__ for each in in_threads} <= server_requests.QUICK_MODULES


@pytest.fixture
def api() -> Callable[[], Any]:
    """Return a function that creates the API of a server with a credential and an echo."""

    def create() -> Any:
        with temporary_settings(updates={PREFECT_SERVER_API_AUTH_STRING: "someone:secret"}):
            application = server.create_api_app(ignore_cache=True)

        async def echo(request: Request) -> dict[str, Any]:
            body = (await request.body()).decode()
            return {"type": request.headers.get("content-type"), "body": body}

        application.add_api_route("/echo", echo, methods=["POST"])
        return application

    return create


def _chain(application: Any) -> list[str]:
    return [each.cls.__name__ for each in application.user_middleware]


REQUESTS: list[tuple[str, str, dict[str, str], str]] = [
    ("POST", "/echo", {}, "{}"),
    ("POST", "/echo", {"content-type": "text/plain"}, "text"),
    ("POST", "/echo", {}, ""),
    ("GET", "/health", {"authorization": ""}, ""),
    ("GET", "/version", {"authorization": ""}, ""),
    ("GET", "/version", {"authorization": "Basic c29tZW9uZTpndWVzcw=="}, ""),
    ("GET", "/version", {}, ""),
    ("GET", "/nothing", {}, ""),
]


async def _answers(application: Any) -> list[tuple[int, str]]:
    credential = {"authorization": f"Basic {b64encode(b'someone:secret').decode()}"}
    transport = httpx.ASGITransport(app=application)
    found = list[tuple[int, str]]()
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        for method, path, headers, body in REQUESTS:
            given = {**credential, **headers}
            given = {name: value for name, value in given.items() if value}
            response = await client.request(method, path, headers=given, content=body)
            found.append((response.status_code, response.text))
    return found


async def test_requests_get_the_same_answers_without_streams(api: Callable[[], Any]) -> None:
    own = api()
    assert _chain(own).count(BaseHTTPMiddleware.__name__) == 2
    assert server_requests.call_middleware_directly()
    direct = api()
    assert BaseHTTPMiddleware.__name__ not in _chain(direct)
    assert _chain(direct).count(DirectMiddleware.__name__) == 2
    answers = await _answers(direct)
    assert answers == await _answers(own)
    assert [status for status, _ in answers] == [200, 200, 200, 200, 401, 401, 200, 404]
    assert '"type":"application/json"' in answers[0][1]
    assert '"type":"text/plain"' in answers[1][1]
    assert '"type":null' in answers[2][1]


async def test_a_function_that_may_do_more_stays_in_prefects_middleware(
    api: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = frozenset({"headers", "body"})
    monkeypatch.setitem(server_requests._NAMES_OF_MIDDLEWARE, "token_validation", names)
    assert server_requests.call_middleware_directly()
    chain = _chain(api())
    assert chain.count(BaseHTTPMiddleware.__name__) == 1
    assert chain.count(DirectMiddleware.__name__) == 1


@pytest.mark.parametrize(
    "function",
    [server_requests.call_dependencies_directly, server_requests.call_middleware_directly],
)
def test_other_names_are_left_as_they_are(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*_: Any, **__: Any) -> None: ...

    monkeypatch.setattr(utils, "solve_dependencies", other)
    monkeypatch.setattr(server, "create_api_app", other)
    own = utils.run_in_threadpool
    assert not function()
    assert (utils.run_in_threadpool, server.create_api_app) == (own, other)


def test_the_replacements_have_the_signatures_of_the_originals() -> None:
    own = flow_runs.read_flow_run, deployments.read_deployment, server.create_api_app
    assert server_requests.read_in_one_statement()
    assert server_requests.call_middleware_directly()
    patched = flow_runs.read_flow_run, deployments.read_deployment, server.create_api_app
    assert patched != own
    assert list(map(signature, patched)) == list(map(signature, own))


def test_each_server_that_daybook_starts_has_the_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[str]()
    for module, names in (
        (private_names, ["cache_time_zones", "check_schemas_once", "record_polls_rarely"]),
        (
            server_requests,
            [
                "read_in_one_statement",
                "call_dependencies_directly",
                "call_middleware_directly",
            ],
        ),
    ):
        for name in names:
            monkeypatch.setattr(module, name, lambda *_, name=name: made.append(name))
    monkeypatch.setattr(own_server, "hide_parameters", lambda: made.append("hide_parameters"))
    own_server.improve()
    assert len(made) == len(set(made)) == 7
