"""The chaos test in a process of its own, which ends its own processes if it takes too long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.databases import URL

REPOSITORY = Path(__file__).parents[2]
END_SECONDS = 60.0


def run(*words: str, seconds: float, variables: Mapping[str, str]) -> str:
    """Run `python -m chaos` with these arguments; return its output if it breaks no promise.

    Raise `AssertionError` with the output otherwise, and after ``seconds``.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "chaos", *words],
        cwd=REPOSITORY,
        env=os.environ | variables | {"TEST_POSTGRESQL_URL": URL},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        printed, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # so that it ends its processes
        printed, _ = process.communicate(timeout=END_SECONDS)
        raise AssertionError(printed) from None
    assert process.returncode == 0, printed
    return printed
