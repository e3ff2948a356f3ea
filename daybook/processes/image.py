"""Image: a process that has imported everything, and forks other processes of Daybook (Linux).

A forked process shares the memory of the imported modules with the image and with the image's other
forks, and starts at once. `fork` makes an image of the calling process, its client, which has
imported the modules. The image has one thread, and does nothing but fork, reap, and adopt an
environment (`Image.adopt`)::

    client (`Image.start`)                       image
    descriptors: reply, request, output, …  ──►  fork; the child waits
                                            ◄──  the child's pid and a newline, or `refused`
    GO                                      ──►  (the child) run the module as `python -m` does
                                            ◄──  the exit code and a newline, once it has ended

If the client dies or gives up before GO, the child ends without doing anything. The image ends when
its client has ended. If the image dies, its children continue, but their exit codes are lost.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import json
import os
import resource
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from daybook.processes import forked, group, proc

# -P: do not import another `daybook` from the current folder, such as another checkout.
PYTHON_MODULE = (sys.executable, "-P", "-m")
"""Beginning of the command of a Python module; an image can start only such commands."""
GO = b"g"
MAX_DESCRIPTORS = 32
_FIRST_FREE = 256
"""Descriptors of a new child are moved to this number and above, before all others are closed."""
_REFUSED = b"refused\n"
_ANSWER_TIMEOUT_SECONDS = 10.0
"""Maximum time in which an image answers a request; a stopped image never answers."""
_GONE_CHECK_SECONDS = 0.5


class Running(Protocol):
    """A started process: `asyncio.subprocess.Process`, or a fork of an image."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None:
        """Return the exit code; None while the process runs, -N if signal N ended it."""
        ...

    async def wait(self) -> int:
        """Wait until the process has ended; return its exit code."""
        ...

    def kill(self) -> None:
        """Send SIGKILL; raise `ProcessLookupError` if the process has ended."""
        ...


class _Fork:
    """A process that an image forked; implements `Running`."""

    def __init__(
        self,
        process: proc.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        image_has_ended: Callable[[], bool],
    ) -> None:
        self.pid = process.pid
        self._process, self._image_has_ended = process, image_has_ended
        self._end = asyncio.create_task(self._read_code(reader, writer))

    @property
    def returncode(self) -> int | None:
        return self._end.result() if self._end.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self._end)

    def kill(self) -> None:
        if proc.find(self._process.pid, self._process.started) is None:
            raise ProcessLookupError(self.pid)
        os.kill(self.pid, signal.SIGKILL)

    async def _read_code(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        line = b""
        with suppress(OSError):
            line = await reader.readline()
        writer.close()
        if line:
            return int(line)
        while True:
            if self._image_has_ended() and not proc.find(self.pid, self._process.started):
                return group.UNKNOWN_EXIT_CODE
            await asyncio.sleep(_GONE_CHECK_SECONDS)


class Image:
    """An image of this process, created by `fork`."""

    def __init__(self, requests: socket.socket, pid: int) -> None:
        self._requests, self.pid = requests, pid
        self._was_reaped = False

    async def start(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        output: int,
        descriptors: Sequence[int] = (),
    ) -> Running:
        """Start ``command``, which begins with `PYTHON_MODULE`, in a session of its own.

        ``output`` is the descriptor for stdout and stderr; ``descriptors`` are inherited under the
        same numbers. Raise OSError if the image has not started a process and will not start one.
        """
        request = {
            "arguments": list(command[len(PYTHON_MODULE) :]),
            "environment": dict(environment),
            "folder": str(folder),
            "descriptors": list(descriptors),
        }
        line, reader, writer = await self._send(request, [output, *descriptors])
        process = proc.find(int(line)) or proc.Process(int(line), "ended")
        try:
            writer.write(GO)
            await writer.drain()
        except BaseException:
            writer.close()
            raise
        return _Fork(process, reader, writer, self._reap)

    async def adopt(self, environment: Mapping[str, str]) -> None:
        """Give the image the environment of most of its next children.

        Another child has to update the values that modules read from it. Raise OSError if the image
        has ended.
        """
        await self._send({"adopt": dict(environment)}, [])

    async def _send(
        self, request: dict[str, Any], descriptors: Sequence[int]
    ) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
        """Send ``request``; return the line that answers it, and the stream of the answer.

        Raise OSError if the image has ended, does not fork, or does not answer in time.
        """
        here, there = socket.socketpair()
        with there, tempfile.TemporaryFile() as file:
            file.write(json.dumps(request).encode())
            file.flush()
            try:
                numbers = [there.fileno(), file.fileno(), *descriptors]
                socket.send_fds(self._requests, [GO], numbers, socket.MSG_DONTWAIT)
            except OSError:
                here.close()
                raise
        reader, writer = await asyncio.open_connection(sock=here)
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_SECONDS):
                line = await reader.readline()
            if not line or line == _REFUSED:
                raise OSError("the image does not fork" if line else "the image has ended")
        except BaseException:
            writer.close()
            raise
        return line, reader, writer

    def close(self) -> None:
        """End the image, and reap it; its children continue."""
        self._requests.close()
        if not self._reap():
            os.kill(self.pid, signal.SIGKILL)  # the image is not reaped yet, so it has this pid
            os.waitpid(self.pid, 0)
            self._was_reaped = True

    def _reap(self) -> bool:
        """Reap the image if it has ended; return whether it has."""
        if not self._was_reaped:
            self._was_reaped = os.waitpid(self.pid, os.WNOHANG)[0] == self.pid
        return self._was_reaped


@dataclass(frozen=True)
class _ForkHooks:
    after_fork: Callable[[], None]
    is_current: Callable[[], bool]


def fork(
    after_fork: Callable[[], None], is_current: Callable[[], bool] = lambda: True
) -> Image | None:
    """Fork an image of this process; return None if that is not safe, or not possible.

    This process must have imported the modules that the children need. Each child, and an image
    that adopts an environment, calls ``after_fork`` to update the values that modules have read
    from the old environment. The image refuses to fork unless ``is_current`` returns True.
    """
    if sys.platform != "linux" or len(os.listdir("/proc/self/task")) > 1:
        return None
    gc.collect()
    gc.freeze()
    # A reader gets each message as a whole, and notices when the other end has closed.
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    forked.flush_output()
    try:
        pid = os.fork()
    except OSError:
        return None
    if pid:
        there.close()
        return Image(here, pid)
    forked.exit_with(lambda: _serve(here, there, _ForkHooks(after_fork, is_current)))


def _serve(client: socket.socket, requests: socket.socket, hooks: _ForkHooks) -> NoReturn:
    """Fork children until the client has ended."""
    client.close()
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    proc.set_title("daybook image")
    bell, ringer = socket.socketpair()
    bell.setblocking(False)
    ringer.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(ringer.fileno(), warn_on_full_buffer=False)
    replies: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        selector.register(bell, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if bell in ready:
                with suppress(BlockingIOError):
                    bell.recv(4096)
                _report_ends(replies)
            if requests in ready:
                data, descriptors, _, _ = socket.recv_fds(requests, 16, MAX_DESCRIPTORS)
                if not data:
                    os._exit(0)
                _handle(descriptors, replies, hooks)


def _report_ends(replies: dict[int, socket.socket]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        if reply := replies.pop(pid, None):
            with reply, suppress(OSError):
                reply.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _handle(descriptors: list[int], replies: dict[int, socket.socket], hooks: _ForkHooks) -> None:
    reply = socket.socket(fileno=descriptors[0])
    with open(descriptors[1], "rb") as file:
        file.seek(0)
        request: dict[str, Any] = json.load(file)
    if "adopt" in request:
        _set_environment(request["adopt"], hooks)
        with reply, suppress(OSError):
            reply.sendall(b"adopted\n")
        return
    # No signal may reach a child that still has this process's handlers.
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork() if hooks.is_current() else -1
    except OSError:
        pid = -1
    if pid == 0:
        forked.exit_with(lambda: _run(request, reply, descriptors[2:], hooks))
    signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
    for descriptor in descriptors[2:]:
        os.close(descriptor)
    with suppress(OSError):
        reply.sendall(_REFUSED if pid < 0 else b"%d\n" % pid)
    if pid > 0:
        replies[pid] = reply
    else:
        reply.close()


def _run(
    request: dict[str, Any],
    reply: socket.socket,
    descriptors: list[int],
    hooks: _ForkHooks,
) -> int:
    """Become the requested process, in a child that was just forked."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if reply.recv(1) != GO:
        return 0
    _take_descriptors(descriptors, [1, *request["descriptors"]])
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = open(  # noqa: SIM115
            descriptor, "w", buffering=1, errors="backslashreplace", closefd=False
        )
        setattr(sys, name, stream)
    os.chdir(request["folder"])
    module = request["arguments"][0]
    proc.set_title(module)
    sys.argv = request["arguments"]
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder of the program that forked the image
    _current.append(hooks)
    _set_environment(request["environment"], hooks)
    # The image may have imported the module.
    warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def _set_environment(environment: dict[str, str], hooks: _ForkHooks) -> None:
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    hooks.after_fork()


def _take_descriptors(received: list[int], numbers: list[int]) -> None:
    """Move the ``received`` descriptors to ``numbers``, and close all other descriptors."""
    first_free = min(_FIRST_FREE, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
    moved = [fcntl.fcntl(each, fcntl.F_DUPFD, first_free) for each in received]
    os.closerange(3, first_free)
    for number, descriptor in zip(numbers, moved, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.dup2(1, 2)
    null = os.open(os.devnull, os.O_RDONLY)
    if null:
        os.dup2(null, 0)
        os.close(null)


_current: list[_ForkHooks] = []


def fork_again() -> Image | None:
    """Fork an image of this process if an image has forked it; otherwise return None."""
    return fork(_current[0].after_fork, _current[0].is_current) if _current else None


def update_environment(variables: Mapping[str, str]) -> None:
    """Set ``variables``, and update the values that modules have read from the environment.

    The second part is only needed, and done, if an image has forked this process.
    """
    os.environ.update(variables)
    if _current:
        _current[0].after_fork()
