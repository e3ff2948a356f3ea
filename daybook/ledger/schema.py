"""Automatic migration of a ledger's schema, under the claim lock.

If two processes start at once, both request the lock; the second process that gets it finds the
schema up to date. Alembic is imported only if there is something to do.

Programs of several versions may use one ledger. A migration records in the facts the oldest schema
whose programs can use the migrated ledger. An older program refuses to open the ledger, and each
write transaction of an older program that has it open already is refused too.

To add a migration: write it to `versions`, and its version to `HEAD`. The second word of `HEAD` is
that oldest schema. Leave it as it is if the migration only adds tables, indexes that are not
unique, and columns with a default of the database, and if older programs may ignore them. Otherwise
write the new version twice, also if a release adds a field to jobs, for which the migration may be
empty: programs refuse jobs with unknown fields. The migrations of Daybook's features only add; one
that does more needs such a migration of the ledger. A new field of `Outcome` needs a new
`outcome_spool.VERSION`, so that an older process of the home leaves files with it to the newer one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncSession

from daybook.errors import LedgerNewer, LedgerReplaced
from daybook.ledger import database
from daybook.ledger.tables import new_id

if TYPE_CHECKING:
    from alembic.config import Config

VERSION_TABLE = "daybook_version"
MIGRATIONS = Path(__file__).parent / "migrations"

OLDEST_FACT = "oldest_schema"
"""Key of the fact that names the oldest schema whose programs can use this ledger."""

_ID = text("SELECT value FROM facts WHERE key = 'id'")
_ID_ROW = "SELECT key, value FROM facts WHERE key = 'id'"
_SET_OLDEST = text(
    f"INSERT INTO facts (key, value) VALUES ('{OLDEST_FACT}', :oldest)"
    " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)
_OLDEST = f"SELECT value FROM facts WHERE key = '{OLDEST_FACT}'"

POLL_INTERVAL_SECONDS = 0.01
_MIGRATING = threading.Lock()


@dataclass(frozen=True)
class Line:
    """One line of migrations, and the table that has the version of its tables.

    The folder has the migrations in `versions`. Its file HEAD has the newest version, so that two
    migrations written at the same time cause a merge conflict, and so that Alembic is imported only
    if there is something to do. A newer version of Daybook's tables has the greater number.
    """

    folder: Path
    version_table: str = VERSION_TABLE

    def head(self) -> str:
        """Return the newest version that this program supports.

        It is read once, and so stays if another version of the program is installed meanwhile.
        """
        return _read_head(self.folder)[0]

    def oldest(self) -> str:
        """Return the oldest version whose programs can use the tables of the newest version."""
        return _read_head(self.folder)[-1]

    def is_newer(self, version: str) -> bool:
        """Return whether ``version``, of tables of Daybook's own, is newer than this program's."""
        return _number(version) > _number(self.head())

    def current(self, connection: Connection) -> str | None:
        """Return the version of the tables; None if there are none yet."""
        if not inspect(connection).has_table(self.version_table):
            return None
        query = text(f"SELECT version_num FROM {self.version_table}")
        version = connection.execute(query).scalar()
        return None if version is None else str(version)

    def knows(self, version: str) -> bool:
        """Return whether the program has a migration to this version."""
        from alembic.script import ScriptDirectory

        scripts = ScriptDirectory.from_config(self._config())
        return version in {script.revision for script in scripts.walk_revisions()}

    def migrate(self, connection: Connection, version: str) -> None:
        """Migrate to ``version``, in the transaction of ``connection``."""
        from alembic import command

        config = self._config()
        config.attributes |= {"connection": connection, "version_table": self.version_table}
        command.upgrade(config, version)

    def _config(self) -> Config:
        from alembic.config import Config

        config = Config()
        # Config interpolates names between percent signs.
        for option, folder in (
            ("script_location", MIGRATIONS),
            ("version_locations", self.folder / "versions"),
        ):
            config.set_main_option(option, str(folder).replace("%", "%%"))
        config.set_main_option("path_separator", "newline")
        return config


def versions(connection: Connection, tables: Iterable[str]) -> dict[str, str]:
    """Return the versions that those of the version ``tables`` have that exist, in two queries."""
    found = set(inspect(connection).get_table_names())
    queries = [_version_query(name) for name in tables if name in found]
    rows = connection.execute(text(" UNION ALL ".join(queries))) if queries else ()
    return {str(name): str(version) for name, version in rows}


def id_and_versions(connection: Connection, tables: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Return the ledger's id, and the versions in the version ``tables``, in one query.

    Raise the database's error if one of the tables does not exist.
    """
    query = " UNION ALL ".join([_ID_ROW, *map(_version_query, tables)])
    found = {str(name): str(value) for name, value in connection.exec_driver_sql(query)}
    return found.pop("id", ""), found


def _version_query(table: str) -> str:
    return f"SELECT '{table}', version_num FROM {table}"


@cache
def _read_head(folder: Path) -> list[str]:
    return (folder / "HEAD").read_text().split()


def _number(version: str) -> tuple[int, str]:
    return len(version), version


def ledger_line() -> Line:
    """Return the migrations of the ledger's own tables."""
    return Line(MIGRATIONS)


def head() -> str:
    """Return the newest version of the ledger's schema that this program supports."""
    return ledger_line().head()


head()


def current(connection: Connection) -> str | None:
    """Return the version of the ledger's schema; None if the database is empty."""
    return ledger_line().current(connection)


def ledger_id(connection: Connection) -> str:
    return str(connection.execute(_ID).scalar_one())


def is_usable(connection: Connection) -> bool:
    """Return whether this program can use the ledger as it is, without a migration."""
    version = current(connection)
    if version is None or version == head():
        return version is not None
    return ledger_line().is_newer(version) and not _is_too_new(
        connection.exec_driver_sql(_OLDEST).scalar() or version
    )


def _is_too_new(oldest: str | None) -> bool:
    return oldest is not None and ledger_line().is_newer(oldest)


def keeps_programs_of(version: str) -> bool:
    """Return whether programs of this earlier version can use the ledger after `upgrade`."""
    return _number(ledger_line().oldest()) <= _number(version)


async def newer_error(session: AsyncSession) -> LedgerNewer | None:
    """Return the error to raise if a newer program has made the open ledger unusable, else None."""
    connection = await session.connection()
    # Each write transaction pays for this query, so it costs half as much CPU as by the session.
    oldest = (await connection.exec_driver_sql(_OLDEST)).scalar()
    return LedgerNewer(str(oldest), head()) if _is_too_new(oldest) else None


def check_known(version: str) -> None:
    """Raise `LedgerNewer` for a version of the schema that this program has no migration for."""
    if ledger_line().is_newer(version) or not ledger_line().knows(version):
        raise LedgerNewer(version, head())


def earlier_version(connection: Connection) -> str | None:
    """Return the version that `upgrade` would migrate from; None if it would not, or is new.

    Raise `LedgerNewer` if a newer program has made the ledger unusable for this one.
    """
    version = current(connection)
    if version is None or is_usable(connection):
        return None
    check_known(version)
    return version


def upgrade(connection: Connection) -> str:
    """Migrate to the newest version, and return the ledger's id.

    Raise `LedgerNewer` if a newer program has made the ledger unusable for this one.
    """
    if not is_usable(connection):
        version = current(connection)
        if version is not None:
            check_known(version)
        ledger_line().migrate(connection, head())
        connection.execute(_SET_OLDEST, {"oldest": ledger_line().oldest()})
    parameters = {"id": new_id()[:12]}
    connection.execute(
        text("INSERT INTO facts (key, value) VALUES ('id', :id) ON CONFLICT (key) DO NOTHING"),
        parameters,
    )
    return ledger_id(connection)


async def replacement_error(session: AsyncSession, place: str, known: str) -> LedgerReplaced | None:
    """Return the error to raise if the id of the ledger is not ``known``, else None."""
    connection = await session.connection()
    found_id = await connection.run_sync(_id_if_any)
    if found_id == known:
        return None
    cause = database.another_ledger(known, found_id) if found_id else database.EMPTIED
    return LedgerReplaced(place, *cause)


def _id_if_any(connection: Connection) -> str:
    """Return the ledger's id; empty if there is none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return ""
    return str(connection.execute(_ID).scalar() or "")


@asynccontextmanager
async def exclusive() -> AsyncIterator[None]:
    """Allow only one migration at a time in this process, because Alembic's state is global.

    Migrations may come from several event loops, so an asyncio lock does not suffice. If a helper
    thread acquired a lock for a task that is then cancelled, nothing would release the lock.
    """
    while not _MIGRATING.acquire(blocking=False):  # noqa: ASYNC110 - not an event of one loop
        await asyncio.sleep(POLL_INTERVAL_SECONDS)
    try:
        yield
    finally:
        _MIGRATING.release()
