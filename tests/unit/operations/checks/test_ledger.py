from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.ledger.schema import VERSION_TABLE
from daybook.operations import home_lock
from daybook.operations.checks import ledger as book

pytestmark = pytest.mark.anyio
MADE = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)


@pytest.fixture
async def file(daybook_home: Home) -> Path:
    """A ledger with a job that is not in Prefect yet."""
    path = daybook_home.path / "ledger.db"
    async with Ledger(f"sqlite+aiosqlite:///{path}") as ledger, ledger.write() as session:
        job = new_job(now=MADE, prompt="Say hello.", name="weekly", on_demand=True)
        await store.add(session, job, "weekly", MADE)
    return path


async def test_no_ledger_is_no_problem_and_none_is_made(daybook_home: Home) -> None:
    assert await book.ledger() == []
    assert await book.sync() == []
    assert not (daybook_home.path / "ledger.db").exists()


async def test_a_job_that_waits_for_prefect_is_named(file: Path) -> None:
    assert await book.ledger() == []
    (problem,) = await book.sync()
    assert "weekly" in problem.message
    assert problem.fix == "daybook sync"
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE jobs SET sync_pending = 0")
    assert await book.sync() == []


async def test_the_ledger_of_a_newer_program_is_named(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999_later'")
    (problem,) = await book.ledger()
    assert "9999_later" in problem.message
    assert "install" in problem.fix


def letter(file: Path) -> None:
    for beside in file.parent.glob("ledger.db*"):
        beside.unlink()
    file.write_text("This is a letter to my aunt." * 100)


async def test_what_is_no_database_is_put_aside(file: Path) -> None:
    letter(file)
    (problem,) = await book.ledger()
    assert str(file) in problem.message
    assert problem.fix.startswith(f"mv {file} {file}.broken")


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is closed to root")
async def test_a_ledger_without_permission_is_opened_to_its_owner(file: Path) -> None:
    os.chmod(file, 0o000)
    (problem,) = await book.ledger()
    assert problem.fix.endswith(f"chmod 600 {file}")


async def test_a_ledger_that_was_deleted_while_up_runs_is_named_and_not_made_anew(
    file: Path, daybook_home: Home
) -> None:
    with home_lock.hold(daybook_home) as written:
        async with Ledger(f"sqlite+aiosqlite:///{file}") as ledger:
            written.set_ledger(ledger.identity())
            assert await book.ledger() == []
            os.unlink(file)
            (problem,) = await book.ledger()
    assert "was deleted or moved away while it was in use" in problem.message
    assert "move the same file back" in problem.fix
    assert list(daybook_home.path.glob(file.name)) == []


async def test_a_ledger_that_cannot_be_written_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book, "WRITE_TIMEOUT", timedelta(milliseconds=50))
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        (problem,) = await book.ledger()
        other.execute("ROLLBACK")
    assert problem.message == "the ledger cannot be written: database is locked"
    assert problem.fix == "end the process that keeps it locked"
    assert await book.ledger() == []
