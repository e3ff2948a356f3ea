"""A program in its own process group: `end` leaves no process of the group running.

::

    end the group:  anything alive? ──no─────────────────────────► SIGKILL ──► none alive ──► reap
                         └─yes─► SIGTERM, up to TERM_GRACE_SECONDS ──┘

Why not `asyncio.subprocess`: its child watchers reap the leader as soon as it exits. From then on
the kernel may give the leader's pid to another process, and a signal to "the group" could hit that
one. So the exit is awaited *without* reaping (``waitid`` with ``WNOWAIT``, in a thread), every
signal is sent while the leader is at least a zombie and still owns its pid, and only then is it
reaped. SIGKILL to a group is one step in the kernel: no member can fork out of it. It is always
sent, because listing the members is not one step.

A process that creates its own session (``setsid``) leaves the group and is not seen here.
"""

from __future__ import annotations

import asyncio
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
"""Seconds between SIGTERM and SIGKILL."""

_KILL_TIMEOUT_SECONDS = 10.0  # seconds for the kernel to remove killed processes
_MAX_POLL_INTERVAL_SECONDS = 0.05  # seconds between two checks of a group that is ending
_PROC = Path("/proc")


class Group:
    """Child process from its start until it is reaped, with its process group.

    ``exited`` is set when the leader has exited; it is not reaped until `end`.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: str,
        environment: Mapping[str, str],
        with_input: bool = True,
    ) -> None:
        """Start the program. Raises OSError and ValueError if it cannot be started.

        The caller must not await between this call and the code that ensures `end` or `kill`.
        """
        self.child = subprocess.Popen(
            [argument.encode() for argument in arguments],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE if with_input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
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
        with suppress(RuntimeError):  # the loop was closed in the meantime
            loop.call_soon_threadsafe(self.exited.set)

    async def end(self) -> None:
        """End all processes of the group and reap the leader. Must not be cancelled."""
        if self._alive():
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # a stopped process does not receive the SIGTERM
            with suppress(TimeoutError):
                async with asyncio.timeout(TERM_GRACE_SECONDS):
                    await self.exited.wait()
                    await self._until_none_alive()
        self._signal(signal.SIGKILL)
        await self.exited.wait()
        # A process that remains after this is inside the kernel with SIGKILL pending, and executes
        # no instruction of its own any more.
        with suppress(TimeoutError):
            async with asyncio.timeout(_KILL_TIMEOUT_SECONDS):
                await self._until_none_alive()
        self.child.wait()  # at once: it has exited

    def kill(self) -> None:
        """End and reap the leader without the loop, while that is closing; nothing if it was
        reaped.

        It waits for the leader only, which SIGKILL ends.
        """
        if self.child.returncode is None:
            self._signal(signal.SIGKILL)
            self.child.wait()

    async def _until_none_alive(self) -> None:
        pause = 0.001
        while self._alive():
            await asyncio.sleep(pause)
            pause = min(pause * 2, _MAX_POLL_INTERVAL_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        # PermissionError: only zombies (macOS), or programs of another user, which we cannot end.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.number, number)

    def _alive(self) -> bool:
        """Return whether a process of the group runs; zombies, like the unreaped leader, do not."""
        try:
            os.killpg(self.number, 0)
        except (ProcessLookupError, PermissionError):
            return False
        if not (_PROC / "self" / "stat").exists():
            return True  # on macOS a signal does not find zombies
        return any(_runs_in(entry, self.number) for entry in os.listdir(_PROC) if entry.isdigit())


def _runs_in(pid: str, group: int) -> bool:
    try:
        stat = (_PROC / pid / "stat").read_text(errors="replace")
    except OSError:
        return False  # it ended in the meantime
    # pid (name) state parent group …; the name may contain anything.
    state, _parent, its_group = stat.rpartition(")")[2].split()[:3]
    return int(its_group) == group and state not in "ZX"


def _until_exit(pid: int) -> None:
    """Block until the child has exited, and leave it unreaped."""
    if hasattr(os, "waitid"):
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    elif sys.platform == "darwin":  # Python learned waitid there in 3.13
        queue = select.kqueue()
        event = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
        with suppress(ProcessLookupError):  # it has exited already
            queue.control([event], 1)
        queue.close()
