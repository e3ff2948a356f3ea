"""The parent of the runs' processes.

::

    python -m daybook.worker.parent DESCRIPTOR JSON SECRETS FOLDER

One thread, one loop, no asyncio and no logging: what it has imported its children share, and a
fork copies the forking thread alone. The worker speaks to it over the socket ``DESCRIPTOR``
(`daybook.worker.messages`); ``JSON`` are the fields of `Config`. ``SECRETS`` is a descriptor with
those variables of its environment that may be secret: what is given at the start can be read by
other processes of this user. ``FOLDER`` is for the eyes of whoever lists processes.

A child from its start to the word about its end::

    fork ─► it leads a session ─► the worker is told ─► it is let go ─► … ─► it ends
                                                                             │ not reaped yet
                worker is told ◄── reaped ◄── nothing left ◄── SIGKILL ──────┘
                                              of what it began

The parent adopts whatever a child leaves behind (Linux): so that is found, and the number of a
child that was not reaped cannot be somebody else's.

A worker that is gone (the socket is closed) or was silent too long (it ticks) can neither renew
leases nor end its runs: the parent ends them, SIGTERM first. A silent worker that wakes is told.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from daybook.processes import proc
from daybook.worker import child_setup
from daybook.worker.messages import Frames, Task, frame

_LOOK_AGAIN = 0.02
"""Seconds between two looks at what was killed and is not gone yet."""
_HANDSHAKE = 10.0
_DESCRIPTORS = 2


@dataclass(frozen=True)
class Config:
    """``program`` is the module that says what a child does (`entry.Program`).

    ``preload``: it is imported here and children are forked; else each is a fresh interpreter.
    ``silence`` and ``grace`` are seconds: without a word of the worker, from SIGTERM to SIGKILL.
    """

    program: str
    preload: bool
    silence: float
    grace: float

    def as_arguments(self) -> str:
        return json.dumps(asdict(self))


@dataclass
class Head:
    """A child. ``code`` is its end; ``kill_at`` when its family is killed (monotonic)."""

    pid: int
    process: proc.Process
    code: int | None = None
    kill_at: float | None = None


def threads() -> int:
    """How many threads this process has, also those that Python did not start (Linux)."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


class Parent:
    """The loop; `serve` returns when the worker is gone and no child is left."""

    def __init__(self, worker: socket.socket, config: Config) -> None:
        self._worker, self._config = worker, config
        self._frames, self._out = Frames(), bytearray()
        self._folder = os.getcwd()
        self._descriptors: list[int] = []
        self._heads: dict[int, Head] = {}
        self._untouchable: set[int] = set()
        self._heard, self._silent, self._gone = time.monotonic(), False, False
        self._bell, bell = socket.socketpair()
        self._ringing = bell  # kept: the signal module holds its number only
        for end in (self._bell, bell, worker):
            end.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._selector.register(worker, selectors.EVENT_READ)
        # A child ends: the handler does nothing, the byte on the bell wakes the loop.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(bell.fileno(), warn_on_full_buffer=False)
        # It ends when the worker does, not before: somebody has to end the children.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        child_setup.adopt_orphans()

    def serve(self) -> None:
        if self._config.preload:
            child_setup.program(self._config.program).prepare()
            gc.collect()
            gc.freeze()
        self._heard = time.monotonic()
        self._tell({"ready": threads()})
        while not (self._gone and not self._heads):
            for key, events in self._selector.select(self._until_next()):
                if key.fileobj is self._bell:
                    with suppress(BlockingIOError):
                        self._bell.recv(4096)
                    continue
                if events & selectors.EVENT_WRITE:
                    self._flush()
                if events & selectors.EVENT_READ and not self._gone:
                    self._hear()
            self._look()
            self._judge()

    # The worker.

    def _hear(self) -> None:
        flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        try:
            data, descriptors, _, _ = socket.recv_fds(
                self._worker, 1 << 16, 4 * _DESCRIPTORS, flags
            )
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._descriptors += descriptors
        if not data:
            self._gone = True
            self._selector.unregister(self._worker)
            self._end_all()
            return
        self._heard, self._silent = time.monotonic(), False
        for message in self._frames.feed(data):
            if "task" in message:
                output, status = self._descriptors[:_DESCRIPTORS]
                del self._descriptors[:_DESCRIPTORS]
                self._begin(message["number"], Task(**message["task"]), output, status)
            elif "import" in message and self._config.preload:
                self._learn(message["import"])

    def _learn(self, names: list[str]) -> None:
        """Import what a child had to import, so that the next has it."""
        for name in names:
            with suppress(Exception):  # the next child meets it where it is used
                importlib.import_module(name)
            if (count := threads()) > 1:
                self._tell({"threads": count, "after": name})
                break
        gc.collect()
        gc.freeze()
        self._heard = time.monotonic()

    def _tell(self, message: dict[str, Any]) -> None:
        self._out += frame(message)
        self._flush()

    def _flush(self) -> None:
        if self._gone:
            return
        try:
            while self._out:
                del self._out[: self._worker.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:  # its end is read in its turn
            self._out.clear()
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
        if self._selector.get_key(self._worker).events != wanted:
            self._selector.modify(self._worker, wanted)

    # Beginning.

    def _begin(self, number: int, task: Task, output: int, status: int) -> None:
        with suppress(OSError):
            os.chdir(self._folder)  # it may have been deleted, and made anew
        mine, its = socket.socketpair()
        mine.settimeout(_HANDSHAKE)
        child_setup.flush()
        # No signal may find a child that still has this process's handlers, or no group.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
        except OSError as error:
            pid = -1
            self._tell({"number": number, "refused": str(error)})
        if pid == 0:
            self._be_child(task, output, status, mine, its)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for descriptor in (output, status):
            os.close(descriptor)
        its.close()
        with mine:
            if pid > 0:
                with suppress(OSError):
                    mine.recv(1)  # it leads its group; or it is gone, which is seen in its turn
                self._let_go(number, pid, mine)

    def _let_go(self, number: int, pid: int, child: socket.socket) -> None:
        # One that has ended already cannot be mistaken for anybody.
        process = proc.find(pid) or proc.Process(pid, "ended")
        self._heads[pid] = Head(pid, process)
        self._tell({"number": number, "pid": pid, "start": process.started})
        with suppress(OSError):
            child.sendall(child_setup.GO)

    def _be_child(
        self, task: Task, output: int, status: int, mine: socket.socket, its: socket.socket
    ) -> NoReturn:
        try:
            others = [self._worker, self._bell, self._ringing, self._selector, mine]
            numbers = [other.fileno() for other in others]  # type: ignore[attr-defined]
            child_setup.become(output, its, [*numbers, *self._descriptors])
            if not self._config.preload or threads() > 1:
                child_setup.exec_fresh(self._config.program, task, status)
            program = child_setup.program(self._config.program)
        except BaseException as error:
            with suppress(BaseException):
                os.write(2, f"the process could not begin: {error!r}\n".encode())
            os._exit(child_setup.NEVER_BEGAN)
        child_setup.leave(lambda: program.run(task, status, fresh=False))

    # Ending.

    def _look(self) -> None:
        """Who ended, and whether anything of it is left; the worker is told when nothing is."""
        for head in self._heads.values():
            if head.code is None:
                head.code = _code_of(head.pid)
                if head.code is not None:
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(head.pid, signal.SIGKILL)
        ended = [head for head in self._heads.values() if head.code is not None]
        if self._orphans(kill=bool(ended)):
            return
        for head in ended:
            _reap(head.pid)
            del self._heads[head.pid]
            self._tell({"exited": head.pid, "code": head.code})

    def _orphans(self, kill: bool) -> bool:
        """Whether any that a child left behind lives; the dead ones are reaped.

        While a child lives it keeps its orphans itself, so these are of one that has ended. One
        that runs as another user does not count: nobody can wait for what this process cannot end.
        """
        living = {pid for pid in _children() - self._heads.keys() if not _reap(pid)}
        self._untouchable &= living
        if kill:
            for pid in living - self._untouchable:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                except PermissionError:
                    self._untouchable.add(pid)
                    self._tell({"untouchable": pid})
        return bool(living - self._untouchable)

    def _judge(self) -> None:
        now = time.monotonic()
        if not self._gone and not self._silent and now - self._heard >= self._config.silence:
            self._silent = True
            ending = self._end_all()
            self._tell({"silent": round(now - self._heard, 1), "ending": ending})
        for head in self._heads.values():
            if head.kill_at is not None and head.code is None and head.kill_at <= now:
                for member in proc.family(head.process):
                    proc.tell([member], signal.SIGKILL)
                head.kill_at = now + 1.0

    def _end_all(self) -> list[int]:
        living = [head for head in self._heads.values() if head.code is None]
        for head in living:
            for number in (signal.SIGTERM, signal.SIGCONT):
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(head.pid, number)  # not reaped yet, so it is its group
            head.kill_at = time.monotonic() + self._config.grace
        return [head.pid for head in living]

    def _until_next(self) -> float | None:
        """Seconds until something has to be looked at though nothing happened."""
        if any(head.code is not None for head in self._heads.values()):
            return _LOOK_AGAIN
        times = [head.kill_at for head in self._heads.values() if head.kill_at is not None]
        if not self._gone and not self._silent:
            times.append(self._heard + self._config.silence)
        return max(0.0, min(times) - time.monotonic()) if times else None


def _children() -> set[int]:
    """Pids of this process's children, with those that have ended; empty where nobody tells."""
    if sys.platform != "linux":
        return set()
    try:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    except OSError:
        me = os.getpid()
        return {p.pid for p in proc.living().values() if p.parent == me}
    return set(map(int, text.split()))


def _code_of(pid: int) -> int | None:
    """The exit code of a child, which is not reaped by this; None while it runs."""
    if hasattr(os, "waitid"):
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
    done, status = os.waitpid(pid, os.WNOHANG)  # Python on macOS has no waitid before 3.13
    return os.waitstatus_to_exitcode(status) if done else None


def _reap(pid: int) -> bool:
    """Whether the child has ended; its number is free from then on."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def main(arguments: list[str]) -> None:
    """See the module."""
    proc.deny_inspection()
    os.environ.update(child_setup.read(int(arguments[2])))
    worker = socket.socket(fileno=int(arguments[0]))
    worker.set_inheritable(False)
    Parent(worker, Config(**json.loads(arguments[1]))).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
