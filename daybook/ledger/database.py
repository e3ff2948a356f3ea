"""What a ledger asks of the database that it is kept in; `sqlite` and `postgresql` answer.

Both give the same: a write transaction that holds the claim lock from its beginning (`docs/
promise.md` 1), a read that sees one moment, and one word for everything that keeps the ledger from
being reached. The tests of `tests/unit/ledger` run over both.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from daybook.clock import Clock
from daybook.errors import LedgerReplaced
from daybook.ledger.in_use import InUse

_AFRESH = "to use a copy of it, or an empty ledger: `daybook down`, put it there, `daybook up`"

GONE = (
    "was deleted or moved away while it was in use",
    f"move the same file back and work goes on; {_AFRESH}",
)
ANOTHER = (
    "was replaced by another file while it was in use",
    "move the former file back and work goes on; to use the new one: `daybook down`, `daybook up`",
)
EMPTIED = ("was emptied while it was in use: it holds no ledger", _AFRESH)
"""What happened to a ledger, and what to do: for `LedgerReplaced`."""


def wal_lost(name: str) -> tuple[str, str]:
    """The same for a file ``name`` whose `-wal` or `-shm` file is gone or is another."""
    return (
        f"lost its file {name}-wal or {name}-shm while it was in use",
        "`daybook down` saves what it held, then `daybook up`",
    )


def another_ledger(was: str, found: str) -> tuple[str, str]:
    """The same for one that has another id."""
    return (
        f"was replaced by another ledger while it was in use: it was {was}, and is {found}",
        "put the former back, or, to use the new one: `daybook down`, `daybook up`",
    )


class Database(Protocol):
    """One database; nothing is connected before the first transaction."""

    @property
    def place(self) -> str:
        """Where it is, without a password."""
        ...

    @property
    def engine(self) -> AsyncEngine:
        """What holds the connections."""
        ...

    @property
    def clock(self) -> Clock:
        """The clock by which due is judged."""
        ...

    def make_room(self, in_use: InUse | None) -> None:
        """Make what has to be there before the first connection; raises `LedgerUnreachable`.

        Makes nothing if a running `daybook up` has the ledger ``in_use``, and raises
        `LedgerReplaced` if that is not the one at this place any more.
        """
        ...

    def identity(self, ledger_id: str) -> InUse:
        """What others compare to see whether they open the same ledger; after a connection."""
        ...

    def replaced(self) -> LedgerReplaced | None:
        """The error to raise if the ledger is not at its place any more; else None."""
        ...

    def reading(self) -> AsyncSession:
        """A session for one read transaction."""
        ...

    async def begin_reading(self, session: AsyncSession) -> None:
        """Let ``session``, of `reading`, see one moment."""
        ...

    def writing(self) -> AsyncSession:
        """A session for one write transaction."""
        ...

    async def begin_writing(self, session: AsyncSession, left: timedelta) -> None:
        """Take the claim lock for ``session``, of `writing`, within ``left``."""
        ...

    async def commit(self, session: AsyncSession) -> None:
        """Commit ``session``, of `writing`; returns when it is known to be committed.

        Raises `LedgerReplaced` if what was committed is in a ledger that was replaced meanwhile.
        """
        ...

    def closed(self) -> None:
        """Clean up after the last connection of this process was closed."""
        ...

    def why_unreachable(self, error: BaseException) -> str | None:
        """Why the driver's ``error`` says that the ledger cannot be reached; else None."""
        ...

    def skew(self) -> timedelta:
        """How far the database's clock is ahead of this machine's."""
        ...


def of(address: str, busy: timedelta) -> Database:
    """The database at ``address``; a transaction waits ``busy`` for its turn at most."""
    url = make_url(address)
    if url.get_backend_name() == "sqlite":
        from daybook.ledger.sqlite import Sqlite

        return Sqlite(url, busy)
    from daybook.ledger.postgresql import Postgresql

    return Postgresql(url, busy)


def shown(url: URL) -> str:
    """``url`` without a password, nor what else its query may hold."""
    return url.set(query={}).render_as_string(hide_password=True)
