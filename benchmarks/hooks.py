"""Requests to hooks at a fixed rate, at a web server in a process of its own, on SQLite.

The requests are due every 2 ms for ten seconds, whatever the server does, and wait in the sender
for one of its connections. A latency counts from the time at which its request was due. Another
client asks for `/health` meanwhile. Prefect does not take part.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks import usage
from benchmarks.report import header, p99, progress, row, short
from daybook.clock import SYSTEM_CLOCK

RATE = 500
SECONDS = 10
CONNECTIONS = 40
TARGET_MS = 1.5
"""CPU time of a refused request in ms, at most: 500 a second leave the rest of a core free."""

Signed = Callable[[int], tuple[str, dict[str, str], bytes]]
"""Function that returns path, headers and body of the request with this number."""


@dataclass
class Load:
    """The answers to one kind of requests: their times in seconds, and their statuses.

    ``cpu`` is the CPU time of the server in seconds, ``health`` the times of `/health`.
    """

    label: str
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    cpu: float = 0.0
    health: list[float] = field(default_factory=list)
    runs: int = 0

    @property
    def cpu_ms(self) -> float:
        """CPU time of the server per request, in milliseconds."""
        return 1000 * self.cpu / len(self.latencies)


async def measure() -> list[Load]:
    """Measure requests that are refused, limited, accepted and repeated, in this order."""
    from daybook.delivery.home_secret import new_secret
    from daybook.features.hooks.signatures import SCHEMES

    secret, scheme = new_secret(), SCHEMES["standard"]
    body = json.dumps({"action": "opened", "text": "x" * 2_000}).encode()

    def signed(hook: str, marker: str, key: str = secret) -> Signed:
        def request(number: int) -> tuple[str, dict[str, str], bytes]:
            headers = scheme.sign(key, f"msg_{marker}_{number}", body, SYSTEM_CLOCK.now())
            return f"/hooks/{hook}", headers, body

        return request

    repeated = signed("wide", "accepted")
    kinds = {
        "unknown hook (401)": signed("nobody", "a"),
        "wrong secret (401)": signed("wide", "b", new_secret()),
        "more than the rate (429)": signed("narrow", "c"),
        "a run each (202)": signed("wide", "accepted"),
        "ten deliveries, repeated (202)": lambda number: repeated(number % 10),
    }
    loads = []
    with tempfile.TemporaryDirectory(prefix="daybook-bench-") as folder:
        await _fill(Path(folder), secret)
        async with served(Path(folder)) as (port, pid):
            for label, make in kinds.items():
                loads.append(await _send(Load(label), port, pid, make))
                loads[-1].runs = await _count(Path(folder))
                progress(f"hooks: {label}: {dict(loads[-1].statuses)}")
    return loads


def _ledger_url(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder}/ledger.db"


async def _fill(folder: Path, secret: str) -> None:
    """Store a job, and two hooks that start it: one with a high rate, one with the default."""
    from daybook.features.hooks.documents import STORE
    from daybook.features.hooks.settings import DEFAULT_RATE, MAX_RATE
    from daybook.home import Home
    from daybook.jobs import store
    from daybook.jobs.model import new_job
    from daybook.ledger.engine import Ledger
    from daybook.resources import copies
    from daybook.resources.store import block_data

    async with Ledger(_ledger_url(folder)) as ledger, ledger.write() as session:
        now = ledger.now()
        job = new_job(now=now, default_timezone="UTC", name="bench", prompt="x", on_demand=True)
        stored = await store.add(session, job, "bench", now, "user")
        key = await copies.get_or_create_key(session, Home(folder))
        for name, rate in {"wide": MAX_RATE, "narrow": DEFAULT_RATE}.items():
            hook = STORE.validate({"job": stored.id, "secret": secret, "rate": rate})
            await copies.put(session, (STORE.slug, name), "t", block_data(hook), key=key, now=now)


async def _count(folder: Path) -> int:
    from sqlalchemy import func
    from sqlmodel import select

    from daybook.ledger.engine import Ledger
    from daybook.ledger.tables import RunRow

    async with Ledger(_ledger_url(folder)) as ledger, ledger.read() as session:
        return int((await session.execute(select(func.count()).select_from(RunRow))).scalar_one())


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[int, int]]:
    """Run the web server; yield its port and its pid."""
    from daybook.operations import web

    with web.listen("127.0.0.1", 0) as listener:
        command = ["-P", "-m", "daybook.web", "--host", "127.0.0.1", "--descriptor"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *command, str(listener.fileno())),
            pass_fds=[listener.fileno()],
            env=os.environ | {"DAYBOOK_HOME": str(folder)},
            stderr=asyncio.subprocess.DEVNULL,
        )
        port = listener.getsockname()[1]
    try:
        await _get_health(port)  # the listener is open, so this waits until the server answers
        yield port, process.pid
    finally:
        process.terminate()
        await process.wait()


async def _send(load: Load, port: int, pid: int, make: Signed) -> Load:
    left, start, cpu = iter(range(RATE * SECONDS)), time.monotonic(), usage.cpu(pid)
    watching = asyncio.create_task(_watch_health(load, port))
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(_use_connection(load, port, left, start, make))
    load.seconds, load.cpu = time.monotonic() - start, usage.cpu(pid) - cpu
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    return load


async def _use_connection(
    load: Load, port: int, left: Iterator[int], start: float, make: Signed
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for number in left:
            due = start + number / RATE
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            path, headers, body = make(number)
            lines = [f"POST {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            load.latencies.append(time.monotonic() - due)
            load.statuses[int(head.split(b" ", 2)[1])] += 1
    finally:
        writer.close()


async def _watch_health(load: Load, port: int) -> None:
    while True:
        begin = time.monotonic()
        await _get_health(port)
        load.health.append(time.monotonic() - begin)
        await asyncio.sleep(0.25)


async def _get_health(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health HTTP/1.0\r\nhost: localhost\r\n\r\n")
    await reader.read()
    writer.close()


def table(loads: list[Load]) -> str:
    names = ("requests", "answers", "per second", "median", "p99", "CPU of the server each")
    lines = [header(*names, "`/health`, max", "runs in the ledger")]
    for each in loads:
        statuses = ", ".join(f"{count} × {status}" for status, count in each.statuses.items())
        lines.append(
            row(
                each.label,
                statuses,
                short(len(each.latencies) / each.seconds),
                f"{short(1000 * median(each.latencies))} ms",
                f"{short(1000 * p99(each.latencies))} ms",
                f"{short(each.cpu_ms)} ms",
                f"{short(1000 * max(each.health, default=0))} ms",
                str(each.runs),
            )
        )
    return "\n".join(lines)


def missed(loads: list[Load]) -> list[str]:
    return [
        f"hooks: {each.label}: {short(each.cpu_ms)} ms of CPU, more than {TARGET_MS} ms"
        for each in loads
        if "202" not in each.label and each.cpu_ms > TARGET_MS
    ]
