"""Process of a run: its reports, its end, and how to end it."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from daybook.json_text import JsonObject
from daybook.processes import proc
from daybook.processes.proc import Process

log = logging.getLogger(__name__)

_CHECK_SECONDS = 0.25
_REPORT_TIMEOUT_SECONDS = 5.0
"""Timeout for the parent's report about a killed process."""
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_MAX_FACT_BYTES = 1 << 20
_PIPE_BYTES = 1 << 20
"""Maximum capacity of a pipe (Linux, without privileges)."""


class RunProcess:
    """Started process, which leads its own session and process group.

    ``output`` is the file of its stdout and stderr, with mode 0600; the caller deletes the file.
    ``status`` is the read end of its status pipe. ``learn`` gets the names of modules that the
    process has imported.
    """

    def __init__(
        self,
        process: Process,
        output: Path,
        status: int,
        learn: Callable[[list[str]], Awaitable[None]],
    ) -> None:
        self.process, self.output = process, output
        self._status, self._learn = status, learn
        self._reading, self._unread = False, b""
        self._code: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        return self.process.pid

    async def ended(self) -> int | None:
        """Wait until the process has ended; return the exit code, or -N for signal N.

        The parent, or without one `watch`, first kills the descendants left behind. The code is
        None if it is unknown, because the parent was killed or stopped.
        """
        return await asyncio.shield(self._code)

    async def facts(self) -> AsyncIterator[JsonObject]:
        """Yield the JSON objects that the process writes to its status pipe, to a single reader.

        The pipe has one object per line. Stop when the process has ended and all its lines were
        read, or when every process that holds the pipe has closed it. Log and skip a line that is
        not a JSON object. Pass reports of imported modules to the parent, not to the reader.
        """
        buffer = bytearray()
        self._reading = True
        try:
            while chunk := await self._read_chunk():
                buffer += chunk
                *lines, rest = buffer.split(b"\n")
                buffer = rest if len(rest) <= _MAX_FACT_BYTES else bytearray()
                for line in lines:
                    if (fact := _parse_fact(bytes(line))) is None:
                        continue
                    if "imported" in fact:  # for the parent, not for the reader
                        await self._learn(fact["imported"])
                    else:
                        yield fact
        finally:
            self._reading = False
            if self._code.done():
                self._store_unread()

    async def _read_chunk(self) -> bytes:
        """Return the next bytes of the pipe, or the bytes that `_store_unread` has stored.

        At the end of the pipe, close the pipe and return no bytes.
        """
        while self._status >= 0:
            ended = self._code.done()
            try:
                chunk = os.read(self._status, 1 << 16)
            except BlockingIOError:
                if not ended:
                    await self._wait_readable()
                    continue
                chunk = b""  # the process has ended, and other holders of the pipe report nothing
            if not chunk:
                self.close()
            return chunk
        unread, self._unread = self._unread, b""
        return unread

    async def _wait_readable(self) -> None:
        """Wait until there is something to read, or the process has ended."""
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
        """End the process and its descendants, in any group, as far as they can be killed.

        Send SIGTERM to the group and, after ``grace`` seconds or when the process has ended,
        SIGKILL to the rest. If it has already ended, send nothing: the parent, if alive, ends the
        descendants.
        """
        known, deadline = set[Process](), time.monotonic() + grace
        await _retry_lookups(lambda: self._end(known, deadline))

    async def _end(self, known: set[Process], deadline: float) -> None:
        known.update(proc.process_tree(self.process))
        group = [member for member in known if member.group == self.pid]
        for number in (signal.SIGTERM, signal.SIGCONT):
            proc.send_signal(group, number)
        while not self._code.done() and (remaining := deadline - time.monotonic()) > 0:
            await asyncio.wait({self._code}, timeout=min(_CHECK_SECONDS, remaining))
            known.update(proc.process_tree(self.process))
        await proc.kill(known)
        # The parent reports when none of these processes is left. If the parent is stopped, do not
        # wait for that report any longer.
        await asyncio.wait({self._code}, timeout=_REPORT_TIMEOUT_SECONDS)
        self.mark_ended(None)

    def on_end(self, call: Callable[[], None]) -> None:
        """Call ``call`` when the process has ended."""
        self._code.add_done_callback(lambda _: call())

    def mark_ended(self, code: int | None) -> None:
        """Record that the process has ended, with ``code``. Only the first call counts."""
        if not self._code.done():
            self._code.set_result(code)
        if not self._reading:
            self._store_unread()

    async def watch(self) -> None:
        """Poll until the process has ended, because its parent can no longer report the end.

        Kill its descendants before it counts as ended (promise 8: no attempt overlaps an earlier
        one).
        """
        known = set[Process]()
        await _retry_lookups(lambda: self._watch(known))

    async def _watch(self, known: set[Process]) -> None:
        while members := proc.process_tree(self.process):
            known.update(members)
            await proc.wait_gone([self.process], _CHECK_SECONDS)
        await proc.kill(known)
        self.mark_ended(None)

    def _store_unread(self) -> None:
        """Keep the unread reports of an ended process for a later reader, and close the pipe."""
        while self._status >= 0:
            try:
                chunk = os.read(self._status, 1 << 16)
            except BlockingIOError:
                chunk = b""  # as in `_read_chunk`
            self._unread += chunk
            if not chunk or len(self._unread) >= _PIPE_BYTES:
                self.close()

    def close(self) -> None:
        """Close the read end of the status pipe."""
        if self._status >= 0:
            os.close(self._status)
            self._status = -1


async def _retry_lookups(work: Callable[[], Awaitable[None]]) -> None:
    """Await ``work``; if the system has no file descriptor or no memory for it, try again.

    A process that cannot be looked up is not one that has ended.
    """
    while True:
        try:
            return await work()
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            log.warning("cannot look up processes: %s", error, extra={"action": "no_lookup"})
        await asyncio.sleep(_CHECK_SECONDS)


def _parse_fact(line: bytes) -> JsonObject | None:
    try:
        fact = json.loads(line)
    except ValueError:
        fact = None
    if isinstance(fact, dict):
        return fact
    log.warning(
        "cannot read the report of a process: %.80r", line, extra={"action": "fact_unreadable"}
    )
    return None
