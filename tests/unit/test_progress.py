"""`.ci/progress`: how far pip is, as `make` shows it."""

from __future__ import annotations

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


def test_what_is_no_terminal_gets_a_line_now_and_then() -> None:
    done = subprocess.run([PROGRAM], input=SAID, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "fetching package 25: some.package25",
        "fetching package 50: some.package50",
        "installing 60 packages",
    ]


def test_a_terminal_gets_one_line_that_is_rewritten() -> None:
    ours, theirs = pty.openpty()
    try:
        subprocess.run([PROGRAM], input=SAID, stderr=theirs, text=True, check=True)
        shown = os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "\n" not in shown
    lines = shown.split("\r\x1b[K")
    assert lines[1] == "fetching package 1: some.package1"
    assert lines[60] == "fetching package 60: some.package60"
    assert lines[-2:] == ["installing 60 packages", ""]
