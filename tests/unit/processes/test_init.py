"""The program as process 1 of a pid namespace."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.namespaces import needs_namespaces

pytestmark = needs_namespaces

PROGRAM = """
import os, signal, sys
from daybook.processes import init
init.fork_if_first()
"""


def _start(program: str) -> subprocess.Popen[str]:
    """Run the program as process 1 of a new namespace."""
    namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return subprocess.Popen(
        [*namespace, sys.executable, "-P", "-c", PROGRAM + program],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("end", "code"),
    [("sys.exit(4)", 4), ("", 0), ("os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL)],
)
def test_process_1_ends_with_the_exit_code_of_the_program(end: str, code: int) -> None:
    with _start(f"print(os.getpid())\n{end}") as process:
        assert process.stdout is not None
        assert int(process.stdout.read() or 2) != 1
    assert process.returncode == code


def test_process_1_passes_signals_on_and_reaps_orphans() -> None:
    program = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
reading, writing = os.pipe()
if os.fork() == 0:          # this process ends, and so makes its child an orphan
    orphan = os.fork()
    if orphan == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    print(orphan)
    sys.exit(0)
os.wait()
orphan = max(int(each) for each in os.listdir("/proc") if each.isdigit())
assert open(f"/proc/{orphan}/stat").read().split()[3] == "1"
os.write(writing, b"x")
while os.path.exists(f"/proc/{orphan}"):
    pass
os.kill(1, signal.SIGTERM)
signal.pause()
"""
    with _start(program) as process:
        try:
            assert process.wait(30) == 7
        finally:
            process.kill()  # `--kill-child` ends the namespace too
