"""Links to Daybook's pages."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from daybook.errors import PageUnreachable
from daybook.home import Home
from daybook.operations import browser, web
from daybook.web import login
from daybook.web.app import build_server
from tests.servers import free_port

pytestmark = pytest.mark.anyio


async def _hello(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})


def recorded(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(Home, "running", lambda home: {"web_url": url})


async def test_without_a_web_server_the_error_says_how_to_start_one(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PageUnreachable, match="start `daybook up`"):
        await browser.link()
    recorded(monkeypatch, f"http://127.0.0.1:{free_port()}")
    with pytest.raises(PageUnreachable, match="do not answer"):
        await browser.link()


async def test_a_link_of_the_running_server_opens_it(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = web.listen("127.0.0.1", 0)
    url = web.url(*listener.getsockname())
    server = build_server(login.protect(_hello, listener.getsockname()[1]))
    running = asyncio.create_task(server.serve([listener]))
    recorded(monkeypatch, url)
    try:
        made = await browser.link()
        assert made.url.startswith(f"{url}/daybook/login?token=")
        assert made.url not in repr(made)
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(url)).status_code == 401
            assert (await client.get(made.url)).status_code == 200
            assert (await client.get(url)).text == "hello"
        # For the public URL, the same server makes a link that is valid only there.
        public = "https://daybook.example.org"
        monkeypatch.setenv("DAYBOOK_PUBLIC_URL", public)
        assert (await browser.link()).url.startswith(url)
        made = await browser.link(is_public=True)
        assert made.url.startswith(f"{public}/daybook/login?token=")
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(made.url.replace(public, url))
            assert answer.status_code == 403
        daybook_home.credential_file.write_text("daybook:another")
        with pytest.raises(PageUnreachable, match="has changed"):
            await browser.link()
    finally:
        server.should_exit = True
        await running
