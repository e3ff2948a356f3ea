"""Who may ask what of the pages (docs/design.md, Security)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from daybook.home import Home
from tests.unit.web.conftest import served

pytestmark = pytest.mark.anyio


@pytest.fixture
async def page(daybook_home: Home) -> AsyncIterator[httpx.AsyncClient]:
    async with served(f"sqlite+aiosqlite:///{daybook_home.path}/ledger.db") as client:
        yield client


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:4280", "127.0.0.1:1", "[::1]:4280", "LOCALHOST", "localhost."]
)
async def test_this_machine_is_let_in_by_its_names(page: httpx.AsyncClient, host: str) -> None:
    assert (await page.get("/metrics", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:4280", "localhost.evil.example", "10.0.0.5", "a@localhost", "["],
)
async def test_a_strange_name_is_refused(page: httpx.AsyncClient, host: str) -> None:
    answer = await page.get("/metrics", headers={"host": host})
    assert (answer.status_code, answer.text) == (403, "not a name of this server\n")


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://localhost.evil.example"]
)
async def test_a_strange_web_page_is_refused(page: httpx.AsyncClient, origin: str) -> None:
    assert (await page.get("/health", headers={"origin": origin})).status_code == 403
    ours = await page.get("/metrics", headers={"origin": "http://localhost:4280"})
    assert ours.status_code == 200
    assert "access-control-allow-origin" not in ours.headers


async def test_names_that_were_given_and_addresses_are_let_in(daybook_home: Home) -> None:
    address = f"sqlite+aiosqlite:///{daybook_home.path}/ledger.db"
    async with served(address, names=("Metrics.example.org",), any_address=True) as page:
        for host in ("metrics.example.org:4280", "10.0.0.5:4280", "[fe80::1]", "localhost"):
            assert (await page.get("/metrics", headers={"host": host})).status_code == 200
        for host in ("evil.example", "10.0.0.5.evil.example"):
            assert (await page.get("/metrics", headers={"host": host})).status_code == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_only_questions_are_answered(page: httpx.AsyncClient, method: str) -> None:
    answer = await page.request(method, "/health")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_no_body_is_read(page: httpx.AsyncClient) -> None:
    assert (await page.request("GET", "/metrics", content=b"x" * 1_000_000)).status_code == 413

    async def endless() -> AsyncIterator[bytes]:
        yield b"x"

    assert (await page.request("GET", "/metrics", content=endless())).status_code == 413


async def test_the_server_says_nothing_of_itself(page: httpx.AsyncClient) -> None:
    answer = await page.get("/metrics")
    assert "server" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"
    head = await page.head("/metrics")
    assert (head.status_code, head.content) == (200, b"")
    elsewhere = await page.get("/")
    assert elsewhere.status_code == 404
    assert "/health" in elsewhere.text
