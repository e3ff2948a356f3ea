"""Parent process of the runs' processes, which starts, watches and reaps them.

::

    python -m daybook.worker.parent DESCRIPTOR JSON SECRETS FOLDER

This process has one thread, and uses no logging, because a fork copies only the forking thread. If
an import starts a thread, each further child is a fresh interpreter. The worker sends messages over
the socket ``DESCRIPTOR`` (`daybook.worker.messages`); ``JSON`` has the fields of `ParentConfig`.
The parent reads the possibly secret variables of its environment from the descriptor ``SECRETS``,
because other processes of this user can read a process's initial environment. ``FOLDER`` is not
used; it identifies the process in process listings.

Life of a child::

    fork ─► leads a session ─► worker gets its pid ─► is released ─► … ─► ends
                                                                           │ not reaped yet
                worker gets its exit ◄── reaped ◄── none left ◄── SIGKILL ─┘
                                                    of its group and orphans

The parent adopts the orphans of its children (Linux), so it finds all orphans. The kernel cannot
reuse the pid of a child that is not reaped yet.

A worker that has died (its socket is closed), or has not sent its periodic message for too long,
can neither renew leases nor end its runs. The parent then ends the runs, with SIGTERM first. It
also sends a report to a silent worker, which reads the report when it continues.
"""

from __future__ import annotations

import errno
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
from typing import NoReturn

from daybook.json_text import JsonObject
from daybook.processes import forked, garbage, image, proc
from daybook.worker import child_setup
from daybook.worker.messages import FrameDecoder, LaunchRequest, frame

_KILL_CHECK_SECONDS = 0.02
"""Interval between two checks of killed processes that have not ended yet."""
_HANDSHAKE_SECONDS = 10.0
_MAX_CHECK_SECONDS = 5.0
_MAX_DELAY_SECONDS = 5.0
"""Maximum delay of a planned check; if a check is later, this process counts as suspended."""
_DESCRIPTORS_PER_TASK = 2
_NOT_RECEIVED = -1
"""Placeholder for a descriptor that the kernel dropped: this process had no free descriptor."""
_NO_FREE_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True)
class ParentConfig:
    """Configuration of the parent, passed as JSON.

    ``program`` is the module that a child runs (`child_setup.Program`). With ``preload``, the
    parent imports the program and forks children; otherwise each child is a fresh interpreter.
    After ``silence`` seconds without a message from the worker, the parent ends the children.
    ``grace`` is the number of seconds from SIGTERM to SIGKILL. ``lock`` is the descriptor of the
    worker's lock (`daybook.runs.holders`), which the parent and the children only keep open.
    """

    program: str
    preload: bool
    silence: float
    grace: float
    lock: int | None = None

    def as_arguments(self) -> str:
        return json.dumps(asdict(self))


@dataclass
class ForkedChild:
    """A child, its exit ``code``, and the time to kill its process tree (``kill_at``).

    ``kill_at`` is in seconds of the monotonic clock.
    """

    pid: int
    process: proc.Process
    code: int | None = None
    kill_at: float | None = None


def thread_count() -> int:
    """Return the number of this process's threads; on Linux, count threads outside Python, too."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


class Parent:
    """The parent process's event loop.

    `serve` returns when the worker has exited and no child is left.
    """

    def __init__(self, worker: socket.socket, config: ParentConfig) -> None:
        self._worker, self._config = worker, config
        self._frames, self._outgoing = FrameDecoder(), bytearray()
        self._folder = os.getcwd()
        self._descriptors: list[int] = []
        self._unreaped: dict[int, ForkedChild] = {}
        self._untouchable: set[int] = set()
        self._last_message, self._silent, self._gone = time.monotonic(), False, False
        self._bell, bell = socket.socketpair()
        self._bell_writer = bell  # keep a reference: the signal module stores only its number
        for end in (self._bell, bell, worker):
            end.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._selector.register(worker, selectors.EVENT_READ)
        # The handler does nothing, because the byte that arrives on the bell wakes the loop.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(bell.fileno(), warn_on_full_buffer=False)
        # The parent must outlive the worker, to end the children.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        child_setup.adopt_orphans()

    def serve(self) -> None:
        if self._config.preload:
            child_setup.load_program(self._config.program).prepare()
            gc.collect()
            gc.freeze()
        self._last_message = time.monotonic()
        self._send({"ready": thread_count()})
        while not (self._gone and not self._unreaped):
            timeout, began = self._seconds_to_next_check(), time.monotonic()
            ready = self._selector.select(timeout)
            if timeout is not None and time.monotonic() - began > timeout + _MAX_DELAY_SECONDS:
                # This process was suspended, and so may have been the worker.
                self._last_message = time.monotonic()
            for key, events in ready:
                if key.fileobj is self._bell:
                    with suppress(BlockingIOError):
                        self._bell.recv(4096)
                    continue
                if events & selectors.EVENT_WRITE:
                    self._flush()
                if events & selectors.EVENT_READ and not self._gone:
                    self._receive()
            self._check_children()
            self._enforce_deadlines()

    # --- messages from the worker

    def _receive(self) -> None:
        flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        try:
            data, descriptors, received, _ = socket.recv_fds(
                self._worker, 1 << 16, 4 * _DESCRIPTORS_PER_TASK, flags
            )
        except BlockingIOError:
            return
        except OSError:
            data, descriptors, received = b"", [], 0
        if received & socket.MSG_CTRUNC:  # too many open files
            for descriptor in descriptors:
                os.close(descriptor)
            descriptors = [_NOT_RECEIVED] * _DESCRIPTORS_PER_TASK
        for descriptor in descriptors:
            if descriptor != _NOT_RECEIVED:
                os.set_inheritable(descriptor, False)
        self._descriptors += descriptors
        if not data:
            self._gone = True
            self._selector.unregister(self._worker)
            self._end_all()
            return
        self._last_message, self._silent = time.monotonic(), False
        for message in self._frames.feed(data):
            if "task" in message:
                output, status = self._descriptors[:_DESCRIPTORS_PER_TASK]
                del self._descriptors[:_DESCRIPTORS_PER_TASK]
                task = LaunchRequest(**message["task"] | {"parent_pid": os.getpid()})
                self._begin(message["number"], task, output, status)
            elif "import" in message and self._config.preload:
                self._preload(message["import"])

    def _preload(self, names: list[str]) -> None:
        """Import modules that a child had to import, so that later children have them."""
        for name in names:
            with suppress(Exception):  # the next child gets the same error when it uses the module
                importlib.import_module(name)
            if (count := thread_count()) > 1:
                self._send({"threads": count, "after": name})
                break
        gc.collect()
        gc.freeze()
        self._last_message = time.monotonic()

    def _send(self, message: JsonObject) -> None:
        self._outgoing += frame(message)
        self._flush()

    def _flush(self) -> None:
        if self._gone:
            return
        try:
            while self._outgoing:
                del self._outgoing[: self._worker.send(self._outgoing)]
        except BlockingIOError:
            pass
        except OSError:  # the next read returns the end of the stream
            self._outgoing.clear()
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0)
        if self._selector.get_key(self._worker).events != events:
            self._selector.modify(self._worker, events)

    # --- start of children

    def _begin(self, number: int, task: LaunchRequest, output: int, status: int) -> None:
        if _NOT_RECEIVED in (output, status):
            error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            self._send({"number": number, "refused": str(error)})
            return
        with suppress(OSError):
            os.chdir(self._folder)  # the folder may have been deleted and recreated
        try:
            parent_end, child_end = socket.socketpair()
        except OSError as error:  # too many open files
            for descriptor in (output, status):
                os.close(descriptor)
            self._send({"number": number, "refused": str(error)})
            return
        parent_end.settimeout(_HANDSHAKE_SECONDS)
        forked.flush_output()
        has_threads = thread_count() > 1  # a child has one
        # No signal may reach a child that still has this process's handlers or has no group.
        old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
        except OSError as error:
            pid = -1
            self._send({"number": number, "refused": str(error)})
        if pid == 0:
            self._run_child(task, output, status, parent_end, child_end, is_fresh=has_threads)
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
        for descriptor in (output, status):
            os.close(descriptor)
        child_end.close()
        with parent_end:
            if pid > 0:
                with suppress(OSError):
                    parent_end.recv(1)  # now the child leads its group, or it has ended
                self._release(number, pid, parent_end)

    def _release(self, number: int, pid: int, child: socket.socket) -> None:
        try:
            # This placeholder for the start time of an ended child matches no process.
            process = proc.find(pid) or proc.Process(pid, "ended")
        except OSError as error:  # too many open files; the child still waits for `GO`
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._send({"number": number, "refused": str(error)})
            return
        self._unreaped[pid] = ForkedChild(pid, process)
        self._send({"number": number, "pid": pid, "start": process.started})
        with suppress(OSError):
            child.sendall(child_setup.GO)

    def _run_child(
        self,
        task: LaunchRequest,
        output: int,
        status: int,
        parent_end: socket.socket,
        child_end: socket.socket,
        *,
        is_fresh: bool,
    ) -> NoReturn:
        try:
            others = [self._worker, self._bell, self._bell_writer, self._selector, parent_end]
            numbers = [other.fileno() for other in others]  # type: ignore[attr-defined]
            waiting = [each for each in self._descriptors if each != _NOT_RECEIVED]
            child_setup.setup_child(output, child_end, [*numbers, *waiting])
            if not self._config.preload or is_fresh:
                if self._config.lock is not None:
                    os.set_inheritable(self._config.lock, True)
                child_setup.exec_fresh(self._config.program, task, status)
            program = child_setup.load_program(self._config.program)
        except BaseException as error:
            with suppress(BaseException):
                os.write(2, f"cannot start the process: {error!r}\n".encode())
            os._exit(child_setup.EXIT_NEVER_STARTED)
        forked.exit_with(lambda: program.run(task, status, fresh=False))

    # --- end of children

    def _check_children(self) -> None:
        """Report the ended children to the worker once none of their descendants is left."""
        for child in self._unreaped.values():
            if child.code is None:
                child.code = _code_of(child.pid)
                if child.code is not None:
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(child.pid, signal.SIGKILL)
        ended = [child for child in self._unreaped.values() if child.code is not None]
        if self._orphans_alive(kill=bool(ended)):
            return
        for child in ended:
            _reap(child.pid)
            del self._unreaped[child.pid]
            self._send({"exited": child.pid, "code": child.code})

    def _orphans_alive(self, kill: bool) -> bool:
        """Reap the dead orphans of ended children; return whether any orphan may still be alive.

        Without a free descriptor, this process cannot list its orphans, so the result is True, and
        the next turn tries again. With ``kill``, send SIGKILL to the living orphans. A living child
        adopts its own orphans, so this process has only orphans of children that have ended. An
        orphan that runs as another user does not count, because this process cannot end it.
        """
        try:
            children = _children()
        except OSError as error:
            if error.errno not in _NO_FREE_DESCRIPTOR:
                raise
            return True
        living = {pid for pid in children - self._unreaped.keys() if not _reap(pid)}
        self._untouchable &= living
        if kill:
            for pid in living - self._untouchable:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                except PermissionError:
                    self._untouchable.add(pid)
                    self._send({"untouchable": pid})
        return bool(living - self._untouchable)

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        if not self._gone and not self._silent and now - self._last_message >= self._config.silence:
            self._silent = True
            ending = self._end_all()
            self._send({"silent": round(now - self._last_message, 1), "ending": ending})
        for child in self._unreaped.values():
            if child.kill_at is not None and child.code is None and child.kill_at <= now:
                self._kill(child)
                child.kill_at = now + 1.0

    def _kill(self, child: ForkedChild) -> None:
        """Send SIGKILL to the child and its descendants.

        Without a free descriptor, send it only to the child's group; when the child has ended,
        `_orphans_alive` kills the other descendants.
        """
        try:
            members = proc.process_tree(child.process)
        except OSError as error:
            if error.errno not in _NO_FREE_DESCRIPTOR:
                raise
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)  # not reaped yet, so the group is its own
            return
        for member in members:
            proc.send_signal([member], signal.SIGKILL)

    def _end_all(self) -> list[int]:
        living = [child for child in self._unreaped.values() if child.code is None]
        for child in living:
            for number in (signal.SIGTERM, signal.SIGCONT):
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, number)  # not reaped yet, so the group is still its own
            child.kill_at = time.monotonic() + self._config.grace
        return [child.pid for child in living]

    def _seconds_to_next_check(self) -> float | None:
        """Return the time until the next check, in seconds; None if only an event can cause one."""
        if any(child.code is not None for child in self._unreaped.values()):
            return _KILL_CHECK_SECONDS
        times = [child.kill_at for child in self._unreaped.values() if child.kill_at is not None]
        if not self._gone and not self._silent:
            times.append(self._last_message + self._config.silence)
        if not times:
            return None
        return min(max(0.0, min(times) - time.monotonic()), _MAX_CHECK_SECONDS)


def _children() -> set[int]:
    """Return the pids of this process's children, including zombies; empty unless this is Linux.

    Raise OSError if this process has no free descriptor.
    """
    if sys.platform != "linux":
        return set()
    try:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    except OSError as error:
        if error.errno in _NO_FREE_DESCRIPTOR:
            raise
        # This kernel does not list the children of a process.
        return proc.child_pids(os.getpid())
    return set(map(int, text.split()))


def _code_of(pid: int) -> int | None:
    """Return the exit code of a child without reaping it; None while it runs.

    Python before 3.13 has no `os.waitid` on macOS. There this function reaps the child, so the
    kernel may reuse its pid before `_check_children` sends SIGKILL to its group.
    """
    if hasattr(os, "waitid"):
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def _reap(pid: int) -> bool:
    """Reap the child if it has ended; return whether it has ended.

    The kernel may then reuse its pid.
    """
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def main(arguments: list[str]) -> None:
    """Run the parent process until the worker has exited and no child is left."""
    proc.deny_inspection()
    garbage.collect_rarely()
    image.update_environment(child_setup.read_unnamed_file(int(arguments[2])))
    worker = socket.socket(fileno=int(arguments[0]))
    worker.set_inheritable(False)
    Parent(worker, ParentConfig(**json.loads(arguments[1]))).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
