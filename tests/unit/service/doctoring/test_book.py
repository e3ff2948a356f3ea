from __future__ import annotations

import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daybook.home import Home
from daybook.ledger import jobs
from daybook.ledger.engine import Ledger
from daybook.ledger.schema import VERSION_TABLE
from daybook.service.doctoring import book
from daybook.spec.job import new_job

pytestmark = pytest.mark.anyio
MADE = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)


@pytest.fixture
async def file(daybook_home: Home) -> Path:
    """A ledger with a job that is not in Prefect yet."""
    path = daybook_home.path / "ledger.db"
    async with Ledger(f"sqlite+aiosqlite:///{path}") as ledger, ledger.write() as session:
        job = new_job(now=MADE, prompt="Say hello.", name="weekly", on_demand=True)
        await jobs.add(session, job, "weekly", MADE)
    return path


async def test_no_ledger_is_no_problem_and_none_is_made(daybook_home: Home) -> None:
    assert await book.ledger() == []
    assert await book.sync() == []
    assert not (daybook_home.path / "ledger.db").exists()


async def test_a_job_that_waits_for_prefect_is_named(file: Path) -> None:
    assert await book.ledger() == []
    (problem,) = await book.sync()
    assert "weekly" in problem.what
    assert problem.mend == "daybook sync"
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE jobs SET sync_pending = 0")
    assert await book.sync() == []


async def test_the_ledger_of_a_newer_program_is_named(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999_later'")
    (problem,) = await book.ledger()
    assert "9999_later" in problem.what
    assert "install" in problem.mend


def letter(file: Path) -> None:
    for beside in file.parent.glob("ledger.db*"):
        beside.unlink()
    file.write_text("This is a letter to my aunt." * 100)


async def test_what_is_no_database_is_put_aside(file: Path) -> None:
    letter(file)
    (problem,) = await book.ledger()
    assert str(file) in problem.what
    assert problem.mend.startswith(f"mv {file} {file}.broken")


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is closed to root")
async def test_a_ledger_without_permission_is_opened_to_its_owner(file: Path) -> None:
    os.chmod(file, 0o000)
    (problem,) = await book.ledger()
    assert problem.mend.endswith(f"chmod 600 {file}")
