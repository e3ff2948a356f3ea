"""The `Database` protocol: the part of a ledger that differs between SQLite and PostgreSQL.

Both implementations (`sqlite`, `postgresql`) provide a write transaction that holds the claim lock
from its start (promise 1), and a read transaction that sees a snapshot. Both raise one error for
all causes that make the ledger unreachable. Most tests of `tests/unit/ledger` run with both.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Protocol

from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from daybook.clock import Clock
from daybook.errors import LedgerReplaced
from daybook.ledger.in_use import InUse

_AFRESH = (
    "to use a copy or an empty ledger, run `daybook down`, put the file there, run `daybook up`"
)

MOVED_AWAY = (
    "was deleted or moved away while it was in use",
    f"move the file back to continue; {_AFRESH}",
)
REPLACED = (
    "was replaced by another file while it was in use",
    "move the original file back to continue; to use the new one, run `daybook down`, `daybook up`",
)
EMPTIED = ("was emptied while it was in use", _AFRESH)
"""Problem and hint for `LedgerReplaced`, like `MOVED_AWAY` and `REPLACED`."""


def wal_lost(name: str) -> tuple[str, str]:
    """Return the problem and hint for a file whose `-wal` or `-shm` file was lost or replaced."""
    return (
        f"lost its file {name}-wal or {name}-shm while it was in use",
        "run `daybook down`, which saves its contents, then `daybook up`",
    )


def another_ledger(was: str, found: str) -> tuple[str, str]:
    """Return the problem and hint for a ledger with another id."""
    return (
        f"was replaced by another ledger while it was in use: it was {was}, and is {found}",
        "put the original back; to use the new one, run `daybook down`, `daybook up`",
    )


class Database(Protocol):
    """One database; the first transaction opens the first connection."""

    @property
    def place(self) -> str:
        """Return the address, without a password."""
        ...

    @property
    def engine(self) -> AsyncEngine:
        """Return the engine, which holds the connections."""
        ...

    @property
    def clock(self) -> Clock:
        """Return the clock that decides whether a run is due."""
        ...

    def prepare_files(self, in_use: InUse | None) -> None:
        """Create the files that the first connection needs; raise `LedgerUnreachable` on failure.

        If a running `daybook up` has the ledger ``in_use``, create nothing, and raise
        `LedgerReplaced` if the ledger is no longer at its path or lacks a file.
        """
        ...

    def identity(self, ledger_id: str) -> InUse:
        """Return the ledger's identity, which other processes compare with the ledger they open.

        Call it only after the first connection was opened.
        """
        ...

    def replaced(self) -> LedgerReplaced | None:
        """Return the error to raise if the ledger is no longer at its path, else None.

        A ledger without a path, such as one in PostgreSQL, always returns None.
        """
        ...

    def reading(self) -> AsyncSession:
        """Return a session for one read transaction."""
        ...

    async def begin_reading(self, session: AsyncSession) -> None:
        """Begin the read transaction of ``session``, a result of `reading`, on a snapshot."""
        ...

    def writing(self) -> AsyncSession:
        """Return a session for one write transaction."""
        ...

    async def begin_writing(self, session: AsyncSession, left: timedelta) -> None:
        """Acquire the claim lock for ``session``, a result of `writing`; wait at most ``left``.

        Raise `LedgerUnreachable`, also if the lock is not free in time.
        """
        ...

    async def commit(self, session: AsyncSession) -> None:
        """Commit ``session``, a result of `writing`; return once it is known to have succeeded.

        Raise `LedgerUnreachable`, also if the result of the commit remains unknown, and
        `LedgerReplaced` if the commit went to a ledger that had been replaced.
        """
        ...

    def closed(self) -> None:
        """Clean up after all connections of `engine` were closed."""
        ...

    def forget(self) -> None:
        """Forget what closed connections showed, so that `engine` can be used like a new one."""
        ...

    def why_unreachable(self, error: BaseException) -> str | None:
        """Return why ``error`` of the driver means an unreachable ledger; None if it does not."""
        ...

    def skew(self) -> timedelta:
        """Return how far the database's clock is ahead of this machine's."""
        ...


def without_password(url: URL) -> str:
    """Return ``url`` without its password and its query."""
    return url.set(query={}).render_as_string(hide_password=True)


def hosts(url: URL) -> list[str]:
    """Return the hosts in the address of a PostgreSQL ledger; a socket is "" or a path."""
    named = url.query.get("host", ())
    found = [url.host or "", *([named] if isinstance(named, str) else named)]
    return list(filter(None, found)) or [os.environ.get("PGHOST", "")]
