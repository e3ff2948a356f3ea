"""Moves of a ledger between SQLite and PostgreSQL: all rows, then the setting, or nothing."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import sqlmodel
from sqlalchemy import select

from daybook import settings
from daybook.diagnosis.checks import home as home_checks
from daybook.errors import InvalidInput
from daybook.home import Home
from daybook.keeper import leader_lease
from daybook.ledger import feature_tables, transfer
from daybook.ledger.column_types import MAX_BIG_INTEGER, MAX_INTEGER, Instant
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.operations import home_lock, ledger_move
from daybook.operations.ledger_move import move
from daybook.testing import ManualClock
from daybook.timing import TIMING
from tests import databases
from tests.databases import Database
from tests.unit.features.backups import killed
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]


@pytest.fixture
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Return an empty PostgreSQL database."""
    return databases.of_kind("postgresql", tmp_path, databases.server_of(request))


@pytest.fixture
async def here(daybook_home: Home, clock: ManualClock) -> AsyncIterator[World]:
    """Yield the ledger of the home, a SQLite file with a job, a run, a message and a task."""
    async with Ledger(settings.load().ledger_address, clock) as ledger:
        world = World(ledger, clock)
        stored = await world.jobs.add("brief", cron="0 * * * *", on_complete="https://example.org")
        await world.runs.finished(
            stored, Status.SUCCEEDED, output="ÄÖ€🎉", result={"a": [1.5, None]}
        )
        await world.tasks.claimed("one")
        yield world


async def _content(address: str) -> dict[str, list[dict[str, Any]]]:
    """Return all rows of a ledger, by table, but for its id."""
    async with Ledger(address) as ledger, ledger.read() as session:
        content = {}
        for table in feature_tables.all_tables():
            rows = (await session.execute(select(table))).mappings()
            content[table.name] = sorted(
                (dict(row) for row in rows if row.get("key") != "id"), key=str
            )
        return content


async def _id(address: str) -> str:
    async with Ledger(address) as ledger:
        return ledger.id


async def test_a_ledger_moves_to_postgresql_and_back_with_all_rows(
    here: World, there: Database, daybook_home: Home
) -> None:
    (daybook_home.path / "config.toml").write_text("# mine\nmax_concurrent = 3\n[limits]\n")
    old, before = here.ledger.address, await _content(here.ledger.address)

    moved = await move(there.address)

    assert settings.load().ledger_address == there.address
    text = (daybook_home.path / "config.toml").read_text()
    assert text.endswith("# mine\nmax_concurrent = 3\n[limits]\n")
    assert await _content(there.address) == before
    assert moved.rows == sum(map(len, before.values())) + 1
    assert await _id(there.address) == here.ledger.id
    # A process that still knows the old file gets another id there, and refuses it.
    assert (await _id(old)).startswith("moved-")

    assert (await move(old)).moved_to == old

    assert settings.load().ledger_address == old
    assert await _content(old) == before
    assert await _id(old) == here.ledger.id
    assert (await move(there.address)).rows == moved.rows  # that copy may be overwritten


FIRST, LAST = "", "\N{PARTY POPPER}" * 100
EXTREMES: dict[type[Any], tuple[Any, Any]] = {
    sqlalchemy.BigInteger: (-MAX_BIG_INTEGER - 1, MAX_BIG_INTEGER),
    sqlalchemy.Integer: (-MAX_INTEGER - 1, MAX_INTEGER),
    sqlalchemy.Float: (-sys.float_info.max, sys.float_info.max),
    sqlalchemy.Boolean: (False, True),
    sqlalchemy.LargeBinary: (b"", bytes(range(256))),
    sqlalchemy.JSON: ({FIRST: [-sys.float_info.max]}, {LAST: [10**400, LAST]}),
    sqlmodel.AutoString: (FIRST, LAST),
    Instant: (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)),
}


def _extreme(column: sqlalchemy.Column[Any], end: int) -> Any:
    return next(value[end] for kind, value in EXTREMES.items() if isinstance(column.type, kind))


async def test_the_extremes_of_all_columns_move_to_postgresql_and_back(
    here: World, there: Database, tmp_path: Path
) -> None:
    async with here.ledger.write() as session:
        for table in feature_tables.all_tables():
            for end in (0, 1):
                row = {each.name: _extreme(each, end) for each in table.columns}
                await session.execute(sqlalchemy.insert(table).values(row))
    before = await _content(here.ledger.address)
    back = transfer.sqlite_address(tmp_path / "back.db")

    for source, target in ((here.ledger.address, there.address), (there.address, back)):
        async with (
            Ledger(source) as old,
            old.read() as rows,
            Ledger(target) as new,
            new.write() as session,
        ):
            await transfer.copy_rows(rows, session)
        assert await _content(target) == before


async def test_a_ledger_in_use_is_not_moved(
    here: World, there: Database, daybook_home: Home
) -> None:
    with home_lock.hold(daybook_home), pytest.raises(InvalidInput, match="already running"):
        await move(there.address)
    async with Ledger(here.ledger.address) as ledger:
        await leader_lease.acquire(ledger, leader_lease.LEADERSHIP_NAME, "elsewhere:1")
        with pytest.raises(InvalidInput, match="ledger: elsewhere:1 uses it"):
            await move(there.address)
        await leader_lease.release(ledger, leader_lease.LEADERSHIP_NAME, 1)
        live = World(ledger, here.clock)
        row = await live.runs.request(await live.jobs.get("brief"))
        await live.runs.set_row(
            row, status="running", holder="there:2", lease_until=ledger.now() + TIMING.run_lease
        )
        with pytest.raises(InvalidInput, match="ledger: there:2 uses it"):
            await move(there.address)
    assert settings.load().ledger_address == here.ledger.address
    assert await _id(here.ledger.address) == here.ledger.id


async def test_a_database_with_another_ledger_is_refused(here: World, there: Database) -> None:
    async with Ledger(there.address, here.clock) as other:
        await World(other, here.clock).jobs.add("other")
    with pytest.raises(InvalidInput, match="contains a ledger"):
        await move(there.address)
    assert settings.load().ledger_address == here.ledger.address
    assert [row["name"] for row in (await _content(there.address))["jobs"]] == ["other"]


async def test_a_variable_that_would_win_over_the_file_is_named(
    here: World, there: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", here.ledger.address)
    with pytest.raises(InvalidInput, match="DAYBOOK_LEDGER_URL: is set"):
        await move(there.address)


@pytest.mark.usefixtures("here")
async def test_an_address_that_is_no_ledger_address_is_refused_as_the_argument() -> None:
    with pytest.raises(InvalidInput, match="url: is not a ledger address"):
        await move("bogus")


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 5])
async def test_a_killed_move_leaves_the_old_ledger_or_the_new_one(
    here: World, there: Database, daybook_home: Home, stride: int
) -> None:
    old, before = here.ledger.address, await _content(here.ledger.address)
    variables = {"DAYBOOK_HOME": str(daybook_home.path)}
    for step in range(1, 100, stride):
        code = killed.killed(killed.move_ledger, (there.address,), variables, step)
        assert code in (killed.ALL_DONE, -signal.SIGKILL)
        present = settings.load().ledger_address
        assert present in (old, there.address)
        assert await _content(present) == before
        assert await _id(present) == here.ledger.id
        if present != old:
            break
    else:
        raise AssertionError("no move was completed")
    if (daybook_home.moving).exists():
        await move(there.address)
    assert (await _id(old)).startswith("moved-")


async def test_a_move_that_was_cut_off_before_the_setting_is_reported(
    here: World, there: Database, daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut_off(*_: Any) -> int:
        assert home_checks.leftovers() == []  # it is not interrupted yet
        raise KeyboardInterrupt

    assert home_checks.leftovers() == []
    monkeypatch.setattr(transfer, "copy_rows", cut_off)
    with pytest.raises(KeyboardInterrupt):
        await move(there.address)
    (found,) = home_checks.leftovers()
    message = f"a `daybook ledger move` to {_place(there.address)} was interrupted"
    assert (found.severity, found.message) == ("warning", message)
    assert found.fix.endswith(f"or rm {daybook_home.moving}")
    daybook_home.moving.unlink()
    assert home_checks.leftovers() == []


@pytest.mark.parametrize("committed", [False, True])
async def test_a_move_that_was_cut_off_after_the_setting_is_finished_by_a_repeated_one(
    here: World,
    there: Database,
    daybook_home: Home,
    monkeypatch: pytest.MonkeyPatch,
    *,
    committed: bool,
) -> None:
    old, before = here.ledger.address, await _content(here.ledger.address)
    marker = daybook_home.moving

    async def cut_off(*_: Any) -> None:
        raise KeyboardInterrupt

    if committed:  # cut off before the file was deleted
        kept: list[str] = []
        copy_rows = transfer.copy_rows

        async def keeping(*given: Any) -> int:
            kept.append(marker.read_text())
            return await copy_rows(*given)

        with monkeypatch.context() as patched:
            patched.setattr(transfer, "copy_rows", keeping)
            await move(there.address)
        marker.write_text(kept[0])
    else:
        with monkeypatch.context() as patched:
            patched.setattr(ledger_move, "_retire", cut_off)
            with pytest.raises(KeyboardInterrupt):
                await move(there.address)
        assert marker.stat().st_mode & 0o777 == 0o600
        (found,) = home_checks.leftovers()
        assert "the old ledger still has the same id" in found.message
        assert await _id(old) == await _id(there.address)

    moved = await move(there.address)

    assert (moved.moved_from, moved.moved_to) == (_place(old), _place(there.address))
    assert moved.rows == sum(map(len, before.values())) + 1
    assert (await _id(old)).startswith("moved-")
    assert await _id(there.address) == here.ledger.id
    assert await _content(there.address) == before
    assert not marker.exists()


async def test_a_move_that_was_killed_after_its_last_step_may_be_repeated(
    here: World, there: Database, daybook_home: Home
) -> None:
    await move(there.address)
    assert not daybook_home.moving.exists()
    before = await _content(there.address)

    moved = await move(there.address)

    place = _place(there.address)
    assert (moved.moved_from, moved.moved_to, moved.rows) == (place, place, 0)
    assert settings.load().ledger_address == there.address
    assert await _content(there.address) == before
    assert await _id(there.address) == here.ledger.id


def _place(address: str) -> str:
    return Ledger(address).place
