"""The script `.ci/progress`, which shows pip's progress during `make`."""

from __future__ import annotations

import errno
import os
import pty
import subprocess

from tests.conftest import REPOSITORY

PROGRAM = str(REPOSITORY / ".ci" / "progress")
SAID = "".join(
    f"Collecting some.package{number}==1.{number} (from -r requirements.lock (line 3))\n"
    f"  Downloading some_package{number}-1.{number}-py3-none-any.whl (12 kB)\n"
    for number in range(1, 61)
)
SAID += "Installing collected packages: a, b, c\nSuccessfully installed a-1 b-2 c-3\n"


def test_without_a_terminal_every_25th_package_gets_a_line() -> None:
    done = subprocess.run([PROGRAM], input=SAID, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "fetching package 25: some.package25",
        "fetching package 50: some.package50",
        "installing 60 packages",
    ]


def read_until_closed(terminal: int) -> str:
    """Everything that was written to a terminal whose other side is closed; one read returns only
    what the kernel has passed on by then.
    """
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 100_000)
        except OSError as error:  # EIO: no process has the other side open
            if error.errno != errno.EIO:
                raise
            return shown.decode()


def test_on_a_terminal_one_line_is_rewritten() -> None:
    terminal, theirs = pty.openpty()
    try:
        try:
            subprocess.run([PROGRAM], input=SAID, stderr=theirs, text=True, check=True)
        finally:
            os.close(theirs)
        shown = read_until_closed(terminal)
    finally:
        os.close(terminal)
    assert "\n" not in shown
    lines = shown.split("\r\x1b[K")
    assert lines[1] == "fetching package 1: some.package1"
    assert lines[60] == "fetching package 60: some.package60"
    assert lines[-2:] == ["installing 60 packages", ""]
