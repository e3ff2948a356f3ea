"""Connection to a parent process (`daybook.worker.parent`), which starts the runs' processes."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from daybook.json_text import JsonObject
from daybook.processes import children, group, image
from daybook.processes.environment import split_secrets
from daybook.processes.proc import Process
from daybook.worker import parent
from daybook.worker.child_setup import write_unnamed_file
from daybook.worker.messages import FrameDecoder, LaunchRequest, frame
from daybook.worker.run_process import RunProcess

log = logging.getLogger(__name__)

READY_TIMEOUT_SECONDS = 90.0
ANSWER_TIMEOUT_SECONDS = 30.0
CLOSE_TIMEOUT_SECONDS = 5.0
"""Timeouts for the parent to import everything, to start a child, and to end."""


class ParentLost(OSError):
    """The parent process has ended, or did not start; a child that it did not confirm never ran."""


@dataclass
class _PendingStart:
    """Task that was sent but not confirmed.

    ``output`` is the file for the child's output; ``status`` is the read end of its status pipe.
    """

    output: Path
    status: int
    answer: asyncio.Future[RunProcess]


class ParentConnection:
    """Parent process, and the socket to it; `open_connection` creates the object."""

    def __init__(self, child: image.Running, here: socket.socket, printed: Path):
        self.child, self._socket, self._printed = child, here, printed
        self._frames, self._sending = FrameDecoder(), asyncio.Lock()
        self._pending: dict[int, _PendingStart] = {}
        self._children: dict[int, RunProcess] = {}
        self._request_numbers, self._learned = count(1), set[str]()
        self.ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.gone = False
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.reading = asyncio.create_task(self._read())

    async def begin(self, task: LaunchRequest, output: Path) -> RunProcess:
        """Start a child for ``task``, which prints to ``output``.

        Raise `ParentLost`, or another OSError if the system refuses another process.
        """
        reader, status = os.pipe()
        os.set_blocking(reader, False)
        pending = _PendingStart(output, reader, asyncio.get_running_loop().create_future())
        number, started = next(self._request_numbers), asyncio.Event()
        self._pending[number] = pending
        # Start the timer before sending, which blocks if the parent is stopped and its socket is
        # full.
        timer = asyncio.get_running_loop().call_later(ANSWER_TIMEOUT_SECONDS, self._kill_hung)
        try:
            try:
                with output.open("ab") as printed:
                    message = {"number": number, "task": task.as_json()}
                    await self._send(message, (printed.fileno(), status), started)
            finally:
                os.close(status)
            await asyncio.wait({pending.answer})
        except asyncio.CancelledError:
            if not started.is_set() and (unsent := self._pending.pop(number, None)):
                os.close(unsent.status)
            raise
        except OSError as error:
            if isinstance(error, ConnectionError) or self._socket.fileno() < 0:
                await asyncio.wait({self.reading})  # so that `gone` is set before a retry
            self._refuse(number, ParentLost(str(error)))
        finally:
            timer.cancel()
        return await pending.answer

    def _kill_hung(self) -> None:
        """Kill a parent that is stopped or stuck, so that it can release no more children."""
        log.error(
            "parent process %d does not answer", self.child.pid, extra={"action": "parent_hung"}
        )
        self.kill()

    async def tick(self, every: float) -> None:
        """Report to the parent every ``every`` seconds that this worker is alive."""
        while not self.gone:
            with suppress(OSError):
                await self._send({"tick": True})
            await asyncio.sleep(every)

    async def _send_imports(self, names: list[str]) -> None:
        """Make the parent import these modules of a child, except those sent before."""
        if unknown := sorted(set(names) - self._learned):
            self._learned |= set(unknown)
            with suppress(OSError):
                await self._send({"import": unknown})

    async def wait_until_idle(self) -> None:
        """Wait until the parent has ended, or has no children and starts none."""
        while not self.gone and (self._pending or self._children):
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> None:
        """End the parent. The caller makes sure that all its children have ended."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
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
        """Return the last lines that the parent printed, for an error message."""
        with suppress(OSError):
            return "\n".join(self._printed.read_text(errors="replace").splitlines()[-20:])
        return ""

    async def _send(
        self,
        message: Mapping[str, Any],
        descriptors: Sequence[int] = (),
        started: asyncio.Event | None = None,
    ) -> None:
        """Send the whole message or nothing, even if the caller is cancelled meanwhile.

        After an incomplete message, the parent would misread all later data. If the caller is
        cancelled before ``started`` is set, nothing is sent, and the caller may close the
        descriptors.
        """
        started = started or asyncio.Event()
        writing = asyncio.create_task(self._write(message, descriptors, started))
        self._tasks.add(writing)
        writing.add_done_callback(self._tasks.discard)
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            if not started.is_set():
                writing.cancel()
            raise

    async def _write(
        self, message: Mapping[str, Any], descriptors: Sequence[int], started: asyncio.Event
    ) -> None:
        loop, data = asyncio.get_running_loop(), memoryview(frame(message))
        async with self._sending:
            while descriptors:
                try:
                    data = data[socket.send_fds(self._socket, [data], descriptors) :]
                    break
                except BlockingIOError:
                    await self._writable()
            started.set()
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
                    self._handle(message)
                self._changed.set()
        self.gone = True
        self._changed.set()
        self._socket.close()
        code = await self.child.wait()
        lost = ParentLost(f"the parent process {group.describe_exit(code)}")
        if not self.ready.done():
            self.ready.set_exception(lost)
        for number in list(self._pending):
            self._refuse(number, lost)
        for child in self._children.values():
            log.warning(
                "process %d continues without its parent process",
                child.pid,
                extra={"action": "child_orphaned"},
            )
            watching = asyncio.create_task(child.watch())
            self._tasks.add(watching)
            watching.add_done_callback(self._tasks.discard)
        self._children.clear()

    def _handle(self, message: JsonObject) -> None:
        if "pid" in message:
            pending = self._pending.pop(message["number"])
            process = Process(message["pid"], message["start"])
            child = self._children[process.pid] = RunProcess(
                process, pending.output, pending.status, self._send_imports
            )
            pending.answer.set_result(child)
        elif "exited" in message:
            self._children.pop(message["exited"]).mark_ended(message["code"])
        elif "refused" in message:
            self._refuse(message["number"], OSError(message["refused"]))
        elif "threads" in message:
            log.warning(
                "children start as new interpreters: the parent has %d threads after importing %s",
                message["threads"],
                message["after"],
                extra={"action": "parent_threaded"},
            )
        elif "untouchable" in message:
            log.error(
                "cannot end process %d, which a run left behind, because it runs as another user",
                message["untouchable"],
                extra={"action": "kill_refused"},
            )
        elif "ready" in message:
            self.ready.set_result(message["ready"])
        elif "silent" in message:
            log.error(
                "this worker was silent for %s s, so the parent process ended its %d runs",
                message["silent"],
                len(message["ending"]),
                extra={"action": "worker_was_silent"},
            )

    def _refuse(self, number: int, error: OSError) -> None:
        if pending := self._pending.pop(number, None):
            os.close(pending.status)
            pending.answer.set_exception(error)


async def open_connection(
    config: parent.ParentConfig,
    folder: Path,
    environment: Mapping[str, str],
    forked_from: image.Image | None = None,
) -> ParentConnection:
    """Start a parent process, and wait until it is ready.

    Raise OSError if the parent does not start. The parent gets the secrets in ``environment``
    through a file without a name.
    """
    public, secret = split_secrets(environment)
    inherited = () if config.lock is None else (config.lock,)
    own_end, parent_end = socket.socketpair()
    secrets = write_unnamed_file(secret, folder)
    descriptor, name = tempfile.mkstemp(prefix="parent-", suffix=".log", dir=folder)
    try:
        # Its output is not a terminal, so that imported modules do not colour the children's
        # output. It has a session of its own, because Ctrl-C in a terminal is for the worker alone.
        child = await children.start_session(
            [
                *(*image.PYTHON_MODULE, "daybook.worker.parent", str(parent_end.fileno())),
                *(config.as_arguments(), str(secrets), str(folder)),
            ],
            environment=public,
            output=descriptor,
            folder=folder,
            descriptors=[parent_end.fileno(), secrets, *inherited],
            forked_from=forked_from,
        )
    except BaseException:
        own_end.close()
        raise
    finally:
        parent_end.close()
        os.close(secrets)
        os.close(descriptor)
    own_end.setblocking(False)
    connection = ParentConnection(child, own_end, Path(name))
    try:
        async with asyncio.timeout(READY_TIMEOUT_SECONDS):
            await asyncio.shield(connection.ready)
    except BaseException as error:
        connection.kill()
        await connection.reading
        with suppress(OSError):
            connection.ready.result()
        if isinstance(error, OSError):  # a timeout, too
            why = str(error) or "it did not become ready"
            raise ParentLost(f"{why}\n{connection.printed()}".rstrip()) from error
        raise
    return connection
