"""The look at doctor in `.ci/unlocked`, carried out by the shell that it is written for."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = (Path(__file__).parents[2] / ".ci" / "unlocked").read_text()
ALL = "ok       home\nok       ledger\n"


def looked(folder: Path, said: str, code: int) -> subprocess.CompletedProcess[str]:
    """`healthy` of the script with a doctor that says and ends so, and a line after it."""
    function = re.search(r"^healthy\(\) \{\n.*?^\}\n", SCRIPT, re.DOTALL | re.MULTILINE)
    assert function is not None
    doctor = folder / "daybook"
    doctor.write_text(f"#!/bin/sh\ncat '{folder}/said'\nexit {code}\n")
    doctor.chmod(0o700)
    (folder / "said").write_text(said)
    lines = (
        f"set -eu\nplace='{folder}'\nPATH='{folder}':$PATH\n{function[0]}healthy\necho went on\n"
    )
    return subprocess.run(["sh", "-c", lines], capture_output=True, text=True, check=False)


def test_it_is_called() -> None:
    assert re.search(r"^healthy$", SCRIPT, re.MULTILINE)


def test_it_goes_on_where_all_is_well(tmp_path: Path) -> None:
    done = looked(tmp_path, ALL, 0)
    assert (done.returncode, done.stdout) == (0, "went on\n")


@pytest.mark.parametrize(
    ("said", "code"),
    [(f"{ALL}problem  worker   no worker\n", 1), (ALL, 1), ("", 0), ("", 1), ("went wrong\n", 0)],
)
def test_it_stops_and_shows_what_is_wrong(tmp_path: Path, said: str, code: int) -> None:
    done = looked(tmp_path, said, code)
    assert done.returncode == 1
    assert done.stdout == "".join(f"{line}\n" for line in said.splitlines() if line[:2] != "ok")
