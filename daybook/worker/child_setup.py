"""How a process becomes the child of one run, and how it leaves.

`become` and `leave` are for a forked child; `main` is a fresh interpreter's
(``python -m daybook.worker.child_setup MODULE TASK STATUS``, the last two descriptors). ``MODULE`` says
what the child does: its ``run(task, status, fresh)`` answers the exit code.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, Protocol, cast

from daybook.processes.environment import split_secrets
from daybook.processes.proc import deny_inspection
from daybook.worker.messages import Task

GO = b"g"
HERE = b"h"
NEVER_BEGAN = 125
"""The exit code of a child whose parent was gone before it let the child go; nobody sees it."""
_PR_SET_CHILD_SUBREAPER = 36


class Program(Protocol):
    """What a child does: a module with these two functions."""

    def prepare(self) -> None:
        """In the parent, before the first fork: import what each child needs, start no thread."""

    def run(self, task: Task, status: int, fresh: bool) -> int:
        """In the child: carry out ``task``; ``status`` is the pipe's writing end. The exit code.

        ``fresh``: this interpreter was started for the task, with its environment.
        """
        ...


def program(name: str) -> Program:
    return cast(Program, importlib.import_module(name))


def adopt_orphans() -> None:
    """Have descendants whose parent ends become children of this process, not of init (Linux).

    So nothing that a child began can get out of its family. Elsewhere it does nothing.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def become(output: int, parent: socket.socket, others: Iterable[int]) -> None:
    """Right after the fork, all signals blocked: a session and streams of its own.

    Waits until the parent lets it go: one whose parent died before it told the worker of this
    child ends here, having done nothing. ``others`` are descriptors of the parent's, closed here.
    """
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor in others:
        with suppress(OSError):
            os.close(descriptor)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, stream in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, stream)
    os.close(nothing)
    os.close(output)
    adopt_orphans()
    # From here on a signal finds the group, and does what it does to any process.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        parent.sendall(HERE)
        let_go = parent.recv(1) == GO
    except OSError:
        let_go = False
    if not let_go:
        os._exit(NEVER_BEGAN)
    parent.close()


def write_nameless(value: Any, folder: str | Path) -> int:
    """Return a descriptor from which `read` gets ``value``; the file in ``folder`` has no name."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(json.dumps(value).encode())
        file.seek(0)  # flushes
        return os.dup(file.fileno())


def read(descriptor: int) -> Any:
    """Return what `write_nameless` has written, and close the descriptor."""
    with os.fdopen(descriptor, "rb") as file:
        return json.load(file)


def exec_fresh(module: str, task: Task, status: int) -> NoReturn:
    """Become a fresh interpreter that carries out ``task``.

    It reads the secrets of its environment from where it reads the task.
    """
    public, secret = split_secrets(task.environment or os.environ)
    letter = write_nameless({"task": task.as_json(), "secrets": secret}, os.getcwd())
    for descriptor in (letter, status):
        os.set_inheritable(descriptor, True)
    arguments = [module, str(letter), str(status)]
    os.execve(
        sys.executable, [sys.executable, "-m", "daybook.worker.child_setup", *arguments], public
    )


def leave(work: Callable[[], int]) -> NoReturn:
    """Do ``work`` and end this process with its code, as the interpreter would end.

    Non-daemon threads are waited for and exit functions called, which is where Prefect sends the
    last of its logs and events. What is left out is to take the modules apart, one by one.
    """
    code = 1
    try:
        code = _outcome(work)
        cast(Any, threading)._shutdown()
        atexit._run_exitfuncs()
        flush()
    except BaseException:
        traceback.print_exc()
    finally:  # whatever comes: a forked child must never return into its parent's loop
        os._exit(code)


def _outcome(work: Callable[[], int]) -> int:
    try:
        return work()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        return 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1


def flush() -> None:
    """Write out what was printed."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


def write_at_once() -> None:
    """Have what is printed reach the output file at once: it is what is left of a killed child."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True, errors="backslashreplace")


def main(arguments: list[str]) -> NoReturn:
    """A fresh child, begun by `exec_fresh`."""
    deny_inspection()
    module, letter, status = arguments[0], int(arguments[1]), int(arguments[2])
    os.set_inheritable(status, False)

    def work() -> int:
        write_at_once()
        found = read(letter)
        os.environ.update(found["secrets"])
        return program(module).run(Task(**found["task"]), status, fresh=True)

    leave(work)


if __name__ == "__main__":
    main(sys.argv[1:])
