"""A home with twenty jobs a minute and a long history; a receiver outside counts their effects."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from daybook.home import Home
from daybook.ledger import feature_tables, transfer
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import RunRow
from daybook.processes import proc
from tests.receiver import Receiver
from tests.servers import free_port, migrate
from tests.world.jobs import Jobs

JOBS = 20
STEP = timedelta(minutes=1)
PAST_RUNS = 18_000
"""Runs in the past: enough that an operation on the ledger takes time."""
PASSPHRASE = "correct horse battery"
START_SECONDS = 900.0
STOP_SECONDS = 90.0

Row = tuple[Any, ...]


async def _fill(ledger_file: Path, url: str, jobs: int) -> None:
    async with Ledger(transfer.sqlite_address(ledger_file)) as ledger:
        now = ledger.now()
        for number in range(jobs):
            cron = f"{number * 60 // jobs} * * * * *"
            added = await Jobs(ledger).add(f"job-{number}", prompt=None, url=url, cron=cron)
            common = {"job_id": added.id, "kind": "webhook", "trigger": "imported"}
            rows = [
                {
                    "occurrence": f"import:{added.id}:{each}",
                    "due": now - each * STEP,
                    "queued_at": now - each * STEP,
                    "finished_at": now - each * STEP,
                    "status": "succeeded",
                    "output": f"{each}: " + "answer " * 40,
                    "result": {"number": each},
                    **common,
                }
                for each in range(PAST_RUNS // jobs)
            ]
            async with ledger.write() as session:
                await session.execute(insert(RunRow), rows)


async def _content(address: str) -> dict[str, list[Row]]:
    async with Ledger(address) as ledger, ledger.read() as session:
        found = {}
        for table in feature_tables.all_tables():
            rows = (await session.execute(table.select())).tuples().all()
            found[table.name] = sorted((tuple(row) for row in rows), key=repr)
        found["facts"] = [row for row in found["facts"] if "id" not in row]
        return found | {"id": [(ledger.id,)]}


def content(address: str) -> dict[str, list[Row]]:
    """Return all rows of a ledger by table, and its id."""
    return asyncio.run(_content(address))


class BusyHome:
    """A home and the commands of its user; ``python`` is the interpreter that runs them."""

    def __init__(self, path: Path, receiver: Receiver, python: str | Path = sys.executable) -> None:
        self.home, self.receiver, self._python = Home(path), receiver, str(python)
        self.ledger = path / "ledger.db"
        self.variables = {
            name: each for name, each in os.environ.items() if not name.startswith("PREFECT_")
        } | {
            "DAYBOOK_HOME": str(path),
            "DAYBOOK_TIMEZONE": "UTC",
            "DAYBOOK_ALLOWED_HOSTS": "127.0.0.1",
            "DAYBOOK_KEEP_RUNS": "0",  # all
            "DAYBOOK_BACKUP_PASSPHRASE": PASSPHRASE,
            "DAYBOOK_WEB_PORT": str(free_port()),
        }
        if self._python != sys.executable:
            self.variables["PYTHONPATH"] = ""  # nothing of the checkout
        self.up: subprocess.Popen[bytes] | None = None

    def fill(self, jobs: int = JOBS) -> None:
        """Add so many jobs, each of which is due once a minute, and their past runs."""
        self.home.make()
        asyncio.run(_fill(self.ledger, self.receiver.address, jobs))

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command in a process group of its own."""
        with (self.home.path.parent / f"{self.home.path.name}.log").open("ab") as log:
            return self._popen(words, stdout=log, stderr=log, start_new_session=True)

    def _popen(self, words: tuple[str, ...], **given: Any) -> subprocess.Popen[Any]:
        return subprocess.Popen(
            [self._python, "-P", "-m", "daybook", *words],
            env=self.variables,
            cwd=self.home.path.parent,
            stdin=subprocess.DEVNULL,
            **given,
        )

    def log(self) -> str:
        return (self.home.path.parent / f"{self.home.path.name}.log").read_text()

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        pipe = subprocess.PIPE
        with self._popen(words, stdout=pipe, stderr=pipe, text=True) as process:
            out, err = process.communicate()
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def succeeds(self, *words: str) -> Any:
        """Run a command with `--json` that has to succeed; return its answer."""
        done = self.command(*words, "--json")
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return json.loads(done.stdout)

    # --- `up`

    def start_up(self, *, ready: bool = True) -> None:
        """Start `up`, and wait until it is ready."""
        migrate(self.home)
        self.up = self.start("up", "--no-browser")
        if ready:
            self.until(lambda: self.ready_at() is not None)

    def ready_at(self) -> str | None:
        try:
            return json.loads(self.home.up_file.read_text()).get("ready_at") or None
        except (FileNotFoundError, ValueError):
            return None

    def until(self, done: Callable[[], bool], within: float = START_SECONDS) -> None:
        """Wait until ``done`` is true while `up` runs."""
        assert self.up is not None
        end = time.monotonic() + within
        while not done():
            assert time.monotonic() < end, self.log()
            assert not has_ended(self.up, 0.2), self.log()

    def until_requests(self, count: int) -> None:
        """Wait for so many further requests at the receiver."""
        goal = len(self.receiver.requests) + count
        self.until(lambda: len(self.receiver.requests) >= goal)

    def stop_up(self) -> None:
        """Stop `up` as Ctrl-C does."""
        assert self.up is not None
        self.up.send_signal(signal.SIGINT)
        if not has_ended(self.up, STOP_SECONDS):
            kill_all(self.up)
            raise AssertionError("it did not stop:\n" + self.log())

    # --- its state

    def occurrences(self) -> list[str]:
        """Return the occurrences of all requests at the receiver."""
        return [each.headers["idempotency-key"] for each in self.receiver.requests]

    def check_due_times(self, until: datetime) -> None:
        """Check that the file is sound, and that each due time until then has exactly one row."""
        with closing(sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
            jobs = connection.execute("SELECT id, name, created_at FROM jobs").fetchall()
            rows = connection.execute(
                "SELECT job_id, due, count FROM runs WHERE occurrence LIKE 'due:%'"
            ).fetchall()
        found = {job_id: Counter[datetime]() for job_id, _, _ in jobs}
        for job_id, due, count in rows:
            first = datetime.fromisoformat(f"{due}+00:00")
            found[job_id].update(first + n * STEP for n in range(count))
        assert len(jobs) == JOBS
        for job_id, name, created_at in jobs:
            created = datetime.fromisoformat(f"{created_at}+00:00")
            second = int(name.removeprefix("job-")) * 60 // JOBS
            first = created.replace(second=second, microsecond=0)
            first += STEP if first <= created else timedelta(0)
            expected = Counter(first + n * STEP for n in range((until - first) // STEP + 1))
            assert Counter(due for due in found[job_id].elements() if due <= until) == expected


def has_ended(process: subprocess.Popen[bytes], within: float) -> bool:
    """Return whether the process ends within that many seconds."""
    try:
        process.wait(within)
    except subprocess.TimeoutExpired:
        return False
    return True


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, its group and all its descendants with SIGKILL."""
    head = proc.find(process.pid)
    if head is not None:
        asyncio.run(proc.kill(proc.process_tree(head), within=30.0))
    process.wait()


def killed(process: subprocess.Popen[bytes], after: float) -> bool:
    """Kill a process and its descendants ``after`` so many seconds; return whether it still ran."""
    if not has_ended(process, after):
        kill_all(process)
    return process.returncode == -signal.SIGKILL


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long ``work`` takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def repeated(values: Sequence[str]) -> list[str]:
    """Return the values that occur more than once."""
    return [value for value, count in Counter(values).items() if count > 1]
