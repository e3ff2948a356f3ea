"""A ledger with callbacks in it, beside the session's Prefect server, and a receiver for them."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from sqlalchemy import func
from sqlmodel import col, select

from daybook.home import Home
from daybook.host import server
from daybook.ledger.engine import Ledger
from daybook.ledger.outbox import lane_of_url
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow
from daybook.outbox import destinations
from daybook.outgoing import secret_blocks
from tests.at_prefect import register_blocks
from tests.databases import Database
from tests.e2e.outbox.senders import Ahead


class Receiver:
    """The program `receiver`, which is there between `start` and `kill`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.port = folder, server.free_port(0)
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
        program = ["-m", "tests.e2e.outbox.receiver", str(self.port), str(self._folder)]
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
        """What came, in its order: `{"path", "headers", "body", "answer"}`."""
        log = self._folder / "log"
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]  # not one half written


class Outbox:
    """The ledger's outbox, as the test fills it and looks at it."""

    def __init__(self, ledger: Ledger, clock: Ahead, client: PrefectClient) -> None:
        self.ledger, self.clock, self.client = ledger, clock, client

    async def ask(self, *addresses: str, **fields: Any) -> list[str]:
        """A callback to each; their ids."""
        now = self.ledger.now()
        rows = [
            OutboxRow(
                key=f"test:{number}:{address}",
                purpose="callback",
                event="completed",
                lane=lane_of_url(address),
                address=address,
                body=json.dumps({"version": 1, "number": number, "output": "Grüße, 世界"}),
                next_at=now,
                created_at=now,
                **fields,
            )
            for number, address in enumerate(addresses)
        ]
        ids = [row.id for row in rows]
        async with self.ledger.write() as session:
            session.add_all(rows)
        return ids

    async def rows(self) -> dict[str, OutboxRow]:
        async with self.ledger.read() as session:
            found = await session.execute(select(OutboxRow).where(OutboxRow.purpose == "callback"))
            return {row.id: row for row in found.scalars()}

    async def tries(self) -> int:
        async with self.ledger.read() as session:
            return int((await session.execute(select(func.sum(OutboxRow.attempts)))).scalar_one())

    async def pending(self) -> int:
        waiting = select(func.count()).where(col(OutboxRow.status) == Delivery.PENDING)
        async with self.ledger.read() as session:
            return int((await session.execute(waiting)).scalar_one())


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    folder = tmp_path / "receiver"
    folder.mkdir()
    receiver = Receiver(folder)
    await receiver.start()
    yield receiver
    await receiver.kill()


@pytest.fixture
async def client(prefect_server: object) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        await register_blocks(client)
        yield client
        for slug in (destinations.SLUG, secret_blocks.SLUG):
            for document in await client.read_block_documents_by_type(slug):
                await client.delete_block_document(document.id)


@pytest.fixture
async def outbox(
    client: PrefectClient, daybook_home: Home, database: Database, tmp_path: Path
) -> AsyncIterator[Outbox]:
    file = tmp_path / "ahead"
    file.write_text("0")
    clock = Ahead(file)
    async with Ledger(database.address, clock) as ledger:
        yield Outbox(ledger, clock, client)
