"""Throughput of the outbox compared with plain httpx posts of the same bodies.

Ten thousand callbacks wait in a SQLite ledger for twenty addresses of one receiver, which is a
separate process. The keeper's outbox service sends them: it claims and signs each, checks its
address, sends it and records the result. For comparison one `httpx.AsyncClient` posts the same
bodies to the same addresses with the same concurrency. Both take turns.

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

from benchmarks.report import header, row, short

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

ADDRESSES = 20
TARGET_RATIO = 0.6
"""Smallest ratio of the outbox's rate to that of plain posts."""
_ACCEPTED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Result:
    """Callbacks per second in each turn, with ``concurrency`` requests in progress."""

    callbacks: int
    concurrency: int
    outbox: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return median(self.outbox) / median(self.plain)


async def measure(client: PrefectClient, folder: Path, callbacks: int, turns: int) -> Result:
    """Measure with ledgers in ``folder``; ``client`` reads the signing settings."""
    from daybook.delivery.dispatcher import MAX_IN_FLIGHT

    result = Result(callbacks, MAX_IN_FLIGHT)
    async with _receiver() as address:
        for turn in range(turns):
            ledger = f"sqlite+aiosqlite:///{folder}/{turn}.db"
            seconds = await _send_from_outbox(ledger, client, address, callbacks)
            result.outbox.append(callbacks / seconds)
            seconds = await _post_plainly(address, callbacks, MAX_IN_FLIGHT)
            result.plain.append(callbacks / seconds)
    return result


async def _send_from_outbox(
    ledger_url: str, client: PrefectClient, address: str, callbacks: int
) -> float:
    """Fill an outbox and let Daybook send it; return the seconds of the sending."""
    from daybook.delivery.outbox import queue_of_url
    from daybook.delivery.outgoing import dispatch_outgoing
    from daybook.ledger.engine import Ledger
    from daybook.ledger.states import Delivery, Status
    from daybook.ledger.tables import OutboxRow, RunRow

    async with Ledger(ledger_url) as ledger:
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
                    queue=queue_of_url(_url(address, number)),
                    address=_url(address, number),
                    body=_body(number),
                    next_at=now,
                    created_at=now,
                )
                for number in range(callbacks)
            )
        start = time.perf_counter()
        sent = await dispatch_outgoing(ledger, client, "bench", ui=None)
        seconds = time.perf_counter() - start
    assert sent.delivered == callbacks, sent
    return seconds


async def _post_plainly(address: str, callbacks: int, concurrency: int) -> float:
    """Post the same bodies with httpx; return the seconds that it took."""
    left = iter(range(callbacks))
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    headers = {"Content-Type": "application/json"}
    async with httpx.AsyncClient(limits=limits, headers=headers, trust_env=False) as client:

        async def post() -> None:
            for number in left:
                answer = await client.post(_url(address, number), content=_body(number))
                answer.raise_for_status()

        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(post())
        return time.perf_counter() - start


def _url(address: str, number: int) -> str:
    return f"{address}/{number % ADDRESSES}/hook"


def _body(number: int) -> str:
    """Return a body about as long as a run as JSON."""
    run = {"version": 1, "event": "completed", "id": f"{number:032x}", "status": "succeeded"}
    return json.dumps(run | {"output": "The requested work is done. " * 40})


def table(result: Result) -> str:
    lines = [header("callbacks per second", *(f"turn {n + 1}" for n in range(len(result.plain))))]
    for name, rates in (("outbox", result.outbox), ("plain httpx posts", result.plain)):
        lines.append(row(name, *map(short, rates)))
    lines.append("")
    lines.append(
        f"{result.callbacks:,} callbacks to {ADDRESSES} addresses, {result.concurrency} at a time: "
        f"**{result.ratio:.2f}** of the rate of plain posts (medians; target: ≥ {TARGET_RATIO})."
    )
    return "\n".join(lines)


def missed(result: Result) -> list[str]:
    """Return the missed targets."""
    if result.ratio >= TARGET_RATIO:
        return []
    return [f"outbox: {result.ratio:.2f} of the rate of plain posts, target ≥ {TARGET_RATIO}"]


@asynccontextmanager
async def _receiver() -> AsyncIterator[str]:
    """Start a receiver and yield its address; stop it at the end."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.outbox", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        yield f"http://127.0.0.1:{int(await child.stdout.readline())}"
    finally:
        child.kill()
        await child.wait()


async def _accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            writer.write(_ACCEPTED)
            await writer.drain()
    writer.close()


async def _serve() -> None:
    server = await asyncio.start_server(_accept, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
