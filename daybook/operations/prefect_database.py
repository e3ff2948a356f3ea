"""The SQLite database of Daybook's own Prefect server: its size, and the return of free space.

The server deletes old runs, their logs and artifacts, orphans of these, and old events
(`server.environment`). SQLite uses the space again, but does not return it to the disk. So a server
that starts compacts its database first, if that is worth while and takes seconds.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from daybook import home as homes
from daybook.home import Home

MAX_BYTES = 4 * 2**30
"""Size of the database above which `daybook status` warns."""
MIN_FREE_SHARE = 0.25
MIN_FREE_BYTES = 64 * 2**20
"""Free part of a file that is worth compacting."""
MAX_COMPACTED_BYTES = 2**30
"""Maximum size of the rest, which is copied twice; the server's start waits for that."""


def path(home: Home) -> Path:
    return home.prefect / "prefect.db"


def compact(file: Path) -> bool:
    """Return the free space of a SQLite file to the disk; return whether that was done.

    Do nothing if there is little to return, if it would take long, if the disk has no space for the
    copy, or if another process uses the file. A process that is killed meanwhile changes nothing.
    """
    if not file.is_file():
        return False
    try:
        with closing(sqlite3.connect(file, timeout=1.0, isolation_level=None)) as connection:
            page_size, pages, free = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_size", "page_count", "freelist_count")
            )
            used = (pages - free) * page_size
            is_worth_while = free * page_size >= MIN_FREE_BYTES and free >= MIN_FREE_SHARE * pages
            if not is_worth_while or used > MAX_COMPACTED_BYTES:
                return False
            if homes.free_bytes(file.parent) < 2 * used + homes.MIN_FREE_BYTES:
                return False
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error:  # the server reports a file that it cannot use
        return False
    return True


def size(home: Home) -> int:
    """Return the size of the database in bytes; 0 if there is none."""
    try:
        return path(home).stat().st_size
    except OSError:
        return 0
