"""The limit of open files of Daybook's own processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from daybook.processes import open_files
given = tuple(map(int, sys.argv[1:3]))
resource.setrlimit(resource.RLIMIT_NOFILE, given)
open_files.raise_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "raised"), [(256, 4096, 1024), (256, 512, 512), (2048, 4096, 2048)]
)
def test_only_a_low_soft_limit_is_raised(soft: int, hard: int, raised: int) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, str(soft), str(hard)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(raised), str(hard)]
