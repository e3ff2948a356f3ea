"""Fixtures that serve the health pages of a ledger over HTTP with the real server."""

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
from daybook.web.hooks import HookReceiver
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
    """Serve the pages, and yield a client of them.

    With ``fresh=0`` each request queries the ledger. The long ``patience`` keeps a busy machine
    from failing the tests: the pages wait for the ledger's answer.
    """
    watch = HealthMonitor(address, clock=clock, fresh=fresh, patience=patience)
    receiver = HookReceiver(address, clock)
    guarded = Guard(application(watch, receiver), names, any_address=any_address)
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
    """Return a function that serves the pages of the test's ledger, without a reachable Prefect."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    return lambda: served(world.ledger.address, world.clock)
