"""Receiver of the chaos test's callbacks, outside of the killed processes, and its checks.

The receiver draws its behaviour from the seed: it may answer 500, cut the connection or hang. It
refuses each callback at most `REFUSALS` times, and none after the faults end. The accepted
callbacks are compared with the ledger:

- each outcome that is an event has a callback, accepted at least once; skipped runs have none;
- a repeated callback has the same `webhook-id`; a second one may only correct an unknown outcome;
- a callback carries the ledger's outcome, goes to the address of that event, and is signed;
- the outbox marks each of them as delivered, and no callback that never arrived.
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
"""Event for each outcome; other outcomes are not events."""
MOODS = {"takes it": 77, "answers 500": 12, "cuts the connection": 8, "hangs": 3}
"""What the receiver does, with the weight of each in the draw."""
TAKEN = "takes it"
REFUSALS = 2
"""With more, the sender would wait longer than the chaos test waits for the last outcomes."""
HANGS = 20.0
"""Seconds: longer than a sender waits."""


@dataclass(frozen=True)
class Call:
    """One request; ``how`` is what the receiver did with it."""

    path: str
    headers: dict[str, str]
    body: bytes
    how: str

    @property
    def id(self) -> str:
        return self.headers.get("webhook-id", "")


@dataclass
class Callbacks:
    """The calls that the receiver at ``address`` got."""

    draw: random.Random
    address: str = ""
    secret: str = field(default_factory=lambda: f"whsec_{_base64(secrets.token_bytes(24))}")
    calls: list[Call] = field(default_factory=list)
    _moody: bool = True
    _refused: Counter[str] = field(default_factory=Counter)

    def fields(self, job: str) -> dict[str, Any]:
        """Return the job fields that send each of its events to this receiver."""
        return {
            "events": sorted(set(EVENTS.values())),
            "on_complete": f"{self.address}/completed/{job}",
            "on_fail": f"{self.address}/other/{job}",
        }

    def be_well(self) -> None:
        """Accept every request from now on."""
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
            # Record before answering: the sender may be killed during the answer.
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
    """Run a receiver until the context ends."""
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
    """Return a sentence for each difference between the callbacks and the ledger."""
    by_run = defaultdict[str, list[tuple[Call, dict[str, Any]]]](list)
    found = list[str]()
    for call in callbacks.calls:
        told = json.loads(call.body)
        by_run[str(told["id"])].append((call, told))
        found += [f"{why}: {call.id} of run {told['id']}" for why in _not_so(call, told, callbacks)]
    known = {row.id for row in runs}
    found += [f"a callback without a run in the ledger: {each}" for each in by_run.keys() - known]
    for row in runs:
        found += [f"{why}: {row.occurrence} {row.status}" for why in _of(row, by_run[row.id])]
    return found + _outbox(outbox, callbacks)


def _not_so(call: Call, told: dict[str, Any], callbacks: Callbacks) -> list[str]:
    """Return the claims of a callback about itself that are false."""
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
    """Return the errors in the callbacks of one run."""
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
    """Return the differences between the ledger's outbox and the receiver."""
    taken = {call.id for call in callbacks.taken}
    told = {each.id: each for each in outbox if each.purpose == "callback"}
    found = [
        f"{each.status} after {each.attempts} tries: {each.key} ({each.error})"
        for each in outbox
        # An alert may be delayed for an hour and then withdrawn.
        if each.status != "delivered" and (each.id in told or each.status == "failed")
    ]
    found += [
        f"delivered in the ledger, but never received: {each.key}"
        for each in told.values()
        if each.status == "delivered" and each.id not in taken
    ]
    return found + [f"came, and is not in the outbox: {each}" for each in taken - told.keys()]


def _base64(of: bytes) -> str:
    return base64.b64encode(of).decode()
