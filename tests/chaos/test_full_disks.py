"""Disks that fill while jobs run: of the ledger, the spool, Prefect's database and the logs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from daybook.home import Home
from tests.chaos.jobs_of_up import CountedUp
from tests.servers import free_port, migrate

MEGABYTES = {"book": 16, "spool": 4, "prefect": 64, "logs": 8}
"""Size of the disk of each folder in the home."""

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0, reason="needs root, to mount file systems"
    ),
]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountedUp]:
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("empty")
    with ExitStack() as stack:
        for name, size in MEGABYTES.items():
            disk = home / name
            disk.mkdir(mode=0o700)
            options = f"size={size}m,mode=700"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)
            stack.callback(partial(subprocess.run, ["umount", "--lazy", disk], check=True))
        migrate(Home(home))
        variables = {"DAYBOOK_WEB_PORT": str(free_port())}
        running = CountedUp(home, folder, home / "book" / "ledger.db", variables)
        stack.callback(running.end)
        running.begin()
        yield running


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as out:
        for size in (2**16, 2**12, 2**8):
            try:
                while out.write(b"x" * size):
                    pass
            except OSError:
                continue


@pytest.mark.parametrize("name", MEGABYTES)
def test_work_is_refused_while_a_disk_is_full_and_continues_afterwards(
    up: CountedUp, name: str
) -> None:
    up.until_a_run_succeeds()
    disk = up.home / name
    fill(disk / "fill")
    found = up.problems()
    assert any(f"the disk of {disk} is full, so no job starts" in each for each in found), found
    up.passes(10.0)  # runs that had started before come to their end
    before = up.effects()
    up.passes(25.0)
    assert up.effects() == before
    (disk / "fill").unlink()
    up.until_a_run_succeeds()
    assert not [each for each in up.problems() if "full" in each]


def test_each_due_time_has_one_outcome(up: CountedUp) -> None:
    up.until_a_run_succeeds()
    up.check_outcomes()
