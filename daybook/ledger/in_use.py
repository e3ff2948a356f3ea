"""Which ledger this home's running `daybook up` has opened.

`up` writes it down in `up.json` (`daybook.operations.home_lock`). A process beside it that opens a ledger at
the same place compares: if the file is gone or is another one, the process refuses to go on, and it
never makes a new ledger there.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

from daybook import home


@dataclass(frozen=True)
class InUse:
    """An open ledger. ``inode`` is 0 and ``wal`` false for one that is kept in no file.

    ``wal``: its `-wal` file lies beside it for as long as a process has it open.
    """

    place: str
    id: str
    inode: int = 0
    wal: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def at(place: str) -> InUse | None:
    """The ledger that this home's `up` has opened at ``place``; None if it runs none there."""
    try:
        told = (home.here().running() or {}).get("ledger")
        found = InUse(**told) if told else None
    except (OSError, TypeError):  # not readable, or written by another version
        return None
    return found if found is not None and _real(found.place) == _real(place) else None


def _real(place: str) -> str:
    """The place with its path, if it has one, free of symbolic links."""
    scheme, colons, path = place.partition(":///")
    return f"{scheme}{colons}{os.path.realpath(path)}" if colons and path else place
