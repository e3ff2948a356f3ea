"""A `daybook` command that starts at once, for tests that type many commands.

A server process imports everything once and forks for each command. The fork has the caller's
descriptors, folder and environment, and its output and exit code are those of the real command. A
command whose `DAYBOOK_` or `PREFECT_` variables differ from the server's runs as a new process.

`python -m tests.preloaded DESCRIPTOR` is the server; `program` starts it and writes the command.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from daybook import api, cli
from daybook.cli.main import main

REAL = [sys.executable, "-m", "daybook"]

PROGRAM = """#!{python} -IS
import os, socket, sys
if sys.argv[1:2] in (["up"], ["web"], ["mcp"]):  # these run until they get a signal
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
    """Start the server with this environment; yield the path of the command, in ``folder``."""
    # The path of a Unix socket is limited to 104 characters on macOS.
    short = Path(tempfile.mkdtemp(prefix="daybook-", dir="/tmp"))
    address, path = short / "commands", folder / "daybook"
    with socket.socket(socket.AF_UNIX) as listens:
        listens.bind(str(address))
        listens.listen()
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.preloaded", str(listens.fileno())],
            env=dict(environment),
            pass_fds=[listens.fileno()],
            start_new_session=True,
        )
    path.write_text(PROGRAM.format(python=sys.executable, address=address))
    path.chmod(0o700)
    try:
        yield path
    finally:
        os.killpg(child.pid, signal.SIGTERM)  # also ends commands whose caller was killed
        child.wait()
        shutil.rmtree(short)


def _settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a process reads once, before its imports."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(("DAYBOOK_", "PREFECT_"))
    }


def _serve(listens: socket.socket) -> None:
    settings = _settings(os.environ)
    from daybook import home

    home.configure_prefect()
    for package in (cli, api):
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
    """Run the requested command in this process and send its exit code."""
    code = os.EX_SOFTWARE
    try:
        text, descriptors, _, _ = socket.recv_fds(line, 1 << 20, 3)
        while not text.endswith(b"\n"):
            more = line.recv(1 << 20)
            if not more:
                sys.exit()  # the caller has ended
            text += more
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
