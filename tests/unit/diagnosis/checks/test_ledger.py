from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook.diagnosis.checks import ledger as book
from daybook.finding import passed
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.ledger.schema import VERSION_TABLE
from daybook.operations import home_lock
from daybook.processes.sandboxes import bubblewrap

pytestmark = pytest.mark.anyio
MADE = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)


@pytest.fixture
async def file(daybook_home: Home) -> Path:
    """Return the file of a ledger with one job that is not in Prefect yet."""
    path = daybook_home.path / "ledger.db"
    async with Ledger(f"sqlite+aiosqlite:///{path}") as ledger, ledger.write() as session:
        job = new_job(now=MADE, prompt="Say hello.", name="weekly", on_demand=True)
        await store.add(session, job, "weekly", MADE)
    return path


async def test_a_missing_ledger_is_no_problem_and_is_not_created(daybook_home: Home) -> None:
    assert await book.ledger() == []
    assert await book.sync() == []
    assert not (daybook_home.path / "ledger.db").exists()


async def test_a_job_that_is_not_synced_with_prefect_is_reported(file: Path) -> None:
    assert await book.ledger() == [
        passed("ledger", f"sqlite+aiosqlite:///{file}, 1 job, 1 enabled")
    ]
    (problem,) = await book.sync()
    assert "weekly" in problem.message
    assert problem.fix == "daybook sync"
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE jobs SET sync_pending = 0")
    assert await book.sync() == []


async def test_a_ledger_of_a_newer_version_is_reported(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999_later'")
    (problem,) = await book.ledger()
    assert "9999_later" in problem.message
    assert "install" in problem.fix


def letter(file: Path) -> None:
    for beside in file.parent.glob("ledger.db*"):
        beside.unlink()
    file.write_text("This is a letter to my aunt." * 100)


async def test_the_fix_of_a_file_that_is_no_database_moves_it_aside(file: Path) -> None:
    letter(file)
    (problem,) = await book.ledger()
    assert str(file) in problem.message
    assert problem.fix.startswith(f"mv {file} {file}.broken")


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is closed to root")
async def test_the_fix_of_an_unreadable_ledger_sets_its_mode(file: Path) -> None:
    os.chmod(file, 0o000)
    (problem,) = await book.ledger()
    assert problem.fix.endswith(f"chmod 600 {file}")


async def test_a_ledger_deleted_while_up_runs_is_reported_and_not_recreated(
    file: Path, daybook_home: Home
) -> None:
    with home_lock.hold(daybook_home) as written:
        async with Ledger(f"sqlite+aiosqlite:///{file}") as ledger:
            written.set_ledger(ledger.identity())
            assert [each.severity for each in await book.ledger()] == ["ok"]
            os.unlink(file)
            (problem,) = await book.ledger()
    assert "was deleted or moved away while it was in use" in problem.message
    assert "move the file back" in problem.fix
    assert list(daybook_home.path.glob(file.name)) == []


async def test_a_locked_ledger_is_reported(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "WRITE_TIMEOUT", timedelta(milliseconds=50))
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        (problem,) = await book.ledger()
        other.execute("ROLLBACK")
    assert problem.message == "the ledger is not writable: database is locked"
    assert problem.fix == "end the process that holds its lock"
    assert [each.severity for each in await book.ledger()] == ["ok"]


async def test_a_required_sandbox_that_cannot_be_built_is_a_problem(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bubblewrap, "PLACES", ())
    assert await book.sandbox() == []
    async with Ledger(f"sqlite+aiosqlite:///{daybook_home.path / 'ledger.db'}") as ledger:
        for name, level, enabled in (
            ("nightly", "strict", True),
            ("paused", "workspace", False),
            ("free", "off", True),
        ):
            given: dict[str, Any] = {"prompt": "Hello.", "on_demand": True, "sandbox": level}
            job = new_job(now=MADE, name=name, enabled=enabled, **given)
            async with ledger.write() as session:
                await store.add(session, job, name, MADE)
    (found,) = await book.sandbox()
    message = "nightly requires a sandbox, which cannot be built here: bubblewrap is not installed"
    assert (found.severity, found.message) == ("problem", message)
    assert found.fix.startswith("install bubblewrap 0.8")
    monkeypatch.setenv("DAYBOOK_SANDBOX", "workspace")
    (found,) = await book.sandbox()
    assert found.message.startswith("the setting sandbox and nightly require a sandbox")
