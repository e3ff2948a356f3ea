"""Where the storm's callbacks arrive, outside of what may die, and whether each that was due did.

The receiver has moods: by the seed it answers 500, cuts the connection or hangs, each callback at
most `REFUSALS` times, and no more when the storm is over. What it took is held against the book:

- each outcome that is an event has its callback, taken at least once; what was skipped has none;
- one that came again had the same `webhook-id`, and another only corrects what was unknown;
- it says the outcome that the book has, to the address of that event, and is signed;
- the outbox has each of them as delivered, and says so of none that never came.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import random
import secrets
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from daybook.ledger.tables import OutboxRow, RunRow

EVENTS = {
    "succeeded": "completed",
    "failed": "failed",
    "timed_out": "failed",
    "unknown": "failed",
    "cancelled": "cancelled",
    "missed": "missed",
}
"""The event that an outcome is; what is not here is none."""
MOODS = {"takes it": 77, "answers 500": 12, "cuts the connection": 8, "hangs": 3}
"""What the receiver does, and how often it is drawn against the others."""
TAKEN = "takes it"
REFUSALS = 2
"""More would make the sender wait longer than a storm gets to settle."""
HANGS = 20.0
"""Seconds: longer than a sender waits."""


@dataclass(frozen=True)
class Call:
    """One request. ``how`` is what the receiver did."""

    path: str
    headers: dict[str, str]
    body: bytes
    how: str

    @property
    def id(self) -> str:
        return self.headers.get("webhook-id", "")


@dataclass
class Callbacks:
    """What came to the receiver at ``address``."""

    draw: random.Random
    address: str = ""
    secret: str = field(default_factory=lambda: f"whsec_{_base64(secrets.token_bytes(24))}")
    calls: list[Call] = field(default_factory=list)
    _moody: bool = True
    _refused: Counter[str] = field(default_factory=Counter)

    def fields(self, job: str) -> dict[str, Any]:
        """What a job says that has each of its events told here."""
        return {
            "events": sorted(set(EVENTS.values())),
            "on_complete": f"{self.address}/completed/{job}",
            "on_fail": f"{self.address}/other/{job}",
        }

    def be_well(self) -> None:
        """Take all that comes from now on."""
        self._moody = False

    @property
    def taken(self) -> list[Call]:
        return [each for each in self.calls if each.how == TAKEN]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
            split = (line.partition(":") for line in lines if line)
            headers = {name.lower(): value.strip() for name, _, value in split}
            body = await reader.readexactly(int(headers["content-length"]))
            call = Call(first.split()[1], headers, body, self._mood(headers.get("webhook-id", "")))
            # Before the answer: who sent it may be killed while it comes.
            self.calls.append(call)
            await self._answer(call, writer)
        writer.close()

    def _mood(self, message: str) -> str:
        (how,) = self.draw.choices(list(MOODS), list(MOODS.values()))
        if not self._moody or how == TAKEN or self._refused[message] >= REFUSALS:
            return TAKEN
        self._refused[message] += 1
        return how

    async def _answer(self, call: Call, writer: asyncio.StreamWriter) -> None:
        match call.how:
            case "takes it":
                status = "204 No Content"
            case "answers 500":
                status = "500 Internal Server Error\r\nContent-Length: 0"
            case "hangs":
                await asyncio.sleep(HANGS)
                return
            case _:
                return
        writer.write(f"HTTP/1.1 {status}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()


@asynccontextmanager
async def had(draw: random.Random) -> AsyncIterator[Callbacks]:
    """A receiver, until the end."""
    callbacks, serving = Callbacks(draw), set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            with suppress(asyncio.CancelledError):
                await callbacks._serve(reader, writer)
        finally:
            serving.discard(task)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    callbacks.address = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield callbacks
    finally:
        listening.close()
        for task in list(serving):
            task.cancel()
        if serving:
            await asyncio.wait(serving)


def wrong(callbacks: Callbacks, runs: Sequence[RunRow], outbox: Sequence[OutboxRow]) -> list[str]:
    """What is not as it is to be, in words."""
    by_run = defaultdict[str, list[tuple[Call, dict[str, Any]]]](list)
    found = list[str]()
    for call in callbacks.calls:
        told = json.loads(call.body)
        by_run[str(told["id"])].append((call, told))
        found += [f"{why}: {call.id} of run {told['id']}" for why in _not_so(call, told, callbacks)]
    known = {row.id for row in runs}
    found += [f"a callback of nothing in the book: {each}" for each in by_run.keys() - known]
    for row in runs:
        found += [f"{why}: {row.occurrence} {row.status}" for why in _of(row, by_run[row.id])]
    return found + _outbox(outbox, callbacks)


def _not_so(call: Call, told: dict[str, Any], callbacks: Callbacks) -> list[str]:
    """What a callback says of itself that is not so."""
    event, found = told["event"], list[str]()
    if EVENTS.get(told["status"]) != event:
        found.append(f"{event} is no event of {told['status']}")
    if call.path.split("/")[1] != ("completed" if event == "completed" else "other"):
        found.append(f"{event} was told to {call.path}")
    if (call.headers.get("x-cronevent"), call.headers.get("x-cronrun-id")) != (event, told["id"]):
        found.append("its headers say something else than its body")
    signed = f"{call.id}.{call.headers.get('webhook-timestamp', '')}.".encode() + call.body
    key = base64.b64decode(callbacks.secret.removeprefix("whsec_"))
    signature = f"v1,{_base64(hmac.digest(key, signed, hashlib.sha256))}"
    if signature not in call.headers.get("webhook-signature", "").split():
        found.append("it is not signed by the secret")
    return found


def _of(row: RunRow, had: list[tuple[Call, dict[str, Any]]]) -> list[str]:
    """What is not so of the callbacks of one run."""
    event, found = EVENTS.get(row.status), list[str]()
    if event is None:
        asked = "not_requested"
        found += ["a callback of what is no event"] * bool(had)
    else:
        asked = "delivered"
        taken = [told for call, told in had if call.how == TAKEN and told["status"] == row.status]
        found += ["no callback was taken"] * (not taken)
        before = {told["status"] for _, told in had} - {row.status}
        if before and (before != {"unknown"} or {told["corrects"] for told in taken} != before):
            found.append(f"callbacks of {sorted(before)} as well, and not corrected")
    ids = defaultdict[str, set[str]](set)
    for call, told in had:
        ids[told["status"]].add(call.id)
    found += [f"{status} was told by {len(of)} ids" for status, of in ids.items() if len(of) > 1]
    found += [f"its delivery is {row.delivery}"] * (row.delivery != asked)
    return found


def _outbox(outbox: Sequence[OutboxRow], callbacks: Callbacks) -> list[str]:
    """Where the book's outbox and the receiver do not agree."""
    taken = {call.id for call in callbacks.taken}
    told = {each.id: each for each in outbox if each.purpose == "callback"}
    found = [
        f"{each.status} after {each.attempts} tries: {each.key} ({each.error})"
        for each in outbox
        # An alert may be held back for an hour, and be withdrawn.
        if each.status != "delivered" and (each.id in told or each.status == "failed")
    ]
    found += [
        f"delivered by the book, and never came: {each.key}"
        for each in told.values()
        if each.status == "delivered" and each.id not in taken
    ]
    return found + [f"came, and is not in the outbox: {each}" for each in taken - told.keys()]


def _base64(of: bytes) -> str:
    return base64.b64encode(of).decode()
