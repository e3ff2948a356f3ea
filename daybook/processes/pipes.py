"""The three pipes of a program: each uses bounded memory, and no pipe can block another."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterable
from typing import cast


class Pipe(asyncio.Protocol):
    """Pipe to or from a program. ``gone`` is set once either side has closed the pipe."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()


class HeadPipe(Pipe):
    """Output pipe that keeps the first ``limit`` bytes; ``dropped`` counts the other bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.kept = bytearray()
        self.dropped = 0
        self._limit = limit

    def data_received(self, data: bytes) -> None:
        room = self._limit - len(self.kept)
        self.kept += data[:room]
        self.dropped += max(0, len(data) - room)


class EndsPipe(Pipe):
    """Output pipe that keeps the first and the last half of ``limit`` bytes.

    ``dropped`` counts the bytes between them, and ``kept`` has their number in place of them.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.dropped = 0
        self._head, self._tail = bytearray(), bytearray()
        self._half = limit // 2

    @property
    def kept(self) -> bytes:
        note = f"\n[… {self.dropped:,} bytes left out …]\n".encode() if self.dropped else b""
        return bytes(self._head) + note + bytes(self._tail)

    def data_received(self, data: bytes) -> None:
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        excess = max(len(self._tail) - self._half, 0)
        self.dropped += excess
        del self._tail[:excess]


class LinePipe(Pipe):
    """Output pipe that calls ``read`` with each line, even with an incomplete last line.

    An empty line is skipped. A line of more than ``limit`` bytes is dropped; ``dropped`` counts the
    bytes of such lines.
    Between `pause` and `resume`, new data waits in the pipe. After `finish`, `pause` does nothing.
    """

    def __init__(self, read: Callable[[bytes], None], limit: int) -> None:
        super().__init__()
        self.kept = bytearray()
        self.dropped = 0
        self._read, self._limit = read, limit
        self._is_dropping = self._is_paused = self._is_finishing = False

    def data_received(self, data: bytes) -> None:
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._extend(end)
            self._end_line()
        self._extend(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_line()
        super().connection_lost(exc)

    def _extend(self, data: bytes) -> None:
        if self._is_dropping or len(self.kept) + len(data) > self._limit:
            self.dropped += len(self.kept) + len(data)
            self.kept.clear()
            self._is_dropping = True
        else:
            self.kept += data

    def _end_line(self) -> None:
        line, was_dropped = bytes(self.kept), self._is_dropping
        self.kept.clear()
        self._is_dropping = False
        if line and not was_dropped:
            self._read(line)

    def pause(self) -> None:
        """Stop reading, so that the program has to wait once the pipe is full."""
        if not self._is_paused and not self._is_finishing:
            self._is_paused = True
            cast(asyncio.ReadTransport, self.transport).pause_reading()

    def resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            cast(asyncio.ReadTransport, self.transport).resume_reading()

    def finish(self) -> None:
        """Read the rest without a pause; the program has ended, so at most a full pipe is left."""
        self._is_finishing = True
        self.resume()


class TailPipe(Pipe):
    """Output pipe that keeps the last ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.kept = bytearray()
        self._limit = limit

    def data_received(self, data: bytes) -> None:
        self.kept += data
        del self.kept[: -self._limit]


class InputPipe(Pipe):
    """Pipe to standard input. A program may close it early or never read it."""


async def attach(
    child: subprocess.Popen[bytes], output: asyncio.Protocol, errors: Pipe, feed: InputPipe
) -> tuple[asyncio.ReadTransport, asyncio.WriteTransport | None]:
    """Connect the child's pipes to the running loop; return the transports of output and input.

    The input's transport is None for a child without an input pipe. After the call, the transports
    own the pipes. On an error or a cancellation, close the pipes that are not connected yet, and
    the output's transport, which the caller did not get.
    """
    loop = asyncio.get_running_loop()
    files = [each for each in (child.stdout, child.stderr, child.stdin) if each is not None]
    reading: asyncio.ReadTransport | None = None
    writing: asyncio.WriteTransport | None = None
    try:
        reading, _ = await loop.connect_read_pipe(lambda: output, files.pop(0))
        await loop.connect_read_pipe(lambda: errors, files.pop(0))
        if files:
            writing, _ = await loop.connect_write_pipe(lambda: feed, files.pop(0))
    except BaseException:
        if reading is not None:
            reading.close()
        for each in files:
            each.close()
        raise
    return reading, writing


async def connect(
    child: subprocess.Popen[bytes], output: Pipe, errors: Pipe, feed: InputPipe, data: bytes
) -> None:
    """Connect the pipes as `attach` does, and start to write ``data`` to the input.

    The loop writes as fast as the child reads, and then closes the input.
    """
    _, writer = await attach(child, output, errors, feed)
    if writer is not None:
        # Not in `connection_made`: a transport that is closed there leaves its file descriptor
        # registered in the loop.
        writer.write(data)
        writer.write_eof()


async def wait_drained(pipes: Iterable[Pipe], seconds: float) -> None:
    """Wait until all pipes have been read to their end, or ``seconds`` have passed."""
    try:
        async with asyncio.timeout(seconds):
            for pipe in pipes:
                await pipe.gone.wait()
    except TimeoutError:
        pass  # a process outside the group keeps the other end open


async def close(pipes: Iterable[Pipe]) -> None:
    """Close the pipes that are still open; data that the program has not read is dropped."""
    for pipe in pipes:
        if pipe.transport is None:
            continue
        if isinstance(pipe, InputPipe):
            # `close` would wait until the program has read all data. With no data left, the
            # transport is closing already, and a second close would be an error in the loop.
            writer = cast(asyncio.WriteTransport, pipe.transport)
            if writer.get_write_buffer_size():
                writer.abort()
        else:
            pipe.transport.close()
        await pipe.gone.wait()
