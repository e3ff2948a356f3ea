"""Fixtures for delivery tests: a ledger with callbacks, the session's Prefect and a receiver."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func
from sqlmodel import col, select

from daybook.delivery import destinations
from daybook.delivery.outbox import queue_of_url
from daybook.home import Home
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow
from daybook.resources import secrets
from tests.conftest import PrefectServer
from tests.databases import Database
from tests.e2e.delivery.senders import SharedClock
from tests.servers import free_port
from tests.world.home import at_prefect
from tests.world.prefect_world import PrefectWorld


class ReceiverProcess:
    """The program `receiver` as a child process, running between `start` and `kill`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.port = folder, free_port()
        self._process: Process | None = None
        self.says("well")

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def says(self, mode: str) -> None:
        draft = self._folder / "mode.new"
        draft.write_text(mode)
        draft.rename(self._folder / "mode")

    async def start(self) -> None:
        program = ["-m", "tests.e2e.delivery.receiver", str(self.port), str(self._folder)]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *program, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == b"listens\n"

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    def got(self) -> list[dict[str, Any]]:
        """Return the received requests in order: `{"path", "headers", "body", "answer"}`."""
        log = self._folder / "log"
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        return [
            json.loads(line) for line in lines if line.endswith("\n")
        ]  # skip a half-written line


async def ask(world: PrefectWorld, *addresses: str, **fields: Any) -> list[str]:
    """Add a callback for each address to the outbox, and return their ids."""
    now = world.ledger.now()
    rows = [
        OutboxRow(
            key=f"test:{number}:{address}",
            purpose="callback",
            event="completed",
            queue=queue_of_url(address),
            address=address,
            body=json.dumps({"version": 1, "number": number, "output": "Grüße, 世界"}),
            next_at=now,
            created_at=now,
            **fields,
        )
        for number, address in enumerate(addresses)
    ]
    ids = [row.id for row in rows]
    async with world.ledger.write() as session:
        session.add_all(rows)
    return ids


async def callbacks(world: PrefectWorld) -> dict[str, OutboxRow]:
    """Return all callbacks by id."""
    async with world.ledger.read() as session:
        found = await session.execute(select(OutboxRow).where(OutboxRow.purpose == "callback"))
        return {row.id: row for row in found.scalars()}


async def tries(world: PrefectWorld) -> int:
    """Return the total number of tries of all outbox rows."""
    async with world.ledger.read() as session:
        return int((await session.execute(select(func.sum(OutboxRow.attempts)))).scalar_one())


async def pending(world: PrefectWorld) -> int:
    """Return the number of pending deliveries."""
    waiting = select(func.count()).where(col(OutboxRow.status) == Delivery.PENDING)
    async with world.ledger.read() as session:
        return int((await session.execute(waiting)).scalar_one())


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[ReceiverProcess]:
    folder = tmp_path / "receiver"
    folder.mkdir()
    receiver = ReceiverProcess(folder)
    await receiver.start()
    yield receiver
    await receiver.kill()


@pytest.fixture
async def world(
    prefect_server: PrefectServer, daybook_home: Home, database: Database, tmp_path: Path
) -> AsyncIterator[PrefectWorld]:
    """Yield a world whose clock child processes share; remove its destinations and secrets."""
    clock = SharedClock(tmp_path / "ahead")
    async with at_prefect(tmp_path, prefect_server, database, clock=clock) as world:
        yield world
        for slug in (destinations.STORE.slug, secrets.STORE.slug):
            for document in await world.client.read_block_documents_by_type(slug):
                await world.client.delete_block_document(document.id)
