"""The size of the database of Daybook's own Prefect server."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from daybook import home as homes
from daybook.diagnosis.checks import home as home_checks
from daybook.home import Home
from daybook.operations import prefect_database

KEPT = 20


@pytest.fixture
def grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a database in which 100 of 120 rows were deleted."""
    monkeypatch.setattr(prefect_database, "MIN_FREE_BYTES", 2**16)
    file = tmp_path / "prefect.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
        connection.commit()
    fill(file)
    return file


def fill(file: Path) -> None:
    """Add 100 rows to those that stay, and delete them."""
    with closing(sqlite3.connect(file)) as connection:
        more = KEPT + 100 - rows(file)
        connection.executemany("INSERT INTO t (x) VALUES (?)", [(b"x" * 4000,)] * more)
        connection.execute("DELETE FROM t WHERE id > ?", (KEPT,))
        connection.commit()


def rows(file: Path) -> int:
    with closing(sqlite3.connect(file)) as connection:
        return int(connection.execute("SELECT count(*) FROM t").fetchone()[0])


def test_free_space_is_returned_once(grown: Path) -> None:
    before = grown.stat().st_size
    assert prefect_database.compact(grown)
    assert grown.stat().st_size < before / 3
    assert rows(grown) == KEPT
    assert not prefect_database.compact(grown)


def test_a_file_without_free_space_is_compacted_once_to_turn_on_the_incremental_vacuum(
    tmp_path: Path,
) -> None:
    file = tmp_path / "prefect.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
    assert prefect_database.compact(file)
    assert not prefect_database.compact(file)


def test_a_file_in_use_returns_its_free_space_in_steps(
    grown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prefect_database.release(grown) == 0  # its incremental vacuum is off
    prefect_database.compact(grown)
    compacted = grown.stat().st_size
    fill(grown)
    assert grown.stat().st_size > 3 * compacted
    monkeypatch.setattr(prefect_database, "STEP_PAGES", 10)
    written = list[int]()

    with closing(sqlite3.connect(grown, timeout=0, isolation_level=None)) as server:

        def write(seconds: float) -> None:
            """Write in the pause between two steps; it fails if the file is locked."""
            server.execute("INSERT INTO t (x) VALUES (?)", (b"written meanwhile",))
            written.append(prefect_database.STEP_PAGES)

        monkeypatch.setattr(time, "sleep", write)
        released = prefect_database.release(grown)
        assert released > 90
        # Ten pages a step, of which the writer may use one.
        assert 10 <= len(written) <= 1 + released / 9
        server.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert server.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert grown.stat().st_size < compacted * 1.2
    assert rows(grown) == KEPT + len(written)


def test_a_file_in_which_another_process_writes_returns_nothing(grown: Path) -> None:
    prefect_database.compact(grown)
    fill(grown)
    before = grown.stat().st_size
    with closing(sqlite3.connect(grown)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert prefect_database.release(grown) == 0
    assert (grown.stat().st_size, rows(grown)) == (before, KEPT)
    assert prefect_database.release(grown.with_name("none")) == 0
    assert not grown.with_name("none").exists()


def test_a_file_in_use_is_left_as_it_is(grown: Path) -> None:
    before = grown.stat().st_size
    with closing(sqlite3.connect(grown)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not prefect_database.compact(grown)
    assert (grown.stat().st_size, rows(grown)) == (before, KEPT)


def test_nothing_is_done_without_need_or_space(
    grown: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = grown.stat().st_size
    with monkeypatch.context() as context:
        context.setattr(homes, "free_bytes", lambda path: 0)
        assert not prefect_database.compact(grown)
    with monkeypatch.context() as context:
        context.setattr(prefect_database, "MAX_COMPACTED_BYTES", 4096)
        assert not prefect_database.compact(grown)
    (tmp_path / "text").write_text("not a database")
    assert not prefect_database.compact(tmp_path / "text")
    assert not prefect_database.compact(tmp_path / "none")
    assert grown.stat().st_size == before
    assert prefect_database.compact(grown)
    fill(grown)
    before = grown.stat().st_size
    with monkeypatch.context() as context:
        context.setattr(prefect_database, "MIN_FREE_BYTES", 2**30)
        assert not prefect_database.compact(grown)
        assert prefect_database.release(grown) == 0
    assert grown.stat().st_size == before


def test_a_large_database_is_reported(daybook_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home_checks.prefect_size() == []
    daybook_home.prefect.mkdir(exist_ok=True)
    prefect_database.path(daybook_home).write_bytes(b"x" * 2048)
    monkeypatch.setattr(prefect_database, "MAX_BYTES", 2048)
    assert home_checks.prefect_size() == []
    monkeypatch.setattr(prefect_database, "MAX_BYTES", 2047)
    (found,) = home_checks.prefect_size()
    assert (found.check, found.severity) == ("prefect database", "warning")
    assert "DAYBOOK_KEEP_DAYS" in found.fix
