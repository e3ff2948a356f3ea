"""Fixtures: the health pages over HTTP with the real server, and Daybook's pages in process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from types import CodeType
from typing import Any

import httpx
import pytest
from jinja2 import BytecodeCache, Environment
from jinja2.bccache import Bucket

from daybook import feature
from daybook.clock import Clock
from daybook.diagnosis.health import HealthMonitor, HealthReport
from daybook.errors import DaybookError
from daybook.home import Home
from daybook.keeper.blocks import BLOCK_TYPES
from daybook.operations import peers, web
from daybook.prefect import client as connection
from daybook.prefect import reconcile, work_pool
from daybook.prefect.reconcile import ReconcileReport
from daybook.web import login
from daybook.web import pages as site
from daybook.web.app import RequestGuard, application, build_server
from daybook.web.login import PageLogin
from daybook.web.pages import site as site_module
from daybook.web.pages.site import Site
from tests.unit.resources.prefect_blocks import FakePrefect, Steps
from tests.world import World


class Compiled(BytecodeCache):
    """The compiled templates of this process: to compile those of a page needs 50 ms."""

    def __init__(self) -> None:
        self._code = dict[tuple[str, str], CodeType]()

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._code.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        if bucket.code is not None:
            self._code[bucket.key, bucket.checksum] = bucket.code


vars(site_module)["Environment"] = partial(Environment, bytecode_cache=Compiled())

Served = AbstractAsyncContextManager[httpx.AsyncClient]


@asynccontextmanager
async def served(
    address: str,
    clock: Clock | None = None,
    *,
    fresh: float = 0.0,
    patience: float = 60.0,
    names: tuple[str, ...] = (),
    any_address: bool = False,
) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the pages, and yield a client of them.

    With ``fresh=0`` each request queries the ledger. The long ``patience`` keeps a busy machine
    from failing the tests: the pages wait for the ledger's answer.
    """
    watch = HealthMonitor(address, clock=clock, fresh=fresh, patience=patience)
    endpoints = [make(address, clock) for make in feature.loaded("endpoint")]
    guarded = RequestGuard(
        application(watch, endpoints), names, endpoints=endpoints, any_address=any_address
    )
    listener, server = web.listen("127.0.0.1", 0), build_server(guarded, endpoints)
    running = asyncio.create_task(server.serve([listener]))
    url = web.url(*listener.getsockname())
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60.0) as client:
            yield client
    finally:
        server.should_exit = True
        await running


@pytest.fixture
def pages(
    world: World, daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Served]:
    """Return a function that serves the pages of the test's ledger, without a reachable Prefect."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    return lambda: served(world.ledger.address, world.clock)


@pytest.fixture(autouse=True)
def times_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show times as on a machine in UTC."""
    monkeypatch.setenv("DAYBOOK_TIMEZONE", "Etc/UTC")


OWN = "http://127.0.0.1:4280"


def site_of(server: PageLogin) -> Site:
    """Return what the pages of a server share."""
    found: Site = server.application.state.site  # type: ignore[attr-defined]
    return found


async def pages_of_one(world: World) -> list[str]:
    """Add a job, a run of it and a task; return the paths of their pages."""
    job = await world.jobs.add("brief")
    run = await world.runs.request(job)
    task = await world.tasks.add("tidy up")
    return [f"/jobs/{job.id}", f"/runs/{run.id}", f"/tasks/{task.task_id}"]


async def no_health() -> HealthReport:
    raise DaybookError("not read in this test")


def client(server: PageLogin) -> httpx.AsyncClient:
    """Return a browser of Daybook's pages that is not logged in."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(server), base_url=OWN)


@pytest.fixture
def of_this_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat each request as from this user: there are no sockets to check."""
    monkeypatch.setattr(peers, "is_another_user", lambda scope: False)


@pytest.fixture
async def server(world: World, daybook_home: Home, of_this_user: None) -> AsyncIterator[PageLogin]:
    """Yield Daybook's pages."""
    application = site.application(no_health, world.ledger)
    yield login.protect(application, 4280, application.state.site)
    application.state.site.live.close()
    await application.state.site.close()


@pytest.fixture
async def browser(server: PageLogin) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a logged-in browser."""
    async with client(server) as found:
        assert (await found.get(server.new_link())).status_code == 200
        yield found


@pytest.fixture
def nothing_to_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Prefect answer, agree with the ledger in everything, and have no document."""
    fake = FakePrefect(BLOCK_TYPES, Steps())
    fake.register()

    async def report(*_: Any) -> ReconcileReport:
        return ReconcileReport()

    monkeypatch.setattr(connection, "connected", lambda *_: nullcontext(fake))
    monkeypatch.setattr(connection, "check_connection", report)
    monkeypatch.setattr(reconcile, "reconcile_all", report)
    monkeypatch.setattr(reconcile, "reconcile_changed_job", report)
    monkeypatch.setattr(work_pool, "ensure", report)
