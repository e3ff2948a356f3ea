"""Receiver of the chaos test's callbacks, outside of the killed processes, and its checks.

The receiver draws its behaviour from the seed: it may answer 500, cut the connection or hang. It
refuses each callback at most `MAX_REFUSALS` times, and none after the faults end. The accepted
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
BEHAVIOURS = {"accepts": 77, "answers 500": 12, "cuts the connection": 8, "hangs": 3}
"""How the receiver may treat a callback, with the weight of each behaviour in the draw."""
ACCEPTS = "accepts"
MAX_REFUSALS = 2
"""With more, the sender would wait longer than the chaos test waits for the last outcomes."""
HANG_SECONDS = 20.0
"""Longer than a sender waits."""


@dataclass(frozen=True)
class Callback:
    """One request, and the receiver's behaviour."""

    path: str
    headers: dict[str, str]
    body: bytes
    behaviour: str

    @property
    def id(self) -> str:
        return self.headers.get("webhook-id", "")


@dataclass
class Receiver:
    """A receiver at ``address``, and the callbacks that it got."""

    draw: random.Random
    address: str = ""
    secret: str = field(default_factory=lambda: f"whsec_{_base64(secrets.token_bytes(24))}")
    callbacks: list[Callback] = field(default_factory=list)
    _refuses: bool = True
    _refusals: Counter[str] = field(default_factory=Counter)

    def fields(self, job: str) -> dict[str, Any]:
        """Return the job fields that send each of its events to this receiver."""
        return {
            "events": sorted(set(EVENTS.values())),
            "on_complete": f"{self.address}/completed/{job}",
            "on_fail": f"{self.address}/other/{job}",
        }

    def accept_all(self) -> None:
        """Accept every request from now on."""
        self._refuses = False

    @property
    def accepted(self) -> list[Callback]:
        return [each for each in self.callbacks if each.behaviour == ACCEPTS]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Record and answer one request."""
        with suppress(OSError, asyncio.IncompleteReadError):
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
            split = (line.partition(":") for line in lines if line)
            headers = {name.lower(): value.strip() for name, _, value in split}
            body = await reader.readexactly(int(headers["content-length"]))
            behaviour = self._behaviour(headers.get("webhook-id", ""))
            callback = Callback(first.split()[1], headers, body, behaviour)
            # Record before answering: the sender may be killed during the answer.
            self.callbacks.append(callback)
            await self._answer(callback, writer)
        writer.close()

    def _behaviour(self, message_id: str) -> str:
        (behaviour,) = self.draw.choices(list(BEHAVIOURS), list(BEHAVIOURS.values()))
        if not self._refuses or behaviour == ACCEPTS or self._refusals[message_id] >= MAX_REFUSALS:
            return ACCEPTS
        self._refusals[message_id] += 1
        return behaviour

    async def _answer(self, callback: Callback, writer: asyncio.StreamWriter) -> None:
        match callback.behaviour:
            case "accepts":
                status = "204 No Content"
            case "answers 500":
                status = "500 Internal Server Error\r\nContent-Length: 0"
            case "hangs":
                await asyncio.sleep(HANG_SECONDS)
                return
            case _:
                return
        writer.write(f"HTTP/1.1 {status}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()


@asynccontextmanager
async def serve(draw: random.Random, host: str = "127.0.0.1") -> AsyncIterator[Receiver]:
    """Run a receiver at the address ``host`` until the context ends."""
    receiver, handlers = Receiver(draw), set[asyncio.Task[None]]()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            with suppress(asyncio.CancelledError):
                await receiver.handle(reader, writer)
        finally:
            handlers.discard(task)

    server = await asyncio.start_server(handle, host, 0)
    receiver.address = f"http://{host}:{server.sockets[0].getsockname()[1]}"
    try:
        yield receiver
    finally:
        server.close()
        for task in list(handlers):
            task.cancel()
        if handlers:
            await asyncio.wait(handlers)


def violations(
    receiver: Receiver, runs: Sequence[RunRow], outbox: Sequence[OutboxRow]
) -> list[str]:
    """Return a sentence for each difference between the callbacks and the ledger."""
    by_run = defaultdict[str, list[tuple[Callback, dict[str, Any]]]](list)
    found = list[str]()
    for callback in receiver.callbacks:
        run = json.loads(callback.body)
        by_run[str(run["id"])].append((callback, run))
        found += [
            f"{problem}: {callback.id} of run {run['id']}"
            for problem in _inconsistencies(callback, run, receiver)
        ]
    known = {row.id for row in runs}
    found += [f"a callback without a run in the ledger: {each}" for each in by_run.keys() - known]
    for row in runs:
        problems = _wrong_for_run(row, by_run[row.id])
        found += [f"{problem}: {row.occurrence} {row.status}" for problem in problems]
    return found + _wrong_in_outbox(outbox, receiver)


def _inconsistencies(callback: Callback, run: dict[str, Any], receiver: Receiver) -> list[str]:
    """Return the parts of a callback that contradict each other."""
    event, found = run["event"], list[str]()
    if EVENTS.get(run["status"]) != event:
        found.append(f"{event} is not the event of {run['status']}")
    if callback.path.split("/")[1] != ("completed" if event == "completed" else "other"):
        found.append(f"{event} was sent to {callback.path}")
    headers = (callback.headers.get("x-cronevent"), callback.headers.get("x-cronrun-id"))
    if headers != (event, run["id"]):
        found.append("its headers contradict its body")
    timestamp = callback.headers.get("webhook-timestamp", "")
    signed = f"{callback.id}.{timestamp}.".encode() + callback.body
    key = base64.b64decode(receiver.secret.removeprefix("whsec_"))
    signature = f"v1,{_base64(hmac.digest(key, signed, hashlib.sha256))}"
    if signature not in callback.headers.get("webhook-signature", "").split():
        found.append("it is not signed with the secret")
    return found


def _wrong_for_run(row: RunRow, received: list[tuple[Callback, dict[str, Any]]]) -> list[str]:
    """Return the errors in the callbacks of one run."""
    event, found = EVENTS.get(row.status), list[str]()
    if event is None:
        delivery = "not_requested"
        found += ["a callback about an outcome that is no event"] * bool(received)
    else:
        delivery = "delivered"
        accepted = [
            run
            for callback, run in received
            if callback.behaviour == ACCEPTS and run["status"] == row.status
        ]
        found += ["no callback was accepted"] * (not accepted)
        others = {run["status"] for _, run in received} - {row.status}
        if others and (others != {"unknown"} or {run["corrects"] for run in accepted} != others):
            found.append(f"also callbacks of {sorted(others)}, and not corrected")
    ids = defaultdict[str, set[str]](set)
    for callback, run in received:
        ids[run["status"]].add(callback.id)
    found += [f"{status} was sent with {len(of)} ids" for status, of in ids.items() if len(of) > 1]
    found += [f"its delivery is {row.delivery}"] * (row.delivery != delivery)
    return found


def _wrong_in_outbox(outbox: Sequence[OutboxRow], receiver: Receiver) -> list[str]:
    """Return the differences between the ledger's outbox and the receiver."""
    accepted = {callback.id for callback in receiver.accepted}
    expected = {each.id: each for each in outbox if each.purpose == "callback"}
    found = [
        f"{each.status} after {each.attempts} tries: {each.key} ({each.error})"
        for each in outbox
        # An alert may be delayed for an hour and then withdrawn.
        if each.status != "delivered" and (each.id in expected or each.status == "failed")
    ]
    found += [
        f"delivered in the ledger, but never received: {each.key}"
        for each in expected.values()
        if each.status == "delivered" and each.id not in accepted
    ]
    return found + [
        f"received, but not in the outbox: {each}" for each in accepted - expected.keys()
    ]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
