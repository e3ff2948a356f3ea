"""The SQLite database of Daybook's own Prefect server: its size, and the return of free space.

The server deletes old runs with their logs and artifacts, orphaned logs and artifacts, and old
events (`server.environment`). SQLite uses the free space again, but does not return it to the disk
by itself. Daybook returns the space:

- When a server starts, it compacts its database if this returns enough space and takes only
  seconds. The compaction also turns on SQLite's incremental vacuum.
- A running server returns free space in steps that take a few milliseconds each, so that no request
  has to wait.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import NoReturn

from daybook import home as homes
from daybook.home import Home

MAX_BYTES = 4 * 2**30
"""Size of the database above which `daybook status` warns."""
MIN_FREE_SHARE = 0.25
MIN_FREE_BYTES = 64 * 2**20
"""Minimum free part of a file that is worth returning, as a share and in bytes."""
MAX_COMPACTED_BYTES = 2**30
"""Maximum size of the used part, because the start waits while SQLite copies this part twice."""
RELEASE_INTERVAL_SECONDS = 3600.0
STEP_PAGES = 100
STEP_PAUSE_SECONDS = 0.05
"""Time for other writers after each transaction, which returns `STEP_PAGES` pages."""
_INCREMENTAL = 2


def path(home: Home) -> Path:
    return home.prefect / "prefect.db"


def compact(file: Path) -> bool:
    """Compact a SQLite file to return its free space to the disk. Return whether this was done.

    Also turn on the file's incremental vacuum if it is off. Do nothing if the vacuum is on and
    there is little free space. Do nothing either if the compaction would take long, if the disk has
    no space for the copy, or if another process uses the file. If the process is killed meanwhile,
    the file does not change.
    """
    if not file.is_file():
        return False
    try:
        with closing(_connect(file)) as connection:
            free, pages = _pages(connection)
            used = (pages - free) * _pragma(connection, "page_size")
            is_incremental = _pragma(connection, "auto_vacuum") == _INCREMENTAL
            if is_incremental and not _is_worth_while(connection):
                return False
            if used > MAX_COMPACTED_BYTES:
                return False
            if homes.free_bytes(file.parent) < 2 * used + homes.MIN_FREE_BYTES:
                return False
            # The VACUUM below applies this.
            connection.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error:  # the server reports a file that it cannot use
        return False
    return True


def release_regularly(file: Path) -> NoReturn:
    """Call `release` every `RELEASE_INTERVAL_SECONDS`, in a thread of the server."""
    while True:
        time.sleep(RELEASE_INTERVAL_SECONDS)
        release(file)


def release(file: Path) -> int:
    """Shrink a SQLite file that is in use by releasing its free pages. Return their number.

    Do nothing if there are few free pages, or if `compact` has not turned on incremental vacuum.
    Each step is a transaction that takes a few milliseconds. If another writer interferes, stop;
    the next call releases the other pages. If SQLite reports an error, return 0.
    """
    try:
        with closing(_connect(file)) as connection:
            is_incremental = _pragma(connection, "auto_vacuum") == _INCREMENTAL
            if not is_incremental or not _is_worth_while(connection):
                return 0
            before = left = _pages(connection)[0]
            while left:
                # `execute` would release only one page, because it steps such a statement once.
                connection.executescript(f"PRAGMA incremental_vacuum({STEP_PAGES})")
                time.sleep(STEP_PAUSE_SECONDS)
                last, left = left, _pages(connection)[0]
                if left >= last:  # other writers free pages as fast as this process releases them
                    break
    except sqlite3.Error:
        return 0
    return before - left


def _connect(file: Path) -> sqlite3.Connection:
    name = f"{file.absolute().as_uri()}?mode=rw"  # this mode does not create the file
    return sqlite3.connect(name, timeout=1.0, isolation_level=None, uri=True)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _pages(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return the numbers of free pages and of all pages."""
    return _pragma(connection, "freelist_count"), _pragma(connection, "page_count")


def _is_worth_while(connection: sqlite3.Connection) -> bool:
    free, pages = _pages(connection)
    free_bytes = free * _pragma(connection, "page_size")
    return free_bytes >= MIN_FREE_BYTES and free >= MIN_FREE_SHARE * pages


def size(home: Home) -> int:
    """Return the size of the database in bytes. Return 0 if there is none."""
    try:
        return path(home).stat().st_size
    except OSError:
        return 0
