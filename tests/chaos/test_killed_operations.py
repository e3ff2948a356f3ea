"""Backup, restore, move and upgrade, killed at random moments: the old state or the new one.

``KILLS`` (2) is the number of kills of each operation, and ``SEED`` (1) draws their moments, within
the time that the operation takes if nothing kills it. One line for each operation is printed::

    KILLS=10 SEED=1 python -m pytest tests/chaos/test_killed_operations.py -n 0 --timeout=0
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from daybook import settings
from daybook.features.backups import archive, create
from daybook.ledger import schema, transfer
from tests import databases
from tests.chaos.busy_home import (
    JOBS,
    PASSPHRASE,
    PAST_RUNS,
    BusyHome,
    content,
    killed,
    repeated,
    seconds_of,
)
from tests.databases import Database
from tests.e2e.test_upgrade import new_wheel
from tests.e2e.test_wheel import REPOSITORY, build, build_environment, install
from tests.migrations.test_schema import NEXT
from tests.receiver import Receiver, serving

KILLS, SEED = int(os.environ.get("KILLS", "2")), os.environ.get("SEED", "1")
ENDS = ("old", "new", "half")
REQUESTS = 5
"""Requests to wait for, to see that jobs run."""

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]


@dataclass
class Table:
    """What the kills of one operation left behind; ``seconds`` is how long it takes without."""

    operation: str
    seconds: float
    ends: Counter[str] = field(default_factory=Counter)
    begun: int = 0
    """How many of the kills came after the first write and before the last one."""
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._drawn = random.Random(f"{SEED} {self.operation}")

    @property
    def is_full(self) -> bool:
        return self.ends.total() >= KILLS

    def moment(self) -> float:
        """Return the next moment, in seconds after the start."""
        return self._drawn.uniform(0, self.seconds)

    def add(self, state: str, *, begun: bool) -> None:
        """Count a kill; a ``state`` that is neither `old` nor `new` says what is wrong."""
        if state not in ENDS[:2]:
            self.problems.append(state)
            state = ENDS[2]
        self.ends[state] += 1
        self.begun += begun

    def check(self, capsys: pytest.CaptureFixture[str]) -> None:
        numbers = (self.ends.total(), self.begun, *(self.ends[each] for each in ENDS))
        with capsys.disabled():
            print(f"\n| {self.operation} | {self.seconds:.1f} s |", *(f"{n} |" for n in numbers))
        assert self.problems == []


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(serving()) as receiver,
    ):
        yield receiver


@pytest.fixture
def filled(receiver: Receiver, tmp_path: Path) -> BusyHome:
    """Return a home in which nothing ran yet."""
    home = BusyHome(tmp_path / "filled", receiver)
    home.fill()
    return home


@dataclass(frozen=True)
class Stopped:
    """A home whose `up` was stopped, and the backups that were made while it ran."""

    home: BusyHome
    backups: list[Path]


@pytest.fixture(scope="module")
def stopped(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    folder = tmp_path_factory.mktemp("busy")
    home = BusyHome(folder / "home", receiver)
    home.fill()
    home.start_up()
    backups = []
    try:
        for number in range(3):
            home.until_requests(REQUESTS)
            backups.append(folder / f"{number}.backup")
            home.succeeds("backup", str(backups[-1]))
        home.until_requests(REQUESTS)
    finally:
        home.stop_up()
    return Stopped(home, backups)


def past_runs(ledger: Path) -> list[tuple[str, ...]]:
    """Return the runs of the past, from a file of any schema."""
    query = "SELECT occurrence, status, output, result FROM runs WHERE trigger = 'imported'"
    with closing(sqlite3.connect(ledger)) as connection:
        return sorted(connection.execute(query))


def test_backups_while_jobs_run_restore_to_a_sound_ledger(
    stopped: Stopped, receiver: Receiver, tmp_path: Path
) -> None:
    ended = []
    for number, backup in enumerate(stopped.backups):
        new = BusyHome(tmp_path / f"home-{number}", receiver)
        restored = new.succeeds("restore", str(backup))
        new.check_due_times(datetime.fromisoformat(restored["restored_at"]))
        with closing(sqlite3.connect(new.ledger)) as ledger:
            live = "SELECT status FROM runs WHERE status IN ('waiting', 'claimed', 'running')"
            assert ledger.execute(live).fetchall() == []
            query = "SELECT occurrence FROM runs WHERE status = 'succeeded' AND started_at <> ''"
            succeeded = {each for (each,) in ledger.execute(query)}
        assert succeeded <= set(stopped.home.occurrences())
        ended.append(len(succeeded))
    assert 0 < ended[0] < ended[1] < ended[2]
    assert repeated(stopped.home.occurrences()) == []


def test_a_killed_backup_leaves_the_old_file_or_the_new_one(
    filled: BusyHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, folder = filled, tmp_path / "backups"
    folder.mkdir()
    file, extracted = folder / "a.backup", tmp_path / "extracted"
    words = ("backup", str(file), "--replace")
    address = transfer.sqlite_address(home.ledger)
    expected = content(address)
    table = Table("`daybook backup --replace`", seconds_of(lambda: home.succeeds(*words)))

    while not table.is_full:
        before = file.read_bytes()
        process = home.start(*words)
        if not killed(process, table.moment()):
            continue
        begun = any(home.home.path.glob(".backup-*"))
        state = "old" if file.read_bytes() == before else "new"
        extracted.mkdir()
        archive.extract(file, extracted, (create.LEDGER, *create.FILES), PASSPHRASE)
        if content(transfer.sqlite_address(extracted / create.LEDGER)) != expected:
            state = f"the {state} file has another ledger"
        shutil.rmtree(extracted)
        home.succeeds(*words)
        if left := [*home.home.path.glob(".backup-*"), *(set(folder.iterdir()) - {file})]:
            state = f"the second try leaves {left}"
        table.add(state, begun=begun)

    assert content(address) == expected
    table.check(capsys)


def _restored(home: BusyHome) -> str:
    """Return the state of a home whose restore was killed."""
    path, closed = home.home.path, home.home.restoring
    files = {each.name for each in path.iterdir() if each.is_file()} if path.exists() else set()
    if files <= {"up.lock", "up.json"} and not closed.exists():
        return "old"
    listed = home.command("list", "--json")
    if closed.exists():
        is_refused = listed.returncode != 0 and "was interrupted" in listed.stderr
        return "old" if is_refused else f"an incomplete home is open: {listed}"
    is_complete = listed.returncode == 0 and len(json.loads(listed.stdout)) == JOBS
    return "new" if is_complete else f"incomplete: {listed}"


def test_a_killed_restore_leaves_a_closed_home_or_the_new_one(
    filled: BusyHome, receiver: Receiver, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backup, past = str(tmp_path / "a.backup"), past_runs(filled.ledger)
    assert len(past) == PAST_RUNS
    filled.succeeds("backup", backup)
    home = BusyHome(tmp_path / "unkilled", receiver)
    table = Table("`daybook restore`", seconds_of(lambda: home.succeeds("restore", backup)))

    while not table.is_full:
        shutil.rmtree(home.home.path, ignore_errors=True)
        home = BusyHome(tmp_path / f"home-{table.ends.total()}", receiver)
        process = home.start("restore", backup)
        if not killed(process, table.moment()):
            continue
        begun, state = home.home.restoring.exists(), _restored(home)
        again = home.command("restore", backup, "--json")
        if again.returncode == 0:
            home.check_due_times(datetime.fromisoformat(json.loads(again.stdout)["restored_at"]))
        elif not (state == "new" and "is not empty" in again.stderr):
            state = f"not repeatable: {again.stderr}"
        if past_runs(home.ledger) != past:
            state = "rows are lost"
        table.add(state, begun=begun)
    table.check(capsys)


def test_after_a_restore_that_was_killed_several_times_no_effect_is_repeated(
    stopped: Stopped, receiver: Receiver, tmp_path: Path
) -> None:
    backup = str(stopped.backups[0])  # the oldest: most has happened since
    home = BusyHome(tmp_path / "home", receiver)
    seconds = seconds_of(lambda: home.succeeds("restore", backup))
    shutil.rmtree(home.home.path)
    moments = random.Random(SEED)
    for _ in range(KILLS):
        killed(home.start("restore", backup), moments.uniform(0, seconds))
        if _restored(home) == "new":
            break
    else:
        home.succeeds("restore", backup)

    home.start_up()
    try:
        home.until_requests(4 * REQUESTS)
    finally:
        home.stop_up()
    # The restored ledger has the id of the old one, so its due times have the same keys.
    assert repeated(home.occurrences()) == []


@pytest.fixture
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Return an empty PostgreSQL database."""
    return databases.of_kind("postgresql", tmp_path, databases.server_of(request))


def test_a_killed_move_leaves_the_old_ledger_or_the_new_one(
    filled: BusyHome,
    there: Database,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = filled
    monkeypatch.setenv("DAYBOOK_HOME", str(home.home.path))
    here = transfer.sqlite_address(home.ledger)
    names = {there.address: "`ledger move` to PostgreSQL", here: "`ledger move` back to SQLite"}
    expected = content(here)

    def present() -> str:
        return settings.load().ledger_address

    def move(address: str) -> float:
        return seconds_of(lambda: home.succeeds("ledger", "move", address))

    tables = {address: Table(name, move(address)) for address, name in names.items()}
    while not all(table.is_full for table in tables.values()):
        old = present()
        new = there.address if old == here else here
        process = home.start("ledger", "move", new)
        if not killed(process, tables[new].moment()):
            assert process.returncode == 0, home.log()
            continue
        begun, state = home.home.moving.exists(), {old: "old", new: "new"}[present()]
        if len(home.succeeds("list")) != JOBS or content(present()) != expected:
            state = f"the {state} address has another ledger"
        again = home.command("ledger", "move", new)
        if again.returncode != 0 and not (state == "new" and "present ledger" in again.stderr):
            state = f"not repeatable: {again.stderr}"
        if (present(), home.home.moving.exists()) != (new, False) or content(new) != expected:
            state = "the second try moves another ledger"
        ((old_id,),) = content(old)["id"]
        if not old_id.startswith("moved-"):
            state = "two ledgers with one id"
        if not tables[new].is_full:
            tables[new].add(state, begun=begun)

    for table in tables.values():
        table.check(capsys)


@dataclass(frozen=True)
class Versions:
    """An environment with this version, which can be replaced by a later one, and back."""

    python: Path
    this: Path
    later: Path


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    folder = tmp_path_factory.mktemp("versions")
    built = build(REPOSITORY, folder / "built")
    later = new_wheel(built.sdist, folder / "source")
    return Versions(build_environment(folder / "venv", built.wheel), built.wheel, later)


def _upgraded(ledger: Path, expected: list[tuple[str, ...]]) -> str:
    """Return the state of a ledger whose upgrade was killed."""
    with closing(sqlite3.connect(ledger)) as connection:
        if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            return "not sound"
        ((version,),) = connection.execute(f"SELECT version_num FROM {schema.VERSION_TABLE}")
        columns = {row[1] for row in connection.execute("PRAGMA table_info(runs)")}
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        state = {schema.head(): "old", NEXT: "new"}[version]
        if {"note" in columns, "notes" in tables} != {state == "new"}:
            return f"the schema {version} has {columns} and {tables}"
        if state == "new":
            unlike = "SELECT count(*) FROM runs WHERE trigger = 'imported' AND note <> status"
            if connection.execute(unlike).fetchone() != (0,):
                return "rows are not migrated"
    return state if past_runs(ledger) == expected else "rows are lost"


def test_a_killed_upgrade_leaves_the_old_ledger_or_the_new_one(
    receiver: Receiver, versions: Versions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = BusyHome(tmp_path / "filled", receiver)
    filled.fill(jobs=2)

    def running(name: str) -> BusyHome:
        """Return a copy of the home in which `up` of this version runs."""
        install(versions.python, versions.this)
        home = BusyHome(tmp_path / name, receiver, versions.python)
        shutil.copytree(filled.home.path, home.home.path)
        home.start_up()
        home.until_requests(1)
        return home

    expected = past_runs(filled.ledger)
    assert len(expected) == PAST_RUNS

    def upgrade() -> None:
        install(versions.python, versions.later)
        home.until(lambda: home.ready_at() not in (before, None))

    home = running("home")
    before = home.ready_at()
    table = Table("upgrade under a running `up`", seconds_of(upgrade))
    home.until_requests(1)
    home.stop_up()
    assert _upgraded(home.ledger, expected) == "new"

    while not table.is_full:
        shutil.rmtree(home.home.path)
        known = len(receiver.requests)
        home = running(f"home-{table.ends.total()}")
        install(versions.python, versions.later)
        assert home.up is not None
        assert killed(home.up, table.moment()), home.log()
        begun, state = any(home.home.path.glob("backups/*")), _upgraded(home.ledger, expected)
        if len(home.succeeds("list")) != 2 or _upgraded(home.ledger, expected) != "new":
            state = "the next start did not upgrade"
        if table.ends.total() == KILLS - 1:
            home.start_up()
            home.until_requests(REQUESTS)
            home.stop_up()
        if again := repeated(home.occurrences()[known:]):
            state = f"repeated: {again}"
        table.add(state, begun=begun)
    table.check(capsys)
