"""One program in a process group of its own, and nothing of the group left when `run` ends.

::

    start ──► leader runs ──┬── leader exits ───┐
                            ├── timeout ────────┼──► end the group ──► reap ──► read what is left
                            └── cancelled ──────┘

    end the group:  anything alive? ──no──────────────────────► SIGKILL ──► none alive
                         └─yes─► SIGTERM, up to GRACE seconds ──┘

The leader's exit is the end of the work: what it left in the background is ended too.

Why not `asyncio.subprocess`: its child watchers reap the leader as soon as it exits. From then on
the kernel may give the leader's number to someone else, and a signal to "the group" could hit a
stranger. So the exit is awaited *without* reaping (``waitid`` with ``WNOWAIT``, in a thread),
every signal is sent while the leader is at least a zombie and its number therefore ours, and only
then it is reaped. SIGKILL to a group is one step in the kernel: no member can fork out of it. It
is sent in every case, because looking through the members is not one step.

A process that makes a session of its own (``setsid``) leaves the group and is not seen here; it
can hold the pipes, but not `run`.
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
from dataclasses import dataclass
from pathlib import Path

import anyio

from daybook.agents import pipes

GRACE = 3.0
"""Seconds between SIGTERM and SIGKILL."""

OUTPUT_LIMIT = 4 * 1024 * 1024
"""Bytes of standard output that are kept; the rest is read and dropped."""

ERRORS_LIMIT = 8 * 1024
"""Bytes of the end of standard error that are kept."""

_DRAIN = 1.0  # seconds for pipes that someone outside the group still holds
_UNDEAD = 10.0  # seconds for the kernel to let go of killed processes
_LOOK = 0.05  # seconds between two looks at a group that is ending
_PROC = Path("/proc")


@dataclass(frozen=True)
class Ended:
    """What became of the program. ``code`` is negative when a signal ended it, as in `subprocess`.

    ``dropped`` counts the bytes of output beyond `OUTPUT_LIMIT`.
    """

    code: int
    output: bytes
    dropped: int
    errors: bytes
    timed_out: bool


async def run(
    arguments: Sequence[str],
    *,
    folder: str,
    environment: Mapping[str, str],
    stdin: bytes | None,
    seconds: float,
) -> Ended:
    """Run the program until it exits or ``seconds`` have passed.

    Raises OSError and ValueError when it cannot be started. Cancellation, also repeated, is passed
    on after the group is dead.
    """
    child = subprocess.Popen(  # noqa: ASYNC220  a short vfork; no await between it and its keeper
        [argument.encode() for argument in arguments],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        bufsize=0,
    )
    keeper = _Keeper(child)
    # A task of its own is not reached by the caller's cancellation, wherever that strikes.
    task = asyncio.create_task(keeper.keep(stdin, seconds))
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        keeper.over.set()
        with anyio.CancelScope(shield=True):  # a cancel scope asks again at every turn of the loop
            while not task.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        raise
    return task.result()


class _Keeper:
    """Holds one child from its start to its reaping."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self.child = child
        self.group = child.pid  # a new session's leader: its number is also its group's
        self.exited = asyncio.Event()  # the leader; not reaped yet
        self.over = asyncio.Event()  # it exited, or the caller was cancelled
        loop = asyncio.get_running_loop()
        threading.Thread(
            target=self._watch, args=(loop,), name=f"agent-{child.pid}", daemon=True
        ).start()

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        _until_exit(self.child.pid)
        with suppress(RuntimeError):  # the loop was closed under us
            loop.call_soon_threadsafe(self._note_exit)

    def _note_exit(self) -> None:
        self.exited.set()
        self.over.set()

    async def keep(self, stdin: bytes | None, seconds: float) -> Ended:
        output, errors = pipes.Head(OUTPUT_LIMIT), pipes.Tail(ERRORS_LIMIT)
        feed = pipes.Feed()
        timed_out = False
        try:
            await pipes.connect(self.child, output, errors, feed, stdin or b"")
            try:
                async with asyncio.timeout(seconds):
                    await self.over.wait()
            except TimeoutError:
                timed_out = not self.exited.is_set()
            await self._end()
            await pipes.drained((output, errors), _DRAIN)
        finally:
            if self.child.returncode is None:  # the loop itself is being torn down
                self._signal(signal.SIGKILL)
                self.child.wait()
            await pipes.close((output, errors, feed))
        return Ended(
            code=self.child.returncode,
            output=bytes(output.kept),
            dropped=output.dropped,
            errors=bytes(errors.kept),
            timed_out=timed_out,
        )

    async def _end(self) -> None:
        if self._alive():
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # who is stopped does not see the first
            with suppress(TimeoutError):
                async with asyncio.timeout(GRACE):
                    await self.exited.wait()
                    await self._until_none_alive()
        self._signal(signal.SIGKILL)
        await self.exited.wait()
        # Whoever is not gone after this sits in the kernel with SIGKILL pending, and executes no
        # instruction of its own any more.
        with suppress(TimeoutError):
            async with asyncio.timeout(_UNDEAD):
                await self._until_none_alive()
        self.child.wait()  # at once: it has exited

    async def _until_none_alive(self) -> None:
        pause = 0.001
        while self._alive():
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LOOK)

    def _signal(self, number: signal.Signals) -> None:
        # PermissionError: only zombies (macOS), or programs of another user, which we cannot end.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.group, number)

    def _alive(self) -> bool:
        """Whether a process of the group runs; zombies, such as the unreaped leader, do not."""
        try:
            os.killpg(self.group, 0)
        except (ProcessLookupError, PermissionError):
            return False
        if not (_PROC / "self" / "stat").exists():
            return True  # on macOS a signal does not find zombies
        return any(_runs_in(entry, self.group) for entry in os.listdir(_PROC) if entry.isdigit())


def _runs_in(pid: str, group: int) -> bool:
    try:
        stat = (_PROC / pid / "stat").read_text(errors="replace")
    except OSError:
        return False  # it ended meanwhile
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
