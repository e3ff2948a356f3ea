"""Start of the `daybook` program. If possible, the command server of `daybook up` runs the command.

::

    client (this module)                          command server (`command_server`)
    connect to <home>/commands.sock       ──►     accept, fork, check the client
    request, one line of JSON             ──►     the child compares the code and Prefect's settings
                                          ◄──     its pid and a newline, or the end of the stream
    GO, with stdin, stdout, stderr        ──►     the child runs the command with these streams
    numbers of signals, one byte each     ──►     the child gets the same signals
                                          ◄──     the exit code and a newline

Before GO, nothing has happened. If the exchange fails before GO, the client runs the command
itself, as it does without a server. The client also runs a command itself if the server's child
could not run it in the same way. This module imports few modules, because it runs at the start of
every command.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypedDict

from daybook import __version__
from daybook.errors import DaybookError, InvalidInput
from daybook.home import current_home
from daybook.processes import garbage, init, open_files

GO = b"g"
ACCEPT_TIMEOUT_SECONDS = 2.0
"""Maximum time that the client waits until the server accepts the command.

After this time, the client runs the command itself.
"""
FORWARDED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

OWN_PROCESS = frozenset(
    {"up", "open", "down", "env", "service", "worker", "keeper", "web", "mcp", "completion"}
)
"""Commands that always run in their own process.

Most of them are servers, or start or end processes. `completion` inspects its parent, the shell.
"""


class CommandRequest(TypedDict):
    """A command as the client sends it to the server, with the environment of the client."""

    arguments: list[str]
    key: str
    identity: list[Any]
    folder: str
    umask: int
    nice: int
    ignored_signals: list[int]
    environment: dict[str, str]
    search_path: list[str]
    streams: list[list[Any]]
    """The encoding and other properties of stdin, stdout and stderr (`_request`)."""


def main() -> int:
    """Run the command line in `sys.argv`. Return its exit code, or end this process with it.

    A command in its own process ends without unloading its modules, which takes longer than many
    commands, unless a debugger or profiler needs a normal end.
    """
    init.fork_if_first()
    garbage.collect_rarely()
    open_files.raise_limit()
    arguments = sys.argv[1:]
    if _is_servable(arguments):
        try:
            code = _run_on_server(arguments)
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        if code is not None:
            return code
    from daybook.cli.main import main as run_here
    from daybook.processes import forked

    if sys.flags.inspect or sys.gettrace() or sys.getprofile():
        return run_here(arguments)
    forked.exit_with(lambda: run_here(arguments))


def identity() -> list[Any]:
    """Return the values that client and server must share, besides home and Prefect's settings."""
    python_path = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return [
        *(__version__, __file__, sys.prefix, sys.flags.optimize, sys.flags.utf8_mode),
        *(sys.getfilesystemencoding(), list(map(os.path.abspath, python_path))),
    ]


def peer_pid(connection: socket.socket) -> int:
    """Return the pid of the other end if it is a process of this user, otherwise 0 (Linux).

    It is 0 also for a process in a container beside or around this one.
    """
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, _ = struct.unpack("3i", credentials)
    return int(pid) if uid == os.getuid() else 0


def _is_servable(arguments: Sequence[str]) -> bool:
    """Return whether a child of the server could do the same as this process."""
    if sys.platform != "linux" or not arguments or arguments[0] in OWN_PROCESS:
        return False
    if arguments[0] == "edit" and len(set(arguments) - {"--json", "--"}) < 3:
        # The command opens an editor.
        return False
    if "edit" in arguments[1:2]:  # such as `daybook memory edit`
        return False
    if sys.flags.dev_mode or sys.warnoptions or None in (sys.stdin, sys.stdout, sys.stderr):
        return False
    # `@<(…)` and /dev/tty are files of this process.
    if any(folder in each for each in arguments for folder in ("/dev/", "/proc/")):
        return False
    with suppress(OSError):  # the standard input is not a terminal
        # If a background job reads from its terminal, the system stops the job, but it would not
        # stop the child.
        return os.tcgetpgrp(0) == os.getpgrp()
    return True


def _run_on_server(arguments: list[str]) -> int | None:
    """Return the exit code of the command, or None if no server has run it."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.settimeout(ACCEPT_TIMEOUT_SECONDS)
            _connect(connection)
            if not peer_pid(connection):
                return None
            connection.sendall(json.dumps(_request(arguments)).encode() + b"\n")
            stream = connection.makefile("rb")
            child = os.pidfd_open(int(stream.readline() or 0))
        except (OSError, InvalidInput, ValueError):
            # InvalidInput means that `DAYBOOK_HOME` names no folder.
            return None
        with _signals_forwarded(connection, child) as forwarded:
            connection.settimeout(None)
            try:
                socket.send_fds(connection, [GO], [0, 1, 2])
            except OSError:
                if not forwarded:
                    return None
            else:
                with suppress(OSError):
                    if code := stream.readline():
                        return int(code)
        os.close(child)
        if forwarded:  # a signal has ended the command
            signal.signal(forwarded[-1], signal.SIG_DFL)
            os.kill(os.getpid(), forwarded[-1])
    from daybook.cli.main import report_error

    return report_error(
        DaybookError(
            "the process that ran this command has ended early, probably because `daybook up` "
            "was stopped; check what the command has done before you repeat it"
        ),
        arguments,
    )


def _connect(connection: socket.socket) -> None:
    """Connect to the command server. Raise `OSError` if there is none.

    The path of a Unix socket has at most about 100 characters, so connect from the socket's folder.
    """
    path = current_home().command_socket
    folder = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path.parent)
        try:
            connection.connect(path.name)
        finally:
            os.fchdir(folder)
    finally:
        os.close(folder)


def _request(arguments: list[str]) -> CommandRequest:
    os.umask(umask := os.umask(0o077))
    streams: tuple[Any, ...] = sys.stdin, sys.stdout, sys.stderr
    ignored: list[int] = [
        each for each in FORWARDED_SIGNALS if signal.getsignal(each) is signal.SIG_IGN
    ]
    return {
        "arguments": arguments,
        "key": current_home().command_key_file.read_text(encoding="ascii"),
        "identity": identity(),
        "folder": os.getcwd(),
        "umask": umask,
        "nice": os.nice(0),
        "ignored_signals": ignored,
        "environment": dict(os.environ),
        "search_path": list(map(str, sys.path)),
        "streams": [
            [stream.encoding, stream.errors, stream.line_buffering, stream.write_through]
            for stream in streams
        ],
    }


@contextmanager
def _signals_forwarded(connection: socket.socket, child: int) -> Iterator[list[int]]:
    """Send the signals that this process gets to the child. Yield a list of the signals sent.

    Ctrl-Z stops both processes, and later both continue together.
    """
    forwarded: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        forwarded.append(number)
        with suppress(OSError):  # the command has just ended
            connection.send(bytes([number]))

    def stop_both(number: int, frame: FrameType | None) -> None:
        _signal(child, signal.SIGSTOP)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # this call returns when the process continues
        signal.signal(signal.SIGTSTP, stop_both)
        _signal(child, signal.SIGCONT)

    handlers = dict.fromkeys(FORWARDED_SIGNALS, forward) | {signal.SIGTSTP: stop_both}
    old_handlers = {
        number: signal.signal(number, handler)
        for number, handler in handlers.items()
        # `nohup` ignores SIGHUP, and for a background job a shell ignores SIGINT. These signals
        # stay ignored.
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield forwarded
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)


def _signal(child: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(child, number)
