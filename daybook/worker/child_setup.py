"""Set-up of a process as the child of one run, and its exit.

`setup_child` and `exit_with` serve a forked child; `main` serves a fresh interpreter (``python -m
daybook.worker.child_setup MODULE TASK STATUS``, the last two are descriptors). ``MODULE`` is the
child's `Program`: its ``run(task, status, fresh)`` returns the exit code.
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
from daybook.worker.messages import LaunchRequest

GO = b"g"
READY = b"h"
EXIT_NEVER_STARTED = 125
"""Exit code of a child whose parent died before it released the child; nothing reads it."""
_PR_SET_CHILD_SUBREAPER = 36


class Program(Protocol):
    """Module that defines what a child does."""

    def prepare(self) -> None:
        """Import what each child needs, in the parent before the first fork. Start no thread."""

    def run(self, task: LaunchRequest, status: int, fresh: bool) -> int:
        """Carry out ``task`` in the child and return the exit code.

        ``status`` is the writing end of the status pipe. ``fresh`` means that this interpreter was
        started for the task, with its environment.
        """
        ...


def load_program(name: str) -> Program:
    return cast(Program, importlib.import_module(name))


def adopt_orphans() -> None:
    """Make orphaned descendants children of this process instead of init's (Linux).

    No descendant can then leave the child's process family. On other systems it does nothing.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def setup_child(output: int, parent: socket.socket, others: Iterable[int]) -> None:
    """Give a forked child its own session and streams, right after the fork, signals blocked.

    Wait until the parent releases this child. If the parent died before it reported the child to
    the worker, exit here, with nothing done. ``others`` are the parent's descriptors, closed here.
    """
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor in others:
        with suppress(OSError):
            os.close(descriptor)
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, stream in ((null, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, stream)
    os.close(null)
    os.close(output)
    adopt_orphans()
    # From here on a signal reaches the group and has its usual effect.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        parent.sendall(READY)
        released = parent.recv(1) == GO
    except OSError:
        released = False
    if not released:
        os._exit(EXIT_NEVER_STARTED)
    parent.close()


def write_unnamed_file(value: Any, folder: str | Path) -> int:
    """Write ``value`` to a file without a name; return the descriptor for `read_unnamed_file`."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(json.dumps(value).encode())
        file.seek(0)  # flushes
        return os.dup(file.fileno())


def read_unnamed_file(descriptor: int) -> Any:
    """Return what `write_unnamed_file` wrote, and close the descriptor."""
    with os.fdopen(descriptor, "rb") as file:
        return json.load(file)


def exec_fresh(module: str, task: LaunchRequest, status: int) -> NoReturn:
    """Become a fresh interpreter that carries out ``task``.

    It reads the secret variables of its environment from the file that holds the task.
    """
    public, secret = split_secrets(task.environment or os.environ)
    file = write_unnamed_file({"task": task.as_json(), "secrets": secret}, os.getcwd())
    for descriptor in (file, status):
        os.set_inheritable(descriptor, True)
    arguments = [module, str(file), str(status)]
    os.execve(
        sys.executable, [sys.executable, "-m", "daybook.worker.child_setup", *arguments], public
    )


def exit_with(work: Callable[[], int]) -> NoReturn:
    """Call ``work`` and end this process with its exit code, as an interpreter ends.

    It joins non-daemon threads and calls exit functions, in which Prefect sends the last of its
    logs and events. It skips only the teardown of modules.
    """
    code = 1
    try:
        code = _exit_code(work)
        cast(Any, threading)._shutdown()
        atexit._run_exitfuncs()
        flush_output()
    except BaseException:
        traceback.print_exc()
    finally:  # in any case: a forked child must never return into its parent's loop
        os._exit(code)


def _exit_code(work: Callable[[], int]) -> int:
    try:
        return work()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        flush_output()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        return 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1


def flush_output() -> None:
    """Flush stdout and stderr."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


def line_buffer_output() -> None:
    """Write printed lines to the output file at once: a killed child leaves nothing else."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True, errors="backslashreplace")


def main(arguments: list[str]) -> NoReturn:
    """Run a fresh child that `exec_fresh` started."""
    deny_inspection()
    module, file, status = arguments[0], int(arguments[1]), int(arguments[2])
    os.set_inheritable(status, False)

    def work() -> int:
        line_buffer_output()
        request = read_unnamed_file(file)
        os.environ.update(request["secrets"])
        return load_program(module).run(LaunchRequest(**request["task"]), status, fresh=True)

    exit_with(work)


if __name__ == "__main__":
    main(sys.argv[1:])
