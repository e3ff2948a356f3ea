"""Command server of `daybook up`: a process that has imported all modules and forks for commands.

`entry` is the client of this server; its docstring shows the protocol. A command runs in a forked
child with the arguments, folder, environment and streams of the client, so it prints the same as in
a process of its own. If the result could differ, the child refuses the request before it does
anything, and the client runs the command itself. The child refuses

- another version or installation, or other values of `entry.identity`,
- a client that sees other files, processes, users or another network,
- a client with other rights,
- a folder that the child cannot enter,
- another home, and
- other settings of Prefect, which Prefect reads only once, at its import.

The server has one thread, so that a fork is safe. It serves only processes of its own user: the
socket has mode 0600, and each end checks the credentials of the other end. A command has the rights
of the server, so the server refuses a client with fewer rights. Such a client cannot read the key
in the home, which is new at each start, or it has other groups, capabilities or filters of system
calls. The server does not compare resource limits and control groups, because each terminal may
have its own.

The child gets the signals of the client. If the client dies, the child is killed. At SIGTERM, the
server waits until the running commands have ended. If Daybook or another installed package changes,
the server restarts at the next request, which the client then runs itself.
"""

from __future__ import annotations

import gc
import hmac
import json
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from daybook import home as homes
from daybook.cli import entry
from daybook.operations import preload
from daybook.processes import forked, garbage, output, proc

_BACKLOG = 64
_REQUEST_TIMEOUT_SECONDS = 10.0
_RIGHTS = (
    *("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"),
    *("NoNewPrivs", "Seccomp", "Seccomp_filters"),
)
"""Lines of `/proc/PID/status` that must be the same for a client and the server."""


def main() -> NoReturn:
    """Serve commands until SIGTERM. If the installed files change, replace this process."""
    output.survive_full_disk()
    proc.deny_inspection()  # a command has the credential of Prefect
    garbage.collect_rarely()
    homes.configure_prefect()
    code_version = preload.code_fingerprint()
    listener = _bind()
    preload.import_commands()
    # Remove Prefect's handler, which writes to the stderr of this process.
    logging.root.handlers.clear()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system then reaps the children
    signal.signal(signal.SIGTERM, _wait_for_children)
    key = secrets.token_urlsafe(32)
    key_file = homes.current_home().command_key_file
    homes.write_private_draft(key_file, key).replace(key_file)
    listener.listen(_BACKLOG)
    print(f"Ready for commands on {homes.current_home().command_socket}", flush=True)
    while True:
        connection, _ = listener.accept()
        if preload.code_fingerprint() != code_version:
            break
        with connection, suppress(OSError):  # if the fork fails, the connection is closed
            _fork(listener, connection, key)
    print("Starting again, because the installed files have changed", flush=True)
    os.execve(
        sys.executable,
        [sys.executable, "-P", "-m", "daybook.cli.command_server"],
        homes.without_credentials(os.environ),
    )


def _bind() -> socket.socket:
    """Bind the server's socket to its path, and return it. Do not listen on it yet.

    If the socket cannot be created, wait until this process is killed, because `up` would start an
    exited process again.
    """
    path = homes.current_home().command_socket
    os.chdir(path.parent)  # the path of a Unix socket has at most about 100 characters
    Path(path.name).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    umask = os.umask(0o177)
    try:
        listener.bind(path.name)
    except OSError as error:  # the file system does not support sockets
        print(f"Commands run in processes of their own: {path}: {error}", flush=True)
        while True:
            signal.pause()
    finally:
        os.umask(umask)
    return listener


def _wait_for_children(number: int, frame: FrameType | None) -> NoReturn:
    """End this server when no command is running. If this takes too long, `up` kills the server."""
    with suppress(ChildProcessError):  # there is no child left, because SIGCHLD is ignored
        os.wait()
    os._exit(0)


def _fork(listener: socket.socket, connection: socket.socket, key: str) -> None:
    # No signal may reach a child that still has the server's handlers and process group.
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        if os.fork() == 0:
            _serve(listener, connection, key)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)


def _serve(listener: socket.socket, connection: socket.socket, key: str) -> NoReturn:
    """Run the requested command in this forked process, and then end the process."""
    is_running = threading.Event()

    def work() -> int:
        os.setpgid(0, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        listener.close()
        request = _accept(connection, key)
        if request is None:
            return 0
        for number in entry.FORWARDED_SIGNALS:  # `up` may have been started with other handlers
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            is_ignored = number in request["ignored_signals"]
            signal.signal(number, signal.SIG_IGN if is_ignored else default)
        from daybook.cli.main import main as run

        sys.argv = ["daybook", *request["arguments"]]
        is_running.set()
        try:
            receive = threading.Thread(
                target=_receive_signals, args=(connection, is_running), daemon=True
            )
            receive.start()
            return run(request["arguments"])
        except KeyboardInterrupt:  # Ctrl-C came outside of the part of `main` that handles it
            return 128 + signal.SIGINT

    def send_code(code: int) -> None:
        if is_running.is_set():
            is_running.clear()
            connection.sendall(b"%d\n" % code)

    forked.exit_with(work, send_code)


def _accept(connection: socket.socket, key: str) -> entry.CommandRequest | None:
    """Return the request, after adopting its environment and streams.

    Return None if this child must end.
    """
    connection.settimeout(_REQUEST_TIMEOUT_SECONDS)
    client = entry.peer_pid(connection)
    if not (_sees_the_same(client) and _has_the_same_rights(client)):
        return None
    text = connection.makefile("rb").readline()
    if not text.endswith(b"\n"):
        return None
    request: entry.CommandRequest = json.loads(text)
    if not hmac.compare_digest(str(request.get("key")).encode(), key.encode()):
        return None
    if not _adopt(request):
        return None
    connection.sendall(b"%d\n" % os.getpid())
    answer, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
    if answer != entry.GO:
        return None  # the client has stopped waiting
    connection.settimeout(None)
    _use_streams(descriptors, request["streams"])
    return request


def _sees_the_same(pid: int) -> bool:
    """Return whether ``pid`` sees the same files, processes, users and network as this process.

    This function works only on Linux.
    """
    try:
        return os.path.samefile(f"/proc/{pid}/root", "/") and all(
            os.readlink(f"/proc/{pid}/ns/{each}") == os.readlink(f"/proc/self/ns/{each}")
            for each in ("mnt", "pid", "user", "net")
        )
    except OSError:
        return False


def _has_the_same_rights(pid: int) -> bool:
    """Return whether the process ``pid`` has the same rights as this process (Linux).

    False also for a process with `NoNewPrivs`: Landlock may restrict it, which the system does not
    show.
    """
    try:
        theirs = _rights(pid)
        return theirs == _rights(os.getpid()) and theirs["NoNewPrivs"] == "0"
    except (OSError, KeyError):
        # A KeyError means that the kernel does not show one of the `_RIGHTS`.
        return False


def _rights(pid: int) -> dict[str, str]:
    folder = Path(f"/proc/{pid}")
    lines = (line.partition(":") for line in (folder / "status").read_text().splitlines())
    shown = {name: value.strip() for name, _, value in lines}
    rights = {name: shown[name] for name in _RIGHTS}
    with suppress(OSError):  # the kernel has no security modules that label processes
        rights["label"] = (folder / "attr" / "current").read_text()
    return rights


def _adopt(request: entry.CommandRequest) -> bool:
    """Adopt the client's environment. Return whether the command would have the same result.

    If the result is False, this process must end.
    """
    if request["identity"] != entry.identity():
        return False
    home = homes.home_path()
    os.environ.clear()
    os.environ.update(request["environment"])
    try:
        os.chdir(request["folder"])
    except OSError:
        return False
    os.umask(request["umask"])
    with suppress(PermissionError):  # `up` runs with a higher nice value than the client
        os.setpriority(os.PRIO_PROCESS, 0, request["nice"])
    sys.path[:] = request["search_path"]
    time.tzset()
    if homes.home_path() != home:
        return False
    homes.set_prefect_variables()
    from prefect.settings import Settings, get_current_settings

    return Settings() == get_current_settings()


def _use_streams(descriptors: list[int], formats: list[Any]) -> None:
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    streams = []
    for number, (encoding, errors, line_buffering, write_through) in enumerate(formats):
        mode = "w" if number else "r"
        stream = open(number, mode, encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115
        assert isinstance(stream, TextIOWrapper)
        stream.reconfigure(line_buffering=line_buffering, write_through=write_through)
        streams.append(stream)
    sys.stdin, sys.stdout, sys.stderr = streams


def _receive_signals(connection: socket.socket, is_running: threading.Event) -> None:
    """Send this process the signals that its client got. If the client dies, kill this process."""
    with suppress(OSError):
        while received := connection.recv(1):
            os.kill(os.getpid(), received[0])
    if is_running.is_set():
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
