"""A program in its own process group: `end` leaves no process of the group running.

::

    end the group:  anything alive? ──no─────────────────────────► SIGKILL ──► none alive ──► reap
                         └─yes─► SIGTERM, up to a grace period ──────┘

This module does not use `asyncio.subprocess`, which reaps the leader as soon as the leader exits.
From then on, the kernel may give the leader's pid to another process, and a signal to "the group"
could reach that process. So this module waits for the exit *without* reaping (``waitid`` with
``WNOWAIT``, in a thread). It sends every signal while the leader still owns its pid, alive or as a
zombie, and reaps the leader afterwards. SIGKILL to a group is one step in the kernel: no member can
fork out of it. `end` always sends SIGKILL, because listing the members is not one step.

This module does not end a process that has left the group by creating its own session (``setsid``),
or a process that runs as another user.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

TERM_GRACE_SECONDS = 3.0
"""Maximum number of seconds between SIGTERM and SIGKILL, unless the caller sets another."""

TEMPORARY_ERRNOS = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""Errors of the start of a program after which a further try may succeed."""

UNKNOWN_EXIT_CODE = 1000
"""Code of a process that ended unobserved; no system has this exit code."""

_KILL_TIMEOUT_SECONDS = 10.0  # seconds for the kernel to remove killed processes
_MAX_POLL_INTERVAL_SECONDS = 0.05  # seconds between two checks of a group that is ending
_PROC = Path("/proc")
_FATAL_SIGNALS = (
    *(signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGINT, signal.SIGKILL),
    *(signal.SIGSEGV, signal.SIGSYS, signal.SIGTERM, signal.SIGXCPU, signal.SIGXFSZ),
)


class ProcessGroup:
    """Child process that leads a process group, from its start until it is reaped.

    ``exited`` is set when the leader has exited; `end` or `kill` reaps the leader.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: str,
        environment: Mapping[str, str],
        with_input: bool = True,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start the program, which inherits the files ``pass_fds``.

        Raise OSError and ValueError if it cannot be started.

        The caller must not await anything between this call and a block that ensures `end` or
        `kill`.
        """
        self.child = subprocess.Popen(
            [argument.encode() for argument in arguments],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE if with_input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=pass_fds,
            bufsize=0,
        )
        self.number = self.child.pid  # a new session's leader: its number is also its group's
        self.exited = asyncio.Event()
        loop = asyncio.get_running_loop()
        threading.Thread(
            target=self._watch, args=(loop,), name=f"program-{self.number}", daemon=True
        ).start()

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        _until_exit(self.number)
        with suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(self.exited.set)

    async def end(self, grace_seconds: float | None = None) -> None:
        """End all processes of the group and reap the leader. The caller must not cancel this.

        They have ``grace_seconds``, by default `TERM_GRACE_SECONDS`, from SIGTERM to SIGKILL.
        """
        grace_seconds = TERM_GRACE_SECONDS if grace_seconds is None else grace_seconds
        if self._alive():
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # a stopped process does not receive the SIGTERM
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await self.exited.wait()
                    await self._until_none_alive()
        self._signal(signal.SIGKILL)
        await self.exited.wait()
        # A process that remains after this is blocked in the kernel with SIGKILL pending, and will
        # execute no further instruction of its own.
        with suppress(TimeoutError):
            async with asyncio.timeout(_KILL_TIMEOUT_SECONDS):
                await self._until_none_alive()
        self.child.wait()  # at once: it has exited

    def kill(self) -> None:
        """Kill the group and reap the leader, if needed, without the loop, which may be closing."""
        if self.child.returncode is None:
            self._signal(signal.SIGKILL)
            self.child.wait()

    async def _until_none_alive(self) -> None:
        pause = 0.001
        while self._alive():
            await asyncio.sleep(pause)
            pause = min(pause * 2, _MAX_POLL_INTERVAL_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        # PermissionError: only zombies are left (macOS), or only processes of another user.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.number, number)

    def _alive(self) -> bool:
        """Return whether a process of the group is running; a zombie does not count."""
        try:
            os.killpg(self.number, 0)
        except (ProcessLookupError, PermissionError):
            return False
        if not (_PROC / "self" / "stat").exists():
            return True  # on macOS, a signal fails if only zombies are left
        return any(_runs_in(entry, self.number) for entry in os.listdir(_PROC) if entry.isdigit())


def describe_exit(code: int) -> str:
    """Return how a program ended; code -N means that signal N ended it, as in `subprocess`.

    A shell and a sandbox return 128+N for it, but so may a program that no signal has ended.
    """
    if code == UNKNOWN_EXIT_CODE:
        return "ended with an unknown exit code"
    if code >= 0:
        named = f" ({signal.Signals(code - 128).name})" if code - 128 in _FATAL_SIGNALS else ""
        return f"exited with code {code}{named}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def describe_prints(errors: str, output: str) -> str:
    """Return what a failed program printed: its standard error, or else its standard output."""
    if errors:
        return f"it printed: {errors}"
    if output:
        return f"it printed to standard output: {output}"
    return "it printed nothing"


def _runs_in(pid: str, group: int) -> bool:
    try:
        stat = (_PROC / pid / "stat").read_text(errors="replace")
    except OSError:
        return False  # it has ended
    # pid (name) state parent group …; the name may contain anything.
    state, _parent, its_group = stat.rpartition(")")[2].split()[:3]
    return int(its_group) == group and state not in "ZX"


def _until_exit(pid: int) -> None:
    """Block until the child has exited; do not reap it."""
    if hasattr(os, "waitid"):
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    elif sys.platform == "darwin":  # where Python before 3.13 has no `os.waitid`
        queue = select.kqueue()
        event = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
        with suppress(ProcessLookupError):  # it has exited already
            queue.control([event], 1)
        queue.close()
