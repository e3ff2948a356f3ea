"""Output to a log on a full disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PRINTS = """
import logging, sys
logging.basicConfig()
print("a line", flush=True)
logging.error("an error")
print("another line", file=sys.stderr, flush=True)
"""
SURVIVES = "from daybook.processes import output; output.survive_full_disk()"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="service absent: /dev/full")
def test_a_full_disk_ends_only_a_process_that_does_not_prepare_for_it(tmp_path: Path) -> None:
    def code(program: str, log: Path) -> int:
        with log.open("wb") as out:
            return subprocess.call([sys.executable, "-c", program], stdout=out, stderr=out)

    assert code(PRINTS, Path("/dev/full")) != 0
    assert code(SURVIVES + PRINTS, Path("/dev/full")) == 0
    assert code(SURVIVES + PRINTS, tmp_path / "log") == 0
    assert (tmp_path / "log").read_text().splitlines() == [
        "a line",
        "ERROR:root:an error",
        "another line",
    ]
