"""The tables of features, each with migrations of its own.

A feature's module ``tables`` has its tables. The feature's folder `migrations` has a file HEAD and
the migrations in `versions`, as the folder of the ledger's migrations has; the version of a
feature's tables is in a table of its own. A feature of Daybook without this folder has its tables
in the ledger's migrations.

The name of a table begins with the feature's name and an underscore. A table has no foreign key to
a table of the ledger, because the ledger deletes rows without asking features: store the id. The
migrations work with SQLite and PostgreSQL, because a ledger may move.

`Ledger` creates and migrates the tables when it is opened. If this is impossible, or if the tables
are newer than the program, a feature of another distribution is left out, and `doctor` says why.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Table, inspect
from sqlalchemy.schema import sort_tables
from sqlmodel import SQLModel
from sqlmodel.main import default_registry

from daybook import feature
from daybook.errors import LedgerOlder
from daybook.feature import Feature, features, leaving_out
from daybook.ledger import credential_tables, schema
from daybook.ledger.schema import Line

assert credential_tables.TokenRow.metadata is SQLModel.metadata

log = logging.getLogger(__name__)

TABLES = "tables"
"""The part of a feature that `feature.failures` names if its tables cannot be used."""


def all_tables() -> list[Table]:
    """Return all tables of the ledger and of features.

    A table comes after the tables that its foreign keys refer to.
    """
    for _ in feature.loaded("tables"):
        pass
    found = _of_packages(("daybook", *(each.package for each in features())))
    # Not `sorted_tables`, which fails if a table of a feature that is left out refers to nothing.
    tables = sorted(SQLModel.metadata.tables.items())
    return sort_tables([table for name, table in tables if name in found])


def are_current(connection: Connection) -> bool:
    """Return whether the tables of all features that are in use have their newest version."""
    lines = _lines()
    own = schema.versions(connection, [line.version_table for each, line in lines if each.is_own])
    for each, line in lines:
        with _leaving_out(each, connection):
            version = own.get(line.version_table) if each.is_own else line.current(connection)
            if version != line.head() and not _is_newer_own(each, line, version):
                _check_known(line, version)
                return False
            if each.is_own:  # as with the ledger's own tables: each command would pay for the check
                continue
            if missing := _names(each) - set(inspect(connection).get_table_names()):
                raise LookupError(f"the ledger lacks {', '.join(sorted(missing))}")
    return True


def are_all_own() -> bool:
    """Return whether all features with tables are of Daybook, so that `id_if_current` knows all."""
    return all(each.is_own for each in features() if each.tables)


def id_if_current(connection: Connection) -> str:
    """Return the ledger's id if its tables and those of Daybook's features are current, else "".

    This takes one query. Raise the database's error if a table does not exist.
    """
    lines = (schema.ledger_line(), *(line for each, line in _lines() if each.is_own))
    newest = {line.version_table: line.head() for line in lines}
    ledger_id, versions = schema.id_and_versions(connection, newest)
    return ledger_id if versions == newest else ""


def old_versions(connection: Connection) -> str:
    """Return the names and versions of the tables that `upgrade` migrates; "" if there are none.

    Not those of Daybook's features, whose migrations only add. Leave out the features whose
    migrations fail: try each migration, and undo it.
    """
    found = list[str]()
    for each, line in _lines():
        if each.is_own:
            continue
        with _leaving_out(each, connection):
            version = line.current(connection)
            if version not in (None, line.head()):
                _check_known(line, version)
                with connection.begin_nested() as trial:
                    line.migrate(connection, line.head())
                    trial.rollback()
                found.append(f"{each.name}-{version}")
    return "-".join(found)


def newer_own(connection: Connection) -> tuple[str, str] | None:
    """Return the tables of a feature of Daybook that are newer than this program, else None.

    The result is their version and the program's version, each after the name of the feature.
    """
    own = [(each, line) for each, line in _lines() if each.is_own]
    found = schema.versions(connection, [line.version_table for _, line in own])
    for each, line in own:
        version = found.get(line.version_table)
        if _is_newer_own(each, line, version):
            return f"{each.name} {version}", f"{each.name} {line.head()}"
    return None


def leave_out_old(connection: Connection, why: Exception) -> None:
    """Leave out the features whose tables `upgrade` could not make current, because of ``why``."""
    for each, line in _lines():
        with leaving_out(each, TABLES, whole=True):
            version = line.current(connection)
            if version != line.head() and not _is_newer_own(each, line, version):
                raise why


def unused(connection: Connection) -> list[str]:
    """Return the features that have tables in the ledger and are not in use."""
    versions = f"{schema.VERSION_TABLE}_"
    found = {each for each in inspect(connection).get_table_names() if each.startswith(versions)}
    return sorted(found - {line.version_table for _, line in _lines()})


def upgrade(connection: Connection, place: str, *, is_in_use: bool, migrates: bool) -> None:
    """Create the tables of features, and migrate them to their newest version.

    While a `daybook up` uses the ledger at ``place``, or if this program does not migrate it, leave
    out a feature whose tables have an earlier version; raise `LedgerOlder` if it is a feature of
    Daybook.
    """
    for each, line in _lines():
        with _leaving_out(each, connection):
            version = line.current(connection)
            if version == line.head() or _is_newer_own(each, line, version):
                continue
            _check_known(line, version)
            if version is not None and (is_in_use or not migrates):
                if each.is_own:
                    raise LedgerOlder(place, is_in_use=is_in_use)
                if is_in_use:
                    raise ValueError(
                        f"`daybook up` uses version {version}: restart it to migrate them"
                    )
                raise ValueError(f"the workers use version {version}: upgrade them to migrate them")
            if strange := [name for name in _names(each) if not name.startswith(f"{each.name}_")]:
                raise ValueError(f"{strange[0]}: the name of a table begins with {each.name}_")
            line.migrate(connection, line.head())


def copy_schema(source: Connection, target: Connection) -> None:
    """Create the tables of features in ``target``, in the versions that ``source`` has."""
    for each, line in _lines():
        try:
            with target.begin_nested():
                version = line.current(source)
                if version is not None and line.knows(version):
                    line.migrate(target, version)
        except Exception:  # the copy is of the ledger; the feature's rows are not in it
            if each.is_own:
                raise
            log.exception("the tables of the feature %s cannot be copied", each.name)


@contextmanager
def _leaving_out(each: Feature, connection: Connection) -> Iterator[None]:
    """Leave out a feature of another distribution if the block fails, and undo what it has done.

    An error in a feature of Daybook is raised, and ends the transaction.
    """
    if each.is_own:
        yield
        return
    with leaving_out(each, TABLES, whole=True), connection.begin_nested():
        yield


def _lines() -> list[tuple[Feature, Line]]:
    with_tables = [(each, each.folder / "migrations") for each in features() if each.tables]
    return [
        (each, Line(folder, f"{schema.VERSION_TABLE}_{each.name}"))
        for each, folder in with_tables
        if folder.exists() or not each.is_own
    ]


def _names(of_feature: Feature) -> set[str]:
    """Return the names of the tables of a feature."""
    of_feature.load(of_feature.tables)
    return _of_packages((of_feature.package,))


def _of_packages(packages: Iterable[str]) -> set[str]:
    """Return the names of the tables whose models are in one of the packages."""
    folders = tuple(f"{each}." for each in packages)
    return {
        str(mapper.class_.__tablename__)
        for mapper in default_registry.mappers
        if mapper.class_.__module__.startswith(folders)
    }


def _is_newer_own(each: Feature, line: Line, version: str | None) -> bool:
    """Return whether a newer Daybook has migrated the tables of its feature.

    Its migrations only add, or the fact of the ledger refuses this program (`schema`).
    """
    return each.is_own and version is not None and line.is_newer(version)


def _check_known(line: Line, version: str | None) -> None:
    if version is not None and not line.knows(version):
        hint = "install the version of the feature that wrote them, or a newer one"
        raise ValueError(f"the ledger has version {version}, newer than {line.head()}: {hint}")
