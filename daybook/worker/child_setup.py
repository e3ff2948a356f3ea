"""Set-up of the process of a run.

A forked child uses `setup_child` and `forked.exit_with`; a fresh interpreter runs `main` (``python
-m daybook.worker.child_setup MODULE TASK STATUS``, where the last two are descriptors). ``MODULE``
is the child's `Program`.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, Protocol, cast

from daybook.processes import forked, image
from daybook.processes.environment import split_secrets
from daybook.processes.proc import deny_inspection
from daybook.worker.messages import LaunchRequest

GO = b"g"
READY = b"h"
EXIT_NEVER_STARTED = 125
"""Exit code of a child that did not start its task; no code reads it."""
_PR_SET_CHILD_SUBREAPER = 36


class Program(Protocol):
    """Module whose functions a child runs."""

    def prepare(self) -> None:
        """Import the modules that each child needs.

        The parent calls this function, which must not start a thread.
        """

    def run(self, task: LaunchRequest, status: int, fresh: bool) -> int:
        """Carry out ``task`` in the child; return the exit code.

        ``status`` is the write end of the status pipe. ``fresh`` is True if this interpreter was
        started for the task, with the task's environment.
        """
        ...


def load_program(name: str) -> Program:
    return cast(Program, importlib.import_module(name))


def adopt_orphans() -> None:
    """Adopt this process's orphaned descendants, so that none leaves its tree (Linux)."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def setup_child(output: int, parent: socket.socket, others: Iterable[int]) -> None:
    """Give a forked child its own session and streams.

    Call this right after the fork, with all signals blocked. Close the parent's descriptors
    ``others``, and wait until the parent releases this child. If the parent dies before it has
    reported the child to the worker, exit without doing anything.
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
    # From here on, a signal reaches the group and has its usual effect.
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
    """Write ``value`` as JSON to an unnamed file; return its descriptor for `read_unnamed_file`."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(json.dumps(value).encode())
        file.seek(0)  # this also writes the buffer
        return os.dup(file.fileno())


def read_unnamed_file(descriptor: int) -> Any:
    """Return the value that `write_unnamed_file` wrote, and close the descriptor."""
    with os.fdopen(descriptor, "rb") as file:
        return json.load(file)


def exec_fresh(module: str, task: LaunchRequest, status: int) -> NoReturn:
    """Replace this process with a fresh interpreter that runs ``task``.

    The interpreter reads its secret environment variables from the same file as the task.
    """
    public, secret = split_secrets(task.environment or os.environ)
    file = write_unnamed_file({"task": task.as_json(), "secrets": secret}, os.getcwd())
    for descriptor in (file, status):
        os.set_inheritable(descriptor, True)
    arguments = [module, str(file), str(status)]
    os.execve(
        sys.executable, [*image.PYTHON_MODULE, "daybook.worker.child_setup", *arguments], public
    )


def line_buffer_output() -> None:
    """Write each printed line to the output file at once, so that a killed child loses none."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True, errors="backslashreplace")


def main(arguments: list[str]) -> NoReturn:
    """Run the task of a fresh interpreter that `exec_fresh` started."""
    deny_inspection()
    module, file, status = arguments[0], int(arguments[1]), int(arguments[2])
    os.set_inheritable(status, False)

    def work() -> int:
        line_buffer_output()
        request = read_unnamed_file(file)
        os.environ.update(request["secrets"])
        return load_program(module).run(LaunchRequest(**request["task"]), status, fresh=True)

    forked.exit_with(work)


if __name__ == "__main__":
    main(sys.argv[1:])
