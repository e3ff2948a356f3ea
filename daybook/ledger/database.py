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

    def make_room(self) -> None:
        """Make what has to be there before the first connection; raises `LedgerUnreachable`."""
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
        """Commit ``session``, of `writing`; returns when it is known to be committed."""
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
