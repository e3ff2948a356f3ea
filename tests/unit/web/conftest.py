"""The pages over a ledger, served by our own server and asked over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx
import pytest

from daybook.clock import Clock
from daybook.home import Home
from daybook.operations import web
from daybook.operations.health import HealthMonitor
from daybook.web.app import Guard, application, build_server
from tests.world import World

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
    """A client of the pages; without ``fresh`` each question is a look of its own.

    A busy machine does not make them say that the ledger is away: they wait for its answer.
    """
    watch = HealthMonitor(address, clock=clock, fresh=fresh, patience=patience)
    guarded = Guard(application(watch), names, any_address=any_address)
    listener, server = web.listen("127.0.0.1", 0), build_server(guarded)
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
    """The pages of the test's ledger, at the time that it moves, beside a Prefect that is away."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    return lambda: served(world.ledger.address, world.clock)
