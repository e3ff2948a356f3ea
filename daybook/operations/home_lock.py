"""The lock of a home, which the running `daybook up` holds, and the record of its processes.

::

    up.lock free,  no up.json     nothing runs
    up.lock held,  up.json        `up` runs; the file names its processes
    up.lock free,  up.json        `up` was killed; its children may still run

The commands `down`, `restore` and `ledger move` hold the lock, too, while they work, and write the
file. In the third state, the next `up` or `down` ends these children. With its very first write,
the new holder of the lock records the children of the killed `up` as leftovers. So the record still
names them if the new holder is killed as well.
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
from typing import Literal

from daybook.errors import InvalidInput
from daybook.home import Home, RunningUp
from daybook.json_text import JsonObject
from daybook.ledger.in_use import InUse
from daybook.processes import proc
from daybook.processes.children import Child

GRACE_SECONDS = 10.0
"""Time from SIGTERM to SIGKILL of a leftover child."""
CHILD_GRACE_SECONDS = {"worker": 40.0}
"""Longer times for some children, as in `operations.worker.GRACE_SECONDS`."""
LOCK_TIMEOUT_SECONDS = 1.0
"""Maximum time to wait for the lock, because `Home.running` holds it for a moment."""
POLL_INTERVAL_SECONDS = 0.1
MAX_RESTARTS = 50
"""Maximum number of restarts in the record."""


@dataclass(frozen=True)
class ChildEntry:
    """A child as recorded in `up.json`. ``pid`` and ``started`` identify its process."""

    name: str
    pid: int
    started: str


@dataclass(frozen=True)
class Restart:
    """A restart of a child by `up`. ``at`` is the time (RFC 3339, UTC).

    ``why`` is the reason as a predicate, such as "exited with code 1".
    """

    name: str
    at: str
    why: str


@dataclass
class UpRecord:
    """Record of one `daybook up`. Each change, except `add_restart`, writes the file."""

    home: Home
    pid: int
    started: str
    api_url: str = ""
    ui_url: str = ""
    pages_url: str = ""
    own_server: bool = False
    web_url: str = ""
    ledger: JsonObject = field(default_factory=dict)
    children: list[ChildEntry] = field(default_factory=list)
    leftovers: list[ChildEntry] = field(default_factory=list)
    restarts: list[Restart] = field(default_factory=list)
    """The last `MAX_RESTARTS` restarts, oldest first."""
    ready_at: str | None = None
    started_by: str = ""
    """`detach` or `service`; empty for an `up` in the foreground of a terminal."""
    command: str = "up"
    """Command that holds the lock: `up`, `down`, `restore` or `ledger move`."""

    def set_server(self, api_url: str, ui_url: str, *, own: bool, pages_url: str = "") -> None:
        """Record the Prefect server in use, and whether this `up` started it.

        ``pages_url`` is the address of the UI's pages (`prefect_selection.pages_url`).
        """
        self.api_url, self.ui_url, self.own_server = api_url, ui_url, own
        self.pages_url = pages_url
        self._save()

    def set_ledger(self, ledger: InUse) -> None:
        """Record the ledger in use. No other ledger may replace it while this `up` runs."""
        self.ledger = ledger.as_json()
        self._save()

    def set_web_url(self, url: str) -> None:
        """Record the address of the health page and the metrics."""
        self.web_url = url
        self._save()

    def add_child(self, child: Child) -> None:
        self.children.append(ChildEntry(child.name, child.pid, child.process.started))
        self._save()

    def remove_child(self, child: Child) -> None:
        self.children = [entry for entry in self.children if entry.pid != child.pid]
        self._save()

    def has_worker(self) -> bool:
        """Return whether the worker is running."""
        return any(entry.name == "worker" for entry in self.children)

    def add_restart(self, name: str, at: datetime, why: str) -> None:
        """Add the restart of a child at ``at`` (UTC). The next change of the record writes it."""
        self.restarts = [*self.restarts, Restart(name, at.isoformat(), why)][-MAX_RESTARTS:]

    def set_ready(self, at: datetime) -> None:
        """Record that all parts have been running since ``at`` (UTC)."""
        self.ready_at = at.isoformat()
        self._save()

    def check_leftovers(self) -> None:
        """Raise `InvalidInput` if a child of a killed `up` is running."""
        for entry in self.leftovers:
            if proc.find(entry.pid, entry.started) is not None:
                problem = f"a killed `daybook up` left {entry.name} (pid {entry.pid}) running"
                raise InvalidInput("home", problem, "run `daybook down`")

    async def end_leftovers(self, grace: float | None = None) -> list[str]:
        """End the leftovers from a killed `up`.

        Return the names of the processes that were running. ``grace`` is the time in seconds from
        SIGTERM to SIGKILL; the default depends on the child.
        """
        ended = []
        for entry in reversed(self.leftovers):
            process = proc.find(entry.pid, entry.started)
            if process is not None:
                child_grace = CHILD_GRACE_SECONDS.get(entry.name, GRACE_SECONDS)
                await proc.end(process, child_grace if grace is None else grace)
                ended.append(entry.name)
        self.leftovers = []
        self._save()
        return ended

    def _save(self) -> None:
        content = asdict(self)
        del content["home"]
        temporary = self.home.up_file.with_suffix(".new")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as f:
            json.dump(content, f, indent=1)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(self.home.up_file)


def already_running(home: Home) -> InvalidInput:
    """Return the error that an `up`, or another command with the lock, is running for ``home``."""
    command = home.recorded().get("command", "up")
    problem = f"`daybook {command}` is already running for {home.path}"
    hint = "stop it with `daybook down`" if command == "up" else "wait until it has ended"
    return InvalidInput("home", problem, hint)


@contextmanager
def hold(
    home: Home,
    patience: float = LOCK_TIMEOUT_SECONDS,
    started_by: str = "",
    command: str = "up",
) -> Iterator[UpRecord]:
    """Hold the lock of ``home`` as its only `daybook up` until the block ends.

    Wait up to ``patience`` seconds for the lock. If another `up` is running, raise `InvalidInput`,
    which names the home. At the end, delete `up.json`, unless a child or leftover is still running.
    """
    home.make()
    descriptor = os.open(home.up_lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _acquire_lock(descriptor, patience):
            raise already_running(home)
        previous = home.recorded()
        self_process = proc.find(os.getpid())
        record = UpRecord(
            home, os.getpid(), self_process.started if self_process is not None else ""
        )
        record.started_by, record.command = started_by, command
        record.leftovers = _entries(previous, "leftovers") + _entries(previous, "children")
        record._save()
        try:
            yield record
        finally:
            children = record.children + record.leftovers
            if not any(proc.find(entry.pid, entry.started) for entry in children):
                home.up_file.unlink(missing_ok=True)
    finally:
        os.close(descriptor)  # this also releases the lock


def leftover_children(home: Home) -> list[ChildEntry]:
    """Return the running children of a killed `up`. Return [] while an `up` runs."""
    if home.running() is not None:
        return []
    content = home.recorded()
    entries = _entries(content, "children") + _entries(content, "leftovers")
    return [entry for entry in entries if proc.find(entry.pid, entry.started) is not None]


def restarts(home: Home, since: datetime) -> list[Restart]:
    """Return the restarts of children of the running `up` at ``since`` (UTC) or later."""
    return [
        Restart(entry["name"], entry["at"], entry["why"])
        for entry in (home.running() or {}).get("restarts", [])
        if datetime.fromisoformat(entry["at"]) >= since
    ]


async def stop_running(home: Home, within: float = 60.0) -> bool:
    """Stop the `daybook up` of ``home``, and end the leftovers from a killed `up`.

    Send SIGTERM to the `up` that holds the lock. After ``within`` seconds, kill it and end its
    children. Return False if nothing was running, even if `Home.running` held the lock for a
    moment. Raise `InvalidInput` if a `restore` or `ledger move` holds the lock, or if an unknown
    process still holds it after ``within`` seconds.
    """
    if not home.path.is_dir():
        return False
    signalled: proc.Process | None = None
    end = time.monotonic() + within
    while True:
        try:
            with hold(home, patience=0, command="down") as record:
                return bool(await record.end_leftovers()) or signalled is not None
        except InvalidInput:
            pass
        # Read the file each time, because just after the start of an `up` it may still contain the
        # record of a dead `up`.
        content = home.recorded()
        up = proc.find(content.get("pid", 0), content.get("started"))
        holder = content.get("command", "up")
        if up is not None and holder not in ("up", "down"):
            raise already_running(home)
        if up is not None and up != signalled and holder == "up":
            proc.send_signal([up], signal.SIGTERM)
            signalled = up
        if time.monotonic() >= end:
            if up is None:
                raise InvalidInput(
                    "home", f"an unknown process holds {home.up_lock}", "end it first"
                )
            proc.send_signal([up], signal.SIGKILL)
        await asyncio.sleep(POLL_INTERVAL_SECONDS)


def _acquire_lock(descriptor: int, within: float) -> bool:
    end = time.monotonic() + within
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)


def _entries(content: RunningUp, which: Literal["children", "leftovers"]) -> list[ChildEntry]:
    entries = []
    for entry in content.get(which, []):
        # Omit an entry of another version that lacks a field: it does not identify a process.
        with suppress(KeyError, TypeError):
            entries.append(ChildEntry(entry["name"], entry["pid"], entry["started"]))
    return entries
