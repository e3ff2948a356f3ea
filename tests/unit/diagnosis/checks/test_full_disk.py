"""A full disk: each error says so, and no fix sends the operator elsewhere."""

from __future__ import annotations

import errno
import os
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import httpx
import pytest
from sqlalchemy.engine import make_url

from daybook import home
from daybook.cli import main
from daybook.diagnosis.checks import home as home_checks
from daybook.diagnosis.checks import ledger, prefect
from daybook.errors import FREE_SPACE, LedgerUnreachable, PrefectUnreachable
from daybook.finding import problem
from daybook.home import Home
from daybook.ledger.sqlite import Sqlite
from daybook.prefect import client as connection
from tests.unit.diagnosis.checks.conftest import Answers, Connect, running

pytestmark = pytest.mark.anyio


@pytest.fixture
def full_disk(daybook_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "free_bytes", lambda path: 4096)


@pytest.mark.usefixtures("full_disk")
def test_the_home(daybook_home: Home) -> None:
    full = problem("home", f"the disk of {daybook_home.path} is full", FREE_SPACE)
    assert home_checks.home() == [full]


@pytest.mark.parametrize("is_full", [True, False])
async def test_the_ledger_in_sqlite(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    monkeypatch.setattr(home, "free_bytes", lambda path: 0 if is_full else 2**30)
    database = Sqlite(make_url(f"sqlite+aiosqlite:///{daybook_home.path}/ledger.db"), timedelta())
    for message in ("disk I/O error", "unable to open the file on this disk"):
        why = database.why_unreachable(sqlite3.OperationalError(message))
        assert why == ("its disk is full" if is_full else message)
    assert database.why_unreachable(sqlite3.OperationalError("database is locked")) == (
        "database is locked"
    )


@pytest.mark.parametrize(
    "why",
    [
        "its disk is full",
        "database or disk is full",
        'could not extend file "base/1": No space left on device',
    ],
)
async def test_the_fix_of_a_ledger_on_a_full_disk_does_not_move_it(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    async def fail() -> NoReturn:
        raise LedgerUnreachable("the place", why)

    (daybook_home.path / "ledger.db").touch()
    monkeypatch.setattr(ledger, "stored_jobs", fail)
    (found,) = await ledger.ledger()
    assert (found.message, found.fix) == (
        f"the ledger at the place cannot be reached: {why}; {FREE_SPACE}",
        FREE_SPACE,
    )


@pytest.mark.usefixtures("full_disk")
async def test_the_database_of_our_prefect_server(
    daybook_home: Home, answers: Answers, connect: Connect
) -> None:
    answers.paths = {"/api/health": (500, {})}
    api_url = f"{answers.address}/api"
    async with connect(api_url) as client:
        (found,) = await prefect.server(client)
        assert "read the server's log" in found.fix  # it may be on another machine
        with running(daybook_home, api_url=api_url, ui_url=answers.address, own_server=True):
            (found,) = await prefect.server(client)
            assert (found.message, found.fix) == (
                f"Prefect at {api_url} cannot store anything: its disk is full",
                FREE_SPACE,
            )
            request = httpx.Request("POST", f"{api_url}/deployments")
            response = httpx.Response(503, request=request)
            with (
                pytest.raises(PrefectUnreachable, match=f"its disk is full; {FREE_SPACE}") as error,
                connection.raising_daybook_errors(api_url),
            ):
                response.raise_for_status()
            assert prefect.unreachable(error.value) == found


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("file", ["/srv/home/up.json", None])
def test_a_file_that_a_command_writes(
    daybook_home: Home,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str | None,
) -> None:
    def fail(tokens: list[str]) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file)

    monkeypatch.setattr(main, "_choose_help", fail)
    assert main.main(["list"]) == 1
    place = file or daybook_home.path
    assert capsys.readouterr().err == f"daybook: the disk of {place} is full; {FREE_SPACE}\n"


@pytest.mark.usefixtures("full_disk")
def test_each_folder_with_data(daybook_home: Home) -> None:
    (found,) = home_checks.disk()
    message = f"the disk of {daybook_home.path} is full, so no job starts"
    assert found == problem("disk", message, FREE_SPACE)


def test_the_folder_of_the_ledger_counts(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", f"sqlite+aiosqlite:///{tmp_path}/ledger.db")
    monkeypatch.setattr(home, "free_bytes", lambda path: 0 if path == tmp_path else 2**30)
    (found,) = home_checks.disk()
    assert str(tmp_path) in found.message
    monkeypatch.setattr(home, "free_bytes", lambda path: 2**30)
    assert home_checks.disk() == []
