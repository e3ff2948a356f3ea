"""Liveness of the children of `up`: detection of a child that is running but does not answer.

::

    server, web       a response to an HTTP request, with any status
    worker            a byte that its event loop writes to a pipe every few seconds
    command server    it closes a connection on which nothing was requested

A child is silent while it does not answer these probes, for example because it is stopped or in a
deadlock. Only the time in which this process was awake counts. If a probe and the pause after it
take much longer than planned, this process was suspended or got hardly any processor time. The same
may have happened to the child, so the count starts again. This module uses only the monotonic
clock, so a jump of the system clock has no effect.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from daybook.processes.children import Child
from daybook.timing import TIMING

MAX_DELAY_SECONDS = 5.0
"""Maximum delay of a probe and its pause if this process is awake."""

Probe = Callable[[Child], Awaitable[bool]]
"""Function that returns whether the child answers. It may raise OSError if it does not."""


class Silence:
    """Silence of one process. A probe that takes longer than ``max_seconds`` resets it."""

    def __init__(self, max_seconds: float) -> None:
        self._max_seconds = max_seconds
        self.seconds = 0.0

    def add(self, *, answered: bool, seconds: float) -> float:
        """Add a probe that took ``seconds`` with its pause. Return the silence in seconds."""
        if answered or seconds > self._max_seconds:
            self.seconds = 0.0
        else:
            self.seconds += seconds
        return self.seconds


async def wait_until_silent(child: Child, probe: Probe) -> float:
    """Wait until ``child`` has been silent for too long. Return the seconds of its silence.

    The limit is `Timing.max_silence`; until the child first answers, it is `Timing.max_start`.
    """
    interval = TIMING.probe_interval.total_seconds()
    silence, max_seconds = Silence(2 * interval + MAX_DELAY_SECONDS), TIMING.max_start
    while True:
        began = time.monotonic()
        if answered := await _answers(child, probe):
            max_seconds = TIMING.max_silence
        await asyncio.sleep(interval)
        seconds = silence.add(answered=answered, seconds=time.monotonic() - began)
        if seconds >= max_seconds.total_seconds():
            return seconds


async def _answers(child: Child, probe: Probe) -> bool:
    try:
        async with asyncio.timeout(TIMING.probe_interval.total_seconds()):
            return await probe(child)
    except OSError:  # a timeout is also an OSError
        return False


def http_probe(host: str, port: int, path: str) -> Probe:
    """Return a probe that requests ``path``. Any response counts as an answer."""

    async def probe(child: Child) -> bool:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode())
            return bool(await reader.read(1))
        finally:
            writer.close()

    return probe


async def has_pulse(child: Child) -> bool:
    """Return whether the child, if it has a pipe, has written to it since the last call."""
    return child.pulse is None or child.pulse.beats()


def socket_probe(path: Path) -> Probe:
    """Return a probe that connects to the Unix socket ``path`` (Linux) and sends nothing.

    The child answers by closing the connection. A child that does not listen also passes the probe:
    it is starting, or it cannot listen because the file system has no sockets.
    """

    async def probe(child: Child) -> bool:
        # The address of a Unix socket has at most about 100 characters, but the path may have more.
        folder = os.open(path.parent, os.O_PATH)
        try:
            name = f"/proc/self/fd/{folder}/{path.name}"
            reader, writer = await asyncio.open_unix_connection(name)
        except (FileNotFoundError, ConnectionRefusedError):
            return True
        finally:
            os.close(folder)
        try:
            writer.write_eof()
            return not await reader.read()
        finally:
            writer.close()

    return probe
