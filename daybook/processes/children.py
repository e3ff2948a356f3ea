"""Children of `daybook up`: their start, their logs, and their end.

Each child leads its own session, so Ctrl-C in the terminal reaches only `up`, which then ends the
children in the right order. A child's output is appended to a log in the home. `start` cuts a log
that is too long to its newest part. While the children run, `keep_logs_short` checks the logs every
ten seconds: it copies the newest part of a log that is too long to `<log>.old`, and empties the
log.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from daybook.processes import image, proc
from daybook.timing import TIMING

MAX_LOG_BYTES = 5_000_000
KEPT_LOG_BYTES = 1_000_000
"""Number of newest bytes that are kept of a log longer than `MAX_LOG_BYTES`."""
LOG_CHECK_INTERVAL_SECONDS = 10.0
"""Interval between two checks of the logs' sizes."""
EXIT_TOO_MUCH_MEMORY = os.EX_OSERR
"""Exit code of a child that stopped by itself because it used too much memory."""


class Pulse:
    """Read end of a pipe to which a child writes a byte every few seconds (`report_pulse`)."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor

    def beats(self) -> bool:
        """Return whether the child has written since the last call."""
        written = False
        with suppress(BlockingIOError):
            while self._descriptor >= 0 and os.read(self._descriptor, 4096):
                written = True
        return written

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


async def report_pulse(descriptor: int) -> None:
    """Write to the pipe of this process's `Pulse` until the reader closes the pipe."""
    os.set_blocking(descriptor, False)
    os.set_inheritable(descriptor, False)
    with suppress(BrokenPipeError):
        while True:
            with suppress(BlockingIOError):  # the reader is stopped
                os.write(descriptor, b".")
            await asyncio.sleep(TIMING.probe_interval.total_seconds() / 2)


@dataclass(eq=False)
class Child:
    """Child process, created by `start`.

    ``grace`` is the time in seconds that the child has to end after SIGTERM. ``pulse`` is set if
    the child reports through a pipe that it is alive; `wait` closes the pipe when the child has
    ended.
    """

    name: str
    log: Path
    process: proc.Process
    _running: image.Running
    _log_from: int = field(default=0)
    grace: float = 10.0
    pulse: Pulse | None = None

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def exit_code(self) -> int | None:
        """Return the exit code; None while the child runs, -N if signal N ended it."""
        return self._running.returncode

    async def wait(self) -> int:
        """Wait until the child ends; return its exit code."""
        code = await self._running.wait()
        if self.pulse is not None:
            self.pulse.close()
        return code

    async def terminate(self, grace: float | None = None, last: float = 3.0) -> int:
        """End the child and all its descendants; return its exit code.

        Send SIGTERM to the child's group. Once the child has ended, or after ``grace`` seconds (by
        default the child's own ``grace``), send SIGTERM to descendants that left the group
        (`proc.process_tree`). So they can clean up. After at most ``last`` more seconds, send
        SIGKILL to all processes that are left. If the child has already ended, send nothing,
        because its pid may belong to another process now.
        """
        if self.exit_code is not None:
            return await self.wait()
        family = proc.process_tree(self.process)
        proc.send_signal([p for p in family if p.group == self.pid], signal.SIGTERM)
        if not await self._ends(self.grace if grace is None else grace):
            family += proc.process_tree(self.process)
        others = [p for p in family if p.pid != self.pid]
        proc.send_signal([p for p in others if p.group != self.pid], signal.SIGTERM)
        await proc.wait_gone(others, last)
        await proc.kill(family)
        return await self.wait()

    async def _ends(self, within: float) -> bool:
        try:
            async with asyncio.timeout(within):
                await self.wait()
        except TimeoutError:
            return False
        return True

    def tail(self, lines: int = 20) -> str:
        """Return the last lines that the child has printed, for an error message."""
        return read_tail(self.log, self._log_from, lines)


def read_tail(log: Path, begins: int, lines: int = 20) -> str:
    """Return the last ``lines`` lines of ``log``, but nothing before byte ``begins``.

    Read at most the last 64,000 bytes; return "" if the log cannot be read.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if begins > size:
                begins = 0  # the log was truncated after the child's start
            file.seek(max(begins, size - 64_000))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def start_detached(command: Sequence[str], log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a process that outlives this one.

    Return the process, and the position in ``log`` at which its output begins. asyncio does not
    manage the process, because it would kill the process when the loop ends.
    """
    trim_log(log)
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as output:
        begins = output.seek(0, os.SEEK_END)
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return child, begins


async def start(
    name: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    folder: Path,
    grace: float = 10.0,
    descriptors: Sequence[int] = (),
    forked_from: image.Image | None = None,
) -> Child:
    """Start ``command`` in ``folder`` with only ``environment``; append its output to ``log``.

    The child inherits the file ``descriptors`` under the same numbers. With ``forked_from``, the
    child is a fork of that image if possible; ``command`` must then begin with
    `image.PYTHON_MODULE`. Raise OSError if the command cannot be started.
    """
    trim_log(log)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        begins = os.fstat(descriptor).st_size
        running = await start_session(
            command,
            environment=environment,
            output=descriptor,
            folder=folder,
            descriptors=descriptors,
            forked_from=forked_from,
        )
    finally:
        os.close(descriptor)
    process = proc.find(running.pid)
    if process is None:  # it has ended already; this start time matches no process
        process = proc.Process(running.pid, "ended")
    return Child(name, log, process, running, begins, grace)


async def start_reporting(
    name: str,
    command: Sequence[str],
    option: str,
    *,
    environment: Mapping[str, str],
    log: Path,
    folder: Path,
    grace: float = 10.0,
    forked_from: image.Image | None = None,
) -> tuple[Child, int]:
    """Start a child as `start` does, with a pipe to which the child writes.

    Return the child and the descriptor of the pipe's read end. ``option`` is the command-line
    option that passes the descriptor of the write end to the child.
    """
    reader, writer = os.pipe()
    try:
        child = await start(
            name,
            [*command, option, str(writer)],
            environment=environment,
            log=log,
            folder=folder,
            grace=grace,
            descriptors=[writer],
            forked_from=forked_from,
        )
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    return child, reader


async def start_session(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    output: int,
    folder: Path,
    descriptors: Sequence[int] = (),
    forked_from: image.Image | None = None,
) -> image.Running:
    """Start ``command`` in a session of its own. Raise OSError if it cannot be started.

    ``output`` is the descriptor for stdout and stderr. The other parameters are as in `start`.
    """
    if forked_from is not None:
        with suppress(OSError):  # the image has ended, or cannot fork
            return await forked_from.start(
                command,
                environment=environment,
                folder=folder,
                output=output,
                descriptors=descriptors,
            )
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=dict(environment),
        cwd=folder,
        start_new_session=True,
        pass_fds=descriptors,
    )


def trim_log(log: Path, limit: int = MAX_LOG_BYTES, keep_bytes: int = KEPT_LOG_BYTES) -> None:
    """Cut a log of more than ``limit`` bytes to the whole lines in its last ``keep_bytes``."""
    try:
        if log.stat().st_size <= limit:
            return
    except FileNotFoundError:
        return
    newest = _newest_part(log, keep_bytes)
    shorter = log.with_suffix(".new")
    with os.fdopen(os.open(shorter, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as new:
        new.write(newest)
    shorter.replace(log)


def truncate_logs(
    folder: Path, limit: int = MAX_LOG_BYTES, keep_bytes: int = KEPT_LOG_BYTES
) -> None:
    """Empty the logs of more than ``limit`` bytes in ``folder``, to which running processes append.

    The processes keep the files open. So copy the newest part of a log to `<log>.old`, and then
    truncate the log to nothing. A line that is printed between the two steps is lost.
    """
    for log in folder.glob("*.log"):
        if log.stat().st_size <= limit:
            continue
        older = log.with_name(f"{log.name}.old")
        with os.fdopen(os.open(older, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(_newest_part(log, keep_bytes))
        os.truncate(log, 0)


async def keep_logs_short(folder: Path, say: Callable[[str], None]) -> NoReturn:
    """Keep each log in ``folder`` below about `MAX_LOG_BYTES`; pass errors to ``say``."""
    while True:
        try:
            await asyncio.to_thread(truncate_logs, folder)
        except OSError as error:
            say(f"Cannot shorten a log in {folder}: {error}")
        await asyncio.sleep(LOG_CHECK_INTERVAL_SECONDS)


def _newest_part(log: Path, keep_bytes: int) -> bytes:
    """Return the whole lines in the last ``keep_bytes``."""
    with log.open("rb") as file:
        file.seek(-keep_bytes, os.SEEK_END)
        file.readline()
        return file.read()
