"""The guard of the health pages: host names, origins, methods and bodies."""

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
async def test_a_request_to_a_local_host_name_is_accepted(
    page: httpx.AsyncClient, host: str
) -> None:
    assert (await page.get("/metrics", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:4280", "localhost.evil.example", "10.0.0.5", "a@localhost", "["],
)
async def test_a_request_to_a_foreign_host_name_is_refused(
    page: httpx.AsyncClient, host: str
) -> None:
    answer = await page.get("/metrics", headers={"host": host})
    assert (answer.status_code, answer.text) == (403, "not a name of this server\n")


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://localhost.evil.example"]
)
async def test_a_request_with_a_foreign_origin_is_refused(
    page: httpx.AsyncClient, origin: str
) -> None:
    assert (await page.get("/health", headers={"origin": origin})).status_code == 403
    same_origin = await page.get("/metrics", headers={"origin": "http://localhost:4280"})
    assert same_origin.status_code == 200
    assert "access-control-allow-origin" not in same_origin.headers


async def test_configured_host_names_and_ip_addresses_are_accepted(daybook_home: Home) -> None:
    address = f"sqlite+aiosqlite:///{daybook_home.path}/ledger.db"
    async with served(address, names=("Metrics.example.org",), any_address=True) as page:
        for host in ("metrics.example.org:4280", "10.0.0.5:4280", "[fe80::1]", "localhost"):
            assert (await page.get("/metrics", headers={"host": host})).status_code == 200
        for host in ("evil.example", "10.0.0.5.evil.example"):
            assert (await page.get("/metrics", headers={"host": host})).status_code == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_methods_other_than_get_and_head_are_refused(
    page: httpx.AsyncClient, method: str
) -> None:
    answer = await page.request(method, "/health")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_a_request_with_a_body_is_refused(page: httpx.AsyncClient) -> None:
    assert (await page.request("GET", "/metrics", content=b"x" * 1_000_000)).status_code == 413

    async def endless() -> AsyncIterator[bytes]:
        yield b"x"

    assert (await page.request("GET", "/metrics", content=endless())).status_code == 413


async def test_answers_have_no_server_header_and_other_paths_give_404(
    page: httpx.AsyncClient,
) -> None:
    answer = await page.get("/metrics")
    assert "server" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"
    head = await page.head("/metrics")
    assert (head.status_code, head.content) == (200, b"")
    elsewhere = await page.get("/")
    assert elsewhere.status_code == 404
    assert "/health" in elsewhere.text
