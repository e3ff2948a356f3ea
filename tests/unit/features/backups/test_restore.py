"""Restore of a backup into an empty home: everything or nothing, and nothing runs again."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from daybook import owners, settings
from daybook.errors import InvalidInput
from daybook.features.backups import archive, create, uncertain
from daybook.features.backups.restore import RestoreResult, restore
from daybook.home import Home
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.operations import home_lock
from daybook.prefect import instances
from daybook.processes import proc
from daybook.resources import encryption
from tests import databases
from tests.databases import Database
from tests.unit.features.backups import killed
from tests.world import World

pytestmark = pytest.mark.anyio

WORDS = "correct horse battery"


@pytest.fixture
async def backup(
    world: World, daybook_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Return the backup of a home with a run in progress; another home is set, an empty one."""
    monkeypatch.setattr(archive, "SCRYPT_COST", 2)
    encryption.read_or_create_key(daybook_home.ledger_key)
    (daybook_home.path / "config.toml").write_text("max_concurrent = 3\n")
    stored = await world.jobs.add()
    await world.runs.finished(stored, Status.SUCCEEDED, output="done")
    await world.runs.running(stored)
    made = await create.create(world.ledger, tmp_path / "a.backup", WORDS)
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path / "new"))
    return Path(made.file)


@pytest.fixture
def new(tmp_path: Path) -> Home:
    return Home(tmp_path / "new")


def _later(world: World, hours: int = 3) -> Any:
    world.passes(hours=hours)
    return world.clock


async def _runs(address: str) -> list[tuple[str, int]]:
    async with Ledger(address) as ledger, ledger.read() as session:
        rows = (await session.execute(select(RunRow).order_by(RunRow.due))).scalars()  # type: ignore[arg-type]
        return [(row.status, row.count) for row in rows]


RESTORED = [("succeeded", 1), ("unknown", 1), ("missed", 3)]


async def test_a_restored_home_has_everything_and_repeats_nothing(
    world: World, backup: Path, new: Home, daybook_home: Home
) -> None:
    at = world.clock.now()
    done = await restore(backup, WORDS, clock=_later(world))

    assert done.__pydantic_extra__ == {"tasks": 0}
    assert done == RestoreResult(
        home=str(new.path),
        ledger=str(new.path / "ledger.db"),
        backup_at=at,
        restored_at=world.clock.now(),
        missed=3,
        unknown=1,
        messages=done.messages,
    ).model_copy(update={"tasks": 0})
    assert new.ledger_key.read_text() == daybook_home.ledger_key.read_text()
    assert settings.load().max_concurrent == 3
    address = settings.load().ledger_address
    async with Ledger(address) as ledger:
        assert ledger.id == world.ledger.id
    assert await _runs(address) == RESTORED
    names = {each.name for each in new.path.iterdir() if each.is_file()}
    assert names == {"ledger.db", "config.toml", "ledger-key", "up.lock"}
    assert not new.restoring.exists()


async def test_the_server_of_the_backup_is_not_in_use_after_a_restore(
    world: World, daybook_home: Home, new: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "SCRYPT_COST", 2)
    encryption.read_or_create_key(daybook_home.ledger_key)
    old = await instances.record(world.ledger, "old", "http://127.0.0.1:4200/api", "a:1")
    assert len(old) == 1
    made = await create.create(world.ledger, tmp_path / "a.backup", WORDS)
    monkeypatch.setenv("DAYBOOK_HOME", str(new.path))
    world.passes(seconds=1)
    await restore(Path(made.file), WORDS, clock=world.clock)
    async with Ledger(settings.load().ledger_address, world.clock) as ledger:
        servers = await instances.record(ledger, "new", "http://127.0.0.1:4201/api", "a:2")
    assert instances.conflict(servers) == ""


async def test_a_home_in_use_or_with_files_is_refused(
    world: World, backup: Path, new: Home
) -> None:
    new.path.mkdir()
    (new.path / "config.toml").write_text("")
    with pytest.raises(InvalidInput, match=r"not empty: it contains config\.toml"):
        await restore(backup, WORDS, clock=world.clock)
    assert [each.name for each in new.path.iterdir()] == ["config.toml"]
    with home_lock.hold(new), pytest.raises(InvalidInput, match="already running"):
        await restore(backup, WORDS, clock=world.clock)


async def test_a_home_that_is_filled_until_the_lock_is_held_is_refused(
    world: World, backup: Path, new: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = home_lock.hold

    @contextmanager
    def after_a_job_was_added(home: Home, command: str) -> Iterator[home_lock.UpRecord]:
        with hold(home, command=command) as record:
            (home.path / "ledger.db").write_text("a job")
            yield record

    monkeypatch.setattr(home_lock, "hold", after_a_job_was_added)
    with pytest.raises(InvalidInput, match=r"not empty: it contains ledger\.db"):
        await restore(backup, WORDS, clock=world.clock)
    assert (new.path / "ledger.db").read_text() == "a job"


async def test_a_home_with_a_child_of_a_killed_up_is_refused(
    world: World, backup: Path, new: Home
) -> None:
    this = proc.find(os.getpid())
    assert this is not None
    with home_lock.hold(new.make()) as record:
        record.children.append(home_lock.ChildEntry("worker", this.pid, this.started))
        record.set_web_url("")
    with pytest.raises(InvalidInput, match=r"left worker \(pid \d+\) running"):
        await restore(backup, WORDS, clock=world.clock)


async def test_an_agent_cannot_restore(backup: Path, new: Home) -> None:
    with (
        owners.acting_as(owners.Actor("agent:maria", via="mcp")),
        pytest.raises(InvalidInput, match="ask the operator"),
    ):
        await restore(backup, WORDS)
    assert not new.path.exists()


def _damage(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _other(file: Path) -> None:
    archive.write(file, [], WORDS, replace=True)


@pytest.mark.parametrize(
    ("change", "passphrase", "problem"),
    [
        (_damage, WORDS, r"file|passphrase"),
        (_other, WORDS, "not a backup that this version"),
        (Path.read_bytes, "wrong words", "passphrase: does not open"),
        (Path.unlink, WORDS, "cannot be read"),
    ],
    ids=["damaged", "other", "passphrase", "missing"],
)
async def test_a_file_that_cannot_be_restored_leaves_the_home_empty(
    backup: Path, new: Home, change: Callable[[Path], object], passphrase: str, problem: str
) -> None:
    change(backup)
    with pytest.raises(InvalidInput, match=problem):
        await restore(backup, passphrase)
    _check_nothing_restored(new)


async def test_a_clock_before_the_time_of_the_backup_is_refused(
    world: World, backup: Path, new: Home
) -> None:
    world.passes(seconds=-1)
    with pytest.raises(InvalidInput, match=r"clock: it is .*, before the time of the backup"):
        await restore(backup, WORDS, clock=world.clock)
    _check_nothing_restored(new)


async def test_a_home_that_is_restored_in_part_stays_closed_if_the_repetition_fails(
    backup: Path, new: Home
) -> None:
    new.make().restoring.mkdir()
    (new.path / "config.toml").write_text("max_concurrent = 3\n")
    with pytest.raises(InvalidInput, match="passphrase: does not open"):
        await restore(backup, "wrong words")
    with pytest.raises(InvalidInput, match="was interrupted"):
        settings.load().ledger_address  # noqa: B018


async def test_what_is_uncertain_is_in_the_file_that_is_moved_or_nothing_is_restored(
    world: World, backup: Path, new: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A reader of the state before: SQLite cannot move the transaction out of the WAL.
    opened: list[sqlite3.Connection] = []
    record = uncertain.record

    async def with_a_reader(*given: Any) -> Any:
        opened.append(sqlite3.connect(new.restoring / "ledger.db"))
        opened[0].execute("BEGIN").execute("SELECT count(*) FROM facts").fetchall()
        return await record(*given)

    monkeypatch.setattr(uncertain, "record", with_a_reader)
    with pytest.raises(InvalidInput, match=r"home: another process has .*ledger\.db open"):
        await restore(backup, WORDS, clock=_later(world))
    opened[0].close()
    _check_nothing_restored(new)


def _check_nothing_restored(new: Home) -> None:
    assert {each.name for each in new.path.iterdir()} <= {"prefect", "logs", "up.lock"}
    assert settings.load().ledger_address  # raises an error in a half restored home


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Return an empty database that is not in the home, of the other kind than the world's."""
    kind = "postgresql" if request.node.callspec.params["world"] == "sqlite" else "sqlite"
    return databases.of_kind(kind, tmp_path / "other.db", databases.server_of(request))


@pytest.mark.dialect
async def test_a_backup_of_one_database_is_restored_into_the_other(
    world: World, backup: Path, elsewhere: Database, new: Home
) -> None:
    done = await restore(backup, WORDS, ledger_url=elsewhere.address, clock=_later(world))
    assert settings.load().ledger_address == elsewhere.address
    assert settings.load().max_concurrent == 3
    assert not (new.path / "ledger.db").exists()
    assert done.missed >= 3  # the later one of two clocks decides; that database's is the machine's
    assert await _runs(elsewhere.address) == [*RESTORED[:2], ("missed", done.missed)]


async def test_a_database_with_a_ledger_is_refused(
    world: World, backup: Path, elsewhere: Database, new: Home
) -> None:
    async with Ledger(elsewhere.address, world.clock) as ledger:
        await World(ledger, world.clock).jobs.add()
    with pytest.raises(InvalidInput, match="contains a ledger"):
        await restore(backup, WORDS, ledger_url=elsewhere.address, clock=world.clock)
    assert not new.restoring.exists()
    assert await _runs(elsewhere.address) == []


@pytest.mark.parametrize(
    "stride", [pytest.param(1, marks=pytest.mark.slow), 9], ids=["each", "some"]
)
async def test_a_killed_restore_is_repeated_from_the_start(
    world: World, backup: Path, new: Home, stride: int
) -> None:
    complete = False
    clock, variables = _later(world), {"DAYBOOK_HOME": str(new.path)}
    for step in range(1, 200, stride):
        code = killed.killed(killed.restore_backup, (backup, WORDS, clock), variables, step)
        complete = (new.path / "ledger.db").exists() and not new.restoring.exists()
        if complete:
            break
        assert code == -signal.SIGKILL
        if new.restoring.exists():
            with pytest.raises(InvalidInput, match="was interrupted"):
                settings.load().ledger_address  # noqa: B018
    if not complete:
        await restore(backup, WORDS, clock=clock)
    assert await _runs(settings.load().ledger_address) == RESTORED
    assert settings.load().max_concurrent == 3


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_restore_into_a_database_that_is_killed_is_repeated(
    world: World, backup: Path, new: Home, elsewhere: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", elsewhere.address)
    clock = _later(world)
    variables = {"DAYBOOK_HOME": str(new.path), "DAYBOOK_LEDGER_URL": elsewhere.address}
    for step in range(1, 200):
        code = killed.killed(killed.restore_backup, (backup, WORDS, clock), variables, step)
        if (new.path / "config.toml").exists() and not new.restoring.exists():
            break
        assert code == -signal.SIGKILL
    # The clock of that database is the machine's, and the later one decides what may have run.
    assert [status for status, _ in await _runs(elsewhere.address)] == [
        status for status, _ in RESTORED
    ]
    assert settings.load().max_concurrent == 3
