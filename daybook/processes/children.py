"""Children of `daybook up`: their start, their logs, and their end.

Each child leads its own session, so Ctrl-C in the terminal reaches only `up`, which ends the
children in its own order. A child's output is appended to a log in the home; a log that is too long
is cut to its newest part when the child is restarted, and once a minute while it runs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from asyncio.subprocess import Process as Running
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from daybook.processes import proc

MAX_LOG_BYTES = 5_000_000
KEPT_LOG_BYTES = 1_000_000
"""Bytes: a log above the limit keeps only this newest part."""
LOG_CHECK_INTERVAL_SECONDS = 60.0
"""Interval between two checks of the logs' sizes."""


@dataclass(eq=False)
class Child:
    """Running child, made by `start`.

    ``grace`` is the number of seconds that it may take to end after SIGTERM.
    """

    name: str
    log: Path
    process: proc.Process
    _running: Running
    _log_from: int = field(default=0)
    grace: float = 10.0

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def exit_code(self) -> int | None:
        """Return the exit code: None while it runs, and -N if signal N ended it."""
        return self._running.returncode

    async def wait(self) -> int:
        """Wait until the child ends; return its exit code."""
        return await self._running.wait()

    async def terminate(self, grace: float | None = None, last: float = 3.0) -> int:
        """End the child and all its descendants; return its exit code.

        Send SIGTERM to its group. After ``grace`` seconds (default: its own), or once it has ended,
        send SIGTERM to descendants that left the group (`proc.process_tree`), so that they can
        clean up. After ``last`` more seconds send SIGKILL to all. If the child has already ended,
        do nothing: its pid may belong to another process now.
        """
        if self.exit_code is not None:
            return self.exit_code
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
        """Return the last lines that it printed since its start, for an error message."""
        return read_tail(self.log, self._log_from, lines)


def read_tail(log: Path, begins: int, lines: int = 20) -> str:
    """Return the last lines of ``log`` from byte ``begins`` on."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if begins > size:
                begins = 0  # the log was truncated after that
            file.seek(max(begins, size - 64_000))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def start_detached(command: Sequence[str], log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a process that outlives this one; return it and where in ``log`` its output begins.

    It is not an asyncio child: the end of the loop would kill that.
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
) -> Child:
    """Start ``command`` in ``folder`` with only ``environment``; both streams go to ``log``.

    The child inherits the file ``descriptors`` under the same numbers.
    """
    trim_log(log)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        begins = os.fstat(descriptor).st_size
        running = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
            pass_fds=descriptors,
        )
    finally:
        os.close(descriptor)
    process = proc.find(running.pid)
    if process is None:  # it has ended already, so no other process can be mistaken for it
        process = proc.Process(running.pid, "ended")
    return Child(name, log, process, running, begins, grace)


def trim_log(log: Path, limit: int = MAX_LOG_BYTES, kept: int = KEPT_LOG_BYTES) -> None:
    """Cut a log of more than ``limit`` bytes to whole lines of its newest ``kept`` bytes."""
    try:
        if log.stat().st_size <= limit:
            return
    except FileNotFoundError:
        return
    newest = _newest_part(log, kept)
    shorter = log.with_suffix(".new")
    with os.fdopen(os.open(shorter, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as new:
        new.write(newest)
    shorter.replace(log)


def truncate_logs(folder: Path, limit: int = MAX_LOG_BYTES, kept: int = KEPT_LOG_BYTES) -> None:
    """Truncate the logs in ``folder`` that running processes append to.

    The processes keep their open file, so the file is truncated and its newest part goes to
    `<log>.old`. A line that is printed between the two steps is lost.
    """
    for log in folder.glob("*.log"):
        if log.stat().st_size <= limit:
            continue
        older = log.with_name(f"{log.name}.old")
        with os.fdopen(os.open(older, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(_newest_part(log, kept))
        os.truncate(log, 0)


async def keep_logs_short(folder: Path, say: Callable[[str], None]) -> NoReturn:
    """Keep each log in ``folder`` below about `MAX_LOG_BYTES`, until cancelled."""
    while True:
        try:
            await asyncio.to_thread(truncate_logs, folder)
        except OSError as error:
            say(f"Cannot shorten a log in {folder}: {error}")
        await asyncio.sleep(LOG_CHECK_INTERVAL_SECONDS)


def _newest_part(log: Path, kept: int) -> bytes:
    """Return whole lines from the last ``kept`` bytes."""
    with log.open("rb") as file:
        file.seek(-kept, os.SEEK_END)
        file.readline()
        return file.read()
