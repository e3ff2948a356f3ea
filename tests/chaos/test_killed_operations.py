"""Backup and restore, killed at random moments: the old state or the new one.

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

from daybook.backups import archive, create
from daybook.ledger import transfer
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
