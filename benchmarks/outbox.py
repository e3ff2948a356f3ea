"""Throughput of the outbox compared with plain httpx posts of the same bodies.

Ten thousand callbacks wait in a SQLite ledger for twenty addresses of one receiver, which is a
separate process. The keeper's outbox service sends them: it claims and signs each, checks its
address, sends it and records the result. For comparison one `httpx.AsyncClient` posts the same
bodies to the same addresses with the same concurrency. The two take turns.

``python -m benchmarks.outbox`` is the receiver.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import httpx

from benchmarks.figures import head, row, short

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

ADDRESSES = 20
WANTED = 0.6
"""Smallest ratio of the outbox's rate to that of plain posts."""
_TAKEN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Measured:
    """Callbacks per second, for each turn."""

    callbacks: int
    at_once: int
    drained: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        return median(self.drained) / median(self.plain)


async def measure(client: PrefectClient, folder: Path, callbacks: int, turns: int) -> Measured:
    """Measure in the empty ``folder``; ``client`` reads the signing settings."""
    from daybook.delivery.dispatcher import MAX_IN_FLIGHT

    measured = Measured(callbacks, MAX_IN_FLIGHT)
    async with _receiver() as address:
        for turn in range(turns):
            place = f"sqlite+aiosqlite:///{folder}/{turn}.db"
            measured.drained.append(callbacks / await _drained(place, client, address, callbacks))
            measured.plain.append(callbacks / await _plain(address, callbacks, MAX_IN_FLIGHT))
    return measured


async def _drained(place: str, client: PrefectClient, address: str, callbacks: int) -> float:
    from daybook.delivery.outbox import queue_of_url
    from daybook.delivery.outgoing import dispatch_outgoing
    from daybook.ledger.engine import Ledger
    from daybook.ledger.states import Delivery, Status
    from daybook.ledger.tables import OutboxRow, RunRow

    async with Ledger(place) as ledger:
        now = ledger.now()
        async with ledger.write() as session:
            session.add_all(
                RunRow(
                    id=f"{number:032x}",
                    occurrence=f"bench:{number}",
                    kind="direct",
                    trigger="direct",
                    due=now,
                    queued_at=now,
                    status=Status.SUCCEEDED,
                    finished_at=now,
                    delivery=Delivery.PENDING,
                )
                for number in range(callbacks)
            )
            session.add_all(
                OutboxRow(
                    key=f"bench:{number}",
                    purpose="callback",
                    event="completed",
                    run_id=f"{number:032x}",
                    lane=queue_of_url(_to(address, number)),
                    address=_to(address, number),
                    body=_body(number),
                    next_at=now,
                    created_at=now,
                )
                for number in range(callbacks)
            )
        began = time.perf_counter()
        sent = await dispatch_outgoing(ledger, client, "bench")
        seconds = time.perf_counter() - began
    assert sent.delivered == callbacks, sent
    return seconds


async def _plain(address: str, callbacks: int, at_once: int) -> float:
    left = iter(range(callbacks))
    limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    headers = {"Content-Type": "application/json"}
    async with httpx.AsyncClient(limits=limits, headers=headers, trust_env=False) as client:

        async def posts() -> None:
            for number in left:
                answer = await client.post(_to(address, number), content=_body(number))
                answer.raise_for_status()

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(posts())
        return time.perf_counter() - began


def _to(address: str, number: int) -> str:
    return f"{address}/{number % ADDRESSES}/hook"


def _body(number: int) -> str:
    """Return a body about as long as a run as JSON."""
    told = {"version": 1, "event": "completed", "id": f"{number:032x}", "status": "succeeded"}
    return json.dumps(told | {"output": "What was asked for is done. " * 40})


def table(measured: Measured) -> str:
    lines = [head("callbacks a second", *(f"turn {n + 1}" for n in range(len(measured.plain))))]
    for name, rates in (("drained", measured.drained), ("plain httpx posts", measured.plain)):
        lines.append(row(name, *map(short, rates)))
    lines.append("")
    lines.append(
        f"{measured.callbacks:,} callbacks to {ADDRESSES} addresses, {measured.at_once} at a time: "
        f"**{measured.share:.2f}** of the rate of plain posts (medians)."
    )
    return "\n".join(lines)


def missed(measured: Measured) -> list[str]:
    if measured.share >= WANTED:
        return []
    return [f"callbacks drain at {measured.share:.2f} of plain posts, wanted {WANTED}"]


# --- the receiver


@asynccontextmanager
async def _receiver() -> AsyncIterator[str]:
    """Yield the receiver's address while it runs."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.outbox", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        yield f"http://127.0.0.1:{int(await child.stdout.readline())}"
    finally:
        child.kill()
        await child.wait()


async def _take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            said = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = said.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            writer.write(_TAKEN)
            await writer.drain()
    writer.close()


async def _listen() -> None:
    listening = await asyncio.start_server(_take, "127.0.0.1", 0)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(_listen())
