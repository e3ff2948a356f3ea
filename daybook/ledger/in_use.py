"""The ledger that this home's running `daybook up` has opened.

`up` records it in `up.json` (`daybook.operations.home_lock`). Another process that opens a ledger
at the same address compares that ledger with the record. If the file was deleted or replaced, the
process refuses to continue; it never creates a new ledger there.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass

from daybook import home
from daybook.json_text import JsonObject


@dataclass(frozen=True)
class InUse:
    """Identity of an open ledger.

    ``inode`` is the inode of the database file. ``wal`` is True if the `-wal` file exists, as it
    does while a process has the ledger open. For a ledger that is not in a file, ``inode`` is 0 and
    ``wal`` is False.
    """

    place: str
    id: str
    inode: int = 0
    wal: bool = False

    def as_json(self) -> JsonObject:
        return asdict(self)


def find(place: str) -> InUse | None:
    """Return the ledger that this home's `up` has opened at ``place``; None if there is none.

    Return None also if the record cannot be read.
    """
    try:
        recorded = (home.current_home().running() or {}).get("ledger")
        ledger = InUse(**recorded) if recorded else None
    except (OSError, TypeError):  # not readable, or written by another version
        return None
    return ledger if ledger is not None and _real(ledger.place) == _real(place) else None


def _real(place: str) -> str:
    """Return the address ``place``, with the symbolic links in its path, if any, resolved."""
    scheme, separator, path = place.partition(":///")
    return f"{scheme}{separator}{os.path.realpath(path)}" if separator and path else place
