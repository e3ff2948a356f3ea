"""Free ports, and a migrated database for the Prefect servers that tests start."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from itertools import cycle
from pathlib import Path

from daybook.home import Home
from daybook.operations import server

# Below the ephemeral range of Linux and macOS, so the system assigns such a port to no connection
# and no listener on port 0 before the test's server starts. Each test process has its own offset.
_BEGIN, _COUNT = 10_000, 20_000
_numbers = cycle(_BEGIN + (os.getpid() * 101 + each) % _COUNT for each in range(_COUNT))

# Prefect needs 5 to 12 seconds to migrate an empty database, so tests keep the first server's
# database for the next ones, one file for each version of Prefect.
_MIGRATED = Path(__file__).parents[1] / ".pytest_cache" / f"prefect-{version('prefect')}.db"


def free_port() -> int:
    """Return a port on which nothing listens, a different one at each call."""
    return next(port for port in _numbers if server.free_port(port) == port)


def migrate(home: Home) -> Home:
    """Copy the kept database into the home, if there is one and the home has none."""
    database = home.make().prefect / "prefect.db"
    if _MIGRATED.exists() and not database.exists():
        shutil.copy(_MIGRATED, database)
        database.chmod(0o600)
    return home


@contextmanager
def migrated(home: Home) -> Iterator[None]:
    """Give the home a migrated database; the body starts its server and waits until it is healthy.

    If no database is kept yet, keep this home's; other test processes wait for it.
    """
    _MIGRATED.parent.mkdir(exist_ok=True)
    with _MIGRATED.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _MIGRATED.exists():
            fcntl.flock(lock, fcntl.LOCK_UN)
        migrate(home)
        yield
        if not _MIGRATED.exists():
            copy = _MIGRATED.with_suffix(".new")
            with (
                closing(sqlite3.connect(home.prefect / "prefect.db")) as there,
                closing(sqlite3.connect(copy)) as copied,
            ):
                there.backup(copied)
            copy.replace(_MIGRATED)
