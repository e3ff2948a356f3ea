"""The worker's side of the process that begins and watches its children (`daybook.worker.parent`).

Both adapters of `base.Launcher` are this; they differ in whether that process preloads and forks.

That process dies before the worker only by violence. Its children then go on under the eyes of the
worker, which looks for them by pid and start; their exit codes are lost. A new one is begun for the
next task. A task that was sent and not answered was not begun: `entry.become` sees to that.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from daybook.host import processes
from daybook.host.processes import Process
from daybook.worker import parent
from daybook.worker.messages import Frames, Task, frame

log = logging.getLogger(__name__)

PROGRAM = "daybook.worker.child"
TICK = 5.0
"""Seconds between two words to the parent, so that it knows that this worker lives."""
READY_WITHIN = 90.0
ANSWERED_WITHIN = 30.0
CLOSED_WITHIN = 5.0
LAST_GRACE = 10.0
"""Seconds from SIGTERM to SIGKILL for what still runs when the launcher is left."""
_LOOK_AGAIN = 0.25
_REPORTED_WITHIN = 5.0
"""Seconds after which the end of one that is seen to be gone is no longer waited for."""
_LONGEST_FACT = 1 << 20


class Lost(OSError):
    """The parent process ended; what it did not confirm it did not do."""


class Began:
    """A `base.Running`."""

    def __init__(self, process: Process, output: Path, status: int) -> None:
        self.process, self.output = process, output
        self._status = status
        self._code: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        return self.process.pid

    async def ended(self) -> int | None:
        return await asyncio.shield(self._code)

    async def facts(self) -> AsyncIterator[dict[str, Any]]:
        held = bytearray()
        while chunk := await self._chunk():
            held += chunk
            *lines, rest = held.split(b"\n")
            held = rest if len(rest) <= _LONGEST_FACT else bytearray()
            for line in lines:
                if fact := _fact(bytes(line)):
                    yield fact

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
        return b""

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
        known = set(processes.family(self.process))
        asked = [member for member in known if member.group == self.pid]
        for number in (signal.SIGTERM, signal.SIGCONT):
            processes.tell(asked, number)
        until = time.monotonic() + grace
        while not self._code.done() and (left := until - time.monotonic()) > 0:
            await asyncio.wait({self._code}, timeout=min(_LOOK_AGAIN, left))
            known |= set(processes.family(self.process))
        await processes.kill(known)
        # Its parent tells when nothing is left of it; if that is stopped, what is seen counts.
        await asyncio.wait({self._code}, timeout=_REPORTED_WITHIN)
        self.over(None)

    def over(self, code: int | None) -> None:
        """It has ended, with ``code``; the first word counts."""
        if not self._code.done():
            self._code.set_result(code)

    async def watch(self) -> None:
        """Look for it until it is gone: nobody else will tell of its end."""
        await processes.gone([self.process], float("inf"))
        self.over(None)

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


@dataclass
class _Asked:
    """A task that was sent; ``status`` is the reading end of its pipe."""

    output: Path
    status: int
    answer: asyncio.Future[Began]


class _Line:
    """One parent process and the socket to it. `open_line` makes one."""

    def __init__(self, child: asyncio.subprocess.Process, here: socket.socket, printed: Path):
        self.child, self._socket, self._printed = child, here, printed
        self._frames, self._sending = Frames(), asyncio.Lock()
        self._asked: dict[int, _Asked] = {}
        self._began: dict[int, Began] = {}
        self._numbers = count(1)
        self.ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.gone = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.reading = asyncio.create_task(self._read())

    async def begin(self, task: Task, output: Path) -> Began:
        """Have a child begun. Raises `Lost`, or OSError when there can be no more processes."""
        reading, status = os.pipe()
        os.set_blocking(reading, False)
        asked = _Asked(output, reading, asyncio.get_running_loop().create_future())
        number = next(self._numbers)
        self._asked[number] = asked
        try:
            with output.open("ab") as printed:
                message = {"number": number, "task": task.as_json()}
                await self._send(message, (printed.fileno(), status))
        except OSError as error:
            self._refuse(number, Lost(str(error)))
        finally:
            os.close(status)
        await asyncio.wait({asked.answer}, timeout=ANSWERED_WITHIN)
        if not asked.answer.done():
            # Stopped, or stuck. Once it is dead it lets nobody go.
            log.error("process %d does not answer", self.child.pid, extra={"action": "parent_hung"})
            self.kill()
        return await asked.answer

    async def tick(self, every: float) -> None:
        """Say every ``every`` seconds that this worker lives."""
        while not self.gone:
            with suppress(OSError):
                await self._send({"tick": True})
            await asyncio.sleep(every)

    async def close(self) -> None:
        """Let it end; what it watches must have ended."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        try:
            async with asyncio.timeout(CLOSED_WITHIN):
                await self.child.wait()
        except TimeoutError:
            self.kill()
            await self.child.wait()
        await self.reading
        with suppress(OSError):
            os.unlink(self._printed)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.child.kill()

    def printed(self) -> str:
        """The last lines that it printed, for an error message."""
        with suppress(OSError):
            return "\n".join(self._printed.read_text(errors="replace").splitlines()[-20:])
        return ""

    async def _send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        loop, data = asyncio.get_running_loop(), memoryview(frame(message))
        async with self._sending:  # and never cancelled halfway: the rest would be garbage
            while descriptors:
                try:
                    data = data[socket.send_fds(self._socket, [data], descriptors) :]
                    break
                except BlockingIOError:
                    await self._writable()
            await loop.sock_sendall(self._socket, data)

    async def _writable(self) -> None:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_writer(self._socket, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self._socket)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while data := await loop.sock_recv(self._socket, 1 << 16):
                for message in self._frames.feed(data):
                    self._heard(message)
        self.gone = True
        self._socket.close()
        code = await self.child.wait()
        lost = Lost(f"the process that begins runs ended with {code}")
        if not self.ready.done():
            self.ready.set_exception(lost)
        for number in list(self._asked):
            self._refuse(number, lost)
        for began in self._began.values():
            log.warning("process %d goes on alone", began.pid, extra={"action": "child_orphaned"})
            watching = asyncio.create_task(began.watch())
            self._tasks.add(watching)
            watching.add_done_callback(self._tasks.discard)
        self._began.clear()

    def _heard(self, message: dict[str, Any]) -> None:
        if "pid" in message:
            asked = self._asked.pop(message["number"])
            process = Process(message["pid"], message["start"])
            began = self._began[process.pid] = Began(process, asked.output, asked.status)
            asked.answer.set_result(began)
        elif "exited" in message:
            self._began.pop(message["exited"]).over(message["code"])
        elif "refused" in message:
            self._refuse(message["number"], OSError(message["refused"]))
        elif "ready" in message:
            self.ready.set_result(message["ready"])
        elif "silent" in message:
            log.error(
                "this worker was silent for %s s; its %d runs were ended",
                message["silent"],
                len(message["ending"]),
                extra={"action": "worker_was_silent"},
            )

    def _refuse(self, number: int, error: OSError) -> None:
        if asked := self._asked.pop(number, None):
            os.close(asked.status)
            asked.answer.set_exception(error)


async def open_line(config: parent.Config, folder: Path, environment: Mapping[str, str]) -> _Line:
    """Start a parent process and wait until it is ready. Raises OSError when it does not."""
    here, there = socket.socketpair()
    descriptor, name = tempfile.mkstemp(prefix="parent-", suffix=".log", dir=folder)
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "daybook.worker.parent", str(there.fileno()), config.as_arguments()),
            stdin=asyncio.subprocess.DEVNULL,
            # No terminal: what is imported there must not paint what the children print.
            stdout=descriptor,
            stderr=descriptor,
            env=dict(environment),
            cwd=folder,
            pass_fds=[there.fileno()],
            start_new_session=True,  # Ctrl-C in a terminal is for the worker alone
        )
    except BaseException:
        here.close()
        raise
    finally:
        there.close()
        os.close(descriptor)
    here.setblocking(False)
    line = _Line(child, here, Path(name))
    try:
        async with asyncio.timeout(READY_WITHIN):
            await asyncio.shield(line.ready)
    except BaseException as error:
        line.kill()
        await line.reading
        with suppress(OSError):
            line.ready.result()
        if isinstance(error, OSError):  # also a timeout
            why = str(error) or "it did not get ready"
            raise Lost(f"{why}\n{line.printed()}".rstrip()) from error
        raise
    return line


class Nursery:
    """A `base.Launcher`.

    ``folder`` is for the output files (made if missing). ``environment`` is that of the parent
    process, and of tasks that bring none; by default this process's own. ``program`` is the module
    that says what a child does (`entry.Program`). The other arguments are seconds.
    """

    preload: ClassVar[bool]

    def __init__(
        self,
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        program: str = PROGRAM,
        tick: float = TICK,
        silence: float = 60.0,
        grace: float = LAST_GRACE,
    ) -> None:
        self._folder = folder
        self._environment = {**(os.environ if environment is None else environment)}
        self._config = parent.Config(program, self.preload, silence, grace)
        self._tick = tick
        self._line: _Line | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._running: set[Began] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def threads(self) -> int:
        """How many threads the parent process had when it was ready."""
        return self._line.ready.result() if self._line is not None else 0

    @property
    def pid(self) -> int | None:
        """The parent process's, as long as it is known to live."""
        return None if self._line is None or self._line.gone else self._line.child.pid

    async def __aenter__(self) -> Self:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        async with self._opening:
            await asyncio.gather(*(each.end(self._config.grace) for each in list(self._running)))
            await self._close()

    async def start(self, task: Task) -> Began:
        beginning = asyncio.create_task(self._begin(task))
        self._keep(beginning)
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(self._unwanted)
            raise

    async def _begin(self, task: Task) -> Began:
        about = str(task.flow_run.get("id", task.mode))
        descriptor, name = tempfile.mkstemp(prefix=f"{about}-", suffix=".log", dir=self._folder)
        os.close(descriptor)
        try:
            try:
                began = await (await self._open()).begin(task, Path(name))
            except Lost:
                began = await (await self._open()).begin(task, Path(name))
        except BaseException:
            os.unlink(name)
            raise
        self._running.add(began)
        self._keep(asyncio.create_task(self._forget(began)))
        return began

    async def _forget(self, began: Began) -> None:
        await began.ended()
        self._running.discard(began)

    def _unwanted(self, beginning: asyncio.Task[Began]) -> None:
        """Who asked for it is not there any more."""
        if not beginning.cancelled() and beginning.exception() is None:
            self._keep(asyncio.create_task(beginning.result().end(0.0)))

    async def _open(self) -> _Line:
        async with self._opening:
            if self._line is not None and self._line.gone:
                log.warning(
                    "the process that begins runs is gone; a new one is started\n%s",
                    self._line.printed(),
                    extra={"action": "parent_again"},
                )
                await self._close()
            if self._line is None:
                self._line = await open_line(self._config, self._folder, self._environment)
                self._ticking = asyncio.create_task(self._line.tick(self._tick))
            return self._line

    async def _close(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait({self._ticking})
        if self._line is not None:
            await self._line.close()
        self._line = self._ticking = None

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
