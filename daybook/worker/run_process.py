"""A process that was begun: what it tells, its end, and ending it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from daybook.processes import proc
from daybook.processes.proc import Process

log = logging.getLogger(__name__)

_LOOK_AGAIN = 0.25
_REPORTED_WITHIN = 5.0
"""Seconds after which the end of one that is seen to be gone is no longer waited for."""
_LONGEST_FACT = 1 << 20
_PIPEFUL = 1 << 20
"""As many bytes as a pipe can hold (Linux, without privileges)."""


class Began:
    """A `base.Running`."""

    def __init__(
        self,
        process: Process,
        output: Path,
        status: int,
        learn: Callable[[list[str]], Awaitable[None]],
    ) -> None:
        self.process, self.output = process, output
        self._status, self._learn = status, learn
        self._reading, self._kept = False, b""
        self._code: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        return self.process.pid

    async def ended(self) -> int | None:
        return await asyncio.shield(self._code)

    async def facts(self) -> AsyncIterator[dict[str, Any]]:
        held = bytearray()
        self._reading = True
        try:
            while chunk := await self._chunk():
                held += chunk
                *lines, rest = held.split(b"\n")
                held = rest if len(rest) <= _LONGEST_FACT else bytearray()
                for line in lines:
                    if (fact := _fact(bytes(line))) is None:
                        continue
                    if "imported" in fact:  # for the parent
                        await self._learn(fact["imported"])
                    else:
                        yield fact
        finally:
            self._reading = False
            if self._code.done():
                self._put_by()

    async def _chunk(self) -> bytes:
        """What was written next; empty at the end. After that the pipe is closed."""
        while self._status >= 0:
            over = self._code.done()
            try:
                chunk = os.read(self._status, 1 << 16)
            except BlockingIOError:
                if not over:
                    await self._readable()
                    continue
                chunk = b""  # ended, and all is read: whoever else holds the pipe says nothing
            if not chunk:
                self.close()
            return chunk
        kept, self._kept = self._kept, b""
        return kept

    async def _readable(self) -> None:
        """Until there is something to read, or the process has ended."""
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._status, ready.set)
        waiting = asyncio.create_task(ready.wait())
        either: set[asyncio.Future[Any]] = {waiting, self._code}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            if self._status >= 0:
                loop.remove_reader(self._status)

    async def end(self, grace: float) -> None:
        known = set(proc.family(self.process))
        asked = [member for member in known if member.group == self.pid]
        for number in (signal.SIGTERM, signal.SIGCONT):
            proc.tell(asked, number)
        until = time.monotonic() + grace
        while not self._code.done() and (left := until - time.monotonic()) > 0:
            await asyncio.wait({self._code}, timeout=min(_LOOK_AGAIN, left))
            known |= set(proc.family(self.process))
        await proc.kill(known)
        # Its parent tells when nothing is left of it; if that is stopped, what is seen counts.
        await asyncio.wait({self._code}, timeout=_REPORTED_WITHIN)
        self.over(None)

    def then(self, call: Callable[[], None]) -> None:
        """Call ``call`` when it has ended."""
        self._code.add_done_callback(lambda _: call())

    def over(self, code: int | None) -> None:
        """It has ended, with ``code``; the first word counts."""
        if not self._code.done():
            self._code.set_result(code)
        if not self._reading:
            self._put_by()

    async def watch(self) -> None:
        """Look for it until it is gone: nobody else will tell of its end."""
        await proc.gone([self.process], float("inf"))
        self.over(None)

    def _put_by(self) -> None:
        """It has ended and nobody reads: keep what it told, and let the pipe go."""
        while self._status >= 0:
            try:
                chunk = os.read(self._status, 1 << 16)
            except BlockingIOError:
                chunk = b""  # as in `_chunk`
            self._kept += chunk
            if not chunk or len(self._kept) >= _PIPEFUL:
                self.close()

    def close(self) -> None:
        """Close the reading end of the status pipe."""
        if self._status >= 0:
            os.close(self._status)
            self._status = -1


def _fact(line: bytes) -> dict[str, Any] | None:
    try:
        fact = json.loads(line)
    except ValueError:
        fact = None
    if isinstance(fact, dict):
        return fact
    log.warning("a process told %.80r", line, extra={"action": "fact_unreadable"})
    return None
