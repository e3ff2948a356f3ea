"""Who runs this home: a lock that the living `daybook up` holds, and what it wrote down.

::

    up.lock free,  no up.json     nothing runs
    up.lock held,  up.json        `up` runs; the file says what
    up.lock free,  up.json        `up` was killed; its children may run on, unseen

The third is put right by the next `up` or `down`. The new holder takes the children of the old one
into its own record as leftovers in the same write with which it begins, so that they are not
forgotten if it is killed as well.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from daybook.errors import InvalidInput
from daybook.home import Home
from daybook.ledger.in_use import InUse
from daybook.processes import proc
from daybook.processes.children import Child

GRACE = 10.0
"""Seconds that a leftover child gets to end by itself."""
GRACES = {"worker": 40.0}
"""Those that need longer: `host.worker.GRACE`, which says why."""
GLANCE = 1.0
"""Seconds for which the lock is asked for: `Home.running` touches it for a moment."""
LOOK_AGAIN = 0.1


@dataclass(frozen=True)
class Entry:
    """A child as it stands in `up.json`."""

    name: str
    pid: int
    started: str


@dataclass
class Record:
    """What one `daybook up` runs. Each change is in the file when the call returns."""

    home: Home
    pid: int
    started: str
    api_url: str = ""
    ui_url: str = ""
    own_server: bool = False
    web_url: str = ""
    ledger: dict[str, Any] = field(default_factory=dict)
    children: list[Entry] = field(default_factory=list)
    leftovers: list[Entry] = field(default_factory=list)
    ready_at: str | None = None

    def server(self, api_url: str, ui_url: str, *, own: bool) -> None:
        """Which Prefect is used, and whether this `up` began it."""
        self.api_url, self.ui_url, self.own_server = api_url, ui_url, own
        self._write()

    def opened(self, ledger: InUse) -> None:
        """Which ledger is in use: beside this `up`, nobody makes another at its place."""
        self.ledger = ledger.as_json()
        self._write()

    def web(self, url: str) -> None:
        """Where the health page and the metrics are."""
        self.web_url = url
        self._write()

    def began(self, child: Child) -> None:
        self.children.append(Entry(child.name, child.pid, child.process.started))
        self._write()

    def ended(self, child: Child) -> None:
        self.children = [entry for entry in self.children if entry.pid != child.pid]
        self._write()

    def ready(self, at: datetime) -> None:
        """Everything runs since ``at`` (UTC)."""
        self.ready_at = at.isoformat()
        self._write()

    async def end_leftovers(self, grace: float | None = None) -> list[str]:
        """End what an `up` that was killed has left; returns the names of those that still ran."""
        ended = []
        for entry in reversed(self.leftovers):
            head = proc.find(entry.pid, entry.started)
            if head is not None:
                own = GRACES.get(entry.name, GRACE)
                await proc.end(head, own if grace is None else grace)
                ended.append(entry.name)
        self.leftovers = []
        self._write()
        return ended

    def _write(self) -> None:
        content = asdict(self)
        del content["home"]
        temporary = self.home.up_file.with_suffix(".new")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as f:
            json.dump(content, f, indent=1)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(self.home.up_file)


@contextmanager
def hold(home: Home, patience: float = GLANCE) -> Iterator[Record]:
    """Be the one `daybook up` of ``home`` until the block ends.

    Raises `InvalidInput` naming the home when another one runs. `up.json` goes at the end, unless a
    child or leftover still runs.
    """
    home.make()
    descriptor = os.open(home.up_lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _lock(descriptor, patience):
            raise InvalidInput(
                "home", f"a daybook up of {home.path} runs already", "daybook down ends it"
            )
        old = _read(home)
        me = proc.find(os.getpid())
        record = Record(home, os.getpid(), me.started if me is not None else "")
        record.leftovers = _entries(old, "leftovers") + _entries(old, "children")
        record._write()
        try:
            yield record
        finally:
            known = record.children + record.leftovers
            if not any(proc.find(entry.pid, entry.started) for entry in known):
                home.up_file.unlink(missing_ok=True)
    finally:
        os.close(descriptor)  # and with it the lock


def left_behind(home: Home) -> list[Entry]:
    """What a killed `daybook up` of ``home`` began and what still runs; [] while one runs."""
    if home.running() is not None:
        return []
    content = _read(home)
    known = _entries(content, "children") + _entries(content, "leftovers")
    return [entry for entry in known if proc.find(entry.pid, entry.started) is not None]


async def stop_running(home: Home, within: float = 60.0) -> bool:
    """End the `daybook up` of ``home`` and what a killed one has left; False if nothing ran.

    It is asked with SIGTERM; after ``within`` seconds it is killed, and so are its children.
    """
    if not home.path.is_dir():
        return False
    stopped = False
    asked: proc.Process | None = None
    end = time.monotonic() + within
    while True:
        try:
            with hold(home, patience=0) as record:
                return bool(await record.end_leftovers()) or stopped
        except InvalidInput:
            stopped = True
        # Read at each look: one that has just begun may still show the record of a dead one.
        content = _read(home)
        up = proc.find(content.get("pid", 0), content.get("started"))
        if up is not None and up != asked:
            proc.tell([up], signal.SIGTERM)
            asked = up
        if time.monotonic() >= end:
            if up is None:
                raise InvalidInput("home", f"{home.up_lock} is held by a process that is not known")
            proc.tell([up], signal.SIGKILL)
        await asyncio.sleep(LOOK_AGAIN)


def _lock(descriptor: int, within: float) -> bool:
    end = time.monotonic() + within
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)


def _read(home: Home) -> dict[str, Any]:
    try:
        return dict(json.loads(home.up_file.read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def _entries(content: dict[str, Any], which: str) -> list[Entry]:
    found = []
    for entry in content.get(which, []):
        with suppress(KeyError, TypeError):  # written by another version: not ours to end
            found.append(Entry(entry["name"], entry["pid"], entry["started"]))
    return found
