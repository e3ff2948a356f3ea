"""Fixtures for channel tests: Prefect with our blocks, HTTP and HTTPS servers, a mail server."""

from __future__ import annotations

import asyncio
import email
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from email.message import Message as Mail
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP
from prefect.client.orchestration import PrefectClient, get_client

from daybook.clock import SYSTEM_CLOCK
from daybook.delivery.channels import registry
from daybook.home import Home
from daybook.ledger.tables import OutboxRow
from tests import certificates
from tests.at_prefect import register_blocks
from tests.receiver import Receiver, serving

_LINES = "\n".join(f"line {number} of a long answer" for number in range(1, 1601))
LONG = f"{_LINES[:39_991]} the end."
"""A message of 40,000 characters."""


def row(channel: str, body: str = "All is well.", **given: Any) -> OutboxRow:
    """Return an outbox row as the dispatcher has claimed it."""
    now = SYSTEM_CLOCK.now()
    fields: dict[str, Any] = {
        "key": "run:4f0c2a91d3e7aa00:channel",
        "purpose": "message",
        "event": "completed",
        "run_id": "4f0c2a91d3e7aa00",
        "queue": f"channel:{channel}",
        "address": channel,
        "subject": "morning-brief: succeeded",
        "body": body,
        "next_at": now,
        "created_at": now,
    }
    return OutboxRow(**fields | given)


@pytest.fixture
async def client(prefect_server: object, daybook_home: Home) -> AsyncIterator[PrefectClient]:
    """Yield a client of a Prefect that has our block types and no channels."""
    async with get_client() as client:
        await register_blocks(client)
        await _forget_all(client)
        yield client
        await _forget_all(client)


async def _forget_all(client: PrefectClient) -> None:
    for name, slug in (await registry.names(client)).items():
        if name not in registry.BUILTIN:
            short = name.rpartition("/")[2]
            document = await client.read_block_document_by_name(short, slug)
            await client.delete_block_document(document.id)


@pytest.fixture
async def endpoint() -> AsyncIterator[Receiver]:
    """Yield a server on localhost; the test sets its answers."""
    async with serving() as server:
        yield server


@pytest.fixture(scope="session")
def localhost(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a PEM file with a self-signed certificate of localhost and its key."""
    return certificates.localhost(tmp_path_factory.mktemp("localhost"))


@pytest.fixture
async def https(localhost: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    """Yield a TLS server on localhost whose certificate this process trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(localhost)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(localhost))
    async with serving(context) as server:
        yield server


class Letters:
    """Handler of a mail server: records each mail; ``answer`` is the reply to the next one."""

    def __init__(self) -> None:
        self.got: list[Mail] = []
        self.to: list[list[str]] = []
        self.answer = "250 OK"
        self.port = 0

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.answer.startswith("250"):
            self.got.append(email.message_from_bytes(envelope.content))
            self.to.append(list(envelope.rcpt_tos))
        return self.answer

    def url(self, query: str = "") -> str:
        """Return the URL of a channel that sends to a recipient at this server."""
        return (
            f"mailto://127.0.0.1:{self.port}?from=daybook@here.example&to=me@there.example{query}"
        )


@asynccontextmanager
async def receiving_letters() -> AsyncIterator[Letters]:
    """Yield a mail server on localhost."""
    letters = Letters()
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: SMTP(letters), "127.0.0.1", 0)
    letters.port = listening.sockets[0].getsockname()[1]
    yield letters
    listening.close()
    await listening.wait_closed()


@pytest.fixture
async def letters() -> AsyncIterator[Letters]:
    """Yield a mail server on localhost."""
    async with receiving_letters() as letters:
        yield letters


@pytest.fixture
def unused_port() -> Iterator[int]:
    """Yield a port that is bound, but on which nothing listens."""
    with socket.socket() as socket_held:
        socket_held.bind(("127.0.0.1", 0))
        yield socket_held.getsockname()[1]
