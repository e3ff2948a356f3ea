"""What Prefect servers of tests have: a port, and a database that needs no migration."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from importlib.metadata import version
from itertools import cycle
from pathlib import Path

from daybook.home import Home
from daybook.host import server

# Below those that systems give to connections and to who asks for any port: between the choice and
# the start nobody else comes to have it. Two processes of tests begin at different ones.
_BEGIN, _COUNT = 10_000, 20_000
_numbers = cycle(_BEGIN + (os.getpid() * 101 + each) % _COUNT for each in range(_COUNT))

# Prefect needs 5 to 12 seconds to bring an empty database to its newest version. One that is there
# already is kept beside what pytest keeps, for each version of Prefect.
_MIGRATED = Path(__file__).parents[1] / ".pytest_cache" / f"prefect-{version('prefect')}.db"


def free_port() -> int:
    """One that nobody listens on; another one at each call."""
    return next(port for port in _numbers if server.free_port(port) == port)


def migrate(home: Home) -> Home:
    """Give the home a database of Prefect's newest version, if one was kept."""
    database = home.make().prefect / "prefect.db"
    if _MIGRATED.exists() and not database.exists():
        shutil.copy(_MIGRATED, database)
    return home


def keep_migrated(home: Home) -> None:
    """Keep the database of this home, whose server has just begun to answer."""
    if _MIGRATED.exists():
        return
    _MIGRATED.parent.mkdir(exist_ok=True)
    copy = _MIGRATED.with_suffix(f".{os.getpid()}")
    with (
        closing(sqlite3.connect(home.prefect / "prefect.db")) as there,
        closing(sqlite3.connect(copy)) as here,
    ):
        there.backup(here)
    copy.replace(_MIGRATED)
