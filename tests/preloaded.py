"""`daybook` without its start: for tests of which the start of a process is not the point.

Each command runs in a fork of one process that has imported everything. It has the descriptors, the
folder and the environment of who typed it, and what it prints and its exit code are those of the
real command. One whose settings of Daybook or Prefect are others than those that were imported
under runs as the real command does.

`python -m tests.preloaded DESCRIPTOR` is that process, which listens there; a program that
`program` writes stands for the command.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from daybook import cli, service
from daybook.cli.main import main

REAL = [sys.executable, "-m", "daybook"]

PROGRAM = """#!{python} -IS
import os, socket, sys
if sys.argv[1:2] in (["up"], ["web"], ["mcp"]):  # they run until somebody sends them a signal
    os.execv("{python}", ["{python}", "-m", "daybook", *sys.argv[1:]])
import json
line = socket.socket(socket.AF_UNIX)
line.connect("{address}")
asked = [sys.argv[1:], os.getcwd(), dict(os.environ)]
socket.send_fds(line, [json.dumps(asked).encode() + b"\\n"], [0, 1, 2])
sys.exit(int(line.makefile().read() or 70))
"""


@contextmanager
def program(folder: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    """A program in ``folder`` that is `daybook` with this environment, and there until the end."""
    address, path = folder / "commands", folder / "daybook"
    with socket.socket(socket.AF_UNIX) as listens:
        listens.bind(str(address))
        listens.listen()
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.preloaded", str(listens.fileno())],
            env=dict(environment),
            pass_fds=[listens.fileno()],
        )
    path.write_text(PROGRAM.format(python=sys.executable, address=address))
    path.chmod(0o700)
    try:
        yield path
    finally:
        child.terminate()
        child.wait()


def _settings(environment: Mapping[str, str]) -> dict[str, str]:
    """What a process reads once, before its imports."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(("DAYBOOK_", "PREFECT_"))
    }


def _serve(listens: socket.socket) -> None:
    settings = _settings(os.environ)
    from daybook import home

    home.enter()
    for package in (cli, service):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    importlib.import_module("prefect.main")
    while True:
        line, _ = listens.accept()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            listens.close()
            _execute(line, settings)
        line.close()


def _execute(line: socket.socket, settings: Mapping[str, str]) -> NoReturn:
    """Be the command that is asked for, and tell its exit code."""
    code = os.EX_SOFTWARE
    try:
        text, descriptors, _, _ = socket.recv_fds(line, 1 << 20, 3)
        while not text.endswith(b"\n"):
            text += line.recv(1 << 20)
        words, folder, environment = json.loads(text)
        for standard, given in enumerate(descriptors):
            os.dup2(given, standard)
            os.close(given)
        os.chdir(folder)
        if _settings(environment) == settings:
            os.environ.update(environment)
            sys.argv = ["daybook", *words]
            code = main(words)
        else:
            code = subprocess.run([*REAL, *words], env=environment, check=False).returncode
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else os.EX_SOFTWARE
    except BaseException:
        traceback.print_exc()
    finally:
        for printed in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                printed.flush()
        with suppress(OSError):
            line.sendall(str(code).encode())
        os._exit(code)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _serve(socket.socket(fileno=int(sys.argv[1])))
