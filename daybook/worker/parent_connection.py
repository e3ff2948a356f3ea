"""One process that begins and watches children (`daybook.worker.parent`), and the socket to it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from daybook.processes.environment import split_secrets
from daybook.processes.proc import Process
from daybook.worker import parent
from daybook.worker.child_setup import write_nameless
from daybook.worker.messages import Frames, Task, frame
from daybook.worker.run_process import Began

log = logging.getLogger(__name__)

READY_WITHIN = 90.0
ANSWERED_WITHIN = 30.0
CLOSED_WITHIN = 5.0
"""Seconds for the process to have imported everything, to begin a child, and to end."""


class Lost(OSError):
    """The parent process ended; what it did not confirm it did not do."""


@dataclass
class _Asked:
    """A task that was sent; ``status`` is the reading end of its pipe."""

    output: Path
    status: int
    answer: asyncio.Future[Began]


class Line:
    """One parent process and the socket to it. `open_line` makes one."""

    def __init__(self, child: asyncio.subprocess.Process, here: socket.socket, printed: Path):
        self.child, self._socket, self._printed = child, here, printed
        self._frames, self._sending = Frames(), asyncio.Lock()
        self._asked: dict[int, _Asked] = {}
        self._began: dict[int, Began] = {}
        self._numbers, self._learned = count(1), set[str]()
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
        # From here on, for a full socket takes nothing from one that is stopped.
        hung = asyncio.get_running_loop().call_later(ANSWERED_WITHIN, self._hung)
        try:
            try:
                with output.open("ab") as printed:
                    message = {"number": number, "task": task.as_json()}
                    await self._send(message, (printed.fileno(), status))
            finally:
                os.close(status)
            await asyncio.wait({asked.answer})
        except OSError as error:
            if isinstance(error, ConnectionError) or self._socket.fileno() < 0:
                await asyncio.wait({self.reading})  # who tries again has to find it gone
            self._refuse(number, Lost(str(error)))
        finally:
            hung.cancel()
        return await asked.answer

    def _hung(self) -> None:
        """It is stopped, or stuck. Once it is dead it lets nobody go."""
        log.error("process %d does not answer", self.child.pid, extra={"action": "parent_hung"})
        self.kill()

    async def tick(self, every: float) -> None:
        """Say every ``every`` seconds that this worker lives."""
        while not self.gone:
            with suppress(OSError):
                await self._send({"tick": True})
            await asyncio.sleep(every)

    async def _learn(self, names: list[str]) -> None:
        """Have what a child imported imported in the parent, once."""
        if new := sorted(set(names) - self._learned):
            self._learned |= set(new)
            with suppress(OSError):
                await self._send({"import": new})

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
            began = self._began[process.pid] = Began(
                process, asked.output, asked.status, self._learn
            )
            asked.answer.set_result(began)
        elif "exited" in message:
            self._began.pop(message["exited"]).over(message["code"])
        elif "refused" in message:
            self._refuse(message["number"], OSError(message["refused"]))
        elif "threads" in message:
            log.warning(
                "children are begun afresh: their parent has %d threads since it imported %s",
                message["threads"],
                message["after"],
                extra={"action": "parent_threaded"},
            )
        elif "untouchable" in message:
            log.error(
                "process %d, which a run left behind, runs as another user and cannot be ended",
                message["untouchable"],
                extra={"action": "kill_refused"},
            )
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


async def open_line(config: parent.Config, folder: Path, environment: Mapping[str, str]) -> Line:
    """Start a parent process and wait until it is ready. Raises OSError when it does not.

    It reads the secrets of ``environment`` from a file without a name.
    """
    public, secret = split_secrets(environment)
    here, there = socket.socketpair()
    secrets = write_nameless(secret, folder)
    descriptor, name = tempfile.mkstemp(prefix="parent-", suffix=".log", dir=folder)
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "daybook.worker.parent", str(there.fileno())),
            *(config.as_arguments(), str(secrets), str(folder)),
            stdin=asyncio.subprocess.DEVNULL,
            # No terminal: what is imported there must not paint what the children print.
            stdout=descriptor,
            stderr=descriptor,
            env=public,
            cwd=folder,
            pass_fds=[there.fileno(), secrets],
            start_new_session=True,  # Ctrl-C in a terminal is for the worker alone
        )
    except BaseException:
        here.close()
        raise
    finally:
        there.close()
        os.close(secrets)
        os.close(descriptor)
    here.setblocking(False)
    line = Line(child, here, Path(name))
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
