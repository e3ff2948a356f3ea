"""A program that tries to leave its sandbox: one function for each attempt. It imports no Daybook.

It makes the attempts that its arguments name, each in a process of its own. It prints the results
as JSON: `+` and what an attempt has achieved, or `-` and why it has failed. The first argument is a
JSON file with the paths, ports and processes that the test has prepared.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from pathlib import Path

from tests.unit.processes.hostile import kernel, network, processes, reading, resources, writing
from tests.unit.processes.hostile.registry import (
    ATTEMPTS,
    INHERITED,
    TARGETS,
    TIMEOUT_SECONDS,
)

MODULES = (kernel, network, processes, reading, resources, writing)
"""Modules that add their attempts when they are imported."""


def _try(name: str) -> str:
    """Make one attempt in a child; return what it reported."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        signal.alarm(TIMEOUT_SECONDS)
        try:
            result = ATTEMPTS[name][0]()
            said = f"+{type(result).__name__}" if result else "-without an error"
        except OSError as error:
            said = f"-{errno.errorcode.get(error.errno or 0, error)}"
        except BaseException as error:
            said = f"-{type(error).__name__}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        said = file.read(200).decode()
    _, status = os.waitpid(pid, 0)
    return said or f"-ended by signal {status & 127}"


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def main() -> None:
    given, *names = sys.argv[1:]
    INHERITED[:] = [each for each in range(3, 1024) if _is_open(each)]
    TARGETS.update(json.loads(Path(given).read_text()))
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    print(json.dumps({name: _try(name) for name in names or ATTEMPTS}))
