"""The check of doctor in `.ci/unlocked`, run by its own shell."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = (Path(__file__).parents[2] / ".ci" / "unlocked").read_text()
ALL = "ok       home\nok       ledger\n"


def run_healthy(folder: Path, findings: str, code: int) -> subprocess.CompletedProcess[str]:
    """Run the script's `healthy` with a doctor that prints `findings` and exits with `code`."""
    function = re.search(r"^healthy\(\) \{\n.*?^\}\n", SCRIPT, re.DOTALL | re.MULTILINE)
    assert function is not None
    doctor = folder / "daybook"
    doctor.write_text(f"#!/bin/sh\ncat '{folder}/findings'\nexit {code}\n")
    doctor.chmod(0o700)
    (folder / "findings").write_text(findings)
    lines = (
        f"set -eu\nfolder='{folder}'\nPATH='{folder}':$PATH\n{function[0]}healthy\necho went on\n"
    )
    return subprocess.run(["sh", "-c", lines], capture_output=True, text=True, check=False)


def test_the_script_calls_healthy() -> None:
    assert re.search(r"^healthy$", SCRIPT, re.MULTILINE)


def test_the_script_continues_if_doctor_finds_nothing(tmp_path: Path) -> None:
    done = run_healthy(tmp_path, ALL, 0)
    assert (done.returncode, done.stdout) == (0, "went on\n")


@pytest.mark.parametrize(
    ("findings", "code"),
    [(f"{ALL}problem  worker   no worker\n", 1), (ALL, 1), ("", 0), ("", 1), ("went wrong\n", 0)],
)
def test_the_script_stops_and_prints_the_problems(tmp_path: Path, findings: str, code: int) -> None:
    done = run_healthy(tmp_path, findings, code)
    assert done.returncode == 1
    assert done.stdout == "".join(f"{line}\n" for line in findings.splitlines() if line[:2] != "ok")
