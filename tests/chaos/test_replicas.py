"""The chaos test with replicas of Prefect, for a short time (`make chaos` runs longer ones)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from chaos import replicas

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.mark.skipif(bool(replicas.missing()), reason=f"service absent: {replicas.missing()}")
def test_faults_of_replicas_and_redis_break_no_promise() -> None:
    command = [
        *(sys.executable, "-m", "chaos", "--ledger", "postgresql", "--replicas"),
        *("--seconds", "45", "--faults", "12", "--longest-stop", "15", "--rate", "0.5"),
        *("--seed", "15"),
    ]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| promises broken | 0 |" in done.stdout
    assert "| … kill an api |" in done.stdout
