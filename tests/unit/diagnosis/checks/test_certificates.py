"""Certificates that expire soon, of local servers with TLS: HTTPS, and PostgreSQL's request."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509

from daybook.clock import SYSTEM_CLOCK
from daybook.diagnosis.checks import certificates
from daybook.finding import Finding, Severity
from tests.certificates import self_signed

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("daybook_home")]


def context(folder: Path, remaining: timedelta, age: timedelta) -> ssl.SSLContext:
    path = folder / "both.pem"
    texts = self_signed(x509.DNSName("localhost"), age=age, remaining=remaining)
    path.write_bytes(b"".join(texts))
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(path)
    return made


MONTHS = timedelta(days=80)


async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer nothing until the client closes the connection."""
    with suppress(ConnectionError):
        await reader.read()
    writer.close()


@asynccontextmanager
async def https(folder: Path, remaining: timedelta, age: timedelta) -> AsyncIterator[int]:
    offered = context(folder, remaining, age)
    server = await asyncio.start_server(hold, "127.0.0.1", 0, ssl=offered)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def database(folder: Path, remaining: timedelta, answer: bytes) -> AsyncIterator[int]:
    """Serve as PostgreSQL does: TLS, or not, after a client has asked for it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(8) == b"\0\0\0\x08\x04\xd2\x16\x2f"
        writer.write(answer)
        if answer == b"S":
            await writer.start_tls(context(folder, remaining, MONTHS))
        await hold(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def check(prefect: str, ledger: str = "") -> list[Finding]:
    client: Any = SimpleNamespace(api_url=prefect)
    with pytest.MonkeyPatch.context() as patch:
        if ledger:
            patch.setenv("DAYBOOK_LEDGER_URL", ledger)
        return await certificates.certificates(client)


@pytest.mark.parametrize(
    ("age", "remaining", "word"),
    [
        (MONTHS, timedelta(days=8), ""),
        (MONTHS, timedelta(days=6), "ends on"),
        (MONTHS, -timedelta(days=1), "ended on"),
        (timedelta(hours=12), timedelta(hours=12), ""),  # renewed every day
        (timedelta(hours=20), timedelta(hours=4), "ends on"),
    ],
)
async def test_a_certificate_is_reported_before_it_ends(
    tmp_path: Path, age: timedelta, remaining: timedelta, word: str
) -> None:
    async with https(tmp_path, remaining, age) as port:
        found = await check(f"https://localhost:{port}/api")
    if not word:
        assert found == []
        return
    (finding,) = found
    assert finding.severity is Severity.WARNING
    assert finding.title.startswith(f"the certificate of Prefect (localhost) {word} ")
    assert f"{SYSTEM_CLOCK.now() + remaining:%Y-%m-%d}" in finding.title


async def test_that_of_the_database_is_reported_and_a_database_without_tls_is_not(
    tmp_path: Path,
) -> None:
    soon = timedelta(days=2)
    for answer, count in ((b"S", 1), (b"N", 0)):
        async with database(tmp_path, soon, answer) as port:
            place = f"localhost:{port}"
            found = await check("http://localhost/api", f"postgresql://u:s3cr3t@{place}/d")
            several = await check("http://localhost/api", f"postgresql:///d?host={place}&host=/run")
            assert await check("http://a/api", f"postgresql://{place}/d?ssl=disable") == []
        assert len(found) == len(several) == count
        assert "s3cr3t" not in str(found)


async def test_a_server_that_does_not_answer_is_left_to_other_checks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(certificates, "TIMEOUT_SECONDS", 0.05)
    silent = await asyncio.start_server(hold, "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        here = f"127.0.0.1:{port}"
        assert await check(f"https://{here}/api", f"postgresql://{here}/d") == []
    assert await check("https://127.0.0.1:1/api", "sqlite+aiosqlite:////tmp/ledger.db") == []
