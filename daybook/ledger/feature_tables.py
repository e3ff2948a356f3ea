"""The tables of features, each with migrations of its own.

A feature's module ``tables`` has its tables. The feature's folder `migrations` has a file HEAD and
the migrations in `versions`, as the folder of the ledger's migrations has; the version of a
feature's tables is in a table of its own. A feature of Daybook without this folder has its tables
in the ledger's migrations.

The name of a table begins with the feature's name and an underscore. A table has no foreign key to
a table of the ledger, because the ledger deletes rows without asking features: store the id.

`Ledger` creates and migrates the tables when it is opened. If this is impossible, or if the tables
are newer than the program, a feature of another distribution is left out, and `doctor` says why.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, Table, inspect
from sqlmodel import SQLModel
from sqlmodel.main import default_registry

from daybook import feature
from daybook.feature import Feature, features, leaving_out
from daybook.ledger import credential_tables, schema
from daybook.ledger.schema import Line

assert credential_tables.TokenRow.metadata is SQLModel.metadata

TABLES = "tables"
"""The part of a feature that `feature.failures` names if its tables cannot be used."""


def all_tables() -> list[Table]:
    """Return all tables of the ledger and of features.

    A table comes after the tables that its foreign keys refer to.
    """
    for _ in feature.loaded("tables"):
        pass
    found = _of_packages(("daybook", *(each.package for each in features())))
    return [each for each in SQLModel.metadata.sorted_tables if each.name in found]


def are_current(connection: Connection) -> bool:
    """Return whether the tables of all features that are in use have their newest version."""
    for each, line in _lines():
        with leaving_out(each, TABLES, whole=True):
            version = line.current(connection)
            if version != line.head():
                _check_known(line, version)
                return False
            if missing := _names(each) - set(inspect(connection).get_table_names()):
                raise LookupError(f"the ledger lacks {', '.join(sorted(missing))}")
    return True


def are_old(connection: Connection) -> bool:
    """Return whether `upgrade` migrates a table that may have rows."""
    for each, line in _lines():
        with leaving_out(each, TABLES, whole=True):
            if line.current(connection) not in (None, line.head()):
                return True
    return False


def upgrade(connection: Connection, *, is_in_use: bool) -> None:
    """Create the tables of features, and migrate them to their newest version.

    While a `daybook up` uses the ledger, leave out a feature whose tables have an earlier version.
    """
    for each, line in _lines():
        with leaving_out(each, TABLES, whole=True):
            version = line.current(connection)
            if version == line.head():
                continue
            _check_known(line, version)
            if version is not None and is_in_use:
                raise ValueError(f"`daybook up` uses version {version}: restart it to migrate them")
            if strange := [name for name in _names(each) if not name.startswith(f"{each.name}_")]:
                raise ValueError(f"{strange[0]}: the name of a table begins with {each.name}_")
            with connection.begin_nested():
                line.migrate(connection, line.head())


def copy_schema(source: Connection, target: Connection) -> None:
    """Create the tables of features in ``target``, in the versions that ``source`` has."""
    for _, line in _lines():
        version = line.current(source)
        if version is not None and line.knows(version):
            line.migrate(target, version)


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


def _check_known(line: Line, version: str | None) -> None:
    if version is not None and not line.knows(version):
        hint = "install the version of the feature that wrote them, or a newer one"
        raise ValueError(f"the ledger has version {version}, newer than {line.head()}: {hint}")
