"""Streams of live pages at the real server: their number, and their end."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx
import pytest

from daybook.diagnosis.health import HealthMonitor
from daybook.home import Home
from daybook.operations import connections, web
from daybook.web import live, login, pages
from daybook.web.app import RequestGuard, application, build_server
from daybook.web.pages.site import Site
from tests.unit.web.conftest import no_health
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

WITHIN = 60.0


async def test_two_hundred_streams_of_one_client_leave_room_and_end_with_the_server(
    world: World, daybook_home: Home
) -> None:
    address = world.ledger.address
    watch = HealthMonitor(address, clock=world.clock, fresh=0.0, patience=WITHIN)
    application_of_pages = pages.application(no_health, world.ledger)
    site: Site = application_of_pages.state.site
    listener = web.listen("127.0.0.1", 0)
    host, port = listener.getsockname()
    protected = login.protect(application_of_pages, port, site)
    guarded = RequestGuard(
        application(watch, (), protected, site.close),
        accepts_writes=login.accepts_writes,
    )
    server = build_server(guarded, (), site.live.close)
    running = asyncio.create_task(server.serve([listener]))
    url = web.url(host, port)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=WITHIN) as browser:
        assert (await browser.get(protected.new_link())).status_code == 200
        (cookie,) = browser.cookies.jar
        head = (
            f"GET {live.PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncookie: {cookie.name}={cookie.value}"
        )
        statuses, open_ones = Counter[bytes](), list[asyncio.StreamReader]()
        writers = list[asyncio.StreamWriter]()
        assert connections.MAX_REQUESTS < 200
        for _ in range(200):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(f"{head}\r\n\r\n".encode())
            status = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
            statuses[status] += 1
            writers.append(writer)
            if status == b"200":
                open_ones.append(reader)
        assert statuses == {b"200": live.MAX_STREAMS_PER_SESSION, b"503": 190}
        assert (await browser.get("/jobs")).status_code == 200
        assert (await browser.get("/health")).status_code in (200, 503)
        server.should_exit = True
        async with asyncio.timeout(WITHIN):
            for reader in open_ones:
                assert (await reader.read()).endswith(b"0\r\n\r\n")  # ended, and not cut
            await running
        for writer in writers:
            writer.close()
